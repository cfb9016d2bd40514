"""Tables of scores: means with intervals, tests between rows, runs over several seeds.

A table belongs to one protocol; every written form of it includes window, range and image size.
"""

import csv
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dfgan_jax.evaluation.protocols import METRICS, Protocol, Scores
from dfgan_jax.evaluation.statistics import Sample, holm, mean_and_sd, paired_tests
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.types import JsonObject
from dfgan_jax.support.wording import counted

INPUT_ROW = "QDCT"
"""The row that gains are relative to."""

REFERENCE_ROW = "NDCT"

LABELS = {"psnr": "PSNR [dB]", "ssim": "SSIM", "rmse_hu": "RMSE [HU]", "vif": "VIF"}
"""Metric → head of its column."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A table's description of a row.

    Attributes:
      kind: `input`, `baseline` or `model`.
      parameters: of a baseline, in words.
      run: the model's name and `rows.Model.shared`: runs with an equal `run` differ only by their
        seed. None: no run is of this kind.
      seed: of the run.
      setting_of: the row of the same model with the default settings; None for that row.
    """

    kind: str
    parameters: str = ""
    run: tuple[str, str] | None = None
    seed: int | None = None
    setting_of: str | None = None


def size_of(shape: tuple[int, ...]) -> int | str:
    """The size of (N, H, W) images in tables: 256, or `256×192`."""
    height, width = shape[-2:]
    return height if height == width else f"{height}×{width}"


def tabulate(protocol: Protocol, scores: Mapping[str, Scores], rows: Mapping[str, Row],
             sample: Sample, *, size: int | str) -> JsonObject:
    """The table of one protocol for `results.json`.

    Args:
      protocol: of the scores.
      scores: row → its scores of every slice; the same slices for all rows.
      rows: row → its description; in the table's order.
      sample: the slices.
      size: `size_of` the images.

    Returns:
      The protocol's stamp, and `rows` (means and `interval`), `seeds` (mean and standard
      deviation over runs with different seeds) and `tests` (paired, between all pairs of rows).
    """
    weights = protocol.weights(sample.count)
    table = []
    for name, row in rows.items():
        interval = {metric: sample.interval(scores[name][metric], weights)
                    for metric in protocol.metrics}
        table.append({"name": name, "kind": row.kind, **protocol.mean(scores[name]),
                      "interval": interval}
                     | ({"parameters": row.parameters} if row.parameters else {}))
    tests = []
    for metric in protocol.metrics:
        found = paired_tests(sample, {name: scores[name][metric] for name in rows})
        corrected = holm([test.p for test in found.values()])
        tests += [{"metric": metric, "first": first, "second": second, **test._asdict(),
                   "p_holm": p_holm}
                  for ((first, second), test), p_holm in zip(found.items(), corrected,
                                                             strict=True)]
    return {
        "description": protocol.description,
        "data_range": protocol.data_range,
        "data_range_hu": (protocol.data_range_hu if isinstance(protocol.data_range_hu, float)
                          else None),
        "window_hu": protocol.window_hu,
        "size": size,
        "rows": table,
        "seeds": _seeds(table, rows, protocol.metrics),
        "tests": tests,
    }


def _seeds(table: Sequence[JsonObject], rows: Mapping[str, Row], metrics: Sequence[str]
           ) -> list[JsonObject]:
    """Mean and standard deviation over rows that differ only by their seed."""
    groups: dict[tuple[str, str], dict[int | None, JsonObject]] = {}
    for line in table:
        row = rows[line["name"]]
        if row.run is not None:
            # A checkpoint of the same seed, for example in another file, is not another run.
            groups.setdefault(row.run, {}).setdefault(row.seed, line)
    seeds = []
    for (model, _), by_seed in groups.items():
        members = list(by_seed.values())
        if len(members) > 1:
            means = {metric: mean_and_sd([member[metric] for member in members])
                     for metric in metrics}
            seeds.append({"name": f"{model}, {len(members)} seeds",
                          "members": [member["name"] for member in members],
                          **{metric: {"mean": mean, "sd": sd}
                             for metric, (mean, sd) in means.items()}})
    return seeds


def as_text(results: JsonObject) -> str:
    """The tables of `results.json` as lines for a terminal; the first is last, to be in view."""
    lines = []
    for name, protocol in reversed(results["protocols"].items()):
        window = protocol["window_hu"]
        clip = "" if window is None else f"clipped to {window[0]:g} to {window[1]:g} HU, "
        lines.append(f"\n{name}: {counted(results['slices'], 'slice')} at {protocol['size']}, "
                     f"{clip}data range {protocol['data_range']}")
        metrics = [metric for metric in METRICS if metric in protocol["rows"][0]]
        width = max(len(line["name"]) for line in protocol["rows"] + protocol["seeds"])
        lines.append(f"  {'':{width}}" + "".join(f"  {LABELS[metric]:>25}" for metric in metrics))
        for line in protocol["rows"]:
            cells = (_cell(line[metric], line["interval"][metric], metric) for metric in metrics)
            lines.append(f"  {line['name']:{width}}" + "".join(f"  {cell:>25}" for cell in cells))
        for line in protocol["seeds"]:
            cells = (f"{line[metric]['mean']:.{_DIGITS[metric]}f} ± "
                     f"{line[metric]['sd']:.{_DIGITS[metric]}f}" for metric in metrics)
            lines.append(f"  {line['name']:{width}}" + "".join(f"  {cell:>25}" for cell in cells))
    return "\n".join([*lines, "", *results["statistics"]["notes"]])


_DIGITS = {"psnr": 3, "ssim": 4, "rmse_hu": 2, "vif": 4}


def _cell(value: float, interval: Sequence[float] | None, metric: str) -> str:
    digits = _DIGITS[metric]
    if not np.isfinite(value):
        return "–"
    if interval is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def write_slices_csv(path: pathlib.Path, scores: Mapping[str, Mapping[str, Scores]],
                     protocols: Sequence[Protocol], sample: Sample, *, size: int | str,
                     numbers: Sequence[int]) -> None:
    """Writes a line for each protocol, row and slice.

    Args:
      path: CSV file to write.
      scores: protocol → row → scores.
      protocols: in the order of the lines.
      sample: the slices.
      size: `size_of` the images.
      numbers: of the slices, in the test split.
    """
    def lines() -> Iterator[JsonObject]:
        for protocol in protocols:
            for name, values in scores[protocol.name].items():
                for index, number in enumerate(numbers):
                    yield {"slice": number,
                           "patient": sample.patients[index] if sample.patients else "",
                           **_stamp(protocol, values["data_range_hu"][index], size), "name": name,
                           **{metric: _number(values[metric][index])
                              for metric in protocol.metrics}}

    _write_csv(path, ["slice", "patient", *_STAMP, "name", *METRICS], lines())


def write_patients_csv(path: pathlib.Path, scores: Mapping[str, Mapping[str, Scores]],
                       protocols: Sequence[Protocol], sample: Sample, *, size: int | str) -> None:
    """Writes a line for each protocol, row and patient: the mean over the patient's slices.

    If patients are unknown, removes the file of an earlier evaluation and writes none.

    Args:
      path: CSV file to write.
      scores: protocol → row → scores.
      protocols: in the order of the lines.
      sample: the slices.
      size: `size_of` the images.
    """
    if sample.patients is None:
        path.unlink(missing_ok=True)
        return
    slices_of = {patient: np.flatnonzero(np.asarray(sample.patients) == patient)
                 for patient in dict.fromkeys(sample.patients)}

    def lines() -> Iterator[JsonObject]:
        for protocol in protocols:
            for name, values in scores[protocol.name].items():
                for patient, slices in slices_of.items():
                    yield {"patient": patient, "slices": len(slices),
                           **_stamp(protocol, values["data_range_hu"][slices].mean(), size),
                           "name": name,
                           **{metric: _number(values[metric][slices].mean())
                              for metric in protocol.metrics}}

    _write_csv(path, ["patient", "slices", *_STAMP, "name", *METRICS], lines())


_STAMP = ("protocol", "window_low_hu", "window_high_hu", "data_range_hu", "size")


def _stamp(protocol: Protocol, data_range_hu: float, size: int | str) -> JsonObject:
    low, high = protocol.window_hu or ("", "")
    data_range = "" if np.isnan(data_range_hu) else f"{data_range_hu:g}"
    return dict(zip(_STAMP, (protocol.name, low, high, data_range, size), strict=True))


def _number(value: float) -> str:
    return f"{value:.6f}" if np.isfinite(value) else ""


def _write_csv(path: pathlib.Path, columns: Sequence[str], lines: Iterator[JsonObject]) -> None:
    with (written_whole(path) as temporary,
          temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(lines)
