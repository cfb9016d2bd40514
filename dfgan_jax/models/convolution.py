"""Convolution, computed in the fastest form for its shape.

Convolution libraries are optimised for many channels. For few channels, as in the first and last
layers of a U-Net, each form below computes the same sum in another order, as a matrix product.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dfgan_jax.models.winograd import WINOGRAD_SIZES, convolve_winograd
from dfgan_jax.support.jax_functions import optimization_barrier

_MAX_PATCH = 32
"""Largest number of values per patch for which patches are copied into one matrix product."""

_FEW = 300
"""Largest number of a kernel's values for which each channel is summed by itself, ..."""

_LARGE = 2**16
"""... and the smallest number of pixels for which that pays: it takes longer to compile."""

_MANY = 8
"""Number of channels from which a matrix product outweighs its copies."""

_NARROW = 16 if jax.__version_info__ >= (0, 12) else 8
"""Largest number of features for which a CPU computes several pixels at once: the library of JAX
0.10 gains nothing by it from more features, ..."""

_NARROW_PIXELS = 2**14
"""... and the smallest number of pixels for which that pays."""

_NARROW_PLANES = 150
"""Largest number of a kernel's values for which sums over planes are faster still."""

_WINOGRAD_CHANNELS = {2: 128, 3: 48, 4: 48}
"""Size of a kernel → smallest number of channels and of features for which Winograd's form pays on
a CPU, ..."""

_WINOGRAD_PIXELS = 16**2, 256**2
"""... and the numbers of pixels between which it does: smaller images take too few products for
the transform of the kernel, and the transforms of larger ones do not fit into its cache."""


class Conv(nn.Module):
    """Two-dimensional convolution with a square kernel.

    Its parameters are those of `flax.linen.Conv`: `kernel`, (k, k, C, features), and
    `bias`, (features,), both float32.

    Attributes:
      features: channels of the result.
      kernel_size: k.
      stride: of the window.
      padding: zeros on each side.
      use_bias: adds a `bias`.
      dtype: dtype of the computation.
      kernel_init: initial kernel.
      kernel_scale: kernel → factor of the kernel; None for 1.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    dtype: DTypeLike | None = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    kernel_scale: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *,
                 affine: tuple[Float[Array, " features"], Float[Array, " features"]] | None = None
                 ) -> Float[Array, "n h2 w2 features"]:
        """Maps (N, H, W, C) to (N, H', W', features).

        Args:
          x: images.
          affine: gain and offset, (features,) each, of a following normalisation, which is
            folded into the kernel and the bias.
        """
        size = self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (size, size, x.shape[-1], self.features),
                            jnp.float32)
        if self.kernel_scale is not None:
            kernel *= self.kernel_scale(kernel)
        bias = (self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
                if self.use_bias else None)
        if affine is not None:
            gain, offset = affine
            kernel, bias = kernel * gain, offset if bias is None else bias * gain + offset
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = convolve(x, kernel, stride=self.stride, padding=self.padding)
        return y if bias is None else y + bias


def convolve(x: Float[Array, "n h w c"], kernel: Float[Array, "k k c features"], *, stride: int,
             padding: int) -> Float[Array, "n h2 w2 features"]:
    """Cross-correlates images with a kernel.

    Args:
      x: (N, H, W, C).
      kernel: (k, k, C, features), of the same dtype.
      stride: of the window.
      padding: zeros on each side.

    Returns:
      (N, H', W', features).
    """
    size, _, _, features = kernel.shape
    if (stride == 1 < size and 1 < features <= _NARROW and x.dtype == jnp.float32
            and x.shape[1] * x.shape[2] >= _NARROW_PIXELS
            and (x.shape[2] + 2 * padding - size + 1) % _at_once(features) == 0
            and not _suits_planes(x, kernel, most=_NARROW_PLANES)):
        return _narrow(x, kernel, padding)
    return _by_channels(x, kernel, stride=stride, padding=padding)


def _at_once(features: int) -> int:
    """The number of neighbouring pixels whose features fill a vector of a CPU."""
    return 4 if features <= _MANY else 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _narrow(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """Convolves to few features; the gradients are faster in the other forms."""
    y: Array = jax.lax.platform_dependent(
        x, kernel, cpu=functools.partial(_several_pixels, padding=padding),
        default=functools.partial(_by_channels, stride=1, padding=padding))
    return y


def _narrow_forward(x: jax.Array, kernel: jax.Array, padding: int
                    ) -> tuple[jax.Array, Callable[[jax.Array], tuple[jax.Array, jax.Array]]]:
    return jax.vjp(functools.partial(_by_channels, stride=1, padding=padding), x, kernel)


def _narrow_backward(padding: int, vjp: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
                     slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    del padding
    return vjp(slope)


_narrow.defvjp(_narrow_forward, _narrow_backward)


def _several_pixels(x: jax.Array, kernel: jax.Array, *, padding: int) -> jax.Array:
    """Convolves to the features of several neighbouring pixels at once.

    The wider kernel repeats the given kernel, shifted by a pixel each time, with zeros beside it.
    """
    features = kernel.shape[-1]
    count = _at_once(features)
    wide = jnp.concatenate([jnp.pad(kernel, ((0, 0), (i, count - 1 - i), (0, 0), (0, 0)))
                            for i in range(count)], axis=-1)
    y = _convolve(x, wide, stride=(1, count), padding=padding)
    n, h, w, _ = y.shape
    return y.reshape(n, h, w * count, features)


def _by_channels(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int) -> jax.Array:
    """Convolves in the form that suits the numbers of channels and features."""
    size, _, channels, features = kernel.shape
    if size == stride and not padding and x.shape[1] % size == x.shape[2] % size == 0:
        return _over_blocks(x, kernel)
    if size * size * channels <= _MAX_PATCH and features >= _MANY:
        return _over_patches(x, kernel, stride=stride, padding=padding)
    same = stride == 1 and 2 * padding == size - 1
    block = next((b for b in (4, 2) if x.shape[1] % b == x.shape[2] % b == 0), 1)
    if same and features == 1 and channels < _MANY and block > 1:
        return _over_space_to_depth(x, kernel, block=block)
    if stride == 1 and _suits_planes(x, kernel, most=_FEW):
        return _over_planes(x, kernel, padding=padding)
    if stride == 1 and features == 1 and channels >= _MANY:
        return _sum_of_shifts(x, kernel, padding=padding)
    if stride == 2 and size % 2 == x.shape[1] % 2 == x.shape[2] % 2 == 0:
        return _with_many_channels(*_halved(pad(x, padding), kernel), stride=1, padding=0)
    return _with_many_channels(x, kernel, stride=stride, padding=padding)


def _with_many_channels(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int
                        ) -> jax.Array:
    """Convolves in Winograd's form where it pays, otherwise by the libraries of the device."""
    size, _, *channels = kernel.shape
    by_library = functools.partial(_convolve, stride=(stride, stride), padding=padding)
    least, most = _WINOGRAD_PIXELS
    if (stride == 1 and size in WINOGRAD_SIZES and x.dtype == jnp.float32 and padding < size
            and min(channels) >= _WINOGRAD_CHANNELS[size]
            and least <= x.shape[1] * x.shape[2] <= most):
        # GPUs and TPUs have libraries that choose the form.
        y: Array = jax.lax.platform_dependent(
            x, kernel, cpu=functools.partial(convolve_winograd, padding=padding),
            default=by_library)
        return y
    return by_library(x, kernel)


def _convolve(x: jax.Array, kernel: jax.Array, *, stride: tuple[int, int], padding: int
              ) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, stride, [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _halved(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Moves 2×2 pixels of images and kernel into channels, so that stride 2 becomes stride 1.

    The sums are the same, and the gradients need no dilation, which is slow on a CPU.
    """
    n, h, w, c = x.shape
    size, _, _, features = kernel.shape
    x = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    kernel = kernel.reshape(size // 2, 2, size // 2, 2, c, features).transpose(0, 2, 1, 3, 4, 5)
    return (x.reshape(n, h // 2, w // 2, 4 * c),
            kernel.reshape(size // 2, size // 2, 4 * c, features))


def taps_of(x: jax.Array, *, size: int, stride: int) -> list[jax.Array]:
    """Returns the pixels that each of a kernel's k² weights multiplies: (N, H', W', C) each."""
    n, h, w, c = x.shape
    return [jax.lax.slice(x, (0, i, j, 0), (n, h - size + i + 1, w - size + j + 1, c),
                          (1, stride, stride, 1))
            for i in range(size) for j in range(size)]


def pad(x: jax.Array, padding: int) -> jax.Array:
    """Adds zeros on each side of images, (N, H, W, C)."""
    return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def _suits_planes(x: jax.Array, kernel: jax.Array, *, most: int) -> bool:
    """Whether an image is large, and its kernel has few channels and at most so many values."""
    *_, channels, features = kernel.shape
    return (channels <= _MANY and features < _MANY and kernel.size <= most
            and x.shape[1] * x.shape[2] >= _LARGE)


def _over_planes(x: jax.Array, kernel: jax.Array, *, padding: int) -> jax.Array:
    """Sums shifted planes, one of each channel; few channels fill no vector of a processor."""
    size, _, channels, features = kernel.shape
    n, h, w = pad(x, padding).shape[:3]
    planes = [pad(x[..., channel, None], padding)[..., 0] for channel in range(channels)]
    taps = [(jax.lax.slice(plane, (0, i, j), (n, h - size + i + 1, w - size + j + 1)),
             kernel[i, j, channel])
            for channel, plane in enumerate(planes) for i in range(size) for j in range(size)]
    return jnp.stack([sum(tap * weights[feature] for tap, weights in taps)
                      for feature in range(features)], axis=-1)


def _over_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves windows that do not overlap, each as a row of a matrix."""
    n, h, w, c = x.shape
    size = len(kernel)
    blocks = x.reshape(n, h // size, size, w // size, size, c)
    return jnp.einsum("nyixjc,ijcf->nyxf", blocks, kernel)


def _over_patches(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int) -> jax.Array:
    """Convolves patches of few values, each as a column of a matrix.

    As rows, they would be copied along the last axis of few channels, which is slow.
    """
    taps = taps_of(pad(x, padding), size=len(kernel), stride=stride)
    n, h, w, _ = taps[0].shape
    columns = jnp.stack([jnp.moveaxis(tap, -1, 0) for tap in taps]).reshape(-1, n * h * w)
    weights = kernel.reshape(len(columns), -1)
    return jnp.einsum("km,kf->mf", columns, weights).reshape(n, h, w, -1)


def _sum_of_shifts(x: jax.Array, kernel: jax.Array, *, padding: int) -> jax.Array:
    """Convolves to one feature: multiplies each pixel by all k² weights, then sums shifts."""
    size, _, channels, _ = kernel.shape
    weights = kernel.reshape(size * size, channels).T
    products = jnp.matmul(x, weights,
                          preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))
    taps = taps_of(pad(products, padding), size=size, stride=1)
    shifted = [tap[..., k:k + 1] for k, tap in enumerate(taps)]
    return functools.reduce(jnp.add, shifted).astype(x.dtype)


def _over_space_to_depth(x: jax.Array, kernel: jax.Array, *, block: int) -> jax.Array:
    """Moves blocks of pixels into channels, and convolves the blocks.

    The kernel over blocks repeats the given kernel, with zeros outside its support.
    """
    n, h, w, c = x.shape
    size, _, _, features = kernel.shape
    reach = -(-(size // 2) // block)
    # Without the barrier, XLA computes `x` in the order of the blocks, which is slow.
    x = optimization_barrier(x)
    blocks = x.reshape(n, h // block, block, w // block, block, c)
    blocks = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // block, w // block, -1)
    # place[d, s, t, i]: weight i multiplies pixel s of the block d − reach away for output pixel t.
    d, s, t, i = np.ogrid[:2 * reach + 1, :block, :block, :size]
    place = ((d - reach) * block + s - t + size // 2 == i).astype(np.float32)
    wide = jnp.einsum("dsti,euvj,ijcf->desuctvf", place, place, kernel,
                      precision=jax.lax.Precision.HIGHEST).astype(x.dtype)
    wide = wide.reshape(len(place), len(place), block * block * c, block * block * features)
    y = _convolve(blocks, wide, stride=(1, 1), padding=reach)
    y = y.reshape(n, h // block, w // block, block, block, features)
    return y.transpose(0, 1, 3, 2, 4, 5).reshape(n, h, w, features)
