"""Classical denoisers of scikit-image, each with the parameters that validation slices ask for.

Images are (H, W) float32 in HU, and so are the parameters that have a unit. scikit-image is
imported where it is used: training would wait for it.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from dfgan_jax.support.errors import InputError

MAX_TUNING_SLICES = 4
"""Validation slices that parameters are tuned on, evenly spaced."""

_MAX_TRIALS = 40

Parameters = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """A classical denoiser.

    Attributes:
      name: of its row.
      denoise: ((H, W) HU, **parameters) → (H, W) HU.
      start: of the search, by the noise's standard deviation [HU].
      units: of each parameter.
    """

    name: str
    denoise: Callable[..., np.ndarray]
    start: Callable[[float], Parameters]
    units: Mapping[str, str]

    def describe(self, parameters: Mapping[str, float]) -> str:
        """The parameters in words."""
        return ", ".join(f"{name} {value:.3g} {self.units[name]}".rstrip()
                         for name, value in parameters.items())


def _gaussian(image: np.ndarray, *, sigma: float) -> np.ndarray:
    from skimage import filters

    return filters.gaussian(image, sigma, mode="reflect", preserve_range=True)


def _bilateral(image: np.ndarray, *, sigma_spatial: float, sigma_color: float) -> np.ndarray:
    from skimage import restoration

    # Its table of differences reaches from 0 to the greatest value, so negative HU are lifted.
    # The neighbourhood is fixed: its default grows with sigma_spatial, and its time as the square.
    lowest = image.min()
    return lowest + restoration.denoise_bilateral(
        image - lowest, win_size=11, sigma_color=sigma_color, sigma_spatial=sigma_spatial,
        mode="reflect")


def _nl_means(image: np.ndarray, *, h: float, sigma: float) -> np.ndarray:
    from skimage import restoration

    return restoration.denoise_nl_means(image, patch_size=5, patch_distance=6, h=h, sigma=sigma,
                                        fast_mode=True, preserve_range=True)


def _total_variation(image: np.ndarray, *, weight: float) -> np.ndarray:
    from skimage import restoration

    return restoration.denoise_tv_chambolle(image, weight=weight)


BASELINES = {
    "gaussian": Baseline(
        name="Gaussian", denoise=_gaussian,
        start=lambda noise: {"sigma": 0.7}, units={"sigma": "px"}),
    "bilateral": Baseline(
        name="Bilateral", denoise=_bilateral,
        start=lambda noise: {"sigma_spatial": 1.0, "sigma_color": 3 * noise},
        units={"sigma_spatial": "px", "sigma_color": "HU"}),
    "nlm": Baseline(
        name="Non-local means", denoise=_nl_means,
        start=lambda noise: {"h": 0.6 * noise, "sigma": noise},
        units={"h": "HU", "sigma": "HU"}),
    "tv": Baseline(
        name="Total variation", denoise=_total_variation,
        start=lambda noise: {"weight": noise}, units={"weight": "HU"}),
}
"""Name in a configuration → denoiser: linear smoothing; Tomasi & Manduchi, ICCV 1998; Buades et
al., CVPR 2005; Rudin et al. 1992, by Chambolle 2004."""


def tune(baseline: Baseline, qdct: np.ndarray, ndct: np.ndarray) -> Parameters:
    """The parameters with the highest mean PSNR.

    A Nelder-Mead search over the parameters' logarithms, which stay within a factor of 30 of
    the start.

    Args:
      qdct: (N, H, W) float32, HU: validation slices, never those of a test.
      ndct: the references.

    Raises:
      InputError: the slices are equal to their references.
    """
    import scipy.optimize

    noise = float(np.sqrt(np.mean(np.square(qdct - ndct, dtype=np.float64))))
    if noise == 0:
        raise InputError("validation slices equal their references: nothing to tune baselines on")
    start = baseline.start(noise)

    def loss(logarithms: np.ndarray) -> float:
        parameters = dict(zip(start, np.exp(logarithms), strict=True))
        # The mean PSNR, but for a factor and a constant.
        return float(np.mean([np.log(np.mean(np.square(
            baseline.denoise(image, **parameters) - reference, dtype=np.float64)))
            for image, reference in zip(qdct, ndct, strict=True)]))

    centre = np.log(list(start.values()))
    found = scipy.optimize.minimize(
        loss, centre, method="Nelder-Mead", bounds=[(x - np.log(30), x + np.log(30))
                                                    for x in centre],
        options={"xatol": 0.05, "fatol": 1e-3, "maxfev": _MAX_TRIALS,
                 "initial_simplex": np.stack([centre, *(centre + 0.5 * np.eye(len(centre)))])})
    return dict(zip(start, np.exp(found.x).tolist(), strict=True))
