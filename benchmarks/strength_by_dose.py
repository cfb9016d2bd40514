"""The strength of denoising with the highest PSNR, by dose, beside the rule for a known dose.

    python -m benchmarks.strength_by_dose --pairs=valid.npy [--pairs=…] [--checkpoint=A,B] \
        [--every=1] [--json=strength_by_dose.json]

The pairs have a manifest with the dose of each slice, as `--mode=simulate` writes it. PSNR is that
of full_range: a quadratic function of the strength, which two mean products of each slice give, so
that no strength is tried. In groups of doses, the table has the strength with the highest mean
PSNR, the strength by `denoising.strength.strength_for_dose`, and the gain of both over strength 1.
Validation slices are the ones to use: a rule that is tuned on test slices has seen them.
"""

import itertools
import pathlib
import sys
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.json_file import write_json
from benchmarks.pairs_hu import read_hu
from dfgan_jax import pretrained
from dfgan_jax.data.dataset import read_manifest
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.denoising.strength import MAX_STRENGTH, strength_for_dose
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.progress import progress

_PAIRS = flags.DEFINE_multi_string("pairs", [], "Pairs in the published file format.",
                                  allow_override=True)
_CHECKPOINT = flags.DEFINE_list("checkpoint", [pretrained.DEFAULT],
                                "Names, workdirs or files of weights.", allow_override=True)
_EVERY = flags.DEFINE_integer("every", 1, "Take every so many-th slice.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "File to write.", allow_override=True)

BOUNDS = (0.0, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.55, 1.0)
"""Of the groups of doses."""

_STRENGTHS = np.linspace(0, MAX_STRENGTH, 301)


def products(qdct: np.ndarray, ndct: np.ndarray, denoised: np.ndarray) -> np.ndarray:
    """Means over a slice: error², error · removed, removed² [HU²]; error is qdct − ndct."""
    error, removed = (np.subtract(qdct, other, dtype=np.float64) for other in (ndct, denoised))
    return np.array([np.mean(error * error), np.mean(error * removed), np.mean(removed * removed)])


def gain_db(means: np.ndarray, strength: np.ndarray | float) -> np.ndarray:
    """PSNR of a strength over that of strength 1, for `products` in the last axis [dB]."""
    def squared_error(of: np.ndarray | float) -> np.ndarray:
        return means[..., 0] - 2 * of * means[..., 1] + np.square(of) * means[..., 2]

    return np.asarray(10 * np.log10(squared_error(1.0) / squared_error(strength)))


def by_dose(doses: np.ndarray, means: np.ndarray) -> list[dict[str, Any]]:
    """A row for each group of doses that has slices."""
    rows = []
    for low, high in itertools.pairwise(BOUNDS):
        inside = (doses >= low) & (doses < high)
        if not inside.any():
            continue
        rule = np.array([strength_for_dose(float(dose)) for dose in doses[inside]])
        gains = [float(gain_db(means[inside], each).mean()) for each in _STRENGTHS]
        rows.append({
            "from": low, "to": high, "slices": int(inside.sum()),
            "mean_dose_fraction": float(doses[inside].mean()),
            "best_strength": float(_STRENGTHS[np.argmax(gains)]), "best_gain_db": max(gains),
            "rule_strength": float(rule.mean()),
            "rule_gain_db": float(gain_db(means[inside], rule).mean())})
    return rows


def measure(paths: list[str], checkpoint: str, *, every: int) -> list[dict[str, Any]]:
    """The rows of `by_dose` over the slices of all files."""
    denoiser, doses, means = Denoiser.load(checkpoint), [], []
    for path in paths:
        qdct, ndct = read_hu(path)
        rows = read_manifest(pathlib.Path(path), len(qdct))
        if rows is None or not all(row.get("dose_fraction") for row in rows):
            raise InputError(f"{path}: has no manifest with the dose of each slice")
        chosen = range(0, len(qdct), every)
        with progress(f"denoising {path}", total=len(chosen), unit="slices") as bar:
            for index in chosen:
                means.append(products(qdct[index], ndct[index], denoiser(qdct[index])))
                doses.append(float(rows[index]["dose_fraction"]))
                bar.advance(1)
    return by_dose(np.array(doses), np.array(means))


def as_text(rows: list[dict[str, Any]]) -> str:
    lines = ["dose           slices  best strength  gain [dB]  by the rule  gain [dB]"]
    lines += [f"{row['from']:.2f} to {row['to']:.2f}  {row['slices']:7}"
              f"  {row['best_strength']:13.3f}  {row['best_gain_db']:9.3f}"
              f"  {row['rule_strength']:11.3f}  {row['rule_gain_db']:9.3f}" for row in rows]
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if len(argv) > 1 or not _PAIRS.value:
        raise app.UsageError("expected --pairs=FILE, and no other argument")
    results = {}
    try:
        for checkpoint in _CHECKPOINT.value:
            results[checkpoint] = measure(_PAIRS.value, checkpoint, every=_EVERY.value)
            print(f"\n{checkpoint}\n{as_text(results[checkpoint])}", flush=True)
    except InputError as error:
        sys.exit(f"error: {error}")
    write_json(_JSON.value, {"pairs": _PAIRS.value, "every": _EVERY.value, "checkpoints": results})


if __name__ == "__main__":
    app.run(main)
