"""RED-CNN, the field's baseline, trained like the GANs but without an adversary.

Source: Chen et al., "Low-dose CT with a residual encoder-decoder convolutional neural
network", IEEE TMI 36(12), 2017.

  python main.py --config=configs/redcnn.py         paper scale
  python main.py --config=configs/redcnn.py:demo    minutes on two CPU cores
  python main.py --config=configs/redcnn.py:native  on slices of your own, at their native size
  python main.py --config=configs/redcnn.py:open    beside the pretrained weights (docs/weights.md)

The network, its initial weights and Adam's first learning rate are the paper's. It is trained by
the applicable parts of the GANs' recipe (docs/recipe.md): whole slices instead of patches of
55×55, the logarithm of each slice's mean squared error instead of the error itself, a learning
rate that falls by a cosine to 0 instead of slowly to 1e-5, and an average of the weights as the
model.

The demo takes about 3 minutes on two CPU cores; on its 32 held-out phantoms, protocol
full_range: 41.45 ± 0.16 dB / 0.9575 (three seeds), from 37.29 dB / 0.9028 of the input. At paper
scale a step takes about a minute on two CPU cores: that needs an accelerator.
"""

import ml_collections

from configs import base


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base.supervised_config("redcnn", title="RED-CNN", variant=variant)
    if variant:
        # In native and open: as many multiplications as the U-Net of width 16 with attention.
        config.generator.width = 16
    else:
        config.generator.width = 96
        config.optimizer.generator_learning_rate = 1e-4
    if variant == "demo":
        # At twice this rate it learns nothing.
        config.optimizer.generator_learning_rate = 1e-3
    return config
