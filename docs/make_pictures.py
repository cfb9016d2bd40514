"""Makes the pictures of README.md and docs/ from simulated phantoms and the pretrained weights.

  python -m docs.make_pictures

It writes `images/soft_tissue.png` of the first phantom without lung and `images/lung.png` of the
first with it: low dose, denoised, normal dose, and the map denoised − QDCT, of 512². No weights
were trained on these phantoms. `images/speed.png` has the rows of `SPEEDS`.
"""

import json
import pathlib
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dfgan_jax import Denoiser, pretrained
from dfgan_jax.evaluation.report import curves, pictures
from dfgan_jax.scans import windows
from dfgan_jax.scans.tissues import windows_of
from dfgan_jax.simulation import low_dose
from dfgan_jax.simulation.low_dose import ScanProtocol

IMAGES = pathlib.Path(__file__).parent / "images"
SIZE = 512
SEED = 2026
MOST_PHANTOMS = 8
DIFFERENCE_HU = 100.0
NAMES = {windows.ABDOMEN: "soft_tissue", windows.LUNG: "lung"}
SPEEDS = (pathlib.Path(__file__).parents[1] / "benchmarks" / "results"
          / "2026-12-01-AMD_EPYC_2_cores-speed_beside_quality.json")
FONT = pathlib.Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


def main() -> None:
    speeds(json.loads(SPEEDS.read_text(encoding="utf-8"))["rows"])
    missing = dict(NAMES)
    for ndct, qdct in low_dose.iterate_pairs(MOST_PHANTOMS, size=SIZE, split="test", seed=SEED,
                                             protocol=ScanProtocol()):
        window = windows_of(ndct)[0]
        if window in missing:
            sheet(ndct, qdct, window).save(IMAGES / f"{missing.pop(window)}.png", optimize=True)
        if not missing:
            return


def speeds(rows: list[dict[str, Any]]) -> None:
    """Draws the gain of each row over its speed."""
    points = {row["row"]: (row["slices_per_s"], row["psnr_over_qdct_db"]) for row in rows}
    figure = curves.draw_speeds(points, order=list(points), theme=curves.THEMES[0])
    figure.axes[0].set_xlabel("slices a second on two CPU cores", fontsize=12)
    figure.axes[0].set_ylabel("PSNR over QDCT [dB]", fontsize=12)
    figure.savefig(IMAGES / "speed.png", dpi=150)


def sheet(ndct: np.ndarray, qdct: np.ndarray, window: windows.Window) -> Image.Image:
    """Four labelled tiles, two by two, in 256 colours."""
    denoised = Denoiser.load()(qdct)
    removed = pictures.difference_levels(denoised - qdct, limit_hu=DIFFERENCE_HU)
    colours = np.frombuffer(pictures.palette(), np.uint8).reshape(-1, 3)
    tiles = [np.repeat(pictures.windowed(image, window)[..., None], 3, axis=2)
             for image in (qdct, denoised, ndct)] + [colours[removed]]
    made = Image.fromarray(np.concatenate(
        [np.concatenate(tiles[:2], axis=1), np.concatenate(tiles[2:], axis=1)]))
    pen, font = ImageDraw.Draw(made), ImageFont.truetype(FONT, size=20)
    words = ("quarter dose (QDCT)", f"denoised by {pretrained.DEFAULT}", "normal dose (NDCT)",
             f"denoised − QDCT, ±{DIFFERENCE_HU:g} HU")
    for place, text in enumerate(words):
        pen.text((12 + place % 2 * SIZE, 8 + place // 2 * SIZE), text, font=font,
                 fill="white" if place < 3 else "black")
    return made.quantize(256, dither=Image.Dither.NONE)


if __name__ == "__main__":
    main()
