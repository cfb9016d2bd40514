"""The report's tables: the text of each cell and its key for sorting.

Missing numbers, None and numbers that are not finite are a dash, and sort last.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias, TypeGuard

from dfgan_jax.evaluation.tables import INPUT_ROW, LABELS
from dfgan_jax.support.types import JsonObject


class Metric(NamedTuple):
    """The format of a score, and the better of two, by `max` or `min`."""

    label: str
    digits: int
    choose: Callable[..., float]


METRICS: Final = {
    "psnr": Metric(LABELS["psnr"], 2, max),
    "ssim": Metric(LABELS["ssim"], 4, max),
    "rmse_hu": Metric(LABELS["rmse_hu"], 2, min),
    "vif": Metric(LABELS["vif"], 4, max),
}


class Cell(NamedTuple):
    """One cell.

    Attributes:
      text: to show.
      key: for sorting, a number or text; None sorts last.
      small: a second, smaller line.
      best: whether to shade it.
    """

    text: str
    key: float | str | None = None
    small: str = ""
    best: bool = False


class Table(NamedTuple):
    """Rows of cells, the first of each the row's header."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


# Numbers and names.


def format_number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """Fixed decimals with a true minus sign; a dash for None and numbers that are not finite."""
    if not _is_number(value):
        return "–"
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def format_range(value: float | str) -> str:
    """`4095.0` to `4095 HU`; text is unchanged."""
    return f"{value:g} HU" if isinstance(value, int | float) else str(value)


def format_size(size: int | str) -> str:
    """`256` to `256×256`; 0, for images of their own size, to `native size`; text is unchanged."""
    if isinstance(size, str):
        return size
    return f"{size}×{size}" if size else "native size"


def format_window(window_hu: Sequence[float] | None) -> str:
    """`[-160, 240]` to `clipped to −160 … 240 HU`."""
    if window_hu is None:
        return "not clipped"
    return "clipped to {:g} … {:g} HU".format(*window_hu).replace("-", "−")


def format_probability(value: float | None) -> str:
    """Four decimals; `< 0.0001` for smaller numbers."""
    return "< 0.0001" if _is_number(value) and value < 1e-4 else format_number(value, 4)


def format_count(value: int) -> str:
    """`10000` to `10 000`, with a no-break space."""
    return f"{value:,}".replace(",", "\N{NO-BREAK SPACE}")


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def number_cell(value: float | None, digits: int = 2, *, signed: bool = False, small: str = "",
                best: bool = False) -> Cell:
    """A number, sorted by its value."""
    return Cell(format_number(value, digits, signed=signed),
                float(value) if _is_number(value) else None, small, best)


def text_cell(text: str, small: str = "") -> Cell:
    """Text, sorted by itself."""
    return Cell(text, text, small)


# Speed.


def speed_table(speeds: Mapping[str, JsonObject], rows: Sequence[JsonObject]) -> Table:
    """Quality and speed.

    Args:
      speeds: row → `slices_per_s`, and `gflop` or None.
      rows: of `score_rows`.
    """
    return Table("Speed beside quality",
                 ("", "PSNR over QDCT [dB]", "slices/s", "ms/slice", "GFLOP/slice"),
                 [(text_cell(row["name"]), number_cell(row["gain"]["psnr"], signed=True),
                   number_cell(rate, 1 if rate >= 10 else 3), number_cell(1000 / rate, 1),
                   number_cell(speeds[row["name"]]["gflop"]))
                  for row in rows if row["name"] in speeds
                  for rate in [speeds[row["name"]]["slices_per_s"]]])


# Scores.


def score_rows(rows: Sequence[JsonObject]) -> list[JsonObject]:
    """Adds to each row its gain over QDCT and the columns of its best scores.

    Args:
      rows: each with `name`, `psnr` [dB], `ssim`, `rmse_hu` and possibly `vif`; one row is
        `QDCT`.

    Returns:
      QDCT first, then the others in their order, with `gain` (the difference from QDCT by column;
      NaN for a missing number) and `best` (a set of columns; equal best scores are all best).
    """
    baseline = find_row(rows, INPUT_ROW)
    finite = {c: [row[c] for row in rows if _is_number(row.get(c))] for c in METRICS}
    best = {c: metric.choose(finite[c], default=None) for c, metric in METRICS.items()}

    def gain(row: JsonObject, column: str) -> float:
        value, start = row.get(column), baseline.get(column)
        return math.nan if value is None or start is None else float(value - start)

    return [
        {
            **row,
            "gain": {c: gain(row, c) for c in METRICS},
            "best": {c for c in METRICS if _is_number(row.get(c)) and row[c] == best[c]},
        }
        for row in sorted(rows, key=lambda row: row["name"] != INPUT_ROW)
    ]


def find_row(rows: Iterable[JsonObject], name: str) -> JsonObject:
    """The row with a name."""
    return next(row for row in rows if row["name"] == name)


def percentage_cell(value: float | None, digits: int = 1) -> Cell:
    """A share as a percentage, sorted by its value."""
    if not _is_number(value):
        return Cell("–")
    return Cell(format_number(100 * value, digits) + " %", value)


def _metrics_of(rows: Sequence[JsonObject]) -> dict[str, Metric]:
    """The metrics of at least one row."""
    return {c: metric for c, metric in METRICS.items() if any(c in row for row in rows)}


def score_table(name: str, rows: Sequence[JsonObject]) -> Table:
    """Scores with their intervals beneath, and gains over QDCT.

    Args:
      name: of the protocol.
      rows: of `score_rows`; possibly with `kind` (`input`, `baseline` or `model`), `parameters`
        (text) and `interval` (metric → its two ends, or None).
    """
    metrics = _metrics_of(rows)

    def cells(row: JsonObject) -> Iterable[Cell]:
        kind = "baseline" if row.get("kind") == "baseline" else ""
        yield text_cell(row["name"], ", ".join(filter(None, (kind, row.get("parameters")))))
        for column, metric in metrics.items():
            ends = (row.get("interval") or {}).get(column) or ()
            yield number_cell(row.get(column), metric.digits, best=column in row["best"],
                              small=" … ".join(format_number(e, metric.digits) for e in ends))
        for column in ("psnr", "ssim"):
            gain = None if row["name"] == INPUT_ROW else row["gain"][column]
            yield number_cell(gain, METRICS[column].digits, signed=True)

    return Table(f"Scores, {name}",
                 ["Image", *(metric.label for metric in metrics.values()), "Gain [dB]",
                  "Gain, SSIM"], [list(cells(row)) for row in rows])


def seed_table(name: str, families: Sequence[JsonObject]) -> Table:
    """Mean and standard deviation over training runs with different seeds.

    Args:
      name: of the protocol.
      families: `name`, `members` (rows of the score table) and metric → `mean`, `sd`.
    """
    metrics = _metrics_of(families)

    def cells(family: JsonObject) -> Iterable[Cell]:
        yield text_cell(family["name"], ", ".join(family["members"]))
        for column, metric in metrics.items():
            found = family.get(column) or {}
            yield number_cell(found.get("mean"), metric.digits,
                              small="± " + format_number(found.get("sd"), metric.digits))

    return Table(f"Seeds, {name}", ["Runs", *(metric.label for metric in metrics.values())],
                 [list(cells(family)) for family in families])


def comparison_table(name: str, tests: Sequence[JsonObject]) -> Table:
    """Paired tests between rows.

    Args:
      name: of the protocol.
      tests: each with `first`, `second`, `metric`, `median_difference` (of first − second), `p`,
        `p_holm` and `n`.
    """
    def probability(value: float | None) -> Cell:
        return number_cell(value)._replace(text=format_probability(value))

    rows = [[text_cell(f"{test['first']} − {test['second']}"), text_cell(metric.label),
             number_cell(test["median_difference"], max(metric.digits, 3), signed=True),
             probability(test["p"]), probability(test["p_holm"]), number_cell(test["n"], 0)]
            for test in tests for metric in [METRICS[test["metric"]]]]
    return Table(f"Tests, {name}", ["Pair", "Metric", "Median difference", "p", "p, Holm", "n"],
                 rows)


def published_table(rows: Mapping[str, Mapping[str, float]]) -> Table:
    """Published scores: row → `psnr` [dB], `ssim`."""
    name = "Published, other data"
    return Table(name, [name, "PSNR [dB]", "SSIM"],
                 [[text_cell(row), number_cell(scores["psnr"]), number_cell(scores["ssim"], 4)]
                  for row, scores in rows.items()])


# Physics.

Rows: TypeAlias = Mapping[str, JsonObject | None]
"""Row → its measurements, in the order of the score table; tables leave out rows of None."""


def _field(row: JsonObject | None, name: str) -> float | None:
    """A number of a row; None if the row or the number is missing."""
    return None if row is None else row.get(name)


def _part(row: JsonObject | None, name: str) -> JsonObject:
    """An object of a row; empty if the row or the object is missing."""
    return (row or {}).get(name) or {}


def _row_table(name: str, columns: Sequence[str], rows: Rows,
               cells: Callable[[JsonObject], Iterable[Cell]]) -> Table:
    return Table(name, ["Image", *columns],
                 [[text_cell(row), *cells(found)] for row, found in rows.items()
                  if found is not None])


def noise_table(name: str, rows: Rows, *, frequency_unit: str) -> Table:
    """Strength and texture of the noise: `nps` of each row, or the `reason` why it has none."""
    fields = {"noise_std_hu": ("Noise, SD [HU]", 2),
              "mean_frequency": (f"Mean frequency [{frequency_unit}]", 3),
              "peak_frequency": (f"Peak frequency [{frequency_unit}]", 3)}
    return _row_table(name, [label for label, _ in fields.values()], rows,
                      lambda row: [number_cell(_field(_part(row, "nps"), field), digits,
                                               small=row.get("reason") or "" if number == 0 else "")
                                   for number, (field, (_, digits)) in enumerate(fields.items())])


def transfer_tables(rows: Rows) -> list[Table]:
    """A table for each number of the transfer functions, with a column for each contrast.

    Beneath a frequency that is not reached is the reason.
    """
    def frequency(field: str, found: JsonObject | None) -> Cell:
        cell = number_cell(_field(found, field))
        return cell if found is None or cell.key is not None else cell._replace(
            small=(found.get("reason") or "").replace("-", "−"))

    return _by_object(rows, "ttf", ("contrast_hu",), {
        "f50 [lp/cm]": functools.partial(frequency, "f50"),
        "f10 [lp/cm]": functools.partial(frequency, "f10"),
        "Recovered contrast": lambda found: percentage_cell(_field(found, "recovered_contrast"))})


def detectability_tables(rows: Rows) -> list[Table]:
    """Tables of d′ with its standard error, and of CNR, with a column for each lesion."""
    def d_prime(found: JsonObject | None) -> Cell:
        error = _field(found, "d_prime_se")
        return number_cell(_field(found, "d_prime"),
                           small="" if error is None else "± " + format_number(error))

    return _by_object(rows, "detectability", ("contrast_hu", "diameter_mm"), {
        "d′": d_prime, "CNR": lambda found: number_cell(_field(found, "cnr"))})


def _by_object(rows: Rows, group: str, identity: tuple[str, ...],
               cells: Mapping[str, Callable[[JsonObject | None], Cell]]) -> list[Table]:
    """A table for each kind of cell, with a column for each object of any row."""
    def objects_of(row: JsonObject | None) -> dict[tuple[float, ...], JsonObject]:
        return {tuple(each[field] for field in identity): each
                for each in (row or {}).get(group) or ()}

    objects = list(dict.fromkeys(one for row in rows.values() for one in objects_of(row)))
    units = {"contrast_hu": "{:+.0f} HU", "diameter_mm": "{:.3g} mm"}
    columns = [", ".join(units[field].format(value).replace("-", "−")
                         for field, value in zip(identity, one, strict=True)) for one in objects]

    def table(label: str, cell: Callable[[JsonObject | None], Cell]) -> Table:
        return _row_table(label, columns, rows, lambda row: [
            cell(objects_of(row).get(one)) for one in objects])

    return [table(*each) for each in cells.items()] if objects else []


MIN_TISSUE_PIXELS: Final = 100
"""Tissues with fewer pixels have no column: their numbers are noise."""


def tissue_tables(rows: Rows) -> list[Table]:
    """Tables of HU bias and noise, with a column for each tissue and its number of pixels."""
    tissues = {name: found["pixels"] for row in rows.values()
               for name, found in _part(row, "tissues").items()
               if found["pixels"] >= MIN_TISSUE_PIXELS}
    columns = [f"{name} ({format_count(pixels)} px)" for name, pixels in tissues.items()]

    def table(field: str, label: str, *, signed: bool) -> Table:
        return _row_table(label, columns, rows, lambda row: [
            number_cell(_field(_part(_part(row, "tissues"), tissue), field), signed=signed)
            for tissue in tissues])

    return [table("bias_hu", "Bias [HU]", signed=True),
            table("noise_std_hu", "Noise, SD [HU]", signed=False)] if tissues else []


def structure_table(rows: Rows) -> Table:
    """The anatomy in the removed map."""
    return _row_table("Structure in the removed map", ["Explained by anatomy", "RMS [HU]"], rows,
                      lambda row: [percentage_cell(_field(_part(row, "structure"), "explained")),
                                   number_cell(_field(_part(row, "structure"), "rms_hu"))])
