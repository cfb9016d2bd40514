"""Overlays of one bit in the pixel words of a CT slice, above its stored bits.

The standard has retired them (PS3.5, 8.1.2); a slice is written with OverlayData (60xx,3000)
instead. The bits of a compressed stream end at those of the image: there the overlay is removed.
"""

from typing import Final

import numpy as np
from jaxtyping import Integer
from pydicom.dataset import Dataset
from pydicom.tag import Tag

_GROUPS: Final = range(0x6000, 0x6020, 2)
_ROWS, _COLUMNS, _BITS_ALLOCATED, _BIT_POSITION, _DATA = 0x0010, 0x0011, 0x0100, 0x0102, 0x3000


def overlay_notes(dataset: Dataset, *, has_words: bool) -> list[str]:
    """What becomes of each overlay in high bits, in words.

    Args:
      dataset: of the slice, with or without its pixels.
      has_words: whether the pixels are uncompressed.
    """
    return [f"the overlay in bit {bit} of the pixels is "
            + ("written as OverlayData" if has_words and _has_the_size(dataset, group) else
               "left out")
            for group, bit in _in_high_bits(dataset).items()]


def overlay_bits(dataset: Dataset) -> int:
    """A word with the bits of the overlays above the stored bits."""
    return sum(1 << bit for bit in set(_in_high_bits(dataset).values()))


def take_overlay_bits(dataset: Dataset, source: Dataset) -> None:
    """Gives a dataset the places of another one's overlays in high bits, without their size.

    So `overlay_notes` counts them as left out.
    """
    for group, bit in _in_high_bits(source).items():
        dataset.add_new(Tag(group, _BIT_POSITION), "US", bit)


def overlay_planes(dataset: Dataset, words: Integer[np.ndarray, "h w"] | None
                   ) -> dict[int, bytes | None]:
    """The content of OverlayData by group; None where it cannot be read.

    Args:
      dataset: of the slice, before its pixels are replaced.
      words: (H, W), with all bits; None of a compressed slice.
    """
    return {group: None if words is None or not _has_the_size(dataset, group) else
            np.packbits((words >> bit & 1).astype(bool).ravel(), bitorder="little").tobytes()
            for group, bit in _in_high_bits(dataset).items()}


def replace_overlays(dataset: Dataset, planes: dict[int, bytes | None]) -> None:
    """Sets the OverlayData of `overlay_planes`, or removes the overlay where there is none."""
    for group, plane in planes.items():
        if plane is None:
            for tag in [tag for tag in dataset.keys() if tag.group == group]:  # noqa: SIM118
                del dataset[tag]
            continue
        dataset.add_new(Tag(group, _BITS_ALLOCATED), "US", 1)
        dataset.add_new(Tag(group, _BIT_POSITION), "US", 0)
        dataset.add_new(Tag(group, _DATA), "OW", plane + bytes(len(plane) % 2))


def _in_high_bits(dataset: Dataset) -> dict[int, int]:
    """The position of each overlay above the stored bits, by group."""
    stored = dataset.get("BitsStored")
    if not isinstance(stored, int):
        return {}
    there = {tag.group for tag in dataset.keys()}.intersection(_GROUPS)  # noqa: SIM118
    positions = {group: _number(dataset, group, _BIT_POSITION) for group in sorted(there)
                 if Tag(group, _DATA) not in dataset}
    return {group: bit for group, bit in positions.items() if bit is not None and bit >= stored}


def _has_the_size(dataset: Dataset, group: int) -> bool:
    """Whether an overlay has the rows and columns of the image, and a bit in its words."""
    bit = _number(dataset, group, _BIT_POSITION)
    return ((_number(dataset, group, _ROWS), _number(dataset, group, _COLUMNS))
            == (dataset.Rows, dataset.Columns)
            and bit is not None and bit < int(dataset.BitsAllocated))


def _number(dataset: Dataset, group: int, element: int) -> int | None:
    try:
        value = dataset[Tag(group, element)].value
    except Exception:  # missing or broken
        return None
    return value if isinstance(value, int) else None
