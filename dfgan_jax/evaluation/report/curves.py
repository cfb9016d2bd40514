"""Curves as figures, each in both colour schemes: training, noise spectra, transfer.

A figure is PNG on a transparent ground. Rows of a table differ in colour and dashes (see
`line_style`); the page, not the figure, has their names.
"""

import functools
import io
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dfgan_jax.evaluation.protocols import FULL_RANGE_HU
from dfgan_jax.evaluation.report import pictures
from dfgan_jax.support.types import JsonObject


class Theme(NamedTuple):
    """Colours of the curves in one colour scheme."""

    suffix: str
    ink: str
    grid: str
    lines: tuple[str, ...]


THEMES: Final = (
    Theme("", "#3b434e", "#dfe3e8", ("#0a6fb8", "#d4570a", "#5b8a12", "#8a4fc0", "#a8802a",
                                     "#c2185b", "#00838f", "#5f6b78")),
    Theme("_dark", "#c3cad3", "#2f3741", ("#58b4f5", "#ff9a56", "#a3d14f", "#c79bf2", "#e3c374",
                                          "#f583ae", "#4dd0d9", "#aab4bf")),
)

_DASHES: Final = ("solid", "dashed", "dotted")
"""Names in both CSS and matplotlib."""

_MARKERS: Final = ("o", "s", "^")


class Curve(NamedTuple):
    """Values over steps, or over frequencies: (N,) each."""

    label: str
    steps: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]


def line_style(order: int) -> tuple[int, str]:
    """Index of the colour in a theme, and the dashes, for a row by its place in the table.

    The first 24 rows differ.
    """
    colours = len(THEMES[0].lines)
    return order % colours, _DASHES[order // colours % len(_DASHES)]


def _save(figures: pathlib.Path, name: str, title: str, draw: Callable[..., Figure]
          ) -> dict[str, str]:
    """Writes a figure in both schemes; `draw` takes a `theme`."""
    light, dark = (pictures.save(figures, name + theme.suffix, _png(draw(theme=theme)))
                   for theme in THEMES)
    return {"name": name, "title": title, "light": light, "dark": dark}


def _png(figure: Figure) -> bytes:
    """The figure on a transparent ground; without pyplot, PNG goes through Agg."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, transparent=True)
    return file.getvalue()


def _style(axes: Axes, theme: Theme, xlabel: str) -> None:
    axes.set_xlabel(xlabel, color=theme.ink, fontsize=12)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.tick_params(which="both", colors=theme.ink, labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(theme.ink)


# Training.


def history_curve(history: Sequence[JsonObject], kind: str, field: str, label: str) -> Curve:
    """The finite values of one field over the steps; may be empty."""
    points = [(row["step"], row[field]) for row in history
              if row["kind"] == kind and field in row and math.isfinite(row[field])]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return Curve(label, steps, values)


def write_training(figures: pathlib.Path, history: Sequence[JsonObject], *,
                   chosen_step: int | None, weights: Mapping[str, float]
                   ) -> list[dict[str, str]]:
    """One figure for each quantity in the rows of `metrics.jsonl`.

    Args:
      figures: folder of the PNG files.
      history: rows of `metrics.jsonl`.
      chosen_step: see `draw_training`.
      weights: of the terms of the generator's loss, by the names of their fields without
        `_loss`; the figure has each term times its weight. A term without one has weight 1.
    """
    fields = sorted({f for row in history if row["kind"] == "train" for f in row
                     if f.endswith("_loss") and f != "generator_loss"})
    judges = [f for f in fields if f.endswith("discriminator_loss")]
    terms = [f for f in fields if f not in judges]

    def training(names: Sequence[str]) -> list[Curve]:
        return [history_curve(history, "train", f, f.removesuffix("_loss").replace("_", " "))
                for f in names]

    def weighted(names: Sequence[str]) -> list[Curve]:
        factors = [weights.get(name.removesuffix("_loss"), 1.0) for name in names]
        return [curve._replace(label=f"{factor:g} × {curve.label}", values=factor * curve.values)
                for factor, curve in zip(factors, training(names), strict=True)]

    wanted = {
        "validation_psnr": (f"Validation PSNR [dB], range {FULL_RANGE_HU:g} HU",
                            [history_curve(history, "valid", "psnr", "validation")]),
        "validation_ssim": (f"Validation SSIM, range {FULL_RANGE_HU:g} HU",
                            [history_curve(history, "valid", "ssim", "validation")]),
        "generator_loss": ("Generator loss", [
            history_curve(history, "train", "generator_loss", "training"),
            history_curve(history, "valid", "generator_loss", "validation")]),
        "loss_terms": ("Generator loss by term, times its weight, training", weighted(terms)),
        "discriminator_loss": ("Discriminator loss, training", training(judges)),
    }
    shown = []
    for name, (title, curves) in wanted.items():
        curves = [curve for curve in curves if curve.values.any()]
        if curves:
            shown.append(_save(figures, name, title, functools.partial(
                draw_training, curves, loss="loss" in name, chosen_step=chosen_step,
                level=0.25 if name == "discriminator_loss" else None)))
    return shown


def running_mean(values: Float[np.ndarray, " n"], *, width: int) -> Float[np.ndarray, " n"]:
    """(N,) to (N,); at both ends over fewer values."""
    kernel = np.ones(width)
    total = np.convolve(values, kernel, "same")
    return total / np.convolve(np.ones_like(values), kernel, "same")


def draw_training(
    curves: Sequence[Curve],
    *,
    theme: Theme,
    loss: bool,
    chosen_step: int | None,
    level: float | None,
) -> Figure:
    """Draws curves over the step.

    Args:
      curves: to draw, in the order of the theme's colours.
      theme: of the figure.
      loss: whether the curves are losses; the axis of positive losses is logarithmic.
      chosen_step: of the chosen checkpoint, marked by a line, and by its value on each validation
        curve with this step.
      level: of a horizontal line.
    """
    figure = Figure(figsize=(6.0, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for order, (curve, colour) in enumerate(zip(curves, theme.lines, strict=False)):
        count = curve.values.size
        plot = functools.partial(axes.plot, color=colour, label=curve.label,
                                 linewidth=3.4 if order == 0 and len(curves) > 2 else 1.7)
        if count > 400:  # the logged values behind, their running mean in front
            axes.plot(curve.steps, curve.values, color=colour, alpha=0.3, linewidth=0.7)
            plot(curve.steps, running_mean(curve.values, width=count // 100))
        else:
            plot(curve.steps, curve.values, marker="o" if count < 30 else None, markersize=4)
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
                     label=f"{level:g}: chance")
    if loss and all((curve.values > 0).all() for curve in curves):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    _style(axes, theme, "step")
    if len(axes.get_legend_handles_labels()[1]) > 1:
        figure.legend(loc="outside upper left", ncols=3, fontsize=11, frameon=False,
                      labelcolor=theme.ink)
    return figure


# Rows of a table, over the frequency.


def write_spectra(figures: pathlib.Path, name: str, spectra: Mapping[str, JsonObject | None], *,
                  frequency_unit: str) -> dict[str, str] | None:
    """Radial noise power spectra; None if no row has a spectrum.

    Args:
      figures: folder of the PNG files.
      name: of the file.
      spectra: row → `frequencies` and `radial` (lists of one length), or None.
      frequency_unit: `lp/cm` or `1/pixel`.
    """
    curves = [_row_curve(row, spectrum, "frequencies", "radial")
              for row, spectrum in spectra.items()]
    values = np.concatenate([curve.values for curve in curves]) if curves else np.empty(0)
    highest = float(max(values[np.isfinite(values)], default=0.0))
    if highest == 0:
        return None
    area = "HU² mm²" if frequency_unit == "lp/cm" else "HU² pixel²"
    return _save(figures, name, f"Noise power spectrum [{area}]", functools.partial(
        draw_rows, curves, xlabel=f"spatial frequency [{frequency_unit}]", size=(6.0, 3.5),
        limits=(0, 1.05 * highest)))


def write_transfer(figures: pathlib.Path, transfers: Mapping[str, Sequence[JsonObject] | None]
                   ) -> list[dict[str, str]]:
    """Task transfer functions, one figure for each contrast.

    Args:
      figures: folder of the PNG files.
      transfers: row → a list of `contrast_hu`, `frequencies` and `ttf`, or None.
    """
    contrasts = dict.fromkeys(each["contrast_hu"] for row in transfers.values()
                              for each in row or ())
    shown = []
    for number, contrast in enumerate(contrasts, start=1):
        curves = [_row_curve(row, next((each for each in found or ()
                                        if each["contrast_hu"] == contrast), None),
                             "frequencies", "ttf") for row, found in transfers.items()]
        title = f"Transfer at {contrast:+g} HU".replace("-", "−")
        shown.append(_save(figures, f"transfer_{number}", title, functools.partial(
            draw_rows, curves, xlabel="spatial frequency [lp/cm]", size=(4.6, 3.2),
            limits=(0, 1.3), levels=(0.5, 0.1))))
    return shown


def write_speeds(figures: pathlib.Path, points: Mapping[str, tuple[float, float]], *,
                 order: Sequence[str]) -> dict[str, str]:
    """Quality beside speed.

    Args:
      figures: folder of the PNG files.
      points: row → slices a second, and PSNR over QDCT [dB].
      order: all rows of the table.
    """
    return _save(figures, "speed", "PSNR over QDCT [dB]", functools.partial(
        draw_speeds, points, order=order))


def draw_speeds(points: Mapping[str, tuple[float, float]], *, order: Sequence[str], theme: Theme
                ) -> Figure:
    """Draws a point for each row over a logarithmic axis of speed, and a legend by quality.

    A line joins the rows that no row beats in both; for the arguments see `write_speeds`.
    """
    figure = Figure(figsize=(7.6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    best = -math.inf
    frontier = []
    for rate, gain in sorted(points.values(), reverse=True):
        if gain > best:
            best = gain
            frontier.append((rate, gain))
    axes.plot(*zip(*frontier, strict=True), color=theme.ink, linewidth=1, linestyle=":")
    for name in sorted(points, key=lambda name: points[name][1], reverse=True):
        rate, gain = points[name]
        place = order.index(name)
        axes.plot([rate], [gain], _MARKERS[place // len(theme.lines) % len(_MARKERS)],
                  color=theme.lines[line_style(place)[0]], markersize=8, label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    _style(axes, theme, "slices a second on this machine")
    figure.legend(loc="outside right upper", fontsize=11, frameon=False, labelcolor=theme.ink)
    return figure


def _row_curve(row: str, found: JsonObject | None, over: str, field: str) -> Curve:
    """A row's curve: empty for None, and NaN for values of None."""
    found = found or {over: [], field: []}
    return Curve(row, np.array(found[over] or [], np.float64),
                 np.array(found[field] or [], np.float64))


def draw_rows(curves: Sequence[Curve], *, theme: Theme, xlabel: str, size: tuple[float, float],
              limits: tuple[float, float], levels: Sequence[float] = ()) -> Figure:
    """Draws one line for each row of a table, styled by its place; without a legend.

    Args:
      curves: of the rows, in the table's order.
      theme: of the figure.
      xlabel: of the horizontal axis.
      size: of the figure, in inches.
      limits: ends of the vertical axis.
      levels: of horizontal lines.
    """
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    for order, curve in enumerate(curves):
        colour, dashes = line_style(order)
        axes.plot(curve.steps, curve.values, color=theme.lines[colour], linestyle=dashes,
                  linewidth=1.8)
    for level in levels:
        axes.axhline(level, color=theme.ink, linewidth=1, linestyle=":")
    axes.set_ylim(limits)
    axes.set_xlim(0, max((curve.steps.max() for curve in curves if curve.steps.size), default=1))
    _style(axes, theme, xlabel)
    return figure
