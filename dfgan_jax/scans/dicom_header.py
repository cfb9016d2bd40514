"""The header of a CT slice, and the check that a file is one."""

import dataclasses
import pathlib
import re
from typing import Any, Final

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dfgan_jax.scans.dicom_file import NotACTSlice, broken, numbers_of, text_of, values_of
from dfgan_jax.scans.dicom_overlays import overlay_notes
from dfgan_jax.scans.dicom_pixels import NativePixels
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.wording import printable

_MAX_PIXELS = 2**24
"""4096×4096: four times the largest slices that scanners reconstruct."""

_HIGHEST_AIR_HU: Final = -500.0
"""Of lung; scans hold lower values."""

_UNITS: Final = {"HU", "US", "HOUNSFIELD", "HOUNSFIELDS", "HOUNSFIELDUNIT", "HOUNSFIELDUNITS"}
"""Letters of RescaleType for HU; US is "unspecified", which CT scanners write for HU, too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame of a file with several, and how its pixels are read.

    Attributes:
      index: from 0.
      count: of the frames of the file.
      elements: that a single slice would have, without its pixels; not to be changed.
      start: of the uncompressed frames in the file, or of the table of offsets.
      offsets: extended table of offsets and lengths of compressed frames; None without one.
    """

    index: int
    count: int
    elements: Dataset
    start: int
    offsets: tuple[bytes, bytes] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceHeader:
    """The header of a CT slice; missing values are None or empty.

    Attributes:
      path: of the file.
      rows, columns: height and width [pixels].
      sop_uid, series_uid, study_uid, frame_of_reference_uid: identifiers.
      acquisition: names the measurement: the irradiation event, or the date and time of the
        slice. All reconstructions of a measurement share it.
      patient_id: as given.
      series_description: as given.
      instance_number: as given.
      kernel: convolution kernel, as the manufacturer names it.
      thickness_mm: slice thickness.
      pixel_spacing_mm: between rows, between columns.
      orientation: direction cosines of a row and of a column.
      position_mm: of the first pixel's centre, in patient coordinates.
      notes: peculiarities, and what is done about them, in words.
      frame: of a file with several; None of a single slice.
      native: the place of the pixels, if they are uncompressed in a file of their own.
    """

    path: pathlib.Path
    rows: int
    columns: int
    sop_uid: str
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    acquisition: str
    patient_id: str
    series_description: str
    instance_number: int | None
    kernel: str
    thickness_mm: float | None
    pixel_spacing_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    position_mm: tuple[float, ...] | None
    notes: tuple[str, ...] = ()
    frame: Frame | None = dataclasses.field(default=None, compare=False, repr=False)
    native: NativePixels | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The path, and the number of the frame in a file with several."""
        return str(self.path) if self.frame is None else (
            f"{self.path}: frame {self.frame.index + 1}")

    @property
    def instance(self) -> tuple[str, int]:
        """Identifies the pixels: the instance, and the index of the frame."""
        return self.sop_uid, 0 if self.frame is None else self.frame.index

    @property
    def location_mm(self) -> float | None:
        """Position of the slice along its normal, also of a tilted gantry."""
        if self.orientation is None or self.position_mm is None:
            return None
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return float(normal @ np.asarray(self.position_mm))


def header_of(path: pathlib.Path, dataset: Dataset, has_pixels: bool) -> SliceHeader:
    """Checks that a dataset is a CT slice, and collects its identifiers and geometry.

    Args:
      path: of the file, for messages.
      dataset: parsed, with or without its pixels.
      has_pixels: whether the file has pixels.

    Raises:
      NotACTSlice: the file is sound, and no CT slice.
      InputError: the file is broken, or has no identifiers.
    """
    try:
        notes = _check_kind(path, dataset, has_pixels)
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        identifiers: dict[str, Any] = {name: str(dataset.get(keyword) or "") for name, keyword in (
            ("sop_uid", "SOPInstanceUID"), ("series_uid", "SeriesInstanceUID"),
            ("study_uid", "StudyInstanceUID"),
            ("frame_of_reference_uid", "FrameOfReferenceUID"))}
    except InputError:
        raise
    except Exception as error:  # a broken element can raise anything
        raise broken(path, error) from error
    if min(rows, columns) < 1 or rows * columns > _MAX_PIXELS:
        raise InputError(f"{path}: has {rows}×{columns} pixels; expected 1 to {_MAX_PIXELS:,}")
    for name, keyword in (("sop_uid", "SOP"), ("series_uid", "Series")):
        if not identifiers[name]:
            raise InputError(f"{path}: broken: it has no {keyword} Instance UID")
    number = numbers_of(dataset, "InstanceNumber", 1)
    thickness = numbers_of(dataset, "SliceThickness", 1)
    event = text_of(dataset, "IrradiationEventUID")
    time = (text_of(dataset, "AcquisitionDateTime")
            or text_of(dataset, "AcquisitionDate") + text_of(dataset, "AcquisitionTime"))
    acquisition = f"event {event}" if event else f"time {time}" if time else ""
    return SliceHeader(
        path=path, rows=rows, columns=columns, **identifiers, acquisition=acquisition,
        patient_id=text_of(dataset, "PatientID"),
        series_description=text_of(dataset, "SeriesDescription"),
        instance_number=int(number[0]) if number else None,
        kernel=text_of(dataset, "ConvolutionKernel"),
        thickness_mm=thickness[0] if thickness else None,
        pixel_spacing_mm=numbers_of(dataset, "PixelSpacing", 2),
        orientation=numbers_of(dataset, "ImageOrientationPatient", 6),
        position_mm=numbers_of(dataset, "ImagePositionPatient", 3), notes=tuple(notes))


def completed(dataset: Dataset) -> None:
    """Sets elements of a slice that are missing, or have a value twice, where one is meant."""
    if not dataset.get("PhotometricInterpretation"):
        dataset.PhotometricInterpretation = "MONOCHROME2"
    if dataset.get("SamplesPerPixel") is None:
        dataset.SamplesPerPixel = 1
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if isinstance(value := dataset.get(keyword), MultiValue) and len(set(value)) == 1:
            setattr(dataset, keyword, value[0])


def _check_kind(path: pathlib.Path, dataset: Dataset, has_pixels: bool) -> list[str]:
    """Refuses files other than a single CT slice in HU, with the reason.

    Returns:
      Peculiarities of the slice, in words.
    """
    kind = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID"))
    if kind != uid.CTImageStorage:
        if uid.CTImageStorage.startswith(kind) or not uid.UID(kind).is_valid:
            raise InputError(f"{path}: broken: its SOP class is {printable(kind)}")
        raise NotACTSlice(f"{path}: {uid.UID(kind).name}, not CT Image Storage")
    if not has_pixels:  # a truncated file may lack the elements below, too
        for keyword in ("FloatPixelData", "DoubleFloatPixelData"):
            if keyword in dataset:
                raise InputError(f"{path}: broken: its pixels are {keyword}; expected PixelData, "
                                 "of whole numbers, in CT Image Storage")
        raise InputError(f"{path}: broken: it has no pixels")
    if "LOCALIZER" in map(str.upper, values_of(dataset, "ImageType")):
        raise NotACTSlice(f"{path}: localizer")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise NotACTSlice(f"{path}: several frames")
    notes = []
    photometric = str(dataset.get("PhotometricInterpretation") or "")
    if not photometric and (dataset.get("SamplesPerPixel") or 1) == 1:
        notes.append("PhotometricInterpretation is missing: taken as MONOCHROME2")
    elif (photometric not in ("MONOCHROME1", "MONOCHROME2")
          or (dataset.get("SamplesPerPixel") or 1) != 1):
        raise NotACTSlice(f"{path}: colour ({printable(photometric or 'none')})")
    if dataset.get("RescaleSlope") is None or dataset.get("RescaleIntercept") is None:
        raise NotACTSlice(f"{path}: no rescale slope and intercept, so its values are not HU")
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if isinstance(dataset[keyword].value, MultiValue):
            notes.append(f"{keyword} is {printable(text_of(dataset, keyword))}, not one value")
    bits, slope, intercept = (numbers_of(dataset, keyword, 1) for keyword in (
        "BitsStored", "RescaleSlope", "RescaleIntercept"))
    if (bits and slope == (1.0,) and intercept and bits[0] <= 8
            and intercept[0] > _HIGHEST_AIR_HU):
        raise NotACTSlice(f"{path}: {bits[0]:.0f} bits from {intercept[0]:g} on: a picture of a "
                          "window, which does not state its HU")
    unit = text_of(dataset, "RescaleType") or "HU"
    if any(re.sub("[^A-Z]", "", each.upper()) not in _UNITS for each in unit.split("\\")):
        raise NotACTSlice(f"{path}: values in {printable(unit)}, not HU")
    if unit.strip().upper() not in ("HU", "US"):
        notes.append(f"RescaleType is {printable(unit)}: taken as HU")
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    is_native = not syntax or (syntax.is_transfer_syntax and not syntax.is_compressed)
    return notes + overlay_notes(dataset, has_words=is_native)
