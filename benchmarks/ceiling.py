"""The gain over QDCT that no denoiser exceeds, by protocol, and the anatomy that even the best
removes: estimated from pairs.

    python -m benchmarks.ceiling --pairs=L096.npy [--pairs=…] [--checkpoint=dfgan] \
        [--dose_fraction=0.25] [--json=ceiling.json]

A denoiser is scored against a normal dose with noise of its own, which it cannot predict. Let T be
the anatomy, n the noise of the normal dose and m the noise that the low dose adds, of the same
spectrum and 1/D − 1 times the variance. The best estimate of T + n that anyone can make of
T + n + m, given T, is T + D (n + m). Within a window it is the mean of a Gaussian of variance
(1 − D) σ² around it, clipped to the window, as the protocol clips the normal dose.

Here T is the normal dose denoised by the checkpoint, m the difference of the pair, and n the
difference of the pair before, scaled: once as it lies, and once mirrored. Their results enclose
no certain interval, but show how much depends on the placement. In `full_range` the ceiling must
come out close to 10 log₁₀(1/D) dB.

The best estimate removes (1 − D) (n + m), and the structure measure finds anatomy in it, since n
is in the normal dose, too: the least that a denoiser of highest PSNR can have.
"""

import sys

import numpy as np
import scipy.ndimage
import scipy.stats
from absl import app, flags
from jaxtyping import Float

from benchmarks.json_file import write_json
from benchmarks.pairs_hu import read_hu
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.evaluation import physics
from dfgan_jax.evaluation.protocols import FULL_RANGE, PROTOCOLS, Protocol
from dfgan_jax.support.errors import InputError

_PAIRS = flags.DEFINE_multi_string("pairs", [], "Pairs in the published file format.",
                                  allow_override=True)
_CHECKPOINT = flags.DEFINE_string("checkpoint", "dfgan", "Name, workdir or file of weights.",
                                  allow_override=True)
_DOSE_FRACTION = flags.DEFINE_float("dose_fraction", 0.25, "Of the pairs, between 0 and 1.",
                                    lower_bound=1e-3, upper_bound=0.999, allow_override=True)
_JSON = flags.DEFINE_string("json", None, "File to write.", allow_override=True)

_ANATOMY = "anatomy removed [HU rms]"

_SCORED = FULL_RANGE, PROTOCOLS["redcnn"]
_PIXELS = 12.0
"""Standard deviation of the Gaussian that averages the local variance of the noise."""


def clipped_mean(mean: Float[np.ndarray, "..."], std: Float[np.ndarray, "..."],
                 low: float, high: float) -> Float[np.ndarray, "..."]:
    """The mean of Gaussians that are clipped to [low, high]."""
    gaussian = scipy.stats.norm
    below, above = (low - mean) / std, (high - mean) / std
    between: np.ndarray = (mean * (gaussian.cdf(above) - gaussian.cdf(below))
                           + std * (gaussian.pdf(below) - gaussian.pdf(above)))
    return between + low * gaussian.cdf(below) + high * gaussian.sf(above)


def best_estimate(anatomy: Float[np.ndarray, "n h w"], added: Float[np.ndarray, "n h w"],
                  own: Float[np.ndarray, "n h w"], *, dose_fraction: float
                  ) -> Float[np.ndarray, "n h w"]:
    """T + D (n + m) [HU]; for the arguments see `ceiling`."""
    return anatomy + dose_fraction * (own + added)


def removed_anatomy(images: Float[np.ndarray, "n h w"], ndct: Float[np.ndarray, "n h w"],
                    qdct: Float[np.ndarray, "n h w"]) -> float | None:
    """Anatomy in images − QDCT [HU rms]; see `evaluation.structure`."""
    structure = physics.measure_slices(images, ndct, qdct, pixel_spacing_mm=None).structure
    return None if structure is None else structure.rms_hu


def ceiling(anatomy: Float[np.ndarray, "n h w"], added: Float[np.ndarray, "n h w"],
            own: Float[np.ndarray, "n h w"], *, dose_fraction: float, protocol: Protocol) -> float:
    """The mean gain in PSNR of the best estimate over the low dose [dB].

    Args:
      anatomy: T [HU].
      added: m, the noise that the low dose adds [HU].
      own: n, the noise of the normal dose [HU].
      dose_fraction: D, between 0 and 1.
      protocol: that scores.
    """
    ndct = anatomy + own
    best = best_estimate(anatomy, added, own, dose_fraction=dose_fraction)
    if protocol.window_hu is not None:
        variance = np.stack([scipy.ndimage.gaussian_filter(noise**2, _PIXELS) for noise in added])
        best = clipped_mean(best, np.sqrt(dose_fraction * variance) + 1e-3,
                            protocol.window_hu.low, protocol.window_hu.high)
    estimate, low_dose = (protocol.score(images.astype(np.float32), ndct.astype(np.float32))["psnr"]
                          for images in (best, ndct + added))
    return float((estimate - low_dose).mean())


def measure(path: str, *, denoiser: Denoiser, dose_fraction: float
            ) -> dict[str, dict[str, float | None]]:
    """Protocol → row → mean gain over QDCT [dB], of a file of pairs; and `_ANATOMY` → row.

    Raises:
      InputError: the file cannot be used, or holds one slice.
    """
    qdct, ndct = read_hu(path)
    if len(qdct) < 2:
        raise InputError(f"{path}: holds one slice; expected two, of which each lends its noise")
    denoised = denoiser(qdct)
    anatomy = denoiser(ndct).astype(np.float64)
    added = (qdct - ndct).astype(np.float64)
    own = np.roll(added, 1, axis=0) / np.sqrt(1 / dose_fraction - 1)
    placements = {"noise as it lies": own, "noise mirrored": own[:, ::-1]}
    results: dict[str, dict[str, float | None]] = {}
    for protocol in _SCORED:
        after, before = (protocol.score(images.astype(np.float32), ndct)["psnr"]
                         for images in (denoised, qdct))
        results[protocol.name] = {"denoiser": float((after - before).mean()), **{
            f"ceiling, {placement}": ceiling(anatomy, added, noise, protocol=protocol,
                                             dose_fraction=dose_fraction)
            for placement, noise in placements.items()}}
    results[_ANATOMY] = {"denoiser": removed_anatomy(denoised, ndct, qdct), **{
        f"best estimate, {placement}": removed_anatomy(
            best_estimate(anatomy, added, noise, dose_fraction=dose_fraction),
            anatomy + noise, anatomy + noise + added)
        for placement, noise in placements.items()}}
    return results


def main(argv: list[str]) -> None:
    if len(argv) > 1 or not _PAIRS.value:
        raise app.UsageError("expected --pairs=FILE, and no other argument")
    results = {}
    try:
        denoiser = Denoiser.load(_CHECKPOINT.value)
        for path in _PAIRS.value:
            results[path] = measure(path, denoiser=denoiser, dose_fraction=_DOSE_FRACTION.value)
            print(f"{path}: gain over QDCT [dB], and anatomy removed")
            for measure_name, values in results[path].items():
                print(f"  {measure_name:24} " + "  ".join(
                    f"{name} {value:.2f}" for name, value in values.items()
                    if value is not None), flush=True)
    except InputError as error:
        sys.exit(f"error: {error}")
    write_json(_JSON.value, results)


if __name__ == "__main__":
    app.run(main)
