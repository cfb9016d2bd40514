"""The steps of a planned run, compiled for absent devices."""

import dataclasses
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from dfgan_jax.devices import parallel
from dfgan_jax.performance import collectives, measuring, tpu_slices
from dfgan_jax.support.jax_functions import shape_struct
from dfgan_jax.support.types import JsonObject
from dfgan_jax.training.state import TrainState
from dfgan_jax.training.training import Training

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A planned run.

    Attributes:
      config: name of the configuration.
      model: name of the model.
      training: the networks, optimizers and losses.
      batch_size: images in one update.
      size: height and width of the crops, or slices, in training [pixels].
      slice_size: height and width of the slices in the evaluation [pixels].
      parallel: how devices share a batch.
      dtype: of the networks' computation.
    """

    config: str
    model: str
    training: Training
    batch_size: int
    size: int
    slice_size: int
    parallel: parallel.Parallel
    dtype: str

    @property
    def accumulate(self) -> int:
        """Number of parts of a batch, computed one after another."""
        return self.training.accumulate

    @property
    def remat(self) -> bool:
        """Whether activations are computed again for the gradient."""
        return self.training.remat

    def devices_name(self, devices: int) -> str:
        """How a number of devices share a batch: `jit` or `pmap`."""
        if self.parallel == "auto":
            return "pmap" if devices > 1 else "jit"
        return self.parallel

    def batch_among(self, devices: int) -> "Batch":
        """The configuration's batch, or the nearest that divides among the devices."""
        least = devices * self.accumulate
        per_device = max(round(self.batch_size / least), 1) * self.accumulate
        return Batch(configured=self.batch_size, divides=self.batch_size % least == 0,
                     per_device=per_device, devices=devices)

    def images(self, count: int, step: str) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of `count` images of a step."""
        size = self.slice_size if step == "evaluation" else self.size
        shape = shape_struct((count, size, size, 1), jnp.float32)
        return {"ndct": shape, "qdct": shape}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch among devices.

    Attributes:
      configured: images of the configuration's batch.
      divides: whether each part of this batch divides among the devices.
      per_device: images on each device, of the nearest batch that divides.
      devices: number of devices.
    """

    configured: int
    divides: bool
    per_device: int
    devices: int

    @property
    def size(self) -> int:
        return self.per_device * self.devices


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A step, compiled for one batch size.

    Attributes:
      step: `train`, `train with remat` or `evaluation`.
      images_per_chip: of the whole batch.
      seconds: to compile.
      fits: whether it fits in a chip's memory.
      memory: part → GiB on each chip; only the total of a program that does not fit.
      collectives: of a program that fits.
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

    def summary(self) -> JsonObject:
        return {"step": self.step, "images_per_chip": self.images_per_chip, "fits": self.fits,
                "seconds": round(self.seconds, 1), "memory_per_chip_gib": self.total}


def step_on(planned: Planned, devices: Sequence[jax.Device], step: str, count: int
            ) -> tuple[parallel.Compiled, TrainState, dict[str, jax.ShapeDtypeStruct]]:
    """A step over devices, with the shapes of a state and of its images, of a batch of `count`.

    The evaluation takes as many images at once as a part of the batch has.
    """
    training = dataclasses.replace(planned.training,
                                   remat=planned.remat or step == "train with remat")
    shared = parallel.Parallelism(planned.parallel, devices=devices,
                                  global_batch_size=count // planned.accumulate)
    compiled = (shared.evaluate(training.validation_step)
                if step == "evaluation" else shared.train(training.step))
    at_once = count // planned.accumulate if step == "evaluation" else count
    return compiled, training.state_shapes(), planned.images(at_once, step)


def compile_step(planned: Planned, devices: Sequence[jax.Device], step: str,
                 images_per_chip: int, *, limit: float) -> Program:
    """Compiles a step for TPU chips.

    Args:
      step: `train`, `train with remat` or `evaluation`.
      images_per_chip: of the whole batch.
      limit: memory of a chip [GiB].
    """
    compiled, state, batch = step_on(planned, devices, step, images_per_chip * len(devices))
    start = time.monotonic()
    try:
        program = compiled.lower(state, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        needed, _ = tpu_slices.needed_and_available(error)
        return Program(step=step, images_per_chip=images_per_chip, fits=False, collectives=[],
                       seconds=time.monotonic() - start,
                       memory={"total": round(needed / GIB, 3)})
    seconds = time.monotonic() - start
    memory = _memory(program)
    found = collectives.of_program(program.as_text() or "")
    if step == "evaluation":  # has no gradients: each device's scores go to all devices
        found = [dataclasses.replace(each, what="scores") for each in found]
    return Program(step=step, images_per_chip=images_per_chip, seconds=seconds, memory=memory,
                   fits=memory["total"] <= limit, collectives=found)


def _memory(program: jax.stages.Compiled) -> dict[str, float]:
    """Part → GiB on each chip, and the total; results in place of arguments take no memory."""
    planned: PyTree = program.memory_analysis()
    parts = {"arguments": planned.argument_size_in_bytes,
             "results": planned.output_size_in_bytes - planned.alias_size_in_bytes,
             "temporaries": planned.temp_size_in_bytes,
             "program": planned.generated_code_size_in_bytes}
    total = measuring.peak_memory(program) + planned.generated_code_size_in_bytes
    return {name: round(size / GIB, 3) for name, size in {**parts, "total": total}.items()}
