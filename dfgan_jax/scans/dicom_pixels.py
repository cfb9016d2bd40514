"""The pixels of a CT slice: decoding, rescale, padding, and replacement."""

import pathlib
import struct
from typing import Final

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Integer, Num
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder

from dfgan_jax.scans.dicom_file import broken, numbers_of, text_of
from dfgan_jax.scans.dicom_overlays import overlay_planes, replace_overlays
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.safe_pickle import printable

_DECODERS = {
    uid.RLELossless: "pydicom",
    uid.JPEG2000Lossless: "pillow", uid.JPEG2000: "pillow",
    **dict.fromkeys((uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless,
                     uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless,
                     uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K), "pylibjpeg"),
}
"""Transfer syntax → the plug-in that decodes it: one that neither crashes nor fills the memory
on broken streams."""

_JPEG_START, _JPEG_2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"

_JPEG_SIZE_MARKERS = (set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}
"""Start of a frame, in any process of JPEG and in JPEG-LS."""

_LUNG_HU: Final = (-1100.0, -500.0)
"""Air and lung; the body has higher values."""

_WORD_BYTES = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}


def rescale_of(path: pathlib.Path, dataset: Dataset) -> tuple[float, float]:
    """Slope and intercept from stored values to HU, finite, the slope not 0.

    Several equal values are one value.
    """
    slope, intercept = (_one_number(path, dataset, keyword)
                        for keyword in ("RescaleSlope", "RescaleIntercept"))
    if not (np.isfinite([slope, intercept]).all() and slope != 0):
        raise InputError(f"{path}: broken: rescale slope {slope:g}, intercept {intercept:g}")
    return slope, intercept


def _one_number(path: pathlib.Path, dataset: Dataset, keyword: str) -> float:
    try:
        value = dataset[keyword].value
        values = set(map(float, value)) if isinstance(value, MultiValue) else {float(value)}
    except Exception as error:
        raise broken(path, error) from error
    if len(values) != 1:
        raise InputError(f"{path}: broken: {keyword} is {printable(text_of(dataset, keyword))}; "
                         "expected one value")
    return values.pop()


def stored_range(dataset: Dataset) -> tuple[int, int]:
    """The lowest and the highest value of the stored bits."""
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def decode(path: pathlib.Path, dataset: Dataset) -> Integer[np.ndarray, "h w"]:
    """The stored values, (H, W) integers, signed or unsigned by the header.

    They are within `stored_range`, except for padding of uncompressed pixels whose value has
    more bits.

    Raises:
      InputError: the pixels cannot be decoded, or contradict the header.
    """
    check_syntax(path, dataset)
    syntax = syntax_of(dataset)
    try:
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
        raise broken(path, error) from error
    lowest, highest = stored_range(dataset)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise InputError(f"{path}: decodes to {array.dtype} of shape {array.shape}")
    if array.min() < lowest or array.max() > highest:
        raise InputError(f"{path}: broken: has values {array.min()} to {array.max()}; its header "
                         f"says {lowest} to {highest}")
    return _with_padding(dataset, array.astype(array.dtype.newbyteorder("=")))


def _with_padding(dataset: Dataset, array: Integer[np.ndarray, "h w"]
                  ) -> Integer[np.ndarray, "h w"]:
    """Restores padding whose value has more bits than are stored, which decoders cut off."""
    (lowest, highest), limits = stored_range(dataset), _padding_limits(dataset)
    if limits is None or (limits[0] >= lowest and limits[1] <= highest):
        return array
    words = words_of(dataset)
    if words is None:
        return array
    return np.where((words >= limits[0]) & (words <= limits[1])
                    & ((words < lowest) | (words > highest)), words, array)


def words_of(dataset: Dataset) -> Integer[np.ndarray, "h w"] | None:
    """(H, W) pixel words with the bits above the stored ones; None of compressed pixels."""
    syntax = syntax_of(dataset)
    if syntax.is_compressed:
        return None
    order = "<" if syntax.is_little_endian else ">"
    sign = "i" if dataset.PixelRepresentation else "u"
    words = np.frombuffer(dataset.PixelData, f"{order}{sign}{int(dataset.BitsAllocated) // 8}",
                          count=dataset.Rows * dataset.Columns)
    return words.astype(words.dtype.newbyteorder("=")).reshape(dataset.Rows, dataset.Columns)


def syntax_of(dataset: Dataset) -> uid.UID:
    """The transfer syntax of the pixels."""
    return dataset.file_meta.get("TransferSyntaxUID") or _native_syntax(dataset)


def check_syntax(path: pathlib.Path, dataset: Dataset) -> None:
    """Refuses pixels that no decoder here knows.

    Raises:
      InputError: names the transfer syntax.
    """
    syntax = syntax_of(dataset)
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise InputError(f"{path}: its transfer syntax is {printable(syntax)}, "
                         f"{'a private one, ' if syntax.is_private else ''}which no decoder here "
                         "knows")
    if syntax.is_compressed and syntax not in _DECODERS:
        raise InputError(f"{path}: compressed as {syntax.name}, which no decoder here knows")


def check_sign(path: pathlib.Path, dataset: Dataset, stored: Integer[np.ndarray, "h w"], *,
               outside: Bool[np.ndarray, "h w"]) -> None:
    """Refuses signed values with an unsigned header, which puts air at some 3,000 HU.

    Raises:
      InputError: unsigned values could not hold air, and the same bits, read as signed, have
        air or lung in at least a hundredth of the pixels, in regions that reach the border.
    """
    slope, intercept = rescale_of(path, dataset)
    if dataset.PixelRepresentation or slope < 0 or intercept <= _LUNG_HU[1]:
        return
    _, highest = stored_range(dataset)
    signed = stored.astype(np.int64) - np.where(stored > highest // 2, highest + 1, 0)
    hu = signed * slope + intercept
    air = _at_border((hu <= _LUNG_HU[1]) & ~outside) & (hu >= _LUNG_HU[0])
    if air.mean() >= 0.01:
        raise InputError(
            f"{path}: broken: its values are signed, but PixelRepresentation is 0: air and lung "
            f"are at {np.median(stored[air]) * slope + intercept:,.0f} HU, not at "
            f"{np.median(hu[air]):,.0f} HU; expected PixelRepresentation 1")


def _check_codestream(path: pathlib.Path, dataset: Dataset) -> None:
    """Refuses a stream of JPEG, JPEG-LS or JPEG 2000 that names another size than the header.

    Decoders trust it: 65,535×65,535 would take minutes and gigabytes before an error.
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
    """The transfer syntax of a file that names none: the encoding in which it was parsed."""
    is_implicit, is_little = dataset.original_encoding
    if not is_little:
        return uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if is_implicit else uid.ExplicitVRLittleEndian


def find_outside(dataset: Dataset, stored: Integer[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """(H, W) bool: padding at the border by its tags, and corners at the lowest stored value.

    Scanners that store 12 bits fill pixels outside the field of view with 0, without a tag.
    The same values within the body or the air around it are measurements. Values beyond the
    stored bits never are.
    """
    lowest, highest = stored_range(dataset)
    outside = (stored < lowest) | (stored > highest)
    if (limits := _padding_limits(dataset)) is not None:
        padding = (stored >= limits[0]) & (stored <= limits[1])
        outside |= _at_border(padding)
    regions, _ = scipy.ndimage.label(stored == lowest)
    outside |= _chosen(regions, regions[[0, 0, -1, -1], [0, -1, 0, -1]])
    return outside


def _at_border(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The regions of a mask that reach the border."""
    regions, _ = scipy.ndimage.label(mask)
    return _chosen(regions, np.concatenate([regions[0], regions[-1], regions[:, 0],
                                            regions[:, -1]]))


def _chosen(regions: Integer[np.ndarray, "h w"], labels: Integer[np.ndarray, "*n"]
            ) -> Bool[np.ndarray, "h w"]:
    chosen = np.unique(labels)
    within: np.ndarray = np.isin(regions, chosen[chosen > 0])
    return within


def _padding_limits(dataset: Dataset) -> tuple[int, int] | None:
    """The lowest and the highest stored value of padding; None without its tag."""
    first, last = (_padding(dataset, name) for name in ("PixelPaddingValue",
                                                        "PixelPaddingRangeLimit"))
    if first is None:
        return None
    return (first, first) if last is None else (min(first, last), max(first, last))


def _padding(dataset: Dataset, keyword: str) -> int | None:
    """A value of padding as a stored pixel value, whichever sign its element has."""
    value = numbers_of(dataset, keyword, 1)
    if value is None:
        return None
    bits = int(dataset.BitsAllocated)
    wrapped = int(value[0]) & ((1 << bits) - 1)
    return wrapped - (1 << bits) if dataset.PixelRepresentation and wrapped >> bits - 1 else wrapped


def replace_pixels(dataset: Dataset, stored: Num[np.ndarray, "h w"]) -> None:
    """Sets uncompressed pixels, and removes elements that describe the former ones.

    Args:
      dataset: of the slice; changed.
      stored: (H, W), before the rescale, of the kind that `decode` returns.
    """
    overlays = overlay_planes(dataset, words_of(dataset))
    prepare_for_pixels(dataset)
    content = pixel_bytes(dataset, stored)
    dataset.PixelData = content + bytes(len(content) % 2)
    dataset["PixelData"].VR = pixel_vr(dataset)
    dataset["PixelData"].is_undefined_length = False
    replace_overlays(dataset, overlays)
    for keyword, value in (("SmallestImagePixelValue", stored.min()),
                           ("LargestImagePixelValue", stored.max())):
        if keyword in dataset:
            dataset.add_new(keyword, "SS" if dataset.PixelRepresentation else "US", int(value))


def prepare_for_pixels(dataset: Dataset) -> None:
    """Makes a dataset one of uncompressed pixels, and removes what describes the former ones."""
    syntax = syntax_of(dataset)
    if syntax not in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian):
        syntax = uid.ExplicitVRLittleEndian
    if not dataset.original_encoding[1]:
        _swap_bytes(dataset)
    dataset.file_meta.TransferSyntaxUID = syntax
    # Offsets into compressed frames, a thumbnail of the source, and signatures over it.
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "IconImageSequence",
                    "MACParametersSequence", "DigitalSignaturesSequence"):
        if keyword in dataset:
            del dataset[keyword]


def pixel_bytes(dataset: Dataset, stored: Num[np.ndarray, "h w"]) -> bytes:
    """The uncompressed pixels of a slice or frame, little-endian."""
    sign = "i" if dataset.PixelRepresentation else "u"
    return stored.astype(f"<{sign}{int(dataset.BitsAllocated) // 8}").tobytes()


def pixel_vr(dataset: Dataset) -> str:
    """The value representation of uncompressed pixels."""
    is_implicit = dataset.file_meta.TransferSyntaxUID.is_implicit_VR
    return "OW" if dataset.BitsAllocated > 8 or is_implicit else "OB"


def _swap_bytes(dataset: Dataset) -> None:
    """Swaps bytes of big-endian elements for little-endian; numbers are swapped when written."""
    for element in dataset.iterall():  # parses each while its byte order is known
        if element.VR in _WORD_BYTES and isinstance(element.value, bytes):
            words = np.frombuffer(element.value, f">u{_WORD_BYTES[element.VR]}")
            element.value = words.astype(words.dtype.newbyteorder("<")).tobytes()
