"""Convolution with fewer multiplications (Lavin and Gray, CVPR 2016), and its gradients.

F(m×m, k×k): m×m pixels of the result take (m + k − 1)² products of a transformed tile of the image
and a transformed kernel, instead of m² · k². The transforms of tiles are sums of few terms.
"""

import functools
from collections.abc import Sequence
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dfgan_jax.support.jax_functions import optimization_barrier

_TILES: Final = {2: 4, 3: 4, 4: 3}
"""Size of a kernel, k → pixels of the result along a tile's side, m."""

WINOGRAD_SIZES: Final = tuple(_TILES)

_POINTS: Final = (0.0, 1.0, -1.0, 0.5, -2.0)
"""Where polynomials are evaluated, as many as are needed, and ∞; they err half as much as 0, ±1 and
±2 (Barabasz et al., ACM TOMS 46(4), 2020)."""


class _Transforms(NamedTuple):
    """The paper's matrices Bᵀ, G and Aᵀ, with s = m + k − 1."""

    image: np.ndarray
    """(s, s)"""

    kernel: np.ndarray
    """(s, k)"""

    result: np.ndarray
    """(m, s)"""


@functools.cache
def _transforms(size: int) -> _Transforms:
    """Those of a kernel of `size`, by Toom and Cook's method."""
    tile = _TILES[size]
    points = np.array(_POINTS[:tile + size - 2])

    def powers(count: int) -> np.ndarray:
        return np.vstack([points[:, None] ** np.arange(count), np.eye(count)[-1]])

    others = [np.delete(points, index) for index in range(len(points))]
    image = np.array([*([*np.poly(each)[::-1], 0] for each in others), np.poly(points)[::-1]])
    slopes = [np.prod(point - each) for point, each in zip(points, others, strict=True)]
    return _Transforms(image, powers(size) / np.array([*slopes, 1])[:, None], powers(tile).T)


def convolve_winograd(x: Float[Array, "n h w c"], kernel: Float[Array, "k k c features"], *,
                      padding: int) -> Float[Array, "n h2 w2 features"]:
    """Cross-correlates images with a kernel of 2×2, 3×3 or 4×4.

    On a CPU it is faster from about 48 channels and features on, 128 for 2×2, and so are its
    gradients, which take the same form. Results of size 1 err by 2e-6 in float32, at most 3e-5,
    where the sum of products errs by 3e-7.

    Args:
      x: (N, H, W, C), of any size.
      kernel: (k, k, C, features), of the same dtype.
      padding: zeros on each side, less than k.

    Returns:
      (N, H', W', features).
    """
    y: Array = _convolve(x, kernel, padding)
    return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    size = len(kernel)
    n, h, w, _ = x.shape
    height, width = (length + 2 * padding - size + 1 for length in (h, w))
    rows, columns = counts = _tile_counts(size, height, width)
    products = jnp.einsum("pmc,pcf->pmf", _image_tiles(x, size, padding, counts), _weights(kernel))
    points = len(_transforms(size).image)
    y = products.reshape(points, points, n, rows, columns, -1)
    y = _transformed(_transforms(size).result, list(y), axis=3)
    y = _transformed(_transforms(size).result, list(y), axis=4)
    return y.reshape(n, rows * _TILES[size], columns * _TILES[size], -1)[:, :height, :width]


def _convolve_forward(x: jax.Array, kernel: jax.Array, padding: int
                      ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, padding), (x, kernel)


def _gradients(padding: int, operands: tuple[jax.Array, jax.Array], slope: jax.Array
               ) -> tuple[jax.Array, jax.Array]:
    """The gradients of images and kernel, of the slope of the result."""
    x, kernel = operands
    # Without the barrier, XLA keeps the tiles of the forward pass until here.
    x, slope = optimization_barrier((x, slope))
    size, tile = len(kernel), _TILES[len(kernel)]
    of_images = _convolve(slope, kernel[::-1, ::-1].swapaxes(2, 3), size - 1 - padding)
    height, width = slope.shape[1:3]
    rows, columns = counts = _tile_counts(size, height, width)
    slope = optimization_barrier(jnp.pad(
        slope, ((0, 0), (0, rows * tile - height), (0, columns * tile - width), (0, 0))))
    of_weights = jnp.einsum("pmc,pmf->pcf", _image_tiles(x, size, padding, counts),
                            _tiles(_transforms(size).result.T, slope, tile, counts))
    return of_images, (_both_axes(size, x.dtype).T @ of_weights.reshape(len(of_weights), -1)
                       ).reshape(kernel.shape)


_convolve.defvjp(_convolve_forward, _gradients)


def _tile_counts(size: int, height: int, width: int) -> tuple[int, int]:
    """The numbers of rows and columns of tiles that cover a result."""
    return -(-height // _TILES[size]), -(-width // _TILES[size])


def _image_tiles(x: jax.Array, size: int, padding: int, counts: tuple[int, int]) -> jax.Array:
    """The transformed tiles of images, (s², N · rows · columns, C)."""
    tile = _TILES[size]
    below, right = (tile * (count + 1) - length - padding
                    for count, length in zip(counts, x.shape[1:3], strict=True))
    # Without the barrier, XLA pads in each of the sums, pixel by pixel.
    x = optimization_barrier(jnp.pad(x, ((0, 0), (padding, below), (padding, right), (0, 0))))
    return _tiles(_transforms(size).image, x, tile, counts)


def _tiles(matrix: np.ndarray, x: jax.Array, tile: int, counts: tuple[int, int]) -> jax.Array:
    """Transforms tiles, one every `tile` pixels, along both axes: (s², N · rows · columns, C)."""
    rows, columns = counts
    size = matrix.shape[1]
    x = _transformed(matrix, _taps(x, axis=1, count=rows, tile=tile, size=size), axis=0)
    x = _transformed(matrix, _taps(x, axis=3, count=columns, tile=tile, size=size), axis=1)
    return x.reshape(len(matrix) ** 2, -1, x.shape[-1])


def _weights(kernel: jax.Array) -> jax.Array:
    """The transformed kernel, (s², C, features), by a matrix product: sums take twice as long."""
    size, _, *channels = kernel.shape
    matrix = _both_axes(size, kernel.dtype)
    return (matrix @ kernel.reshape(size * size, -1)).reshape(len(matrix), *channels)


def _both_axes(size: int, dtype: np.dtype) -> jax.Array:
    """(s², k²): a kernel's transform along both of its axes."""
    matrix = _transforms(size).kernel
    return jnp.asarray(np.kron(matrix, matrix), dtype)


def _taps(x: jax.Array, *, axis: int, count: int, tile: int, size: int) -> list[jax.Array]:
    """The pixels of each tile of `size` along an axis, which becomes that of the tiles.

    Tiles begin every `tile` pixels, so that a tile ends within the next one's.
    """
    blocks = x.reshape(*x.shape[:axis], -1, tile, *x.shape[axis + 1:])
    before = (slice(None),) * axis
    return [blocks[*before, pixel // tile:pixel // tile + count, pixel % tile]
            for pixel in range(size)]


def _transformed(matrix: np.ndarray, parts: Sequence[jax.Array], *, axis: int) -> jax.Array:
    """One weighted sum of the parts for each row of a matrix, along a new axis."""
    return jnp.stack([sum(float(weight) * part
                          for weight, part in zip(row, parts, strict=True) if weight)
                      for row in matrix], axis=axis)
