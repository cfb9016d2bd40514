"""A slice whose noise, kernel and pixel pitch are known."""

import numpy as np

from dfgan_jax.simulation.noise_insertion import insert_noise

SIZE, SPACING_MM, KERNEL_LP_CM = 160, 0.8, 3.5


def noisy_disc(noise_hu: float, *, seed: int = 0) -> np.ndarray:
    """(160, 160) HU: a disc of soft tissue in air, with the noise of a scan.

    Args:
      noise_hu: standard deviation in the middle.
    """
    offsets = (np.arange(SIZE) - SIZE / 2) * SPACING_MM
    disc = np.where(np.hypot(offsets, offsets[:, None]) < 55, 20, -1000).astype(np.float32)
    noise = insert_noise(np.random.default_rng(seed), disc, pixel_spacing_mm=SPACING_MM,
                         dose_fraction=0.5, kernel=KERNEL_LP_CM, photons_per_ray=1e6,
                         electronic_noise_std=0.0) - disc
    return disc + noise * (noise_hu / noise[60:100, 60:100].std())
