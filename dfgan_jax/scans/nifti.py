"""Volumes in NIfTI: reads axial slices of HU, and writes the same file with other values.

No volume is in memory as a whole: files are mapped into memory, and `.nii.gz` is unpacked
into a scratch folder first.
"""
# mypy: untyped-calls-exclude=nibabel

import dataclasses
import errno
import gzip
import io
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import nibabel
import numpy as np
from jaxtyping import Float32, Num
from nibabel import orientations

from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import allocate
from dfgan_jax.support.full_disk import FULL_DISK
from dfgan_jax.support.misplaced import content_of_failed_download
from dfgan_jax.support.wording import printable

SUFFIXES = (".nii", ".nii.gz")

_GZIP_START = b"\x1f\x8b"

_LONGEST_HEADER = nibabel.Nifti2Header.template_dtype.itemsize

_MOST_BEHIND = 2**26
"""Bytes behind the volume that are unpacked for the checksum; a few packed bytes can become
gigabytes."""

_SPACE_UNITS = 0b111
"""The bits of `xyzt_units` for lengths."""

_UNIT_MM = {1: 1e3, 3: 1e-3}
"""Metres and micrometres; any other code, none among them, is taken as millimetres."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NiftiVolume:
    """An open file.

    Attributes:
      path: as the user gave it.
      unpacked: the mapped file.
      stored: (N, H, W) view of the stored values: the slices from feet to head, the rows
        from front to back, the columns from the patient's right to the left, as CT slices
        are stored and shown.
      slope, intercept: HU = stored · slope + intercept.
      pixel_spacing_mm: between rows, between columns.
    """

    path: pathlib.Path
    unpacked: pathlib.Path
    stored: Num[np.ndarray, "n h w"]
    slope: float
    intercept: float
    pixel_spacing_mm: tuple[float, float]

    def hu(self, stored: Num[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
        """Stored values in HU."""
        hu: np.ndarray = (np.asarray(stored, np.float32) * np.float32(self.slope)
                          + np.float32(self.intercept))
        return hu

    def slices(self) -> Iterator[Num[np.ndarray, "h w"]]:
        """The slices in HU, one by one; values without a scale keep their type."""
        return iter(self.stored) if (self.slope, self.intercept) == (1.0, 0.0) else map(
            self.hu, self.stored)


def is_nifti(path: pathlib.Path) -> bool:
    """Whether a file has the suffix of a NIfTI file."""
    return path.name.lower().endswith(SUFFIXES)


def open_nifti(path: pathlib.Path, *, scratch: pathlib.Path) -> NiftiVolume:
    """Opens a volume of HU.

    Args:
      path: `.nii` or `.nii.gz`; its content tells whether it is packed.
      scratch: folder for the unpacked file.

    Raises:
      InputError: the file is broken, or is no volume of numbers.
      OSError: the disk has no room to unpack it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if other := content_of_failed_download(path):
            raise InputError(f"{path}: {other}")
        # nibabel goes by the name.
        unpacked = (_unpack(path, scratch)
                    if _is_packed(path) or path.name.lower().endswith(".gz") else path)
    except OSError as error:
        if error.errno in (*FULL_DISK, errno.EFBIG):
            raise
        raise InputError(f"{path}: {error.strerror or error}") from error
    try:
        image: Any = nibabel.load(unpacked)
        slope, intercept = image.dataobj.slope, image.dataobj.inter
        stored = _as_slices(np.asarray(image.dataobj.get_unscaled()), image.affine)
        unit_mm = _UNIT_MM.get(int(image.header["xyzt_units"]) & _SPACE_UNITS, 1.0)
        spacing = nibabel.affines.voxel_sizes(image.affine) * unit_mm
        _, rows, columns = _axes(image.affine)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # a broken file can raise anything
        raise _broken(path, error) from error
    if not (np.isfinite([slope, intercept]).all() and slope != 0):
        raise InputError(f"{path}: broken: slope {slope:g}, intercept {intercept:g}")
    return NiftiVolume(path=path, unpacked=unpacked, stored=stored, slope=float(slope),
                       intercept=float(intercept),
                       pixel_spacing_mm=(float(spacing[rows]), float(spacing[columns])))


def create_like(source: NiftiVolume, path: pathlib.Path, *, description: str
                ) -> Num[np.ndarray, "n h w"]:
    """Writes a file with the header of another, except its description, and values of 0.

    Args:
      path: of the new file, `.nii`, of full size.
      description: at most 79 characters.

    Returns:
      (N, H, W) view of its stored values, mapped for writing.

    Raises:
      OSError: the disk has no room for it.
    """
    image: Any = nibabel.load(source.unpacked)
    start, dtype = image.dataobj.offset, image.dataobj.dtype
    with source.unpacked.open("rb") as file:
        head = bytearray(file.read(start))
    header = type(image.header)(bytes(head[:image.header.template_dtype.itemsize]), check=False)
    _describe(header, description)
    head[:len(header.binaryblock)] = header.binaryblock
    path.write_bytes(head)
    allocate(path, start + int(np.prod(image.shape)) * dtype.itemsize)
    values = np.memmap(path, dtype, mode="r+", offset=start, shape=image.shape, order="F")
    return _as_slices(np.asarray(values), image.affine)


def has_header_of(path: pathlib.Path, source: pathlib.Path, *, description: str) -> bool:
    """Whether a file has the header that `create_like` gives it.

    Args:
      path: of the file.
      source: whose header `create_like` takes.
      description: at most 79 characters.

    Raises:
      InputError: the source is broken.
      OSError: a file cannot be read.
    """
    try:
        expected = _header(source)
    except Exception as error:  # a broken file can raise anything
        raise _broken(source, error) from error
    _describe(expected, description)
    try:
        there = _header(path)
    except OSError:
        raise
    except Exception:  # of another kind
        return False
    return bool(there.binaryblock == expected.binaryblock)


def is_whole(path: pathlib.Path) -> bool:
    """Whether a file with a sound header has all the bytes that this states."""
    header = _header(path)
    stated = int(header["vox_offset"]) + (header.get_data_dtype().itemsize
                                          * int(np.prod(header.get_data_shape(), dtype=object)))
    return bool(_unpacked_size(path) == stated % 2**32)


def _header(path: pathlib.Path) -> Any:
    with _open(path) as file:
        head = file.read(_LONGEST_HEADER)
    kind = _header_kind(head)
    return kind(head[:kind.template_dtype.itemsize], check=False)


def pack(unpacked: pathlib.Path, path: pathlib.Path) -> None:
    """Compresses a file into a `.nii.gz`."""
    with unpacked.open("rb") as source, gzip.open(path, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target, 2**20)


def _is_packed(path: pathlib.Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_GZIP_START)) == _GZIP_START


def _open(path: pathlib.Path) -> io.BufferedIOBase:
    """Opens a file for reading, decompressed if its content is gzip."""
    return gzip.open(path, "rb") if _is_packed(path) else path.open("rb")


def _unpacked_size(path: pathlib.Path) -> int:
    """Bytes of the unpacked file, modulo 2³², as gzip's last four bytes state them."""
    if not _is_packed(path):
        return path.stat().st_size % 2**32
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(), "little")


def _broken(path: pathlib.Path, error: Exception) -> InputError:
    return InputError(f"{path}: no NIfTI file, or a broken one "
                      f"({type(error).__name__}: {printable(error, limit=160)})")


def _header_kind(head: bytes) -> Any:
    """nibabel's class of the header that a file starts with."""
    is_second = len(head) > 3 and _LONGEST_HEADER in (
        int.from_bytes(head[:4], order) for order in ("little", "big"))
    return nibabel.Nifti2Header if is_second else nibabel.Nifti1Header


def _describe(header: Any, description: str) -> None:
    header["descrip"] = description.encode("ascii", "replace")[:79]


def _unpack(path: pathlib.Path, scratch: pathlib.Path) -> pathlib.Path:
    """Unpacks, or copies, as many bytes as the header states, and no more.

    What lies behind them is read, and left out: gzip compares its checksum at the end of the file.
    """
    unpacked = scratch / "unpacked.nii"
    try:
        with _open(path) as source:
            head = source.read(_LONGEST_HEADER)
            kind = _header_kind(head)
            header = kind(head[:kind.template_dtype.itemsize])
            left = (int(header["vox_offset"]) - len(head) + header.get_data_dtype().itemsize
                    * int(np.prod(header.get_data_shape(), dtype=object)))
            with unpacked.open("wb") as target:
                target.write(head)
                while left > 0:
                    block = source.read(min(left, 2**20))
                    if not block:
                        raise EOFError(f"it ends {left:,} bytes early")
                    target.write(block)
                    left -= len(block)
            behind = 0
            while isinstance(source, gzip.GzipFile) and (block := source.read(2**20)):
                behind += len(block)
                if behind > _MOST_BEHIND:
                    raise InputError(f"{path}: broken: more than {_MOST_BEHIND:,} bytes behind the "
                                     "volume that its header states")
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise InputError(f"{path}: broken: {error}") from error
        raise
    except InputError:
        raise
    except Exception as error:  # a broken file can raise anything
        raise _broken(path, error) from error
    return unpacked


def _axes(affine: np.ndarray) -> tuple[int, int, int]:
    """The axes of the array between slices, between rows and between columns."""
    to_patient = orientations.io_orientation(affine)[:, 0]  # array axis → x, y, z
    if np.isnan(to_patient).any():
        raise InputError("its affine has a direction of length 0")
    x, y, z = (int(np.flatnonzero(to_patient == axis)[0]) for axis in range(3))
    return z, y, x


def _as_slices(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A view (N, H, W) of a volume, with the axes and directions of CT slices."""
    if array.dtype.kind not in "iuf":
        raise InputError(f"holds {array.dtype}, not numbers in HU")
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(f"has shape {array.shape}; expected one volume (X, Y, Z)")
    _axes(affine)
    turn = orientations.ornt_transform(orientations.io_orientation(affine),
                                       orientations.axcodes2ornt("LPS"))
    turned: np.ndarray = orientations.apply_orientation(array, turn)
    return turned.transpose(2, 1, 0)
