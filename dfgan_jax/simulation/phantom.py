"""Random axial slices of a torso, from the upper chest to the upper abdomen.

Phantoms are (size, size) float32 in HU, row 0 anterior, column 0 the patient's
right, as scanners show them. Shapes are given in mm relative to the body's centre (see
`canvas`), so a phantom looks the same at any `size`. HU of tissues: Kalender, Computed
Tomography (2011), and portal-venous contrast as in abdominal scans.
"""

import numpy as np
import scipy.ndimage
from jaxtyping import Float32

from dfgan_jax.scans.hounsfield import HU_AIR
from dfgan_jax.simulation.abdomen import paint_abdomen
from dfgan_jax.simulation.anatomy import FAT, SKIN, Anatomy, ramp, waves
from dfgan_jax.simulation.canvas import Canvas, Shape, Tissue
from dfgan_jax.simulation.chest import paint_chest
from dfgan_jax.simulation.skeleton import paint_ribs, paint_spine
from dfgan_jax.support.errors import InputError

_FINE_MM, _COARSE_MM = 1.5, 6.0
"""Correlation lengths (Gaussian σ) of the textures."""


def torso_phantom(rng: np.random.Generator, *, size: int, field_of_view_mm: float = 360.0,
                  level: float | None = None) -> Float32[np.ndarray, "size size"]:
    """Draws one axial slice of a random patient.

    Args:
      rng: the only source of randomness.
      size: width and height in pixels, at least 32.
      field_of_view_mm: width of the image, at least 250; the body takes 88 to 96 % of it.
      level: 0 (upper chest) to 1 (kidneys); None: random.

    Returns:
      (size, size) float32 in HU, −1000 to about 2500; air outside the body.
    """
    if size < 32:
        raise InputError(f"size is {size}; expected at least 32")
    if not field_of_view_mm >= 250:
        raise InputError(f"field_of_view_mm is {field_of_view_mm}; expected at least 250")
    if level is not None and not 0 <= level <= 1:
        raise InputError(f"level is {level}; expected 0 to 1")
    # Textures have their own generator: their size must not change the anatomy.
    texture_rng = np.random.default_rng(rng.integers(2**63))
    drawn_level = rng.uniform(0, 1)
    level = drawn_level if level is None else level
    anatomy = Anatomy(rng, level, field_of_view_mm / 2)
    canvas = Canvas(size, field_of_view_mm, (rng.normal(0, 2), rng.normal(-8, 3)))
    streaks = _smooth_noise(texture_rng, size, 7 / canvas.pixel_mm)

    _paint_table(rng, canvas, anatomy)
    cavity = _paint_wall(rng, canvas, anatomy, streaks)
    inside = canvas.cover(cavity)
    dome = ramp(level, 0.48, 0.80)
    if dome < 1:
        paint_chest(rng, canvas, anatomy, inside)
    if dome > 0:
        paint_abdomen(rng, canvas, anatomy, inside, dome)
    paint_spine(rng, canvas, anatomy)
    paint_ribs(rng, canvas, anatomy, cavity)

    hu, fine, coarse = canvas.layers
    hu += fine * _smooth_noise(texture_rng, size, _FINE_MM / canvas.pixel_mm)
    hu += coarse * _smooth_noise(texture_rng, size, _COARSE_MM / canvas.pixel_mm)
    return np.maximum(hu, HU_AIR)


def _smooth_noise(rng: np.random.Generator, size: int, sigma: float) -> np.ndarray:
    """A Gaussian random field of unit variance, correlated over `sigma` pixels."""
    white = rng.standard_normal((size, size), np.float32)
    if sigma < 0.3:
        return white
    smooth: np.ndarray = scipy.ndimage.gaussian_filter(white, sigma, mode="wrap", truncate=3)
    smooth /= smooth.std()
    return smooth


def _paint_table(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy) -> None:
    """Two thin shells of the table, with foam between them."""
    top = anatomy.half_height + rng.uniform(1, 6)
    radius = rng.uniform(380, 480)
    depth = rng.uniform(16, 24)
    distance = np.hypot(canvas.x, canvas.y - (top - radius)) - radius
    everywhere = (slice(None), slice(None))
    canvas.paint(Shape(everywhere, np.abs(distance - depth / 2) - depth / 2),
                 Tissue(-930, 5, 5), within=canvas.coverage(-canvas.y + np.zeros_like(distance)))
    for edge in (0, depth):
        canvas.paint(Shape(everywhere, np.abs(distance - edge) - 0.8, 1.6), Tissue(-150, 10, 10),
                     within=canvas.coverage(-canvas.y + np.zeros_like(distance)))


def _paint_wall(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy,
                streaks: np.ndarray) -> Shape:
    """Skin, fat and muscle; returns the cavity, on the whole slice."""
    shared = waves(rng, 0.022)
    body = canvas.blob(0, 0, anatomy.half_width, anatomy.half_height, waves=shared,
                       exponent=rng.uniform(2.2, 2.6))
    everywhere = (slice(None), slice(None))
    canvas.paint(body, SKIN)
    canvas.paint(body, FAT, inset=2)
    within = canvas.cover(Shape(body.box, body.distance + 3.5))
    fat = canvas.cover(Shape(body.box, body.distance + 2))
    # Septa of the subcutaneous fat: level lines of a smooth field.
    canvas.paint(Shape(everywhere, np.abs(streaks - 0.4) * 12 - 0.3), Tissue(-40), opacity=0.35,
                 within=fat)
    thickness = anatomy.muscle
    muscle = canvas.blob(0, -1, anatomy.a + thickness, anatomy.b + thickness + 3,
                         exponent=2.3, waves=[(o, s * 0.9, p) for o, s, p in shared])
    canvas.paint(muscle, Tissue(anatomy.muscle_hu, 6, 9), within=within)
    muscles = canvas.cover(muscle) * within
    canvas.paint(Shape(everywhere, np.abs(streaks) * 11 - 0.6), FAT, opacity=0.7, within=muscles)
    cavity = canvas.blob(0, anatomy.cavity_y, anatomy.a, anatomy.b, exponent=2.2, waves=shared)
    distance = np.full(canvas.layers.shape[1:], 1e3, np.float32)
    distance[cavity.box] = cavity.distance
    # The fat plane between the layers of muscle.
    ring = np.abs(distance - thickness * rng.uniform(0.5, 0.65)) - rng.uniform(0.4, 1.3)
    canvas.paint(Shape(everywhere, ring), FAT, opacity=0.8, within=muscles)
    canvas.paint(Shape(everywhere, distance), Tissue(-95, 10, 14), within=within)
    for side in (-1, 1):  # back muscles beside the spine
        for x, y, rx, ry in ((28, 36, 25, 15), (50, 27, 22, 10)):
            blob = canvas.blob(side * x, min(anatomy.spine_y + y, anatomy.half_height - 24), rx, ry,
                               turn=-side * 0.2, waves=waves(rng, 0.05))
            canvas.paint(blob, FAT, within=within, inset=-1.2)
            canvas.paint(blob, Tissue(anatomy.muscle_hu, 7, 12), within=within)
    canvas.paint(Shape(everywhere, np.abs(streaks + 0.7) * 11 - 0.5), FAT, opacity=0.5,
                 within=muscles)
    return Shape(everywhere, distance)
