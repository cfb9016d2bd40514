"""Tissues, sizes and outlines that the organs of one slice of a torso share."""

from collections.abc import Sequence

import numpy as np

from dfgan_jax.simulation.canvas import Tissue

FAT = Tissue(-104, 7, 7)
MUSCLE = Tissue(55, 6, 9)
SKIN = Tissue(15, 5, 5)
FLUID = Tissue(10, 1, 1)
GAS = Tissue(-990, 3, 0)
CARTILAGE = Tissue(110, 15, 10)


Segment = tuple[float, float, float, float, float, float]
"""x0, y0, x1, y1, and the radii at both ends [mm]; see `Canvas.capsule`."""


class Anatomy:
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


def waves(rng: np.random.Generator, strength: float,
          orders: Sequence[int] = (2, 3, 4, 5)) -> list[tuple[int, float, float]]:
    """Draws (order, amplitude, phase) of each deformation of an outline, for `Canvas.blob`.

    Args:
      strength: standard deviation of an amplitude times its order, in radii of the outline.
    """
    return [(order, rng.normal(0, strength / order), rng.uniform(0, 2 * np.pi))
            for order in orders]


def ramp(value: float, start: float, end: float) -> float:
    """0 up to `start`, 1 from `end`, smooth between."""
    share = np.clip((value - start) / (end - start), 0, 1)
    return float(share * share * (3 - 2 * share))


def vessel_tree(rng: np.random.Generator, x: float, y: float, direction: float, *,
                length: float, radius: float, depth: int) -> list[Segment]:
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
        segments += vessel_tree(rng, x1, y1, direction + turn + sign * spread * 1.3,
                                length=length * 0.78, depth=depth - 1,
                                radius=max(radius * 0.9 * part ** (1 / 3), 0.5))
    return segments
