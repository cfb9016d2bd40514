"""Checkpoints against classical denoisers that are tuned on the scored slices.

    python -m benchmarks.against_classical --pairs=L192.npy [--pairs=…] [--checkpoint=A,B] \
        [--methods=gaussian,nlm,tv] [--self_ensemble] [--dose_fraction=0.5] \
        [--by=kernel,thickness_mm] [--json=against_classical.json]

The evaluation of `main.py` tunes classical denoisers on validation slices, as a test must. Here
they have an advantage that no user has: for each file of pairs, and for each protocol, the
parameters with the highest mean PSNR that a search finds on at most four of its own slices. The
checkpoints are not tuned; --self_ensemble adds a row of each as a self-ensemble, --dose_fraction
rows with the strength for a known dose.

For each file, native size, two tables: PSNR [dB] and SSIM under full_range and redcnn; the mean
error in soft tissue [HU] and the anatomy in the removed map [HU, root mean square in the body] of
the parameters for full_range. --by adds the PSNR under full_range of the slices that share columns
of the manifest. For checkpoints a last line gives the change of the normal dose, when they denoise
it.
"""

import dataclasses
import itertools
import pathlib
import sys
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.json_file import write_json
from benchmarks.pairs_hu import read_hu
from dfgan_jax.data.dataset import read_manifest
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.denoising.strength import strength_for_dose
from dfgan_jax.evaluation import baselines, physics
from dfgan_jax.evaluation.protocols import FULL_RANGE, PROTOCOLS, Protocol
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.progress import progress
from dfgan_jax.support.spacing import evenly_spaced

_PAIRS = flags.DEFINE_multi_string("pairs", [], "Pairs in the published file format.",
                                  allow_override=True)
_CHECKPOINT = flags.DEFINE_list("checkpoint", [], "Names, workdirs or files of weights.",
                                allow_override=True)
_METHODS = flags.DEFINE_list("methods", ["gaussian", "nlm", "tv"], "Classical denoisers, or none.")
_SELF_ENSEMBLE = flags.DEFINE_bool("self_ensemble", False, "Also as self-ensembles.",
                                   allow_override=True)
_DOSE_FRACTION = flags.DEFINE_float("dose_fraction", None, "Also with the strength for this dose.",
                                     allow_override=True)
_BY = flags.DEFINE_list("by", [], "Columns of the manifest that tables of slices are split by.")
_JSON = flags.DEFINE_string("json", None, "File to write.", allow_override=True)

_REDCNN = PROTOCOLS["redcnn"]


def _tuned(name: str, qdct: np.ndarray, ndct: np.ndarray, protocol: Protocol
           ) -> tuple[np.ndarray, dict[str, float]]:
    """All slices, denoised with the best parameters under the protocol, and these parameters."""
    method = baselines.BASELINES[name]
    chosen = evenly_spaced(len(qdct), most=4)
    window = protocol.window_hu or (-np.inf, np.inf)
    noise = float(np.sqrt(np.mean(np.square(qdct[chosen] - ndct[chosen], dtype=np.float64))))

    def scored(image: np.ndarray, **parameters: float) -> np.ndarray:
        return np.clip(method.denoise(image, **parameters), *window)

    parameters = baselines.tune(
        dataclasses.replace(method, denoise=scored, start=lambda _: method.start(noise)),
        qdct[chosen], np.clip(ndct[chosen], *window))
    return np.stack([method.denoise(image, **parameters) for image in qdct]), parameters


def _score(image: np.ndarray, ndct: np.ndarray, protocol: Protocol) -> dict[str, float]:
    return {metric: float(values.mean()) for metric, values in
            protocol.score(image.astype(np.float32), ndct).items() if metric in ("psnr", "ssim")}


def _groups(path: str, count: int, columns: list[str]) -> dict[str, list[int]]:
    """Name → slices with the same columns of the manifest."""
    if not columns:
        return {}
    rows = read_manifest(pathlib.Path(path), count)
    if rows is None:
        raise InputError(f"{path}: has no manifest, which --by needs")
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(", ".join(row.get(column, "") for column in columns), []).append(index)
    return dict(sorted(groups.items()))


def measure(path: str, checkpoints: list[str], methods: list[str], by: list[str], *,
            self_ensemble: bool = False, dose_fraction: float | None = None
            ) -> list[dict[str, Any]]:
    """The rows of one file of pairs: of each checkpoint one, and one for each option."""
    qdct, ndct = read_hu(path)
    groups = _groups(path, len(qdct), by)
    rows = []

    def add(name: str, images: dict[str, np.ndarray], about: dict[str, Any]) -> None:
        full_range = images[FULL_RANGE.name]
        measured = physics.measure_slices(full_range, ndct, qdct, pixel_spacing_mm=None)
        rows.append({
            "row": name, **about,
            **{protocol.name: _score(images[protocol.name], ndct, protocol)
               for protocol in (FULL_RANGE, _REDCNN)},
            **({"groups": {name: {
                "slices": len(chosen),
                "psnr": _score(full_range[chosen], ndct[chosen], FULL_RANGE)["psnr"]}
                for name, chosen in groups.items()}} if groups else {}),
            "soft_tissue_bias_hu": measured.tissues["soft tissue"].bias_hu,
            "anatomy_rms_hu": measured.structure and measured.structure.rms_hu})

    add("QDCT", dict.fromkeys((FULL_RANGE.name, _REDCNN.name), qdct), {})
    with progress(f"tuning on {path}", total=2 * len(methods), unit="searches") as bar:
        for name in methods:
            images, parameters = {}, {}
            for protocol in (FULL_RANGE, _REDCNN):
                images[protocol.name], parameters[protocol.name] = _tuned(
                    name, qdct, ndct, protocol)
                bar.advance(1)
            add(baselines.BASELINES[name].name, images, {"parameters": parameters})
    settings: dict[str, dict[str, Any]] = {"": {}}
    if self_ensemble:
        settings[", self-ensemble"] = {"self_ensemble": True}
    if dose_fraction is not None:
        strength = strength_for_dose(dose_fraction)
        settings[f", strength {strength:.3g}"] = {"strength": strength}
    for checkpoint, (setting, options) in itertools.product(checkpoints, settings.items()):
        denoiser = Denoiser.load(checkpoint, **options)
        name = f"{checkpoint}{setting}"
        itself = physics.measure_slices(denoiser(ndct), ndct, ndct, pixel_spacing_mm=None)
        assert itself.structure is not None
        add(name, dict.fromkeys((FULL_RANGE.name, _REDCNN.name), denoiser(qdct)), {
            "normal_dose": {
                "soft_tissue_change_hu": itself.tissues["soft tissue"].noise_std_hu,
                "soft_tissue_bias_hu": itself.tissues["soft tissue"].bias_hu,
                "anatomy_rms_hu": itself.structure.rms_hu}})
    return rows


def as_text(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    width = max(len(row["row"]) for row in rows)
    lines = [f"{'':{width}}  full_range [dB]    SSIM  redcnn [dB]    SSIM  bias [HU]  anatomy [HU]"]
    for row in rows:
        full_range, redcnn = row[FULL_RANGE.name], row[_REDCNN.name]
        bias, anatomy = row["soft_tissue_bias_hu"], row["anatomy_rms_hu"]
        lines.append(
            f"{row['row']:{width}}  {full_range['psnr']:15.3f}  {full_range['ssim']:.4f}"
            f"  {redcnn['psnr']:11.3f}  {redcnn['ssim']:.4f}"
            f"  {'–' if bias is None else f'{bias:+.2f}':>9}"
            f"  {'–' if anatomy is None else f'{anatomy:.2f}':>12}")
    for name, group in rows[0].get("groups", {}).items():
        lines += [f"{name}: {group['slices']} slices, full_range [dB]: " + ", ".join(
            f"{row['row']} {row['groups'][name]['psnr']:.2f}" for row in rows)]
    lines += [
        f"{row['row']}, given the normal dose: changes soft tissue by "
        f"{row['normal_dose']['soft_tissue_change_hu']:.2f} HU (standard deviation) and "
        f"{row['normal_dose']['soft_tissue_bias_hu']:+.2f} HU (mean), removes "
        f"{row['normal_dose']['anatomy_rms_hu']:.2f} HU of anatomy"
        for row in rows if "normal_dose" in row]
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if len(argv) > 1 or not _PAIRS.value:
        raise app.UsageError("expected --pairs=FILE, and no other argument")
    unknown = set(_METHODS.value) - set(baselines.BASELINES)
    if unknown:
        raise app.UsageError(f"--methods: no {', '.join(sorted(unknown))}; there are "
                             f"{', '.join(baselines.BASELINES)}")
    results = {}
    try:
        for path in _PAIRS.value:
            results[path] = measure(path, _CHECKPOINT.value, _METHODS.value, _BY.value,
                                    self_ensemble=_SELF_ENSEMBLE.value,
                                    dose_fraction=_DOSE_FRACTION.value)
            print(f"\n{path}\n{as_text(results[path])}", flush=True)
    except InputError as error:
        sys.exit(f"error: {error}")
    write_json(_JSON.value, results)


if __name__ == "__main__":
    app.run(main)
