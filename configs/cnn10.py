"""CNN-10, the first network for low-dose CT, trained like the GANs but without an adversary.

Sources: Chen et al., "Low-dose CT via convolutional neural network", Biomedical Optics Express
8(2), 2017; its layers and their name as in ldct-benchmark (Eulig et al., Medical Physics 2024).

  python main.py --config=configs/cnn10.py         paper scale
  python main.py --config=configs/cnn10.py:demo    minutes on two CPU cores
  python main.py --config=configs/cnn10.py:native  on slices of your own, at their native size
  python main.py --config=configs/cnn10.py:open    on the pairs of docs/weights.md

The network is the published one in all variants, since it is small: it has half the
multiplications of RED-CNN's demo. It is trained by the recipe of the other networks
(docs/recipe.md): whole slices instead of patches, the logarithm of each slice's mean squared
error instead of the error itself, a learning rate that falls by a cosine to 0, and an average
of the weights as the model. The recipe has not been tuned for this network.
"""

import ml_collections

from configs import base


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base.supervised_config("cnn10", title="CNN-10", variant=variant)
    config.generator.width = 64
    if variant == "demo":
        # Not tuned: RED-CNN's rate in its demo.
        config.optimizer.generator_learning_rate = 1e-3
    elif not variant:
        # The result of ldct-benchmark's search between 1e-5 and 1e-2, rounded (configs/cnn10.yaml).
        config.optimizer.generator_learning_rate = 1.6e-4
    return config
