"""`--mode=evaluate`: one table over checkpoints, on the test split."""

import csv
import datetime
import importlib.metadata
import json
import math
import pathlib
import platform
import sys
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from dfgan_jax.ct import hounsfield
from dfgan_jax.ct.pairs import Pairs
from dfgan_jax.errors import InputError
from dfgan_jax.evaluation import published
from dfgan_jax.evaluation.protocols import FULL_RANGE, PROTOCOLS, Scores
from dfgan_jax.evaluation.report import Example, write_report
from dfgan_jax.inference import Denoiser
from dfgan_jax.modes import setup, simulate
from dfgan_jax.progress import progress
from dfgan_jax.training import checkpoints, parallel, writers

INPUT_ROW = "QDCT"


def run(config: ml_collections.ConfigDict, *, workdir: pathlib.Path,
        checkpoint_paths: Sequence[str]) -> None:
    """Scores checkpoints on the test split and writes the report into `workdir`.

    Raises:
      InputError: a checkpoint or the data cannot be used.
    """
    setup.check(config)
    if (workdir / setup.CONFIG_FILE).exists():
        raise InputError(f"{workdir}: belongs to a training run, whose results stay; choose "
                         "another --workdir")
    denoisers = [Denoiser.load(path) for path in checkpoint_paths]
    test = setup.load_splits(config, ("test",), simulate.cached)["test"]
    score_and_report(config, workdir=workdir, denoisers=denoisers, test=test)


def score_and_report(config: ml_collections.ConfigDict, *, workdir: pathlib.Path,
                     denoisers: Sequence[Denoiser], test: Pairs) -> None:
    """Writes `results.json`, `slices.csv` and `report.html`, and prints the table.

    Args:
      config: names the data.
      workdir: folder to write into.
      denoisers: loaded from checkpoints, a row each.
      test: pairs in normalised HU.
    """
    ndct, qdct = hounsfield.denormalise(test.ndct), hounsfield.denormalise(test.qdct)
    images = {INPUT_ROW: qdct}
    named = {}
    for denoiser in denoisers:
        name = _row_name(denoiser, taken=images)
        named[name] = denoiser
        with progress(f"denoising with {name}", total=len(qdct), unit="slices") as bar:
            images[name] = denoiser(qdct, batch_size=config.batch_size, progress=bar)

    scores = {protocol.name: {name: protocol.score(image, ndct) for name, image in images.items()}
              for protocol in PROTOCOLS.values()}
    results = _results(config, named, scores, shape=ndct.shape)

    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "results.json").write_text(
        json.dumps(_finite_or_null(results), indent=2, allow_nan=False) + "\n")
    _write_slices(workdir / "slices.csv", scores)
    history = writers.read_history(_home(denoisers[0])) if len(denoisers) == 1 else []
    report = write_report(
        workdir, title=f"{', '.join(named)} on {setup.data_source(config, 'test')}",
        results=results, history=history,
        examples=_examples(images, ndct, scores[FULL_RANGE.name]))
    print(table(results))
    print(f"Report: {report}", flush=True)


def _home(denoiser: Denoiser) -> pathlib.Path:
    """The workdir of a denoiser, or the file it was loaded from."""
    assert denoiser.path is not None
    return denoiser.path if denoiser.path.is_file() else checkpoints.workdir_of(denoiser.path)


def _row_name(denoiser: Denoiser, *, taken: dict[str, Any]) -> str:
    model = setup.model_name(denoiser.meta["config"])
    name, number = model, 2
    if name in taken:
        name = f"{model} ({_home(denoiser).name})"
    while name in taken:
        name, number = f"{model} ({number})", number + 1
    return name


def _results(config: ml_collections.ConfigDict, denoisers: dict[str, Denoiser],
             scores: dict[str, dict[str, Scores]], *, shape: tuple[int, ...]) -> dict[str, Any]:
    """The content of `results.json`."""
    count, height, width = shape
    protocols = {
        protocol.name: {
            "data_range": protocol.data_range,
            "description": protocol.description,
            "size": height if height == width else f"{height}×{width}",
            "rows": [{"name": name, **protocol.mean(image_scores)}
                     for name, image_scores in scores[protocol.name].items()]}
        for protocol in PROTOCOLS.values()}
    first, meta = next((name, each.meta) for name, each in denoisers.items())
    return {
        "model": first,
        "protocols": protocols,
        "slices": count,
        "data": {"test": setup.data_source(config, "test")},
        "checkpoints": {name: {"path": str(each.path), "step": each.meta["step"],
                               "epoch": each.meta["epoch"]}
                        for name, each in denoisers.items()},
        "checkpoint": {"step": meta["step"], "epoch": meta["epoch"]},
        "config": meta["config"],
        "command": " ".join(sys.argv),
        "device": parallel.describe_devices(),
        "versions": {"python": platform.python_version()} | {
            name: importlib.metadata.version(name)
            for name in ("jax", "flax", "optax", "orbax-checkpoint", "dm-pix", "numpy")},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "published": published.RESULTS,
    }


def _finite_or_null(tree: Any) -> Any:
    """Replaces what JSON cannot hold: the infinite PSNR of images that are equal."""
    if isinstance(tree, dict):
        return {key: _finite_or_null(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_finite_or_null(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _write_slices(path: pathlib.Path, scores: dict[str, dict[str, Scores]]) -> None:
    """One row for each slice, protocol and image."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slice", "protocol", "name", "psnr", "ssim", "rmse_hu"])
        for protocol, by_name in scores.items():
            for name, values in by_name.items():
                for index in range(len(values["psnr"])):
                    writer.writerow([index, protocol, name,
                                     *(f"{values[m][index]:.6f}"
                                       for m in ("psnr", "ssim", "rmse_hu"))])


def _examples(images: dict[str, np.ndarray], ndct: np.ndarray, scores: dict[str, Scores]
              ) -> list[Example]:
    """Slices for the report: evenly spaced, and the one where the model helps least.

    Chosen by position and by the smallest gain, so that the report cannot flatter.
    """
    models = [name for name in images if name != INPUT_ROW]
    gain = scores[models[0]]["psnr"] - scores[INPUT_ROW]["psnr"]
    worst = int(np.argmin(gain))
    chosen = {int(index): "" for index in np.linspace(0, len(ndct) - 1, 5)[1:-1].round()}
    chosen[worst] = ", smallest gain of all slices"
    return [Example(name=f"Slice {index}{' with ' + model if len(models) > 1 else ''}{remark}",
                    ndct=ndct[index], qdct=images[INPUT_ROW][index],
                    denoised=images[model][index])
            for index, remark in sorted(chosen.items()) for model in models]


def table(results: dict[str, Any]) -> str:
    """The results as lines of text, a table for each protocol."""
    lines = []
    for name, protocol in results["protocols"].items():
        lines.append(f"\n{name}: {results['slices']} slices at {protocol['size']}, data range "
                     f"{protocol['data_range']}")
        width = max(len(row["name"]) for row in protocol["rows"])
        lines.append(f"  {'':{width}}  PSNR [dB]     SSIM  RMSE [HU]")
        lines += [f"  {row['name']:{width}}  {row['psnr']:9.3f}  {row['ssim']:7.4f}  "
                  f"{row['rmse_hu']:9.2f}" for row in protocol["rows"]]
    return "\n".join(lines)
