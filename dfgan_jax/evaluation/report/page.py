"""The report of a run: one self-contained HTML file, and its figures as PNG.

Images are (H, W) in HU. Numbers and labels are HTML, readable on a phone and in either colour
scheme. Only the viewer needs a script; tables, figures and examples do not.
"""

import base64
import functools
import hashlib
import importlib.resources
import json
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Final

import jinja2
import markupsafe

from dfgan_jax.evaluation.protocols import FULL_RANGE_HU
from dfgan_jax.evaluation.report import curves, html_tables, viewer
from dfgan_jax.evaluation.report.examples import (
    DIFFERENCES,
    Example,
    write_example,
    write_overview,
)
from dfgan_jax.evaluation.report.physics_section import PhysicsPictures, physics_section
from dfgan_jax.evaluation.report.pictures import colour_bar_css
from dfgan_jax.evaluation.report.viewer import Slices
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.types import JsonObject

HEADLINE_PROTOCOL: Final = "full_range"

_FIGURE: Final = re.compile(
    r"(example_\d+_(abdomen|lung|brain|qdct_minus|denoised_minus)_\w+|spectrum_\d+"
    r"|overview_(qdct|denoised|ndct|removed)"
    r"|structure_\d+_(removed|explained)|transfer_\d+(_dark)?|noise_power_(phantom|slices)(_dark)?"
    r"|speed(_dark)?|validation_(psnr|ssim)(_dark)?|(generator|discriminator)_loss(_dark)?|loss_terms(_dark)?"
    r")\.png")

_MARK_SCRIPTED: Final = 'document.documentElement.classList.add("js");'
"""Runs before the first drawing, so that the page does not jump when the other scripts run."""


def write_report(
    workdir: str | pathlib.Path,
    *,
    title: str,
    results: JsonObject,
    history: Sequence[JsonObject],
    examples: Sequence[Example],
    overview: Example | None = None,
    slices: Slices | None = None,
    pictures: PhysicsPictures | None = None,
) -> pathlib.Path:
    """Writes `workdir/report.html` and `workdir/figures/*.png`.

    The page includes its figures, slices and scripts and loads nothing.

    Args:
      workdir: folder of the run; made if missing.
      title: heading of the page; plain text.
      results: the content of `results.json`. Required: `slices`, `verdict` (of
        `Verdict.as_json`), and `protocols`, including `full_range`, with a `QDCT` row in each.
        Optional: `warnings`, `statistics`, `physics`, `speed`, `checkpoint`, `data`, `published`,
        `config`, `device`, `versions`, `command`, `created`. A protocol may have `window_hu`,
        `seeds` and `tests`, a row `kind`, `parameters`, `interval` and `vif`; see
        `html_tables.py`. A number may be None.
      history: rows of `metrics.jsonl`; missing fields have no curve.
      examples: slices to show as still pictures.
      overview: slice on the first screen; None for a screen without one.
      slices: for the viewer; None for a page without it.
      pictures: of the physics; None for a page without them.

    Returns:
      The path of `report.html`.

    Raises:
      InputError: the images of an example, or of the rows of the viewer, differ in shape.
    """
    workdir = pathlib.Path(workdir)
    figures = workdir / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for stale in figures.glob("*.png"):  # of an earlier report
        if _FIGURE.fullmatch(stale.name):
            stale.unlink()
    rows = {name: html_tables.score_rows(protocol["rows"])
            for name, protocol in results["protocols"].items()}
    protocols = {name: _protocol(name, protocol, rows[name])
                 for name, protocol in results["protocols"].items()}
    headline = protocols[HEADLINE_PROTOCOL]
    model = results["verdict"]["model"]
    names = [row["name"] for row in rows[HEADLINE_PROTOCOL]]
    page = render(
        "page.html.jinja", has_viewer=slices is not None,
        title=title,
        results=results,
        protocols={HEADLINE_PROTOCOL: headline} | protocols,  # its tab first
        headline=headline,
        verdict=results["verdict"],
        overview=overview and write_overview(figures, overview),
        speed=_speed(figures, results.get("speed") or {}, rows[HEADLINE_PROTOCOL]),
        difference_maps=DIFFERENCES,
        published_table=html_tables.published_table(results.get("published") or {}),
        physics=physics_section(figures, results.get("physics") or {}, shown=pictures or {},
                                names=names),
        curves=curves.write_training(
            figures, history, chosen_step=(results.get("checkpoint") or {}).get("step"),
            weights=_loss_weights(results.get("config") or {})),
        examples=[write_example(figures, i, e) for i, e in enumerate(examples, start=1)],
        viewer=slices and {
            **viewer.embed(slices, model=model), "total": results["slices"],
            "left_out": [name for name in names if name not in slices.images]},
        picture_range_hu=FULL_RANGE_HU,
        config=json.dumps(results.get("config"), indent=2, default=str, ensure_ascii=False),
    )
    path = workdir / "report.html"
    with written_whole(path) as temporary:
        # Names of files may hold bytes that are no UTF-8.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def _speed(figures: pathlib.Path, speeds: JsonObject, rows: Sequence[JsonObject]
           ) -> dict[str, object] | None:
    """The table and the figure of speed beside quality; None without a speed."""
    if not speeds:
        return None
    points = {row["name"]: (speeds[row["name"]]["slices_per_s"], row["gain"]["psnr"])
              for row in rows if row["name"] in speeds and math.isfinite(row["gain"]["psnr"])}
    return {"table": html_tables.speed_table(speeds, rows),
            "curve": points and curves.write_speeds(
                figures, points, order=[row["name"] for row in rows])}


def _loss_weights(config: JsonObject) -> dict[str, float]:
    """The weight of each term of the generator's loss, by its name in `metrics.jsonl`."""
    weights = dict(config.get("loss") or {})
    if not weights:
        return {}
    # The two are equal, and computed once.
    return {**weights, "intensity": weights["image"] + weights["difference"]}


def _protocol(name: str, protocol: JsonObject, rows: Sequence[JsonObject]) -> dict[str, object]:
    """A protocol with its tables; `rows` are of `score_rows`."""
    return {
        **protocol,
        "rows": rows,
        "table": html_tables.score_table(name, rows),
        "seed_table": protocol.get("seeds") and html_tables.seed_table(name, protocol["seeds"]),
        "comparison_table": (protocol.get("tests")
                             and html_tables.comparison_table(name, protocol["tests"])),
    }


# The page.


def render(template: str, *, has_viewer: bool, **content: object) -> str:
    """A page of one of the templates here, with style and scripts.

    Args:
      template: file name; the template extends `base.html.jinja`.
      has_viewer: whether the content has a `viewer`, of `viewer.embed`.
      content: of the template.
    """
    scripts = [_MARK_SCRIPTED, _source("report.js")] + has_viewer * [_source("viewer.js")]
    return _environment().get_template(template).render(
        colour_bar=colour_bar_css(), themes=curves.THEMES,
        style=markupsafe.Markup(_source("report.css")),
        scripts=[markupsafe.Markup(script) for script in scripts], **content)


def _source(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """The name of an allowed script in the page's policy."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dfgan_jax.evaluation.report", package_path=""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": html_tables.format_number, "data_range": html_tables.format_range,
        "size": html_tables.format_size, "window": html_tables.format_window,
        "count": html_tables.format_count, "hash": _hash,
    }
    return environment
