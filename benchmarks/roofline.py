"""Every convolution and matrix product of AttnDFGAN's step, by itself, beside the machine's limits.

    python -m benchmarks.roofline [--task=training|inference] [--batch=4] [--size=128] \
        [--seconds=0.5] [--json=roofline.json]

The published training step, or inference on normalised slices, as `benchmarks.against_torch` times
them. Its convolutions and matrix products are taken from the traced program; each kind is
compiled and timed alone, with random numbers. The bound of a kernel is the longer of two times: its
operations at the rate of the fastest matrix product, and its arrays, once each, at the bandwidth of
memory. The rest of the step is normalisation, activations, losses, optimizers and the transforms of
Winograd's form; XLA's fusions of them with the kernels make it an estimate. So does a kernel that
XLA leaves out or computes once for several: it counts as often as it is traced.
"""

import collections
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import jax_side
from benchmarks.json_file import write_json
from benchmarks.workload import Side, Task
from dfgan_jax.devices import parallel
from dfgan_jax.devices.backend import describe_devices
from dfgan_jax.performance.measuring import (
    count_flops,
    matmul_peak,
    memory_bandwidth,
    time_calls,
)
from dfgan_jax.support.progress import progress

_TASKS: Final[dict[str, Task]] = {"training": "training", "inference": "inference on the device"}

_TASK = flags.DEFINE_enum("task", "training", list(_TASKS), "The program.", allow_override=True)
_BATCH = flags.DEFINE_integer("batch", 4, "Images.", lower_bound=1, allow_override=True)
_SIZE = flags.DEFINE_integer("size", 128, "Their height and width [pixels].", lower_bound=16,
                             allow_override=True)
_SECONDS = flags.DEFINE_float("seconds", 0.5, "Time for each measurement.", allow_override=True)
_JSON = flags.DEFINE_string("json", None, "File to write.", allow_override=True)

WIDTH, DISCRIMINATOR_WIDTH = 32, 128
_MATMUL_SIZES = (512, 1024, 2048)
_BANDWIDTH_BYTES = 2**28
_KERNELS = ("conv_general_dilated", "dot_general")


class Kernel(NamedTuple):
    """A kind of convolution or matrix product.

    Attributes:
      name: the shapes of its operands and its result, with strides and dilations.
      function: computes it.
      operands: their shapes.
      bytes: of its operands and its result.
    """

    name: str
    function: Callable[..., jax.Array]
    operands: tuple[jax.ShapeDtypeStruct, ...]
    bytes: int


def _jaxprs(value: Any) -> Iterator[Any]:
    """The programs in a parameter of an equation."""
    if hasattr(value, "eqns"):  # with its constants or without
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _jaxprs(each)


def _index_here(platforms: tuple[tuple[str, ...] | None, ...]) -> int:
    """Of a choice by platform: the first one that holds this platform, or None, for all others."""
    return next(index for index, names in enumerate(platforms)
                if names is None or jax.default_backend() in names)


def _equations(jaxpr: Any) -> Iterator[Any]:
    """The convolutions and matrix products of a program, in its loops as often as they run."""
    choices = {equation.outvars[0]: equation.params["platforms"] for equation in jaxpr.eqns
               if equation.primitive.name == "platform_index"}
    for equation in jaxpr.eqns:
        if equation.primitive.name in _KERNELS:
            yield equation
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        parameters = list(equation.params.values())
        if equation.primitive.name == "cond" and equation.invars[0] in choices:
            parameters = [equation.params["branches"][_index_here(choices[equation.invars[0]])]]
        for value in parameters:
            for inner in _jaxprs(value):
                for _ in range(repeats):
                    yield from _equations(inner)


def _kernel(equation: Any) -> Kernel:
    operands = tuple(jax.ShapeDtypeStruct(each.aval.shape, each.aval.dtype)
                     for each in equation.invars)
    result, = (each.aval for each in equation.outvars)
    parameters = equation.params

    def text(shape: tuple[int, ...]) -> str:
        return "×".join(map(str, shape))

    name = f"{' · '.join(text(each.shape) for each in operands)} → {text(result.shape)}"
    for key, word in (("window_strides", "stride"), ("lhs_dilation", "input dilated by"),
                      ("rhs_dilation", "kernel dilated by")):
        if any(factor != 1 for factor in parameters.get(key, ())):
            name += f", {word} {text(parameters[key])}"
    return Kernel(name, lambda *arrays: equation.primitive.bind(*arrays, **parameters), operands,
                  sum(math.prod(each.shape) * each.dtype.itemsize for each in (*operands, result)))


def kernels_of(function: Callable[..., Any], *arguments: Any) -> list[tuple[Kernel, int]]:
    """The kinds of kernels of a function, and how often each occurs."""
    counts: collections.Counter[str] = collections.Counter()
    first: dict[str, Kernel] = {}
    for equation in _equations(jax.make_jaxpr(function)(*arguments).jaxpr):
        kernel = _kernel(equation)
        counts[kernel.name] += 1
        first.setdefault(kernel.name, kernel)
    return [(first[name], count) for name, count in counts.items()]


def measure(side: Side, *, seconds: float) -> dict[str, Any]:
    """The rows of all kernels, the machine's limits and the time of the whole program."""
    if side.task == "training":
        function, *arguments = jax_side.training_step(side)
        compiled: Callable[..., Any] = parallel.unshared
    else:
        function, *arguments = jax_side.inference_step(side)
        compiled = functools.partial(parallel.inference, dtype=side.dtype)
    kernels = kernels_of(function, *arguments)
    peak = max(matmul_peak(size, "float32", seconds=seconds)["flops_per_s"]
               for size in _MATMUL_SIZES)
    bandwidth = memory_bandwidth(_BANDWIDTH_BYTES, seconds=seconds)["bytes_per_s"]
    rows = []
    with progress("timing kernels", total=len(kernels), unit="kernels") as bar:
        for kernel, count in kernels:
            arrays = [jnp.asarray(np.random.default_rng(0).normal(size=each.shape), each.dtype)
                      for each in kernel.operands]
            alone = functools.partial(compiled(kernel.function), *arrays)
            timing = time_calls(alone, seconds=seconds)
            flops = count_flops(kernel.function, *kernel.operands)
            rows.append({
                "kernel": kernel.name, "count": count, "flops": flops, "bytes": kernel.bytes,
                "ms": 1e3 * timing["min_s"],
                "bound_ms": 1e3 * max(flops / peak, kernel.bytes / bandwidth),
                "bound_by": "products" if flops / peak > kernel.bytes / bandwidth else "memory"})
            bar.advance(1)
    whole = time_calls(functools.partial(compiled(function), *arguments), seconds=4 * seconds)
    return {"task": side.task, "batch": side.batch, "size": side.size,
            "device": describe_devices(), "jax": jax.__version__,
            "peak_flops_per_s": peak, "bytes_per_s": bandwidth, "step_ms": 1e3 * whole["min_s"],
            "step_median_ms": 1e3 * whole["median_s"],
            "kernels": sorted(rows, key=lambda row: -row["count"] * row["ms"])}


def totals(result: dict[str, Any]) -> dict[str, float]:
    """Sums over all kernels [ms]."""
    return {key: float(sum(row["count"] * row[key] for row in result["kernels"]))
            for key in ("ms", "bound_ms")}


def as_text(result: dict[str, Any], *, most: int = 20) -> str:
    """The slowest kernels, the sums, and the rest of the program."""
    lines = [f"{result['task']}, batch {result['batch']}, {result['size']}²; at most "
             f"{result['peak_flops_per_s'] / 1e9:.0f} GFLOP/s and "
             f"{result['bytes_per_s'] / 1e9:.1f} GB/s",
             "count      ms  of them at the bound  GFLOP/s  kernel"]
    lines += [f"{row['count']:5}  {row['count'] * row['ms']:6.1f}  "
              f"{row['bound_ms'] / row['ms']:20.0%}  {row['flops'] / row['ms'] / 1e6:7.0f}  "
              f"{row['kernel']} ({row['bound_by']})" for row in result["kernels"][:most]]
    sums = totals(result)
    lines.append(f"all kernels alone {sums['ms']:.0f} ms, at their bounds "
                 f"{sums['bound_ms']:.0f} ms; the whole program {result['step_ms']:.0f} ms")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    side = Side(framework="jax", task=_TASKS[_TASK.value], variant="ours", dtype="float32",
                batch=_BATCH.value, size=_SIZE.value, width=WIDTH,
                discriminator_width=DISCRIMINATOR_WIDTH)
    result = measure(side, seconds=_SECONDS.value)
    print(as_text(result))
    write_json(_JSON.value, result | {"totals_ms": totals(result)})


if __name__ == "__main__":
    app.run(main)
