"""`--mode=benchmark`: a card of what this machine does with the networks of a configuration.

Measured on one device. Steps and forward passes get batches that are on the device, so
that they are timed alone; what the input pipeline adds is measured by itself.
"""

import dataclasses
import datetime
import functools
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from dfgan_jax.checkpoints.networks import load_weights
from dfgan_jax.cli.identity import model_name
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.devices import parallel
from dfgan_jax.evaluation.protocols import FULL_RANGE
from dfgan_jax.models.architecture import Generator
from dfgan_jax.models.generators import build_generator
from dfgan_jax.performance import measuring
from dfgan_jax.simulation import low_dose
from dfgan_jax.support.errors import InputError, is_out_of_memory
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.progress import Progress, progress
from dfgan_jax.training import input_pipeline
from dfgan_jax.training.state import TrainState

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


def run(config: ml_collections.ConfigDict, *, workdir: pathlib.Path,
        checkpoint_path: str | None = None, plan: Plan | None = None) -> None:
    """Measures this machine, prints a table and writes `benchmark.json` into `workdir`.

    Args:
      config: names the networks, the losses and the size of the training slices.
      workdir: folder to write into.
      checkpoint_path: what `Denoiser.load` takes; the weights that bfloat16 and float32
        are compared with. None: initial ones, untrained.
      plan: what to measure; by default what suits the machine.

    Raises:
      InputError: the configuration or the checkpoint cannot be used.
    """
    options = RunOptions.of(config)
    plan = plan or Plan.for_machine()
    state = _initial_state(options)
    generator, variables = options.networks.generator, state.generator
    if checkpoint_path is not None:
        weights = load_weights([checkpoint_path]).weights
        generator = build_generator(**weights.options)
        variables = weights.generator_variables
    workdir.mkdir(parents=True, exist_ok=True)  # rather now than after minutes

    rows = _rows_of(plan, options.sources.simulated_size)
    with progress("benchmark", total=len(rows) + 4, unit="measurements") as bar:
        card = _measure(options, state, plan, rows, bar)
        bar.advance(note="comparing bfloat16 with float32")
        card["bfloat16"] = {"weights": checkpoint_path or "initial",
                            **_compare_dtypes(options, plan, generator, variables)}
    path = workdir / "benchmark.json"
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(card, indent=2, allow_nan=False) + "\n")
    print(table(card))
    print(f"Card: {path}", flush=True)


def _initial_state(options: RunOptions) -> TrainState:
    """Initial weights, on the host: steps donate the state that they are given."""
    return jax.device_get(options.training(total_steps=1).initial_state(options.seed))


def _rows_of(plan: Plan, training_size: int) -> list[dict[str, Any]]:
    """What tells the rows apart, in the order in which they are measured."""
    kinds = [("training", training_size), *(("inference", size) for size in plan.inference_sizes)]
    return [{"kind": kind, "size": size, "dtype": dtype, "batch": sizes[rank]}
            for rank in range(max(map(len, plan.batch_sizes.values())))
            for dtype, sizes in plan.batch_sizes.items() if rank < len(sizes)
            for kind, size in kinds]


@dataclasses.dataclass
class _Program:
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


def _program(options: RunOptions, state: TrainState, row: dict[str, Any]) -> _Program:
    # In parts a batch would take less memory than another of its size.
    training = dataclasses.replace(options.training(total_steps=1), accumulate=1).in_dtype(
        row["dtype"])
    batch = input_pipeline.batch_of(_random_pairs(row["batch"], row["size"]))
    if row["kind"] == "inference":
        return _Program(functools.partial(training.networks.generator.apply, train=False),
                        state.generator, batch["qdct"], donate=(), dtype=row["dtype"])
    return _Program(training.step, state, batch, donate=(0,), dtype=row["dtype"])


def _random_pairs(count: int, size: int) -> Pairs:
    rng = np.random.default_rng(0)
    ndct, noise = rng.standard_normal((2, count, size, size), np.float32)
    return Pairs(ndct, ndct + 0.1 * noise)


def _measure(options: RunOptions, state: TrainState, plan: Plan,
             rows: list[dict[str, Any]], bar: Progress) -> dict[str, Any]:
    """Everything of the card but the comparison of dtypes."""
    deadline = time.monotonic() + plan.time_limit_s
    # First, since a program compiles faster where another like it has been compiled.
    first = _program(options, state, rows[0])
    compiling = _unless_too_large(first.compile_times)
    bar.advance(note="peaks")
    settings: Any = jax.config  # older versions declare none of its attributes
    peaks: dict[str, Any] = {
        "matmul": {dtype: measuring.matmul_peak(plan.matmul_size, dtype, seconds=plan.seconds)
                   for dtype in plan.batch_sizes},
        "matmul_precision": settings.jax_default_matmul_precision or "default",
        "memory": measuring.memory_bandwidth(plan.copy_bytes, seconds=plan.seconds)}
    bar.advance(note="input")
    waiting = _unless_too_large(functools.partial(_measure_input, first, seconds=plan.seconds))
    bar.advance()

    flops: dict[tuple[str, int], float] = {}
    measured: dict[str, list[dict[str, Any]]] = {"training": [], "inference": []}
    for row in rows:
        bar.advance(note=_words(row))
        kind, size = row["kind"], row["size"]
        if time.monotonic() > deadline:
            result = {"status": OUT_OF_TIME}
        else:
            program = first if row is rows[0] else _program(options, state, row)
            if (kind, size) not in flops:  # the optimiser's share vanishes among the images'
                flops[kind, size] = measuring.count_flops(
                    program.function, program.first, program.batch) / row["batch"]
            result = _unless_too_large(functools.partial(
                _measure_row, program, flops=row["batch"] * flops[kind, size],
                peak=peaks["matmul"][row["dtype"]]["flops_per_s"],
                bandwidth=peaks["memory"]["bytes_per_s"], seconds=plan.seconds))
        measured[kind].append({**row, **result})
    return {
        "machine": _machine(options), "peaks": peaks, "compile": {**rows[0], **compiling},
        "input": {**rows[0], **waiting},
        **{kind: sorted(each, key=lambda row: (row["dtype"] != "float32", row["size"],
                                               row["batch"]))
           for kind, each in measured.items()}}


def _unless_too_large(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` gives, and a status that says whether there was enough memory for it."""
    try:
        return {"status": MEASURED, **measure()}
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"status": DOES_NOT_FIT}


def _measure_row(program: _Program, *, flops: float, peak: float, bandwidth: float,
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


def _measure_input(program: _Program, *, seconds: float) -> dict[str, Any]:
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


def _compare_dtypes(options: RunOptions, plan: Plan, generator: Generator,
                    variables: Any) -> dict[str, Any]:
    """Denoises the same simulated slices in float32 and in bfloat16."""
    size = options.sources.simulated_size
    ndct, qdct = low_dose.simulate_pairs(plan.slices, size=size, seed=options.simulation.seed,
                                         split="test", protocol=options.simulation.protocol)
    images, common = {}, {"slices": plan.slices, "size": size}
    for dtype in ("float32", "bfloat16"):
        try:
            images[dtype] = Denoiser(generator.clone(dtype=dtype), variables)(qdct)
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


def _machine(options: RunOptions) -> dict[str, Any]:
    return {"devices": parallel.describe_devices(), "devices_measured": 1,
            "cpu_cores": os.cpu_count(), "python": platform.python_version(),
            "jax": importlib.metadata.version("jax"), "model": model_name(options.as_json()),
            "peak_memory": "planned by the compiler: arguments + results + temporaries, without "
                           "results that share memory with arguments",
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}


def table(card: dict[str, Any]) -> str:
    """The content of `benchmark.json` as lines of text."""
    machine, peaks = card["machine"], card["peaks"]
    matmul = ", ".join(f"{dtype} {peak['flops_per_s'] / 1e12:.3g} TFLOP/s"
                       for dtype, peak in peaks["matmul"].items())
    lines = [
        f"\n{machine['model']} on one of {machine['devices']}, JAX {machine['jax']}, Python "
        f"{machine['python']}",
        f"  matrix products: {matmul}",
        f"  memory:          {peaks['memory']['bytes_per_s'] / 1e9:.4g} GB/s",
        f"  compiling:       {_compile_words(card['compile'])}",
        f"  input pipeline:  {_input_words(card['input'])}",
        f"  the same slices: {_comparison_words(card['bfloat16'])}"]
    for kind, unit in (("training", "images/s"), ("inference", "slices/s")):
        for size, rows in itertools.groupby(sorted(card[kind], key=lambda row: row["size"]),
                                            key=lambda row: row["size"]):
            lines += [f"\n{kind} at {size}²",
                      f"  dtype     batch  {unit}  ms (min to max)          GFLOP  TFLOP/s"
                      "  of peak    GB/s  of memory's  GB taken"]
            lines += [_line(row) for row in rows]
    return "\n".join(lines)


def _compile_words(row: dict[str, Any]) -> str:
    if row["status"] != MEASURED:
        return row["status"]
    return (f"{row['cold_s']:.1f} s, with a warm cache {row['warm_s']:.1f} s, after "
            f"{row['trace_s']:.1f} s of tracing ({_words(row)})")


def _input_words(row: dict[str, Any]) -> str:
    if row["status"] != MEASURED:
        return row["status"]
    return (f"{row['images_per_s']:.4g} images/s, {row['pipeline_over_step']:.3g} times as many as "
            f"the step takes; {row['waiting_share']:.1%} of the time waiting ({_words(row)})")


def _comparison_words(comparison: dict[str, Any]) -> str:
    if comparison["status"] != MEASURED:
        return comparison["status"]
    difference = comparison["difference"]
    return (f"bfloat16 {difference['psnr']:+.4f} dB, SSIM {difference['ssim']:+.6f} against "
            f"float32, RMSE between both {comparison['rmse_hu_between']:.2f} HU "
            f"({comparison['slices']} slices at {comparison['size']}², {comparison['weights']} "
            f"weights, {comparison['protocol']}, {comparison['data_range']})")


def _words(row: dict[str, Any]) -> str:
    return f"{row['kind']} at {row['size']}², {row['dtype']}, batch {row['batch']}"


def _line(row: dict[str, Any]) -> str:
    start = f"  {row['dtype']:8}  {row['batch']:5}  "
    if row["status"] != MEASURED:
        return start + row["status"]
    times = (f"{1e3 * row['median_s']:.4g} ({1e3 * row['min_s']:.4g} to "
             f"{1e3 * row['max_s']:.4g})")
    return (f"{start}{row['images_per_s']:8.2f}  {times:22} {row['flops'] / 1e9:7.0f}  "
            f"{row['flops_per_s'] / 1e12:7.3f}  {row['compute_utilisation']:7.1%}  "
            f"{row['bytes_per_s'] / 1e9:6.1f}  {row['bandwidth_utilisation']:11.1%}  "
            f"{row['peak_memory_bytes'] / 1e9:8.2f}")
