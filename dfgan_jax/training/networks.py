"""The options of the networks, and the modules made from them."""

import dataclasses

from dfgan_jax.models.generators import (
    ARCHITECTURES,
    UNNAMED,
    EveryOption,
    build_generator,
    options_of,
)
from dfgan_jax.models.patch_discriminator import DISCRIMINATOR_MIN_SIZE, PatchDiscriminator
from dfgan_jax.support.checks import check_above_zero, check_one_of
from dfgan_jax.support.errors import InputError
from dfgan_jax.training.state import Discriminators, Networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ArchitectureOptions:
    """The first field of a stored `generator`, since fields of bases are in reverse order."""

    architecture: str = UNNAMED


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorOptions(EveryOption, _ArchitectureOptions):
    """The generator: its architecture and its options; see also `EveryOption`.

    Attributes:
      architecture: one of `ARCHITECTURES`.
      width: channels of the first stage or layer; see the options of the architecture.
      attention: CBAM after every stage of the U-Net.

    Raises:
      InputError: a value is out of range.
    """

    width: int = dataclasses.field()  # without a default: every configuration has these
    attention: bool = dataclasses.field()

    def __post_init__(self) -> None:
        check_one_of(self, "architecture", tuple(ARCHITECTURES))
        architecture = ARCHITECTURES[self.architecture]
        if self.attention and "attention" not in architecture.published:
            raise InputError(f"attention is True; expected False, since {architecture.title} has "
                             "no attention")
        try:
            options_of(**dataclasses.asdict(self))
        except InputError as error:
            raise InputError(str(error).removeprefix("generator.")) from None

    @property
    def size_multiple(self) -> int:
        """Heights and widths of training slices must be multiples of this [pixels]."""
        return ARCHITECTURES[self.architecture].size_multiple

    @property
    def min_size(self) -> int:
        """Smallest height and width that the generator and the discriminators take [pixels]."""
        return max(ARCHITECTURES[self.architecture].min_size, DISCRIMINATOR_MIN_SIZE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorOptions:
    """The options that all discriminators share.

    Attributes:
      width: channels of the first layer, above 0.
      spectral_norm: divide each kernel by its largest singular value.

    Raises:
      InputError: a value is out of range.
    """

    width: int
    spectral_norm: bool = False

    def __post_init__(self) -> None:
        check_above_zero(self, "width")


def build_networks(*, generator: GeneratorOptions, discriminator: DiscriminatorOptions,
                   discriminators: Discriminators, dtype: str) -> Networks:
    """Makes the modules.

    Args:
      generator: options of the generator.
      discriminator: options of every discriminator.
      discriminators: their layout.
      dtype: dtype of the computation.

    Raises:
      InputError: the generator has no such options.
    """
    return Networks(
        generator=build_generator(**dataclasses.asdict(generator), dtype=dtype),
        discriminator=PatchDiscriminator(**dataclasses.asdict(discriminator), dtype=dtype),
        discriminators=discriminators)
