"""Image quality metrics, by dm-pix; VIF by sewar.

Images are (N, H, W) in HU, and every metric has one value per image, (N,). The data range [HU]
is an argument everywhere: the protocol chooses it.
"""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dfgan_jax.scans.windows import Window
from dfgan_jax.support.progress import Progress

SSIM_WINDOW = 11
"""Side of the Gaussian window [pixels], σ 1.5."""


def psnr(images: Float[Array | np.ndarray, "n h w"], ndct: Float[Array | np.ndarray, "n h w"], *,
         data_range: Float[Array, ""] | float) -> Float[Array, " n"]:
    """Peak signal-to-noise ratio [dB]: 20·log10(data_range / RMSE).

    Args:
      images: (N, H, W), HU.
      ndct: the reference, same shape.
      data_range: the peak [HU], one for all images.

    Returns:
      (N,); infinite where the images are equal.
    """
    scores: Array = jax.vmap(dm_pix.psnr)((images / data_range)[..., None],
                                          (ndct / data_range)[..., None])
    return scores


def ssim(images: Float[Array | np.ndarray, "n h w"], ndct: Float[Array | np.ndarray, "n h w"], *,
         data_range: Float[Array, ""] | float) -> Float[Array, " n"]:
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

    def one(pair: tuple[Array, Array]) -> Array:
        image, reference = (jnp.pad(each / data_range, pad, mode="reflect")[..., None]
                            for each in pair)
        score: Array = dm_pix.ssim(image, reference, filter_size=SSIM_WINDOW, filter_sigma=1.5,
                                   k1=0.01, k2=0.03)
        return score

    # One image at a time: dm-pix's filters over a whole batch take many times the memory.
    scores: Array = jax.lax.map(one, (images, ndct))
    return scores


def rmse_hu(images: Float[Array | np.ndarray, "n h w"], ndct: Float[Array | np.ndarray, "n h w"]
            ) -> Float[Array, " n"]:
    """Root-mean-square error [HU] of (N, H, W) images, (N,)."""
    return jnp.sqrt(jnp.mean(jnp.square(images - ndct), axis=(-2, -1)))


VIF_NOISE_VARIANCE = 2.0
"""Variance of the visual noise [HU²], ldct-benchmark's."""

MIN_VIF_SIZE = 41
"""The smallest height and width of an image with a VIF, for its four scales."""


def vif(images: Float[np.ndarray, "n h w"], ndct: Float[np.ndarray, "n h w"], *,
        window_hu: Window, progress: Progress | None = None) -> Float[np.ndarray, " n"]:
    """Visual information fidelity in the pixel domain (Sheikh & Bovik, IEEE TIP 2006).

    Args:
      images: (N, H, W), HU.
      ndct: the reference, same shape.
      window_hu: both are clipped to it.
      progress: advanced by one for each image.

    Returns:
      (N,) float64: 1 for equal images, 0 for an image without any of the reference; NaN for
      images smaller than `MIN_VIF_SIZE`, or a reference of one value only.
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
def all_metrics(images: Float[Array, "n h w"], ndct: Float[Array, "n h w"],
                data_range: Float[Array, ""] | float) -> dict[str, Float[Array, " n"]]:
    """`psnr`, `ssim` and `rmse_hu` of (N, H, W) images in HU, each (N,)."""
    return {"psnr": psnr(images, ndct, data_range=data_range),
            "ssim": ssim(images, ndct, data_range=data_range),
            "rmse_hu": rmse_hu(images, ndct)}
