"""Compares quarter-dose noise, simulated from full-dose slices, with the noise of given pairs.

    python -m benchmarks.noise_against_pairs --ndct=FULL --qdct=QUARTER [--ndct=… --qdct=…] \
        --json=noise_against_pairs.json --plot=noise_against_pairs.png [--images=slice.png]

Each --ndct and --qdct is a folder with the DICOM slices of one series; the n-th --qdct
belongs to the n-th --ndct, and slices pair by their position. `insert_noise` gets the
full-dose slice and the pixel spacing, estimates photons and kernel itself, and its
result is rounded and clipped as the full dose is. These properties of the difference of
low and full dose are compared, per slice:

* its standard deviation within the body (8 pixels from the skin), and in the whole slice;
* the mean frequency of its noise power spectrum, of 64² patches within the body;
* the distribution of the noise: in the body's central part over the rest, and the power at
  horizontal over vertical frequencies (h/v), which horizontal streaks lower.

Ratios are those of the low dose simulated here over that of the pairs (`real` in the JSON file),
which may be simulated, too, from projections, as in the AAPM-Mayo challenge.
"""

import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from absl import app, flags
from matplotlib.figure import Figure

from benchmarks.json_file import write_json
from dfgan_jax.data.pairing import match_slices
from dfgan_jax.evaluation.noise_power_spectrum import (
    PATCH,
    frequency_axes,
    mean_frequency,
    patches_within,
    power_spectrum,
    radial_mean,
)
from dfgan_jax.scans.dicom import read_slice
from dfgan_jax.scans.dicom_folder import DicomFolder
from dfgan_jax.scans.hounsfield import cut_and_rounded_like
from dfgan_jax.scans.scan import of_dicom
from dfgan_jax.scans.tissues import body_mask
from dfgan_jax.scans.windows import SOFT_TISSUE
from dfgan_jax.simulation.noise_estimation import ScanNoise, estimate_noise
from dfgan_jax.simulation.noise_insertion import insert_noise
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole

_NDCT = flags.DEFINE_multi_string("ndct", [], "Folder with a series' full-dose slices.")
_QDCT = flags.DEFINE_multi_string("qdct", [], "Folder with the same slices at the lower dose.")
_JSON = flags.DEFINE_string("json", None, "File to write.")
_PLOT = flags.DEFINE_string("plot", None, "PNG of spectra and standard deviations to write.")
_IMAGES = flags.DEFINE_string("images", None, "PNG of one slice to write.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the simulated noise.", lower_bound=0)
_DOSE_FRACTION = flags.DEFINE_float("dose_fraction", 0.25, "Lower dose over full dose.")

TOLERANCE = 0.15

_REAL, _SIMULATED = "#0072b2", "#d55e00"


class Slice(NamedTuple):
    """A slice of a series at both doses: HU, mask of the outside, file name, pixel pitch."""

    ndct_hu: np.ndarray
    qdct_hu: np.ndarray
    outside: np.ndarray
    name: str
    spacing_mm: float


class Noise(NamedTuple):
    """The compared properties of one difference, real or simulated."""

    std: float
    std_whole: float
    mean_frequency: float
    centre_over_rest: float
    horizontal_over_vertical: float


def read_series(ndct_folder: str, qdct_folder: str) -> list[Slice]:
    """The slices at the same positions in two folders, in the order of position."""
    matching = match_slices(*(DicomFolder(pathlib.Path(folder)).headers
                              for folder in (ndct_folder, qdct_folder)))
    for note in matching.notes:
        print(note, file=sys.stderr)
    slices = []
    for pair in matching.pairs:
        full, low = read_slice(pair.ndct.path), read_slice(pair.qdct.path)
        spacing = of_dicom(pair.ndct, pixel_spacing_mm=None).pixel_spacing_mm
        slices.append(Slice(full.hu, low.hu, full.outside, pair.ndct.path.name, spacing))
    return slices


def measure(noise: np.ndarray, body: np.ndarray, spectrum: np.ndarray,
            spacing_mm: float) -> Noise:
    vertical, horizontal = frequency_axes(len(spectrum), pixel_spacing_mm=spacing_mm)
    # The centre is the half of the body's area that is farthest from the skin.
    depth = scipy.ndimage.distance_transform_edt(body)
    centre = depth > np.median(depth[body])
    return Noise(
        std=float(noise[body].std()), std_whole=float(noise.std()),
        mean_frequency=mean_frequency(spectrum, pixel_spacing_mm=spacing_mm),
        centre_over_rest=float(noise[centre].std() / noise[body & ~centre].std()),
        horizontal_over_vertical=float(spectrum[abs(horizontal) + 0 * vertical
                                                > abs(vertical)].sum()
                                       / spectrum[abs(vertical) + 0 * horizontal
                                                  > abs(horizontal)].sum()))


class Compared(NamedTuple):
    """One slice: images, estimates, and both noises with their spectra."""

    slice: Slice
    simulated_hu: np.ndarray
    estimate: ScanNoise
    real: Noise
    simulated: Noise
    spectra: tuple[np.ndarray, np.ndarray]

    def ratio(self, name: str) -> float:
        return getattr(self.simulated, name) / getattr(self.real, name)


def compare(one: Slice, *, rng: np.random.Generator, dose_fraction: float) -> Compared:
    estimate = estimate_noise(one.ndct_hu, pixel_spacing_mm=one.spacing_mm, outside=one.outside)
    simulated_hu = cut_and_rounded_like(insert_noise(
        rng, one.ndct_hu, pixel_spacing_mm=one.spacing_mm, dose_fraction=dose_fraction,
        kernel=estimate.kernel, photons_per_ray=estimate.photons_per_ray, outside=one.outside),
        one.ndct_hu, limits=(float(one.ndct_hu.min()), float(one.ndct_hu.max())))
    body = body_mask(one.ndct_hu)
    differences = (one.qdct_hu - one.ndct_hu, simulated_hu - one.ndct_hu)
    patches = [patches_within(each, body) for each in differences]
    if not len(patches[0]):
        raise InputError(f"{one.name} has no {PATCH}×{PATCH} patch within the body")
    real, simulated = (power_spectrum(each, pixel_spacing_mm=one.spacing_mm) for each in patches)
    return Compared(one, simulated_hu, estimate,
                    measure(differences[0], body, real, one.spacing_mm),
                    measure(differences[1], body, simulated, one.spacing_mm), (real, simulated))


def compare_series(ndct_folder: str, qdct_folder: str, *, seed: int,
                   dose_fraction: float) -> list[Compared]:
    return [compare(one, rng=np.random.default_rng([seed, index]), dose_fraction=dose_fraction)
            for index, one in enumerate(read_series(ndct_folder, qdct_folder))]


def table(name: str, series: list[Compared]) -> str:
    lines = [name, f"{'slice':>10}{'photons':>10}{'f50':>6}{'full SD':>9} |"
             f"{'SD pair':>9}{'sim.':>7}{'ratio':>7}{'whole':>7} |"
             f"{'NPS pair':>9}{'sim.':>6}{'ratio':>7} |{'centre/rest':>12}{'h/v':>14}"]
    for each in series:
        real, simulated, outside = each.real, each.simulated, [
            name for name in ("std", "mean_frequency") if abs(each.ratio(name) - 1) > TOLERANCE]
        lines.append(
            f"{each.slice.name:>10}{each.estimate.photons_per_ray:10.2e}"
            f"{each.estimate.kernel:6.2f}{each.estimate.noise_std_hu:9.1f} |"
            f"{real.std:9.1f}{simulated.std:7.1f}{each.ratio('std'):7.2f}"
            f"{each.ratio('std_whole'):7.2f} |"
            f"{real.mean_frequency:9.2f}{simulated.mean_frequency:6.2f}"
            f"{each.ratio('mean_frequency'):7.2f} |"
            f"{real.centre_over_rest:7.2f}{simulated.centre_over_rest:5.2f}"
            f"{real.horizontal_over_vertical:9.2f}{simulated.horizontal_over_vertical:5.2f}"
            + (f"  outside {TOLERANCE:.0%}: {', '.join(outside)}" if outside else ""))
    for label, column in (("SD", "std"), ("NPS mean", "mean_frequency")):
        ratios = [each.ratio(column) for each in series]
        lines.append(f"  {label} ratio: mean {np.mean(ratios):.3f}, {min(ratios):.3f} to "
                     f"{max(ratios):.3f}")
    return "\n".join(lines)


def as_json(series: list[Compared]) -> list[dict[str, Any]]:
    columns = ("std", "std_whole", "mean_frequency")
    return [{"slice": each.slice.name, "estimate": each.estimate._asdict(),
             "real": each.real._asdict(), "simulated": each.simulated._asdict(),
             "ratios": {column: each.ratio(column) for column in columns}} for each in series]


def figure(all_series: dict[str, list[Compared]]) -> Figure:
    """Spectra and noise, a series in each column."""
    result = Figure(figsize=(4.6 * len(all_series), 7), layout="constrained")
    axes = result.subplots(2, len(all_series), squeeze=False)
    for (upper, lower), (name, series) in zip(axes.T, all_series.items(), strict=True):
        spacing_mm = series[0].slice.spacing_mm
        for colour, label, which in ((_REAL, "of the pairs", 0), (_SIMULATED, "simulated here", 1)):
            curves = [radial_mean(each.spectra[which], pixel_spacing_mm=spacing_mm)
                      for each in series]
            for f, curve in curves:
                upper.plot(f, curve, color=colour, alpha=0.2, linewidth=0.8)
            upper.plot(curves[0][0], np.mean([curve for _, curve in curves], axis=0),
                       color=colour, linewidth=2.2, label=label)
            lower.plot(range(len(series)),
                       [(each.real, each.simulated)[which].std for each in series],
                       "os"[which], color=colour, label=label, markersize=7)
        real = np.array([each.real.std for each in series])
        lower.fill_between(range(len(series)), real * (1 - TOLERANCE), real * (1 + TOLERANCE),
                           color=_REAL, alpha=0.15, linewidth=0,
                           label=f"of the pairs ± {TOLERANCE:.0%}")
        upper.set(title=name, xlabel="spatial frequency [lp/cm]", xlim=(0, None), ylim=(0, None))
        lower.set(ylim=(0, None), xlabel="slice", xticks=range(len(series)))
        lower.set_xticklabels([pathlib.Path(each.slice.name).stem for each in series], rotation=45)
    axes[0, 0].set_ylabel("noise power spectrum of the\ndifference [HU² mm²]")
    axes[1, 0].set_ylabel("noise in the body,\nstandard deviation [HU]")
    axes[0, 0].legend(frameon=False)
    axes[1, 0].legend(frameon=False, loc="lower left")
    return result


def images(all_series: dict[str, list[Compared]]) -> Figure:
    """One slice of the first series: full dose, both low doses, and the added noise."""
    result = Figure(figsize=(13.8, 9), layout="constrained")
    series = next(iter(all_series.values()))
    each = series[len(series) // 2]
    name = f"{next(iter(all_series))}, slice {pathlib.Path(each.slice.name).stem}"
    panels = result.subplots(2, 3)
    for axis, image, title, limits in zip(panels.flat, (
            each.slice.ndct_hu, each.slice.qdct_hu, each.simulated_hu, None,
            each.slice.qdct_hu - each.slice.ndct_hu, each.simulated_hu - each.slice.ndct_hu),
            ("full dose", "lower dose of the pair", "lower dose, simulated here", "",
             "pair's − full", "simulated − full"),
            [SOFT_TISSUE] * 3 + [(-100, 100)] * 3, strict=True):
        axis.set_axis_off()
        if image is None:
            axis.text(0.5, 0.5, f"{name}\n\nimages: −160 to 240 HU\ndifferences: ±100 HU",
                      ha="center", va="center", transform=axis.transAxes, fontsize=12)
            continue
        axis.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1])
        axis.set_title(title)
    return result


def _series_names(folders: list[str]) -> list[str]:
    """The folders' names, or their parents' if all folders have the same name (`full`)."""
    paths = [pathlib.Path(folder).absolute() for folder in folders]
    same = len(paths) == 1 or len({path.name for path in paths}) < len(paths)
    return [path.parent.name if same else path.name for path in paths]


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise InputError(f"unexpected argument {arguments[1]!r}; options start with --")
    if not _NDCT.value or len(_NDCT.value) != len(_QDCT.value):
        raise InputError(f"{len(_NDCT.value)} --ndct and {len(_QDCT.value)} --qdct, expected as "
                         "many of one as of the other, at least one")
    if not _JSON.value:
        raise InputError("give --json=FILE")
    all_series = {}
    for name, ndct, qdct in zip(_series_names(_NDCT.value), _NDCT.value, _QDCT.value, strict=True):
        all_series[name] = compare_series(ndct, qdct, seed=_SEED.value,
                                          dose_fraction=_DOSE_FRACTION.value)
        print(table(name, all_series[name]), flush=True)
    ratios = [[each.ratio(column) for series in all_series.values() for each in series]
              for column in ("std", "mean_frequency")]
    within = int((np.abs(np.array(ratios) - 1) <= TOLERANCE).all(axis=0).sum())
    print(f"{within} of {len(ratios[0])} slices within {TOLERANCE:.0%} in both")
    write_json(_JSON.value, {
        "dose_fraction": _DOSE_FRACTION.value, "seed": _SEED.value, "tolerance": TOLERANCE,
        "slices": len(ratios[0]), "within_tolerance": within,
        "series": {name: as_json(series) for name, series in all_series.items()}})
    for path, draw in ((_PLOT.value, figure), (_IMAGES.value, images)):
        if path:
            with written_whole(pathlib.Path(path)) as temporary:
                draw(all_series).savefig(temporary, dpi=90, format="png")


if __name__ == "__main__":
    try:
        app.run(main)
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
