"""CNN-10, the first network for low-dose CT, trained as the others are but without an adversary.

Sources: Chen et al., "Low-dose CT via convolutional neural network", Biomedical Optics Express
8(2), 2017; its layers and their name as in ldct-benchmark (Eulig et al., Medical Physics 2024).

  python main.py --config=configs/cnn10.py         paper scale
  python main.py --config=configs/cnn10.py:demo    minutes on two CPU cores
  python main.py --config=configs/cnn10.py:open    on the pairs of docs/weights.md

The network is the published one in all variants, since it is small: it has half the
multiplications of RED-CNN's demo. It is trained as the others here are, in all that helps
them (docs/recipe.md): whole slices instead of patches, the logarithm of each slice's mean squared
error instead of the error itself, a learning rate that goes down by a cosine to 0, and an average
of the weights as the model. None of it has been tuned for this network.
"""

import ml_collections

from configs import base


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in ("", "demo", "open"):
        raise ValueError(f"no variant {variant!r} of CNN-10: there are demo and open, or none for "
                         "the paper scale")
    config = base.get_config()
    config.generator.architecture = "cnn10"
    config.generator.width = 64
    config.discriminators = "none"
    # What ldct-benchmark's search between 1e-5 and 1e-2 ended at, rounded (its configs/cnn10.yaml).
    config.optimizer.generator_learning_rate = 1.6e-4
    config.loss.intensity = "log_squared"
    config.optimizer.schedule = "cosine"
    config.data.augment = True
    config.optimizer.average_decay = 0.999
    config.name = f"cnn10_{variant}" if variant else "cnn10"
    if variant == "demo":
        base.apply_demo(config)
    if variant == "open":
        base.apply_open(config)
    if variant:
        # Not tuned: RED-CNN's in the same variants, since there are as few steps; six times the
        # rate above, where RED-CNN's is ten times its own.
        config.optimizer.generator_learning_rate = 1e-3
    return config
