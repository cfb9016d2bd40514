"""Compiles a run's steps for absent devices, and checks whether they fit.

For a slice of TPU chips, libtpu compiles the programs on a CPU: memory, collectives and time to
compile are those of the real programs. For GPUs the steps are only lowered.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import jax

from dfgan_jax.performance import collectives, tpu_slices
from dfgan_jax.performance.programs import GIB, Batch, Planned, Program, compile_step, step_on
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.jax_functions import configure
from dfgan_jax.support.progress import format_duration
from dfgan_jax.support.types import JsonObject

SEARCH_LIMIT_S = 1800.0
"""Time after which the search for a larger batch, or for a batch that fits, ends."""


# A batch of this many times the size takes up to 2.5 times as long to compile: a narrow step took
# 114, 199 and 301 s of CPU time for 1, 8 and 64 images a chip.
_LARGEST_GROWTH = 16
_TIME_EXPONENT = 1 / 3


def reports_for_tpu(planned: Planned, topology: str, *, search_limit_s: float
                    ) -> Iterator[JsonObject]:
    """Reports on the configured batch, and again after a search for the largest batch.

    Args:
      planned: the run.
      topology: of the chips, such as `v5e:16x16`.
      search_limit_s: the search starts no program that is expected to end later.

    Raises:
      InputError: there is no such topology.
    """
    start = time.monotonic()
    devices = tpu_slices.devices(topology)
    limit = tpu_slices.memory_bytes(devices[0]) / GIB
    batch = planned.batch_among(len(devices))

    def compiled(step: str, images_per_chip: int) -> Program:
        print(f"Compiling: {step}, {images_per_chip} a chip …", end=" ", flush=True)
        program = compile_step(planned, devices, step, images_per_chip, limit=limit)
        print(f"{program.total:.2f} of {limit:.2f} GiB, "
              f"{format_duration(program.seconds)}", flush=True)
        return program

    def in_time(images_per_chip: int) -> bool:
        longest: float = max(
            program.seconds * max(images_per_chip / program.images_per_chip, 1) ** _TIME_EXPONENT
            for program in programs)
        return time.monotonic() - start + longest < search_limit_s

    trained = compiled("train", batch.per_device)
    evaluated = compiled("evaluation", batch.per_device)
    programs = [trained, evaluated]
    yield _tpu_report(planned, batch, programs, topology=topology, chip=devices[0], limit=limit)
    if not trained.fits and not planned.remat and in_time(batch.per_device):
        programs.append(compiled("train with remat", batch.per_device))
    while True:
        guess = next_size(_sizes(planned, programs), limit=limit, step=planned.accumulate)
        if guess is None or not in_time(guess):
            break
        programs += [compiled(step, guess) for step in _searched(planned)]
    if len(programs) > 2:
        yield _tpu_report(planned, batch, programs, topology=topology, chip=devices[0], limit=limit)


def report_for_gpus(planned: Planned, topology: str) -> JsonObject:
    """The report on a number of GPUs, for which steps are lowered and not compiled.

    Raises:
      InputError: `topology` is not a number, or XLA has fewer devices here.
    """
    if not topology.isdecimal() or int(topology) < 1:
        raise InputError(f"the topology is {topology!r}; expected a number of GPUs")
    devices = _stand_ins(int(topology))
    batch = planned.batch_among(len(devices))
    operations: dict[str, dict[str, int]] = {}
    for step in ("train", "evaluation"):
        compiled, state, images = step_on(planned, devices, step, batch.size)
        shapes = state, compiled.arrange_shapes(images)
        # The result of pmap cannot be traced for another platform.
        traced = getattr(compiled.function, "trace", jax.jit(compiled.function).trace)(*shapes)
        lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
        operations[step] = {op: lowered.count(f"stablehlo.{op}") for op in (
            "convolution", "dot_general", "all_reduce", "all_gather")}
    joined = planned.devices_name(batch.devices) == "pmap"
    return {
        **_common(planned, batch, platform="cuda", topology=topology),
        "fits": None, "memory_per_chip_gib": None, "largest_batch": None,
        # Under jit the compiler adds all-reduces; under jit and pmap it merges them.
        "all_reduces": operations["train"]["all_reduce"] if joined else None,
        "operations": operations,
        "advice": _advice(planned, batch, [], fits=True, largest=None),
        "versions": {"jax": jax.__version__},
    }


def _searched(planned: Planned) -> tuple[str, ...]:
    """The steps that limit the batch; on images of one size, evaluation takes less than training.
    """
    return ("train",) if planned.slice_size == planned.size else ("train", "evaluation")


def _sizes(planned: Planned, programs: Sequence[Program]) -> list[tuple[int, float, bool]]:
    """(images a chip, memory, whether it fits) of the searched steps together, each number once."""
    by_images: dict[int, list[Program]] = {}
    for each in programs:
        if each.step in _searched(planned):
            by_images.setdefault(each.images_per_chip, []).append(each)
    return [(images, max(each.total for each in steps), all(each.fits for each in steps))
            for images, steps in by_images.items()]


def _stand_ins(count: int) -> list[jax.Device]:
    """Devices of the host, in place of absent ones."""
    with contextlib.suppress(RuntimeError):  # the number of devices in use is fixed
        configure("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise InputError(f"the topology is {count} GPUs; expected at most {len(devices)}, the "
                         "devices that XLA_FLAGS gives")
    return devices[:count]


@runtime_checkable
class _Chip(Protocol):
    """A device of a topology."""

    @property
    def device_kind(self) -> str:
        """Its name, such as `TPU v5 lite`."""


def _tpu_report(planned: Planned, batch: Batch, programs: Sequence[Program], *,
                topology: str, chip: _Chip, limit: float) -> JsonObject:
    """The report on the training step, the evaluation step, and the programs of the search."""
    trained, evaluated = programs[:2]
    fits = trained.fits and evaluated.fits
    sizes = _sizes(planned, programs)
    largest = max((images for images, _, fitting in sizes if fitting), default=None)
    needs_most = max(trained, evaluated, key=lambda each: each.total)
    counts = [each for each in trained.collectives if each.op == "all-reduce"]
    return {
        **_common(planned, batch, platform="tpu", topology=topology),
        "chip": chip.device_kind,
        "fits": fits,
        "memory_per_chip_gib": needs_most.total,
        "chip_memory_gib": round(limit, 2),
        "memory": {each.step: each.memory for each in (trained, evaluated)},
        "largest_batch": largest and largest * batch.devices,
        "largest_batch_is_exact": any(not fitting and images == (largest or 0) + planned.accumulate
                                      for images, _, fitting in sizes),
        "all_reduces": sum(each.count for each in counts) if trained.fits else None,
        "gradient_all_reduces": sum(each.count for each in counts if each.what.startswith(
            collectives.GRADIENTS)) if trained.fits else None,
        "collectives": [dataclasses.asdict(each) for each in trained.collectives],
        "evaluation_collectives": [dataclasses.asdict(each) for each in evaluated.collectives],
        "compiled": [each.summary() for each in programs],
        "advice": _advice(planned, batch, programs, fits=fits, largest=largest),
        "versions": {"jax": jax.__version__, "libtpu": tpu_slices.version()},
    }


def _common(planned: Planned, batch: Batch, *, platform: str, topology: str
            ) -> JsonObject:
    return {"config": planned.config, "model": planned.model, "platform": platform,
            "topology": topology, "chips": batch.devices, "batch_size": batch.configured,
            "batch_divides": batch.divides, "compiled_batch_size": batch.size,
            "images_per_chip": batch.per_device, "accumulate": planned.accumulate,
            "dtype": planned.dtype, "size": planned.size, "slice_size": planned.slice_size,
            "parallel": planned.devices_name(batch.devices)}


def next_size(sizes: Sequence[tuple[int, float, bool]], *, limit: float, step: int
              ) -> int | None:
    """The number of images a chip to compile next, in the search for the largest that fits.

    Memory is taken as a linear function of the number of images, from which the compiler departs
    to make a program fit.

    Args:
      sizes: (images, memory, whether it fits) of the compiled programs.
      limit: memory of a chip.
      step: numbers of images must be multiples of this.

    Returns:
      None if, by the line, the largest number that fits has been found.
    """
    fitting = sorted((images, memory) for images, memory, fits in sizes if fits)
    failing = sorted((images, memory) for images, memory, fits in sizes if not fits)
    # A line through the two points nearest to the limit; of one point, through zero: too steep.
    (lower, less), (upper, more) = [(0, 0.0), *fitting, *failing[:1]][-2:]
    line = (lower + (limit - less) * (upper - lower) / (more - less) if more > less else
            2.0 * upper)
    guess = step * math.floor(line / step)
    if len(sizes) == len(fitting) == 1:
        guess = max(guess, upper + step)
    if not failing:
        guess = min(guess, _LARGEST_GROWTH * upper)
    return guess if guess > (fitting[-1][0] if fitting else 0) else None


def _advice(planned: Planned, batch: Batch, programs: Sequence[Program], *,
            fits: bool, largest: int | None) -> list[str]:
    """Advises changes of the configuration, compiled ones first."""
    advice = []
    if not batch.divides:
        among = f"{batch.devices} chips" + (
            f" in {planned.accumulate} parts" if planned.accumulate > 1 else "")
        advice.append(f"a batch of {batch.configured} does not divide among {among}: give "
                      f"config.batch_size={batch.size}")
    if fits:
        return advice
    if largest:
        advice.append(f"config.batch_size={largest * batch.devices}: fits")
    if programs[0].fits:
        return [*advice, "more chips, or a smaller config.batch_size: the evaluation, of whole "
                         "slices, does not fit"]
    remat = [each for each in programs if each.step == "train with remat"]
    advice += [f"config.remat=True: {'fits' if each.fits else 'does not fit either'}, "
               f"{each.total:.2f} GiB, for about a third more time" for each in remat]
    if not remat and not planned.remat:
        advice.append("config.remat=True: less memory for a third more time; not compiled")
    if batch.per_device > planned.accumulate:
        advice.append("more chips, or config.accumulate=2 or more: smaller parts of a batch, "
                      "each normalised by itself; not compiled")
    if planned.dtype == "float32":
        advice.append("config.dtype=bfloat16: about half the activations; not compiled")
    return advice
