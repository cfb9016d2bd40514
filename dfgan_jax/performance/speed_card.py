"""The speed card of a machine: its speed and memory for some networks.

Measured on one device. The batches of steps and forward passes are on the device, so that these
are timed alone; the input pipeline is measured separately.
"""

import dataclasses
import datetime
import functools
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import TypedDict

import jax
import numpy as np
from jaxtyping import PyTree

from dfgan_jax.data.options import SimulationOptions
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.devices import backend, parallel
from dfgan_jax.evaluation.protocols import FULL_RANGE
from dfgan_jax.models.architecture import Generator
from dfgan_jax.performance import measuring
from dfgan_jax.simulation import low_dose
from dfgan_jax.support.errors import InputError, is_out_of_memory
from dfgan_jax.support.progress import Progress, progress
from dfgan_jax.support.types import JsonObject
from dfgan_jax.training import input_pipeline
from dfgan_jax.training.state import TrainState
from dfgan_jax.training.training import Step, Training

MEASURED = "measured"
DOES_NOT_FIT = "does not fit"
OUT_OF_TIME = "not measured: the time was up"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The measurements, and their duration.

    Attributes:
      batch_sizes: dtype → batch sizes, in the order of measurement.
      inference_sizes: heights and widths of the slices that are denoised [pixels].
      matmul_size: size of the matrices whose product gives the peak.
      copy_bytes: size of the array whose traffic gives the bandwidth.
      seconds: for each measurement, beyond its first few repetitions.
      time_limit_s: time from the start after which no row is begun.
      slices: number of simulated slices for the comparison of bfloat16 with float32.
    """

    batch_sizes: dict[str, tuple[int, ...]]
    inference_sizes: tuple[int, ...] = (256, 512)
    matmul_size: int
    copy_bytes: int
    seconds: float
    time_limit_s: float
    slices: int = 4

    @classmethod
    def for_machine(cls) -> "Plan":
        """A plan of a few minutes; on an accelerator, compiling takes most of them."""
        if backend.has_accelerator():
            # 64 before 32: if time runs out, the extremes are worth more than the middle.
            batch_sizes = (16, 64, 32, 128)
            return cls(batch_sizes={"float32": batch_sizes, "bfloat16": batch_sizes},
                       matmul_size=8192, copy_bytes=2**31, seconds=1.0, time_limit_s=150.0)
        # bfloat16 is slow on most CPUs: its smallest batch is enough.
        return cls(batch_sizes={"float32": (1, 4), "bfloat16": (1,)},
                   matmul_size=2048, copy_bytes=2**30, seconds=1.0, time_limit_s=240.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """The networks to measure.

    Attributes:
      model: name of the model.
      training: the networks, optimizers and losses.
      state: initial state, on the host, since steps donate their state.
      size: height and width of the crops, or slices, in training [pixels].
      slice_size: height and width of the slices for the comparison of bfloat16 with float32.
      simulation: of the slices for the comparison of bfloat16 with float32.
      generator: the generator of this comparison.
      variables: its variables.
      weights: the origin of the variables, in words.
    """

    model: str
    training: Training
    state: TrainState
    size: int
    slice_size: int
    simulation: SimulationOptions
    generator: Generator
    variables: dict[str, PyTree]
    weights: str


class Row(TypedDict):
    """The identity of a row: `training` or `inference`, height and width, dtype, batch size."""

    kind: str
    size: int
    dtype: str
    batch: int


def measure(subject: Subject, plan: Plan) -> JsonObject:
    """Measures the card, the content of `benchmark.json`."""
    rows = _rows_of(plan, subject.size)
    with progress("benchmark", total=len(rows) + 4, unit="measurements") as bar:
        card = _measure(subject, plan, rows, bar)
        bar.advance(note="comparing bfloat16 with float32")
        card["bfloat16"] = {"weights": subject.weights, **compare_dtypes(subject, plan)}
    return card


def _rows_of(plan: Plan, training_size: int) -> list[Row]:
    """The rows, in the order of measurement."""
    kinds = [("training", training_size), *(("inference", size) for size in plan.inference_sizes)]
    return [{"kind": kind, "size": size, "dtype": dtype, "batch": sizes[rank]}
            for rank in range(max(map(len, plan.batch_sizes.values())))
            for dtype, sizes in plan.batch_sizes.items() if rank < len(sizes)
            for kind, size in kinds]


def words(row: Row | JsonObject) -> str:
    """The identity of a row, in words."""
    return f"{row['kind']} at {row['size']}², {row['dtype']}, batch {row['batch']}"


@dataclasses.dataclass
class Program:
    """A step or a forward pass.

    Attributes:
      function: (state, batch) → (state, results) for training, (variables, slices) →
        results for inference.
      first: state or variables, on the host.
      batch: random pairs or slices, on the host.
      donate: donated arguments.
      dtype: of the networks' computation.
    """

    function: Step
    first: PyTree
    batch: PyTree
    donate: tuple[int, ...]
    dtype: str

    @functools.cached_property
    def compiled(self) -> jax.stages.Compiled:
        return self._lower().compile()

    def compile_times(self) -> measuring.CompileTimes:
        """Compiles the program; see `measuring.compile_times`."""
        times, self.compiled = measuring.compile_times(self._lower)
        return times

    def _lower(self) -> jax.stages.Lowered:
        jitted: jax.stages.Wrapped = (
            parallel.unshared(self.function, donate_argnums=self.donate) if self.donate else
            parallel.inference(self.function, dtype=self.dtype))
        return jitted.lower(self.first, self.batch)

    def on_device(self) -> Callable[[PyTree], PyTree]:
        """Makes a function of a batch; each training step continues from the previous one."""
        first, compiled = jax.device_put(self.first), self.compiled
        if not self.donate:
            return lambda batch: compiled(first, batch)

        def step(batch: PyTree) -> PyTree:
            nonlocal first
            first, results = compiled(first, batch)
            return results
        return step


def program_of(subject: Subject, row: Row | JsonObject) -> Program:
    """The program of a row."""
    # Without parts: they would save memory, and rows could not be compared by batch size.
    training = dataclasses.replace(subject.training, accumulate=1).in_dtype(row["dtype"])
    batch = input_pipeline.batch_of(_random_pairs(row["batch"], row["size"]))
    if row["kind"] == "inference":
        return Program(functools.partial(training.networks.generator.apply, train=False),
                       subject.state.generator, batch["qdct"], donate=(), dtype=row["dtype"])
    return Program(training.step, subject.state, batch, donate=(0,), dtype=row["dtype"])


def _random_pairs(count: int, size: int) -> Pairs:
    rng = np.random.default_rng(0)
    ndct, noise = rng.standard_normal((2, count, size, size), np.float32)
    return Pairs(ndct, ndct + 0.1 * noise)


def _measure(subject: Subject, plan: Plan, rows: list[Row], bar: Progress) -> JsonObject:
    """Measures the card without the comparison of dtypes."""
    deadline = time.monotonic() + plan.time_limit_s
    # Compiled first, since a program compiles faster after a similar one.
    first = program_of(subject, rows[0])
    compiling = unless_too_large(first.compile_times)
    bar.advance(note="peaks")
    peaks: JsonObject = {
        "matmul": {dtype: measuring.matmul_peak(plan.matmul_size, dtype, seconds=plan.seconds)
                   for dtype in plan.batch_sizes},
        "matmul_precision": measuring.setting("jax_default_matmul_precision") or "default",
        "memory": measuring.memory_bandwidth(plan.copy_bytes, seconds=plan.seconds)}
    bar.advance(note="input")
    waiting = unless_too_large(functools.partial(_measure_input, first, seconds=plan.seconds))
    bar.advance()

    flops: dict[tuple[str, int], float] = {}
    measured: dict[str, list[JsonObject]] = {"training": [], "inference": []}
    for row in rows:
        bar.advance(note=words(row))
        kind, size = row["kind"], row["size"]
        if time.monotonic() > deadline:
            result: JsonObject = {"status": OUT_OF_TIME}
        else:
            program = first if row is rows[0] else program_of(subject, row)
            if (kind, size) not in flops:  # the optimizer's share is negligible
                flops[kind, size] = measuring.count_flops(
                    program.function, program.first, program.batch) / row["batch"]
            result = unless_too_large(functools.partial(
                _measure_row, program, flops=row["batch"] * flops[kind, size],
                peak=peaks["matmul"][row["dtype"]]["flops_per_s"],
                bandwidth=peaks["memory"]["bytes_per_s"], seconds=plan.seconds))
        measured[kind].append({**row, **result})
    return {
        "machine": _machine(subject.model), "peaks": peaks, "compile": {**rows[0], **compiling},
        "input": {**rows[0], **waiting},
        **{kind: sorted(each, key=lambda row: (row["dtype"] != "float32", row["size"],
                                               row["batch"]))
           for kind, each in measured.items()}}


def unless_too_large(measure: Callable[[], Mapping[str, object]]) -> JsonObject:
    """The result of `measure` with the status `MEASURED`; without enough memory `DOES_NOT_FIT`."""
    try:
        return {"status": MEASURED, **measure()}
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"status": DOES_NOT_FIT}


def _measure_row(program: Program, *, flops: float, peak: float, bandwidth: float,
                 seconds: float) -> JsonObject:
    """Times a program, and compares it with the machine's peak and bandwidth."""
    call, batch = program.on_device(), jax.device_put(program.batch)
    timing = measuring.time_calls(lambda: call(batch), seconds=seconds)
    median, moved = timing["median_s"], measuring.count_bytes(program.compiled)
    return {"images_per_s": len(jax.tree.leaves(batch)[0]) / median, **timing,
            "flops": flops, "flops_per_s": flops / median,
            "compute_utilisation": flops / median / peak,
            "bytes_accessed": moved, "bytes_per_s": moved / median,
            "bandwidth_utilisation": moved / median / bandwidth,
            "peak_memory_bytes": measuring.peak_memory(program.compiled)}


def _measure_input(program: Program, *, seconds: float) -> JsonObject:
    """Measures the input pipeline before a training step, and alone."""
    count, size = program.batch["ndct"].shape[:2]
    batches = input_pipeline.train_batches(
        _random_pairs(4 * count, size),
        input_pipeline.Sampling(global_batch_size=count, seed=0))
    waiting = measuring.waiting_share(input_pipeline.iterate_from(batches, 0),
                                      program.on_device(), seconds=seconds)
    alone = input_pipeline.iterate_from(batches, 0)
    # Many at a time, so that batches read ahead make no difference.
    timing = measuring.time_calls(lambda: next(alone), seconds=seconds, queued=32)
    images_per_s = count / timing["median_s"]
    return {"pairs": "random, in the host's memory", **waiting, "pipeline": timing,
            "images_per_s": images_per_s,
            "pipeline_over_step": images_per_s / (count * waiting["steps"] / waiting["seconds"])}


def compare_dtypes(subject: Subject, plan: Plan) -> JsonObject:
    """Denoises the same simulated slices in float32 and in bfloat16."""
    ndct, qdct = low_dose.simulate_pairs(
        plan.slices, size=subject.slice_size, seed=subject.simulation.seed, split="test",
        protocol=subject.simulation.protocol)
    images, common = {}, {"slices": plan.slices, "size": subject.slice_size}
    for dtype in ("float32", "bfloat16"):
        try:
            images[dtype] = Denoiser(subject.generator.clone(dtype=dtype),
                                     subject.variables)(qdct)
        except InputError as error:  # the output is not finite, which the card reports
            return {**common, "status": f"{dtype}: {error}"}
    scores = {dtype: FULL_RANGE.mean(FULL_RANGE.score(image, ndct))
              for dtype, image in images.items()}
    difference = {name: scores["bfloat16"][name] - scores["float32"][name] for name in
                  scores["float32"]}
    rmse = FULL_RANGE.mean(FULL_RANGE.score(images["bfloat16"], images["float32"]))["rmse_hu"]
    return {**common, "status": MEASURED, "protocol": FULL_RANGE.name,
            "data_range": FULL_RANGE.data_range, **scores, "difference": difference,
            "rmse_hu_between": rmse}


def _machine(model: str) -> JsonObject:
    return {"devices": backend.describe_devices(), "devices_measured": 1,
            "cpu_cores": os.cpu_count(), "python": platform.python_version(),
            "jax": importlib.metadata.version("jax"), "model": model,
            "peak_memory": "planned by the compiler: arguments + results + temporaries, without "
                           "results that share memory with arguments",
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
