"""Bilinear resizing of images."""

import numpy as np
from jaxtyping import Float


def _interpolation(length: int, resized_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower index, upper index and weight of the upper one, for one axis."""
    centres = (np.arange(resized_length) + 0.5) * (length / resized_length) - 0.5
    centres = np.clip(centres, 0, length - 1)
    lower = np.floor(centres).astype(np.intp)
    upper = np.minimum(lower + 1, length - 1)
    return lower, upper, (centres - lower).astype(np.float32)


def resize(images: Float[np.ndarray, "*n h w"], size: tuple[int, int]
           ) -> Float[np.ndarray, "*n h2 w2"]:
    """Bilinear resize with half-pixel centres and no antialiasing.

    The same as OpenCV's `INTER_LINEAR`, which the published preprocessing uses.

    Args:
      images: (..., H, W) float32.
      size: height and width after the resize.

    Returns:
      (..., size[0], size[1]) float32.
    """
    if images.shape[-2:] == tuple(size):
        return images
    lower, upper, weight = _interpolation(images.shape[-2], size[0])
    weight = weight[:, None]
    images = images[..., lower, :] * (1 - weight) + images[..., upper, :] * weight
    lower, upper, weight = _interpolation(images.shape[-1], size[1])
    resized: np.ndarray = images[..., lower] * (1 - weight) + images[..., upper] * weight
    return resized
