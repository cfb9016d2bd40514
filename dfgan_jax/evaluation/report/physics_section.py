"""The report's section on physics: tables, figures and pictures of noise, transfer and anatomy."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import TypedDict, TypeVar

import numpy as np
from jaxtyping import Float

from dfgan_jax.evaluation.report import curves, html_tables
from dfgan_jax.evaluation.report.pictures import (
    decibel_levels,
    difference_levels,
    difference_limit_hu,
    palette,
    png,
    save,
)
from dfgan_jax.support.types import JsonObject

Picture = TypeVar("Picture")


class PhysicsPictures(TypedDict, total=False):
    """Arrays for the pictures of the section, each optional.

    Attributes:
      spectra: row → (P, P) noise power, frequency 0 in the middle.
      structure: row → the removed map, image − QDCT, and the anatomy in it, both (H, W) HU.
      structure_slice: name of the slice of `structure`.
    """

    spectra: dict[str, Float[np.ndarray, "p p"]]
    structure: dict[str, tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]]
    structure_slice: str


def physics_section(figures: pathlib.Path, physics: JsonObject, *, shown: PhysicsPictures,
                    names: Sequence[str]) -> dict[str, object] | None:
    """Writes the figures and returns the content for the template; None without measurements.

    Args:
      figures: folder of the PNG files.
      physics: `phantom` (`rows`, and possibly `description`, `size`, `pixel_spacing_mm`,
        `repeats`) and `slices` (`rows`, `frequency_unit`), each optional. Their rows are of
        `PhantomPhysics.as_json` and `SlicePhysics.as_json`.
      shown: arrays for the pictures.
      names: rows of the score table, in its order.
    """
    phantom, slices = physics.get("phantom"), physics.get("slices")
    measured = [row for part in (phantom, slices) if part for row in part["rows"]]
    if not measured:
        return None
    # One order for both parts and all figures, so that a row has the same line everywhere.
    order = [name for name in dict.fromkeys([*names, *measured]) if name in measured]
    legend = [{"name": name, "colour": colour, "dashes": dashes}
              for number, name in enumerate(order)
              for colour, dashes in [curves.line_style(number)]]
    return {
        "legend": legend,
        "phantom": phantom and _phantom(figures, phantom, shown.get("spectra") or {}, order),
        "slices": slices and _slice_physics(figures, slices, shown, order),
    }


def _phantom(figures: pathlib.Path, phantom: JsonObject, spectra: Mapping[str, np.ndarray],
             order: Sequence[str]) -> dict[str, object]:
    rows = {name: phantom["rows"].get(name) for name in order}
    facts = [html_tables.format_size(phantom["size"]) if "size" in phantom else None,
             _fact(phantom.get("pixel_spacing_mm"), "pixels of {:.3g} mm"),
             _fact(phantom.get("repeats"), "{} scans of each object")]
    return {
        "description": phantom.get("description"),
        "facts": [fact for fact in facts if fact],
        "noise": html_tables.noise_table("Noise in the phantom", rows, frequency_unit="lp/cm"),
        "spectra": curves.write_spectra(
            figures, "noise_power_phantom",
            {name: (row or {}).get("nps") for name, row in rows.items()}, frequency_unit="lp/cm"),
        "spectrum_pictures": _spectrum_pictures(figures, _in_order(spectra, order)),
        "transfer_tables": html_tables.transfer_tables(rows),
        "transfer": curves.write_transfer(
            figures, {name: (row or {}).get("ttf") for name, row in rows.items()}),
        "detectability_tables": html_tables.detectability_tables(rows),
    }


def _in_order(rows: Mapping[str, Picture], order: Sequence[str]
              ) -> dict[str, Picture]:
    return {name: rows[name] for name in order if name in rows}


def _fact(value: float | None, words: str) -> str | None:
    return None if value is None else words.format(value)


def _spectrum_pictures(figures: pathlib.Path, spectra: Mapping[str, np.ndarray]
                       ) -> list[dict[str, str]]:
    """Two-dimensional spectra on one scale."""
    highest = max((float(spectrum[np.isfinite(spectrum)].max(initial=0.0))
                   for spectrum in spectra.values()), default=0.0)
    files = (png(decibel_levels(spectrum, highest=highest), side=256)
             for spectrum in spectra.values())
    return [{"name": name, "src": save(figures, f"spectrum_{number}", file)}
            for number, (name, file) in enumerate(zip(spectra, files, strict=True), start=1)]


def _slice_physics(figures: pathlib.Path, slices: JsonObject, shown: PhysicsPictures,
                   order: Sequence[str]) -> dict[str, object]:
    rows = {name: slices["rows"].get(name) for name in order}
    unit = slices["frequency_unit"]
    maps = _in_order(shown.get("structure") or {}, order)
    return {
        "pixel_spacing_mm": slices.get("pixel_spacing_mm"),
        "noise": html_tables.noise_table("Noise on the test slices", rows, frequency_unit=unit),
        "spectra": curves.write_spectra(
            figures, "noise_power_slices",
            {name: (row or {}).get("nps") for name, row in rows.items()}, frequency_unit=unit),
        "tissue_tables": html_tables.tissue_tables(rows),
        "structure": html_tables.structure_table(rows),
        "structure_slice": shown.get("structure_slice"),
        "removed": maps and _map_pictures(
            figures, "removed", {name: removed for name, (removed, _) in maps.items()}, step=10),
        "explained": maps and _map_pictures(
            figures, "explained", {name: found for name, (_, found) in maps.items()}, step=1),
    }


def _map_pictures(figures: pathlib.Path, kind: str, maps: Mapping[str, np.ndarray], *, step: float
                  ) -> dict[str, object]:
    """Maps [HU] on one symmetric scale, set by the largest."""
    limit_hu = max(difference_limit_hu(each, step=step) for each in maps.values())
    files = (png(difference_levels(each, limit_hu=limit_hu), colours=palette())
             for each in maps.values())
    return {"limit_hu": limit_hu, "pictures": [
        {"name": name, "src": save(figures, f"structure_{number}_{kind}", file)}
        for number, (name, file) in enumerate(zip(maps, files, strict=True), start=1)]}
