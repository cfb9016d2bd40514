"""Measures programs and machines: time, operations, memory traffic, memory.

Everything runs on JAX's first device, on random data: zeros take less power, and so
less time.
"""

import contextlib
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypedDict, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import SingleDeviceSharding
from jaxtyping import PyTree

from dfgan_jax.support.errors import InputError
from dfgan_jax.support.jax_functions import block_until_ready, configure, costs_of, shape_struct

MIN_REPETITIONS = 3

_QUEUED = 10
"""Calls of a short program at a time, so that the time to start a call is hidden."""

_T = TypeVar("_T")

_CACHE_OPTIONS: dict[str, object] = {
    "jax_enable_compilation_cache": True,
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}


# Typed names for untyped functions of JAX.
_clear_caches: Callable[[], None] = jax.clear_caches


def setting(name: str) -> object:
    """The value of a setting of JAX; older versions declare none as attributes."""
    return getattr(jax.config, name)


class Timing(TypedDict):
    """Seconds of one call over all repetitions, and the number of repetitions."""

    median_s: float
    min_s: float
    max_s: float
    repetitions: int


class Peak(Timing):
    """Timing of a product of two square matrices, and 2·size³ operations over the median."""

    size: int
    flops_per_s: float


class Bandwidth(Timing):
    """Timing of a pass over an array, and the bytes read and written over the median."""

    size_bytes: int
    bytes_per_s: float


class CompileTimes(TypedDict):
    """Seconds of tracing, and of compiling after it with an empty and a filled cache."""

    trace_s: float
    cold_s: float
    warm_s: float


class Waiting(TypedDict):
    """Number of steps, their seconds, and the share of the time before a batch was there."""

    steps: int
    seconds: float
    waiting_share: float


def time_calls(call: Callable[[], PyTree], *, seconds: float, queued: int = 1) -> Timing:
    """Times calls after one warm-up call, for at least `MIN_REPETITIONS` repetitions.

    Args:
      call: starts a computation and returns its arrays.
      seconds: repetitions are made until this time has passed.
      queued: calls in one repetition, which ends when the arrays of the last call are ready.
    """
    block_until_ready(call())
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < MIN_REPETITIONS or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        for _ in range(queued):
            result = call()
        block_until_ready(result)
        times.append((time.perf_counter() - before) / queued)
    return {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times),
            "repetitions": len(times)}


def matmul_peak(size: int, dtype: str, *, seconds: float) -> Peak:
    """Times the product of two square matrices, at JAX's precision for the dtype.

    On newer GPUs float32 is computed in TensorFloat-32, in convolutions as well, unless
    `jax_default_matmul_precision` is set.
    """
    a, b = (jax.random.normal(key, (size, size), dtype) for key in jax.random.split(
        jax.random.key(0)))
    multiply = jax.jit(jnp.matmul)
    timing = time_calls(lambda: multiply(a, b), seconds=seconds, queued=_QUEUED)
    return {"size": size, "flops_per_s": 2 * size**3 / timing["median_s"], **timing}


def memory_bandwidth(size_bytes: int, *, seconds: float) -> Bandwidth:
    """Times a pass over a large array that reads and writes every element in place.

    Args:
      size_bytes: of the array; many times the size of the caches.
      seconds: see `time_calls`.
    """
    array = jax.random.normal(jax.random.key(0), (size_bytes // 4,), jnp.float32)
    add: Callable[[jax.Array], jax.Array] = jax.jit(lambda x: x + 1, donate_argnums=0)

    def call() -> jax.Array:
        nonlocal array
        array = add(array)
        return array

    timing = time_calls(call, seconds=seconds, queued=_QUEUED)
    return {"size_bytes": array.nbytes, "bytes_per_s": 2 * array.nbytes / timing["median_s"],
            **timing}


def count_flops(function: Callable[..., PyTree], *arguments: PyTree) -> float:
    """Floating-point operations of one call, by XLA's count of the optimised program.

    A multiplication and an addition are two operations. Repeated computations that XLA merges
    count once; products with padding and transcendental functions do not count. The program for a
    TPU counts, in which a convolution is a sum of products, as XLA optimises it for a CPU: in the
    program for a GPU, convolutions are calls of a library, which XLA counts as 0.

    Args:
      function: an argument of `jax.jit`.
      arguments: trees of arrays or of `jax.ShapeDtypeStruct`; only their shapes matter.

    Raises:
      InputError: JAX's platforms exclude the CPU.
    """
    try:
        cpu = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    except RuntimeError as error:
        raise InputError("operations are counted in a program for the CPU, which JAX_PLATFORMS="
                         f"{setting('jax_platforms')} leaves out; append ',cpu'") from error
    shapes = jax.tree.map(lambda x: shape_struct(x.shape, x.dtype, sharding=cpu), arguments)
    program = jax.export.export(
        jax.jit(function), platforms=("tpu",),
        disabled_checks=[jax.export.DisabledSafetyCheck.platform()])(*shapes)
    # The program never runs, so that its machine code need not be fast.
    compiled = jax.jit(program.call, compiler_options={
        "xla_backend_optimization_level": 0}).lower(*shapes).compile()
    return costs_of(compiled)["flops"]


def count_bytes(compiled: jax.stages.Compiled) -> float:
    """Bytes that the kernels of a compiled program read and write in one call.

    XLA's count, and the operands and results of library calls, such as a GPU's convolutions,
    which XLA leaves out, without their scratch space. The count is an upper bound of the
    memory traffic: cached data count in full, and within a fusion an operand counts for each
    use.

    Args:
      compiled: from `jax.jit(…).lower(…).compile()`.
    """
    return costs_of(compiled)["bytes accessed"] + _library_bytes(compiled.as_text() or "")


_INSTRUCTION = re.compile(r"^ *(?:ROOT )?%?(\S+) = (.*?) ([a-z][a-z0-9-]*)\(([^)]*)\)", re.M)
# Scratch space is u8 or s8.
_FLOAT_ARRAY = re.compile(r"\bb?f(\d+)\w*\[([\d,]*)\]")
_OPERAND = re.compile(r"%?([\w.-]+)(?:,|$)")


def _library_bytes(hlo: str) -> int:
    """Bytes of the floating-point operands and results of a program's custom calls."""
    sizes, calls = {}, []
    for name, result, opcode, operands in _INSTRUCTION.findall(hlo):
        sizes[name] = sum(int(bits) * _product(shape) // 8
                          for bits, shape in _FLOAT_ARRAY.findall(result))
        if opcode == "custom-call":
            calls += [name, *_OPERAND.findall(operands)]
    return sum(sizes.get(name, 0) for name in calls)


def _product(shape: str) -> int:
    product = 1
    for length in filter(None, shape.split(",")):
        product *= int(length)
    return product


def peak_memory(compiled: jax.stages.Compiled) -> int:
    """Largest device memory of one call, as planned by the compiler [bytes].

    It is the size of arguments, results and temporaries; results in the memory of arguments
    count once. The device's own count cannot be used: it never falls from one program to the
    next.
    """
    planned: PyTree = compiled.memory_analysis()
    peak: int = (planned.argument_size_in_bytes + planned.output_size_in_bytes
                 + planned.temp_size_in_bytes - planned.alias_size_in_bytes)
    return peak


def compile_times(lower: Callable[[], jax.stages.Lowered]
                  ) -> tuple[CompileTimes, jax.stages.Compiled]:
    """Compiles a program with an empty persistent cache, then with the cache thus filled.

    Args:
      lower: traces the program at each call, as in `lambda: jax.jit(f).lower(x)`.

    Returns:
      The times, and the compiled program.
    """
    with _empty_compilation_cache():
        trace_s, cold_s, _ = _compile(lower)
        _clear_caches()
        _, warm_s, compiled = _compile(lower)
    return {"trace_s": trace_s, "cold_s": cold_s, "warm_s": warm_s}, compiled


def _compile(lower: Callable[[], jax.stages.Lowered]
             ) -> tuple[float, float, jax.stages.Compiled]:
    start = time.perf_counter()
    lowered = lower()
    traced = time.perf_counter()
    compiled = lowered.compile()
    return traced - start, time.perf_counter() - traced, compiled


@contextlib.contextmanager
def _empty_compilation_cache() -> Iterator[None]:
    """Moves JAX's persistent cache to an empty folder, and back."""
    before = {name: setting(name) for name in _CACHE_OPTIONS}
    with tempfile.TemporaryDirectory() as folder:
        _set_cache({**_CACHE_OPTIONS, "jax_compilation_cache_dir": folder})
        try:
            yield
        finally:
            _set_cache(before)


def _set_cache(options: Mapping[str, object]) -> None:
    for name, value in options.items():
        configure(name, value)
    compilation_cache.reset_cache()  # otherwise JAX keeps its first folder


def waiting_share(batches: Iterator[_T], step: Callable[[_T], PyTree], *, seconds: float
                  ) -> Waiting:
    """Makes steps as training does, and measures how long each waits for its batch.

    The next batch is fetched while the device computes, and a step is waited for after the
    start of the next step.

    Args:
      batches: without end.
      step: starts a step with a batch, and returns arrays that no later step donates.
      seconds: at least `MIN_REPETITIONS` steps are made, until this time has passed.
    """
    newest = step(next(batches))
    block_until_ready(newest)
    waited, steps = 0.0, 0
    start = time.perf_counter()
    while steps < MIN_REPETITIONS or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - before
        previous, newest = newest, step(batch)
        block_until_ready(previous)
        steps += 1
    block_until_ready(newest)
    taken = time.perf_counter() - start
    return {"steps": steps, "seconds": taken, "waiting_share": waited / taken}
