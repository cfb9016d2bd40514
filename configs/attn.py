"""AttnDFGAN: a U-Net with CBAM against two least-squares PatchGAN discriminators.

Source: the slides of DFGAN (2023-11-27) and its published PyTorch code.

  python main.py --config=configs/attn.py             the recipe (docs/recipe.md), paper scale
  python main.py --config=configs/attn.py:demo        minutes on two CPU cores
  python main.py --config=configs/attn.py:native      on slices of your own, at their native size
  python main.py --config=configs/attn.py:open        as the pretrained weights (docs/weights.md)
  python main.py --config=configs/attn.py:slides      the training of the slides
  python main.py --config=configs/attn.py:published   joint discriminator, gradient loss, quirks

The demo takes about 3 minutes on two CPU cores; on its 32 held-out phantoms, protocol
full_range: 41.99 ± 0.06 dB / 0.9620 (three seeds), from 37.29 dB / 0.9028 of the input. At paper
scale a step takes 7 to 30 s on two CPU cores, by machine: that needs an accelerator.

Published on AAPM-Mayo 2016 at 256² (other data than the simulated default), under
the protocol `published`: 36.18 dB / 0.9225, from 33.79 dB / 0.8532 of the input.
"""

import ml_collections

from configs import base


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base.get_config()
    config.generator.attention = True
    return base.apply_variant(config, variant, run_name="attn")
