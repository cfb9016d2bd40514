"""Measures the effect of each part of the recipe: variants of a configuration, several seeds.

    python -m benchmarks.recipe --workdir=runs/recipe [--variants=recipe,output,…] [--seeds=0,1,2] \
        [--workers=2] [--json=recipe.json] [-- --config.epochs=5 --config.data.crop=64]

Each variant changes one part of the recipe. `main.py` trains it once for each seed, with the same
number of steps. Arguments after `--` go to every run. Finished runs are not repeated, and stopped
runs continue.

`configs/` has the present recipe; docs/recipe.md names the commit of each table.

The table gives PSNR and SSIM (protocol full_range) of the best checkpoint on *validation*
phantoms, since the recipe was chosen without the test slices. It has the mean ± standard
deviation over the seeds, and the difference from the recipe at the same seeds with its standard
deviation.
"""

import concurrent.futures
import itertools
import os
import pathlib
import queue
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from benchmarks.json_file import write_json
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.progress import progress
from dfgan_jax.training.writers import read_history

_ROOT = pathlib.Path(__file__).parents[1]

_WORKDIR = flags.DEFINE_string("workdir", "runs/recipe", "Folder of the runs' folders.")
_VARIANTS = flags.DEFINE_list("variants", [], "Which variants; all by default.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Of the runs of each variant.")
_WORKERS = flags.DEFINE_integer(
    "workers", 1, "Runs at a time; the processor's cores are divided among them.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "File to write.", allow_override=True)

_ATTN, _DFGAN, _REDCNN = (f"configs/{name}.py:demo" for name in ("attn", "dfgan", "redcnn"))

# More validation phantoms than the demo, and the smallest possible test.
_COMMON = {"simulation.valid_slices": 48, "simulation.test_slices": 1,
           "evaluation.protocols": "redcnn", "evaluation.baselines": "",
           "evaluation.physics": False}


class Variant(NamedTuple):
    """A change of the recipe.

    Attributes:
      about: description.
      changes: field of the configuration → value.
      config: the configuration to change.
    """

    about: str
    changes: dict[str, Any]
    config: str = _ATTN


RECIPE = "recipe"

VARIANTS: dict[str, Variant] = {
    RECIPE: Variant("AttnDFGAN, the recipe", {}),
    "slides": Variant("as on the slides, with the demo's rates", {
        "generator.output": "image", "generator.add_image": True, "generator.open_gates": False,
        "loss.intensity": "squared", "loss.adversarial": 0.05,
        "optimizer.average_decay": 0.0}),
    "image": Variant("output: image", {"generator.output": "image"}),
    "add_image": Variant("the image is added to the features", {"generator.add_image": True}),
    "closed_gates": Variant("CBAM's gates start half closed", {"generator.open_gates": False}),
    "gate_window": Variant("CBAM's maxima over windows of 64²", {"generator.gate_window": 64}),
    "no_attention": Variant("DFGAN: no attention", {}, _DFGAN),
    "group": Variant("group normalisation", {"generator.normalization": "group"}),
    "no_norm": Variant("no normalisation, rate 1e-3", {
        "generator.normalization": "none", "optimizer.generator_learning_rate": 1e-3}),
    "momentum": Variant("running statistics five times slower", {"generator.momentum": 0.98}),
    "squared": Variant("loss: squared error", {
        "loss.intensity": "squared", "loss.adversarial": 0.05}),
    "charbonnier": Variant("loss: Charbonnier", {
        "loss.intensity": "charbonnier", "loss.adversarial": 0.5}),
    "soft_tissue": Variant("loss: soft tissue weighs 4", {"loss.soft_tissue": 4.0}),
    "augment": Variant("flips and turns", {"data.augment": True}),
    "no_average": Variant("no average of the weights", {"optimizer.average_decay": 0.0}),
    "slow_average": Variant("average of the weights: 0.999", {"optimizer.average_decay": 0.999}),
    "constant": Variant("constant learning rate", {"optimizer.schedule": "constant"}),
    "lower_rate": Variant("learning rate 2e-3", {"optimizer.generator_learning_rate": 2e-3}),
    "higher_rate": Variant("learning rate 1e-2", {"optimizer.generator_learning_rate": 1e-2}),
    "warm_up": Variant("warm-up of 40 steps", {"optimizer.warm_up_steps": 40}),
    "weight_decay": Variant("AdamW, weight decay 0.01", {"optimizer.weight_decay": 0.01}),
    "clip": Variant("gradients clipped to norm 1", {"optimizer.clip_norm": 1.0}),
    "no_adversary": Variant("no adversary", {"discriminators": "none"}),
    "joint": Variant("one joint discriminator", {"discriminators": "joint"}),
    "stronger": Variant("adversary four times as strong", {"loss.adversarial": 20.0}),
    "late": Variant("adversary from update 200 on", {"loss.adversarial_from_step": 200}),
    "fast_discriminators": Variant("discriminators' rate 5e-4", {
        "optimizer.discriminator_learning_rate": 5e-4}),
    "smoothing": Variant("one-sided label smoothing, 0.9", {"loss.real_label": 0.9}),
    "r1": Variant("R1, weight 1", {"loss.gradient_penalty": 1.0}),
    "spectral_norm": Variant("spectral normalisation", {"discriminator.spectral_norm": True}),
    "no_attention_no_adversary": Variant("U-Net: no attention, no adversary",
                                         {"discriminators": "none"}, _DFGAN),
    "redcnn": Variant("RED-CNN", {}, _REDCNN),
    "redcnn_plain": Variant("RED-CNN, no average of the weights", {
        "optimizer.average_decay": 0.0}, _REDCNN),
    "redcnn_augment": Variant("RED-CNN, flips and turns", {"data.augment": True}, _REDCNN),
    "redcnn_squared": Variant("RED-CNN, loss: squared error", {
        "loss.intensity": "squared"}, _REDCNN),
}


def options(variant: Variant, *, seed: int, workdir: pathlib.Path, more: Sequence[str] = ()
            ) -> list[str]:
    """The options of `main.py` for a run."""
    fields = {"seed": seed, **_COMMON, **variant.changes}
    return [f"--config={variant.config}", f"--workdir={workdir}",
            *(f"--config.{name}={value}" for name, value in fields.items()), *more]


def scores(workdir: pathlib.Path) -> dict[str, float]:
    """The scores of a finished run's best checkpoint on the validation slices."""
    rows = [row for row in read_history(workdir) if row["kind"] == "valid"]
    best = max(rows, key=lambda row: row["psnr"])
    return {"psnr": best["psnr"], "ssim": best["ssim"], "steps": rows[-1]["step"]}


def _run(variant: Variant, *, seed: int, workdir: pathlib.Path, more: Sequence[str],
         cores: "queue.Queue[set[int]]") -> dict[str, float]:
    if not (workdir / "results.json").exists():
        workdir.mkdir(parents=True, exist_ok=True)
        mine = cores.get()
        try:
            # Beside the folder: a run refuses a folder with other files.
            with workdir.with_suffix(".log").open("a") as log:
                done = subprocess.run(
                    [sys.executable, "main.py",
                     *options(variant, seed=seed, workdir=workdir, more=more)], cwd=_ROOT,
                    stdout=log, stderr=subprocess.STDOUT, check=False,
                    preexec_fn=lambda: os.sched_setaffinity(0, mine))
        finally:
            cores.put(mine)
        if done.returncode:
            raise InputError(f"{workdir.with_suffix('.log')}: the run ended with status "
                             f"{done.returncode}")
    return scores(workdir)


def run_all(names: Sequence[str], *, seeds: Sequence[int], workdir: pathlib.Path,
            more: Sequence[str], workers: int) -> dict[str, list[dict[str, float]]]:
    """Variant → scores by seed."""
    cores: queue.Queue[set[int]] = queue.Queue()
    for part in np.array_split(sorted(os.sched_getaffinity(0)), workers):
        cores.put({int(core) for core in part})
    with (progress("training variants", total=len(names) * len(seeds), unit="runs") as bar,
          concurrent.futures.ThreadPoolExecutor(workers) as pool):
        futures = {(name, seed): pool.submit(
            _run, VARIANTS[name], seed=seed, workdir=workdir / f"{name}-{seed}", more=more,
            cores=cores) for seed, name in itertools.product(seeds, names)}
        for future in concurrent.futures.as_completed(futures.values()):
            future.result()
            bar.advance()
    return {name: [futures[name, seed].result() for seed in seeds] for name in names}


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: a row for each variant, with its difference from the recipe."""
    lines = ["| variant | PSNR [dB] | SSIM | to the recipe [dB] | by seed [dB] |",
             "|---|---|---|---|---|"]
    reference = np.array([each["psnr"] for each in found.get(RECIPE, [])])
    for name, rows in found.items():
        psnr, ssim = (np.array([row[score] for row in rows]) for score in ("psnr", "ssim"))
        spread = psnr.std(ddof=1) if len(psnr) > 1 else 0.0
        change = ""
        if len(reference) == len(psnr) and name != RECIPE:
            gains = psnr - reference
            change = f"{gains.mean():+.2f} ± {gains.std(ddof=min(1, len(gains) - 1)):.2f}"
        lines.append(f"| {VARIANTS[name].about} | {psnr.mean():.2f} ± {spread:.2f} | "
                     f"{ssim.mean():.4f} | {change} | "
                     f"{', '.join(f'{value:.2f}' for value in psnr)} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    names = _VARIANTS.value or list(VARIANTS)
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise InputError(f"--variants has {unknown[0]!r}; expected some of {', '.join(VARIANTS)}")
    found = run_all(names, seeds=[int(seed) for seed in _SEEDS.value],
                    workdir=pathlib.Path(_WORKDIR.value).absolute(), more=arguments[1:],
                    workers=_WORKERS.value)
    write_json(_JSON.value, {"options": arguments[1:], "seeds": _SEEDS.value, "variants": found})
    print(table(found))


def run() -> None:
    try:
        app.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run()
