"""The generators: each maps normalised quarter-dose slices to denoised ones of the same shape."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dfgan_jax.models.redcnn import REDCNN
from dfgan_jax.models.unet import SIZE_MULTIPLE, UNet
from dfgan_jax.support.errors import InputError

Generator = UNet | REDCNN

ARCHITECTURES = ("unet", "redcnn")

_OPTIONS = ("output", "add_image", "open_gates", "gate_window", "normalization", "momentum")

PUBLISHED_OPTIONS: dict[str, Any] = {
    field.name: field.default for field in dataclasses.fields(UNet) if field.name in _OPTIONS}
"""The U-Net's options that the published network has; name → value."""

UNSEEN_OPTIONS = ("output", "gate_window")
"""Those of `PUBLISHED_OPTIONS` that change the result and that no weight shows."""

MIN_SIZE = 2 * SIZE_MULTIPLE
"""Smallest height and width, multiples of `SIZE_MULTIPLE`, that every generator takes."""


def build_generator(*, width: int, architecture: str = "unet", attention: bool = False,
                    dtype: Any = None, **options: Any) -> Generator:
    """Makes the module that a configuration's `generator` describes.

    Args:
      width: channels of the U-Net's first stage, or of RED-CNN's layers.
      architecture: one of `ARCHITECTURES`; configurations from before it was a choice name
        none, and mean the U-Net.
      attention: CBAM, in the U-Net.
      dtype: dtype of the computation.
      **options: the U-Net's other fields, by name; those that are not given are the published
        network's.

    Raises:
      InputError: there is no such generator.
    """
    if architecture == "unet":
        return UNet(width=width, attention=attention, dtype=dtype, **options)
    if architecture == "redcnn" and not attention:
        changed = [name for name, value in options.items() if value != PUBLISHED_OPTIONS[name]]
        if not changed:
            return REDCNN(width=width, dtype=dtype)
        raise InputError(f"generator.{changed[0]} is {options[changed[0]]!r}; expected "
                         f"{PUBLISHED_OPTIONS[changed[0]]!r}, since RED-CNN has no such option")
    raise InputError(f"a generator of architecture {architecture!r} with attention {attention!r}: "
                     "expected unet, or redcnn without attention")


def initial_variables(generator: Generator, key: jax.Array) -> dict[str, Any]:
    """Random weights: {"params": …, "batch_stats": …}, which do not depend on the image's size.

    `batch_stats` is empty where a generator normalises nothing.
    """
    image = jnp.zeros((1, MIN_SIZE, MIN_SIZE, 1))
    return {"batch_stats": {}, **generator.init(key, image, train=False)}
