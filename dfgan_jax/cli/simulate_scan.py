"""`--mode=simulate --input=SCAN`: pairs from full-dose scans, in the published format."""

import contextlib
import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import dfgan_jax
from dfgan_jax.cli.input_format import flags_named, refuse_for
from dfgan_jax.data import dataset
from dfgan_jax.data.dataset import Entry
from dfgan_jax.data.entries import (
    check_not_blank,
    folder_below,
    patients_by,
    slice_columns,
    tell_written,
)
from dfgan_jax.data.overlap import slice_digests
from dfgan_jax.scans import dicom, nifti, scan
from dfgan_jax.scans.axes import Axes
from dfgan_jax.scans.dicom_folder import DicomFolder
from dfgan_jax.scans.dicom_storage import Pixels
from dfgan_jax.scans.hounsfield import cut_and_rounded_like
from dfgan_jax.scans.other_formats import refuse_other_format
from dfgan_jax.scans.scan import ScanSlice
from dfgan_jax.scans.unit_names import Unit
from dfgan_jax.simulation.kernel_change import change_kernel
from dfgan_jax.simulation.noise_estimation import ScanNoise, estimate_noise
from dfgan_jax.simulation.noise_insertion import insert_noise
from dfgan_jax.simulation.projection import KERNELS
from dfgan_jax.simulation.scan_rays import ELECTRONIC_NOISE_STD, REFERENCE_THICKNESS_MM
from dfgan_jax.support.errors import InputError, MissingArgument
from dfgan_jax.support.files import allow_open_files, scratch_beside
from dfgan_jax.support.progress import progress
from dfgan_jax.support.threads import call_ahead
from dfgan_jax.support.wording import counted


class _Measurement(NamedTuple):
    """The measurements of a full-dose slice, from its first reading.

    Attributes:
      digest: of its pixels.
      lowest, highest: HU.
      noise: the scan's noise, or the error of its measurement.
      source: origin of `noise`: `slice`, `series` (another slice of it) or `command line`.
    """

    digest: str
    lowest: float
    highest: float
    noise: ScanNoise | InputError
    source: str


class _Range(NamedTuple):
    """The range of a quantity that is drawn for each slice."""

    lowest: float
    highest: float

    def of_slice(self, *, seed: int, digits: str) -> float:
        """Draws the slice's value, evenly in the logarithm.

        The seed comes from the pixels, so that the value depends neither on names nor on an order.

        Args:
          seed: of the command.
          digits: 16 hexadecimal digits of the digest of the slice's pixels.
        """
        if self.lowest == self.highest:
            return self.lowest
        random = np.random.default_rng([seed, int(digits, 16)])
        value = float(np.exp(random.uniform(*np.log(self))))
        return round(value, 6)


def _range(text: float | str, *, name: str, example: str, below: float) -> _Range:
    """Parses a number, or two with two dots between, above 0 and below a bound."""
    low, dots, high = str(text).partition("..")
    try:
        lowest, highest = float(low), float(high if dots else low)
    except ValueError:
        raise InputError(f"--{name} is {text!r}; expected a number or a range, such as {example}"
                         ) from None
    if not 0 < lowest <= highest < below or (dots and lowest == highest):
        expected = "a range that rises, " if dots else ""
        raise InputError(f"--{name} is {text}; expected {expected}above 0 and below {below:g}")
    return _Range(lowest, highest)


def run(sources: Sequence[Sequence[pathlib.Path]], *, output: pathlib.Path,
        dose_fraction: float | str, kernel: str, refilter: float | str | None,
        photons_per_ray: float | None, pixel_spacing_mm: float | None, seed: int,
        split: str | None, patients: str, unit: Unit | None = None,
        axes: Axes | None = None) -> None:
    """Writes pairs of full-dose slices and simulated low-dose slices, with a manifest.

    See `noise_insertion`. As in scanners, the lower dose is clipped to the 12 bits from −1024 to
    3071 HU if the whole scan is within them, and rounded if the scan has whole HU.

    Args:
      sources: groups of folders of DICOM and NIfTI files, such files, or `.npy` of HU. Each group
        has a scan, but not each folder of several.
      output: `.npy` file; with `split`, a folder.
      dose_fraction: lower dose over full dose, above 0 and below 1; from a range such as
        `0.1..0.5`, a value is drawn for each slice, evenly in the logarithm. The manifest has it.
      kernel: `auto`, measured in the scan; a name in `projection.KERNELS`; or f50 [lp/cm].
      refilter: f50 [lp/cm] of another kernel for both doses, by `change_kernel`; from a range
        such as `2.8..6.5`, a value is drawn for each slice, evenly in the logarithm; None keeps
        the kernel.
      photons_per_ray: see `noise_estimation.ScanNoise`; None, measured in the scan.
      pixel_spacing_mm: for files without a pixel spacing; otherwise None.
      seed: of the noise.
      split: shares of train, valid and test, by patient.
      patients: as for `--mode=pair`; an array or a volume is a patient, whose name is its path.
        With `folder`, one that is a source itself belongs to the patient of its folder. None has
        a `study`.
      unit: of arrays and volumes; None: HU, refused where they cannot be.
      axes: of arrays; None: (N, H, W), refused where it looks like (H, W, N).

    Raises:
      InputError: a source cannot be used; or some slices or volumes are broken, of another size
        than most, or show no noise (all others are written).
      OSError: a file cannot be written.
    """
    doses = _range(dose_fraction, name="dose_fraction", example="0.25 or 0.1..0.5", below=1)
    kernels = None if refilter is None else _range(refilter, name="refilter",
                                                   example="5.6 or 2.8..6.5", below=20)
    for name, value in (("pixel_spacing", pixel_spacing_mm),
                        ("full_dose_photons_per_ray", photons_per_ray)):
        if value is not None and not 0 < value < np.inf:
            raise InputError(f"--{name} is {value}; expected above 0")
    chosen = _kernel(kernel)
    shares = None if split is None else dataset.parse_split(split)
    dataset.outputs_of(output, shares)
    slices: list[tuple[str, ScanSlice]] = []
    left_out: list[str] = []
    broken_volumes: list[str] = []
    groups = [_found(group, unit=unit, axes=axes) for group in sources]
    allow_open_files(sum(len(volumes) for volumes, _ in groups))
    with contextlib.ExitStack() as opened:
        scratch = opened.enter_context(scratch_beside(output))
        for group, (volumes, files) in zip(sources, groups, strict=True):
            for volume in volumes:
                patient = _patient_of_volume(volume, patients, group)
                try:
                    with flags_named():
                        slices += [(patient, each) for each in opened.enter_context(scan.of_volume(
                            volume, pixel_spacing_mm=pixel_spacing_mm, scratch=scratch, unit=unit,
                            axes=axes))]
                except InputError as error:
                    broken_volumes.append(str(error))
            if files is None:
                continue
            for line in files.lines():
                print(line, file=sys.stderr)
            left_out += [f"{path}: {why}" for path, why in files.broken.items()]
            patient_of = patients_by(patients, files.headers, group)
            for header in files.headers:
                patient = patient_of(header)
                try:
                    with flags_named():
                        slices.append((patient, scan.of_dicom(
                            header, pixel_spacing_mm=pixel_spacing_mm)))
                except InputError as error:
                    left_out.append(str(error))
        odd = dataset.of_other_sizes({each.name: each.shape for _, each in slices})
        left_out += [f"{name} {why}" for name, why in odd.items()]
        slices = [(patient, each) for patient, each in slices if each.name not in odd]
        measured, unreadable = _measure([each for _, each in slices], kernel=chosen,
                                        photons_per_ray=photons_per_ray)
        left_out += unreadable
        readable = [(patient, each) for patient, each in slices if each.name in measured]
        of_series: dict[str, list[_Measurement]] = {}
        for _, each in readable:
            of_series.setdefault(each.series, []).append(measured[each.name])
        limits = {series: (min(one.lowest for one in all_of_it),
                           max(one.highest for one in all_of_it))
                  for series, all_of_it in of_series.items()}
        entries = [_entry(patient, each, measured[each.name], seed=seed, doses=doses,
                          kernels=kernels, limits=limits[each.series])
                   for patient, each in readable]
        entries, dropped = dataset.without_duplicates(entries)
        for note in dropped:
            print(note, file=sys.stderr)
        if not entries:
            raise InputError("; ".join(["no slice is left", *[*broken_volumes, *left_out][:5]]))
        written = dataset.write_dataset(output, entries, shares=shares,
                                        description=f"simulating {dose_fraction} of the dose")
    tell_written(written, entries)
    if reasons := [*broken_volumes, *left_out]:
        counts = [counted(len(some), noun) for some, noun in (
            (broken_volumes, "volume"), (left_out, "slice")) if some]
        raise InputError(f"{' and '.join(counts)} left out, the first {reasons[0]}; all others are "
                         "written")


def _found(group: Sequence[pathlib.Path], *, unit: Unit | None, axes: Axes | None
           ) -> tuple[list[pathlib.Path], DicomFolder | None]:
    """The arrays and volumes of a group of sources, and its DICOM files, unless all are arrays.

    Raises:
      InputError: a source is missing or of another format; no scan is in the group; or a flag
        says what the headers of its files give.
    """
    for source in group:
        if not source.exists():
            raise InputError(f"--input: {source}: no such file or folder")
        if not nifti.is_nifti(source):
            refuse_other_format(source)
    arrays = [source for source in group if source.suffix.lower() == ".npy"]
    others = [source for source in group if source not in arrays]
    if not others:
        return arrays, None
    files = DicomFolder(*others, with_volumes=True)
    if files.volumes:
        refuse_for(files.volumes[0], "a volume, whose header names its axes", axes=axes)
    else:
        refuse_for(others[0], "DICOM, whose headers give the unit and the axes", unit=unit,
                   axes=axes)
    return arrays + files.volumes, files


def _patient_of_volume(path: pathlib.Path, patients: str, group: Sequence[pathlib.Path]) -> str:
    if patients == "study":
        raise InputError(f"--patients=study: {path} names no study; expected id, with which its "
                         "path is the patient, or folder")
    if patients == "id":
        return str(path)
    return folder_below(path, group)


def _kernel(kernel: str) -> str | float:
    """Parses `--kernel` for `noise_insertion`."""
    if kernel in ("auto", *KERNELS):
        return kernel
    try:
        f50 = float(kernel)
    except ValueError:
        f50 = np.nan
    if not 0 < f50 < np.inf:
        raise InputError(f"--kernel is {kernel!r}; expected auto, {', '.join(KERNELS)}, or its f50 "
                         "in lp/cm")
    return f50


def _electronic_noise_std(each: ScanSlice) -> float:
    """In photons, for the slice's thickness: the readings of its detector rows are summed."""
    thickness = (each.header.thickness_mm if each.header else None) or 0.0
    if thickness <= 0:  # not stated
        thickness = REFERENCE_THICKNESS_MM
    return float(ELECTRONIC_NOISE_STD * (thickness / REFERENCE_THICKNESS_MM) ** 0.5)


def _measure(slices: Sequence[ScanSlice], *, kernel: str | float, photons_per_ray: float | None
             ) -> tuple[dict[str, _Measurement], list[str]]:
    """The measurements of each slice, by its name; and the unusable slices, with reasons.

    A slice with too little soft tissue takes the measurements of the median slice of its series.
    """
    def measure(each: ScanSlice) -> _Measurement:
        hu, outside = each.read()
        check_not_blank(each.name, hu)
        if each.header is not None:
            dicom.check_hu(each.header, Pixels(hu, outside))
        source = "slice"
        noise: ScanNoise | InputError
        if photons_per_ray is not None and kernel != "auto":
            noise, source = ScanNoise(photons_per_ray, kernel, np.nan, 0), "command line"
        else:
            try:
                noise = estimate_noise(
                    hu, pixel_spacing_mm=each.pixel_spacing_mm, kernel=kernel, outside=outside,
                    electronic_noise_std=_electronic_noise_std(each))
                noise = noise._replace(photons_per_ray=photons_per_ray or noise.photons_per_ray)
            except InputError as error:
                noise = error
        (digest,) = slice_digests([hu])
        return _Measurement(digest, float(hu.min()), float(hu.max()), noise, source)

    measured: dict[str, _Measurement] = {}
    left_out = []
    calls = (functools.partial(measure, each) for each in slices)
    with (progress("measuring noise", total=len(slices), unit="slices") as bar,
          contextlib.closing(call_ahead(calls)) as results):
        for each, result in zip(slices, results, strict=True):
            bar.advance()
            try:
                measured[each.name] = result()
            except InputError as error:
                left_out.append(str(error))
    of_series: dict[str, list[ScanNoise]] = {}
    for each in slices:
        if each.name in measured and isinstance(noise := measured[each.name].noise, ScanNoise):
            of_series.setdefault(each.series, []).append(noise)
    for each in slices:
        if each.name not in measured or isinstance(measured[each.name].noise, ScanNoise):
            continue
        # Photons and kernel of the same slice, since they depend on each other.
        others = sorted(of_series.get(each.series, ()), key=lambda noise: noise.photons_per_ray)
        if others:
            measured[each.name] = measured[each.name]._replace(
                noise=others[len(others) // 2]._replace(noise_std_hu=np.nan), source="series")
        else:
            why = measured.pop(each.name).noise
            left_out.append(f"{each.name}: {why.lack if isinstance(why, MissingArgument) else why}"
                            ", and no other slice of its series shows its noise: "
                            "--full_dose_photons_per_ray and --kernel give it")
    return measured, left_out


def _entry(patient: str, each: ScanSlice, measurement: _Measurement, *, seed: int,
           doses: _Range, kernels: _Range | None, limits: tuple[float, float]) -> Entry:
    digest, _, _, noise, source = measurement
    assert isinstance(noise, ScanNoise)
    electronic_noise_std = _electronic_noise_std(each)
    dose_fraction = doses.of_slice(seed=seed, digits=digest[16:32])
    kernel = noise.kernel if kernels is None else kernels.of_slice(seed=seed, digits=digest[32:48])

    def read() -> tuple[np.ndarray, np.ndarray]:
        ndct, outside = each.read()
        if kernels is not None:
            changed = change_kernel(ndct, pixel_spacing_mm=each.pixel_spacing_mm,
                                    old=noise.kernel, new=kernel)
            ndct = np.where(outside, ndct, cut_and_rounded_like(changed, ndct, limits=limits))
        qdct = insert_noise(
            # Seeded by the pixels, so that the noise depends neither on names nor on an order.
            np.random.default_rng([seed, int(digest[:16], 16)]), ndct,
            pixel_spacing_mm=each.pixel_spacing_mm, dose_fraction=dose_fraction,
            kernel=kernel, photons_per_ray=noise.photons_per_ray,
            electronic_noise_std=electronic_noise_std, outside=outside)
        return ndct, cut_and_rounded_like(qdct, ndct, limits=limits)

    header = {} if each.header is None else slice_columns(each.header)
    return Entry(
        patient=patient, ndct_digest=digest, qdct_digest=digest, source=each.name,
        shape=each.shape, read=read,
        manifest={**header, "pixel_spacing_mm": each.pixel_spacing_mm, "ndct_file": each.name,
                  "ndct_pixels_sha256": digest, "dose_fraction": dose_fraction, "seed": seed,
                  "photons_per_ray": f"{noise.photons_per_ray:.5g}",
                  "noise_kernel": kernel, "scan_kernel": noise.kernel,
                  "ndct_noise_std_hu": f"{noise.noise_std_hu:.4g}",
                  "measured_in": source, "electronic_noise_std": f"{electronic_noise_std:.4g}",
                  "version": dfgan_jax.__version__})
