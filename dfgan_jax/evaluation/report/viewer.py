"""The slices of the report's viewer, packed as HU for the browser.

A slice is packed as whole multiples of a step in HU. The page holds each slice separately, and
the script unpacks only slices in view: a page of fifty slices opens as fast as a page of five.

Packing: predict each pixel by (3·left + 3·up − 2·upper left) / 4, rounded down, with zeros
outside (the smallest result of four predictors on quarter-dose scans); the residual, modulo 2¹⁶,
zigzagged to be positive; all low bytes, then all high bytes; zlib; base64.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float

from dfgan_jax.evaluation.protocols import FULL_RANGE_HU
from dfgan_jax.evaluation.report import pictures
from dfgan_jax.evaluation.tables import INPUT_ROW, REFERENCE_ROW
from dfgan_jax.scans import windows
from dfgan_jax.scans.tissues import windows_of
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.spacing import evenly_spaced

MOST_SLICES: Final = 50

BUDGET_BYTES: Final = 56_000_000
"""Size of all slices in the page: fifty of 512² in five rows. Beyond it, HU become coarser, then
slices fewer."""

STEPS_HU: Final = (1, 2)
"""Steps to which HU are rounded, finest first."""

UNDEFINED: Final = -(2**15)
"""The level of pixels that are not finite."""

PRESETS: Final = {
    "Abdomen": windows.ABDOMEN,
    "Lung": windows.LUNG,
    "Bone": windows.BONE,
    "Brain": windows.BRAIN,
    "RED-CNN": windows.SOFT_TISSUE,
    "Full range": windows.FULL_RANGE,
}
"""Name → window."""


class Slices(NamedTuple):
    """Slices for the viewer.

    Attributes:
      names: of the N slices.
      images: row → (N, H, W) HU, with `NDCT` and `QDCT` first, the others in the order of
        the tables; or, without a normal dose, two rows or more without scores.
      pixel_spacing_mm: pixel pitch; None if unknown, for a viewer without a scale.
    """

    names: Sequence[str]
    images: Mapping[str, Float[np.ndarray, "n h w"]]
    pixel_spacing_mm: float | None = None


def embed(slices: Slices, *, model: str, budget_bytes: int = BUDGET_BYTES) -> dict[str, object]:
    """The content of the viewer for the template.

    Chooses up to `MOST_SLICES`, evenly spaced, including the first and the last.

    Args:
      slices: to choose from.
      model: row beside QDCT, or beside the first row without a normal dose; without images of
        it, the last row.
      budget_bytes: of the packed slices.

    Returns:
      `data` for the script, `images` (row → slice → base64 text), and `step_hu`, the step of the
      rounding.

    Raises:
      InputError: rows are missing, or shapes differ.
    """
    _check(slices)
    rows = list(slices.images)
    reference = rows.index(REFERENCE_ROW) if REFERENCE_ROW in rows else None
    height, width = slices.images[rows[0]].shape[1:]
    chosen, step_hu, packed = _fit(slices, budget_bytes=budget_bytes)
    noisy, clean = rows[:2] if reference is None else (INPUT_ROW, REFERENCE_ROW)
    noise = slices.images[noisy][chosen] - slices.images[clean][chosen]
    # The last row of two is the denoised one, whose noise does not hide the anatomy.
    middle = slices.images[rows[-1] if reference is None else clean][chosen[len(chosen) // 2]]
    fitting = list(PRESETS.values()).index(windows_of(middle)[0])
    return {
        "step_hu": step_hu,
        "images": packed,
        "data": {
            "rows": rows,
            "slices": [str(slices.names[i]) for i in chosen],
            "height": height,
            "width": width,
            "stepHu": step_hu,
            "undefined": UNDEFINED,
            "reference": reference,
            "first": rows.index(noisy),
            "second": rows.index(model) if model in rows else len(rows) - 1,
            "pixelSpacingMm": slices.pixel_spacing_mm,
            "preset": fitting,
            "presets": [(name, (window.center, window.width))
                        for name, window in PRESETS.items()],
            "limitHu": pictures.difference_limit_hu(noise),
            "rangeHu": FULL_RANGE_HU,
            "palette": base64.b64encode(pictures.palette()).decode("ascii"),
        },
    }


def _check(slices: Slices) -> None:
    rows = list(slices.images)
    if REFERENCE_ROW in rows and INPUT_ROW not in rows:
        raise InputError(f"slices: rows {rows}; expected {INPUT_ROW} among them")
    if len(rows) < 2:
        raise InputError(f"slices: rows {rows}; expected at least two")
    expected = slices.images[rows[0]].shape
    if len(expected) != 3 or expected[0] != len(slices.names) or 0 in expected:
        raise InputError(f"slices: {rows[0]} has shape {expected}; expected (N, H, W) for "
                         f"{len(slices.names)} names, N not 0")
    for row, images in slices.images.items():
        if images.shape != expected:
            raise InputError(f"slices: {row} has shape {images.shape}; expected {expected} as "
                             f"for {rows[0]}")


def _fit(slices: Slices, *, budget_bytes: int) -> tuple[np.ndarray, int, list[list[str]]]:
    """Chosen slices, the step [HU] and the packed images; within the budget, but at least one."""
    total = len(slices.names)
    count = min(total, MOST_SLICES)
    for step_hu in STEPS_HU:
        chosen, packed, size = _pack_all(slices, count=count, step_hu=step_hu)
        if size <= budget_bytes:
            return chosen, step_hu, packed
    while size > budget_bytes and count > 1:
        count = max(min(count - 1, count * budget_bytes // size), 1)
        chosen, packed, size = _pack_all(slices, count=count, step_hu=step_hu)
    return chosen, step_hu, packed


def _pack_all(slices: Slices, *, count: int, step_hu: int
              ) -> tuple[np.ndarray, list[list[str]], int]:
    """Chosen slices, their texts by row and slice, and the bytes of all texts."""
    chosen = evenly_spaced(len(slices.names), most=count)
    packed = [[pack(images[i], step_hu=step_hu) for i in chosen]
              for images in slices.images.values()]
    return chosen, packed, sum(len(text) for row in packed for text in row)


def pack(image: Float[np.ndarray, "h w"], *, step_hu: int) -> str:
    """(H, W) HU to text; values that are not finite become `UNDEFINED`, large ones are clipped."""
    finite = np.isfinite(image)
    levels = np.clip(np.rint(np.where(finite, image, 0) / step_hu), UNDEFINED + 1, -UNDEFINED - 1)
    levels = np.where(finite, levels, UNDEFINED).astype(np.int32)
    around = np.pad(levels, ((1, 0), (1, 0)))
    left, up, corner = around[1:, :-1], around[:-1, 1:], around[:-1, :-1]
    residual = (levels - ((3 * left + 3 * up - 2 * corner) >> 2)).astype(np.int16)
    zigzag = ((residual << 1) ^ (residual >> 15)).astype(np.uint16)
    planes = (zigzag & 255).astype(np.uint8).tobytes() + (zigzag >> 8).astype(np.uint8).tobytes()
    # Noise has no repeats worth a search, only runs of zeros, which Z_RLE finds fast.
    packer = zlib.compressobj(memLevel=9, strategy=zlib.Z_RLE)
    return base64.b64encode(packer.compress(planes) + packer.flush()).decode("ascii")
