"""The meaning of a CT slice's stored values: bits, rescale and padding."""

import dataclasses
import functools
import pathlib
from typing import Final, NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float32, Float64, Integer, Num
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dfgan_jax.scans.dicom_file import broken, numbers_of, text_of
from dfgan_jax.scans.hounsfield import LOWEST_HU, OUTSIDE_HU
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.wording import printable

_LUNG_HU: Final = (-1100.0, -500.0)
"""Air and lung; the body has higher values."""


_TISSUE_SHARE: Final = 0.25
"""Of the neighbours of bone; around streaks, which are as dark as padding, is air."""

_HIGHEST_HU: Final = 30_000.0
"""Above the densest metal."""

_PADDING_BELOW_0: Final = ("padding below 0 in unsigned pixels, at the border: taken as outside "
                           "the field of view")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Storage:
    """The meaning of stored values.

    Attributes:
      allocated: bits of a value in the file, 8 or 16.
      is_signed: whether a value has a sign.
      lowest, highest: of the stored bits.
      slope, intercept: from stored values to HU, finite, the slope not 0.
      padding: the lowest and the highest stored value of padding; None without its tag.
    """

    allocated: int
    is_signed: bool
    lowest: int
    highest: int
    slope: float
    intercept: float
    padding: tuple[int, int] | None

    @property
    def dtype(self) -> np.dtype:
        """Of the pixels in a little-endian file."""
        return np.dtype(f"<{'i' if self.is_signed else 'u'}{self.allocated // 8}")


class Pixels(NamedTuple):
    """The pixels of a slice.

    Attributes:
      hu: (H, W) float32; `OUTSIDE_HU` outside.
      outside: (H, W) bool: padding, and pixels outside the field of view.
      notes: peculiarities of the values, in words.
    """

    hu: Float32[np.ndarray, "h w"]
    outside: Bool[np.ndarray, "h w"]
    notes: tuple[str, ...] = ()


def storage_of(path: pathlib.Path, dataset: Dataset) -> Storage:
    """The storage of a slice.

    Raises:
      InputError: its rescale has no use.
    """
    lowest, highest = stored_range(dataset)
    slope, intercept = (_one_number(path, dataset, keyword)
                        for keyword in ("RescaleSlope", "RescaleIntercept"))
    if not (np.isfinite([slope, intercept]).all() and slope != 0):
        raise InputError(f"{path}: broken: rescale slope {slope:g}, intercept {intercept:g}")
    return Storage(allocated=int(dataset.BitsAllocated),
                   is_signed=bool(dataset.PixelRepresentation), lowest=lowest, highest=highest,
                   slope=slope, intercept=intercept, padding=padding_limits(dataset))


def _one_number(path: pathlib.Path, dataset: Dataset, keyword: str) -> float:
    """The number of an element; several equal values are one value."""
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


def padding_limits(dataset: Dataset) -> tuple[int, int] | None:
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


def to_hu(path: pathlib.Path, stored: Integer[np.ndarray, "h w"], storage: Storage) -> Pixels:
    """Converts stored values to HU.

    Args:
      path: of the file, for messages.
      stored: (H, W).
      storage: of the slice.

    Raises:
      InputError: the HU are not finite, or the values have a sign that the header denies, or
        none, though the header states one.
    """
    with np.errstate(over="ignore"):
        exact = np.multiply(stored, storage.slope, dtype=np.float64)
        exact += storage.intercept
        hu = exact.astype(np.float32)
    if not np.isfinite(hu).all():
        raise InputError(f"{path}: slope {storage.slope:g} and intercept {storage.intercept:g} "
                         "give no finite HU")
    padding = find_outside(stored, storage)
    outside = padding | (hu < LOWEST_HU)
    _check_sign(path, stored, storage, outside=outside)
    _check_no_sign(path, exact, storage, padding=padding)
    hu[outside] = OUTSIDE_HU
    is_below_0 = bool(_padding_below_0(stored, storage).any())
    return Pixels(hu, outside, (_PADDING_BELOW_0,) if is_below_0 else ())


def to_stored(hu: Num[np.ndarray, "h w"], storage: Storage, *,
              former: Integer[np.ndarray, "h w"], outside: Bool[np.ndarray, "h w"]
              ) -> tuple[Num[np.ndarray, "h w"], int]:
    """Converts HU to stored values.

    Args:
      hu: (H, W), HU.
      storage: of the slice.
      former: (H, W), the stored values that pixels outside keep.
      outside: (H, W) bool.

    Returns:
      (H, W) whole numbers; and the number of pixels outside the range of the stored bits, which
      are set to its limits.
    """
    with np.errstate(over="ignore"):
        stored = np.subtract(hu, storage.intercept, dtype=np.float64)
        stored /= storage.slope
        np.rint(stored, out=stored)
    saturated = 0
    if stored.min() < storage.lowest or stored.max() > storage.highest:
        beyond = (stored < storage.lowest) | (stored > storage.highest)
        saturated = int((beyond & ~outside).sum())
        np.clip(stored, storage.lowest, storage.highest, out=stored)
    stored[outside] = former[outside]
    return stored, saturated


def find_outside(stored: Integer[np.ndarray, "h w"], storage: Storage
                 ) -> Bool[np.ndarray, "h w"]:
    """(H, W) bool: padding at the border by its tags, and corners at the lowest stored value.

    Scanners that store 12 bits fill pixels outside the field of view with 0, without a tag.
    The same values within the body or the air around it are measurements. Values beyond the
    stored bits never are, and neither is padding below 0 that unsigned values hold at the border.
    """
    outside = (stored < storage.lowest) | (stored > storage.highest)
    outside |= _padding_below_0(stored, storage)
    if storage.padding is not None:
        first, last = storage.padding
        outside |= _at_border((stored >= first) & (stored <= last))
    if (stored[[0, 0, -1, -1], [0, -1, 0, -1]] == storage.lowest).any():
        outside |= _at_corners(stored == storage.lowest)
    return outside


def _padding_below_0(stored: Integer[np.ndarray, "h w"], storage: Storage
                     ) -> Bool[np.ndarray, "h w"]:
    """(H, W) bool: unsigned 16 bits at the border that hold negative padding, without a tag."""
    if storage.is_signed or storage.highest != 2**16 - 1 or stored.max() < 2**15:
        return np.zeros(stored.shape, bool)
    hu = stored * storage.slope + storage.intercept
    is_below_0 = (hu > _HIGHEST_HU) & (hu - 2**16 * storage.slope < LOWEST_HU)
    if storage.padding is not None:
        is_below_0 &= (stored < storage.padding[0]) | (stored > storage.padding[1])
    return _at_border(is_below_0)


def _check_sign(path: pathlib.Path, stored: Integer[np.ndarray, "h w"], storage: Storage, *,
                outside: Bool[np.ndarray, "h w"]) -> None:
    """Refuses signed values with an unsigned header, which puts air at some 3,000 HU.

    Raises:
      InputError: unsigned values could not hold air, and the same bits, read as signed, have
        air or lung in at least a hundredth of the pixels, in regions that reach the border.
    """
    slope, intercept, highest = storage.slope, storage.intercept, storage.highest
    if storage.is_signed or slope < 0 or intercept <= _LUNG_HU[1]:
        return
    signed = stored.astype(np.int64) - np.where(stored > highest // 2, highest + 1, 0)
    hu = signed * slope + intercept
    air = _at_border((hu <= _LUNG_HU[1]) & ~outside) & (hu >= _LUNG_HU[0])
    if air.mean() >= 0.01:
        raise InputError(
            f"{path}: broken: its values are signed, but PixelRepresentation is 0: air and lung "
            f"are at {np.median(stored[air]) * slope + intercept:,.0f} HU, not at "
            f"{np.median(hu[air]):,.0f} HU; expected PixelRepresentation 1")


def _check_no_sign(path: pathlib.Path, hu: Float64[np.ndarray, "h w"], storage: Storage, *,
                   padding: Bool[np.ndarray, "h w"]) -> None:
    """Refuses unsigned values with a signed header, which puts bone below all padding.

    Raises:
      InputError: unsigned values could hold air; and values below `LOWEST_HU`, of which no region
        reaches the border and many neighbours are tissue, would be those of bone or metal.
    """
    span = (storage.highest - storage.lowest + 1) * storage.slope
    if not storage.is_signed or span < 0 or storage.intercept > _LUNG_HU[1]:
        return
    is_low = (hu < LOWEST_HU) & ~padding
    is_bone = is_low & ~_at_border(is_low) & (hu + span < _HIGHEST_HU)
    if not is_bone.any():
        return
    neighbours = hu[scipy.ndimage.binary_dilation(is_bone) & ~is_bone]
    if (neighbours > 0).mean() > _TISSUE_SHARE:
        raise InputError(
            f"{path}: broken: its values are unsigned, but PixelRepresentation is 1: bone within "
            f"the body is at {np.median(hu[is_bone]):,.0f} HU, not at "
            f"{np.median(hu[is_bone]) + span:,.0f} HU; expected PixelRepresentation 0")


def _at_border(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The regions of a mask that reach the border."""
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if not border.any():
        return np.zeros_like(mask)
    regions, count = _regions(mask.tobytes(), mask.shape)
    return _chosen(regions, count, np.concatenate([regions[0], regions[-1], regions[:, 0],
                                                   regions[:, -1]]))


def _at_corners(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The regions of a mask that hold a corner."""
    regions, count = _regions(mask.tobytes(), mask.shape)
    return _chosen(regions, count, regions[[0, 0, -1, -1], [0, -1, 0, -1]])


@functools.lru_cache(maxsize=4)  # the slices of a series have the same field of view
def _regions(mask: bytes, shape: tuple[int, int]) -> tuple[Integer[np.ndarray, "h w"], int]:
    """The connected regions of a mask, numbered from 1, and their number."""
    regions: np.ndarray
    regions, count = scipy.ndimage.label(np.frombuffer(mask, bool).reshape(shape))
    return regions, count


def _chosen(regions: Integer[np.ndarray, "h w"], count: int, labels: Integer[np.ndarray, "*n"]
            ) -> Bool[np.ndarray, "h w"]:
    is_chosen = np.zeros(count + 1, bool)
    is_chosen[labels] = True
    is_chosen[0] = False
    within: np.ndarray = is_chosen[regions]
    return within
