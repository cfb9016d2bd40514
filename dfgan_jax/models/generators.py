"""The registry of the generators, and how to make one from a configuration."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dfgan_jax.models.architecture import Architecture, Generator
from dfgan_jax.models.cnn10 import CNN10_ARCHITECTURE
from dfgan_jax.models.nafnet import NAFNET_ARCHITECTURE
from dfgan_jax.models.redcnn import REDCNN_ARCHITECTURE
from dfgan_jax.models.unet import UNET
from dfgan_jax.support.errors import InputError

ARCHITECTURES: dict[str, Architecture] = {each.name: each for each in (
    UNET,
    REDCNN_ARCHITECTURE,
    CNN10_ARCHITECTURE,
    NAFNET_ARCHITECTURE,
)}
"""Name → what the generator states of itself."""

UNNAMED = UNET.name
"""What configurations mean that name no architecture: they are from before it was a choice."""

PUBLISHED_OPTIONS: dict[str, Any] = {
    name: value for each in ARCHITECTURES.values() for name, value in each.published.items()
    if name not in ("width", "attention")}
"""The options that every configuration's `generator` has beside `architecture`, `width` and
`attention`, as the published networks have them; name → value. Options of one name have one
published value. A generator without such an option takes no other value for it."""

UNSEEN_OPTIONS = tuple(dict.fromkeys(
    name for each in ARCHITECTURES.values() for name in each.unseen))
"""Those of `PUBLISHED_OPTIONS` that change the result and that no weight shows."""

_SIZE_MULTIPLE = math.lcm(*(each.size_multiple for each in ARCHITECTURES.values()))

MIN_SIZE = _SIZE_MULTIPLE * max(-(-each.min_size // _SIZE_MULTIPLE)
                                for each in ARCHITECTURES.values())
"""Smallest height and width that every generator takes [pixels]."""


def options_of(*, width: int, architecture: str = UNNAMED, attention: bool = False,
               **options: Any) -> tuple[Architecture, Any]:
    """What a configuration's `generator` describes; see `build_generator`.

    Returns:
      The architecture, and its own options.

    Raises:
      InputError: there is no such generator, or an option has a value that it does not take.
    """
    found = ARCHITECTURES.get(architecture)
    if found is None or (attention and "attention" not in found.published):
        names = (name if "attention" in each.published else f"{name} without attention"
                 for name, each in ARCHITECTURES.items())
        raise InputError(f"a generator of architecture {architecture!r} with attention "
                         f"{attention!r}: expected {', or '.join(names)}")
    own = {"width": width}
    for name, value in {"attention": attention, **options}.items():
        if name in found.published:
            own[name] = value
        elif name != "attention" and value != PUBLISHED_OPTIONS[name]:
            raise InputError(f"generator.{name} is {value!r}; expected "
                             f"{PUBLISHED_OPTIONS[name]!r}, since {found.title} has no such option")
    try:
        return found, found.options(**own)
    except InputError as error:
        raise InputError(f"generator.{error}") from None


def build_generator(*, width: int, architecture: str = UNNAMED, attention: bool = False,
                    dtype: Any = None, **options: Any) -> Generator:
    """Makes the module that a configuration's `generator` describes.

    Args:
      width: see the options of the architecture.
      architecture: one of `ARCHITECTURES`; configurations from before it was a choice name
        none, and mean the U-Net.
      attention: CBAM, in the U-Net.
      dtype: dtype of the computation.
      **options: the architecture's other options, by name; those that are not given are the
        published network's. Those of other architectures may be given as published.

    Raises:
      InputError: there is no such generator, or an option has a value that it does not take.
    """
    found, own = options_of(width=width, architecture=architecture, attention=attention, **options)
    return found.build(own, dtype=dtype)


def architecture_of(generator: Generator) -> Architecture:
    """What a module states of itself.

    Raises:
      KeyError: it is of no known architecture.
    """
    return {each.module: each for each in ARCHITECTURES.values()}[type(generator)]


def table_name(generator: Mapping[str, Any], discriminators: str | None) -> str:
    """The name of a table's row.

    Args:
      generator: of a configuration.
      discriminators: their layout; None where a file of weights tells of none.

    Raises:
      InputError: as of `build_generator`.
    """
    architecture, options = options_of(**generator)
    return architecture.table_name(options, discriminators)


def initial_variables(generator: Generator, key: jax.Array) -> dict[str, Any]:
    """Random weights: {"params": …, "batch_stats": …}, which do not depend on the image's size.

    `batch_stats` is empty where a generator normalises nothing.
    """
    image = jnp.zeros((1, MIN_SIZE, MIN_SIZE, 1))
    return {"batch_stats": {}, **generator.init(key, image, train=False)}
