"""The organs of the abdomen: liver, spleen, stomach, kidneys, bowel and their vessels."""

import numpy as np
import scipy.ndimage
from jaxtyping import Float

from dfgan_jax.simulation.anatomy import (
    FAT,
    FLUID,
    GAS,
    MUSCLE,
    Anatomy,
    ramp,
    vessel_tree,
    waves,
)
from dfgan_jax.simulation.canvas import Canvas, Shape, Tissue


def paint_abdomen(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy,
                  inside: Float[np.ndarray, "size size"], dome: float) -> None:
    """Paints the organs under the diaphragm's domes.

    Args:
      inside: (size, size) coverage of the body's cavity.
      dome: extent of the domes, above 0 and at most 1; at 1 no lung is left.
    """
    a, b, y0, level = anatomy.a, anatomy.b, anatomy.cavity_y, anatomy.level
    # The diaphragm's domes: the cavity outside them is still lung.
    reach = 0.25 + 0.85 * dome
    lift = y0 - 0.15 * b * (1 - dome)
    left_reach = reach * dome ** 0.3  # the liver lifts the right dome higher
    right = canvas.cover(canvas.blob(-0.42 * a, lift, (0.62 * reach + 0.3 * dome) * a,
                                     1.15 * b * reach, exponent=2.3, waves=waves(rng, 0.02)))
    left = canvas.cover(canvas.blob(0.48 * a, lift, (0.55 * left_reach + 0.3 * dome) * a,
                                    1.1 * b * left_reach, exponent=2.3, waves=waves(rng, 0.02)))
    domes = np.maximum(right, left) * inside
    if dome > 0.97:
        domes = inside
    everywhere = (slice(None), slice(None))
    within_domes = Shape(everywhere, (0.5 - domes) * canvas.pixel_mm)
    canvas.paint(within_domes, Tissue(-98, 10, 14))
    for _ in range(25):  # small vessels of the mesentery
        x, y = rng.uniform(-0.7, 0.8) * a, y0 + rng.uniform(-0.8, 0.5) * b
        angle = rng.uniform(0, 2 * np.pi)
        length, radius = rng.uniform(0, 14), rng.uniform(0.8, 2.2)
        canvas.paint(canvas.capsule(x, y, x + length * np.cos(angle), y + length * np.sin(angle),
                                    radius, radius * 0.7), Tissue(anatomy.vein * 0.7),
                     within=domes, opacity=rng.uniform(0.4, 1))
    if level > 0.72:
        _paint_bowel(rng, canvas, anatomy, domes, loops=int(1 + 16 * ramp(level, 0.72, 1.0)))
    _paint_spleen_and_stomach(rng, canvas, anatomy, domes)
    _paint_liver(rng, canvas, anatomy, domes, 1 - 0.45 * ramp(level, 0.85, 1.05))
    for side in (-1, 1):  # crura, psoas
        canvas.paint(canvas.blob(side * 20, anatomy.spine_y - 4, 9, 20, turn=side * 0.3,
                                 waves=waves(rng, 0.05)), Tissue(anatomy.muscle_hu, 5, 6),
                     within=domes)
        if level > 0.9:
            canvas.paint(canvas.blob(side * 36, anatomy.spine_y + 4, 13, 15), MUSCLE, within=domes)
    if level > 0.8:
        for side in (-1, 1):
            _paint_kidney(rng, canvas, anatomy, domes, side, ramp(level, 0.76, 0.9))
        for x, y, turn in ((22, -0.02, -0.4), (-4, 0.02, 0.2)):  # pancreas
            canvas.paint(canvas.blob(x, y0 + y * b, 24, 9, turn=turn,
                                     waves=waves(rng, 0.12, (3, 5, 7))),
                                     Tissue(anatomy.spleen * 0.85, 8, 12), within=domes)
    for x, y, radius, hu in ((10, -26, rng.uniform(9, 12), anatomy.blood),
                             (-20, -28, rng.uniform(9, 13), anatomy.vein),
                             (-8, -46, rng.uniform(5, 7), anatomy.vein),
                             (6, -42, rng.uniform(3, 4.5), anatomy.blood)):
        vessel = canvas.blob(x + rng.normal(0, 2), anatomy.spine_y + y, radius,
                             radius * rng.uniform(0.75, 1.0), turn=rng.normal(0, 0.3))
        canvas.paint(vessel, FAT, inset=-1.5, opacity=0.7)
        canvas.paint(vessel, Tissue(hu, 3, 3))
    if rng.random() < 0.3:  # calcified aortic wall
        canvas.paint(canvas.blob(10 + rng.normal(0, 6), anatomy.spine_y - 18, 3, 1.2),
                     Tissue(rng.uniform(500, 1100)))


def _paint_liver(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy,
                 domes: np.ndarray, scale: float) -> None:
    a, b, y0 = anatomy.a, anatomy.b, anatomy.cavity_y
    tissue = Tissue(anatomy.liver, 5, 6)
    outlines = [canvas.blob(-0.52 * a, y0 - 0.02 * b, 0.52 * a * scale, 0.86 * b * scale,
                            exponent=2.3, turn=0.1, waves=waves(rng, 0.05)),
                canvas.blob(-0.1 * a, y0 - 0.55 * b, 0.52 * a * scale, 0.32 * b * scale,
                            turn=rng.uniform(-0.25, 0.1), waves=waves(rng, 0.06))]
    inner = scipy.ndimage.gaussian_filter(domes, 1.5 / canvas.pixel_mm)
    inner = np.clip(3 * inner - 2, 0, 1)
    liver = np.zeros_like(domes)
    for outline in outlines:
        canvas.paint(outline, tissue, within=inner)
        liver = np.maximum(liver, canvas.cover(outline) * inner)
    vessel = Tissue(anatomy.liver + (rng.uniform(20, 55) if anatomy.blood > 60 else -12), 3, 3)
    for _ in range(3):
        direction = rng.uniform(2.2, 4.6)
        for segment in vessel_tree(rng, -0.15 * a, y0 + rng.uniform(-0.3, 0.25) * b, direction,
                                   length=26, radius=rng.uniform(2.5, 4.5), depth=4):
            if rng.random() < 0.65:
                canvas.paint(canvas.capsule(*segment), vessel, within=liver,
                             opacity=rng.uniform(0.4, 1))
    if rng.random() < 0.6:  # the fissure of the falciform ligament
        canvas.paint(canvas.capsule(-0.12 * a, y0 - 0.8 * b, -0.2 * a, y0 - 0.35 * b, 2, 4), FAT,
                     within=liver)
    for _ in range(rng.poisson(1.2)):  # metastases and cysts
        radius = rng.uniform(3, 14)
        hu = rng.uniform(0, 20) if rng.random() < 0.3 else anatomy.liver - rng.uniform(12, 45)
        x, y = rng.uniform(-0.9, -0.1) * a, y0 + rng.uniform(-0.7, 0.6) * b
        canvas.paint(canvas.blob(x, y, radius, radius * rng.uniform(0.8, 1.2), waves=waves(rng,
                     0.1)),
                     Tissue(hu, 4, 5), within=liver)
    if anatomy.level > 0.82 and rng.random() < 0.7:  # gallbladder
        outline = canvas.blob(-0.35 * a, y0 - 0.25 * b, rng.uniform(10, 16), rng.uniform(14, 24),
                              turn=rng.uniform(-0.5, 0.5))
        canvas.paint(outline, Tissue(60), inset=-1.5, within=domes)
        canvas.paint(outline, FLUID, within=domes)


def _paint_hollow(rng: np.random.Generator, canvas: Canvas, outline: Shape, within: np.ndarray,
                  *, wall_mm: float, content: Tissue, gas_below: float | None) -> None:
    """Stomach or bowel: a wall, content, and gas above the level `gas_below` [mm]."""
    canvas.paint(outline, Tissue(rng.uniform(50, 95), 6, 8), within=within)
    canvas.paint(outline, content, within=within, inset=wall_mm)
    if gas_below is not None:
        height = canvas.grid(outline.box)[1] - gas_below
        canvas.paint(Shape(outline.box, np.maximum(outline.distance + wall_mm, height)), GAS,
                     within=within)


def _content(rng: np.random.Generator) -> Tissue:
    """Water, food, stool with gas, or oral contrast."""
    return [Tissue(rng.uniform(5, 35), 5, 6), Tissue(rng.uniform(20, 60), 25, 30),
            Tissue(rng.uniform(-120, 0), 110, 60), Tissue(rng.uniform(180, 420), 10, 25),
            ][rng.choice(4, p=[0.4, 0.25, 0.15, 0.2])]


def _paint_spleen_and_stomach(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy,
                              domes: np.ndarray) -> None:
    a, b, y0 = anatomy.a, anatomy.b, anatomy.cavity_y
    if anatomy.level < 0.97:
        rx, ry = 0.32 * a * rng.uniform(0.85, 1.1), 0.42 * b * rng.uniform(0.8, 1.1)
        y = y0 - 0.35 * b
        stomach = canvas.blob(0.45 * a, y, rx, ry, turn=rng.uniform(-0.5, 0.3),
                              waves=waves(rng, 0.08))
        gas = y - ry * rng.uniform(0.0, 0.9) if rng.random() < 0.8 else None
        _paint_hollow(rng, canvas, stomach, domes, wall_mm=rng.uniform(3, 6), content=_content(rng),
                      gas_below=gas)
    spleen = canvas.blob(0.74 * a, y0 + 0.28 * b, 0.20 * a * rng.uniform(0.8, 1.2),
                         0.46 * b * rng.uniform(0.8, 1.1), turn=rng.uniform(0.2, 0.5),
                         waves=waves(rng, 0.06))
    inner = np.clip(3 * scipy.ndimage.gaussian_filter(domes, 1.5 / canvas.pixel_mm) - 2, 0, 1)
    canvas.paint(spleen, Tissue(anatomy.spleen, 5, 5), within=inner)


def _paint_kidney(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy,
                  domes: np.ndarray, side: int, scale: float) -> None:
    if scale <= 0.3:
        return
    x = side * rng.uniform(60, 68)
    y = anatomy.spine_y + rng.uniform(-8, 4)
    rx, ry = 27 * scale, 23 * scale
    outline = canvas.blob(x, y, rx, ry, turn=side * 0.5, waves=waves(rng, 0.05))
    canvas.paint(outline, FAT, within=domes, inset=-5)
    canvas.paint(outline, Tissue(anatomy.kidney, 6, 6), within=domes)
    kidney = canvas.cover(outline) * domes
    for angle in np.linspace(0, 2 * np.pi, 8)[:-1] + rng.uniform(0, 1):  # pyramids
        canvas.paint(canvas.blob(x + 0.55 * rx * np.cos(angle), y + 0.55 * ry * np.sin(angle),
                                 5 * scale, 3.5 * scale, turn=angle),
                     Tissue(anatomy.kidney * 0.72, 5, 5), within=kidney)
    canvas.paint(canvas.blob(x - side * 9 * scale, y - 2, 11 * scale, 7 * scale,
                             waves=waves(rng, 0.15)), FAT, within=kidney)
    canvas.paint(canvas.blob(x - side * 11 * scale, y - 2, 5 * scale, 3 * scale), FLUID,
                 within=kidney)
    if rng.random() < 0.25:
        canvas.paint(canvas.blob(x + side * rx * 0.9, y, rng.uniform(3, 12), rng.uniform(3, 12)),
                     FLUID, within=domes)


def _paint_bowel(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy,
                 domes: np.ndarray, *, loops: int) -> None:
    a, b, y0 = anatomy.a, anatomy.b, anatomy.cavity_y
    for _ in range(loops):
        angle, radius = rng.uniform(np.pi, 2 * np.pi), rng.uniform(0.15, 0.85)
        x, y = 0.1 * a + radius * a * np.cos(angle) * 0.9, y0 + radius * b * np.sin(angle) + 0.1 * b
        rx = rng.uniform(8, 18)
        outline = canvas.blob(x, y, rx, rx * rng.uniform(0.7, 1.6), turn=rng.uniform(0, 3),
                              waves=waves(rng, 0.14, (2, 3, 5)))
        gas = y - rx * rng.uniform(-0.6, 0.7) if rng.random() < 0.35 else None
        canvas.paint(outline, FAT, within=domes, inset=-2.5)
        _paint_hollow(rng, canvas, outline, domes, wall_mm=rng.uniform(1.8, 3.5),
                      content=_content(rng), gas_below=gas)
