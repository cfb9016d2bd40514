"""Image quality metrics, by dm-pix; VIF by sewar.

Images are (N, H, W) float32 in HU, and every metric is per image, (N,). The data
range is explicit everywhere: it is a choice of the protocol, in HU.
"""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from dfgan_jax.support.progress import Progress

SSIM_WINDOW = 11
"""Side of the Gaussian window [pixels], σ 1.5: the smallest image SSIM takes."""


def psnr(images: jax.Array, ndct: jax.Array, *, data_range: jax.Array | float) -> jax.Array:
    """Peak signal-to-noise ratio [dB]: 20·log10(data_range / RMSE).

    Args:
      images: (N, H, W), HU.
      ndct: the reference, same shape.
      data_range: the peak [HU], one for all images.

    Returns:
      (N,); infinite where the images are equal.
    """
    return jax.vmap(dm_pix.psnr)((images / data_range)[..., None], (ndct / data_range)[..., None])


def ssim(images: jax.Array, ndct: jax.Array, *, data_range: jax.Array | float) -> jax.Array:
    """Structural similarity (Wang et al., IEEE TIP 2004).

    Gaussian window 11×11, σ 1.5, K1 0.01, K2 0.03, population variances; images are
    padded by reflection, so that every pixel has a full window.

    Args:
      images: (N, H, W), HU; H and W at least 6, so that they can be reflected.
      ndct: the reference, same shape.
      data_range: L of the stabilising constants [HU].

    Returns:
      (N,), at most 1.
    """
    pad = SSIM_WINDOW // 2

    def one(image, reference):
        image, reference = (jnp.pad(x / data_range, pad, mode="reflect")[..., None]
                            for x in (image, reference))
        return dm_pix.ssim(image, reference, filter_size=SSIM_WINDOW, filter_sigma=1.5,
                           k1=0.01, k2=0.03)

    # One image at a time: dm-pix's filters over a whole batch take many times the memory.
    return jax.lax.map(lambda pair: one(*pair), (images, ndct))


def rmse_hu(images: jax.Array | np.ndarray, ndct: jax.Array | np.ndarray) -> jax.Array:
    """Root-mean-square error [HU] of (N, H, W) images, (N,)."""
    return jnp.sqrt(jnp.mean(jnp.square(images - ndct), axis=(-2, -1)))


VIF_NOISE_VARIANCE = 2.0
"""Of the visual noise [HU²]: ldct-benchmark's."""

MIN_VIF_SIZE = 41
"""The smallest height and width of an image that has a VIF: its four scales need them."""


def vif(images: np.ndarray, ndct: np.ndarray, *, window_hu: tuple[float, float],
        progress: Progress | None = None) -> np.ndarray:
    """Visual information fidelity in the pixel domain (Sheikh & Bovik, IEEE TIP 2006).

    Args:
      images: (N, H, W), HU.
      ndct: the reference, same shape.
      window_hu: what both are clipped to.
      progress: advanced by each image.

    Returns:
      (N,) float64: 1 for equal images, 0 where nothing of the reference is left; NaN where
      images are smaller than `MIN_VIF_SIZE`, or the reference has one value only.
    """
    import sewar  # here, since training would wait for it

    values = np.full(len(images), np.nan)
    for index in range(len(images)):
        image, reference = (np.clip(each[index], *window_hu) for each in (images, ndct))
        if min(reference.shape) >= MIN_VIF_SIZE and np.ptp(reference):
            values[index] = sewar.vifp(reference, image, sigma_nsq=VIF_NOISE_VARIANCE)
        if progress is not None:
            progress.advance()
    return values


@jax.jit
def all_metrics(images: jax.Array, ndct: jax.Array, data_range: jax.Array | float
                ) -> dict[str, jax.Array]:
    """`psnr`, `ssim` and `rmse_hu` of (N, H, W) images in HU, each (N,)."""
    return {"psnr": psnr(images, ndct, data_range=data_range),
            "ssim": ssim(images, ndct, data_range=data_range),
            "rmse_hu": rmse_hu(images, ndct)}
