"""Measures programs and machines: time, operations, memory traffic, memory.

Everything runs on JAX's first device, on random data: zeros take less power, and so
less time.
"""

import contextlib
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import SingleDeviceSharding

from dfgan_jax.support.errors import InputError

MIN_REPETITIONS = 3

_QUEUED = 10
"""Calls of a short program at a time, so that what it costs to start one is hidden."""

_CACHE_OPTIONS = {
    "jax_enable_compilation_cache": True,
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}


def time_calls(call: Callable[[], Any], *, seconds: float, queued: int = 1) -> dict[str, float]:
    """Times calls after one to warm up, until there are enough and the time is over.

    Args:
      call: runs something and returns its arrays, which are waited for.
      seconds: to go on for, after the first `MIN_REPETITIONS` repetitions.
      queued: calls in one repetition; only the last one's arrays are waited for.

    Returns:
      `median_s`, `min_s` and `max_s` of one call over the repetitions, and how many
      `repetitions` there were.
    """
    jax.block_until_ready(call())
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < MIN_REPETITIONS or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        for _ in range(queued):
            result = call()
        jax.block_until_ready(result)
        times.append((time.perf_counter() - before) / queued)
    return {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times),
            "repetitions": len(times)}


def matmul_peak(size: int, dtype: str, *, seconds: float) -> dict[str, Any]:
    """Times the product of two square matrices, at JAX's precision for the dtype.

    On newer GPUs that of float32 is TensorFloat-32 unless `jax_default_matmul_precision`
    says otherwise, for convolutions as well.

    Returns:
      What `time_calls` gives, `size`, and `flops_per_s`: 2·size³ over the median.
    """
    a, b = (jax.random.normal(key, (size, size), dtype) for key in jax.random.split(
        jax.random.key(0)))
    multiply = jax.jit(jnp.matmul)
    timing = time_calls(lambda: multiply(a, b), seconds=seconds, queued=_QUEUED)
    return {"size": size, "flops_per_s": 2 * size**3 / timing["median_s"], **timing}


def memory_bandwidth(size_bytes: int, *, seconds: float) -> dict[str, Any]:
    """Times a pass over a large array that reads and writes every element in place.

    Args:
      size_bytes: of the array; many times what the caches hold.

    Returns:
      What `time_calls` gives, `size_bytes`, and `bytes_per_s`: bytes read and written
      over the median.
    """
    array = jax.random.normal(jax.random.key(0), (size_bytes // 4,), jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def call():
        nonlocal array
        array = add(array)
        return array

    timing = time_calls(call, seconds=seconds, queued=_QUEUED)
    return {"size_bytes": array.nbytes, "bytes_per_s": 2 * array.nbytes / timing["median_s"],
            **timing}


def count_flops(function: Callable, *arguments: Any) -> float:
    """Floating-point operations of one call, by XLA's count of the optimised program.

    A multiplication and an addition are two operations. What is computed twice counts
    once, if XLA merges it; products with padding count nothing; transcendental functions
    are left out. Always counted in the program for a CPU: for a GPU, convolutions have
    become calls of a library, which XLA counts as nothing.

    Args:
      function: what `jax.jit` takes.
      arguments: trees of arrays or of `jax.ShapeDtypeStruct`; only their shapes matter.

    Raises:
      InputError: JAX was told to leave the CPU out.
    """
    try:
        cpu = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    except RuntimeError as error:
        settings: Any = jax.config  # older versions declare none of its attributes
        raise InputError("operations are counted in a program for the CPU, which JAX_PLATFORMS="
                         f"{settings.jax_platforms} leaves out; append ',cpu'") from error
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cpu), arguments)
    # It never runs, so that its machine code need not be good.
    compiled: Any = jax.jit(
        function, compiler_options={"xla_backend_optimization_level": 0}).lower(*shapes).compile()
    return compiled.cost_analysis()["flops"]


def count_bytes(compiled: Any) -> float:
    """Bytes that the kernels of a compiled program read and write in one call.

    XLA's count, and what it leaves out: operands and results of calls of libraries, such
    as a GPU's convolutions, without their scratch space. It is an upper bound of the
    traffic to memory: what a cache still holds counts in full, and within a fusion an
    operand counts for each use.

    Args:
      compiled: as `jax.jit(…).lower(…).compile()` gives it.
    """
    return compiled.cost_analysis()["bytes accessed"] + _library_bytes(compiled.as_text())


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


def peak_memory(compiled: Any) -> int:
    """Device memory [bytes] that one call takes at most, as the compiler planned it.

    Arguments, results and temporaries, without what results share with arguments. What
    the device counts itself can only grow from one program to the next.
    """
    planned = compiled.memory_analysis()
    return (planned.argument_size_in_bytes + planned.output_size_in_bytes
            + planned.temp_size_in_bytes - planned.alias_size_in_bytes)


def compile_times(lower: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Compiles a program with an empty persistent cache, then from what that left there.

    Args:
      lower: traces anew, as in `lambda: jax.jit(f).lower(x)`.

    Returns:
      `trace_s`, of `lower`; `cold_s` and `warm_s`, of compiling after it; and the
      compiled program.
    """
    with _empty_compilation_cache():
        trace_s, cold_s, _ = _compile(lower)
        jax.clear_caches()
        _, warm_s, compiled = _compile(lower)
    return {"trace_s": trace_s, "cold_s": cold_s, "warm_s": warm_s}, compiled


def _compile(lower: Callable[[], Any]) -> tuple[float, float, Any]:
    start = time.perf_counter()
    lowered = lower()
    traced = time.perf_counter()
    compiled = lowered.compile()
    return traced - start, time.perf_counter() - traced, compiled


@contextlib.contextmanager
def _empty_compilation_cache() -> Iterator[None]:
    """Points JAX's persistent cache to an empty folder, and back."""
    before = {name: getattr(jax.config, name) for name in _CACHE_OPTIONS}
    with tempfile.TemporaryDirectory() as folder:
        _set_cache({**_CACHE_OPTIONS, "jax_compilation_cache_dir": folder})
        try:
            yield
        finally:
            _set_cache(before)


def _set_cache(options: dict[str, Any]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # else JAX stays with the folder it began with


def waiting_share(batches: Iterator[Any], step: Callable[[Any], Any], *, seconds: float
                  ) -> dict[str, float]:
    """Steps as training does, and measures how long each waits for its batch.

    While the device computes, the next batch is fetched; the results of a step are
    waited for when the one after it is under way.

    Args:
      batches: without end.
      step: starts a step with a batch, and returns arrays that no later step donates.
      seconds: to go on for, after the first `MIN_REPETITIONS` steps.

    Returns:
      `steps` made, `seconds` they took, and `waiting_share`: the part of it that passed
      before a batch was there.
    """
    newest = step(next(batches))
    jax.block_until_ready(newest)
    waited, steps = 0.0, 0
    start = time.perf_counter()
    while steps < MIN_REPETITIONS or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - before
        previous, newest = newest, step(batch)
        jax.block_until_ready(previous)
        steps += 1
    jax.block_until_ready(newest)
    taken = time.perf_counter() - start
    return {"steps": steps, "seconds": taken, "waiting_share": waited / taken}
