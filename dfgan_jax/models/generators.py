"""The registry of the generators, and their construction from a configuration."""

import dataclasses
import math
from typing import Any, TypeAlias

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from dfgan_jax.models.architecture import Architecture, Generator, Options, OptionValue
from dfgan_jax.models.cnn10 import CNN10_ARCHITECTURE
from dfgan_jax.models.nafnet import NAFNET_ARCHITECTURE, NAFNetOptions
from dfgan_jax.models.redcnn import REDCNN_ARCHITECTURE
from dfgan_jax.models.unet import UNET, UNetOptions
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.types import JsonObject

AnyArchitecture: TypeAlias = Architecture[Any]

ARCHITECTURES: dict[str, AnyArchitecture] = {each.name: each for each in (
    UNET,
    REDCNN_ARCHITECTURE,
    CNN10_ARCHITECTURE,
    NAFNET_ARCHITECTURE,
)}
"""Name in configurations → architecture."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EveryOption(UNetOptions):
    """The options of all generators; each takes those of others only with their published values.

    Attributes:
      blocks: see `NAFNetOptions`.
    """

    blocks: str = NAFNetOptions.blocks


UNNAMED = UNET.name
"""The architecture of configurations without the field, which older versions wrote."""

PUBLISHED_OPTIONS: dict[str, OptionValue] = {
    name: value for each in ARCHITECTURES.values() for name, value in each.published.items()
    if name not in ("width", "attention")}
"""The published values of the options in a configuration's `generator`, besides `architecture`,
`width` and `attention`; name → value. Architectures that share an option share its published
value, and an architecture without the option takes only this value."""

UNSEEN_OPTIONS = tuple(dict.fromkeys(
    name for each in ARCHITECTURES.values() for name in each.unseen))
"""The `PUBLISHED_OPTIONS` that change the result but not the weights."""

_SIZE_MULTIPLE = math.lcm(*(each.size_multiple for each in ARCHITECTURES.values()))

COMMON_MIN_SIZE = _SIZE_MULTIPLE * max(-(-each.min_size // _SIZE_MULTIPLE)
                                       for each in ARCHITECTURES.values())
"""Smallest height and width that every generator takes [pixels]."""


def options_of(*, width: int, architecture: str = UNNAMED, attention: OptionValue = False,
               **options: OptionValue) -> tuple[AnyArchitecture, Options]:
    """Reads a configuration's `generator`; for the arguments see `build_generator`.

    Returns:
      The architecture, and its own options.

    Raises:
      InputError: the architecture is unknown, or an option has a value out of range.
    """
    found = ARCHITECTURES.get(architecture)
    if found is None or (attention and "attention" not in found.published):
        names = (name if "attention" in each.published else f"{name} without attention"
                 for name, each in ARCHITECTURES.items())
        raise InputError(f"a generator of architecture {architecture!r} with attention "
                         f"{attention!r}: expected {', or '.join(names)}")
    own: dict[str, OptionValue] = {"width": width}
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


def build_generator(*, width: int, architecture: str = UNNAMED, attention: OptionValue = False,
                    dtype: DTypeLike | None = None, **options: OptionValue) -> Generator:
    """Makes the module of a configuration's `generator`.

    Args:
      width: see the options of the architecture.
      architecture: one of `ARCHITECTURES`; older configurations lack it, and mean the U-Net.
      attention: True for CBAM, in the U-Net.
      dtype: dtype of the computation.
      **options: the architecture's other options; the defaults are the published network's.
        Options of other architectures must have their published values.

    Raises:
      InputError: the architecture is unknown, or an option has a value out of range.
    """
    found, own = options_of(width=width, architecture=architecture, attention=attention, **options)
    return found.build(own, dtype=dtype)


def architecture_of(generator: Generator) -> AnyArchitecture:
    """The architecture of a module.

    Raises:
      KeyError: the architecture is unknown.
    """
    return {each.module: each for each in ARCHITECTURES.values()}[type(generator)]


def table_name(generator: JsonObject, discriminators: str | None) -> str:
    """The name of a table's row.

    Args:
      generator: of a configuration.
      discriminators: their layout; None for a file of weights without this information.

    Raises:
      InputError: see `build_generator`.
    """
    architecture, options = options_of(**generator)
    return architecture.table_name(options, discriminators)


def initial_variables(generator: Generator, key: Array) -> dict[str, PyTree]:
    """Random weights, {"params": …, "batch_stats": …}, independent of the image's size.

    `batch_stats` is empty for a generator without normalisation.
    """
    image = jnp.zeros((1, COMMON_MIN_SIZE, COMMON_MIN_SIZE, 1))
    return {"batch_stats": {}, **generator.init(key, image, train=False)}
