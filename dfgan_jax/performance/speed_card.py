"""The card of what this machine does with some networks.

Measured on one device. Steps and forward passes get batches that are on the device, so
that they are timed alone; what the input pipeline adds is measured by itself.
"""

import dataclasses
import datetime
import functools
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dfgan_jax.data.options import SimulationOptions
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.devices import parallel
from dfgan_jax.evaluation.protocols import FULL_RANGE
from dfgan_jax.models.generators import Generator
from dfgan_jax.performance import measuring
from dfgan_jax.simulation import low_dose
from dfgan_jax.support.errors import InputError, is_out_of_memory
from dfgan_jax.support.progress import Progress, progress
from dfgan_jax.training import input_pipeline
from dfgan_jax.training.state import TrainState
from dfgan_jax.training.training import Training

MEASURED = "measured"
DOES_NOT_FIT = "does not fit"
OUT_OF_TIME = "not measured: the time was up"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and for how long.

    Attributes:
      batch_sizes: dtype → batch sizes, in the order in which they are measured.
      inference_sizes: heights and widths of the slices that are denoised [pixels].
      matmul_size: of the matrices whose product gives the peak.
      copy_bytes: of the array whose traffic gives the bandwidth.
      seconds: for each measurement, beyond its first few repetitions.
      time_limit_s: from the start; no row is begun after it.
      slices: simulated ones, that bfloat16 and float32 are compared on.
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
        """Ends in a few minutes; on an accelerator those go into compiling."""
        if parallel.has_accelerator():
            # 64 before 32: where the time is up, the ends tell more than the middle.
            batch_sizes = (16, 64, 32, 128)
            return cls(batch_sizes={"float32": batch_sizes, "bfloat16": batch_sizes},
                       matmul_size=8192, copy_bytes=2**31, seconds=1.0, time_limit_s=150.0)
        # bfloat16 is slow on most CPUs: its smallest batch tells enough.
        return cls(batch_sizes={"float32": (1, 4), "bfloat16": (1,)},
                   matmul_size=2048, copy_bytes=2**30, seconds=1.0, time_limit_s=240.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured.

    Attributes:
      model: its name.
      training: what a step is made of.
      state: initial weights, on the host: steps donate the state that they are given.
      size: height and width of the training slices [pixels].
      simulation: of the slices that bfloat16 and float32 are compared on.
      generator: that they are compared with.
      variables: of that generator.
      weights: where they are from, in words.
    """

    model: str
    training: Training
    state: TrainState
    size: int
    simulation: SimulationOptions
    generator: Generator
    variables: Any
    weights: str


def measure(subject: Subject, plan: Plan) -> dict[str, Any]:
    """The card: what `benchmark.json` holds."""
    rows = _rows_of(plan, subject.size)
    with progress("benchmark", total=len(rows) + 4, unit="measurements") as bar:
        card = _measure(subject, plan, rows, bar)
        bar.advance(note="comparing bfloat16 with float32")
        card["bfloat16"] = {"weights": subject.weights, **compare_dtypes(subject, plan)}
    return card


def _rows_of(plan: Plan, training_size: int) -> list[dict[str, Any]]:
    """What tells the rows apart, in the order in which they are measured."""
    kinds = [("training", training_size), *(("inference", size) for size in plan.inference_sizes)]
    return [{"kind": kind, "size": size, "dtype": dtype, "batch": sizes[rank]}
            for rank in range(max(map(len, plan.batch_sizes.values())))
            for dtype, sizes in plan.batch_sizes.items() if rank < len(sizes)
            for kind, size in kinds]


def words(row: dict[str, Any]) -> str:
    """Tells a row from the others."""
    return f"{row['kind']} at {row['size']}², {row['dtype']}, batch {row['batch']}"


@dataclasses.dataclass
class Program:
    """A step or a forward pass.

    Attributes:
      function: (state, batch) → (state, results) for training, (variables, batch) →
        results for inference.
      first: state or variables, on the host.
      batch: random arrays, on the host.
      donate: arguments that a call uses up.
      dtype: of the networks' computation.
    """

    function: Callable
    first: Any
    batch: Any
    donate: tuple[int, ...]
    dtype: str

    @functools.cached_property
    def compiled(self) -> Any:
        return self._lower().compile()

    def compile_times(self) -> dict[str, float]:
        """What `measuring.compile_times` gives."""
        times, self.compiled = measuring.compile_times(self._lower)
        return times

    def _lower(self) -> Any:
        jitted = (parallel.unshared(self.function, donate_argnums=self.donate) if self.donate else
                  parallel.inference(self.function, dtype=self.dtype))
        return jitted.lower(self.first, self.batch)

    def on_device(self) -> Callable[[Any], Any]:
        """Runs the program on a batch; a step goes on from the one before."""
        first, compiled = jax.device_put(self.first), self.compiled
        if not self.donate:
            return lambda batch: compiled(first, batch)

        def step(batch):
            nonlocal first
            first, results = compiled(first, batch)
            return results
        return step


def program_of(subject: Subject, row: dict[str, Any]) -> Program:
    """The program that a row is about."""
    # In parts a batch would take less memory than another of its size.
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


def _measure(subject: Subject, plan: Plan, rows: list[dict[str, Any]], bar: Progress
             ) -> dict[str, Any]:
    """Everything of the card but the comparison of dtypes."""
    deadline = time.monotonic() + plan.time_limit_s
    # First, since a program compiles faster where another like it has been compiled.
    first = program_of(subject, rows[0])
    compiling = unless_too_large(first.compile_times)
    bar.advance(note="peaks")
    settings: Any = jax.config  # older versions declare none of its attributes
    peaks: dict[str, Any] = {
        "matmul": {dtype: measuring.matmul_peak(plan.matmul_size, dtype, seconds=plan.seconds)
                   for dtype in plan.batch_sizes},
        "matmul_precision": settings.jax_default_matmul_precision or "default",
        "memory": measuring.memory_bandwidth(plan.copy_bytes, seconds=plan.seconds)}
    bar.advance(note="input")
    waiting = unless_too_large(functools.partial(_measure_input, first, seconds=plan.seconds))
    bar.advance()

    flops: dict[tuple[str, int], float] = {}
    measured: dict[str, list[dict[str, Any]]] = {"training": [], "inference": []}
    for row in rows:
        bar.advance(note=words(row))
        kind, size = row["kind"], row["size"]
        if time.monotonic() > deadline:
            result = {"status": OUT_OF_TIME}
        else:
            program = first if row is rows[0] else program_of(subject, row)
            if (kind, size) not in flops:  # the optimiser's share vanishes among the images'
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


def unless_too_large(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` gives, and a status that says whether there was enough memory for it."""
    try:
        return {"status": MEASURED, **measure()}
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"status": DOES_NOT_FIT}


def _measure_row(program: Program, *, flops: float, peak: float, bandwidth: float,
                 seconds: float) -> dict[str, Any]:
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


def _measure_input(program: Program, *, seconds: float) -> dict[str, Any]:
    """The input pipeline before a training step, and by itself."""
    count, size = program.batch["ndct"].shape[:2]
    batches = input_pipeline.train_batches(
        _random_pairs(4 * count, size),
        input_pipeline.Sampling(global_batch_size=count, seed=0))
    waiting = measuring.waiting_share(input_pipeline.iterate_from(batches, 0),
                                      program.on_device(), seconds=seconds)
    alone = input_pipeline.iterate_from(batches, 0)
    # Many at a time, so that those read ahead make no difference.
    timing = measuring.time_calls(lambda: next(alone), seconds=seconds, queued=32)
    images_per_s = count / timing["median_s"]
    return {"pairs": "random, in the host's memory", **waiting, "pipeline": timing,
            "images_per_s": images_per_s,
            "pipeline_over_step": images_per_s / (count * waiting["steps"] / waiting["seconds"])}


def compare_dtypes(subject: Subject, plan: Plan) -> dict[str, Any]:
    """Denoises the same simulated slices in float32 and in bfloat16."""
    ndct, qdct = low_dose.simulate_pairs(
        plan.slices, size=subject.size, seed=subject.simulation.seed, split="test",
        protocol=subject.simulation.protocol)
    images, common = {}, {"slices": plan.slices, "size": subject.size}
    for dtype in ("float32", "bfloat16"):
        try:
            images[dtype] = Denoiser(subject.generator.clone(dtype=dtype),
                                     subject.variables)(qdct)
        except InputError as error:  # its output is not finite, which belongs on the card
            return {**common, "status": f"{dtype}: {error}"}
    scores = {dtype: FULL_RANGE.mean(FULL_RANGE.score(image, ndct))
              for dtype, image in images.items()}
    difference = {name: scores["bfloat16"][name] - scores["float32"][name] for name in
                  scores["float32"]}
    rmse = FULL_RANGE.mean(FULL_RANGE.score(images["bfloat16"], images["float32"]))["rmse_hu"]
    return {**common, "status": MEASURED, "protocol": FULL_RANGE.name,
            "data_range": FULL_RANGE.data_range, **scores, "difference": difference,
            "rmse_hu_between": rmse}


def _machine(model: str) -> dict[str, Any]:
    return {"devices": parallel.describe_devices(), "devices_measured": 1,
            "cpu_cores": os.cpu_count(), "python": platform.python_version(),
            "jax": importlib.metadata.version("jax"), "model": model,
            "peak_memory": "planned by the compiler: arguments + results + temporaries, without "
                           "results that share memory with arguments",
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
