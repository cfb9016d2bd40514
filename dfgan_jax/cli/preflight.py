"""`--mode=preflight`: compiles a run's steps for devices that are not there, and says if they fit.

For a slice of TPU chips, libtpu compiles on a CPU what would run there: memory, collectives and
time to compile are those of the program itself. For GPUs the steps are only lowered.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from dfgan_jax.cli.identity import model_name
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.devices import parallel
from dfgan_jax.performance import collectives, measuring, tpu_slices
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.progress import format_duration
from dfgan_jax.training.state import TrainState
from dfgan_jax.training.validation import scoring_step

PLATFORMS = ("tpu", "cuda")

_GIB = 2**30
# Beyond it no program is begun that only serves to find a larger batch, or one that fits.
_SEARCH_LIMIT_S = 1800.0
# A batch so many times as large takes up to 2.5 times as long to compile: a narrow step took
# 114, 199 and 301 s of CPU time for 1, 8 and 64 images a chip.
_LARGEST_GROWTH = 16
_TIME_EXPONENT = 1 / 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Program:
    """What the compiler made of a step for one batch size.

    Attributes:
      step: `train`, `train with remat` or `evaluation`.
      images_per_chip: of the whole batch.
      seconds: to compile.
      fits: into a chip's memory.
      memory: part → GiB on each chip; of a program that does not fit, the total alone.
      collectives: of one that fits.
    """

    step: str
    images_per_chip: int
    seconds: float
    fits: bool
    memory: dict[str, float]
    collectives: list[collectives.Collective]

    @property
    def total(self) -> float:
        return self.memory["total"]

    def summary(self) -> dict[str, Any]:
        return {"step": self.step, "images_per_chip": self.images_per_chip, "fits": self.fits,
                "seconds": round(self.seconds, 1), "memory_per_chip_gib": self.total}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Batch:
    """A batch among devices.

    Attributes:
      configured: images of the configuration's batch.
      divides: whether it can be shared among the devices, in each of its parts.
      per_device: images on each device, of the nearest batch that can.
      devices: how many there are.
    """

    configured: int
    divides: bool
    per_device: int
    devices: int

    @property
    def size(self) -> int:
        return self.per_device * self.devices


def run(config: ml_collections.ConfigDict, *, workdir: pathlib.Path, topology: str | None,
        platform: str = "tpu", search_limit_s: float = _SEARCH_LIMIT_S) -> None:
    """Compiles the steps, prints what they take and writes `preflight.json` into `workdir`.

    Args:
      config: of the run.
      workdir: folder to write into.
      topology: of TPU chips, such as `v5e:16x16`; or the number of GPUs, 1 by default.
      platform: `tpu`; or `cuda`, for which steps are lowered and not compiled.
      search_limit_s: no program that only serves to find the largest batch, or what does
        fit, is begun that is expected to end later. What is known before is told before.

    Raises:
      InputError: the configuration cannot be used, or there is no such topology.
      SystemExit: with status 1, the steps do not fit.
    """
    options = RunOptions.of(config)
    if options.data.train and not options.data.size:
        raise InputError("config.data.size is 0: expected the height and width of the slices, "
                         "since preflight reads no data")
    if platform == "tpu" and not topology:
        raise InputError("--mode=preflight needs --topology=KIND:SHAPE, such as v5e:16x16")
    # What is compiled for is not there, and what is there need not be taken.
    jax.config.update("jax_platforms", "cpu")
    path = workdir / "preflight.json"
    with _interruptible():
        for report in (_for_tpu(options, str(topology), search_limit_s=search_limit_s)
                       if platform == "tpu" else [_for_gpus(options, topology or "1")]):
            workdir.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as temporary:
                temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
            print(text(report))
            print(f"Report: {path}", flush=True)
    if report["fits"] is False:
        raise SystemExit(1)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the process at once; Python would wait for the compiler, for minutes."""
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:  # what a shell has set to be ignored stays so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _for_tpu(options: RunOptions, topology: str, *, search_limit_s: float
             ) -> Iterator[dict[str, Any]]:
    """The report on the batch as it is, and where something larger or smaller was tried, that."""
    start = time.monotonic()
    devices = tpu_slices.devices(topology)
    limit = tpu_slices.memory_bytes(devices[0]) / _GIB
    batch = _shared(options, len(devices))

    def compiled(step: str, images_per_chip: int) -> _Program:
        print(f"Compiling: {step}, {images_per_chip} a chip …", end=" ", flush=True)
        program = _compile(options, devices, step, images_per_chip, limit=limit)
        print(f"{program.total:.2f} of {limit:.2f} GiB, "
              f"{format_duration(program.seconds)}", flush=True)
        return program

    def in_time(images_per_chip: int) -> bool:
        longest = max(program.seconds * max(images_per_chip / program.images_per_chip, 1)
                      ** _TIME_EXPONENT for program in programs)
        return time.monotonic() - start + longest < search_limit_s

    trained = compiled("train", batch.per_device)
    evaluated = compiled("evaluation", batch.per_device)
    programs = [trained, evaluated]
    yield _tpu_report(options, batch, programs, topology=topology, chip=devices[0], limit=limit)
    fits = trained.fits and evaluated.fits
    if not fits and not options.remat and in_time(batch.per_device):
        programs.append(compiled("train with remat", batch.per_device))
    while True:
        guess = _next_size([(each.images_per_chip, each.total, each.fits)
                            for each in programs if each.step == "train"],
                           limit=limit, step=options.accumulate)
        if guess is None or not in_time(guess):
            break
        programs.append(compiled("train", guess))
    if len(programs) > 2:
        yield _tpu_report(options, batch, programs, topology=topology, chip=devices[0], limit=limit)


def _tpu_report(options: RunOptions, batch: _Batch, programs: Sequence[_Program], *,
                topology: str, chip: jax.Device, limit: float) -> dict[str, Any]:
    """Of the training step, the evaluation step, and what else was compiled."""
    trained, evaluated = programs[:2]
    fits = trained.fits and evaluated.fits
    sizes = [each for each in programs if each.step == "train"]
    largest = max((each.images_per_chip for each in sizes if each.fits), default=None)
    needs_most = max(trained, evaluated, key=lambda each: each.total)
    counts = [each for each in trained.collectives if each.op == "all-reduce"]
    return {
        **_common(options, batch, platform="tpu", topology=topology),
        "chip": chip.device_kind,
        "fits": fits,
        "memory_per_chip_gib": needs_most.total,
        "chip_memory_gib": round(limit, 2),
        "memory": {each.step: each.memory for each in (trained, evaluated)},
        "largest_batch": largest and largest * batch.devices,
        "largest_batch_is_exact": any(not each.fits and each.images_per_chip
                                      == (largest or 0) + options.accumulate for each in sizes),
        "all_reduces": sum(each.count for each in counts) if trained.fits else None,
        "gradient_all_reduces": sum(each.count for each in counts if each.what.startswith(
            collectives.GRADIENTS)) if trained.fits else None,
        "collectives": [dataclasses.asdict(each) for each in trained.collectives],
        "evaluation_collectives": [dataclasses.asdict(each) for each in evaluated.collectives],
        "compiled": [each.summary() for each in programs],
        "advice": _advice(options, batch, programs, fits=fits, largest=largest),
        "versions": {"jax": jax.__version__, "libtpu": tpu_slices.version()},
    }


def _common(options: RunOptions, batch: _Batch, *, platform: str, topology: str
            ) -> dict[str, Any]:
    return {"config": options.name, "model": model_name(options.as_json()), "platform": platform,
            "topology": topology, "chips": batch.devices, "batch_size": batch.configured,
            "batch_divides": batch.divides, "compiled_batch_size": batch.size,
            "images_per_chip": batch.per_device, "accumulate": options.accumulate,
            "dtype": options.dtype, "size": options.sources.simulated_size,
            "parallel": _devices_name(options, batch)}


def _devices_name(options: RunOptions, batch: _Batch) -> str:
    if options.parallel == "auto":
        return "pmap" if batch.devices > 1 else "jit"
    return options.parallel


def _shared(options: RunOptions, devices: int) -> _Batch:
    """The configuration's batch, or the nearest one that can be shared among devices."""
    least = devices * options.accumulate
    per_device = max(round(options.batch_size / least), 1) * options.accumulate
    return _Batch(configured=options.batch_size, divides=options.batch_size % least == 0,
                  per_device=per_device, devices=devices)


def _steps(options: RunOptions, *, remat: bool
           ) -> tuple[Callable, Callable, TrainState]:
    """The training step, the evaluation step and the shapes of a state, as `train` has them."""
    training = dataclasses.replace(options.training(total_steps=1),  # a number in the program
                                   remat=remat)
    return (training.step, scoring_step(training.networks, training.loss),
            training.state_shapes())


def _images(options: RunOptions, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    size = options.sources.simulated_size
    shape = jax.ShapeDtypeStruct((count, size, size, 1), jnp.float32)
    return {"ndct": shape, "qdct": shape}


def _on(options: RunOptions, devices: Sequence[jax.Device], step: str, count: int
        ) -> tuple[parallel.Compiled, TrainState, dict[str, jax.ShapeDtypeStruct]]:
    """A step over devices, with the shapes of a state and of a batch of `count` images."""
    train_step, evaluation_step, state = _steps(
        options, remat=options.remat or step == "train with remat")
    shared = parallel.Parallelism(options.parallel, devices=devices,
                                  global_batch_size=count // options.accumulate)
    compiled = (shared.evaluate(evaluation_step) if step == "evaluation" else
                shared.train(train_step))
    return compiled, state, _images(options, count)


def _compile(options: RunOptions, devices: Sequence[jax.Device], step: str,
             images_per_chip: int, *, limit: float) -> _Program:
    compiled, state, batch = _on(options, devices, step, images_per_chip * len(devices))
    start = time.monotonic()
    try:
        program = compiled.lower(state, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        needed, _ = tpu_slices.needed_and_available(error)
        return _Program(step=step, images_per_chip=images_per_chip, fits=False, collectives=[],
                        seconds=time.monotonic() - start,
                        memory={"total": round(needed / _GIB, 3)})
    seconds = time.monotonic() - start
    memory = _memory(program)
    found = collectives.of_program(program.as_text() or "")
    if step == "evaluation":  # which has no gradients: each device's scores go to all
        found = [dataclasses.replace(each, what="scores") for each in found]
    return _Program(step=step, images_per_chip=images_per_chip, seconds=seconds, memory=memory,
                    fits=memory["total"] <= limit, collectives=found)


def _memory(program: Any) -> dict[str, float]:
    """Part → GiB on each chip, and their total; results in place of arguments take none."""
    planned = program.memory_analysis()
    parts = {"arguments": planned.argument_size_in_bytes,
             "results": planned.output_size_in_bytes - planned.alias_size_in_bytes,
             "temporaries": planned.temp_size_in_bytes,
             "program": planned.generated_code_size_in_bytes}
    total = measuring.peak_memory(program) + planned.generated_code_size_in_bytes
    return {name: round(size / _GIB, 3) for name, size in {**parts, "total": total}.items()}


def _next_size(sizes: Sequence[tuple[int, float, bool]], *, limit: float, step: int
               ) -> int | None:
    """The number of images a chip that is worth compiling next, in the search for the most.

    Memory is a straight line over the number of images, but for what the compiler does to
    fit a program in.

    Args:
      sizes: (images, memory, whether it fits) of those compiled.
      limit: memory of a chip.
      step: numbers of images are multiples of it.

    Returns:
      None where the most that fits has been found, as far as the line tells.
    """
    fitting = sorted((images, memory) for images, memory, fits in sizes if fits)
    failing = sorted((images, memory) for images, memory, fits in sizes if not fits)
    # Through the two nearest to the limit; of one alone, through zero, which is too steep a line.
    (lower, less), (upper, more) = [(0, 0.0), *fitting, *failing[:1]][-2:]
    line = (lower + (limit - less) * (upper - lower) / (more - less) if more > less else
            2.0 * upper)
    guess = step * math.floor(line / step)
    if len(sizes) == len(fitting) == 1:
        guess = max(guess, upper + step)
    if not failing:
        guess = min(guess, _LARGEST_GROWTH * upper)
    return guess if guess > (fitting[-1][0] if fitting else 0) else None


def _advice(options: RunOptions, batch: _Batch, programs: Sequence[_Program], *,
            fits: bool, largest: int | None) -> list[str]:
    """What to change, in words; what was compiled first."""
    advice = []
    if not batch.divides:
        among = f"{batch.devices} chips" + (
            f" in {options.accumulate} parts" if options.accumulate > 1 else "")
        advice.append(f"a batch of {batch.configured} does not divide among {among}: give "
                      f"--config.batch_size={batch.size}")
    if fits:
        return advice
    if largest:
        advice.append(f"--config.batch_size={largest * batch.devices}: fits")
    remat = [each for each in programs if each.step == "train with remat"]
    advice += [f"--config.remat=True: {'fits' if each.fits else 'does not fit either'}, "
               f"{each.total:.2f} GiB, for about a third more time" for each in remat]
    if not remat and not options.remat:
        advice.append("--config.remat=True: less memory for a third more time; not compiled")
    if batch.per_device > options.accumulate:
        advice.append("more chips, or --config.accumulate=2 or more: smaller parts of a batch, "
                      "each normalised by itself; not compiled")
    if options.dtype == "float32":
        advice.append("--config.dtype=bfloat16: about half the activations; not compiled")
    return advice


def _for_gpus(options: RunOptions, topology: str) -> dict[str, Any]:
    if not topology.isdecimal() or int(topology) < 1:
        raise InputError(f"--topology is {topology!r}; expected a number of GPUs with "
                         "--platform=cuda")
    devices = _stand_ins(int(topology))
    batch = _shared(options, len(devices))
    operations: dict[str, dict[str, int]] = {}
    for step in ("train", "evaluation"):
        compiled, state, images = _on(options, devices, step, batch.size)
        shapes = state, compiled.arrange_shapes(images)
        # Of what pmap gives, the platform cannot be chosen.
        traced = getattr(compiled.function, "trace", jax.jit(compiled.function).trace)(*shapes)
        lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
        operations[step] = {op: lowered.count(f"stablehlo.{op}") for op in (
            "convolution", "dot_general", "all_reduce", "all_gather")}
    joined = _devices_name(options, batch) == "pmap"
    return {
        **_common(options, batch, platform="cuda", topology=topology),
        "fits": None, "memory_per_chip_gib": None, "largest_batch": None,
        # Under jit it is the compiler that adds them, and in both forms it joins them.
        "all_reduces": operations["train"]["all_reduce"] if joined else None,
        "operations": operations,
        "advice": _advice(options, batch, [], fits=True, largest=None),
        "versions": {"jax": jax.__version__},
    }


def _stand_ins(count: int) -> list[jax.Device]:
    """Devices of the host, in place of as many that are not there."""
    with contextlib.suppress(RuntimeError):  # those in use are as many as they are
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise InputError(f"--topology is {count}: expected at most {len(devices)}, the devices "
                         "that XLA_FLAGS gives")
    return devices[:count]


def text(report: dict[str, Any]) -> str:
    """The content of `preflight.json` as lines."""
    among = f"{report['chips']} × {report.get('chip', 'GPU')}"
    lines = [f"\n{report['model']} ({report['config']}), {report['dtype']}, {report['size']}², on "
             f"{among}, by {report['parallel']}"]
    changed = ("" if report["batch_divides"] else
               f" does NOT divide: what follows is of {report['compiled_batch_size']}")
    lines.append(f"  batch:       {report['batch_size']}{changed}, {report['images_per_chip']} a "
                 "chip")
    if report["platform"] == "cuda":
        for step, found in report["operations"].items():
            lines.append(f"  {step + ':':<12} lowers: " + ", ".join(
                f"{count} {op}" for op, count in found.items() if count))
        lines.append("  memory, time to compile: not known without a GPU. That a step lowers says "
                     "that each of its operations exists there; the compiler joins all_reduces"
                     + ("" if report["parallel"] == "pmap" else ", and adds those of jit"))
    else:
        lines += _tpu_lines(report)
    return "\n".join([*lines, *(f"  to change:   {each}" for each in report["advice"])])


def _tpu_lines(report: dict[str, Any]) -> list[str]:
    verdict = "fits" if report["fits"] else "does NOT fit"
    lines = [f"  memory:      {report['memory_per_chip_gib']:.2f} of "
             f"{report['chip_memory_gib']:.2f} GiB a chip: {verdict}"]
    for step, memory in report["memory"].items():
        parts = ", ".join(f"{name} {size:.3f}" for name, size in memory.items() if name != "total")
        lines.append(f"    {step + ':':<11} {memory['total']:.3f}{f' ({parts})' if parts else ''}")
    largest = report["largest_batch"]
    if largest:
        sign = "" if report["largest_batch_is_exact"] else "at least "
        lines.append(f"  largest:     a batch of {sign}{largest}, {largest // report['chips']} a "
                     "chip, fits")
    for step, name in (("train", "collectives"), ("evaluation", "evaluation_collectives")):
        for each in report[name]:
            lines.append(f"  {step + ':':<12} {each['count']} × {each['op']} of {each['what']}, "
                         f"{_size(each['bytes'])}")
    lines += [f"  compiled:    {each['step']}, {each['images_per_chip']} a chip: "
              f"{each['memory_per_chip_gib']:.2f} GiB, in {format_duration(each['seconds'])}"
              for each in report["compiled"]]
    return lines


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
