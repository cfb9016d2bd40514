"""The interface of a generator: its module, its options, and its properties."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

_checkpoint_name: Callable[[Array, str], Array] = checkpoint_name

STAGE = "stage"
"""Name, for `jax.checkpoint`, of the output of each stage of a generator."""

OptionValue: TypeAlias = bool | int | float | str
"""Value of an option, as configurations and checkpoints hold it; the options' class checks it."""

Image = TypeVar("Image", np.ndarray, jax.Array)


def mark_stage(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Names an array `STAGE` for `jax.checkpoint`, and returns it."""
    return _checkpoint_name(x, STAGE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the options of a generator; the defaults are the published network's.

    Attributes:
      width: channels of a layer, by which the network scales.
    """

    width: int


OptionsT = TypeVar("OptionsT", bound=Options)


class Generator(nn.Module):
    """Maps normalised quarter-dose slices to denoised slices of the same shape.

    Attributes:
      axis_name: mapped axis over which batch statistics are averaged; unused by a generator
        without normalisation.
      dtype: dtype of the computation; parameters stay float32.
    """

    axis_name: str | None = None
    dtype: DTypeLike | None = None

    def __call__(self, qdct: Float[Array, "..."], *, train: bool) -> Float[Array, "..."]:
        """Denoises (N, H, W, 1), normalised HU.

        Args:
          qdct: the slices.
          train: normalise by the batch's statistics, and update the running statistics.

        Returns:
          The same shape, normalised HU.

        Raises:
          ValueError: the generator does not take the shape.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture(Generic[OptionsT]):
    """The properties of a generator, all defined in the file of its module.

    Attributes:
      name: in configurations and checkpoints (`generator.architecture`).
      title: in messages.
      module: takes the fields of the options, and a `dtype`.
      options: a frozen dataclass of the configurable options, with the published network's values
        as defaults. It raises an `InputError` for a value out of range.
      table_name: the name of a table's row, from the options and the layout of the discriminators
        (`Discriminators`; None for a file of weights without this information).
      size_multiple: heights and widths of slices are padded, or for training must be resized,
        to multiples of this [pixels].
      min_size: and to at least this [pixels].
      memory_share: activations of a slice relative to those of the published U-Net, rounded up to
        a power of two; divides the default batch size.
      scaled: HU of any shape → the input range of the network's published code.
      unseen: the options that change the result but not the weights; name → a description of a
        value other than the published one.
    """

    name: str
    title: str
    module: type[Generator]
    options: type[OptionsT]
    table_name: Callable[[OptionsT, str | None], str]
    size_multiple: int
    min_size: int
    memory_share: int
    scaled: Callable[[np.ndarray], np.ndarray]
    unseen: Mapping[str, Callable[[OptionValue], str]] = dataclasses.field(default_factory=dict)

    @property
    def published(self) -> dict[str, OptionValue]:
        """The options of the published network; name → value."""
        return {field.name: getattr(self.options, field.name)
                for field in dataclasses.fields(self.options)}

    def build(self, options: OptionsT, *, dtype: DTypeLike | None = None) -> Generator:
        """Makes the module from `options`."""
        values: dict[str, Any] = dataclasses.asdict(options)
        return self.module(**values, dtype=dtype)


def supervised(title: str) -> Callable[[Options, str | None], str]:
    """Returns the `table_name` of a network that was published without an adversary.

    A file of weights names no discriminators; the network is then taken to be without them.
    """
    return lambda options, discriminators: (
        title if discriminators in ("none", None) else f"{title} GAN")
