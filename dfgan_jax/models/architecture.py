"""What every generator has in common, and what each one states of itself for others to read."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

STAGE = "stage"
"""Name, for `jax.checkpoint`, of what each stage of a generator gives."""


class Generator(nn.Module):
    """Maps normalised quarter-dose slices to denoised ones of the same shape.

    Attributes:
      axis_name: mapped axis over which batch statistics are averaged; unused where a generator
        normalises nothing.
      dtype: dtype of the computation; parameters stay float32.
    """

    axis_name: str | None = None
    dtype: Any = None

    def __call__(self, qdct: jax.Array, *, train: bool) -> jax.Array:
        """Denoises (N, H, W, 1), normalised HU.

        Args:
          qdct: the slices.
          train: use the batch's statistics and move the running ones, where there are any.

        Returns:
          The same shape, normalised HU.

        Raises:
          ValueError: the shape is another than the generator takes.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a generator states of itself. All of it stands in the file of its module.

    Attributes:
      name: in configurations and checkpoints (`generator.architecture`).
      title: in messages.
      module: made of the options' fields, and of a `dtype`.
      options: a frozen dataclass of what a configuration can choose, with the published network's
        values as defaults, among them `width`. It raises an `InputError` for a value that it does
        not take.
      table_name: the name of a table's row, from the options and the layout of the discriminators
        (`Discriminators`; None where a file of weights tells of none).
      size_multiple: heights and widths of slices are padded, or for training have to be resized,
        to multiples of this [pixels].
      min_size: and to at least this [pixels].
      memory_share: activations of a slice beside those of the published U-Net, rounded up to a
        power of two: by it the slices of a batch are fewer, by default.
      scaled: HU of any shape → the numbers that the network's published code computes on.
      unseen: those of the options that change the result and that no weight shows; name → the
        words that tell a reader of a value that is not the published one.
    """

    name: str
    title: str
    module: type[Generator]
    options: type
    table_name: Callable[[Any, str | None], str]
    size_multiple: int
    min_size: int
    memory_share: int
    scaled: Callable[[Any], Any]
    unseen: Mapping[str, Callable[[Any], str]] = dataclasses.field(default_factory=dict)

    @property
    def published(self) -> dict[str, Any]:
        """The options of the published network; name → value."""
        return {field.name: field.default for field in dataclasses.fields(self.options)}

    def build(self, options: Any, *, dtype: Any = None) -> Generator:
        """The module of some of its `options`."""
        return self.module(**dataclasses.asdict(options), dtype=dtype)


def supervised(title: str) -> Callable[[Any, str | None], str]:
    """The `table_name` of a network that was published without an adversary.

    A file of weights alone tells of no discriminators: there were none.
    """
    return lambda options, discriminators: (
        title if discriminators in ("none", None) else f"{title} GAN")
