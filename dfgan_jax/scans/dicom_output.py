"""Writes denoised slices to DICOM files like their sources.

A single slice is written at once. The frames of a file are written in any order, one by one, and
the file gets its name when it has all of them.
"""

import contextlib
import io
import pathlib
import struct
import threading
from collections.abc import Mapping
from types import TracebackType

import numpy as np
import pydicom
from jaxtyping import Num

from dfgan_jax.scans import dicom
from dfgan_jax.scans.dicom import CTSlice
from dfgan_jax.scans.dicom_derivation import Derivation, mark_frames_as_derived
from dfgan_jax.scans.dicom_file import broken, parse
from dfgan_jax.scans.dicom_header import Frame, completed
from dfgan_jax.scans.dicom_overlays import overlay_planes, replace_overlays
from dfgan_jax.scans.dicom_pixels import pixel_bytes, pixel_vr, prepare_for_pixels
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import allocate, written_whole
from dfgan_jax.support.full_disk import full_disk_named

_MAX_PIXEL_BYTES = 2**32 - 2
"""The length of an uncompressed element has 32 bits, and is even."""


class DicomOutput:
    """Files of slices; a context, at whose end files that lack a frame are removed.

    Args:
      targets: path of each source → the path to write.
      derivation: how the pixels were made.
    """

    def __init__(self, targets: Mapping[pathlib.Path, pathlib.Path], *, derivation: Derivation):
        self._targets = targets
        self._derivation = derivation
        self._files: dict[pathlib.Path, _FramesFile] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "DicomOutput":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for file in self._files.values():
            file.abandon()

    def write(self, source: CTSlice, hu: Num[np.ndarray, "h w"]) -> int:
        """Writes a slice; see `dicom.write_slice`. Several threads can call it.

        Args:
          source: slice with all other elements; its dataset is changed.
          hu: (H, W), HU.

        Returns:
          Number of pixels outside the range of the stored bits, which were set to its limits.

        Raises:
          InputError: an element of the source cannot be written again.
          OSError: the file cannot be written.
        """
        path, frame = source.header.path, source.header.frame
        if frame is None:
            return dicom.write_slice(self._targets[path], source, hu, derivation=self._derivation)
        with self._lock:
            if path not in self._files:
                self._files[path] = _FramesFile(self._targets[path], path, frame,
                                                derivation=self._derivation)
        return self._files[path].write(frame, source, hu)


class _FramesFile:
    """A file of frames.

    Args:
      target: path to write.
      origin: path of the source.
      frame: any of its frames.
      derivation: how the pixels were made.

    Raises:
      InputError: an element of the source cannot be written again.
      OSError: the file cannot be written.
    """

    def __init__(self, target: pathlib.Path, origin: pathlib.Path, frame: Frame, *,
                 derivation: Derivation):
        self._target = target
        self._missing = set(range(frame.count))
        self._lock = threading.Lock()
        self._opened = contextlib.ExitStack()
        head = _head(origin, frame, derivation=derivation)
        self._start = len(head)
        self._temporary = self._opened.enter_context(written_whole(target))
        try:
            with full_disk_named(target):
                self._temporary.write_bytes(head)
                size = _pixel_size(frame)
                allocate(self._temporary, len(head) + size + size % 2)
        except OSError:
            self.abandon()
            raise

    def write(self, frame: Frame, source: CTSlice, hu: Num[np.ndarray, "h w"]) -> int:
        """Writes a frame; the last one completes the file."""
        stored, saturated = dicom.stored_pixels(source, hu)
        content = pixel_bytes(source.dataset, stored)
        with self._lock:
            with full_disk_named(self._target), self._temporary.open("r+b") as file:
                file.seek(self._start + frame.index * len(content))
                file.write(content)
            self._missing.discard(frame.index)
            if not self._missing:
                self._opened.close()
        return saturated

    def abandon(self) -> None:
        """Removes the file unless it is complete."""
        if self._missing:
            with contextlib.suppress(_AbandonedError), self._opened:
                raise _AbandonedError


class _AbandonedError(Exception):
    """Ends the writing of a file."""


def _pixel_size(frame: Frame) -> int:
    elements = frame.elements
    return (frame.count * int(elements.Rows) * int(elements.Columns)
            * (int(elements.BitsAllocated) // 8))


def _head(origin: pathlib.Path, frame: Frame, *, derivation: Derivation) -> bytes:
    """The file up to its pixels."""
    size = _pixel_size(frame)
    if size > _MAX_PIXEL_BYTES:
        raise InputError(f"{origin}: {size:,} bytes of pixels; a DICOM file holds at most "
                         f"{_MAX_PIXEL_BYTES:,} uncompressed ones")
    dataset = parse(origin, stop_before_pixels=True).dataset
    try:
        prepare_for_pixels(dataset)
        replace_overlays(dataset, overlay_planes(dataset, None))
        for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue"):
            if keyword in dataset:
                del dataset[keyword]
        completed(dataset)
        mark_frames_as_derived(dataset, derivation)
        content = io.BytesIO()
        pydicom.dcmwrite(content, dataset, enforce_file_format=True)
        is_implicit = dataset.file_meta.TransferSyntaxUID.is_implicit_VR
        element = struct.pack("<2H", 0x7FE0, 0x0010)
        if not is_implicit:
            element += pixel_vr(dataset).encode() + bytes(2)
        element += struct.pack("<L", size + size % 2)
    except Exception as error:  # an element that can be read, but has no valid form
        raise broken(origin, error) from error
    return content.getvalue() + element
