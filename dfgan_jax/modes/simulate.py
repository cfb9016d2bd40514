"""`--mode=simulate`: pairs from phantoms, or from full-dose scans, in the published format."""

import contextlib
import functools
import hashlib
import pathlib
import sys
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from dfgan_jax.ct import dataset, hounsfield, low_dose, nifti, scan
from dfgan_jax.ct.dataset import Entry
from dfgan_jax.ct.noise_insertion import ScanNoise, estimate_noise, insert_noise
from dfgan_jax.ct.pairs import write_slices
from dfgan_jax.ct.pairs_cache import written_to_cache
from dfgan_jax.ct.scan import ScanSlice
from dfgan_jax.dicom_tree import Files
from dfgan_jax.errors import InputError
from dfgan_jax.modes import pair, setup
from dfgan_jax.progress import progress
from dfgan_jax.threads import call_ahead

NATIVE_SIZE = 512


def run(config: ml_collections.ConfigDict, *, output: pathlib.Path) -> None:
    """Writes `train.npy`, `valid.npy` and `test.npy` into a folder.

    Raises:
      InputError: the configuration is wrong, or one of the files exists.
    """
    setup.check(config)
    paths = {split: output / f"{split}.npy" for split in setup.SPLITS}
    for path in paths.values():
        if path.exists():
            raise InputError(f"{path}: exists already; choose another --output")
    for split, path in paths.items():
        _write(path, config, split)
        print(path, flush=True)


def cached(config: ml_collections.ConfigDict, split: str) -> pathlib.Path:
    """The file of a split's simulated pairs, made at the first call.

    Its name tells everything that determines its content, so that it is never stale.

    Raises:
      InputError: the cache cannot be written.
    """
    name = low_dose.simulation_hash(size=size(config), seed=config.simulation.seed,
                                    protocol=protocol(config))
    folder = setup.cache_folder(config)
    path = folder / f"simulated-{name}" / f"{split}-{_count(config, split)}.npy"
    if not path.exists():
        with written_to_cache(folder):
            _write(path, config, split)
    return path


def _write(path: pathlib.Path, config: ml_collections.ConfigDict, split: str) -> None:
    count = _count(config, split)
    with progress(f"simulating {split}", total=count, unit="slices") as bar:
        pairs = low_dose.iterate_pairs(count, size=size(config), split=split,
                                       seed=config.simulation.seed, protocol=protocol(config),
                                       progress=bar)
        write_slices(path, ((hounsfield.hu_to_mu(ndct), hounsfield.hu_to_mu(qdct))
                            for ndct, qdct in pairs),
                     count=count, shape=(size(config), size(config)))


def protocol(config: ml_collections.ConfigDict) -> low_dose.ScanProtocol:
    return low_dose.ScanProtocol(photons_per_ray=config.simulation.photons_per_ray,
                                 dose_fraction=config.simulation.dose_fraction)


def size(config: ml_collections.ConfigDict) -> int:
    return config.data.size or NATIVE_SIZE


def _count(config: ml_collections.ConfigDict, split: str) -> int:
    return config.simulation[f"{split}_slices"]


class _Measured(NamedTuple):
    """A full-dose slice: its pixels' hash, its noise, and whether that is its series'."""

    digest: str
    noise: ScanNoise
    measured_in: str


def run_scan(sources: Sequence[pathlib.Path], *, output: pathlib.Path, dose_fraction: float,
             kernel: str, pixel_spacing_mm: float | None, seed: int, split: str | None,
             patients: str) -> None:
    """Writes pairs of full-dose slices and what they would be at a lower dose, with a manifest.

    See `noise_insertion`. As scanners do, a scan that nowhere goes below −1024 HU is cut there
    at the lower dose, too, and one of whole HU is rounded.

    Args:
      sources: folders of DICOM files, DICOM files, `.npy` of HU, or NIfTI files.
      output: `.npy` file; with `split`, a folder.
      dose_fraction: lower dose over full dose, above 0 and below 1.
      kernel: `auto`, measured in the scan; a name in `projection.KERNELS`; or f50 [lp/cm].
      pixel_spacing_mm: for files that do not say it; else None.
      seed: of the noise.
      split: shares of train, valid and test, by patient.
      patients: as for `--mode=pair`; an array or a volume is a patient of its own.

    Raises:
      InputError: a source cannot be used, or some files are broken (the others are written
        all the same).
      OSError: a file cannot be written.
    """
    if not 0 < dose_fraction < 1:
        raise InputError(f"--dose_fraction is {dose_fraction}; expected above 0 and below 1")
    shares = None if split is None else dataset.parse_split(split)
    dataset.outputs_of(output, shares)
    slices: list[tuple[str, ScanSlice]] = []
    broken: list[str] = []
    with contextlib.ExitStack() as opened:
        for source in sources:
            if not source.exists():
                raise InputError(f"--input: {source}: no such file or folder")
            if source.suffix == ".npy" or nifti.is_nifti(source):
                slices += [(str(source), each)
                           for each in opened.enter_context(
                               scan.of_volume(source, pixel_spacing_mm=pixel_spacing_mm))]
                continue
            files = Files(source)
            for line in files.lines():
                print(line, file=sys.stderr)
            broken += [f"{path}: {why}" for path, why in files.broken.items()]
            patient_of = pair.patients_by(patients, files.headers, [source])
            slices += [(patient_of(header),
                        scan.of_dicom(header, pixel_spacing_mm=pixel_spacing_mm))
                       for header in files.headers]
        noise, unreadable = _measured([each for _, each in slices], kernel=kernel)
        broken += unreadable
        entries = [_entry(patient, each, noise[each.name], seed=seed, dose_fraction=dose_fraction)
                   for patient, each in slices if each.name in noise]
        entries, dropped = dataset.without_duplicates(entries)
        for note in dropped:
            print(note, file=sys.stderr)
        written = dataset.write_dataset(output, entries, shares=shares,
                                        description=f"simulating {dose_fraction:g} of the dose")
    pair.report(written, entries)
    if broken:
        raise InputError(f"{len(broken)} broken files were left out, the first {broken[0]}; all "
                         "other slices are written")


def _measured(slices: Sequence[ScanSlice], *, kernel: str
              ) -> tuple[dict[str, _Measured], list[str]]:
    """What the noise of each slice says about its scan, and which slices cannot be read.

    A slice with too little soft tissue to measure takes the median over those of its series.

    Raises:
      InputError: no slice of a series can be measured.
    """
    chosen: str | float = kernel
    with contextlib.suppress(ValueError):
        chosen = float(kernel)

    def measure(each: ScanSlice) -> tuple[str, ScanNoise | InputError]:
        hu, outside = each.read()
        try:
            noise: ScanNoise | InputError = estimate_noise(
                hu, pixel_spacing_mm=each.pixel_spacing_mm, kernel=chosen, outside=outside)
        except InputError as error:
            noise = error
        return hashlib.sha256(hu.data).hexdigest(), noise

    digests: dict[str, str] = {}
    found: dict[str, dict[str, ScanNoise]] = {}
    failed: dict[str, dict[str, InputError]] = {}
    unreadable = []
    with progress("measuring noise", total=len(slices), unit="slices") as bar:
        results = call_ahead(functools.partial(measure, each) for each in slices)
        for each, result in zip(slices, results, strict=True):
            bar.advance()
            try:
                digests[each.name], noise = result()
            except InputError as error:
                unreadable.append(str(error))
                continue
            kind = failed if isinstance(noise, InputError) else found
            kind.setdefault(each.series, {})[each.name] = noise  # type: ignore[assignment]
    measured = {name: _Measured(digests[name], noise, "slice")
                for of_series in found.values() for name, noise in of_series.items()}
    for series, errors in failed.items():
        if series not in found:
            name, why = next(iter(errors.items()))
            raise InputError(f"{name}: {why}") from why
        noises = list(found[series].values())
        # Photons and kernel of one slice, so that they belong together.
        typical = sorted(noises, key=lambda noise: noise.photons_per_ray)[len(noises) // 2]
        measured |= {name: _Measured(digests[name], typical, "series") for name in errors}
    return measured, unreadable


def _entry(patient: str, each: ScanSlice, measured: _Measured, *, seed: int, dose_fraction: float
           ) -> Entry:
    noise = measured.noise

    def read() -> tuple[np.ndarray, np.ndarray]:
        ndct, outside = each.read()
        identity = each.header.sop_uid if each.header else pathlib.Path(each.name).name
        qdct = insert_noise(
            np.random.default_rng([seed, zlib.crc32(identity.encode())]), ndct,
            pixel_spacing_mm=each.pixel_spacing_mm, dose_fraction=dose_fraction,
            kernel=noise.kernel, photons_per_ray=noise.photons_per_ray, outside=outside)
        return ndct, as_stored(qdct, ndct)

    header = {} if each.header is None else pair.slice_columns(each.header)
    return Entry(
        patient=patient, digest=measured.digest, source=each.name, shape=each.shape, read=read,
        manifest={**header, "ndct_file": each.name, "ndct_pixels_sha256": measured.digest,
                  "dose_fraction": dose_fraction, "seed": seed,
                  "photons_per_ray": f"{noise.photons_per_ray:.5g}", "kernel_f50": noise.kernel,
                  "ndct_noise_std_hu": f"{noise.noise_std_hu:.4g}",
                  "measured_in": measured.measured_in})


def as_stored(qdct_hu: np.ndarray, ndct_hu: np.ndarray) -> np.ndarray:
    """A low dose cut and rounded as its full dose was.

    Args:
      qdct_hu: (H, W) float32, HU.
      ndct_hu: (H, W) float32, HU.
    """
    if ndct_hu.min() >= hounsfield.OUTSIDE_HU:
        qdct_hu = np.maximum(qdct_hu, np.float32(hounsfield.OUTSIDE_HU))
    if np.array_equal(ndct_hu, np.rint(ndct_hu)):
        qdct_hu = np.rint(qdct_hu)
    return qdct_hu
