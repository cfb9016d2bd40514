"""Random axial slices of a torso, from the upper chest to the upper abdomen.

Phantoms are (size, size) float32 in HU, row 0 anterior, column 0 the patient's
right, as scanners show them. Shapes are given in mm relative to the body's centre (x
to the image's right, y downwards) and painted from back to front with edges one pixel
soft, so a phantom looks the same at any `size`. HU of tissues: Kalender, Computed
Tomography (2011), and portal-venous contrast as in abdominal scans.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.ndimage

from dfgan_jax.scans.hounsfield import HU_AIR
from dfgan_jax.support.errors import InputError


class _Tissue(NamedTuple):
    """Mean HU, and the standard deviations [HU] of its fine and coarse texture."""

    hu: float | np.ndarray
    fine: float = 3.0
    coarse: float = 3.0


_FAT = _Tissue(-104, 7, 7)
_MUSCLE = _Tissue(55, 6, 9)
_SKIN = _Tissue(15, 5, 5)
_FLUID = _Tissue(10, 1, 1)
_GAS = _Tissue(-990, 3, 0)
_CARTILAGE = _Tissue(110, 15, 10)
_FINE_MM, _COARSE_MM = 1.5, 6.0
"""Correlation lengths (Gaussian σ) of the textures."""


class _Shape(NamedTuple):
    """A signed distance [mm], negative inside, on the box of pixels that it covers."""

    box: tuple[slice, slice]
    distance: np.ndarray
    width: float | np.ndarray = np.inf
    """Thickness [mm], where the shape may be thinner than a pixel."""


class _Canvas:
    """HU and texture strengths of one slice, painted from back to front."""

    def __init__(self, size: int, field_of_view_mm: float, centre_mm: tuple[float, float]):
        self.pixel_mm = field_of_view_mm / size
        axis = ((np.arange(size) + 0.5) * self.pixel_mm - field_of_view_mm / 2).astype(np.float32)
        self.x = axis[None, :] - np.float32(centre_mm[0])
        self.y = axis[:, None] - np.float32(centre_mm[1])
        self.layers = np.zeros((3, size, size), np.float32)
        self.layers[0] = HU_AIR

    def box(self, x: float, y: float, reach_x: float, reach_y: float) -> tuple[slice, slice]:
        """The pixels within the given reaches of a point, with two more around."""
        margin = 2 * self.pixel_mm
        rows = np.searchsorted(self.y[:, 0], [y - reach_y - margin, y + reach_y + margin])
        columns = np.searchsorted(self.x[0], [x - reach_x - margin, x + reach_x + margin])
        return slice(rows[0], rows[1]), slice(columns[0], columns[1])

    def grid(self, box: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
        return self.x[:, box[1]], self.y[box[0]]

    def blob(self, x: float, y: float, rx: float, ry: float, *, turn: float = 0.0,
             exponent: float = 2.0, waves: Sequence[tuple[int, float, float]] = ()) -> _Shape:
        """A superellipse whose outline is scaled by 1 + Σ amplitude·cos(order·θ + phase).

        Args:
          turn: rotation [rad], clockwise as shown.
          waves: (order, amplitude, phase) of each deformation.
        """
        reach = 1 + sum(abs(amplitude) for _, amplitude, _ in waves)
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        stretch = 1.0 if exponent <= 2 else 2 ** (0.5 - 1 / exponent)
        reach *= stretch
        rim = 6.0  # mm, for what is painted around the shape with a negative inset
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
        return _Shape(box, (radius - 1) / gradient, thin * min(thick / self.pixel_mm, 1))

    def capsule(self, x0: float, y0: float, x1: float, y1: float, r0: float,
                r1: float) -> _Shape:
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
        return _Shape(box, distance - radius, 2 * radius)

    def coverage(self, distance: np.ndarray, width: float | np.ndarray = np.inf) -> np.ndarray:
        """The share of each pixel in a band `width` thick, from its centre's distance."""
        near = np.clip(0.5 - distance / np.float32(self.pixel_mm), 0, 1)
        if np.min(width) >= 2 * self.pixel_mm:
            return near
        beyond = np.clip(0.5 - (distance + width) / np.float32(self.pixel_mm), 0, 1)
        return np.maximum(near - beyond, 0)

    def cover(self, shape: _Shape) -> np.ndarray:
        """Coverage on the whole slice, (size, size)."""
        whole = np.zeros(self.layers.shape[1:], np.float32)
        whole[shape.box] = self.coverage(shape.distance, shape.width)
        return whole

    def paint(self, shape: _Shape, tissue: _Tissue, *, within: np.ndarray | None = None,
              inset: float = 0.0, opacity: float = 1.0) -> None:
        """Paints a tissue over what is there.

        Args:
          within: (size, size) coverage of what clips the shape.
          inset: mm by which the shape is made smaller on all sides; −6 or more.
          opacity: below 1 for what fills only a part of the slice's thickness.
        """
        share = self.coverage(shape.distance + np.float32(inset), shape.width - 2 * inset)
        share = share * np.float32(opacity)
        if within is not None:
            share = share * within[shape.box]
        for layer, value in zip(self.layers, tissue, strict=True):
            layer[shape.box] += share * (value - layer[shape.box])

    def paint_bone(self, shape: _Shape, *, cortex_hu: float, marrow_hu: float,
                   cortex_mm: float) -> None:
        self.paint(shape, _Tissue(cortex_hu, 30, 20))
        self.paint(shape, _Tissue(marrow_hu, 35, 25), inset=cortex_mm)


def _waves(rng: np.random.Generator, strength: float,
           orders: Sequence[int] = (2, 3, 4, 5)) -> list[tuple[int, float, float]]:
    return [(order, rng.normal(0, strength / order), rng.uniform(0, 2 * np.pi))
            for order in orders]


def _smooth_noise(rng: np.random.Generator, size: int, sigma: float) -> np.ndarray:
    """A Gaussian random field of unit variance, correlated over `sigma` pixels."""
    white = rng.standard_normal((size, size), np.float32)
    if sigma < 0.3:
        return white
    smooth = scipy.ndimage.gaussian_filter(white, sigma, mode="wrap", truncate=3)
    return smooth / smooth.std()


def _ramp(value: float, start: float, end: float) -> float:
    """0 up to `start`, 1 from `end`, smooth between."""
    share = np.clip((value - start) / (end - start), 0, 1)
    return float(share * share * (3 - 2 * share))


class _Anatomy:
    """The numbers that the organs of one slice share; lengths in mm."""

    def __init__(self, rng: np.random.Generator, level: float, half_field_mm: float):
        self.level = level
        # The operator fits the field of view to the patient.
        self.half_width = half_field_mm * rng.uniform(0.88, 0.96)
        self.half_height = self.half_width * rng.uniform(0.68, 0.84)
        self.fat = rng.uniform(6, 24)
        self.muscle = rng.uniform(15, 22)
        # The wall of the chest and the abdomen: an ellipse (a, b) about (0, cavity_y).
        self.a = self.half_width - self.fat - self.muscle
        self.b = self.half_height - 0.75 * self.fat - self.muscle - 4
        self.cavity_y = -4.0
        self.spine_y = self.half_height * rng.uniform(0.40, 0.46)
        contrast = rng.random() < 0.8
        self.blood = rng.uniform(130, 210) if contrast else rng.uniform(38, 48)
        self.vein = rng.uniform(110, 170) if contrast else self.blood
        self.liver = rng.uniform(95, 120) if contrast else rng.uniform(45, 62)
        self.spleen = rng.uniform(105, 130) if contrast else rng.uniform(42, 54)
        self.kidney = rng.uniform(150, 210) if contrast else rng.uniform(30, 38)
        self.muscle_hu = rng.uniform(50, 66)
        self.cortex = rng.uniform(850, 1400)
        self.marrow = rng.uniform(130, 260)


def torso_phantom(rng: np.random.Generator, *, size: int, field_of_view_mm: float = 360.0,
                  level: float | None = None) -> np.ndarray:
    """Draws one axial slice of a random patient.

    Args:
      rng: the only source of randomness.
      size: width and height in pixels, at least 32.
      field_of_view_mm: width of the image, at least 250; the body takes 88 to 96 % of it.
      level: 0 (upper chest) to 1 (kidneys); random where it is None.

    Returns:
      (size, size) float32 in HU, −1000 to about 2500; air outside the body.
    """
    if size < 32:
        raise InputError(f"size is {size}, expected at least 32")
    if not field_of_view_mm >= 250:
        raise InputError(f"field_of_view_mm is {field_of_view_mm}, expected at least 250")
    if level is not None and not 0 <= level <= 1:
        raise InputError(f"level is {level}, expected 0 to 1")
    # Textures have a generator of their own, or their size would change the anatomy.
    texture_rng = np.random.default_rng(rng.integers(2**63))
    drawn_level = rng.uniform(0, 1)
    level = drawn_level if level is None else level
    anatomy = _Anatomy(rng, level, field_of_view_mm / 2)
    canvas = _Canvas(size, field_of_view_mm, (rng.normal(0, 2), rng.normal(-8, 3)))
    streaks = _smooth_noise(texture_rng, size, 7 / canvas.pixel_mm)

    _paint_table(rng, canvas, anatomy)
    cavity = _paint_wall(rng, canvas, anatomy, streaks)
    inside = canvas.cover(cavity)
    dome = _ramp(level, 0.48, 0.80)
    if dome < 1:
        _paint_chest(rng, canvas, anatomy, inside)
    if dome > 0:
        _paint_abdomen(rng, canvas, anatomy, inside, dome)
    _paint_spine(rng, canvas, anatomy)
    _paint_ribs(rng, canvas, anatomy, cavity)

    hu, fine, coarse = canvas.layers
    hu += fine * _smooth_noise(texture_rng, size, _FINE_MM / canvas.pixel_mm)
    hu += coarse * _smooth_noise(texture_rng, size, _COARSE_MM / canvas.pixel_mm)
    return np.maximum(hu, HU_AIR)


def _paint_table(rng: np.random.Generator, canvas: _Canvas, anatomy: _Anatomy) -> None:
    """Two thin shells of the table, with foam between them."""
    top = anatomy.half_height + rng.uniform(1, 6)
    radius = rng.uniform(380, 480)
    depth = rng.uniform(16, 24)
    distance = np.hypot(canvas.x, canvas.y - (top - radius)) - radius
    everywhere = (slice(None), slice(None))
    canvas.paint(_Shape(everywhere, np.abs(distance - depth / 2) - depth / 2),
                 _Tissue(-930, 5, 5), within=canvas.coverage(-canvas.y + np.zeros_like(distance)))
    for edge in (0, depth):
        canvas.paint(_Shape(everywhere, np.abs(distance - edge) - 0.8, 1.6), _Tissue(-150, 10, 10),
                     within=canvas.coverage(-canvas.y + np.zeros_like(distance)))


def _paint_wall(rng: np.random.Generator, canvas: _Canvas, anatomy: _Anatomy,
                streaks: np.ndarray) -> _Shape:
    """Skin, fat and muscle; returns the cavity, on the whole slice."""
    shared = _waves(rng, 0.022)
    body = canvas.blob(0, 0, anatomy.half_width, anatomy.half_height, waves=shared,
                       exponent=rng.uniform(2.2, 2.6))
    everywhere = (slice(None), slice(None))
    canvas.paint(body, _SKIN)
    canvas.paint(body, _FAT, inset=2)
    within = canvas.cover(_Shape(body.box, body.distance + 3.5))
    fat = canvas.cover(_Shape(body.box, body.distance + 2))
    # Septa of the subcutaneous fat: level lines of a smooth field.
    canvas.paint(_Shape(everywhere, np.abs(streaks - 0.4) * 12 - 0.3), _Tissue(-40), opacity=0.35,
                 within=fat)
    thickness = anatomy.muscle
    muscle = canvas.blob(0, -1, anatomy.a + thickness, anatomy.b + thickness + 3,
                         exponent=2.3, waves=[(o, s * 0.9, p) for o, s, p in shared])
    canvas.paint(muscle, _Tissue(anatomy.muscle_hu, 6, 9), within=within)
    muscles = canvas.cover(muscle) * within
    canvas.paint(_Shape(everywhere, np.abs(streaks) * 11 - 0.6), _FAT, opacity=0.7, within=muscles)
    cavity = canvas.blob(0, anatomy.cavity_y, anatomy.a, anatomy.b, exponent=2.2, waves=shared)
    distance = np.full(canvas.layers.shape[1:], 1e3, np.float32)
    distance[cavity.box] = cavity.distance
    # The fat plane between the layers of muscle.
    ring = np.abs(distance - thickness * rng.uniform(0.5, 0.65)) - rng.uniform(0.4, 1.3)
    canvas.paint(_Shape(everywhere, ring), _FAT, opacity=0.8, within=muscles)
    canvas.paint(_Shape(everywhere, distance), _Tissue(-95, 10, 14), within=within)
    for side in (-1, 1):  # back muscles beside the spine
        for x, y, rx, ry in ((28, 36, 25, 15), (50, 27, 22, 10)):
            blob = canvas.blob(side * x, min(anatomy.spine_y + y, anatomy.half_height - 24), rx, ry,
                               turn=-side * 0.2, waves=_waves(rng, 0.05))
            canvas.paint(blob, _FAT, within=within, inset=-1.2)
            canvas.paint(blob, _Tissue(anatomy.muscle_hu, 7, 12), within=within)
    canvas.paint(_Shape(everywhere, np.abs(streaks + 0.7) * 11 - 0.5), _FAT, opacity=0.5,
                 within=muscles)
    return _Shape(everywhere, distance)


def _vessel_tree(rng: np.random.Generator, x: float, y: float, direction: float, *,
                 length: float, radius: float, depth: int) -> list[tuple]:
    """Segments (x0, y0, x1, y1, r0, r1) of a tree that forks `depth` times.

    At a fork the radii obey Murray's law, r³ = r1³ + r2³.
    """
    turn = rng.normal(0, 0.25)
    drawn = length * rng.uniform(0.7, 1.3)
    x1, y1 = x + drawn * np.cos(direction + turn), y + drawn * np.sin(direction + turn)
    segments = [(x, y, x1, y1, radius, radius * 0.85)]
    if depth == 0:
        return segments
    share = rng.uniform(0.25, 0.75)
    spread = rng.uniform(0.5, 1.1)
    for part, sign in ((share, 1 - share), (1 - share, -share)):
        segments += _vessel_tree(rng, x1, y1, direction + turn + sign * spread * 1.3,
                                 length=length * 0.78, depth=depth - 1,
                                 radius=max(radius * 0.9 * part ** (1 / 3), 0.5))
    return segments


def _paint_chest(rng: np.random.Generator, canvas: _Canvas, anatomy: _Anatomy,
                 inside: np.ndarray) -> None:
    a, b, y0, level = anatomy.a, anatomy.b, anatomy.cavity_y, anatomy.level
    apex = 0.45 + 0.75 * _ramp(level, 0.0, 0.22)
    if apex < 1:  # above the ribs' widest part, muscle and fat fill the rest
        canvas.paint(canvas.blob(0, y0, a, b), _Tissue(anatomy.muscle_hu, 10, 40), within=inside,
                     opacity=0.8)
    lungs = np.zeros_like(inside)
    lung_hu = rng.uniform(-885, -830)
    for side in (-1, 1):
        lung = canvas.blob(side * 0.56 * a, y0, min(0.60 * a * apex, 0.6 * a), b * apex,
                           exponent=2.4, waves=_waves(rng, 0.03))
        gravity = lung_hu + 35 * (canvas.grid(lung.box)[1] / b) + np.zeros_like(lung.distance)
        canvas.paint(lung, _Tissue(gravity, 22, 14), within=inside)
        lungs = np.maximum(lungs, canvas.cover(lung) * inside)
    _paint_lung_vessels(rng, canvas, anatomy, lungs)
    mediastinum = canvas.blob(0.03 * a, y0 - 0.05 * b, 0.2 * a + 6, 1.05 * b, exponent=2.5,
                              waves=_waves(rng, 0.06))
    canvas.paint(mediastinum, _Tissue(-90, 12, 18), within=inside)
    canvas.paint(canvas.blob(0, anatomy.spine_y, 30, 24), _Tissue(10, 10, 30), within=inside)
    heart = _ramp(level, 0.26, 0.36) * (1 - 0.5 * _ramp(level, 0.55, 0.75))
    if heart > 0:
        _paint_heart(rng, canvas, anatomy, inside, 0.55 + 0.45 * heart)
    _paint_great_vessels(rng, canvas, anatomy, heart)


def _paint_lung_vessels(rng: np.random.Generator, canvas: _Canvas, anatomy: _Anatomy,
                        lungs: np.ndarray) -> None:
    a, b, y0 = anatomy.a, anatomy.b, anatomy.cavity_y
    for side in (-1, 1):
        for _ in range(int(rng.integers(4, 7))):
            direction = rng.uniform(-1.4, 1.4) + (np.pi if side < 0 else 0)
            for segment in _vessel_tree(rng, side * 0.24 * a, y0 + rng.normal(0, 10), direction,
                                        length=20, radius=rng.uniform(1.8, 3.6), depth=4):
                # Vessels leave the slice and come back: most are cut short or faint.
                if rng.random() < 0.4:
                    canvas.paint(canvas.capsule(*segment), _Tissue(anatomy.blood * 0.6 + 10, 3, 3),
                                 within=lungs, opacity=rng.uniform(0.15, 0.9))
    for _ in range(160):  # cut across
        x, y = rng.uniform(-a, a), y0 + rng.uniform(-b, b)
        radius = rng.uniform(0.7, 1.9)
        canvas.paint(canvas.blob(x, y, radius, radius * rng.uniform(1, 1.8),
                                 turn=rng.uniform(0, 3)), _Tissue(20, 3, 3),
                     within=lungs, opacity=rng.uniform(0.4, 1))
    for _ in range(rng.poisson(0.6)):  # nodules
        radius = rng.uniform(2, 7)
        x, y = rng.uniform(-0.9, 0.9) * a, y0 + rng.uniform(-0.8, 0.8) * b
        canvas.paint(canvas.blob(x, y, radius, radius * rng.uniform(0.8, 1.2), waves=_waves(rng,
                     0.15)),
                     _Tissue(rng.uniform(-20, 60), 5, 5), within=lungs)
    for side in (-1, 1):  # bronchi: a wall about air
        for _ in range(int(rng.integers(2, 5))):
            x, y = side * rng.uniform(0.25, 0.5) * a, y0 + rng.uniform(-0.3, 0.35) * b
            radius = rng.uniform(1.8, 4)
            tube = canvas.capsule(x, y, x + side * rng.uniform(0, 14), y + rng.normal(0, 5),
                                  radius, radius * 0.8)
            canvas.paint(tube, _Tissue(-80, 5, 5), within=lungs, inset=-1.2)
            canvas.paint(tube, _GAS, within=lungs)


def _paint_heart(rng: np.random.Generator, canvas: _Canvas, anatomy: _Anatomy,
                 inside: np.ndarray, scale: float) -> None:
    a, b = anatomy.a, anatomy.b
    x, y = 0.15 * a, anatomy.cavity_y - 0.28 * b
    rx, ry = 0.50 * a * scale, 0.46 * b * scale
    turn = rng.uniform(0.3, 0.65)
    outline = canvas.blob(x, y, rx, ry, turn=turn, waves=_waves(rng, 0.04))
    heart = canvas.cover(outline) * inside
    wall = anatomy.blood * 0.45 + 40
    canvas.paint(outline, _FAT, within=inside, inset=-rng.uniform(2, 6))
    canvas.paint(outline, _Tissue(wall, 5, 6), within=inside)
    # Chambers (along, across) in radii of the heart: left and right ventricle, atria.
    cos, sin = np.cos(turn), np.sin(turn)
    for along, across, size, blood in ((0.42, 0.18, 0.36, anatomy.blood),
                                       (0.12, -0.52, 0.42, anatomy.vein),
                                       (-0.40, 0.48, 0.36, anatomy.blood),
                                       (-0.58, -0.22, 0.34, anatomy.vein)):
        u, v = along * rx + rng.normal(0, 2), across * ry + rng.normal(0, 2)
        canvas.paint(canvas.blob(x + u * cos - v * sin, y + u * sin + v * cos, size * rx * 1.05,
                                 size * ry * 0.95, turn=turn + rng.normal(0, 0.2),
                                 waves=_waves(rng, 0.07)),
                     _Tissue(blood, 4, 5), within=heart)
    for _ in range(3):  # coronary fat in the grooves
        angle = rng.uniform(0, 2 * np.pi)
        canvas.paint(canvas.blob(x + 0.85 * rx * np.cos(angle), y + 0.85 * ry * np.sin(angle),
                                 rng.uniform(3, 7), rng.uniform(2, 4), turn=angle), _FAT,
                     within=inside)
    if rng.random() < 0.2:  # coronary calcification
        angle = rng.uniform(0, 2 * np.pi)
        canvas.paint(canvas.blob(x + 0.75 * rx * np.cos(angle), y + 0.75 * ry * np.sin(angle),
                                 2, 1.4), _Tissue(rng.uniform(500, 1200)), within=inside)


def _paint_great_vessels(rng: np.random.Generator, canvas: _Canvas, anatomy: _Anatomy,
                         heart: float) -> None:
    b, y0, level = anatomy.b, anatomy.cavity_y, anatomy.level
    spine_front = anatomy.spine_y - 17
    blood = _Tissue(anatomy.blood, 3, 3)
    vein = _Tissue(anatomy.vein, 3, 3)

    def tube(x: float, y: float, radius: float, tissue: _Tissue) -> None:
        outline = canvas.blob(x + rng.normal(0, 2), y + rng.normal(0, 2), radius,
                              radius * rng.uniform(0.85, 1.1), waves=_waves(rng, 0.03))
        canvas.paint(outline, _Tissue(45), inset=-1.2)
        canvas.paint(outline, tissue)

    tube(-4, spine_front - 12, rng.uniform(5, 8), _Tissue(40, 4, 8))  # oesophagus
    if level < 0.14:  # the branches of the arch
        for x, y in ((-16, -0.05), (8, -0.02), (20, 0.18)):
            tube(x, y0 + y * b, rng.uniform(4, 6.5), blood)
        tube(-26, y0 - 0.2 * b, rng.uniform(6, 9), vein)
        tube(28, y0 - 0.3 * b, rng.uniform(5, 8), vein)
    elif level < 0.22:  # the arch
        arch = canvas.capsule(-10, y0 - 0.28 * b, 20, y0 + 0.22 * b, 13, 12)
        canvas.paint(arch, _Tissue(45), inset=-1.2)
        canvas.paint(arch, blood)
        tube(-28, y0 - 0.15 * b, 9, vein)
    else:
        tube(24, spine_front - 8, rng.uniform(11, 14), blood)  # descending aorta
        if heart < 0.6:
            tube(-12, y0 - 0.32 * b, rng.uniform(14, 18), blood)  # ascending aorta
            trunk = canvas.capsule(16, y0 - 0.36 * b, -20, y0 + 0.0 * b, 14, 9)
            canvas.paint(trunk, vein, inset=1)
            tube(-33, y0 - 0.14 * b, rng.uniform(8, 10), vein)
        for side in (-1, 1):  # hilar vessels
            for _ in range(2):
                tube(side * rng.uniform(34, 46), y0 + rng.uniform(-0.1, 0.25) * b,
                     rng.uniform(5, 8), vein)
    for _ in range(5):  # lymph nodes and small vessels in the fat
        canvas.paint(canvas.blob(rng.uniform(-20, 20), y0 + rng.uniform(-0.8, 0.2) * b,
                                 rng.uniform(1.5, 4), rng.uniform(1.5, 3), turn=rng.uniform(0, 3)),
                     _Tissue(60, 4, 4), opacity=0.8)
    trachea = [(0, 0.22, 8.5)] if level < 0.24 else [(-20, 0.2, 6), (20, 0.22, 5.5)]
    if level < 0.42:
        for x, y, radius in trachea:
            tube(x, y0 + y * b, radius, _GAS)


def _paint_abdomen(rng: np.random.Generator, canvas: _Canvas, anatomy: _Anatomy,
                   inside: np.ndarray, dome: float) -> None:
    a, b, y0, level = anatomy.a, anatomy.b, anatomy.cavity_y, anatomy.level
    # The diaphragm's domes: what lies outside them is still lung.
    reach = 0.25 + 0.85 * dome
    lift = y0 - 0.15 * b * (1 - dome)
    left_reach = reach * dome ** 0.3  # the liver lifts the right dome higher
    right = canvas.cover(canvas.blob(-0.42 * a, lift, (0.62 * reach + 0.3 * dome) * a,
                                     1.15 * b * reach, exponent=2.3, waves=_waves(rng, 0.02)))
    left = canvas.cover(canvas.blob(0.48 * a, lift, (0.55 * left_reach + 0.3 * dome) * a,
                                    1.1 * b * left_reach, exponent=2.3, waves=_waves(rng, 0.02)))
    domes = np.maximum(right, left) * inside
    if dome > 0.97:
        domes = inside
    everywhere = (slice(None), slice(None))
    within_domes = _Shape(everywhere, (0.5 - domes) * canvas.pixel_mm)
    canvas.paint(within_domes, _Tissue(-98, 10, 14))
    for _ in range(25):  # small vessels of the mesentery
        x, y = rng.uniform(-0.7, 0.8) * a, y0 + rng.uniform(-0.8, 0.5) * b
        angle = rng.uniform(0, 2 * np.pi)
        length, radius = rng.uniform(0, 14), rng.uniform(0.8, 2.2)
        canvas.paint(canvas.capsule(x, y, x + length * np.cos(angle), y + length * np.sin(angle),
                                    radius, radius * 0.7), _Tissue(anatomy.vein * 0.7),
                     within=domes, opacity=rng.uniform(0.4, 1))
    if level > 0.72:
        _paint_bowel(rng, canvas, anatomy, domes, loops=int(1 + 16 * _ramp(level, 0.72, 1.0)))
    _paint_spleen_and_stomach(rng, canvas, anatomy, domes)
    _paint_liver(rng, canvas, anatomy, domes, 1 - 0.45 * _ramp(level, 0.85, 1.05))
    for side in (-1, 1):  # crura, psoas
        canvas.paint(canvas.blob(side * 20, anatomy.spine_y - 4, 9, 20, turn=side * 0.3,
                                 waves=_waves(rng, 0.05)), _Tissue(anatomy.muscle_hu, 5, 6),
                     within=domes)
        if level > 0.9:
            canvas.paint(canvas.blob(side * 36, anatomy.spine_y + 4, 13, 15), _MUSCLE, within=domes)
    if level > 0.8:
        for side in (-1, 1):
            _paint_kidney(rng, canvas, anatomy, domes, side, _ramp(level, 0.76, 0.9))
        for x, y, turn in ((22, -0.02, -0.4), (-4, 0.02, 0.2)):  # pancreas
            canvas.paint(canvas.blob(x, y0 + y * b, 24, 9, turn=turn,
                                     waves=_waves(rng, 0.12, (3, 5, 7))),
                                     _Tissue(anatomy.spleen * 0.85, 8, 12), within=domes)
    for x, y, radius, hu in ((10, -26, rng.uniform(9, 12), anatomy.blood),
                             (-20, -28, rng.uniform(9, 13), anatomy.vein),
                             (-8, -46, rng.uniform(5, 7), anatomy.vein),
                             (6, -42, rng.uniform(3, 4.5), anatomy.blood)):
        vessel = canvas.blob(x + rng.normal(0, 2), anatomy.spine_y + y, radius,
                             radius * rng.uniform(0.75, 1.0), turn=rng.normal(0, 0.3))
        canvas.paint(vessel, _FAT, inset=-1.5, opacity=0.7)
        canvas.paint(vessel, _Tissue(hu, 3, 3))
    if rng.random() < 0.3:  # calcified aortic wall
        canvas.paint(canvas.blob(10 + rng.normal(0, 6), anatomy.spine_y - 18, 3, 1.2),
                     _Tissue(rng.uniform(500, 1100)))


def _paint_liver(rng: np.random.Generator, canvas: _Canvas, anatomy: _Anatomy,
                 domes: np.ndarray, scale: float) -> None:
    a, b, y0 = anatomy.a, anatomy.b, anatomy.cavity_y
    tissue = _Tissue(anatomy.liver, 5, 6)
    outlines = [canvas.blob(-0.52 * a, y0 - 0.02 * b, 0.52 * a * scale, 0.86 * b * scale,
                            exponent=2.3, turn=0.1, waves=_waves(rng, 0.05)),
                canvas.blob(-0.1 * a, y0 - 0.55 * b, 0.52 * a * scale, 0.32 * b * scale,
                            turn=rng.uniform(-0.25, 0.1), waves=_waves(rng, 0.06))]
    inner = scipy.ndimage.gaussian_filter(domes, 1.5 / canvas.pixel_mm)
    inner = np.clip(3 * inner - 2, 0, 1)
    liver = np.zeros_like(domes)
    for outline in outlines:
        canvas.paint(outline, tissue, within=inner)
        liver = np.maximum(liver, canvas.cover(outline) * inner)
    vessel = _Tissue(anatomy.liver + (rng.uniform(20, 55) if anatomy.blood > 60 else -12), 3, 3)
    for _ in range(3):
        direction = rng.uniform(2.2, 4.6)
        for segment in _vessel_tree(rng, -0.15 * a, y0 + rng.uniform(-0.3, 0.25) * b, direction,
                                    length=26, radius=rng.uniform(2.5, 4.5), depth=4):
            if rng.random() < 0.65:
                canvas.paint(canvas.capsule(*segment), vessel, within=liver,
                             opacity=rng.uniform(0.4, 1))
    if rng.random() < 0.6:  # the fissure of the falciform ligament
        canvas.paint(canvas.capsule(-0.12 * a, y0 - 0.8 * b, -0.2 * a, y0 - 0.35 * b, 2, 4), _FAT,
                     within=liver)
    for _ in range(rng.poisson(1.2)):  # metastases and cysts
        radius = rng.uniform(3, 14)
        hu = rng.uniform(0, 20) if rng.random() < 0.3 else anatomy.liver - rng.uniform(12, 45)
        x, y = rng.uniform(-0.9, -0.1) * a, y0 + rng.uniform(-0.7, 0.6) * b
        canvas.paint(canvas.blob(x, y, radius, radius * rng.uniform(0.8, 1.2), waves=_waves(rng,
                     0.1)),
                     _Tissue(hu, 4, 5), within=liver)
    if anatomy.level > 0.82 and rng.random() < 0.7:  # gallbladder
        outline = canvas.blob(-0.35 * a, y0 - 0.25 * b, rng.uniform(10, 16), rng.uniform(14, 24),
                              turn=rng.uniform(-0.5, 0.5))
        canvas.paint(outline, _Tissue(60), inset=-1.5, within=domes)
        canvas.paint(outline, _FLUID, within=domes)


def _paint_hollow(rng: np.random.Generator, canvas: _Canvas, outline: _Shape, within: np.ndarray,
                  *, wall_mm: float, content: _Tissue, gas_below: float | None) -> None:
    """Stomach or bowel: a wall, content, and gas above the level `gas_below` [mm]."""
    canvas.paint(outline, _Tissue(rng.uniform(50, 95), 6, 8), within=within)
    canvas.paint(outline, content, within=within, inset=wall_mm)
    if gas_below is not None:
        height = canvas.grid(outline.box)[1] - gas_below
        canvas.paint(_Shape(outline.box, np.maximum(outline.distance + wall_mm, height)), _GAS,
                     within=within)


def _content(rng: np.random.Generator) -> _Tissue:
    """Water, food, stool with gas, or oral contrast."""
    return [_Tissue(rng.uniform(5, 35), 5, 6), _Tissue(rng.uniform(20, 60), 25, 30),
            _Tissue(rng.uniform(-120, 0), 110, 60), _Tissue(rng.uniform(180, 420), 10, 25),
            ][rng.choice(4, p=[0.4, 0.25, 0.15, 0.2])]


def _paint_spleen_and_stomach(rng: np.random.Generator, canvas: _Canvas, anatomy: _Anatomy,
                              domes: np.ndarray) -> None:
    a, b, y0 = anatomy.a, anatomy.b, anatomy.cavity_y
    if anatomy.level < 0.97:
        rx, ry = 0.32 * a * rng.uniform(0.85, 1.1), 0.42 * b * rng.uniform(0.8, 1.1)
        y = y0 - 0.35 * b
        stomach = canvas.blob(0.45 * a, y, rx, ry, turn=rng.uniform(-0.5, 0.3),
                              waves=_waves(rng, 0.08))
        gas = y - ry * rng.uniform(0.0, 0.9) if rng.random() < 0.8 else None
        _paint_hollow(rng, canvas, stomach, domes, wall_mm=rng.uniform(3, 6), content=_content(rng),
                      gas_below=gas)
    spleen = canvas.blob(0.74 * a, y0 + 0.28 * b, 0.20 * a * rng.uniform(0.8, 1.2),
                         0.46 * b * rng.uniform(0.8, 1.1), turn=rng.uniform(0.2, 0.5),
                         waves=_waves(rng, 0.06))
    inner = np.clip(3 * scipy.ndimage.gaussian_filter(domes, 1.5 / canvas.pixel_mm) - 2, 0, 1)
    canvas.paint(spleen, _Tissue(anatomy.spleen, 5, 5), within=inner)


def _paint_kidney(rng: np.random.Generator, canvas: _Canvas, anatomy: _Anatomy,
                  domes: np.ndarray, side: int, scale: float) -> None:
    if scale <= 0.3:
        return
    x = side * rng.uniform(60, 68)
    y = anatomy.spine_y + rng.uniform(-8, 4)
    rx, ry = 27 * scale, 23 * scale
    outline = canvas.blob(x, y, rx, ry, turn=side * 0.5, waves=_waves(rng, 0.05))
    canvas.paint(outline, _FAT, within=domes, inset=-5)
    canvas.paint(outline, _Tissue(anatomy.kidney, 6, 6), within=domes)
    kidney = canvas.cover(outline) * domes
    for angle in np.linspace(0, 2 * np.pi, 8)[:-1] + rng.uniform(0, 1):  # pyramids
        canvas.paint(canvas.blob(x + 0.55 * rx * np.cos(angle), y + 0.55 * ry * np.sin(angle),
                                 5 * scale, 3.5 * scale, turn=angle),
                     _Tissue(anatomy.kidney * 0.72, 5, 5), within=kidney)
    canvas.paint(canvas.blob(x - side * 9 * scale, y - 2, 11 * scale, 7 * scale,
                             waves=_waves(rng, 0.15)), _FAT, within=kidney)
    canvas.paint(canvas.blob(x - side * 11 * scale, y - 2, 5 * scale, 3 * scale), _FLUID,
                 within=kidney)
    if rng.random() < 0.25:
        canvas.paint(canvas.blob(x + side * rx * 0.9, y, rng.uniform(3, 12), rng.uniform(3, 12)),
                     _FLUID, within=domes)


def _paint_bowel(rng: np.random.Generator, canvas: _Canvas, anatomy: _Anatomy,
                 domes: np.ndarray, *, loops: int) -> None:
    a, b, y0 = anatomy.a, anatomy.b, anatomy.cavity_y
    for _ in range(loops):
        angle, radius = rng.uniform(np.pi, 2 * np.pi), rng.uniform(0.15, 0.85)
        x, y = 0.1 * a + radius * a * np.cos(angle) * 0.9, y0 + radius * b * np.sin(angle) + 0.1 * b
        rx = rng.uniform(8, 18)
        outline = canvas.blob(x, y, rx, rx * rng.uniform(0.7, 1.6), turn=rng.uniform(0, 3),
                              waves=_waves(rng, 0.14, (2, 3, 5)))
        gas = y - rx * rng.uniform(-0.6, 0.7) if rng.random() < 0.35 else None
        canvas.paint(outline, _FAT, within=domes, inset=-2.5)
        _paint_hollow(rng, canvas, outline, domes, wall_mm=rng.uniform(1.8, 3.5),
                      content=_content(rng), gas_below=gas)


def _paint_spine(rng: np.random.Generator, canvas: _Canvas, anatomy: _Anatomy) -> None:
    y, cortex, marrow = anatomy.spine_y, anatomy.cortex, anatomy.marrow
    size = 0.85 + 0.25 * anatomy.level
    bone = {"cortex_hu": cortex, "marrow_hu": marrow + 120, "cortex_mm": 1.5}
    back = y + 14 * size
    foot, arch_back = 13 * size, back + 24 * size
    for side in (-1, 1):
        transverse = canvas.capsule(side * foot, back, side * (34 + 6 * size),
                                    back + 12 + rng.normal(0, 2), 5.5, 3.6)
        pedicle = canvas.capsule(side * foot, back - 4, side * 14 * size, back + 13, 4.5, 4.5)
        lamina = canvas.capsule(side * 14 * size, back + 13, 0, arch_back, 4.2, 3.6)
        for part in (transverse, pedicle, lamina):
            canvas.paint_bone(part, **bone)
    length = rng.uniform(8, 26)
    tip = min(arch_back + length, anatomy.half_height - anatomy.fat * 0.7 - 6)
    spinous = canvas.capsule(0, arch_back - 2, rng.normal(0, 1.5), tip, 3.6, 3.2)
    canvas.paint_bone(spinous, **bone)
    vertebra = canvas.blob(0, y, 18 * size, 14.5 * size, exponent=2.3, waves=_waves(rng, 0.03))
    if rng.random() < 0.2:  # a disc
        canvas.paint(vertebra, _Tissue(90, 8, 12))
        canvas.paint(canvas.blob(0, y, 18 * size, 14.5 * size), _Tissue(cortex * 0.5, 60, 60),
                     opacity=rng.uniform(0, 0.35))
    else:
        canvas.paint(vertebra, _Tissue(cortex * rng.uniform(0.6, 0.9), 60, 50))
        canvas.paint(vertebra, _Tissue(marrow, 40, 25), inset=1.4)
        canvas.paint(canvas.blob(0, y + 10 * size, 3, 4), _Tissue(marrow * 0.5, 10, 10),
                     opacity=0.7)
    canal = canvas.blob(0, back + 8 * size, 11 * size, 8.5 * size, exponent=2.2)
    canvas.paint(canal, _Tissue(cortex, 30, 20), inset=-1.5, opacity=0.5)
    canvas.paint(canal, _Tissue(-20, 5, 5))
    canvas.paint(canvas.blob(0, back + 8 * size, 7.5 * size, 6 * size), _Tissue(32, 2, 2))


def _paint_ribs(rng: np.random.Generator, canvas: _Canvas, anatomy: _Anatomy,
                cavity: _Shape) -> None:
    """Ribs, sternum and shoulder blades; ribs follow the wall of the cavity."""
    a, b, y0, level = anatomy.a, anatomy.b, anatomy.cavity_y, anatomy.level
    bone = {"cortex_hu": anatomy.cortex, "marrow_hu": anatomy.marrow + 80}
    count = int(rng.integers(4, 7)) if level < 0.8 else int(rng.integers(3, 5))
    lowest = 1.15  # ribs begin beside the spine and rise along the side
    highest = -1.0 + 1.1 * _ramp(level, 0.6, 1.0)
    for side in (-1, 1):
        spacing = (lowest - highest) / count
        for index in range(count):
            angle = lowest - spacing * (index + rng.uniform(0.25, 0.75))
            x, y = side * a * np.cos(angle), y0 + b * np.sin(angle)
            half_length = rng.gamma(3, 3.0) if level > 0.1 else rng.uniform(6, 24)
            box = canvas.box(x, y, half_length + 16, half_length + 16)
            grid_x, grid_y = canvas.grid(box)
            tangent = np.array([-side * a * np.sin(angle), b * np.cos(angle)])
            tangent /= np.hypot(*tangent)
            along = (grid_x - x) * np.float32(tangent[0]) + (grid_y - y) * np.float32(tangent[1])
            depth = cavity.distance[box] - 4.5 - np.float32(rng.normal(0, 0.15)) * along
            beyond = np.maximum(np.abs(along) - half_length, 0)
            thick = rng.uniform(3.0, 4.6)
            rib = _Shape(box, np.hypot(beyond, depth) - np.float32(thick))
            if angle < -0.75:
                canvas.paint(rib, _CARTILAGE)
            else:
                canvas.paint_bone(rib, cortex_mm=rng.uniform(1.0, 1.6), **bone)
    front = y0 - b - 5
    if level < 0.7:
        for side in (-1, 1):
            if rng.random() < 0.7:
                canvas.paint(canvas.capsule(side * 18, front, side * rng.uniform(30, 55), front + 4,
                                            5, 4.5), _CARTILAGE)
        canvas.paint_bone(canvas.blob(0, front, rng.uniform(13, 22), rng.uniform(5, 7),
                                      exponent=2.6), cortex_mm=1.2, cortex_hu=anatomy.cortex * 0.7,
                                      marrow_hu=anatomy.marrow)
    if level < 0.3:
        for side in (-1, 1):
            angle = rng.uniform(0.45, 0.65)
            x, y = side * (a + 15) * np.cos(angle), y0 + (b + 17) * np.sin(angle)
            reach = rng.uniform(18, 32)
            canvas.paint_bone(canvas.capsule(x, y, x - side * reach, y + reach * 0.5, 4, 2.4),
                              cortex_mm=1.3, **bone)
            if level < 0.12:
                canvas.paint_bone(canvas.capsule(x, y, x + side * 4, y + 18, 4, 2.8), cortex_mm=1.3,
                                  **bone)
                canvas.paint_bone(canvas.capsule(side * 24, front + 6, side * 70, front + 16, 6, 5),
                                  cortex_mm=1.5, **bone)  # clavicle
