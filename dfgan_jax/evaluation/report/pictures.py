"""Images in HU as pictures: grey through a window, differences in two colours.

Images are (H, W) in HU. A picture has no text, and each pixel of the image is one pixel or a
square of pixels; numbers and labels are HTML, readable on a phone and in either colour scheme.
"""

import base64
import io
import math
import pathlib
from typing import Final

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from dfgan_jax.scans.windows import Window
from dfgan_jax.support.full_disk import full_disk_named

PICTURE_SIDE: Final = 512
"""Smaller pictures are enlarged up to this many pixels, by a whole factor."""

_DIVERGING: Final = matplotlib.colormaps["RdBu_r"]
_LEVELS: Final = 127
"""Colours on either side of zero, whose own colour is exactly in the middle."""


def windowed(image: Float[np.ndarray, "h w"], window: Window) -> UInt8[np.ndarray, "h w"]:
    """(H, W) HU to (H, W) uint8: black at the window's lower end, white at its upper end."""
    grey = np.nan_to_num((image - window.low) * (255.0 / window.width))
    return np.rint(np.clip(grey, 0, 255)).astype(np.uint8)


def difference_levels(difference: Float[np.ndarray, "h w"], *, limit_hu: float
                      ) -> UInt8[np.ndarray, "h w"]:
    """(H, W) HU to (H, W) uint8 colour numbers: 0 at -limit_hu, 127 at 0, 254 at +limit_hu."""
    levels: np.ndarray = np.rint(np.nan_to_num(difference) * (_LEVELS / limit_hu))
    numbers: np.ndarray = (np.clip(levels, -_LEVELS, _LEVELS) + _LEVELS).astype(np.uint8)
    return numbers


def difference_limit_hu(noise: Float[np.ndarray, "..."], *, step: float = 10.0) -> float:
    """End of the difference scale [HU]: the multiple of `step` that includes 99 % of the noise."""
    percentile = float(np.percentile(np.abs(np.nan_to_num(noise)), 99))
    return max(step, step * math.ceil(percentile / step))


def decibel_levels(spectrum: Float[np.ndarray, "h w"], *, highest: float, decades: float = 3.0
                   ) -> UInt8[np.ndarray, "h w"]:
    """(H, W) powers to (H, W) uint8: white at `highest`, black `decades` powers of ten below."""
    floor = 10.0**-decades
    relative = np.maximum(np.nan_to_num(spectrum) / highest, floor) if highest > 0 else floor
    grey = 255.0 * (1 + np.log10(np.broadcast_to(relative, spectrum.shape)) / decades)
    return np.rint(np.clip(grey, 0, 255)).astype(np.uint8)


def palette() -> bytes:
    """Red, green and blue of the 255 colours of a difference, from lowest to highest."""
    colours = _DIVERGING(np.linspace(0, 1, 2 * _LEVELS + 1), bytes=True)
    return colours[:, :3].tobytes()


def colour_bar_css() -> str:
    """The palette as a CSS gradient."""
    colours = _DIVERGING(np.linspace(0, 1, 17), bytes=True)
    stops = ", ".join("#" + colour[:3].tobytes().hex() for colour in colours)
    return f"linear-gradient(90deg, {stops})"


def png(pixels: UInt8[np.ndarray, "h w"], *, colours: bytes | None = None,
        side: int = PICTURE_SIDE) -> bytes:
    """(H, W) uint8, grey or colour numbers, as a PNG; enlarged by a whole factor up to `side`."""
    factor = max(1, side // max(pixels.shape))
    image = Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    if colours is not None:
        image.putpalette(colours)
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


def save(figures: pathlib.Path, name: str, picture: bytes) -> str:
    """Writes a picture to `figures/name.png` and returns it as a data URI."""
    with full_disk_named(figures / f"{name}.png"):
        (figures / f"{name}.png").write_bytes(picture)
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
