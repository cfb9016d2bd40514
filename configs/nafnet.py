"""NAFNet, a modern network of restoration, trained as the others are but without an adversary.

Sources: Chen et al., "Simple Baselines for Image Restoration", ECCV 2022, arXiv:2204.04676; its
published code (github.com/megvii-research/NAFNet), as it denoises photographs (SIDD).

  python main.py --config=configs/nafnet.py         paper scale
  python main.py --config=configs/nafnet.py:demo    minutes on two CPU cores
  python main.py --config=configs/nafnet.py:native  on slices of your own, at their native size
  python main.py --config=configs/nafnet.py:open    on the pairs of docs/weights.md

At paper scale the network and its learning rate are the published ones; it is trained as the others
here are, in all that helps them (docs/recipe.md): the logarithm of each slice's mean squared error,
which is the published loss, too (its "PSNR loss"), a learning rate that goes down by a cosine to 0,
and an average of the weights as the model. The variants have fewer blocks and channels.

The demo takes about 14 minutes on one core of two; on its 32 held-out phantoms, protocol
full_range: 41.72 ± 0.02 dB / 0.9604 (three seeds), from 37.29 dB / 0.9028 of the input.
"""

import ml_collections

from configs import base


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base.supervised_config("nafnet", title="NAFNet", variant=variant)
    if variant not in ("native", "open"):
        # As published; not tuned for CT.
        config.optimizer.generator_learning_rate = 1e-3
    if variant:
        config.generator.width = 16
        config.generator.blocks = "1,1,2,2,2,1,1,1,1"
    return config
