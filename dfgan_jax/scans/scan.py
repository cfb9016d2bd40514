"""The slices of a scan in HU, one by one, from files of any format."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Bool, Float32, Num

from dfgan_jax.scans import axes as array_axes
from dfgan_jax.scans import dicom, nifti, units
from dfgan_jax.scans.axes import Axes
from dfgan_jax.scans.dicom_header import SliceHeader
from dfgan_jax.scans.hounsfield import LOWEST_HU, OUTSIDE_HU
from dfgan_jax.scans.npy_header import read_npy_header
from dfgan_jax.scans.pixel_pitch import square_pitch
from dfgan_jax.scans.unit_names import Unit
from dfgan_jax.support.errors import DoubtfulInput, InputError, MissingArgument
from dfgan_jax.support.misplaced import content_of_failed_download
from dfgan_jax.support.safe_pickle import reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanSlice:
    """A slice before its pixels are read.

    Attributes:
      name: of its file, and its index in it.
      series: name of the series, whose slices share the scan's settings.
      shape: (H, W).
      pixel_spacing_mm: pixel pitch.
      header: of DICOM; else None.
      read: returns (H, W) float32, HU, `OUTSIDE_HU` outside the field of view; and (H, W) bool,
        True outside.
    """

    name: str
    series: str
    shape: tuple[int, int]
    pixel_spacing_mm: float
    header: SliceHeader | None
    read: Callable[[], tuple[Float32[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]]


def of_dicom(header: SliceHeader, *, pixel_spacing_mm: float | None) -> ScanSlice:
    """A slice of a DICOM file, or one of its frames.

    Args:
      pixel_spacing_mm: pixel pitch of a file without one; None: such a file is an error.

    Raises:
      InputError: pixels are not square, or their size is unknown.
    """
    return ScanSlice(
        name=header.name, series=header.series_uid, shape=(header.rows, header.columns),
        pixel_spacing_mm=_spacing(header.path, header.pixel_spacing_mm, pixel_spacing_mm),
        header=header, read=lambda: dicom.read_pixels(header)[:2])


@contextlib.contextmanager
def of_volume(path: pathlib.Path, *, pixel_spacing_mm: float | None, scratch: pathlib.Path,
              unit: Unit | None = None, axes: Axes | None = None) -> Iterator[list[ScanSlice]]:
    """The slices of an `.npy`, (H, W) or (N, H, W), or of a NIfTI file.

    Args:
      pixel_spacing_mm: pixel pitch of a file without one; None: such a file is an error.
      scratch: folder for an unpacked `.nii.gz`, which is removed at the end.
      unit: of the values; None: HU, refused where they cannot be.
      axes: see `read_hu_array`.

    Raises:
      DoubtfulInput: values cannot be HU, or axes look exchanged.
      InputError: the file cannot be used, its pixels are not square, or their size is unknown.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as unpacked:
        slope, intercept, given = 1.0, 0.0, None
        if nifti.is_nifti(path):
            volume = nifti.open_nifti(path, scratch=pathlib.Path(unpacked))
            stored, given = volume.stored, volume.pixel_spacing_mm
            slope, intercept = volume.slope, volume.intercept
            slices: Iterable[np.ndarray] = volume.slices()
            if volume.unpacked != path and os.name == "posix":
                volume.unpacked.unlink()  # mapped; so a killed process leaves no volume
        else:
            stored = read_hu_array(path, axes=axes)
            slices = stored = stored.reshape(-1, *stored.shape[-2:])
        spacing = _spacing(path, given, pixel_spacing_mm)
        if unit is None:
            units.check_hu(slices, name=str(path))
        read = functools.partial(_read, stored, slope, intercept, unit or "hu")
        yield [ScanSlice(name=f"{path}: slice {index}", series=str(path), shape=stored.shape[1:],
                         pixel_spacing_mm=spacing, header=None,
                         read=functools.partial(read, index, f"{path}: slice {index}"))
               for index in range(len(stored))]


def read_hu_array(path: pathlib.Path, *, axes: Axes | None = None) -> Num[np.ndarray, "*n h w"]:
    """Maps an `.npy` of numbers, HU or another unit, (H, W) or (N, H, W).

    Args:
      axes: of three; None: (N, H, W), refused where it looks like (H, W, N).

    Returns:
      (H, W) or (N, H, W); a view of a file with other axes.

    Raises:
      DoubtfulInput: the axes look exchanged.
      InputError: the file is missing or broken, or has another content.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if other := content_of_failed_download(path):
        raise InputError(f"{path}: {other}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a broken header can raise anything
        with path.open("rb") as file:
            _, dtype = read_npy_header(path, file)
        if dtype.hasobject:  # NumPy advises to allow pickles
            raise InputError(f"{path}: is a file of pairs, or of Python objects; expected a plain "
                             "array in HU") from error
        raise InputError(f"{path}: expected an .npy of an array in HU ({reason(error)})"
                         ) from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: is a NumPy archive; expected an .npy of an array in HU")
    if array.dtype.kind not in "iuf":
        raise InputError(f"{path}: expected an .npy of an array of numbers in HU")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(f"{path}: has shape {array.shape}; expected (H, W) or (N, H, W)")
    if axes == "hwn" and array.ndim == 3:
        return np.moveaxis(array, -1, 0)
    if axes is None and array.ndim == 3:
        first, second, third = array.shape
        if array_axes.look_like_hwn(array.shape):
            raise DoubtfulInput(
                f"{path}: has shape {array.shape}; expected (N, H, W), {first} slices of {second}×"
                f"{third}; it looks like (H, W, N), {third} slices of {first}×{second}",
                argument="axes", value="hwn")
    return array


def _scaled(one: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    scaled: np.ndarray = (np.ascontiguousarray(one, np.float32) * np.float32(slope)
                          + np.float32(intercept))
    return scaled


def _read(stored: np.ndarray, slope: float, intercept: float, unit: Unit, index: int, name: str
          ) -> tuple[np.ndarray, np.ndarray]:
    hu = units.to_hu(_scaled(stored[index], slope, intercept), unit, name=name)
    if not np.isfinite(hu).all():
        raise InputError(f"{name} has a NaN or an infinity")
    outside = hu < LOWEST_HU
    return np.where(outside, np.float32(OUTSIDE_HU), hu), outside


def _spacing(path: pathlib.Path, given: tuple[float, ...] | None, default: float | None) -> float:
    """The pixel pitch of a file of square pixels."""
    if given is None:
        if default is None:
            raise MissingArgument(f"{path}: gives no pixel spacing", "pixel_spacing_mm")
        return default
    if default is not None and abs(given[0] - default) > 1e-2 * given[0]:
        raise InputError(f"{path}: its pixel spacing is {given[0]:g} mm, not "
                         f"pixel_spacing={default:g}")
    if square_pitch(given) is None:
        raise InputError(f"{path}: pixels are {given[0]:g} × {given[1]:g} mm; expected square ones")
    return given[0]
