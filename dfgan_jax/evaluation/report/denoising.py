"""The report of a denoised scan: before, after, the removed map, and noise and HU by tissue."""

import pathlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import scipy.ndimage
from jaxtyping import Float

from dfgan_jax.data.domain import Domain
from dfgan_jax.evaluation.report import viewer
from dfgan_jax.evaluation.report.html_tables import Table, number_cell, text_cell
from dfgan_jax.evaluation.report.page import render
from dfgan_jax.evaluation.report.viewer import Slices
from dfgan_jax.scans.tissues import TISSUES, body_mask, tissue_masks
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.types import JsonObject

MOST_SLICES: Final = 30

BEFORE, AFTER = "Input", "Denoised"

_FINE: Final = 2.0
"""σ of the Gaussian mean around each pixel [pixels]; fine noise is the difference from it."""


def write_denoising_report(path: pathlib.Path, *, summary: JsonObject, names: Sequence[str],
                           before: Float[np.ndarray, "..."], after: Float[np.ndarray, "..."],
                           of_series: str | None = None) -> None:
    """Writes one HTML file that loads nothing.

    Args:
      path: of the file; an older one is replaced.
      summary: of `dicom_tree`: `input`, `model`, `weights_sha256`, `version`, `strength`,
        `self_ensemble` and `trained_on`; and `series`, each with `description`, `slices`,
        `noise_before_hu`, `noise_after_hu`, `soft_tissue_shift_hu`, `kernel_lp_cm`,
        `pixel_spacing_mm`, `outside_training` and `notes`.
      names: of the slices, in order.
      before: (N, H, W) HU, N at most `MOST_SLICES`.
      after: the same slices, denoised.
      of_series: the series of the slices; None for a single series.

    Raises:
      InputError: shapes differ.
    """
    if before.shape != after.shape:
        raise InputError(f"after has shape {after.shape}; expected that of before, {before.shape}")
    largest = max(summary["series"], key=lambda series: series["slices"])
    shown = Slices(names, {BEFORE: before, AFTER: after}, largest["pixel_spacing_mm"])
    page = render(
        "denoising.html.jinja", has_viewer=True, title="Denoised scan", summary=summary,
        largest=largest,
        domain=summary["trained_on"] and str(Domain.from_json(summary["trained_on"])),
        of_series=of_series, tissues=tissue_table(before, after),
        series_table=_series_table(summary["series"]),
        worst=[(each, line) for each in summary["series"] for line in each["outside_training"]],
        viewer={**viewer.embed(shown, model=AFTER), "total": len(names), "left_out": []})
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def tissue_table(before: Float[np.ndarray, "n h w"], after: Float[np.ndarray, "n h w"]) -> Table:
    """Mean HU and fine noise in each tissue, before and after.

    The denoised slices define the tissues. Fine noise is the standard deviation of pixels from a
    Gaussian mean, of σ = 2 pixels, of the same tissue around them; it includes fine anatomy.

    Args:
      before: (N, H, W) HU.
      after: the same slices, denoised.
    """
    sums = {name: np.zeros(5) for name in TISSUES}  # pixels, HU before and after, squares of both
    for pair in zip(before, after, strict=True):
        images = [np.asarray(image, np.float64) for image in pair]
        for name, mask in tissue_masks(images[1], body_mask(images[1])).items():
            sums[name] += [mask.sum(), *(image[mask].sum() for image in images),
                           *(np.square(_fine(image, mask)).sum() for image in images)]
    rows = []
    for name, (pixels, *totals) in sums.items():
        before_hu, after_hu, *squares = (total / pixels if pixels else np.nan for total in totals)
        rows.append([text_cell(name), number_cell(before_hu, 1), number_cell(after_hu, 1),
                     number_cell(after_hu - before_hu, 1, signed=True),
                     *(number_cell(square ** 0.5, 1) for square in squares)])
    return Table("HU and noise by tissue", [
        "Tissue", "Mean before [HU]", "Mean after [HU]", "Shift [HU]", "Fine noise before [HU]",
        "Fine noise after [HU]"], rows)


def _fine(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(pixels,) of a tissue, minus the Gaussian mean of the tissue around each."""
    weight = scipy.ndimage.gaussian_filter(mask.astype(np.float64), _FINE)[mask]
    mean = scipy.ndimage.gaussian_filter(image * mask, _FINE)[mask] / weight
    fine: np.ndarray = image[mask] - mean
    return fine


def _series_table(series: Sequence[JsonObject]) -> Table:
    rows = [[text_cell(each["description"] or f"series {number}",
                       small="; ".join([*each["outside_training"], *each["notes"]])),
             number_cell(each["slices"], 0), number_cell(each["noise_before_hu"], 1),
             number_cell(each["noise_after_hu"], 1),
             number_cell(each["soft_tissue_shift_hu"], 1, signed=True),
             number_cell(each["kernel_lp_cm"], 1), number_cell(each["pixel_spacing_mm"], 2)]
            for number, each in enumerate(series, start=1)]
    return Table("Series", [
        "Series", "Slices", "Noise before [HU]", "Noise after [HU]", "Shift in soft tissue [HU]",
        "Kernel's f50 [lp/cm]", "Pixel [mm]"], rows)
