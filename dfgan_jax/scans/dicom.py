"""CT slices in DICOM: recognised, read as HU, and written again with other pixels.

A slice is a file (CT Image Storage, monochrome, one frame, rescaled to HU) or a frame of a file
(Enhanced CT Image Storage, see `dicom_frames`). Other files
are refused with the reason: sound files by `NotACTSlice`, broken files by a plain `InputError`.
"""

import collections
import dataclasses
import io
import pathlib
from collections.abc import Iterator

import numpy as np
import pydicom
from jaxtyping import Bool, Float32, Integer, Num
from pydicom.dataset import Dataset

from dfgan_jax.scans import units
from dfgan_jax.scans.dicom_derivation import Derivation, mark_as_derived
from dfgan_jax.scans.dicom_file import broken, parse
from dfgan_jax.scans.dicom_frames import frame_dataset, frame_headers, frame_named, is_enhanced
from dfgan_jax.scans.dicom_header import SliceHeader, completed, header_of
from dfgan_jax.scans.dicom_pixels import decode, high_bit_notes, native_pixels, replace_pixels
from dfgan_jax.scans.dicom_storage import Pixels, find_outside, storage_of, to_hu, to_stored
from dfgan_jax.scans.pixel_pitch import square_pitch
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredSlice:
    """A slice as stored.

    Attributes:
      header: of the file.
      dataset: all elements of the file, with its pixels as stored.
      stored: (H, W) integers, before the rescale.
      outside: (H, W) bool: padding, and pixels outside the field of view.
    """

    header: SliceHeader
    dataset: Dataset
    stored: Integer[np.ndarray, "h w"]
    outside: Bool[np.ndarray, "h w"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CTSlice(StoredSlice):
    """A slice as read.

    Attributes:
      hu: (H, W) float32; `OUTSIDE_HU` outside.
      notes: peculiarities of the values, in words.
    """

    hu: Float32[np.ndarray, "h w"]
    notes: tuple[str, ...] = ()


def read_header(path: pathlib.Path) -> SliceHeader:
    """Reads the elements before the pixels.

    Raises:
      NotACTSlice: the file is sound, and no CT slice.
      InputError: the file is broken, or has no identifiers.
    """
    dataset, has_pixels, _ = parse(path, stop_before_pixels=True)
    return header_of(path, dataset, has_pixels)


def read_headers(path: pathlib.Path) -> list[SliceHeader]:
    """Reads the headers of the slices of a file: one, or one for each frame of enhanced CT.

    Raises:
      NotACTSlice: the file is sound, and has no CT slices.
      InputError: the file is broken, or has no identifiers.
    """
    dataset, has_pixels, position = parse(path, stop_before_pixels=True)
    if is_enhanced(dataset):
        return frame_headers(path, dataset, has_pixels=has_pixels, position=position)
    return [dataclasses.replace(header_of(path, dataset, has_pixels),
                                native=native_pixels(path, dataset, position))]


def read_pixels(header: SliceHeader) -> Pixels:
    """Reads the pixels of a header's slice, without parsing it again where they are uncompressed.

    Raises:
      InputError: as `read_slice`.
    """
    if header.native is not None and (stored := header.native.read(header.path)) is not None:
        return to_hu(header.path, stored, header.native.storage)
    read = read_slice_of(header)
    return Pixels(read.hu, read.outside, read.notes)


def check_hu(header: SliceHeader, pixels: Pixels) -> None:
    """Refuses a slice that cannot be in HU.

    Args:
      header: of the slice.
      pixels: of the slice.

    Raises:
      InputError: it cannot be in HU.
    """
    if (found := units.doubt([values_to_doubt(header, pixels)])) is not None:
        raise InputError(f"{header.name}: {found.reason}")


def values_to_doubt(header: SliceHeader, pixels: Pixels) -> Float32[np.ndarray, "*n"]:
    """The pixels of a slice for `units.doubt`, without padding and corners.

    Values below `LOWEST_HU` are among them where the others have too little of a body: they are
    air, if the slice was rescaled twice.
    """
    inside: np.ndarray = pixels.hu[~pixels.outside]
    if units.has_body(inside):
        return inside
    read = read_slice_of(header)
    storage = storage_of(header.path, read.dataset)
    stored = read.stored[~find_outside(read.stored, storage)]
    hu: np.ndarray = (stored * storage.slope + storage.intercept).astype(np.float32)
    return hu


def read_stored(header: SliceHeader, outside: Bool[np.ndarray, "h w"]) -> StoredSlice:
    """Reads a slice whose pixels `read_pixels` has read.

    Args:
      header: of a file of one slice.
      outside: (H, W) bool, from `read_pixels`.

    Raises:
      InputError: as `read_slice`.
    """
    dataset, _, _ = parse(header.path)
    completed(dataset)
    stored = None if header.native is None else header.native.words(dataset.PixelData)
    return StoredSlice(header=header, dataset=dataset, outside=outside,
                       stored=decode(header.path, dataset) if stored is None else stored)


def read_slice_of(header: SliceHeader) -> CTSlice:
    """Reads the slice of a header, a file or a frame; see `read_slice`."""
    if header.frame is None:
        return read_slice(header.path)
    with frame_named(header.path, header.frame):
        return _slice_of(header, frame_dataset(header.path, header.frame))


def read_slice(path: pathlib.Path) -> CTSlice:
    """Reads a slice, and decodes it if it is compressed.

    Raises:
      NotACTSlice: the file is sound, and no CT slice.
      InputError: the file is broken, or no decoder here knows its compression.
    """
    dataset, has_pixels, _ = parse(path)
    return _slice_of(header_of(path, dataset, has_pixels), dataset)


def _slice_of(header: SliceHeader, dataset: Dataset) -> CTSlice:
    path = header.path
    completed(dataset)
    stored = decode(path, dataset)
    if stored.shape != (header.rows, header.columns):
        raise InputError(f"{path}: decodes to {stored.shape} pixels; its header says "
                         f"{header.rows}×{header.columns}")
    hu, outside, notes = to_hu(path, stored, storage_of(path, dataset))
    return CTSlice(header=header, dataset=dataset, stored=stored, outside=outside, hu=hu,
                   notes=notes + high_bit_notes(dataset))


def write_slice(path: pathlib.Path, source: StoredSlice, hu: Num[np.ndarray, "h w"], *,
                derivation: Derivation) -> int:
    """Writes a slice with other pixels as an image derived from it, whole or not at all.

    Slope, intercept, bits and padding stay those of the source, and so do the pixels outside
    the field of view, geometry, patient and study. Compressed and big-endian sources are
    written as explicit little-endian.

    Args:
      path: of the file.
      source: slice with all other elements; its dataset is changed.
      hu: (H, W), HU.
      derivation: how the pixels were made.

    Returns:
      Number of pixels outside the range of the stored bits, which were set to its limits.

    Raises:
      InputError: an element of the source cannot be written again.
      OSError: the file cannot be written.
    """
    dataset, origin = source.dataset, source.header.path
    stored, saturated = stored_pixels(source, hu)
    try:
        replace_pixels(dataset, stored)
        mark_as_derived(dataset, derivation)
        # To memory first: pydicom raises OSError for elements, too.
        content = io.BytesIO()
        pydicom.dcmwrite(content, dataset, enforce_file_format=True)
    except Exception as error:  # an element that can be read, but has no valid form
        raise broken(origin, error) from error
    with written_whole(path) as temporary:
        temporary.write_bytes(content.getvalue())
    return saturated


def stored_pixels(source: StoredSlice, hu: Num[np.ndarray, "h w"]
                  ) -> tuple[Num[np.ndarray, "h w"], int]:
    """The stored values of other HU in a slice; see `to_stored`."""
    return to_stored(hu, storage_of(source.header.path, source.dataset), former=source.stored,
                     outside=source.outside)


def group_by_series(headers: list[SliceHeader]) -> Iterator[list[SliceHeader]]:
    """The slices of each series, ordered by position, or by number if one has no position."""
    series: dict[str, list[SliceHeader]] = {}
    for header in headers:
        series.setdefault(header.series_uid, []).append(header)
    for slices in series.values():
        located = all(header.location_mm is not None for header in slices)
        yield sorted(slices, key=lambda header: (
            header.location_mm if located else header.instance_number or 0, header.path,
            header.instance))


def series_notes(slices: list[SliceHeader]) -> list[str]:
    """Irregularities of a series, in words, once each: of headers, orientation, gaps, repetitions.

    Args:
      slices: of one series, in the order of `group_by_series`.
    """
    counts = collections.Counter(note for header in slices for note in header.notes)
    notes = [note if count == len(slices) else f"{note} ({_slices(count)})"
             for note, count in counts.items()]
    unmeasured = sum(square_pitch(header.pixel_spacing_mm) is None for header in slices)
    if unmeasured:
        notes.append(f"{_slices(unmeasured)} without the size of square pixels, so that noise and "
                     "kernel cannot be measured")
    if len({header.instance for header in slices}) < len(slices):
        notes.append("the same instance occurs in several files")
    locations = [header.location_mm for header in slices]
    if None in locations:
        return [*notes, "slices without a position"] if len(slices) > 1 else notes
    turned = _turned(slices)
    if any(turned):  # they lie along another axis
        notes.append(f"{_slices(sum(turned))} of another orientation")
        slices = [each for each, is_turned in zip(slices, turned, strict=True) if not is_turned]
        locations = [header.location_mm for header in slices]
    steps = np.diff(np.asarray(locations, float))
    twice = int((steps < 1e-3).sum())
    if twice:
        notes.append(f"{_slices(twice)} at the place of another")
        slices = [slices[0], *(each for each, step in zip(slices[1:], steps, strict=True)
                               if step >= 1e-3)]
        steps = steps[steps >= 1e-3]
    if len(steps) > 1:
        thickness = np.asarray([each.thickness_mm or 0 for each in slices])
        usual = np.maximum(np.median(steps), np.maximum(thickness[1:], thickness[:-1]))
        missing = int(np.maximum(np.rint(steps / usual) - 1, 0).sum())
        if missing:
            notes.append(f"the input has gaps between {locations[0]:g} and {locations[-1]:g} mm, "
                         f"with room for {_slices(missing)}")
    return notes


def _turned(slices: list[SliceHeader]) -> list[bool]:
    """Whether each slice, all of which have an orientation, has not the usual one."""
    directions = np.asarray([header.orientation for header in slices], float)
    usual, _ = collections.Counter(map(tuple, directions)).most_common(1)[0]
    turned: list[bool] = (np.abs(directions - usual).max(axis=1) > 0.01).tolist()
    return turned


def _slices(count: int) -> str:
    return f"{count} slice" if count == 1 else f"{count} slices"
