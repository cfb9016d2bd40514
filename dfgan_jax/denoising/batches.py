"""Batches of a folder's slices, for few compiled programs."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.scans.dicom_header import SliceHeader

MAX_PADDED_SIZES: Final = 4
"""Sizes that a folder's slices are padded to. A program for a new one is compiled for seconds on a
CPU, and for up to a minute on a GPU."""

Size: TypeAlias = tuple[int, int]


class Program(NamedTuple):
    """The shape of the batches of a compiled program.

    Attributes:
      batch_size: number of slices.
      padded_size: height and width that they are padded to.
    """

    batch_size: int
    padded_size: Size


class Batch(NamedTuple):
    """Slices of one size that are denoised together.

    Attributes:
      headers: of the slices, at most `program.batch_size`.
      program: that denoises them.
    """

    headers: list[SliceHeader]
    program: Program


def programs(headers: Iterable[SliceHeader], denoiser: Denoiser) -> dict[Size, Program]:
    """Returns the program of each size of slices in a folder, at most `MAX_PADDED_SIZES` of them.

    With so many sizes or fewer, each slice is padded as `Denoiser` pads it alone. With more,
    slices of some are padded further by reflection, which changes their denoised pixels by
    little (docs/denoising.md).
    """
    counts = Counter((header.rows, header.columns) for header in headers)
    padded: Counter[Size] = Counter()
    for size, count in counts.items():
        padded[denoiser.padded_size(size)] += count
    shared = shared_sizes(padded)
    common: dict[Size, Size] = {size: shared[denoiser.padded_size(size)] for size in counts}
    most: Counter[Size] = Counter()
    for size, count in counts.items():
        most[common[size]] = max(most[common[size]], count)
    return {size: Program(denoiser.slices_per_batch(larger, count=most[larger]), larger)
            for size, larger in common.items()}


def shared_sizes(counts: Mapping[Size, int]) -> dict[Size, Size]:
    """Merges sizes until `MAX_PADDED_SIZES` are left.

    Neighbours by height and width are merged first where that adds the fewest pixels.

    Args:
      counts: size → number of slices.

    Returns:
      Each size → a size at least as high and as wide.
    """
    groups = [[size] for size in sorted(counts)]

    def added(group: Sequence[Size]) -> int:
        return sum(counts[size] * (math.prod(_common(group)) - math.prod(size)) for size in group)

    def cost(index: int) -> int:
        first, second = groups[index:index + 2]
        return added(first + second) - added(first) - added(second)

    while len(groups) > MAX_PADDED_SIZES:
        index = min(range(len(groups) - 1), key=cost)
        groups[index:index + 2] = [groups[index] + groups[index + 1]]
    return {size: _common(group) for group in groups for size in group}


def _common(sizes: Sequence[Size]) -> Size:
    heights, widths = zip(*sizes, strict=True)
    return max(heights), max(widths)


def in_batches(headers: Iterable[SliceHeader], of_size: Mapping[Size, Program]) -> Iterator[Batch]:
    """Groups slices by size across series, for full batches."""
    sizes: dict[Size, list[SliceHeader]] = {}
    for header in headers:
        sizes.setdefault((header.rows, header.columns), []).append(header)
    for size, same in sizes.items():
        program = of_size[size]
        for start in range(0, len(same), program.batch_size):
            yield Batch(same[start:start + program.batch_size], program)
