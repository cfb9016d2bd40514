"""The report's tables: what stands in each cell, and by what it sorts.

Numbers that are missing, None or not finite are a dash, and sort last.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dfgan_jax.evaluation.tables import INPUT_ROW, LABELS


class Metric(NamedTuple):
    """How a score is written, and which of two is better."""

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
      text: what is shown.
      key: by what it sorts, a number or text; None sorts last.
      small: a second, smaller line.
      best: shaded.
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


def format_number(value: Any, digits: int = 2, *, signed: bool = False) -> str:
    """Fixed decimals with a true minus sign; a dash for what is missing or not finite."""
    if not _is_number(value):
        return "–"
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def format_range(value: Any) -> str:
    """`4095.0` to `4095 HU`; text stays as it is."""
    return f"{value:g} HU" if isinstance(value, int | float) else str(value)


def format_size(size: int | str) -> str:
    """`256` to `256×256`; 0 means that images were not resized, and text stays."""
    if isinstance(size, str):
        return size
    return f"{size}×{size}" if size else "native size"


def format_window(window_hu: Sequence[float] | None) -> str:
    """`[-160, 240]` to `clipped to −160 … 240 HU`."""
    if window_hu is None:
        return "not clipped"
    return "clipped to {:g} … {:g} HU".format(*window_hu).replace("-", "−")


def format_probability(value: Any) -> str:
    """Four decimals; below them, that it is less."""
    return "< 0.0001" if _is_number(value) and value < 1e-4 else format_number(value, 4)


def format_count(value: int) -> str:
    """`10000` to `10 000`, the space one that does not break."""
    return f"{value:,}".replace(",", "\N{NO-BREAK SPACE}")


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def number_cell(value: Any, digits: int = 2, *, signed: bool = False, small: str = "",
                best: bool = False) -> Cell:
    """A number, sorted by its value."""
    return Cell(format_number(value, digits, signed=signed),
                float(value) if _is_number(value) else None, small, best)


def text_cell(text: str, small: str = "") -> Cell:
    """Text, sorted by itself."""
    return Cell(text, text, small)


# Scores.


def score_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Adds to each row its gain over QDCT and the columns in which it is best.

    Args:
      rows: `name`, `psnr` [dB], `ssim`, `rmse_hu` and possibly `vif` each, with one
        row `QDCT`.

    Returns:
      QDCT first, then the others in their order, with `gain` (the difference from
      QDCT by column; NaN where a number is missing) and `best` (a set of columns; ties
      are all best).
    """
    baseline = find_row(rows, INPUT_ROW)
    finite = {c: [row[c] for row in rows if _is_number(row.get(c))] for c in METRICS}
    best = {c: metric.choose(finite[c], default=None) for c, metric in METRICS.items()}

    def gain(row: Mapping[str, Any], column: str) -> float:
        value, start = row.get(column), baseline.get(column)
        return math.nan if value is None or start is None else value - start

    return [
        {
            **row,
            "gain": {c: gain(row, c) for c in METRICS},
            "best": {c for c in METRICS if _is_number(row.get(c)) and row[c] == best[c]},
        }
        for row in sorted(rows, key=lambda row: row["name"] != INPUT_ROW)
    ]


def find_row(rows: Iterable[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """The row of a name."""
    return next(row for row in rows if row["name"] == name)


def headline_row(rows: Sequence[Mapping[str, Any]], name: str | None) -> Mapping[str, Any]:
    """The row of a name; otherwise the model, or else the baseline, of the highest PSNR."""
    others = [row for row in rows if row["name"] != INPUT_ROW]
    named = [row for row in others if row["name"] == name]
    models = [row for row in others if row.get("kind", "model") == "model"]
    return max(named or models or others,
               key=lambda row: row["psnr"] if _is_number(row["psnr"]) else -math.inf)


def _metrics_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
    """The metrics that any of the rows has."""
    return {c: metric for c, metric in METRICS.items() if any(c in row for row in rows)}


def score_table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Scores with their intervals beneath, and gains over QDCT.

    Args:
      name: of the protocol.
      rows: of `score_rows`; possibly with `kind` (`input`, `baseline` or `model`),
        `parameters` (text) and `interval` (metric → its two ends, or None).
    """
    metrics = _metrics_of(rows)

    def cells(row: Mapping[str, Any]) -> Iterable[Cell]:
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


def seed_table(name: str, families: Sequence[Mapping[str, Any]]) -> Table:
    """Mean and standard deviation over training runs that differ in their seed.

    Args:
      name: of the protocol.
      families: `name`, `members` (rows of the score table) and metric → `mean`, `sd`.
    """
    metrics = _metrics_of(families)

    def cells(family: Mapping[str, Any]) -> Iterable[Cell]:
        yield text_cell(family["name"], ", ".join(family["members"]))
        for column, metric in metrics.items():
            found = family.get(column) or {}
            yield number_cell(found.get("mean"), metric.digits,
                              small="± " + format_number(found.get("sd"), metric.digits))

    return Table(f"Seeds, {name}", ["Runs", *(metric.label for metric in metrics.values())],
                 [list(cells(family)) for family in families])


def comparison_table(name: str, tests: Sequence[Mapping[str, Any]]) -> Table:
    """Paired tests between rows.

    Args:
      name: of the protocol.
      tests: `first`, `second`, `metric`, `median_difference` (of first over second), `p`,
        `p_holm` and `n` each.
    """
    def probability(value: Any) -> Cell:
        return number_cell(value)._replace(text=format_probability(value))

    rows = [[text_cell(f"{test['first']} − {test['second']}"), text_cell(metric.label),
             number_cell(test["median_difference"], max(metric.digits, 3), signed=True),
             probability(test["p"]), probability(test["p_holm"]), number_cell(test["n"], 0)]
            for test in tests for metric in [METRICS[test["metric"]]]]
    return Table(f"Tests, {name}", ["Pair", "Metric", "Median difference", "p", "p, Holm", "n"],
                 rows)


def published_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Numbers that others published: row → `psnr`, `ssim`."""
    name = "Published, other data"
    return Table(name, [name, "PSNR [dB]", "SSIM"],
                 [[text_cell(row), number_cell(scores["psnr"]), number_cell(scores["ssim"], 4)]
                  for row, scores in rows.items()])


# Physics. Rows are in the order of the score table; one that was not measured is None, and
# left out.

Rows = Mapping[str, Mapping[str, Any] | None]


def _at(tree: Any, *path: str) -> Any:
    """The value at a path of keys; None where something on it is missing."""
    for key in path:
        tree = (tree or {}).get(key)
    return tree


def _row_table(name: str, columns: Sequence[str], rows: Rows,
               cells: Callable[[Any], Iterable[Cell]]) -> Table:
    return Table(name, ["Image", *columns],
                 [[text_cell(row), *cells(found)] for row, found in rows.items()
                  if found is not None])


def noise_table(name: str, rows: Rows, *, frequency_unit: str) -> Table:
    """Noise and its texture: `nps` of each row."""
    fields = {"noise_std_hu": ("Noise, SD [HU]", 2),
              "mean_frequency": (f"Mean frequency [{frequency_unit}]", 3),
              "peak_frequency": (f"Peak frequency [{frequency_unit}]", 3)}
    return _row_table(name, [label for label, _ in fields.values()], rows,
                      lambda row: [number_cell(_at(row, "nps", field), digits)
                                   for field, (_, digits) in fields.items()])


def transfer_tables(rows: Rows) -> list[Table]:
    """One table for each number of the transfer functions, a column for each contrast."""
    return _by_object(rows, "ttf", ("contrast_hu",), {
        "f50": ("f50 [lp/cm]", 2), "f10": ("f10 [lp/cm]", 2),
        "recovered_contrast": ("Recovered contrast", 3)})


def detectability_tables(rows: Rows) -> list[Table]:
    """d′ with its standard error, and CNR: a column for each lesion."""
    return _by_object(rows, "detectability", ("contrast_hu", "diameter_mm"),
                      {"d_prime": ("d′", 2), "cnr": ("CNR", 2)})


def _by_object(rows: Rows, group: str, identity: tuple[str, ...],
               numbers: Mapping[str, tuple[str, int]]) -> list[Table]:
    """For each number a table of rows against objects, as any row lists them."""
    def objects_of(row: Any) -> dict[tuple, Mapping[str, Any]]:
        return {tuple(each[field] for field in identity): each for each in _at(row, group) or ()}

    objects = list(dict.fromkeys(one for row in rows.values() for one in objects_of(row)))
    units = {"contrast_hu": "{:+g} HU", "diameter_mm": "{:g} mm"}
    columns = [", ".join(units[field].format(value).replace("-", "−")
                         for field, value in zip(identity, one, strict=True)) for one in objects]

    def table(field: str, label: str, digits: int) -> Table:
        def cells(row: Any) -> Iterable[Cell]:
            found = objects_of(row)
            for one in objects:
                error = _at(found.get(one), f"{field}_se")
                small = "" if error is None else "± " + format_number(error, digits)
                yield number_cell(_at(found.get(one), field), digits, small=small)

        return _row_table(label, columns, rows, cells)

    return [table(field, *words) for field, words in numbers.items()] if objects else []


def tissue_tables(rows: Rows) -> list[Table]:
    """HU bias and noise, a column for each tissue with its number of pixels."""
    tissues = {name: found.get("pixels") for row in rows.values()
               for name, found in (_at(row, "tissues") or {}).items()}
    columns = [name if pixels is None else f"{name} ({format_count(pixels)} px)"
               for name, pixels in tissues.items()]

    def table(field: str, label: str, *, signed: bool) -> Table:
        return _row_table(label, columns, rows, lambda row: [
            number_cell(_at(row, "tissues", tissue, field), signed=signed) for tissue in tissues])

    return [table("bias_hu", "Bias [HU]", signed=True),
            table("noise_std_hu", "Noise, SD [HU]", signed=False)] if tissues else []


def structure_table(rows: Rows) -> Table:
    """How much of the removed map is anatomy."""
    return _row_table("Structure in the removed map", ["Explained by anatomy", "RMS [HU]"], rows,
                      lambda row: [number_cell(_at(row, "structure", "explained"), 4),
                                   number_cell(_at(row, "structure", "rms_hu"))])
