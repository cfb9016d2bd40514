"""DFGAN: the plain U-Net against two least-squares PatchGAN discriminators.

Source: the slides of DFGAN (2023-11-27) and its published PyTorch code.

  python main.py --config=configs/dfgan.py             the recipe (docs/recipe.md), paper scale
  python main.py --config=configs/dfgan.py:demo        minutes on two CPU cores
  python main.py --config=configs/dfgan.py:native      on slices of your own, at their native size
  python main.py --config=configs/dfgan.py:open        the pretrained weights (docs/weights.md)
  python main.py --config=configs/dfgan.py:slides      the training of the slides
  python main.py --config=configs/dfgan.py:published   joint discriminator, gradient loss, quirks

The demo takes about 3 minutes on two CPU cores. At paper scale a step takes about half a
minute on two CPU cores: that needs an accelerator.

Published on AAPM-Mayo 2016 at 256² (other data than the simulated default), under
the protocol `published`: 37.44 dB / 0.9225, from 33.79 dB / 0.8532 of the input.
"""

import ml_collections

from configs import base


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base.apply_variant(base.get_config(), variant, run_name="dfgan")
    if variant in ("native", "open"):
        # 0.16 dB over width 16 on validation slices (docs/weights.md, versions 1 and 2), for 2.2
        # times the operations.
        config.generator.width = 24
    return config
