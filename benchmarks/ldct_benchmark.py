"""The table of ldct-benchmark (Eulig et al., Medical Physics 2024), under its own test protocol.

    python -m benchmarks.ldct_benchmark --tree=LDCT/ [--checkpoint=A,B] [--slices=N] [--json=FILE]
    python -m benchmarks.ldct_benchmark --tree=LDCT/ --folders=train

The tree is a download of the collection LDCT-and-Projection-data, in any layout with a folder of
each patient's ID. Scored are all slices of the test patients of ldct-benchmark, by region (C chest,
L abdomen, N neuro); a number is the mean over all slices of a region. Each checkpoint gets a row;
below stand the rows of ldct-benchmark's documentation. `--slices` scores at most N evenly spaced
slices of each patient, for a look. `--folders` prints the folders of a split's patients, separated
by commas, for `main.py --mode=pair --input=…`.

The protocol is that of ldct-benchmark's code, and not of `dfgan_jax/evaluation/protocols.py`: the
windows are one HU narrower, SSIM has scikit-image's flat 7×7 window, and VIF takes the scored
image as the reference. `ldct_benchmark_split.json` has the patients, the documented numbers, and
their source. Two things differ: slices match by position, not by the name of the file, and VIF is
in float64 (sewar's), not in float32 (torchmetrics').
"""

import contextlib
import functools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import skimage.metrics
from absl import app, flags
from jaxtyping import Num

from benchmarks.json_file import write_json
from dfgan_jax.data import doses
from dfgan_jax.data.pairing import SlicePair, match_slices
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.evaluation import metrics
from dfgan_jax.scans import dicom
from dfgan_jax.scans.dicom_folder import DicomFolder
from dfgan_jax.scans.windows import Window
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.progress import progress
from dfgan_jax.support.spacing import evenly_spaced
from dfgan_jax.support.threads import call_ahead
from dfgan_jax.support.wording import counted

_TREE = flags.DEFINE_string("tree", None, "Folder of the collection.")
_CHECKPOINT = flags.DEFINE_list("checkpoint", [], "Names, workdirs or files of weights.",
                                allow_override=True)
_SLICES = flags.DEFINE_integer("slices", None, "Most slices of a patient; all by default.")
_FOLDERS = flags.DEFINE_string("folders", None, "Split whose folders are printed: train, valid or "
                               "test.")
_JSON = flags.DEFINE_string("json", None, "File to write.", allow_override=True)

SPLIT: dict[str, Any] = json.loads(
    pathlib.Path(__file__).with_name("ldct_benchmark_split.json").read_text(encoding="utf-8"))
"""Patients of train, valid and test (with their slices), and the documented scores."""

REGIONS = {"C": "chest", "L": "abdomen", "N": "neuro"}
"""First letter of a patient's ID → region."""

WINDOWS = {"chest": Window(-1350.0, 149.0), "abdomen": Window(-150.0, 249.0),
           "neuro": Window(0.0, 79.0)}
"""Of `apply_center_width`: from c − ½ − (w − 1) / 2 to c − ½ + (w − 1) / 2 [HU], c the centre and
w the width; (−600, 1500), (50, 400) and (40, 80)."""

_VIF_WINDOW = Window(-1024.0, 1900.0)

METRICS = ("SSIM", "PSNR", "VIF")

_GROUP = 8
"""Slices in memory."""

LOW_DOSE = "low dose"

Patient = dict[str, list[list[float]]]
"""Row → the scores of each slice, in the order of `METRICS`."""


def score(image: Num[np.ndarray, "h w"], ndct: Num[np.ndarray, "h w"], region: str) -> list[float]:
    """Scores a slice in HU, in the order of `METRICS`."""
    low, high = WINDOWS[region]
    shown, expected = (np.clip((np.asarray(each, np.float32) - low) / np.float32(high - low), 0, 1)
                       for each in (image, ndct))
    error = skimage.metrics.mean_squared_error(expected, shown)
    [vif] = metrics.vif(np.asarray(ndct)[None], np.asarray(image)[None], window_hu=_VIF_WINDOW)
    return [float(skimage.metrics.structural_similarity(expected, shown, data_range=1.0)),
            float(10 * np.log10(1 / error)) if error else np.inf, float(vif)]


def folders_of(tree: pathlib.Path, patients: Sequence[str]) -> dict[str, list[pathlib.Path]]:
    """The folders that have the names of patients, in the order of the patients.

    Raises:
      InputError: the tree is no folder, or has no folder of these names.
    """
    if not tree.is_dir():
        raise InputError(f"--tree: {tree}: no such folder")
    found: dict[str, list[pathlib.Path]] = {patient: [] for patient in patients}
    for folder, names, _ in os.walk(tree, followlinks=False):
        for name in sorted(set(names) & set(patients)):
            found[name].append(pathlib.Path(folder, name))
            names.remove(name)
    if tree.name in found:  # the tree itself is a patient's
        found[tree.name].append(tree)
    found = {patient: folders for patient, folders in found.items() if folders}
    if not found:
        raise InputError(f"--tree: {tree}: no folder has the name of a patient such as "
                         f"{patients[0]}; expected the collection LDCT-and-Projection-data")
    return found


def pairs_of(patient: str, folders: Sequence[pathlib.Path]) -> list[SlicePair]:
    """The slices of a patient at both doses.

    Raises:
      InputError: a file is broken, a dose is missing, or no slices match.
    """
    files = DicomFolder(*folders)
    for path, why in files.broken.items():
        raise InputError(f"{path}: {why}; the protocol takes every slice")
    found = doses.by_description([header for header in files.headers
                                  if header.patient_id == patient])
    return match_slices(found.ndct, found.qdct).pairs


def measure(patient: str, pairs: Sequence[SlicePair], denoisers: Mapping[str, Denoiser],
            advance: Callable[[], None] = lambda: None) -> Patient:
    """Scores the low dose and each model on the slices of a patient."""
    region = REGIONS[patient[0]]
    rows: Patient = {name: [] for name in (LOW_DOSE, *denoisers)}
    for start in range(0, len(pairs), _GROUP):
        ndct, qdct = (np.stack([dicom.read_pixels(getattr(pair, dose)).hu
                                for pair in pairs[start:start + _GROUP]])
                      for dose in ("ndct", "qdct"))
        images = {LOW_DOSE: qdct} | {name: denoise(qdct) for name, denoise in denoisers.items()}
        calls = [functools.partial(score, image, reference, region)
                 for row in images.values() for image, reference in zip(row, ndct, strict=True)]
        with contextlib.closing(call_ahead(calls)) as results:
            scores = [result() for result in results]
        for place, name in enumerate(images):
            rows[name] += scores[place * len(ndct):(place + 1) * len(ndct)]
        for _ in ndct:
            advance()
    return rows


def means(patients: Mapping[str, Patient]) -> dict[str, dict[str, list[float]]]:
    """Row → region → the mean over all slices of its patients."""
    table: dict[str, dict[str, list[float]]] = {}
    for letter, region in REGIONS.items():
        chosen = [rows for patient, rows in patients.items() if patient[0] == letter]
        for name in chosen[0] if chosen else ():
            slices = np.concatenate([np.asarray(rows[name]) for rows in chosen])
            table.setdefault(name, {})[region] = slices.mean(0).tolist()
    return table


def as_text(patients: Mapping[str, Patient]) -> str:
    """The table, with the documented rows below."""
    table, documented = means(patients), SPLIT["documented"]
    width = max(map(len, (*table, *documented)))
    title, heads = [" " * width], [" " * width]
    for letter, region in REGIONS.items():
        scored = [rows for patient, rows in patients.items() if patient[0] == letter]
        there = sum(patient[0] == letter for patient in SPLIT["test"])
        count = sum(len(rows[LOW_DOSE]) for rows in scored)
        head = f"{region}, {len(scored)} of {there}, {counted(count, 'slice')}"
        title.append(f"{head:<26}")
        heads.append(f"{METRICS[0]:>6}  {METRICS[1] + ' [dB]':>9}  {METRICS[2]:>6} ")

    def line(name: str, regions: Mapping[str, Sequence[float]]) -> str:
        cells = [f"{one[0]:6.3f}  {one[1]:9.3f}  {one[2]:6.3f} " if one else
                 f"{'–':>6}  {'–':>9}  {'–':>6} " for one in map(regions.get, REGIONS.values())]
        return "  ".join([f"{name:{width}}", *cells]).rstrip()

    return "\n".join([
        "  ".join(title).rstrip(), "  ".join(heads).rstrip(),
        *(line(name, regions) for name, regions in table.items()),
        f"documented by ldct-benchmark ({SPLIT['source']}, {SPLIT['files']['documented']}, commit "
        f"{SPLIT['commit'][:7]}):",
        *(line(name, regions) for name, regions in documented.items())])


def run(tree: pathlib.Path, checkpoints: Sequence[str], most: int | None) -> dict[str, Patient]:
    """The scores of each test patient in the tree; missing slices are named on stderr."""
    if most is not None and most < 1:
        raise InputError(f"--slices is {most}; expected 1 or more")
    expected: dict[str, int] = SPLIT["test"]
    folders = folders_of(tree, list(expected))
    if missing := [patient for patient in expected if patient not in folders]:
        print(f"test patients that are not in {tree}: {', '.join(missing)}", file=sys.stderr)
    denoisers = {checkpoint: Denoiser.load(checkpoint) for checkpoint in checkpoints}
    pairs = {}
    for patient, places in folders.items():
        try:
            found = pairs_of(patient, places)
        except InputError as error:
            raise InputError(f"{patient}: {error}") from error
        if len(found) != expected[patient]:
            print(f"{patient}: {len(found)} pairs; ldct-benchmark has {expected[patient]}",
                  file=sys.stderr)
        pairs[patient] = found if most is None else [
            found[index] for index in evenly_spaced(len(found), most=most)]
    with progress("scoring", total=sum(map(len, pairs.values())), unit="slices") as bar:
        return {patient: measure(patient, each, denoisers, bar.advance)
                for patient, each in pairs.items()}


def main(argv: list[str]) -> None:
    try:
        if len(argv) > 1:
            raise InputError(f"unexpected argument {argv[1]!r}; options start with --")
        if not _TREE.value:
            raise InputError("--tree is missing; expected a folder of the collection "
                             "LDCT-and-Projection-data")
        tree = pathlib.Path(_TREE.value)
        if _FOLDERS.value is not None:
            if _FOLDERS.value not in ("train", "valid", "test"):
                raise InputError(f"--folders is {_FOLDERS.value!r}; expected train, valid or test")
            found = folders_of(tree, list(SPLIT[_FOLDERS.value]))
            print(",".join(str(path) for paths in found.values() for path in paths))
            return
        patients = run(tree, _CHECKPOINT.value, _SLICES.value)
        print(as_text(patients), flush=True)
        write_json(_JSON.value, {
            "protocol": {key: SPLIT[key] for key in ("source", "commit")},
            "metrics": METRICS, "slices_of_a_patient": _SLICES.value,
            "table": means(patients), "patients": patients})
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main)
