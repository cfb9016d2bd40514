"""Examples: a slice of the test set beside its reference, in windows and as differences.

Images are (H, W) in HU.
"""

import math
import pathlib
from typing import Any, Final, NamedTuple

import numpy as np

from dfgan_jax.evaluation.protocols import FULL_RANGE_HU
from dfgan_jax.evaluation.report import pictures
from dfgan_jax.support.errors import InputError


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


def write_example(figures: pathlib.Path, number: int, example: Example) -> dict[str, Any]:
    """Writes the pictures of one example and returns everything that the template shows of it.

    Args:
      figures: folder of the PNG files.
      number: of the example, in their names.

    Raises:
      InputError: the three images differ in shape.
    """
    shapes = {image.shape for image in example[1:]}
    if len(shapes) != 1 or example.ndct.ndim != 2:
        raise InputError(f"example {example.name!r}: expected one shape (H, W), found {shapes}")
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
        shown: dict[str, Any] = {}
        for key, image in sources.items():
            pixels = pictures.windowed(image, window_center=window.window_center,
                                       window_width=window.window_width)
            name = f"{stem}_{window.name.lower()}_{key}"
            shown[key] = {
                "whole": pictures.save(figures, name, pictures.png(pixels)),
                "detail": pictures.save(figures, f"{name}_detail",
                                        pictures.png(region.cut(pixels))),
            }
        frame = {"left": region.left / width, "top": region.top / height,
                 "width": side / width, "height": side / height}
        windows.append({"window": window, "frame": frame, "pictures": shown})

    limit_hu = pictures.difference_limit_hu(example.qdct - example.ndct)
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
                "src": pictures.save(figures, f"{stem}_{key}", pictures.png(
                    pictures.difference_levels(difference, limit_hu=limit_hu),
                    colours=pictures.palette())),
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
