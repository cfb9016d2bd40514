"""The bones of the torso: spine, ribs, sternum, shoulder blades, collarbones."""

import numpy as np

from dfgan_jax.simulation.anatomy import CARTILAGE, Anatomy, ramp, waves
from dfgan_jax.simulation.canvas import Canvas, Shape, Tissue


def paint_spine(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy) -> None:
    """Paints a vertebra, or a disc, with its arch, its processes and the canal."""
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
    vertebra = canvas.blob(0, y, 18 * size, 14.5 * size, exponent=2.3, waves=waves(rng, 0.03))
    if rng.random() < 0.2:  # a disc
        canvas.paint(vertebra, Tissue(90, 8, 12))
        canvas.paint(canvas.blob(0, y, 18 * size, 14.5 * size), Tissue(cortex * 0.5, 60, 60),
                     opacity=rng.uniform(0, 0.35))
    else:
        canvas.paint(vertebra, Tissue(cortex * rng.uniform(0.6, 0.9), 60, 50))
        canvas.paint(vertebra, Tissue(marrow, 40, 25), inset=1.4)
        canvas.paint(canvas.blob(0, y + 10 * size, 3, 4), Tissue(marrow * 0.5, 10, 10),
                     opacity=0.7)
    canal = canvas.blob(0, back + 8 * size, 11 * size, 8.5 * size, exponent=2.2)
    canvas.paint(canal, Tissue(cortex, 30, 20), inset=-1.5, opacity=0.5)
    canvas.paint(canal, Tissue(-20, 5, 5))
    canvas.paint(canvas.blob(0, back + 8 * size, 7.5 * size, 6 * size), Tissue(32, 2, 2))


def paint_ribs(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy,
               cavity: Shape) -> None:
    """Paints ribs, sternum and shoulder blades; ribs follow the wall of the cavity.

    Args:
      cavity: shape of the body's cavity, on the whole slice.
    """
    a, b, y0, level = anatomy.a, anatomy.b, anatomy.cavity_y, anatomy.level
    bone = {"cortex_hu": anatomy.cortex, "marrow_hu": anatomy.marrow + 80}
    count = int(rng.integers(4, 7)) if level < 0.8 else int(rng.integers(3, 5))
    lowest = 1.15  # ribs begin beside the spine and rise along the side
    highest = -1.0 + 1.1 * ramp(level, 0.6, 1.0)
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
            rib = Shape(box, np.hypot(beyond, depth) - np.float32(thick))
            if angle < -0.75:
                canvas.paint(rib, CARTILAGE)
            else:
                canvas.paint_bone(rib, cortex_mm=rng.uniform(1.0, 1.6), **bone)
    front = y0 - b - 5
    if level < 0.7:
        for side in (-1, 1):
            if rng.random() < 0.7:
                canvas.paint(canvas.capsule(side * 18, front, side * rng.uniform(30, 55), front + 4,
                                            5, 4.5), CARTILAGE)
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
