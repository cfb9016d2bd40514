"""Parses untrusted DICOM files."""

import io
import logging
import pathlib
import warnings
import zlib
from typing import Final, NamedTuple

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_file_meta_info

from dfgan_jax.support.errors import InputError
from dfgan_jax.support.wording import printable

# Headers in the wild break rules of form that no pixel depends on; pydicom logs each, besides.
warnings.filterwarnings("ignore", module="pydicom")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_MAX_INFLATED_BYTES = 2**28
"""A deflated slice takes a few MB; a file built to fill the memory inflates a thousandfold."""

_APPLE_DOUBLE = b"\x00\x05\x16\x07"
"""Start of the files in which macOS keeps a file's attributes beside it, named `._NAME`."""

_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
"""Of the first element of an image without the preamble, in both byte orders."""

_SUFFIXES = (".dcm", ".ima", ".dicom", ".dic")
"""Suffixes of DICOM files."""

NPY: Final = "an .npy, not a DICOM file"
"""The message of `NotACTSlice` for an `.npy`, after its path."""


class NotACTSlice(InputError):
    """A sound file that is not a single CT slice in HU."""


class Parsed(NamedTuple):
    """A parsed file.

    Attributes:
      dataset: its elements.
      has_pixels: pydicom takes the end of a truncated file for that of the dataset.
      position: in the file, where parsing ended; None in a deflated file.
    """

    dataset: Dataset
    has_pixels: bool
    position: int | None


def parse(path: pathlib.Path, *, stop_before_pixels: bool = False) -> Parsed:
    """Parses a file; one without the DICOM preamble is recognised by its content.

    Raises:
      NotACTSlice: the file is not DICOM.
      InputError: the file is broken.
    """
    try:
        if path.is_fifo():  # opening it would wait for its other end
            raise NotACTSlice(f"{path}: a pipe")
        file = path.open("rb")
        start = file.read(1024)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    if start.startswith(_APPLE_DOUBLE) or (path.name.startswith("._") and not any(start)):
        file.close()
        raise NotACTSlice(f"{path}: not a DICOM file")
    has_preamble = start[128:132] == b"DICM"
    is_named = path.suffix.lower() in _SUFFIXES
    if not (has_preamble or is_named or start.startswith(_FIRST_GROUPS)):
        file.close()  # pydicom would take its bytes for lengths, and read gigabytes
        is_npy = start.startswith(np.lib.format.MAGIC_PREFIX)
        raise NotACTSlice(f"{path}: {NPY if is_npy else 'not a DICOM file'}")
    try:
        with file:
            file.seek(0)
            source = (_inflated(path, file) if uid.DeflatedExplicitVRLittleEndian.encode() in start
                      else file)
            dataset = pydicom.dcmread(source, force=True, stop_before_pixels=stop_before_pixels)
            position = file.tell() if source is file else None
            has_pixels = bool(source.read(1)) if stop_before_pixels else "PixelData" in dataset
        named = bool(dataset.get("SOPClassUID")
                     or dataset.file_meta.get("MediaStorageSOPClassUID"))
    except InputError:
        raise
    except Exception as error:  # a broken file can raise anything
        if has_preamble or is_named:
            raise broken(path, error) from error
        raise NotACTSlice(f"{path}: not a DICOM file") from error
    if not named:
        if has_preamble or is_named:
            raise InputError(f"{path}: broken: it names no SOP class")
        raise NotACTSlice(f"{path}: not a DICOM file")
    return Parsed(dataset, has_pixels, position)


def broken(path: pathlib.Path, error: Exception) -> InputError:
    """The error of a file with an element that cannot be read, or written again."""
    return InputError(f"{path}: broken ({type(error).__name__}: {printable(error, limit=160)})")


def _inflated(path: pathlib.Path, file: io.BufferedIOBase) -> DicomBytesIO:
    """A deflated file as an explicit little-endian one, of bounded size."""
    meta = read_file_meta_info(path)
    # Preamble, prefix, and the element of the length.
    file.seek(128 + 4 + 12 + meta.FileMetaInformationGroupLength)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(file.read(), _MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise InputError(f"{path}: inflates to more than {_MAX_INFLATED_BYTES:,} bytes")
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    explicit = DicomBytesIO()
    explicit.write(bytes(128) + b"DICM")
    write_file_meta_info(explicit, meta)
    explicit.write(content)
    explicit.seek(0)
    return explicit


def text_of(dataset: Dataset, keyword: str) -> str:
    """The text of an element; several values are joined, an unreadable element is empty."""
    try:
        value = dataset.get(keyword)
    except Exception:  # broken; callers check the elements that they need
        return ""
    if isinstance(value, pydicom.multival.MultiValue):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def values_of(dataset: Dataset, keyword: str) -> list[str]:
    """The texts of an element's values; none of a missing, empty or unreadable element."""
    text = text_of(dataset, keyword)
    return text.split("\\") if text else []


def numbers_of(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """The finite numbers of an element; None unless there are `count`."""
    try:
        value = dataset.get(keyword)
        values = tuple(map(float, [value] if count == 1 else value))
    except Exception:  # as above
        return None
    return values if len(values) == count and np.isfinite(values).all() else None
