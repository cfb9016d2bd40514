"""The pixels of a CT slice: decoding and replacement."""

import dataclasses
import pathlib
import struct
from typing import Final

import numpy as np
from jaxtyping import Integer, Num
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder

from dfgan_jax.scans.dicom_file import broken
from dfgan_jax.scans.dicom_overlays import overlay_bits, overlay_planes, replace_overlays
from dfgan_jax.scans.dicom_storage import Storage, padding_limits, storage_of, stored_range
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.wording import counted, printable

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

_JPEG_2000_SIGNED = 0x80
"""The bit of a sign beside the precision of a component."""

_JPEG_SIZE_MARKERS = (set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}
"""Start of a frame, in any process of JPEG and in JPEG-LS."""

_EXPLICIT_HEAD: Final = 12
"""Bytes of an element before its value where its header names its kind, which comes after 4."""

_PIXEL_KINDS: Final = (b"OW", b"OB")

_PIXEL_DATA = struct.pack("<2H", 0x7FE0, 0x0010)

_WORD_BYTES = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NativePixels:
    """The place of uncompressed little-endian pixels in a file of one slice.

    Attributes:
      position: of the element in the file.
      head: number of bytes of the element before its value.
      shape: (H, W).
      storage: of the pixels.
    """

    position: int
    head: int
    shape: tuple[int, int]
    storage: Storage

    def read(self, path: pathlib.Path) -> Integer[np.ndarray, "h w"] | None:
        """The stored values; None if the file is none that `decode` would only copy.

        Raises:
          InputError: the file cannot be read.
        """
        size = self.shape[0] * self.shape[1] * self.storage.allocated // 8
        try:
            with path.open("rb") as file:
                file.seek(self.position)
                content = file.read(self.head + size)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        if len(content) < self.head + size or not content.startswith(_PIXEL_DATA):
            return None
        if self.head == _EXPLICIT_HEAD and content[4:6] not in _PIXEL_KINDS:
            return None
        length, = struct.unpack_from("<L", content, self.head - 4)
        return self.words(content[self.head:]) if length == size + size % 2 else None

    def words(self, content: bytes) -> Integer[np.ndarray, "h w"] | None:
        """The stored values of the element; None if they have more bits than are stored."""
        words = np.frombuffer(content, self.storage.dtype, self.shape[0] * self.shape[1])
        if words.min() < self.storage.lowest or words.max() > self.storage.highest:
            return None
        return words.reshape(self.shape)


def native_pixels(path: pathlib.Path, dataset: Dataset, position: int | None
                  ) -> NativePixels | None:
    """The place of the pixels; None of others, and of a file that only `decode` can name broken.

    Args:
      path: of the file, for messages.
      dataset: parsed up to the pixels.
      position: in the file, where parsing ended.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if position is None or syntax not in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian):
        return None
    try:
        _check_bits(path, dataset)
        return NativePixels(
            position=position, head=8 if dataset.original_encoding[0] else _EXPLICIT_HEAD,
            shape=(int(dataset.Rows), int(dataset.Columns)), storage=storage_of(path, dataset))
    except Exception:  # a broken element can raise anything, and `decode` names it
        return None


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
        _check_bits(path, dataset)
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
    _check_high_bits(path, dataset)
    return _with_padding(dataset, array.astype(array.dtype.newbyteorder("=")))


def _check_bits(path: pathlib.Path, dataset: Dataset) -> None:
    allocated, stored, high = (int(dataset[name].value)
                               for name in ("BitsAllocated", "BitsStored", "HighBit"))
    if allocated not in (8, 16) or not 1 <= stored <= allocated or high != stored - 1:
        raise InputError(f"{path}: broken: {stored} bits in {allocated}, the highest {high}; "
                         "expected 8 or 16 allocated, and the lowest bits in use")
    if int(dataset.PixelRepresentation) not in (0, 1):
        raise InputError(f"{path}: broken: pixel representation {dataset.PixelRepresentation}")


def _check_high_bits(path: pathlib.Path, dataset: Dataset) -> None:
    """Refuses values that have more bits than are stored, which decoders cut off."""
    high, stored = _high_bits(dataset), int(dataset.BitsStored)
    # Overlays that nothing describes lie higher, apart from the pixel's bits.
    if high is not None and (count := int((high & 1 << stored != 0).sum())):
        raise InputError(f"{path}: broken: {counted(count, 'pixel')} have more bits than the "
                         f"{stored} of BitsStored, of no overlay and no padding; expected "
                         f"BitsStored {dataset.BitsAllocated}")


def high_bit_notes(dataset: Dataset) -> tuple[str, ...]:
    """A note on bits above the stored ones that `decode` cuts off."""
    high = _high_bits(dataset)
    return () if high is None or not high.any() else (
        f"bits above the {dataset.BitsStored} of BitsStored, of no overlay and no padding, are cut "
        "off",)


def _high_bits(dataset: Dataset) -> Integer[np.ndarray, "h w"] | None:
    """The bits of each word above the stored ones, if they are neither its sign, nor padding, nor
    of an overlay; None if all words are within the stored range, or compressed."""
    (lowest, highest), words = stored_range(dataset), words_of(dataset)
    if words is None or (words.min() >= lowest and words.max() <= highest):
        return None
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    above = ((1 << allocated) - (1 << stored)) & ~overlay_bits(dataset)
    high = words.astype(np.int64) & above
    if dataset.PixelRepresentation:
        high[(high == above) & (words >> stored - 1 & 1 == 1)] = 0
    if (limits := padding_limits(dataset)) is not None:
        high[(words >= limits[0]) & (words <= limits[1])] = 0
    return high


def _with_padding(dataset: Dataset, array: Integer[np.ndarray, "h w"]
                  ) -> Integer[np.ndarray, "h w"]:
    """Restores padding whose value has more bits than are stored, which decoders cut off."""
    (lowest, highest), limits = stored_range(dataset), padding_limits(dataset)
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


def _check_codestream(path: pathlib.Path, dataset: Dataset) -> None:
    """Refuses a stream of JPEG, JPEG-LS or JPEG 2000 that contradicts the header.

    Decoders trust its size: 65,535×65,535 would take minutes and gigabytes before an error.
    They add half the range to signed samples of JPEG 2000 that the header calls unsigned.
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
        if frame[position + 42] & _JPEG_2000_SIGNED and not dataset.PixelRepresentation:
            raise InputError(f"{path}: broken: its stream has signed values, but "
                             "PixelRepresentation is 0; expected PixelRepresentation 1")
    if (rows, columns) != (dataset.Rows, dataset.Columns):
        raise InputError(f"{path}: broken: its stream says {rows}×{columns} pixels, its header "
                         f"{dataset.Rows}×{dataset.Columns}")


def _native_syntax(dataset: Dataset) -> uid.UID:
    """The transfer syntax of a file that names none: the encoding in which it was parsed."""
    is_implicit, is_little = dataset.original_encoding
    if not is_little:
        return uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if is_implicit else uid.ExplicitVRLittleEndian


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
    for keyword, reduced in (("SmallestImagePixelValue", np.min),
                             ("LargestImagePixelValue", np.max)):
        if keyword in dataset:
            dataset.add_new(keyword, "SS" if dataset.PixelRepresentation else "US",
                            int(reduced(stored)))


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
