"""The order of the axes of arrays of slices."""

import typing
from typing import Final, Literal, TypeAlias

Axes: TypeAlias = Literal["nhw", "hwn"]
"""(N, H, W), or (H, W, N)."""

ORDERS: Final[tuple[Axes, ...]] = typing.get_args(Axes)

_THIN: Final = 4
"""Slices this many times as long as wide are none."""


def is_thin(height: int, width: int) -> bool:
    """Whether a slice is far from a square, as no reconstructed slice is."""
    return max(height, width) >= _THIN * min(height, width)


def look_like_hwn(shape: tuple[int, ...]) -> bool:
    """Whether an array taken as (N, H, W) is rather (H, W, N).

    Its slices are thin, and those of (H, W, N) are not; or its first two axes alone have one
    length, as height and width do.

    Args:
      shape: of three axes, (N, H, W).
    """
    return (is_thin(*shape[1:]) and not is_thin(*shape[:2])) or shape[0] == shape[1] != shape[2]


def look_like_nhw(shape: tuple[int, ...]) -> bool:
    """Whether slices of an array taken as (H, W, N) are thin, and those of (N, H, W) are not."""
    return is_thin(*shape[:2]) and not is_thin(*shape[1:])


def only_first_differs(shape: tuple[int, ...]) -> bool:
    """Whether the last two of three axes have one length, as height and width do."""
    return shape[0] != shape[1] == shape[2]
