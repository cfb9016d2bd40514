"""The report of a run: one HTML file that stands alone, and its figures as PNG.

Images are (H, W) in HU throughout. A picture is written without text, pixel for
pixel or enlarged by a whole factor; numbers and labels are HTML, so that they
stay readable on a phone and in either colour scheme.
"""

import base64
import io
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import jinja2
import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure
from PIL import Image

from dfgan_jax.evaluation.protocols import FULL_RANGE_HU

BASELINE: Final = "QDCT"
"""Name of the row that every gain is taken against."""

HEADLINE_PROTOCOL: Final = "full_range"

PICTURE_SIDE: Final = 512
"""Smaller pictures are enlarged to about this many pixels, by a whole factor."""

_DIVERGING: Final = matplotlib.colormaps["RdBu_r"]
_LEVELS: Final = 127
"""Colours on either side of zero; zero has one of its own, exactly in the middle."""


_EXAMPLE_FIGURE: Final = re.compile(
    r"example_\d+_(abdomen|lung|qdct_minus|denoised_minus)_\w+\.png")


class Example(NamedTuple):
    """One slice of the test set, three times: each (H, W) float32 in HU."""

    name: str
    ndct: np.ndarray
    qdct: np.ndarray
    denoised: np.ndarray


class Region(NamedTuple):
    """A square cut-out, in pixels."""

    top: int
    left: int
    side: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """(H, W) to (side, side)."""
        return image[self.top : self.top + self.side, self.left : self.left + self.side]


class Window(NamedTuple):
    """A display window and the tissue in which to look for detail, all in HU."""

    name: str
    window_center: float
    window_width: float
    tissue: tuple[float, float]


# The tissue ranges leave out air and bone: their edges have steep gradients, but
# no detail that a denoiser could lose.
WINDOWS: Final = (
    Window("Abdomen", 50.0, 400.0, (-150.0, 250.0)),
    Window("Lung", -600.0, 1500.0, (-950.0, -200.0)),
)


class _Theme(NamedTuple):
    """Colours of the curves in one colour scheme."""

    suffix: str
    ink: str
    grid: str
    lines: tuple[str, ...]


_THEMES: Final = (
    _Theme("", "#3b434e", "#dfe3e8", ("#0a6fb8", "#d4570a", "#5b8a12", "#8a4fc0", "#a8802a")),
    _Theme("_dark", "#c3cad3", "#2f3741", ("#58b4f5", "#ff9a56", "#a3d14f", "#c79bf2", "#e3c374")),
)


def write_report(
    workdir: str | pathlib.Path,
    *,
    title: str,
    results: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    examples: Sequence[Example],
) -> pathlib.Path:
    """Writes `workdir/report.html` and `workdir/figures/*.png`.

    The page holds its figures itself, needs no network and no script.

    Args:
      workdir: folder of the run; made if missing.
      title: heading of the page; plain text.
      results: what `results.json` holds. Needed: `slices` and `protocols`, with
        `full_range` among them and a `QDCT` row in each. Optional: `model` (the
        row for the headline; otherwise the one with the highest PSNR),
        `checkpoint`, `data`, `published`, `config`, `device`, `versions`,
        `command`, `created`.
      history: rows of `metrics.jsonl`; fields that are missing get no curve.
      examples: slices to show.

    Returns:
      The path of `report.html`.
    """
    workdir = pathlib.Path(workdir)
    figures = workdir / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for stale in figures.glob("example_*_*.png"):  # of a report with more examples
        if _EXAMPLE_FIGURE.fullmatch(stale.name):
            stale.unlink()
    protocols = {
        name: {**protocol, "rows": score_rows(protocol["rows"])}
        for name, protocol in results["protocols"].items()
    }
    headline = protocols[HEADLINE_PROTOCOL]
    page = _environment().get_template("report.html.jinja").render(
        title=title,
        results=results,
        protocols=protocols,
        headline=headline,
        baseline=_row(headline["rows"], BASELINE),
        model=_headline_row(headline["rows"], results.get("model")),
        curves=_write_curves(figures, history, (results.get("checkpoint") or {}).get("step")),
        examples=[_write_example(figures, i, e) for i, e in enumerate(examples, start=1)],
        picture_range_hu=FULL_RANGE_HU,
        colour_bar=_colour_bar_css(),
        config=json.dumps(results.get("config"), indent=2, default=str, ensure_ascii=False),
    )
    path = workdir / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


# Scores.


def score_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Adds to each row its gain over QDCT and the columns in which it is best.

    Args:
      rows: `name`, `psnr` [dB], `ssim` and `rmse_hu` each, with one row `QDCT`.

    Returns:
      QDCT first, then the others in their order, with `gain` (the difference from
      QDCT by column) and `best` (a set of columns; ties are all best).
    """
    baseline = _row(rows, BASELINE)
    columns = {"psnr": max, "ssim": max, "rmse_hu": min}
    finite = {c: [row[c] for row in rows if math.isfinite(row[c])] for c in columns}
    best = {c: choose(finite[c], default=None) for c, choose in columns.items()}
    return [
        {
            **row,
            "gain": {c: row[c] - baseline[c] for c in columns},
            "best": {c for c in columns if row[c] == best[c]},
        }
        for row in sorted(rows, key=lambda row: row["name"] != BASELINE)
    ]


def _row(rows, name: str):
    return next(row for row in rows if row["name"] == name)


def _headline_row(rows, name: str | None):
    models = [row for row in rows if row["name"] != BASELINE]
    named = [row for row in models if row["name"] == name]
    return max(named or models, key=lambda row: row["psnr"])


def format_number(value: Any, digits: int = 2, *, signed: bool = False) -> str:
    """Fixed decimals with a true minus sign; a dash for what is missing or not finite."""
    if value is None or not math.isfinite(value):
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


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dfgan_jax.evaluation", package_path=""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number, "data_range": format_range, "size": format_size,
    }
    return environment


# Pictures.


def windowed(image: np.ndarray, *, window_center: float, window_width: float) -> np.ndarray:
    """(H, W) HU to (H, W) uint8: black at the window's lower end, white at its upper end."""
    black = window_center - window_width / 2
    grey = np.nan_to_num((image - black) * (255.0 / window_width))
    return np.rint(np.clip(grey, 0, 255)).astype(np.uint8)


def difference_levels(difference: np.ndarray, *, limit_hu: float) -> np.ndarray:
    """(H, W) HU to (H, W) uint8 colour numbers: 0 at -limit_hu, 127 at 0, 254 at +limit_hu."""
    levels = np.rint(np.nan_to_num(difference) * (_LEVELS / limit_hu))
    return (np.clip(levels, -_LEVELS, _LEVELS) + _LEVELS).astype(np.uint8)


def difference_limit_hu(example: Example) -> float:
    """End of the difference scale [HU]: holds 99 % of the noise, a multiple of 10."""
    noise = np.abs(np.nan_to_num(example.qdct - example.ndct))
    return max(10.0, 10.0 * math.ceil(np.percentile(noise, 99) / 10.0))


def _box_mean(image: np.ndarray, side: int) -> np.ndarray:
    """Mean over every square that lies inside: (H, W) to (H - side + 1, W - side + 1)."""
    total = np.pad(image, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    return (total[side:, side:] - total[:-side, side:] - total[side:, :-side]
            + total[:-side, :-side]) / side**2


def _cross(mask: np.ndarray) -> np.ndarray:
    """Every pixel with its four neighbours, (H, W) to (5, H, W) bool; False outside."""
    framed = np.pad(mask, 1)
    return np.stack([mask, framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2],
                     framed[1:-1, 2:]])


def body_mask(image: np.ndarray) -> np.ndarray:
    """The patient with lungs and bowel gas, without table and air.

    Args:
      image: (H, W) HU.

    Returns:
      (H, W) bool: between the first and last pixel, in the row and in the column,
      of the piece that is connected with the densest part of the image.
    """
    dense = image > -300.0
    side = max(min(image.shape) // 8, 1)
    seed = _best_region(_box_mean(dense.astype(np.float64), side), side)
    body = np.zeros_like(dense)
    seed.cut(body)[:] = seed.cut(dense)
    while (grown := dense & _cross(body).any(0)).sum() > body.sum():
        body = grown
    after = np.stack([np.maximum.accumulate(body, axis) for axis in (0, 1)])
    before = np.stack([np.flip(np.maximum.accumulate(np.flip(body, axis), axis), axis)
                       for axis in (0, 1)])
    return (after & before).all(0)


def _best_region(score: np.ndarray, side: int) -> Region:
    """The square whose upper left corner has the highest score, (H, W) over corners."""
    top, left = np.unravel_index(np.argmax(score), score.shape)
    return Region(int(top), int(left), side)


def detail_region(ndct: np.ndarray, *, tissue: tuple[float, float], side: int) -> Region | None:
    """The square with the steepest gradients inside a tissue of the patient.

    Args:
      ndct: (H, W) HU.
      tissue: lowest and highest HU that count; all else, with its edge, does not.
      side: of the square, in pixels.

    Returns:
      The region; None where no square is nine tenths patient and a quarter tissue.
    """
    smooth = 5  # pixels; without it the noisiest region would win
    image = _box_mean(np.pad(ndct.astype(np.float64), smooth // 2, mode="edge"), smooth)
    body = body_mask(image)
    inside = (image > tissue[0]) & (image < tissue[1])
    # A gradient reaches one pixel to each side, so the pixels there must count as well.
    inside = np.asarray(_cross(inside).all(0))
    allowed = ((_box_mean(body.astype(np.float64), side) >= 0.9)
               & (_box_mean(inside.astype(np.float64), side) >= 0.25))
    if not allowed.any():
        return None
    gradient = np.hypot(*np.gradient(image))
    return _best_region(np.where(allowed, _box_mean(gradient * inside, side), -1.0), side)


def _png(pixels: np.ndarray, *, palette: bytes | None = None) -> bytes:
    """(H, W) uint8, grey or colour numbers, as a PNG; nearest, by a whole factor."""
    factor = max(1, PICTURE_SIDE // max(pixels.shape))
    image = Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    if palette is not None:
        image.putpalette(palette)
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


def _palette() -> bytes:
    colours = _DIVERGING(np.linspace(0, 1, 2 * _LEVELS + 1), bytes=True)
    return colours[:, :3].tobytes()


def _colour_bar_css() -> str:
    colours = _DIVERGING(np.linspace(0, 1, 17), bytes=True)
    stops = ", ".join("#" + colour[:3].tobytes().hex() for colour in colours)
    return f"linear-gradient(90deg, {stops})"


def _save(figures: pathlib.Path, name: str, png: bytes) -> str:
    """Writes a figure's file and returns it as a data URI."""
    (figures / f"{name}.png").write_bytes(png)
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _write_example(figures: pathlib.Path, number: int, example: Example) -> dict[str, Any]:
    """Everything that the template shows of one example."""
    shapes = {image.shape for image in example[1:]}
    if len(shapes) != 1 or example.ndct.ndim != 2:
        raise ValueError(f"example {example.name!r}: expected one shape (H, W), found {shapes}")
    height, width = example.ndct.shape
    side = max(min(height, width) // 4, 1)
    soft_tissue = detail_region(example.ndct, tissue=WINDOWS[0].tissue, side=side)
    centre = Region((height - side) // 2, (width - side) // 2, side)
    # File names hold the number only: an example's name may hold anything.
    stem = f"example_{number}"
    sources = {"qdct": example.qdct, "denoised": example.denoised, "ndct": example.ndct}

    windows = []
    for window in WINDOWS:
        region = (detail_region(example.ndct, tissue=window.tissue, side=side)
                  or soft_tissue or centre)
        pictures: dict[str, Any] = {}
        for key, image in sources.items():
            pixels = windowed(image, window_center=window.window_center,
                              window_width=window.window_width)
            name = f"{stem}_{window.name.lower()}_{key}"
            pictures[key] = {
                "whole": _save(figures, name, _png(pixels)),
                "detail": _save(figures, f"{name}_detail", _png(region.cut(pixels))),
            }
        frame = {"left": region.left / width, "top": region.top / height,
                 "width": side / width, "height": side / height}
        windows.append({"window": window, "frame": frame, "pictures": pictures})

    limit_hu = difference_limit_hu(example)
    differences = {
        "qdct_minus_ndct": example.qdct - example.ndct,
        "denoised_minus_ndct": example.denoised - example.ndct,
        "qdct_minus_denoised": example.qdct - example.denoised,
    }
    return {
        "name": example.name,
        "shape": f"{height}×{width}",
        "scores": {key: _scores(sources[key], example.ndct) for key in ("qdct", "denoised")},
        "windows": windows,
        "limit_hu": limit_hu,
        "differences": {
            key: {
                "src": _save(figures, f"{stem}_{key}", _png(
                    difference_levels(difference, limit_hu=limit_hu), palette=_palette())),
                "mean": float(np.mean(difference, dtype=np.float64)),
                "std": float(np.std(difference, dtype=np.float64)),
            }
            for key, difference in differences.items()
        },
    }


def _scores(image: np.ndarray, ndct: np.ndarray) -> dict[str, float]:
    """PSNR [dB] under `FULL_RANGE_HU` and RMSE [HU] of two (H, W) images in HU.

    The PSNR is NaN where the images are equal or not finite.
    """
    rmse_hu = float(np.sqrt(np.mean(np.square(image - ndct, dtype=np.float64))))
    defined = 0 < rmse_hu < math.inf
    psnr = 20 * math.log10(FULL_RANGE_HU / rmse_hu) if defined else math.nan
    return {"psnr": psnr, "rmse_hu": rmse_hu}


# Curves.


class _Curve(NamedTuple):
    label: str
    steps: np.ndarray
    values: np.ndarray


def _curve(history, kind: str, field: str, label: str) -> _Curve:
    """The finite values of one field over the steps; possibly none."""
    points = [(row["step"], row[field]) for row in history
              if row["kind"] == kind and field in row and math.isfinite(row[field])]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return _Curve(label, steps, values)


def _write_curves(figures: pathlib.Path, history, chosen_step: int | None) -> list[dict[str, str]]:
    """One figure for each quantity that the history holds, in both colour schemes."""
    fields = sorted({f for row in history if row["kind"] == "train" for f in row
                     if f.endswith("_loss") and f != "generator_loss"})
    judges = [f for f in fields if f.endswith("discriminator_loss")]
    terms = [f for f in fields if f not in judges]

    def training(names):
        return [_curve(history, "train", f, f.removesuffix("_loss").replace("_", " "))
                for f in names]

    wanted = {
        "validation_psnr": (f"Validation PSNR [dB], range {FULL_RANGE_HU:g} HU",
                            [_curve(history, "valid", "psnr", "validation")]),
        "validation_ssim": (f"Validation SSIM, range {FULL_RANGE_HU:g} HU",
                            [_curve(history, "valid", "ssim", "validation")]),
        "generator_loss": ("Generator loss", [
            _curve(history, "train", "generator_loss", "training"),
            _curve(history, "valid", "generator_loss", "validation")]),
        "loss_terms": ("Generator loss by term, training", training(terms)),
        "discriminator_loss": ("Discriminator loss, training", training(judges)),
    }
    shown = []
    for name, (title, curves) in wanted.items():
        curves = [curve for curve in curves if curve.values.any()]
        if curves:
            sources = [
                _save(figures, name + theme.suffix, _figure_png(_draw_curves(
                    curves, theme=theme, loss="loss" in name, chosen_step=chosen_step,
                    level=0.25 if name == "discriminator_loss" else None)))
                for theme in _THEMES
            ]
            shown.append({"name": name, "title": title, "light": sources[0], "dark": sources[1]})
    return shown


def _running_mean(values: np.ndarray, *, width: int) -> np.ndarray:
    """(N,) to (N,); at both ends over the values that there are."""
    kernel = np.ones(width)
    total = np.convolve(values, kernel, "same")
    return total / np.convolve(np.ones_like(values), kernel, "same")


def _draw_curves(
    curves: Sequence[_Curve],
    *,
    theme: _Theme,
    loss: bool,
    chosen_step: int | None,
    level: float | None,
) -> Figure:
    """Curves over the step.

    Losses get a logarithmic axis where all are positive. `chosen_step` is marked:
    by a line, and on each validation curve that has the step by its value.
    `level` draws a horizontal line.
    """
    figure = Figure(figsize=(6.0, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for order, (curve, colour) in enumerate(zip(curves, theme.lines, strict=False)):
        count = curve.values.size
        line: dict[str, Any] = {"color": colour, "label": curve.label,
                                "linewidth": 3.4 if order == 0 and len(curves) > 2 else 1.7}
        if count > 400:  # the logged values behind, their running mean in front
            axes.plot(curve.steps, curve.values, color=colour, alpha=0.3, linewidth=0.7)
            axes.plot(curve.steps, _running_mean(curve.values, width=count // 100), **line)
        else:
            axes.plot(curve.steps, curve.values, marker="o" if count < 30 else None,
                      markersize=4, **line)
        chosen = curve.steps == chosen_step
        at_chosen = curve.values[chosen]
        if at_chosen.size and not loss:
            axes.plot(curve.steps[chosen][:1], at_chosen[:1], "o", color=colour, markersize=9,
                      markerfacecolor="none", markeredgewidth=2,
                      label=f"chosen: {at_chosen[0]:.4g}")
    if chosen_step is not None:
        axes.axvline(chosen_step, color=theme.ink, linewidth=1, linestyle=(0, (4, 3)))
    if level is not None:
        axes.axhline(level, color=theme.ink, linewidth=1, linestyle=":",
                     label=f"{level:g}: cannot tell")
    if loss and all((curve.values > 0).all() for curve in curves):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel("step", color=theme.ink, fontsize=12)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.tick_params(which="both", colors=theme.ink, labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(theme.ink)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        figure.legend(loc="outside upper left", ncols=3, fontsize=11, frameon=False,
                      labelcolor=theme.ink)
    return figure


def _figure_png(figure: Figure) -> bytes:
    """The figure on a transparent ground; without pyplot, PNG goes through Agg."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, transparent=True)
    return file.getvalue()
