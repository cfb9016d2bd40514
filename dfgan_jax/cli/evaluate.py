"""`--mode=evaluate`: one table over the input, classical denoisers and checkpoints."""

import dataclasses
import datetime
import functools
import importlib.metadata
import json
import math
import pathlib
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from dfgan_jax import pretrained
from dfgan_jax.checkpoints.folder import workdir_of
from dfgan_jax.cli import setup, simulate
from dfgan_jax.data.dataset import read_patients
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.devices import agreement as processes
from dfgan_jax.devices import parallel
from dfgan_jax.evaluation import baselines, metrics, published, tables
from dfgan_jax.evaluation.physics import measure_phantom, measure_slices
from dfgan_jax.evaluation.protocols import FULL_RANGE, PROTOCOLS, Protocol, Scores, Window
from dfgan_jax.evaluation.report.examples import Example
from dfgan_jax.evaluation.report.page import write_report
from dfgan_jax.evaluation.report.viewer import MOST_SLICES, Slices
from dfgan_jax.evaluation.statistics import Sample, evenly_spaced
from dfgan_jax.evaluation.tables import INPUT_ROW, REFERENCE_ROW
from dfgan_jax.scans import hounsfield
from dfgan_jax.simulation.quality_phantom import MIN_SIZE, QualityScans, scan_repeats
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.progress import Progress, progress
from dfgan_jax.training import writers

REPEATS = 16
"""Scans of each simulated object."""

_PHANTOM_SEED = 0
"""Of their noise: the same in every evaluation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    """A row of the tables, and how its images come about.

    Attributes:
      table: what the tables say of it.
      denoise: ((N, H, W) HU, a progress that it advances by each slice) → the same shape.
    """

    table: tables.Row
    denoise: Callable[[np.ndarray, Progress | None], np.ndarray]


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses what `config.evaluation` cannot be.

    Raises:
      InputError: naming the field, its value and what was expected.
    """
    for name, known in (("protocols", PROTOCOLS), ("baselines", baselines.BASELINES)):
        wrong = [each for each in setup.listed(config.evaluation[name]) if each not in known]
        if wrong:
            raise InputError(f"config.evaluation.{name} has {wrong[0]!r}; expected some of "
                             f"{', '.join(known)}, separated by commas")
    if (setup.listed(config.evaluation.baselines) and config.data.test and not config.data.valid):
        raise InputError(f"config.data.test is {config.data.test}, and config.data.valid empty: "
                         "classical denoisers would be tuned on simulated slices, to their "
                         "disadvantage. Expected data.valid, of other patients than data.test; or "
                         "--config.evaluation.baselines= for a table without them")
    if not config.evaluation.pixel_spacing_mm >= 0:
        raise InputError(f"config.evaluation.pixel_spacing_mm is "
                         f"{config.evaluation.pixel_spacing_mm}; expected 0 or more")


def further_models(config: ml_collections.ConfigDict) -> list[Denoiser]:
    """The models of `config.evaluation.checkpoints`, in every process.

    Raises:
      InputError: naming the field and the one that cannot be used.
    """
    denoisers = []
    for path in setup.listed(config.evaluation.checkpoints):
        try:
            denoisers.append(Denoiser.load_in_all(path))
        except InputError as error:
            raise InputError(f"config.evaluation.checkpoints: {error}") from error
    return denoisers


def _splits(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The splits that an evaluation needs."""
    return ("valid", "test") if setup.listed(config.evaluation.baselines) else ("test",)


def run(config: ml_collections.ConfigDict, *, workdir: pathlib.Path,
        checkpoint_paths: Sequence[str]) -> None:
    """Scores checkpoints on the test split and writes the report into `workdir`.

    Raises:
      InputError: a checkpoint or the data cannot be used.
    """
    setup.check(config)
    check(config)
    if (workdir / setup.CONFIG_FILE).exists():
        raise InputError(f"{workdir}: belongs to a training run, whose results stay; choose "
                         "another --workdir")
    setup.check_same(config, checkpoint_paths)
    denoisers = [*(Denoiser.load_in_all(path) for path in checkpoint_paths),
                 *further_models(config)]
    data = processes.main_first(
        lambda: setup.load_splits(config, _splits(config), simulate.cached))
    setup.check_same_data(data)
    score_and_report(config, workdir=workdir, denoisers=denoisers, data=data)


def score_and_report(config: ml_collections.ConfigDict, *, workdir: pathlib.Path,
                     denoisers: Sequence[Denoiser], data: Mapping[str, Pairs]) -> None:
    """Writes `results.json`, `slices.csv`, `patients.csv` and `report.html`; prints the tables.

    Of several processes, each denoises a share of the slices; process 0 scores and writes.

    Args:
      config: names the data, and in `evaluation` what is measured.
      workdir: folder to write into.
      denoisers: loaded from checkpoints, a row each, at least one.
      data: pairs in normalised HU: `test`, and where there are baselines `valid`.

    Raises:
      InputError: the manifest of the test slices is wrong, or a row cannot be made.
    """
    ndct, qdct = (hounsfield.denormalise(np.asarray(each))
                  for each in (data["test"].ndct, data["test"].qdct))
    sample = Sample(_patients(config, data["test"].counts), len(ndct))
    protocols = [PROTOCOLS[name] for name in dict.fromkeys(
        [FULL_RANGE.name, *(setup.listed(config.evaluation.protocols) or PROTOCOLS)])]
    input_rows = {INPUT_ROW: _Row(table=tables.Row(kind="input"), denoise=lambda hu, bar: hu)}
    model_rows = _model_rows(denoisers)
    headline = next(iter(model_rows))
    physics = _Physics(config, ndct, qdct) if config.evaluation.physics else None

    scores: dict[str, dict[str, Scores]] = {protocol.name: {} for protocol in protocols}
    kept = evenly_spaced(len(ndct), most=MOST_SLICES)
    viewed = {REFERENCE_ROW: ndct[kept]}
    examples: list[Example] = []

    def measure(name: str, row: _Row) -> None:
        with progress(f"denoising with {name}", total=processes.share_of(len(qdct)),
                      unit="slices") as bar:
            images = row.denoise(qdct, bar)
        if physics is not None:
            physics.measure(name, row, images)
        if not processes.is_main():
            return
        for protocol, scored in _score(name, images, ndct, protocols):
            scores[protocol.name][name] = scored
        viewed[name] = images[kept]
        if name == headline:
            gain = [scores[FULL_RANGE.name][each]["psnr"] for each in (headline, INPUT_ROW)]
            examples.extend(_examples(name, images, ndct, qdct, worst=int(np.argmin(np.subtract(
                *gain)))))

    # Models first: a broken one is told before minutes of classical denoisers.
    for name, row in (input_rows | model_rows).items():
        measure(name, row)
    baseline_rows = (_baseline_rows(config, data["valid"])
                     if setup.listed(config.evaluation.baselines) else {})
    for name, row in baseline_rows.items():
        measure(name, row)
    rows = input_rows | baseline_rows | model_rows
    if not processes.is_main():
        return

    size = tables.size_of(ndct.shape)
    results = {
        "model": headline,
        "protocols": {protocol.name: tables.tabulate(
            protocol, scores[protocol.name], {name: row.table for name, row in rows.items()},
            sample, size=size) for protocol in protocols},
        "statistics": {"interval_unit": sample.interval_unit, "test_unit": sample.test_unit,
                       "patients": sample.patient_count, "slices": sample.count,
                       "notes": [*sample.notes(rows=len(rows)), *_notes_on_data(config, data)]},
        **({"physics": physics.results} if physics is not None else {}),
        **_provenance(config, dict(zip(model_rows, denoisers, strict=True))),
        "slices": sample.count,
    }
    workdir.mkdir(parents=True, exist_ok=True)
    with written_whole(workdir / "results.json") as temporary:
        temporary.write_text(json.dumps(_finite_or_null(results), indent=2, allow_nan=False) + "\n")
    tables.write_slices_csv(workdir / "slices.csv", scores, protocols, sample, size=size)
    tables.write_patients_csv(workdir / "patients.csv", scores, protocols, sample, size=size)
    report = write_report(
        workdir,
        title=f"{', '.join(model_rows)} on {setup.data_source(config, 'test')}",
        results=results, examples=examples,
        history=writers.read_history(_home(denoisers[0])) if len(denoisers) == 1 else [],
        slices=Slices([f"Slice {index}" for index in kept],
                      {name: viewed[name] for name in (REFERENCE_ROW, *rows)}),
        pictures=None if physics is None else physics.pictures)
    print(tables.as_text(results))
    print(f"Report: {report}", flush=True)


def _patients(config: ml_collections.ConfigDict, counts: Sequence[int]) -> list[str] | None:
    """The patient of each test slice; every phantom is one; None where a file's are unknown.

    Args:
      config: names the files.
      counts: slices of each.
    """
    if not config.data.test:
        return [f"phantom {index}" for index in range(sum(counts))]
    patients: list[str] = []
    for path, number in zip(setup.data_files(config, "test"), counts, strict=True):
        named = read_patients(pathlib.Path(path), number)
        if named is None:
            return None
        patients += named
    return patients


def _notes_on_data(config: ml_collections.ConfigDict, data: Mapping[str, Pairs]) -> list[str]:
    """What a reader of the tables has to know of the slices, in sentences."""
    notes = []
    equal = int((np.asarray(data["test"].qdct) == np.asarray(data["test"].ndct)
                 ).all((1, 2)).sum())
    if equal:
        notes.append(f"{equal} of {len(data['test'])} slices equal their references: their PSNR is "
                     "infinite, and rows with such slices have no mean.")
    if not config.data.test:
        notes.append("Every simulated slice is a phantom of its own, and counts as a patient.")
    if setup.listed(config.evaluation.baselines):
        count = len(data["valid"])
        notes.append(f"Classical denoisers: tuned on {min(count, baselines.MAX_TUNING_SLICES)} of "
                     f"{count} validation slices ({setup.data_source(config, 'valid')}).")
    return notes


def _baseline_rows(config: ml_collections.ConfigDict, valid: Pairs) -> dict[str, _Row]:
    """The classical denoisers, tuned on validation slices."""
    chosen = evenly_spaced(len(valid), most=baselines.MAX_TUNING_SLICES)
    ndct, qdct = (hounsfield.denormalise(each[chosen]) for each in (valid.ndct, valid.qdct))
    rows = {}
    names = setup.listed(config.evaluation.baselines)
    with progress("tuning classical denoisers", total=len(names), unit="denoisers") as bar:
        for each in names:
            baseline = baselines.BASELINES[each]
            parameters = processes.from_main(
                functools.partial(baselines.tune, baseline, qdct, ndct))
            rows[baseline.name] = _Row(
                table=tables.Row(kind="baseline", parameters=baseline.describe(parameters)),
                denoise=_in_all(functools.partial(_each_slice, functools.partial(
                    baseline.denoise, **parameters))))
            bar.advance()
    return rows


def _each_slice(denoise: Callable[[np.ndarray], np.ndarray], hu: np.ndarray, bar: Progress | None
                ) -> np.ndarray:
    denoised = np.empty_like(hu)
    for index, image in enumerate(hu):
        denoised[index] = denoise(image)
        if bar is not None:
            bar.advance()
    return denoised


def _model_rows(denoisers: Sequence[Denoiser]) -> dict[str, _Row]:
    """A row for each checkpoint.

    Pretrained weights have their own name; where several of the others are of one model, their
    folders name them, too.
    """
    models = [setup.model_name(denoiser.meta["config"]) for denoiser in denoisers]
    names = [pretrained.name_of(_home(denoiser)) for denoiser in denoisers]
    own = [model for model, name in zip(models, names, strict=True) if name is None]
    rows: dict[str, _Row] = {}
    for model, name, denoiser in zip(models, names, denoisers, strict=True):
        if name is not None:
            label = f"{name} (pretrained)"
        else:
            label = model if own.count(model) == 1 else f"{model} ({_home(denoiser).name})"
        name, number = label, 2
        while name in rows:
            name, number = f"{label} ({number})", number + 1
        trained = denoiser.meta["config"]
        run = (model, setup.shared_by_seeds(trained)) if "seed" in trained else None
        rows[name] = _Row(table=tables.Row(kind="model", run=run, seed=trained.get("seed")),
                          denoise=_in_all(functools.partial(_denoise, denoiser)))
    return rows


def _in_all(denoise: Callable[[np.ndarray, Progress | None], np.ndarray]
            ) -> Callable[[np.ndarray, Progress | None], np.ndarray]:
    """What denoises a share of the slices in each process, and has all of them in every one."""
    return lambda hu, bar: processes.shared_out(lambda part: denoise(part, bar), hu)


def _denoise(denoiser: Denoiser, hu: np.ndarray, bar: Progress | None) -> np.ndarray:
    return denoiser(hu, progress=bar)


def _score(name: str, images: np.ndarray, ndct: np.ndarray, protocols: Sequence[Protocol]
           ) -> Iterator[tuple[Protocol, Scores]]:
    """The scores of a row's images under each protocol; VIF, which is slow, once a window."""
    @functools.cache
    def vif(window_hu: Window) -> np.ndarray:
        with progress(f"VIF of {name}", total=len(images), unit="slices") as bar:
            return metrics.vif(images, ndct, window_hu=window_hu, progress=bar)

    for protocol in protocols:
        yield protocol, protocol.score(images, ndct, vif=vif)


class _Physics:
    """The physics of each row: numbers for `results.json`, pictures for the report."""

    def __init__(self, config: ml_collections.ConfigDict, ndct: np.ndarray, qdct: np.ndarray):
        self._ndct, self._qdct = ndct, qdct
        protocol = simulate.protocol(config)
        size = max(min(ndct.shape[1:]), MIN_SIZE)
        with progress("scanning test objects", total=3 * REPEATS, unit="scans") as bar:
            normal_dose, self._low_dose = scan_repeats(
                size=size, seed=_PHANTOM_SEED, repeats=REPEATS, protocol=protocol, progress=bar)
        self._pixel_spacing_mm = (config.evaluation.pixel_spacing_mm or None if config.data.test
                                  else protocol.field_of_view_mm / ndct.shape[1])
        self._slice = len(ndct) // 2
        self.results: dict[str, Any] = {
            "phantom": {
                "description": "A simulated water cylinder, whatever the test slices are: "
                               f"{protocol.photons_per_ray:g} photons a ray at the normal dose "
                               f"and 256², {protocol.dose_fraction:g} of them at the low dose, "
                               f"kernel {protocol.kernel}.",
                "size": size, "pixel_spacing_mm": protocol.field_of_view_mm / size,
                "repeats": REPEATS, "rows": {}},
            "slices": {"pixel_spacing_mm": self._pixel_spacing_mm, "rows": {}}}
        self.pictures: dict[str, Any] = {"spectra": {}, "structure": {},
                                         "structure_slice": f"Slice {self._slice}"}
        self._add(REFERENCE_ROW, normal_dose, lambda hu: hu, ndct)

    def measure(self, name: str, row: _Row, images: np.ndarray) -> None:
        """Adds a row; `images` are its test slices."""
        self._add(name, self._low_dose, lambda hu: row.denoise(hu, None), images)

    def _add(self, name: str, scans: QualityScans, denoise: Callable[[np.ndarray], np.ndarray],
             images: np.ndarray) -> None:
        with progress(f"measuring {name}", total=2, unit="parts") as bar:
            phantom = measure_phantom(scans, denoise)
            bar.advance()
            slices = measure_slices(images, self._ndct, self._qdct, structure_slice=self._slice,
                                    pixel_spacing_mm=self._pixel_spacing_mm)
            bar.advance()
        self.results["phantom"]["rows"][name] = phantom.as_json()
        self.results["slices"]["rows"][name] = slices.as_json()
        self.results["slices"]["frequency_unit"] = slices.frequency_unit
        self.pictures["spectra"][name] = phantom.spectrum
        if slices.structure_map is not None:
            self.pictures["structure"][name] = (slices.removed_map, slices.structure_map)


def _home(denoiser: Denoiser) -> pathlib.Path:
    """The workdir of a denoiser, or the file it was loaded from."""
    assert denoiser.path is not None
    return denoiser.path if denoiser.path.is_file() else workdir_of(denoiser.path)


def _provenance(config: ml_collections.ConfigDict, denoisers: Mapping[str, Denoiser]
                ) -> dict[str, Any]:
    """What `results.json` says of where its numbers are from."""
    first = next(iter(denoisers.values())).meta
    return {
        "data": {split: setup.data_source(config, split) for split in _splits(config)},
        "checkpoints": {name: {"path": str(each.path), "step": each.meta["step"],
                               "epoch": each.meta["epoch"],
                               "seed": each.meta["config"].get("seed")}
                        for name, each in denoisers.items()},
        "checkpoint": {"step": first["step"], "epoch": first["epoch"]},
        "config": first["config"],
        "command": " ".join(sys.argv),
        "device": parallel.describe_devices(),
        "versions": {"python": platform.python_version()} | {
            name: importlib.metadata.version(name)
            for name in ("jax", "flax", "optax", "orbax-checkpoint", "dm-pix", "numpy",
                         "scikit-image", "sewar", "scipy")},
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


def _examples(name: str, images: np.ndarray, ndct: np.ndarray, qdct: np.ndarray, *, worst: int
              ) -> list[Example]:
    """Slices for the report: evenly spaced, and the one where the model helps least.

    Chosen by position and by the smallest gain, so that the report cannot flatter.
    """
    chosen = {int(index): "" for index in np.linspace(0, len(ndct) - 1, 5)[1:-1].round()}
    chosen[worst] = ", smallest gain of all slices"
    return [Example(name=f"Slice {index}, {name}{remark}", ndct=ndct[index], qdct=qdct[index],
                    denoised=images[index]) for index, remark in sorted(chosen.items())]
