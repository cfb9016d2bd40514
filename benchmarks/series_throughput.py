"""Times the denoising of a series of its own, from file to file.

The module of the command, `benchmarks.denoise_throughput`, does not import this one before it
starts: worker processes import the module of the command again, and would wait for JAX.
"""

import functools
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import nibabel
import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from dfgan_jax.cli import denoise
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.denoising.dicom_tree import denoise_tree
from dfgan_jax.models.generators import build_generator, initial_variables
from dfgan_jax.scans import dicom
from dfgan_jax.scans.dicom_derivation import Derivation
from dfgan_jax.support.workers import usable_cores

SIZE = 512
_DERIVATION = Derivation(model="DFGAN", weights_sha256="0" * 64, version="benchmark")
_PRIVATE_ELEMENTS = 60


class TimedDenoiser(Denoiser):
    """A denoiser that adds up the seconds of its calls.

    Attributes:
      seconds: of all calls.
    """

    seconds = 0.0

    def __call__(self, *arguments: Any, **options: Any) -> np.ndarray:
        start = time.perf_counter()
        denoised = super().__call__(*arguments, **options)
        self.seconds += time.perf_counter() - start
        return denoised


class TimedSum(TimedDenoiser):
    """Adds 5 HU, in place of a network."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._apply = lambda hu: (hu + np.float32(5), np.ones(len(hu), bool))  # type: ignore[assignment]

    def slices_per_batch(self, size: tuple[int, ...], *, count: int) -> int:
        """The number of slices in a batch of this size on a GPU."""
        return 16


def stored_slices(count: int, *, size: int = SIZE) -> np.ndarray:
    """(N, H, W) int16: a disc of soft tissue in air, with noise, and padding outside a circle."""
    rng = np.random.default_rng(0)
    radius = np.hypot(*np.mgrid[:size, :size] - size / 2) / size
    hu = np.where(radius < 0.4, 40, -1000)[None] + rng.integers(-30, 31, (count, size, size))
    return np.where(radius < 0.5, hu, -2000).astype(np.int16)


def write_series(folder: pathlib.Path, stored: np.ndarray) -> None:
    """Writes a series as scanners do, with about 100 elements a slice."""
    folder.mkdir(parents=True)
    dataset = Dataset()
    series = uid.generate_uid(entropy_srcs=["series"])
    for keyword, value in {
            "SOPClassUID": uid.CTImageStorage, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "StudyDate": "20200102", "StudyTime": "101112", "Modality": "CT",
            "Manufacturer": "none", "SeriesDescription": "Abdomen 3.0", "PatientName": "None",
            "PatientID": "benchmark", "SliceThickness": 3, "KVP": 120, "ConvolutionKernel": "B30f",
            "StudyInstanceUID": uid.generate_uid(entropy_srcs=["study"]),
            "SeriesInstanceUID": series, "SeriesNumber": 2,
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "FrameOfReferenceUID": uid.generate_uid(entropy_srcs=["frame"]),
            "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
            "Rows": stored.shape[1], "Columns": stored.shape[2], "PixelSpacing": [0.7, 0.7],
            "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1,
            "PixelPaddingValue": -2000, "RescaleIntercept": 0, "RescaleSlope": 1,
            "RescaleType": "HU"}.items():
        setattr(dataset, keyword, value)
    private = dataset.private_block(0x0043, "BENCHMARK", create=True)
    for offset in range(_PRIVATE_ELEMENTS):
        private.add_new(offset, "LO", f"value {offset}")
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    for index, pixels in enumerate(stored):
        dataset.SOPInstanceUID = f"{series}.{index + 1}"
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [0, 0, 3 * index]
        dataset.PixelData = pixels.astype("<i2").tobytes()
        dataset["PixelData"].VR = "OW"
        pydicom.dcmwrite(folder / f"{index:05}.dcm", dataset, enforce_file_format=True)


def stages(denoiser: Denoiser, folder: pathlib.Path, scratch: pathlib.Path, *, count: int = 32
           ) -> dict[str, float]:
    """Core time for a slice [ms] of each stage, the least of three runs of some slices."""
    paths = sorted(folder.iterdir())[:count]
    headers = [header for path in paths for header in dicom.read_headers(path)]
    pixels = list(map(dicom.read_pixels, headers))
    hu = np.stack([each.hu for each in pixels])
    scratch.mkdir()

    def write() -> None:
        for header, each in zip(headers, pixels, strict=True):
            source = dicom.read_stored(header, each.outside)
            dicom.write_slice(scratch / header.path.name, source, each.hu, derivation=_DERIVATION)

    calls: dict[str, Callable[[], object]] = {
        "header": lambda: [dicom.read_headers(path) for path in paths],
        "pixels": lambda: list(map(dicom.read_pixels, headers)),
        "network": lambda: denoiser(hu), "write": write}
    return {name: _least_core_ms(call) / count for name, call in calls.items()}


def _least_core_ms(call: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def _busy_s() -> float:
    """Seconds that the cores of this machine have worked, on Linux."""
    fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, *rest = map(int, fields)
    return (user + nice + system + sum(rest[:2])) / 100


def timed(denoiser: TimedDenoiser, denoise_all: Callable[[], object], *, count: int
          ) -> dict[str, float]:
    """Denoises `count` slices; slices a second, and the shares of `table`."""
    denoiser.seconds, start, busy = 0.0, time.perf_counter(), _busy_s()
    denoise_all()
    wall = time.perf_counter() - start
    return {"slices_per_s": count / wall, "waits": 1 - denoiser.seconds / wall,
            "busy_ms": 1000 * (_busy_s() - busy) / count}


def measure(folder: pathlib.Path, *, count: int, width: int, workers: Sequence[int], rounds: int
            ) -> dict[str, Any]:
    """Times of each setting, by name, and of the stages."""
    generator = build_generator(width=max(width, 1))
    kind = TimedDenoiser if width else TimedSum
    denoiser = kind(generator, initial_variables(generator, jax.random.key(0)), meta={"config": {
        "generator": {"architecture": "unet", "width": max(width, 1)}, "discriminators": "pair"}})
    stored = stored_slices(count)
    write_series(folder / "series", stored)
    np.save(folder / "array.npy", stored.astype(np.float32))
    nibabel.save(nibabel.Nifti1Image(stored.T, np.diag([0.7, 0.7, 3.0, 1.0])),
                 folder / "volume.nii")
    settings: dict[str, Callable[..., object]] = {
        f"DICOM, {number} workers": functools.partial(
            denoise_tree, denoiser, source=folder / "series", derivation=_DERIVATION,
            workers=number) for number in workers}
    settings["array.npy"] = functools.partial(
        denoise.denoise_array, denoiser, source=folder / "array.npy", unit="hu", axes=None)
    settings["volume.nii"] = functools.partial(
        denoise.denoise_nifti, denoiser, source=folder / "volume.nii", unit=None)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in settings}
    for turn in range(rounds + 1):
        for index, (name, call) in enumerate(settings.items()):
            output = folder / f"out_{turn}_{index}{pathlib.Path(name).suffix}"
            result = timed(denoiser, functools.partial(call, output=output), count=count)
            if turn:
                results[name].append(result)
            _remove(output)
            print(f"round {turn}, {name}: {result['slices_per_s']:.1f} slices/s", file=sys.stderr,
                  flush=True)
    return {"cores": usable_cores(), "device": jax.devices()[0].device_kind, "slices": count,
            "width": width, "rounds": results,
            "stages_core_ms": stages(denoiser, folder / "series", folder / "stages")}


def _remove(output: pathlib.Path) -> None:
    if output.is_dir():
        for path in output.iterdir():
            path.unlink()
        output.rmdir()
    else:
        output.unlink()
