"""A slice of soft-edged shapes, painted from back to front.

Shapes are given in mm relative to a centre (x to the image's right, y downwards); their
edges are one pixel soft, so a painting looks the same at any size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dfgan_jax.scans.hounsfield import HU_AIR


class Tissue(NamedTuple):
    """Mean HU, and the standard deviations [HU] of its fine and coarse texture."""

    hu: float | Float[np.ndarray, "h w"]
    fine: float = 3.0
    coarse: float = 3.0


class Shape(NamedTuple):
    """A signed distance [mm], negative inside, on a box of pixels around the shape."""

    box: tuple[slice, slice]
    distance: Float[np.ndarray, "h w"]
    width: float | Float[np.ndarray, "h w"] = np.inf
    """Thickness [mm] of a shape that may be thinner than a pixel."""


class Canvas:
    """HU and texture strengths of one slice, painted from back to front."""

    def __init__(self, size: int, field_of_view_mm: float, centre_mm: tuple[float, float]):
        self.pixel_mm = field_of_view_mm / size
        axis = ((np.arange(size) + 0.5) * self.pixel_mm - field_of_view_mm / 2).astype(np.float32)
        self.x = axis[None, :] - np.float32(centre_mm[0])
        self.y = axis[:, None] - np.float32(centre_mm[1])
        self.layers = np.zeros((3, size, size), np.float32)
        self.layers[0] = HU_AIR

    def box(self, x: float, y: float, reach_x: float | np.floating, reach_y: float | np.floating
            ) -> tuple[slice, slice]:
        """The pixels within the given reaches of a point, and two more on each side."""
        margin = 2 * self.pixel_mm
        rows = np.searchsorted(self.y[:, 0], [y - reach_y - margin, y + reach_y + margin])
        columns = np.searchsorted(self.x[0], [x - reach_x - margin, x + reach_x + margin])
        return slice(rows[0], rows[1]), slice(columns[0], columns[1])

    def grid(self, box: tuple[slice, slice]
             ) -> tuple[Float[np.ndarray, "1 w"], Float[np.ndarray, "h 1"]]:
        """x (1, w) and y (h, 1) of the pixels' centres in a box [mm]."""
        return self.x[:, box[1]], self.y[box[0]]

    def blob(self, x: float, y: float, rx: float, ry: float, *, turn: float = 0.0,
             exponent: float = 2.0, waves: Sequence[tuple[int, float, float]] = ()) -> Shape:
        """A superellipse whose outline is scaled by 1 + Σ amplitude·cos(order·θ + phase).

        Args:
          turn: rotation [rad], clockwise as shown.
          waves: (order, amplitude, phase) of each deformation.
        """
        reach = 1 + sum(abs(amplitude) for _, amplitude, _ in waves)
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        stretch = 1.0 if exponent <= 2 else 2 ** (0.5 - 1 / exponent)
        reach *= stretch
        rim = 6.0  # mm, for painting around the shape with a negative inset
        box = self.box(x, y, reach * np.hypot(rx * cos, ry * sin) + rim,
                       reach * np.hypot(rx * sin, ry * cos) + rim)
        grid_x, grid_y = self.grid(box)
        grid_x, grid_y = grid_x - np.float32(x), grid_y - np.float32(y)
        along = (grid_x * cos + grid_y * sin) / np.float32(rx)
        across = (grid_y * cos - grid_x * sin) / np.float32(ry)
        if exponent == 2:
            radius = np.hypot(along, across)
        else:
            power = np.float32(exponent)
            radius = (np.abs(along) ** power + np.abs(across) ** power) ** (1 / power)
        if waves:
            angle = np.arctan2(across, along)
            radius = radius / (1 + sum(
                np.float32(amplitude) * np.cos(order * angle + np.float32(phase))
                for order, amplitude, phase in waves))
        # First-order distance: (radius − 1) over the length of its gradient.
        gradient = np.hypot(along / np.float32(rx), across / np.float32(ry))
        gradient = np.maximum(gradient, 1e-6) / np.maximum(np.hypot(along, across), 1e-6)
        thin, thick = 2 * min(rx, ry), 2 * max(rx, ry)
        return Shape(box, (radius - 1) / gradient, thin * min(thick / self.pixel_mm, 1))

    def capsule(self, x0: float, y0: float, x1: float, y1: float, r0: float,
                r1: float) -> Shape:
        """A line from (x0, y0) to (x1, y1) with half-widths r0 and r1 at its ends."""
        widest = max(r0, r1)
        box = self.box((x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0) / 2 + widest,
                       abs(y1 - y0) / 2 + widest)
        grid_x, grid_y = self.grid(box)
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((grid_x - x0) * dx + (grid_y - y0) * dy) / max(dx * dx + dy * dy, 1e-6),
                        0, 1)
        distance = np.hypot(grid_x - x0 - along * dx, grid_y - y0 - along * dy)
        radius = r0 + along * (r1 - r0)
        return Shape(box, distance - radius, 2 * radius)

    def coverage(self, distance: Float[np.ndarray, "h w"],
                 width: float | Float[np.ndarray, "h w"] = np.inf) -> Float[np.ndarray, "h w"]:
        """The share of each pixel in a band of thickness `width`, from its centre's distance."""
        near = np.clip(0.5 - distance / np.float32(self.pixel_mm), 0, 1)
        if np.min(width) >= 2 * self.pixel_mm:
            return near
        beyond = np.clip(0.5 - (distance + width) / np.float32(self.pixel_mm), 0, 1)
        return np.maximum(near - beyond, 0)

    def cover(self, shape: Shape) -> Float[np.ndarray, "size size"]:
        """Coverage on the whole slice, (size, size)."""
        whole = np.zeros(self.layers.shape[1:], np.float32)
        whole[shape.box] = self.coverage(shape.distance, shape.width)
        return whole

    def paint(self, shape: Shape, tissue: Tissue, *,
              within: Float[np.ndarray, "size size"] | None = None, inset: float = 0.0,
              opacity: float = 1.0) -> None:
        """Paints a tissue over the former ones.

        Args:
          within: (size, size) coverage of a region that clips the shape.
          inset: mm by which the shape is made smaller on all sides; −6 or more.
          opacity: share of the slice's thickness that the tissue fills.
        """
        share = self.coverage(shape.distance + np.float32(inset), shape.width - 2 * inset)
        share = share * np.float32(opacity)
        if within is not None:
            share = share * within[shape.box]
        for layer, value in zip(self.layers, tissue, strict=True):
            layer[shape.box] += share * (value - layer[shape.box])

    def paint_bone(self, shape: Shape, *, cortex_hu: float, marrow_hu: float,
                   cortex_mm: float) -> None:
        """Paints marrow within a shell of cortex, `cortex_mm` thick."""
        self.paint(shape, Tissue(cortex_hu, 30, 20))
        self.paint(shape, Tissue(marrow_hu, 35, 25), inset=cortex_mm)
