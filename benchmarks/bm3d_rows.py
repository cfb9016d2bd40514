"""BM3D beside a checkpoint, with the spectrum of the noise that it removes given to it.

    pip install bm3d==4.0.3 "numpy<2.4"      # of Tampere University, for non-commercial use alone
    python -m benchmarks.bm3d_rows --pairs=L192.npy [--pairs=…] --checkpoint=dfgan \
        [--scales=1,1.2,1.4] [--slices=4] [--json=bm3d.json]

BM3D (Dabov et al., IEEE TIP 2007; for correlated noise Mäkinen et al., IEEE TIP 2020) gets more
here than any user has: the power spectrum of quarter minus normal dose of the very slice, with the
standard deviation of that noise in soft tissue, times each of --scales. At most --slices evenly
spaced slices of each file are scored, since BM3D takes half a minute for a slice of 512².
"""

import sys
from typing import Any

import numpy as np
import scipy.ndimage
from absl import app, flags
from jaxtyping import Float

from benchmarks.json_file import write_json
from benchmarks.pairs_hu import read_hu
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.evaluation import baselines
from dfgan_jax.evaluation.protocols import FULL_RANGE, PROTOCOLS
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.progress import progress
from dfgan_jax.support.spacing import evenly_spaced

_PAIRS = flags.DEFINE_multi_string("pairs", [], "Pairs in the published file format.",
                                  allow_override=True)
_CHECKPOINT = flags.DEFINE_string("checkpoint", "dfgan", "Name, workdir or file of weights.",
                                  allow_override=True)
_SCALES = flags.DEFINE_list("scales", ["1", "1.2", "1.4"], "Of the noise's standard deviation.")
_SLICES = flags.DEFINE_integer("slices", 4, "Most slices of each file.", allow_override=True)
_JSON = flags.DEFINE_string("json", None, "File to write.", allow_override=True)

_SCORED = FULL_RANGE, PROTOCOLS["redcnn"]
_SOFT_TISSUE_HU = 300.0
_SMOOTHED_BINS = 6.0
"""Standard deviation of the Gaussian that smooths a periodogram [bins]."""


def noise_spectrum(noise: Float[np.ndarray, "h w"], std: float) -> Float[np.ndarray, "h w"]:
    """The power spectrum of noise, as `bm3d` takes it: its mean is H·W·std²."""
    power = np.abs(np.fft.fft2(noise - noise.mean())) ** 2
    smooth = scipy.ndimage.gaussian_filter(np.fft.fftshift(power), _SMOOTHED_BINS, mode="wrap")
    spectrum: np.ndarray = np.fft.ifftshift(smooth) * (std**2 * noise.size / smooth.mean())
    return spectrum


def measure(path: str, *, checkpoint: str, scales: list[float], slices: int) -> dict[str, Any]:
    """PSNR [dB] by row and protocol, of a file of pairs."""
    try:
        import bm3d  # which calls numpy.trapz, gone from NumPy 2.4
    except ModuleNotFoundError as error:
        raise InputError("bm3d is not installed; expected pip install bm3d==4.0.3 'numpy<2.4'"
                         ) from error
    qdct, ndct = read_hu(path)
    chosen = evenly_spaced(len(qdct), most=slices)
    qdct, ndct = qdct[chosen], ndct[chosen]
    images: dict[str, list[np.ndarray]] = {}
    with progress(f"BM3D on {path}", total=len(scales) * len(chosen), unit="calls") as bar:
        for image, reference in zip(qdct.astype(np.float64), ndct, strict=True):
            noise = image - reference
            std = float(noise[np.abs(reference) < _SOFT_TISSUE_HU].std())
            spectrum = noise_spectrum(noise, std)
            for scale in scales:
                images.setdefault(f"BM3D, spectrum given, scale {scale:g}", []).append(
                    bm3d.bm3d(image, sigma_psd=spectrum * scale**2))
                bar.advance(1)
    rows = {name: np.stack(each) for name, each in images.items()}
    tv = baselines.BASELINES["tv"]
    parameters = baselines.tune(tv, qdct, ndct)
    rows["total variation, tuned on these slices for full_range"] = np.stack(
        [tv.denoise(image, **parameters) for image in qdct])
    rows[checkpoint] = Denoiser.load(checkpoint)(qdct)
    rows["QDCT"] = qdct
    return {"slices": [int(index) for index in chosen], "psnr": {
        name: {protocol.name: float(protocol.score(image.astype(np.float32), ndct)["psnr"].mean())
               for protocol in _SCORED} for name, image in rows.items()}}


def main(argv: list[str]) -> None:
    if len(argv) > 1 or not _PAIRS.value:
        raise app.UsageError("expected --pairs=FILE, and no other argument")
    results = {}
    try:
        for path in _PAIRS.value:
            results[path] = measure(path, checkpoint=_CHECKPOINT.value, slices=_SLICES.value,
                                    scales=[float(text) for text in _SCALES.value])
            print(f"\n{path}, slices {results[path]['slices']}: PSNR [dB]")
            for name, psnr in results[path]["psnr"].items():
                print(f"  {name:55} " + "  ".join(f"{protocol} {value:.2f}"
                                                  for protocol, value in psnr.items()), flush=True)
    except InputError as error:
        sys.exit(f"error: {error}")
    write_json(_JSON.value, results)


if __name__ == "__main__":
    app.run(main)
