"""A comparison of models with the input and classical denoisers, on the same test slices."""

import dataclasses
import functools
import json
import math
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Integer

from dfgan_jax.data.dataset import read_manifest
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.sources import Sources
from dfgan_jax.devices import agreement
from dfgan_jax.evaluation import baselines, metrics, tables
from dfgan_jax.evaluation.given import given_row
from dfgan_jax.evaluation.matched_scan import configured_scan, matched_scan
from dfgan_jax.evaluation.options import EvaluationOptions
from dfgan_jax.evaluation.protocols import FULL_RANGE, PROTOCOLS, Protocol, Scores
from dfgan_jax.evaluation.provenance import provenance
from dfgan_jax.evaluation.report.examples import Example
from dfgan_jax.evaluation.report.page import write_report
from dfgan_jax.evaluation.report.viewer import MOST_SLICES, Slices
from dfgan_jax.evaluation.row_physics import RowPhysics
from dfgan_jax.evaluation.rows import Model, Row, baseline_rows, input_row, model_rows
from dfgan_jax.evaluation.slice_facts import (
    SliceFacts,
    pitch_notes,
    resize_notes,
    seen_notes,
    tuning_notes,
)
from dfgan_jax.evaluation.speed import Speed, measure_speed
from dfgan_jax.evaluation.statistics import Sample
from dfgan_jax.evaluation.tables import INPUT_ROW, REFERENCE_ROW
from dfgan_jax.evaluation.verdict import Origin, judge
from dfgan_jax.scans import hounsfield
from dfgan_jax.scans.windows import Window
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.progress import progress
from dfgan_jax.support.spacing import evenly_spaced
from dfgan_jax.support.types import JsonObject
from dfgan_jax.support.wording import counted

_CONSTANT_HU = 0.01
"""Difference of the pixels of a slice up to which it is constant: a resize rounds to 0.0005 HU."""

PITCH_SPREAD = 1.1
"""Ratio of pixel pitches up to which slices share a frequency axis, by their mean pitch."""


class Comparison:
    """Measures rows and writes their tables, files and report.

    Each of several processes denoises a share of the slices; process 0 scores and writes. Slices of
    a constant NDCT, or of a QDCT equal to it, are denoised but not scored, in any row: a PSNR that
    is infinite in some rows and finite in others has no mean.

    Args:
      options: selects protocols, baselines and measurements.
      sources: of the pairs.
      data: pairs in normalised HU: `test`, and `valid` if there are baselines.

    Raises:
      InputError: the manifest of the test slices is wrong, or none of them can be scored.
    """

    def __init__(self, options: EvaluationOptions, *, sources: Sources,
                 data: Mapping[str, Pairs]):
        self._options = options
        self._sources = sources
        self._data = data
        test = data["test"]
        self._ndct, self._qdct = (hounsfield.denormalise(np.asarray(each))
                                  for each in (test.ndct, test.qdct))
        self._manifest = _read_manifests(sources.data.test, test.counts)
        self._facts = SliceFacts.of_files(sources.data.test, self._manifest, test.sizes)
        self._pitch = self._pixel_pitch()
        self._warnings: list[str] = []
        self._model_notes: list[str] = []
        self._scored = np.flatnonzero([
            np.ptp(ndct) > _CONSTANT_HU and not np.array_equal(ndct, qdct)
            for ndct, qdct in zip(self._ndct, self._qdct, strict=True)])
        if not len(self._scored):
            raise InputError(f"data.test ({sources.describe('test')}): all "
                             f"{counted(len(test), 'slice')} have a constant NDCT, or a QDCT equal "
                             "to it; expected one that can be scored, at least")
        patients = self._patients()
        self._sample = Sample(patients and [patients[index] for index in self._scored],
                              len(self._scored))
        self._size = tables.size_of(self._ndct.shape)
        self._physics = self._build_physics() if options.physics else None
        self._scores: dict[str, dict[str, Scores]] = {each.name: {} for each in options.tables}
        self._kept = self._scored[evenly_spaced(len(self._scored), most=MOST_SLICES)]
        self._viewed = {REFERENCE_ROW: self._ndct[self._kept]}
        self._examples: list[Example] = []
        self._overview: Example | None = None
        self._models: dict[str, Model] = {}
        self._rows: dict[str, Row] = {}
        self._speeds: dict[str, Speed] = {}

    def measure(self, models: Sequence[Model], *, given: Mapping[str, str] = MappingProxyType({})
                ) -> None:
        """Measures the input, the models and the classical denoisers.

        Args:
          models: at least one; the first is the headline of the report.
          given: a user's own models, name → source; see `given.given_row`.

        Raises:
          InputError: a row cannot be made.
        """
        rows = model_rows(models)
        self._models = dict(zip(rows, models, strict=True))
        self._model_notes = pitch_notes(
            {name: model.denoiser.domain for name, model in self._models.items()}, self._pitch)
        resizes = resize_notes({name: model.denoiser.meta["config"].get("data", {}).get("size", -1)
                                for name, model in self._models.items()}, self._facts.sizes)
        self._warnings = seen_notes(
            {name: model.denoiser.meta.get("data") or {} for name, model in self._models.items()},
            {split: self._data[split].fingerprint() for split in self._options.splits})
        tuned = tuning_notes(self._tuning_manifest(), self._manifest)
        for note in [*self._warnings, *resizes, *tuned] if agreement.is_main() else []:
            print(f"warning: {note}", file=sys.stderr, flush=True)
        self._model_notes += [*resizes, *tuned]
        for name, source in given.items():
            label, row = given_row(name, source, shape=self._qdct.shape, manifest=self._manifest)
            rows[label] = row
        # Models first: a broken one raises before minutes of classical denoisers.
        self._add(INPUT_ROW, input_row())
        for name, row in rows.items():
            self._add(name, row)
        if self._options.baselines:
            for name, row in baseline_rows(self._options.baselines, self._data["valid"]).items():
                self._add(name, row)
        # In the tables, models are last.
        self._rows = {name: row for name, row in self._rows.items() if name not in rows} | rows

    def write(self, workdir: pathlib.Path, *, config: JsonObject, history: Sequence[JsonObject]
              ) -> None:
        """Writes `results.json`, `slices.csv`, `patients.csv` and `report.html`; prints the tables.

        Args:
          workdir: folder to write into.
          config: of the command that evaluates.
          history: rows of `metrics.jsonl` for the report; empty for several models.
        """
        if not agreement.is_main():
            return
        results = self.results(config)
        workdir.mkdir(parents=True, exist_ok=True)
        with written_whole(workdir / "results.json") as temporary:
            temporary.write_text(json.dumps(finite_or_null(results), indent=2, allow_nan=False)
                                 + "\n")
        tables.write_slices_csv(workdir / "slices.csv", self._scores, self._options.tables,
                                self._sample, size=self._size, numbers=self._scored.tolist())
        tables.write_patients_csv(workdir / "patients.csv", self._scores, self._options.tables,
                                  self._sample, size=self._size)
        print(tables.as_text(results), flush=True)
        report = write_report(
            workdir, results=results, examples=self._examples, history=list(history),
            overview=self._overview,
            title=f"{', '.join(self._models)} on {self._sources.describe('test')}",
            slices=Slices([f"Slice {index}" for index in self._kept],
                          {name: self._viewed[name] for name in (REFERENCE_ROW, *self._rows)},
                          self._pitch),
            pictures=None if self._physics is None else self._physics.pictures)
        print(f"Report: {report}", flush=True)

    def results(self, config: JsonObject) -> JsonObject:
        """The content of `results.json`, with infinite PSNRs as they are; for `config` see `write`.
        """
        sample, rows = self._sample, {name: row.table for name, row in self._rows.items()}
        physics = {} if self._physics is None else self._physics.results
        verdict = judge(
            self._headline, {name: scores["psnr"]
                             for name, scores in self._scores[FULL_RANGE.name].items()},
            rows, sample, physics=physics, origin=self._origin, size=self._size,
            pixel_spacing_mm=self._pitch)
        return {
            "model": self._headline,
            "verdict": verdict.as_json(),
            "warnings": self._warnings,
            "protocols": {protocol.name: tables.tabulate(
                protocol, self._scores[protocol.name], rows, sample, size=self._size)
                for protocol in self._options.tables},
            "statistics": {"interval_unit": sample.interval_unit, "test_unit": sample.test_unit,
                           "patients": sample.patient_count, "slices": sample.count,
                           "notes": [*sample.notes(rows=len(rows)), *self._notes_on_data()]},
            "test_slices": self._facts.as_json(pixel_spacing_mm=self._pitch),
            **({"physics": physics} if physics else {}),
            "speed": {name: dataclasses.asdict(self._speeds[name]) for name in rows
                      if name in self._speeds},
            **provenance({name: model.denoiser for name, model in self._models.items()},
                         {split: self._sources.describe(split)
                          for split in self._options.splits},
                         self._data, evaluation_config=config),
            "slices": sample.count,
        }

    @property
    def _headline(self) -> str:
        """The row at the head of the report."""
        return next(iter(self._models))

    def _add(self, name: str, row: Row) -> None:
        """Measures a row."""
        self._rows[name] = row
        with progress(f"denoising with {name}", total=agreement.share_of(len(self._qdct)),
                      unit="slices") as bar:
            start = time.perf_counter()
            images = row.denoise(self._qdct, bar)
            first_s = time.perf_counter() - start
        if speed := measure_speed(row, self._qdct, first_s=first_s):
            self._speeds[name] = speed
        if self._physics is not None:
            self._physics.measure(name, row, images)
        if not agreement.is_main():
            return
        for protocol, scores in _score(name, images[self._scored], self._ndct[self._scored],
                                       self._options.tables):
            self._scores[protocol.name][name] = scores
        self._viewed[name] = images[self._kept]
        if name == self._headline:
            psnr = {each: scores["psnr"] for each, scores in self._scores[FULL_RANGE.name].items()}
            worst = self._scored[np.argmin(psnr[name] - psnr[INPUT_ROW])]
            self._examples = chosen_examples(name, images, self._ndct, self._qdct,
                                             scored=self._scored, worst=int(worst))
            middle = self._scored[len(self._scored) // 2]
            self._overview = Example(f"Slice {middle}", self._ndct[middle], self._qdct[middle],
                                     images[middle])

    def _build_physics(self) -> RowPhysics:
        protocol = self._sources.simulation.protocol
        scan = (matched_scan(self._ndct, self._qdct, pixel_spacing_mm=self._pitch,
                             configured=protocol, dose_fraction=self._recorded_dose())
                if self._sources.data.test else configured_scan(protocol, shape=self._ndct.shape))
        return RowPhysics(self._ndct, self._qdct, scan=scan, pixel_spacing_mm=self._pitch)

    def _pixel_pitch(self) -> float | None:
        """The pixel pitch of the scored slices [mm]; None if unknown."""
        if self._sources.data.test:
            return self._options.pixel_spacing_mm or self._recorded_pitch()
        width: int = self._ndct.shape[2]
        return self._sources.simulation.protocol.field_of_view_mm / width

    @property
    def _origin(self) -> Origin:
        if not self._sources.data.test:
            return "phantoms"
        if self._manifest is None:
            return "unknown"
        # `--mode=simulate` writes the dose; the pairs of another simulator look like scanned ones.
        is_simulated = any(row.get("dose_fraction") for row in self._manifest)
        return "simulated dose" if is_simulated else "scans"

    def _recorded_pitch(self) -> float | None:
        """The pixel pitch of the scored slices [mm], after the resize, by their manifest.

        None if it has none, if pitches differ by more than `PITCH_SPREAD`, or if the resize
        changes proportions.
        """
        if self._manifest is None:
            return None
        native = [row.get("pixel_spacing_mm") for row in self._manifest]
        if not all(native):
            return None
        if any(height * scored[1] != width * scored[0]
               for (height, width), scored in self._facts.sizes):
            return None  # rows and columns are scaled differently
        columns = np.repeat([width for (_, width), _ in self._facts.sizes],
                            self._data["test"].counts)
        pitches = np.asarray(native, float) * columns / self._ndct.shape[2]
        return float(pitches.mean()) if pitches.max() <= PITCH_SPREAD * pitches.min() else None

    def _tuning_manifest(self) -> list[dict[str, str]] | None:
        """The manifest of the slices that classical denoisers are tuned on; None without one."""
        if not self._options.baselines:
            return None
        valid = self._data["valid"]
        rows = _read_manifests(self._sources.data.valid, valid.counts)
        return rows and [rows[index] for index in evenly_spaced(
            len(valid), most=baselines.MAX_TUNING_SLICES)]

    def _recorded_dose(self) -> float | None:
        """The median of the dose fractions in the manifest; None if it lacks some."""
        recorded = [row.get("dose_fraction") for row in self._manifest or [{}]]
        return float(np.median(np.asarray(recorded, float))) if all(recorded) else None

    def _patients(self) -> list[str] | None:
        """The patient of each test slice; None if unknown. Each phantom is a patient."""
        if not self._sources.data.test:
            return [f"phantom {index}" for index in range(len(self._data["test"]))]
        return None if self._manifest is None else [row["patient"] for row in self._manifest]

    def _notes_on_data(self) -> list[str]:
        """Sentences on the slices for a reader of the tables."""
        notes = [*self._warnings]
        if left_out := len(self._ndct) - len(self._scored):
            notes.append(f"{left_out} of {counted(len(self._ndct), 'test slice')} have a constant "
                         "NDCT, or a QDCT equal to it: they count in no score of any row.")
        for name, scores in self._scores.items():
            if equal := int(np.isinf(scores[INPUT_ROW]["psnr"]).sum()):
                where = "" if PROTOCOLS[name].window_hu is None else " within the window"
                notes.append(f"{name}: {equal} of {counted(self._sample.count, 'slice')} of "
                             f"{INPUT_ROW} equal their references{where}: their PSNR is infinite, "
                             "and rows with such slices have no mean.")
            if without := {row: count for row, each in scores.items()
                           if (count := int(np.isnan(each["data_range_hu"]).sum()))}:
                notes.append(f"{name}: {max(without.values())} of "
                             f"{counted(self._sample.count, 'slice')} are in batches without a "
                             f"pixel above 0 HU in {'; '.join(without)}: they have no range, and "
                             "these rows no mean of PSNR and SSIM.")
        notes += [*self._facts.notes(), *self._model_notes]
        if not self._sources.data.test:
            notes.append("Every simulated slice is a phantom of its own, and counts as a patient.")
        if self._options.baselines:
            count = len(self._data["valid"])
            notes.append(
                f"Classical denoisers: tuned on {min(count, baselines.MAX_TUNING_SLICES)} of "
                f"{counted(count, 'validation slice')} ({self._sources.describe('valid')}).")
        return notes


def _read_manifests(paths: Sequence[str], counts: Sequence[int]) -> list[dict[str, str]] | None:
    """The row of each slice in the manifests of its file; None if a file has none, or no file.

    Args:
      paths: of the files.
      counts: slices of each file.
    """
    if not paths:
        return None
    rows: list[dict[str, str]] = []
    for path, count in zip(paths, counts, strict=True):
        found = read_manifest(pathlib.Path(path), count)
        if found is None:
            return None
        rows += found
    return rows


def _score(name: str, images: np.ndarray, ndct: np.ndarray, protocols: Sequence[Protocol]
           ) -> Iterator[tuple[Protocol, Scores]]:
    """The scores of a row's images under each protocol, with one slow VIF per window."""
    @functools.cache
    def vif(window_hu: Window) -> np.ndarray:
        with progress(f"VIF of {name}", total=len(images), unit="slices") as bar:
            return metrics.vif(images, ndct, window_hu=window_hu, progress=bar)

    for protocol in protocols:
        yield protocol, protocol.score(images, ndct, vif=vif)


def finite_or_null(tree: object) -> object:
    """Replaces numbers that JSON lacks, as the infinite PSNR of equal images, by None."""
    if isinstance(tree, dict):
        return {key: finite_or_null(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [finite_or_null(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def chosen_examples(name: str, images: Float[np.ndarray, "n h w"],
                    ndct: Float[np.ndarray, "n h w"], qdct: Float[np.ndarray, "n h w"], *,
                    scored: Integer[np.ndarray, " k"], worst: int) -> list[Example]:
    """Slices for the report: three evenly spaced ones and the one of the smallest gain.

    Position and gain choose the slices, so that the report cannot flatter.

    Args:
      name: of the row.
      images: (N, H, W) HU, of the row.
      ndct: the same slices at normal dose.
      qdct: the same slices at low dose.
      scored: indices of the slices to choose from.
      worst: index of the slice with the smallest gain.
    """
    places = np.linspace(0, len(scored) - 1, 5)[1:-1].round().astype(int)
    chosen = {int(index): "" for index in scored[places]}
    chosen[worst] = ", smallest gain of all slices"
    return [Example(name=f"Slice {index}, {name}{remark}", ndct=ndct[index], qdct=qdct[index],
                    denoised=images[index]) for index, remark in sorted(chosen.items())]
