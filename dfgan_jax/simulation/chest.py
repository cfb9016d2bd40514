"""The organs of the chest: lungs, heart, great vessels."""

import numpy as np
from jaxtyping import Float

from dfgan_jax.simulation.anatomy import FAT, GAS, Anatomy, ramp, vessel_tree, waves
from dfgan_jax.simulation.canvas import Canvas, Tissue


def paint_chest(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy,
                inside: Float[np.ndarray, "size size"]) -> None:
    """Paints the lungs and the organs between them.

    Args:
      inside: (size, size) coverage of the body's cavity.
    """
    a, b, y0, level = anatomy.a, anatomy.b, anatomy.cavity_y, anatomy.level
    apex = 0.45 + 0.75 * ramp(level, 0.0, 0.22)
    if apex < 1:  # above the ribs' widest part, muscle and fat fill the rest
        canvas.paint(canvas.blob(0, y0, a, b), Tissue(anatomy.muscle_hu, 10, 40), within=inside,
                     opacity=0.8)
    lungs = np.zeros_like(inside)
    lung_hu = rng.uniform(-885, -830)
    for side in (-1, 1):
        lung = canvas.blob(side * 0.56 * a, y0, min(0.60 * a * apex, 0.6 * a), b * apex,
                           exponent=2.4, waves=waves(rng, 0.03))
        gravity = lung_hu + 35 * (canvas.grid(lung.box)[1] / b) + np.zeros_like(lung.distance)
        canvas.paint(lung, Tissue(gravity, 22, 14), within=inside)
        lungs = np.maximum(lungs, canvas.cover(lung) * inside)
    _paint_lung_vessels(rng, canvas, anatomy, lungs)
    mediastinum = canvas.blob(0.03 * a, y0 - 0.05 * b, 0.2 * a + 6, 1.05 * b, exponent=2.5,
                              waves=waves(rng, 0.06))
    canvas.paint(mediastinum, Tissue(-90, 12, 18), within=inside)
    canvas.paint(canvas.blob(0, anatomy.spine_y, 30, 24), Tissue(10, 10, 30), within=inside)
    heart = ramp(level, 0.26, 0.36) * (1 - 0.5 * ramp(level, 0.55, 0.75))
    if heart > 0:
        _paint_heart(rng, canvas, anatomy, inside, 0.55 + 0.45 * heart)
    _paint_great_vessels(rng, canvas, anatomy, heart)


def _paint_lung_vessels(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy,
                        lungs: np.ndarray) -> None:
    a, b, y0 = anatomy.a, anatomy.b, anatomy.cavity_y
    for side in (-1, 1):
        for _ in range(int(rng.integers(4, 7))):
            direction = rng.uniform(-1.4, 1.4) + (np.pi if side < 0 else 0)
            for segment in vessel_tree(rng, side * 0.24 * a, y0 + rng.normal(0, 10), direction,
                                       length=20, radius=rng.uniform(1.8, 3.6), depth=4):
                # Vessels leave the slice and come back: most are cut short or faint.
                if rng.random() < 0.4:
                    canvas.paint(canvas.capsule(*segment), Tissue(anatomy.blood * 0.6 + 10, 3, 3),
                                 within=lungs, opacity=rng.uniform(0.15, 0.9))
    for _ in range(160):  # cut across
        x, y = rng.uniform(-a, a), y0 + rng.uniform(-b, b)
        radius = rng.uniform(0.7, 1.9)
        canvas.paint(canvas.blob(x, y, radius, radius * rng.uniform(1, 1.8),
                                 turn=rng.uniform(0, 3)), Tissue(20, 3, 3),
                     within=lungs, opacity=rng.uniform(0.4, 1))
    for _ in range(rng.poisson(0.6)):  # nodules
        radius = rng.uniform(2, 7)
        x, y = rng.uniform(-0.9, 0.9) * a, y0 + rng.uniform(-0.8, 0.8) * b
        canvas.paint(canvas.blob(x, y, radius, radius * rng.uniform(0.8, 1.2), waves=waves(rng,
                     0.15)),
                     Tissue(rng.uniform(-20, 60), 5, 5), within=lungs)
    for side in (-1, 1):  # bronchi: a wall about air
        for _ in range(int(rng.integers(2, 5))):
            x, y = side * rng.uniform(0.25, 0.5) * a, y0 + rng.uniform(-0.3, 0.35) * b
            radius = rng.uniform(1.8, 4)
            tube = canvas.capsule(x, y, x + side * rng.uniform(0, 14), y + rng.normal(0, 5),
                                  radius, radius * 0.8)
            canvas.paint(tube, Tissue(-80, 5, 5), within=lungs, inset=-1.2)
            canvas.paint(tube, GAS, within=lungs)


def _paint_heart(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy,
                 inside: np.ndarray, scale: float) -> None:
    a, b = anatomy.a, anatomy.b
    x, y = 0.15 * a, anatomy.cavity_y - 0.28 * b
    rx, ry = 0.50 * a * scale, 0.46 * b * scale
    turn = rng.uniform(0.3, 0.65)
    outline = canvas.blob(x, y, rx, ry, turn=turn, waves=waves(rng, 0.04))
    heart = canvas.cover(outline) * inside
    wall = anatomy.blood * 0.45 + 40
    canvas.paint(outline, FAT, within=inside, inset=-rng.uniform(2, 6))
    canvas.paint(outline, Tissue(wall, 5, 6), within=inside)
    # Chambers (along, across) in radii of the heart: left and right ventricle, atria.
    cos, sin = np.cos(turn), np.sin(turn)
    for along, across, size, blood in ((0.42, 0.18, 0.36, anatomy.blood),
                                       (0.12, -0.52, 0.42, anatomy.vein),
                                       (-0.40, 0.48, 0.36, anatomy.blood),
                                       (-0.58, -0.22, 0.34, anatomy.vein)):
        u, v = along * rx + rng.normal(0, 2), across * ry + rng.normal(0, 2)
        canvas.paint(canvas.blob(x + u * cos - v * sin, y + u * sin + v * cos, size * rx * 1.05,
                                 size * ry * 0.95, turn=turn + rng.normal(0, 0.2),
                                 waves=waves(rng, 0.07)),
                     Tissue(blood, 4, 5), within=heart)
    for _ in range(3):  # coronary fat in the grooves
        angle = rng.uniform(0, 2 * np.pi)
        canvas.paint(canvas.blob(x + 0.85 * rx * np.cos(angle), y + 0.85 * ry * np.sin(angle),
                                 rng.uniform(3, 7), rng.uniform(2, 4), turn=angle), FAT,
                     within=inside)
    if rng.random() < 0.2:  # coronary calcification
        angle = rng.uniform(0, 2 * np.pi)
        canvas.paint(canvas.blob(x + 0.75 * rx * np.cos(angle), y + 0.75 * ry * np.sin(angle),
                                 2, 1.4), Tissue(rng.uniform(500, 1200)), within=inside)


def _paint_great_vessels(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy,
                         heart: float) -> None:
    b, y0, level = anatomy.b, anatomy.cavity_y, anatomy.level
    spine_front = anatomy.spine_y - 17
    blood = Tissue(anatomy.blood, 3, 3)
    vein = Tissue(anatomy.vein, 3, 3)

    def tube(x: float, y: float, radius: float, tissue: Tissue) -> None:
        outline = canvas.blob(x + rng.normal(0, 2), y + rng.normal(0, 2), radius,
                              radius * rng.uniform(0.85, 1.1), waves=waves(rng, 0.03))
        canvas.paint(outline, Tissue(45), inset=-1.2)
        canvas.paint(outline, tissue)

    tube(-4, spine_front - 12, rng.uniform(5, 8), Tissue(40, 4, 8))  # oesophagus
    if level < 0.14:  # the branches of the arch
        for x, y in ((-16, -0.05), (8, -0.02), (20, 0.18)):
            tube(x, y0 + y * b, rng.uniform(4, 6.5), blood)
        tube(-26, y0 - 0.2 * b, rng.uniform(6, 9), vein)
        tube(28, y0 - 0.3 * b, rng.uniform(5, 8), vein)
    elif level < 0.22:  # the arch
        arch = canvas.capsule(-10, y0 - 0.28 * b, 20, y0 + 0.22 * b, 13, 12)
        canvas.paint(arch, Tissue(45), inset=-1.2)
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
                     Tissue(60, 4, 4), opacity=0.8)
    trachea = [(0, 0.22, 8.5)] if level < 0.24 else [(-20, 0.2, 6), (20, 0.22, 5.5)]
    if level < 0.42:
        for x, y, radius in trachea:
            tube(x, y0 + y * b, radius, GAS)
