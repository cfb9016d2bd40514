"""Examples: slices of the test set beside their references, in windows and as differences.

Images are (H, W) in HU.
"""

import math
import pathlib
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from dfgan_jax.evaluation.protocols import FULL_RANGE_HU
from dfgan_jax.evaluation.report import pictures
from dfgan_jax.scans import windows
from dfgan_jax.scans.tissues import windows_of
from dfgan_jax.scans.windows import Window
from dfgan_jax.support.errors import InputError


class Example(NamedTuple):
    """One slice of the test set as NDCT, QDCT and denoised, each (H, W) in HU."""

    name: str
    ndct: Float[np.ndarray, "h w"]
    qdct: Float[np.ndarray, "h w"]
    denoised: Float[np.ndarray, "h w"]


class Region(NamedTuple):
    """A square cut-out, in pixels."""

    top: int
    left: int
    side: int

    def cut(self, image: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "side side"]:
        """(H, W) to (side, side)."""
        return image[self.top : self.top + self.side, self.left : self.left + self.side]


class View(NamedTuple):
    """A display window, and lowest and highest HU of the tissue with the detail to enlarge."""

    name: str
    window: Window
    tissue: tuple[float, float]


# The tissue ranges exclude air and bone: their edges have steep gradients, but no detail that a
# denoiser could lose.
VIEWS: Final = (
    View("Abdomen", windows.ABDOMEN, (-150.0, 250.0)),
    View("Lung", windows.LUNG, (-950.0, -200.0)),
    View("Brain", windows.BRAIN, (-20.0, 100.0)),
)

DIFFERENCES: Final = {
    "qdct_minus_ndct": ("QDCT − NDCT", "noise of the input"),
    "denoised_minus_ndct": ("Denoised − NDCT", "error that is left"),
    "denoised_minus_qdct": ("Denoised − QDCT", "removed: should be noise, not anatomy"),
}
"""Name → formula, and content of the map."""


def write_example(figures: pathlib.Path, number: int, example: Example) -> dict[str, object]:
    """Writes the pictures of one example and returns its content for the template.

    Args:
      figures: folder of the PNG files.
      number: of the example, in the names of the files.
      example: to show.

    Raises:
      InputError: the three images differ in shape.
    """
    shapes = {image.shape for image in example[1:]}
    if len(shapes) != 1 or example.ndct.ndim != 2:
        raise InputError(f"example {example.name!r}: expected one shape (H, W), found {shapes}")
    height, width = example.ndct.shape
    side = max(min(height, width) // 4, 1)
    soft_tissue = detail_region(example.ndct, tissue=VIEWS[0].tissue, side=side)
    centre = Region((height - side) // 2, (width - side) // 2, side)
    # File names have only the number: an example's name may have any character.
    stem = f"example_{number}"
    sources = {"qdct": example.qdct, "denoised": example.denoised, "ndct": example.ndct}

    views = []
    for view in views_of(example.ndct):
        region = (detail_region(example.ndct, tissue=view.tissue, side=side)
                  or soft_tissue or centre)
        shown = {}
        for key, image in sources.items():
            pixels = pictures.windowed(image, view.window)
            name = f"{stem}_{view.name.lower()}_{key}"
            shown[key] = {
                "whole": pictures.save(figures, name, pictures.png(pixels)),
                "detail": pictures.save(figures, f"{name}_detail",
                                        pictures.png(region.cut(pixels))),
            }
        frame = {"left": region.left / width, "top": region.top / height,
                 "width": side / width, "height": side / height}
        views.append({"name": view.name, "window": view.window, "frame": frame,
                      "pictures": shown})

    limit_hu = pictures.difference_limit_hu(example.qdct - example.ndct)
    differences = dict(zip(DIFFERENCES, (
        example.qdct - example.ndct, example.denoised - example.ndct,
        example.denoised - example.qdct), strict=True))
    return {
        "name": example.name,
        "shape": f"{height}×{width}",
        "scores": {key: _scores(sources[key], example.ndct) for key in ("qdct", "denoised")},
        "views": views,
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


def views_of(ndct: Float[np.ndarray, "h w"]) -> list[View]:
    """The views that fit the anatomy of a slice, the best first; see `tissues.windows_of`."""
    by_window = {view.window: view for view in VIEWS}
    return [by_window[window] for window in windows_of(ndct)]


def write_overview(figures: pathlib.Path, example: Example) -> dict[str, object]:
    """Writes the four pictures of the first screen and returns them for the template.

    Args:
      figures: folder of the PNG files.
      example: to show, in the window that fits its anatomy best.
    """
    view = views_of(example.ndct)[0]
    limit_hu = pictures.difference_limit_hu(example.qdct - example.ndct)
    sources = {"QDCT": example.qdct, "Denoised": example.denoised, "NDCT": example.ndct}
    shown = {name: pictures.save(figures, f"overview_{name.lower()}",
                                 pictures.png(pictures.windowed(image, view.window)))
             for name, image in sources.items()}
    removed = pictures.difference_levels(example.denoised - example.qdct, limit_hu=limit_hu)
    shown["Denoised − QDCT"] = pictures.save(
        figures, "overview_removed", pictures.png(removed, colours=pictures.palette()))
    return {"name": example.name, "view": view, "limit_hu": limit_hu, "pictures": shown}


def _scores(image: np.ndarray, ndct: np.ndarray) -> dict[str, float]:
    """PSNR [dB] under `FULL_RANGE_HU` and RMSE [HU] of two (H, W) images in HU.

    The PSNR is NaN if the images are equal or not finite.
    """
    rmse_hu = float(np.sqrt(np.mean(np.square(image - ndct, dtype=np.float64))))
    defined = 0 < rmse_hu < math.inf
    psnr = 20 * math.log10(FULL_RANGE_HU / rmse_hu) if defined else math.nan
    return {"psnr": psnr, "rmse_hu": rmse_hu}


def _box_mean(image: np.ndarray, side: int) -> np.ndarray:
    """Mean over every square within the image: (H, W) to (H - side + 1, W - side + 1)."""
    total = np.pad(image, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    mean: np.ndarray = (total[side:, side:] - total[:-side, side:] - total[side:, :-side]
                        + total[:-side, :-side]) / side**2
    return mean


def _cross(mask: np.ndarray) -> np.ndarray:
    """Every pixel with its four neighbours, (H, W) to (5, H, W) bool; False outside."""
    framed = np.pad(mask, 1)
    return np.stack([mask, framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2],
                     framed[1:-1, 2:]])


def body_mask(image: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The patient with lungs and bowel gas, without table and air.

    Args:
      image: (H, W) HU.

    Returns:
      (H, W) bool: all pixels between the first and the last pixel, in row and column, of the
      region connected with the densest part of the image.
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
    filled: np.ndarray = (after & before).all(0)
    return filled


def _best_region(score: np.ndarray, side: int) -> Region:
    """The square of the upper left corner with the highest score; scores are (H, W)."""
    top, left = np.unravel_index(np.argmax(score), score.shape)
    return Region(int(top), int(left), side)


def detail_region(ndct: Float[np.ndarray, "h w"], *, tissue: tuple[float, float], side: int
                  ) -> Region | None:
    """The square with the steepest gradients within a tissue of the patient.

    Args:
      ndct: (H, W) HU.
      tissue: lowest and highest HU of the tissue; its edge pixels are excluded.
      side: of the square [pixels].

    Returns:
      The region; None if no square is nine tenths patient and a quarter tissue.
    """
    smooth = 5  # pixels; otherwise the noisiest region would be chosen
    image = _box_mean(np.pad(ndct.astype(np.float64), smooth // 2, mode="edge"), smooth)
    body = body_mask(image)
    inside = (image > tissue[0]) & (image < tissue[1])
    # A gradient involves the pixel on each side, which must be of the tissue, too.
    inside = np.asarray(_cross(inside).all(0))
    allowed = ((_box_mean(body.astype(np.float64), side) >= 0.9)
               & (_box_mean(inside.astype(np.float64), side) >= 0.25))
    if not allowed.any():
        return None
    gradient = np.hypot(*np.gradient(image))
    return _best_region(np.where(allowed, _box_mean(gradient * inside, side), -1.0), side)
