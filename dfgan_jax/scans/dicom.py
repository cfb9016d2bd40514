"""CT slices in DICOM: recognised, read as HU, and written again with other pixels.

One file is one slice (CT Image Storage, monochrome, one frame, rescaled to HU). Whatever
else is found beside slices is refused by name: as `NotACTSlice` where the file is sound
but holds something else, as a plain `InputError` where it is broken.
"""

import dataclasses
import datetime
import io
import os
import pathlib
import struct
import uuid
import warnings
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pydicom
import scipy.ndimage
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pydicom.pixels import get_decoder
from pydicom.sr.codedict import codes

from dfgan_jax.scans.hounsfield import LOWEST_HU, OUTSIDE_HU
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.safe_pickle import printable

# Headers in the wild break rules of form that no pixel depends on.
warnings.filterwarnings("ignore", module="pydicom")

_DECODERS = {
    uid.RLELossless: "pydicom",
    uid.JPEG2000Lossless: "pillow", uid.JPEG2000: "pillow",
    **dict.fromkeys((uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless,
                     uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless,
                     uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K), "pylibjpeg"),
}
"""Transfer syntax → the plug-in that decodes it: of those that know it, one that broken
streams did not make crash or fill the memory."""

_MAX_INFLATED_BYTES = 2**28
"""A deflated slice takes a few MB; a file built to fill the memory, a thousand times its size."""

_MAX_PIXELS = 2**24
"""4096×4096: four times the largest slices that scanners reconstruct."""

_JPEG_START, _JPEG_2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"

_JPEG_SIZE_MARKERS = (set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}
"""Start of a frame, in any process of JPEG and in JPEG-LS."""

_SUFFIXES = (".dcm", ".ima", ".dicom", ".dic")
"""Names by which a file says that it is DICOM."""

_UID_NAMESPACE = uuid.UUID("5f0c7f0e-3a52-5c8e-9d1c-6d0f1b7a2c41")


class NotACTSlice(InputError):
    """A sound file that holds something else than one CT slice in HU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceHeader:
    """What the header of a CT slice says; None or empty where it does not.

    Attributes:
      path: of the file.
      rows, columns: height and width [pixels].
      sop_uid, series_uid, study_uid, frame_of_reference_uid: identifiers.
      acquisition: names what the slice was measured in: the irradiation event, or the slice's
        own date and time. The same in all that is reconstructed from it.
      patient_id: as given.
      series_description: as given.
      instance_number: as given.
      kernel: convolution kernel, as the manufacturer names it.
      thickness_mm: slice thickness.
      pixel_spacing_mm: between rows, between columns.
      orientation: direction cosines of a row and of a column.
      position_mm: of the first pixel's centre, in patient coordinates.
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

    @property
    def location_mm(self) -> float | None:
        """Where the slice lies along its normal, also where the gantry is tilted."""
        if self.orientation is None or self.position_mm is None:
            return None
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return float(normal @ np.asarray(self.position_mm))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CTSlice:
    """A slice as read.

    Attributes:
      header: of the file.
      dataset: all of the file, its pixels as they were stored there.
      stored: (H, W) integers, before the rescale.
      outside: (H, W) bool: padding, and what lies outside the field of view.
      hu: (H, W) float32; `OUTSIDE_HU` outside.
    """

    header: SliceHeader
    dataset: Dataset
    stored: np.ndarray
    outside: np.ndarray
    hu: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Derivation:
    """What pixels were made by, as it is written beside them.

    Attributes:
      model: name, such as AttnDFGAN.
      weights_sha256: of the generator's parameters and running statistics.
      version: of this software.
      strength: of the denoising; see `Denoiser`.
    """

    model: str
    weights_sha256: str
    version: str
    strength: float = 1.0

    @property
    def name(self) -> str:
        """The model, and the strength where it is not 1."""
        return self.model if self.strength == 1 else f"{self.model}, strength {self.strength:g}"

    def derived_uid(self, source_uid: str) -> str:
        """A UID that the same source, weights and strength always give.

        See PS3.5 B.2, UUIDs of RFC 9562.
        """
        name = f"{source_uid}\n{self.weights_sha256}\n{self.version}"
        if self.strength != 1:
            name += f"\n{self.strength!r}"
        return f"2.25.{uuid.uuid5(_UID_NAMESPACE, name).int}"


def find_files(root: pathlib.Path) -> list[pathlib.Path]:
    """All files below a folder, sorted; the file itself where `root` is one."""
    if root.is_file():
        return [root]
    return sorted(pathlib.Path(folder, name)
                  for folder, _, names in os.walk(root, onerror=_raise) for name in names)


def _raise(error: OSError) -> None:
    raise error


def read_header(path: pathlib.Path) -> SliceHeader:
    """Reads what stands before the pixels.

    Raises:
      NotACTSlice: the file holds something else.
      InputError: it is broken, or says nothing that identifies it.
    """
    return _header(path, *_read(path, stop_before_pixels=True))


def read_slice(path: pathlib.Path) -> CTSlice:
    """Reads a slice, and decodes it where it is compressed.

    Raises:
      NotACTSlice: the file holds something else.
      InputError: it is broken, or compressed in a way that no decoder here knows.
    """
    dataset, has_pixels = _read(path)
    header = _header(path, dataset, has_pixels)
    stored = _decode(path, dataset)
    if stored.shape != (header.rows, header.columns):
        raise InputError(f"{path}: decodes to {stored.shape} pixels; its header says "
                         f"{header.rows}×{header.columns}")
    slope, intercept = _rescale(path, dataset)
    with np.errstate(over="ignore"):
        hu = (stored * slope + intercept).astype(np.float32)
    if not np.isfinite(hu).all():
        raise InputError(f"{path}: slope {slope:g} and intercept {intercept:g} give no finite HU")
    outside = _outside(dataset, stored) | (hu < LOWEST_HU)
    hu[outside] = OUTSIDE_HU
    return CTSlice(header=header, dataset=dataset, stored=stored, outside=outside, hu=hu)


def write_slice(path: pathlib.Path, source: CTSlice, hu: np.ndarray, *, derivation: Derivation
                ) -> int:
    """Writes a slice with other pixels as an image derived from it, whole or not at all.

    Slope, intercept, bits and padding stay as they are in the source, and so does what lies
    outside the field of view; geometry, patient and study too. What was compressed or big-endian
    is written as explicit little-endian.

    Args:
      path: of the file.
      source: where all but the pixels comes from; its dataset is changed.
      hu: (H, W), HU.
      derivation: what made them.

    Returns:
      Number of pixels beyond what the stored bits can hold, which were set to their limit.

    Raises:
      InputError: an element of the source cannot be written again.
      OSError: the file cannot be written.
    """
    dataset, origin = source.dataset, source.header.path
    slope, intercept = _rescale(origin, dataset)
    lowest, highest = _stored_range(dataset)
    with np.errstate(over="ignore"):
        exact = np.rint((np.asarray(hu, np.float64) - intercept) / slope)
    saturated = ((exact < lowest) | (exact > highest)) & ~source.outside
    stored = np.where(source.outside, source.stored, np.clip(exact, lowest, highest))
    try:
        _replace_pixels(dataset, stored)
        _mark_as_derived(dataset, derivation)
        # In memory first: pydicom raises OSError for elements, too.
        content = io.BytesIO()
        pydicom.dcmwrite(content, dataset, enforce_file_format=True)
    except Exception as error:  # an element that could be read, but has no valid form
        raise _broken(origin, error) from error
    with written_whole(path) as temporary:
        temporary.write_bytes(content.getvalue())
    return int(saturated.sum())


def _read(path: pathlib.Path, *, stop_before_pixels: bool = False) -> tuple[Dataset, bool]:
    """Parses a file; of one without the DICOM preamble, what can be told from its content.

    Returns:
      The dataset, and whether it has pixels: pydicom takes the end of a truncated file for that
      of the dataset.
    """
    if path.is_fifo():  # to open it would wait for its other end
        raise NotACTSlice(f"{path}: a pipe")
    try:
        file = path.open("rb")
        start = file.read(1024)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    has_preamble = start[128:132] == b"DICM"
    try:
        with file:
            file.seek(0)
            source = (_inflated(path, file) if uid.DeflatedExplicitVRLittleEndian.encode() in start
                      else file)
            dataset = pydicom.dcmread(source, force=True, stop_before_pixels=stop_before_pixels)
            has_pixels = bool(source.read(1)) if stop_before_pixels else "PixelData" in dataset
        named = bool(dataset.get("SOPClassUID")
                     or dataset.file_meta.get("MediaStorageSOPClassUID"))
    except InputError:
        raise
    except Exception as error:  # a broken file can raise anything
        if has_preamble or path.suffix.lower() in _SUFFIXES:
            raise _broken(path, error) from error
        raise NotACTSlice(f"{path}: not a DICOM file") from error
    if not named:
        if has_preamble or path.suffix.lower() in _SUFFIXES:
            raise InputError(f"{path}: broken: it names no SOP class")
        raise NotACTSlice(f"{path}: not a DICOM file")
    return dataset, has_pixels


def _broken(path: pathlib.Path, error: Exception) -> InputError:
    return InputError(f"{path}: broken ({type(error).__name__}: {printable(error, limit=160)})")


def _inflated(path: pathlib.Path, file: BinaryIO) -> DicomBytesIO:
    """A deflated file as an explicit little-endian one, of bounded size."""
    meta = read_file_meta_info(path)
    # Preamble, prefix, and the element that holds the length.
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


def _header(path: pathlib.Path, dataset: Dataset, has_pixels: bool) -> SliceHeader:
    """Checks that a dataset is a CT slice, and gathers what identifies it."""
    try:
        _check_kind(path, dataset, has_pixels)
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        identifiers = {name: str(dataset.get(keyword) or "") for name, keyword in (
            ("sop_uid", "SOPInstanceUID"), ("series_uid", "SeriesInstanceUID"),
            ("study_uid", "StudyInstanceUID"),
            ("frame_of_reference_uid", "FrameOfReferenceUID"))}
    except InputError:
        raise
    except Exception as error:  # a broken element can raise anything
        raise _broken(path, error) from error
    if min(rows, columns) < 1 or rows * columns > _MAX_PIXELS:
        raise InputError(f"{path}: has {rows}×{columns} pixels; expected 1 to {_MAX_PIXELS:,}")
    for name, keyword in (("sop_uid", "SOP"), ("series_uid", "Series")):
        if not identifiers[name]:
            raise InputError(f"{path}: broken: it has no {keyword} Instance UID")
    number = _numbers(dataset, "InstanceNumber", 1)
    thickness = _numbers(dataset, "SliceThickness", 1)
    event = _text(dataset, "IrradiationEventUID")
    time = (_text(dataset, "AcquisitionDateTime")
            or _text(dataset, "AcquisitionDate") + _text(dataset, "AcquisitionTime"))
    acquisition = f"event {event}" if event else f"time {time}" if time else ""
    return SliceHeader(
        path=path, rows=rows, columns=columns, **identifiers, acquisition=acquisition,
        patient_id=_text(dataset, "PatientID"),
        series_description=_text(dataset, "SeriesDescription"),
        instance_number=int(number[0]) if number else None,
        kernel=_text(dataset, "ConvolutionKernel"),
        thickness_mm=thickness[0] if thickness else None,
        pixel_spacing_mm=_numbers(dataset, "PixelSpacing", 2),
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        position_mm=_numbers(dataset, "ImagePositionPatient", 3))


def _check_kind(path: pathlib.Path, dataset: Dataset, has_pixels: bool) -> None:
    """Refuses by name what is no single CT slice in HU."""
    kind = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID"))
    if kind != uid.CTImageStorage:
        if uid.CTImageStorage.startswith(kind) or not uid.UID(kind).is_valid:
            raise InputError(f"{path}: broken: its SOP class is {printable(kind)}")
        raise NotACTSlice(f"{path}: {uid.UID(kind).name}, not CT Image Storage")
    if not has_pixels:  # nor may it have reached what is asked for below
        raise InputError(f"{path}: broken: it has no pixels")
    image_type = [str(value).upper() for value in dataset.get("ImageType") or ()]
    if "LOCALIZER" in image_type:
        raise NotACTSlice(f"{path}: localizer")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise NotACTSlice(f"{path}: several frames")
    photometric = str(dataset.get("PhotometricInterpretation", "none"))
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or dataset.get("SamplesPerPixel", 1) != 1:
        raise NotACTSlice(f"{path}: colour ({printable(photometric)})")
    if dataset.get("RescaleSlope") is None or dataset.get("RescaleIntercept") is None:
        raise NotACTSlice(f"{path}: no rescale slope and intercept, so its values are not HU")
    unit = str(dataset.get("RescaleType") or "HU").strip().upper()
    if unit not in ("HU", "US"):  # US is "unspecified", which CT scanners write for HU, too
        raise NotACTSlice(f"{path}: values in {printable(unit)}, not HU")


def _text(dataset: Dataset, keyword: str) -> str:
    """The text of an element; of several values, joined; empty where it is unreadable."""
    try:
        value = dataset.get(keyword)
    except Exception:  # a broken element says nothing; which ones must be there is checked above
        return ""
    if isinstance(value, pydicom.multival.MultiValue):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def _numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """The finite numbers of an element; None where there are not `count`."""
    try:
        value = dataset.get(keyword)
        values = tuple(map(float, [value] if count == 1 else value))
    except Exception:  # as above
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _rescale(path: pathlib.Path, dataset: Dataset) -> tuple[float, float]:
    try:
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    except Exception as error:
        raise _broken(path, error) from error
    if not (np.isfinite([slope, intercept]).all() and slope != 0):
        raise InputError(f"{path}: broken: rescale slope {slope:g}, intercept {intercept:g}")
    return slope, intercept


def _stored_range(dataset: Dataset) -> tuple[int, int]:
    """The lowest and the highest value that the stored bits can hold."""
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _decode(path: pathlib.Path, dataset: Dataset) -> np.ndarray:
    """The stored values, (H, W) signed or unsigned integers as the header says."""
    syntax = dataset.file_meta.get("TransferSyntaxUID") or _native_syntax(dataset)
    try:
        if syntax.is_compressed and syntax not in _DECODERS:
            raise InputError(f"{path}: compressed as {syntax.name}, which no decoder here knows")
        allocated, stored, high = (int(dataset[name].value)
                                   for name in ("BitsAllocated", "BitsStored", "HighBit"))
        if allocated not in (8, 16) or not 1 <= stored <= allocated or high != stored - 1:
            raise InputError(f"{path}: broken: {stored} bits in {allocated}, the highest {high}; "
                             "expected 8 or 16 allocated, and the lowest bits in use")
        if int(dataset.PixelRepresentation) not in (0, 1):
            raise InputError(f"{path}: broken: pixel representation {dataset.PixelRepresentation}")
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax.is_compressed and syntax != uid.RLELossless:
            _check_codestream(path, dataset)
        plugin = _DECODERS[syntax] if syntax.is_compressed else ""
        array, _ = get_decoder(syntax).as_array(dataset, decoding_plugin=plugin)
    except InputError:
        raise
    except Exception as error:  # a broken stream can raise anything
        raise _broken(path, error) from error
    lowest, highest = _stored_range(dataset)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise InputError(f"{path}: decodes to {array.dtype} of shape {array.shape}")
    if array.min() < lowest or array.max() > highest:
        raise InputError(f"{path}: broken: has values {array.min()} to {array.max()}; its header "
                         f"says {lowest} to {highest}")
    return array.astype(array.dtype.newbyteorder("="))


def _check_codestream(path: pathlib.Path, dataset: Dataset) -> None:
    """Refuses a stream of JPEG, JPEG-LS or JPEG 2000 that names another size than the header.

    Decoders believe it: one of 65,535×65,535 takes minutes and gigabytes before it is refused.
    """
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if frame.startswith(_JPEG_START):
        position = len(_JPEG_START)
        while frame[position + 1] not in _JPEG_SIZE_MARKERS:
            # A marker may have more than one FF in front; its length counts itself.
            position += 1 if frame[position + 1] == 0xFF else (
                2 + int.from_bytes(frame[position + 2:position + 4]))
        rows, columns = struct.unpack_from(">HH", frame, position + 5)
    else:
        position = frame.index(_JPEG_2000_START)
        right, bottom, left, top = struct.unpack_from(">4I", frame, position + 8)
        rows, columns = bottom - top, right - left
    if (rows, columns) != (dataset.Rows, dataset.Columns):
        raise InputError(f"{path}: broken: its stream says {rows}×{columns} pixels, its header "
                         f"{dataset.Rows}×{dataset.Columns}")


def _native_syntax(dataset: Dataset) -> uid.UID:
    """Of a file that names none, the way in which it could be parsed."""
    is_implicit, is_little = dataset.original_encoding
    if not is_little:
        return uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if is_implicit else uid.ExplicitVRLittleEndian


def _outside(dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    """(H, W) bool: padding by its tags, and corners at the lowest value that can be stored.

    Scanners that store 12 bits fill what lies outside the field of view with 0, without a tag.
    The same value within the body or the air around it is a measurement.
    """
    lowest, _ = _stored_range(dataset)
    outside = np.zeros(stored.shape, bool)
    limits = [_padding(dataset, name) for name in ("PixelPaddingValue",
                                                   "PixelPaddingRangeLimit")]
    if limits[0] is not None:
        first, last = sorted((limits[0], limits[0] if limits[1] is None else limits[1]))
        outside |= (stored >= first) & (stored <= last)
    regions, _ = scipy.ndimage.label(stored == lowest)
    corners = np.unique(regions[[0, 0, -1, -1], [0, -1, 0, -1]])
    return outside | np.isin(regions, corners[corners > 0])


def _padding(dataset: Dataset, keyword: str) -> int | None:
    """A value of padding as the pixels would hold it, whichever sign its element was given."""
    value = _numbers(dataset, keyword, 1)
    if value is None:
        return None
    bits = int(dataset.BitsAllocated)
    wrapped = int(value[0]) & ((1 << bits) - 1)
    return wrapped - (1 << bits) if dataset.PixelRepresentation and wrapped >> bits - 1 else wrapped


def _replace_pixels(dataset: Dataset, stored: np.ndarray) -> None:
    """Puts pixels in, uncompressed, and takes out what spoke of the former ones."""
    bits, sign = int(dataset.BitsAllocated), "i" if dataset.PixelRepresentation else "u"
    content = stored.astype(f"<{sign}{bits // 8}").tobytes()
    syntax = dataset.file_meta.get("TransferSyntaxUID") or _native_syntax(dataset)
    if syntax not in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian):
        syntax = uid.ExplicitVRLittleEndian
    if not dataset.original_encoding[1]:
        _swap_bytes(dataset)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = content + bytes(len(content) % 2)
    dataset["PixelData"].VR = "OW" if bits > 8 or syntax.is_implicit_VR else "OB"
    dataset["PixelData"].is_undefined_length = False
    # Offsets into compressed frames, a thumbnail of the source, and signatures over it.
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "IconImageSequence",
                    "MACParametersSequence", "DigitalSignaturesSequence"):
        if keyword in dataset:
            del dataset[keyword]
    for keyword, value in (("SmallestImagePixelValue", stored.min()),
                           ("LargestImagePixelValue", stored.max())):
        if keyword in dataset:
            dataset.add_new(keyword, "SS" if dataset.PixelRepresentation else "US", int(value))


_WORD_BYTES = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}


def _swap_bytes(dataset: Dataset) -> None:
    """Makes big-endian elements fit for little-endian; numbers are swapped when written."""
    for element in dataset.iterall():  # parses each while its byte order is known
        if element.VR in _WORD_BYTES and isinstance(element.value, bytes):
            words = np.frombuffer(element.value, f">u{_WORD_BYTES[element.VR]}")
            element.value = words.astype(words.dtype.newbyteorder("<")).tobytes()


def _code_item(code: Any) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def _mark_as_derived(dataset: Dataset, derivation: Derivation) -> None:
    """Identifies a dataset anew, as a derived image (PS3.3 C.7.6.1.1.2 and C.12.4)."""
    sop_uid, series_uid = str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID)
    dataset.SOPInstanceUID = derivation.derived_uid(sop_uid)
    dataset.SeriesInstanceUID = derivation.derived_uid(series_uid)
    dataset.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    dataset.SOPClassUID = uid.CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.ImplementationClassUID = uid.PYDICOM_IMPLEMENTATION_UID
    dataset.file_meta.ImplementationVersionName = f"DFGAN_JAX {derivation.version}"[:16]
    now = datetime.datetime.now()
    dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = now.strftime("%H%M%S")
    image_type = [str(value) for value in dataset.get("ImageType") or ()]
    dataset.ImageType = ["DERIVED", "SECONDARY", *(image_type[2:] or ["AXIAL"])]

    text = (f"Denoised by {derivation.name}, weights SHA-256 {derivation.weights_sha256}, "
            f"dfgan_jax {derivation.version}. Research software, not a medical device.")
    former = _text(dataset, "DerivationDescription")[:1024 - len(text) - 2]
    dataset.DerivationDescription = f"{former}; {text}" if former else text
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = uid.CTImageStorage, sop_uid
    source.SpatialLocationsPreserved = "YES"
    source.PurposeOfReferenceCodeSequence = [
        _code_item(codes.DCM.SourceImageForImageProcessingOperation)]
    dataset.SourceImageSequence = [source]
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code_item(codes.DCM.ModifyingEquipment)]
    equipment.Manufacturer = equipment.ManufacturerModelName = "dfgan_jax"
    equipment.SoftwareVersions = derivation.version
    equipment.ContributionDescription = "Denoising; research software, not a medical device"
    dataset.ContributingEquipmentSequence = [
        *(dataset.get("ContributingEquipmentSequence") or ()), equipment]

    suffix = f"denoised by {derivation.name}"
    description = _text(dataset, "SeriesDescription")
    description = f"{description[:64 - len(suffix) - 2]}, {suffix}" if description else suffix
    dataset.SeriesDescription = description
    number = _numbers(dataset, "SeriesNumber", 1)
    if number:  # viewers list series by it, and patients have fewer than a thousand
        dataset.SeriesNumber = int(number[0]) + 1000


def group_by_series(headers: list[SliceHeader]) -> Iterator[list[SliceHeader]]:
    """The slices of each series, in the order of their position, else of their number."""
    series: dict[str, list[SliceHeader]] = {}
    for header in headers:
        series.setdefault(header.series_uid, []).append(header)
    for slices in series.values():
        located = all(header.location_mm is not None for header in slices)
        yield sorted(slices, key=lambda header: (
            header.location_mm if located else header.instance_number or 0, header.path))


def series_notes(slices: list[SliceHeader]) -> list[str]:
    """What is odd in a series, in words: gaps, positions or instances that occur twice.

    Args:
      slices: of one series, as `group_by_series` gives them.
    """
    notes = []
    if len({header.sop_uid for header in slices}) < len(slices):
        notes.append("the same instance occurs in several files")
    locations = [header.location_mm for header in slices]
    if None in locations:
        return [*notes, "slices without a position"] if len(slices) > 1 else notes
    steps = np.diff(np.asarray(locations, float))
    twice = int((steps < 1e-3).sum())
    if twice:
        notes.append(f"{twice} slices stand where another one does")
        slices = [slices[0], *(each for each, step in zip(slices[1:], steps, strict=True)
                               if step >= 1e-3)]
        steps = steps[steps >= 1e-3]
    if len(steps) > 1:
        thickness = np.asarray([each.thickness_mm or 0 for each in slices])
        usual = np.maximum(np.median(steps), np.maximum(thickness[1:], thickness[:-1]))
        missing = int(np.maximum(np.rint(steps / usual) - 1, 0).sum())
        if missing:
            notes.append(f"{missing} slices seem to be missing between "
                         f"{locations[0]:g} and {locations[-1]:g} mm")
    return notes
