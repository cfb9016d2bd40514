"""Classical denoisers of scikit-image, tuned on validation slices.

Images are (H, W) in HU; the unit of each parameter is in `Baseline.units`. Functions import
scikit-image themselves: training would wait for it.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from dfgan_jax.support.errors import InputError

MAX_TUNING_SLICES = 4
"""Validation slices for the tuning of parameters, evenly spaced."""

_MAX_TRIALS = 40
_LEAST_ERROR_HU2 = 1e-6

Parameters = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """A classical denoiser.

    Attributes:
      name: of its row.
      denoise: ((H, W) HU, **parameters) → (H, W) HU.
      start: the noise's standard deviation [HU] → first parameters of the search.
      units: parameter → its unit.
    """

    name: str
    denoise: Callable[..., Float[np.ndarray, "h w"]]
    start: Callable[[float], Parameters]
    units: Mapping[str, str]

    def describe(self, parameters: Mapping[str, float]) -> str:
        """The parameters in words."""
        return ", ".join(f"{name} {value:.3g} {self.units[name]}".rstrip()
                         for name, value in parameters.items())


def _gaussian(image: np.ndarray, *, sigma: float) -> np.ndarray:
    from skimage import filters

    blur: Callable[..., np.ndarray] = filters.gaussian
    return blur(image, sigma, mode="reflect", preserve_range=True)


def _bilateral(image: np.ndarray, *, sigma_spatial: float, sigma_color: float) -> np.ndarray:
    from skimage import restoration

    # scikit-image tabulates differences from 0 to the greatest value, so HU are shifted above 0.
    # The neighbourhood is fixed: its default grows with sigma_spatial, and the time as the square.
    lowest = image.min()
    denoised: np.ndarray = lowest + restoration.denoise_bilateral(
        image - lowest, win_size=11, sigma_color=sigma_color, sigma_spatial=sigma_spatial,
        mode="reflect")
    return denoised


def _nl_means(image: np.ndarray, *, h: float, sigma: float) -> np.ndarray:
    from skimage import restoration

    denoised: np.ndarray = restoration.denoise_nl_means(
        image, patch_size=5, patch_distance=6, h=h, sigma=sigma, fast_mode=True,
        preserve_range=True)
    return denoised


def _total_variation(image: np.ndarray, *, weight: float) -> np.ndarray:
    from skimage import restoration

    denoise: Callable[..., np.ndarray] = restoration.denoise_tv_chambolle
    return denoise(image, weight=weight)


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


def tune(baseline: Baseline, qdct: Float[np.ndarray, "n h w"], ndct: Float[np.ndarray, "n h w"]
         ) -> Parameters:
    """Finds the parameters with the highest mean PSNR.

    A Nelder-Mead search over the parameters' logarithms; parameters stay within a factor of 30
    of the start.

    Args:
      baseline: to tune.
      qdct: (N, H, W), HU: validation slices, never test slices.
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
        # The mean PSNR up to a constant and a negative factor. A slice that every parameter
        # restores, as a blank one, must not make the sum infinite.
        return float(np.mean([np.log(max(_LEAST_ERROR_HU2, np.mean(np.square(
            baseline.denoise(image, **parameters) - reference, dtype=np.float64))))
            for image, reference in zip(qdct, ndct, strict=True)]))

    centre = np.log(list(start.values()))
    found = scipy.optimize.minimize(
        loss, centre, method="Nelder-Mead", bounds=[(x - np.log(30), x + np.log(30))
                                                    for x in centre],
        options={"xatol": 0.05, "fatol": 1e-3, "maxfev": _MAX_TRIALS,
                 "initial_simplex": np.stack([centre, *(centre + 0.5 * np.eye(len(centre)))])})
    return dict(zip(start, np.exp(found.x).tolist(), strict=True))
