"""Enhanced multi-frame CT: each frame as a slice.

The elements of a frame are in functional groups, shared by all frames or its own (PS3.3,
C.7.6.16). A frame gets the dataset that a single slice with its pixels would have.
"""

import contextlib
import dataclasses
import pathlib
import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
from pydicom import uid
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.tag import Tag

from dfgan_jax.scans.dicom_file import NotACTSlice, broken, numbers_of, text_of
from dfgan_jax.scans.dicom_header import Frame, SliceHeader, header_of
from dfgan_jax.scans.dicom_overlays import take_overlay_bits
from dfgan_jax.scans.dicom_pixels import check_syntax, syntax_of
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.wording import printable

_CLASSES: Final = (uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage)

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"

_OF_FILE: Final = (
    "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientID",
    "SeriesDescription", "AcquisitionDateTime", "SamplesPerPixel", "PhotometricInterpretation",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "ImageType")
"""Elements of a slice that all frames share."""

_UNASSIGNED: Final = {name: name for name in (
    "ConvolutionKernel", "AcquisitionDate", "AcquisitionTime", "IrradiationEventUID")}

_OF_GROUPS: Final = {
    "PixelValueTransformationSequence": {
        "RescaleSlope": "RescaleSlope", "RescaleIntercept": "RescaleIntercept",
        "RescaleType": "RescaleType"},
    "PixelMeasuresSequence": {"PixelSpacing": "PixelSpacing", "SliceThickness": "SliceThickness"},
    "PlanePositionSequence": {"ImagePositionPatient": "ImagePositionPatient"},
    "PlaneOrientationSequence": {"ImageOrientationPatient": "ImageOrientationPatient"},
    "CTImageFrameTypeSequence": {"FrameType": "ImageType"},
    "CTReconstructionSequence": {"ConvolutionKernel": "ConvolutionKernel"},
    "IrradiationEventIdentificationSequence": {"IrradiationEventUID": "IrradiationEventUID"},
    "FrameContentSequence": {"FrameAcquisitionDateTime": "AcquisitionDateTime"},
    # Legacy Converted Enhanced CT has what fits into no other group here.
    "UnassignedSharedConvertedAttributesSequence": _UNASSIGNED,
    "UnassignedPerFrameConvertedAttributesSequence": _UNASSIGNED,
}
"""Functional group → its element → the element of a slice."""

_NEEDED: Final = {"PixelMeasuresSequence": ("PixelSpacing", 2),
                  "PlanePositionSequence": ("ImagePositionPatient", 3),
                  "PlaneOrientationSequence": ("ImageOrientationPatient", 6)}
"""Functional groups without which frames have no place, with their element and its values."""

_UNDEFINED_LENGTH: Final = 0xFFFFFFFF


def is_enhanced(dataset: Dataset) -> bool:
    """Whether a dataset is an image of CT frames."""
    kind = text_of(dataset, "SOPClassUID") or text_of(dataset.file_meta, "MediaStorageSOPClassUID")
    return kind in _CLASSES


def frame_headers(path: pathlib.Path, dataset: Dataset, *, has_pixels: bool,
                  position: int | None) -> list[SliceHeader]:
    """The headers of all frames, in their order.

    Args:
      path: of the file.
      dataset: without its pixels.
      has_pixels: whether the file has pixels.
      position: of the element of the pixels in the file; None in a deflated file.

    Raises:
      NotACTSlice: the file is sound, and its frames are no parallel CT slices.
      InputError: the file is broken, deflated, or has no identifiers.
    """
    if not has_pixels:  # a truncated file may lack the elements below, too
        raise InputError(f"{path}: broken: it has no pixels")
    if position is None:
        raise InputError(f"{path}: deflated frames, which no decoder here knows")
    try:
        frames = _frames(path, dataset, position)
    except InputError:
        raise
    except Exception as error:  # a broken element can raise anything
        raise broken(path, error) from error
    headers = []
    for frame in frames:
        with frame_named(path, frame):
            for group, (keyword, count) in _NEEDED.items():
                if numbers_of(frame.elements, keyword, count) is None:
                    raise InputError(f"{path}: broken: {group} gives no {keyword}")
            header = header_of(path, frame.elements, has_pixels=True)
            headers.append(dataclasses.replace(
                header, frame=frame, instance_number=frame.index + 1))
            if not np.allclose(headers[0].orientation, headers[-1].orientation, atol=1e-4):
                raise NotACTSlice(f"{path}: its orientation is not that of frame 1")
    return headers


def frame_dataset(path: pathlib.Path, frame: Frame) -> Dataset:
    """The dataset of a frame as that of a single slice, with its pixels as stored.

    Raises:
      InputError: the file cannot be read, or has no such frame.
    """
    dataset = _copy(frame.elements)
    is_compressed = syntax_of(dataset).is_compressed
    try:
        with path.open("rb") as file:
            if not is_compressed:
                native_bytes = _frame_bytes(dataset)
                file.seek(frame.start + frame.index * native_bytes)
                content = file.read(native_bytes)
                if len(content) < native_bytes:
                    raise InputError(f"{path}: broken: it ends within the pixels")
            else:
                file.seek(frame.start)
                content = encapsulate([get_frame(file, frame.index, number_of_frames=frame.count,
                                                 extended_offsets=frame.offsets)])
        dataset.PixelData = content
        dataset["PixelData"].VR = "OB" if is_compressed or dataset.BitsAllocated == 8 else "OW"
        dataset["PixelData"].is_undefined_length = is_compressed
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # a broken table of offsets can raise anything
        raise broken(path, error) from error
    return dataset


@contextlib.contextmanager
def frame_named(path: pathlib.Path, frame: Frame) -> Iterator[None]:
    """Adds the number of the frame to an error of the file."""
    try:
        yield
    except InputError as error:
        why = str(error).removeprefix(f"{path}: ")
        raise type(error)(f"{path}: frame {frame.index + 1}: {why}") from error


def _frames(path: pathlib.Path, dataset: Dataset, position: int) -> list[Frame]:
    check_syntax(path, dataset)
    count = numbers_of(dataset, "NumberOfFrames", 1)
    groups = dataset.get(PER_FRAME)
    if not groups:
        raise InputError(f"{path}: broken: it has no functional groups of its frames")
    if count is None or count[0] != len(groups):
        raise InputError(f"{path}: broken: its number of frames is "
                         f"{printable(text_of(dataset, 'NumberOfFrames') or 'missing')}; expected "
                         f"{len(groups)}, as it has functional groups")
    shared = list(dataset.get(SHARED) or ())
    if len(shared) > 1:
        raise InputError(f"{path}: broken: {len(shared)} items of shared functional groups; "
                         "expected one")
    of_file = Dataset()
    for keyword in _OF_FILE:
        if keyword in dataset:
            of_file[keyword] = dataset[keyword]
    take_overlay_bits(of_file, dataset)
    of_file.SOPClassUID = uid.CTImageStorage
    of_file.file_meta = FileMetaDataset()
    of_file.file_meta.TransferSyntaxUID = syntax_of(dataset)
    of_file.set_original_encoding(*dataset.original_encoding)
    for item in shared:
        _take(of_file, item)
    start = _start_of_pixels(path, dataset, position=position, count=len(groups))
    tables = [dataset.get(keyword) for keyword in ("ExtendedOffsetTable",
                                                   "ExtendedOffsetTableLengths")]
    offsets = (bytes(tables[0]), bytes(tables[1])) if all(tables) else None
    frames = []
    for index, item in enumerate(groups):
        elements = _copy(of_file)
        _take(elements, item)
        frames.append(Frame(index=index, count=len(groups), elements=elements, start=start,
                            offsets=offsets))
    return frames


def _take(elements: Dataset, groups: Dataset) -> None:
    """Sets the elements of a slice that some functional groups have."""
    for group, keywords in _OF_GROUPS.items():
        if not (items := groups.get(group)):
            continue
        for source, target in keywords.items():
            if source in items[0] and items[0][source].value is not None:
                # Not its value alone: the element may be that of all frames.
                elements[target] = DataElement(Tag(target), dictionary_VR(Tag(target)),
                                               items[0][source].value)


def _copy(elements: Dataset) -> Dataset:
    copy = Dataset()
    copy.update(elements)
    copy.file_meta = elements.file_meta
    copy.set_original_encoding(*elements.original_encoding)
    return copy


def _frame_bytes(dataset: Dataset) -> int:
    return int(dataset.Rows) * int(dataset.Columns) * (int(dataset.BitsAllocated) // 8)


def _start_of_pixels(path: pathlib.Path, dataset: Dataset, *, position: int, count: int) -> int:
    """The place of the first frame or of the table of offsets, of pixels of the right length."""
    is_implicit, is_little = dataset.original_encoding
    order = "<" if is_little else ">"
    with path.open("rb") as file:
        file.seek(position)
        head = file.read(12)
        size = file.seek(0, 2)
    if len(head) < 12:
        raise InputError(f"{path}: broken: it has no pixels")
    if struct.unpack_from(f"{order}2H", head) != (0x7FE0, 0x0010):
        raise InputError(f"{path}: broken: its pixels are no integers")
    start = position + (8 if is_implicit else 12)
    length, = struct.unpack_from(f"{order}L", head, 4 if is_implicit else 8)
    if syntax_of(dataset).is_compressed:
        if length != _UNDEFINED_LENGTH:
            raise InputError(f"{path}: broken: compressed pixels of a stated length")
        return start
    expected = count * _frame_bytes(dataset)
    if length != expected + expected % 2:
        raise InputError(f"{path}: broken: has {length:,} bytes of pixels; {count} frames of "
                         f"{dataset.Rows}×{dataset.Columns} take {expected + expected % 2:,}")
    if start + length > size:
        raise InputError(f"{path}: broken: it ends within the pixels")
    return start
