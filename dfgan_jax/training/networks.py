"""The options of the networks, and the modules that they describe."""

import dataclasses

from dfgan_jax.models.generators import (
    ARCHITECTURES,
    PUBLISHED_OPTIONS,
    UNNAMED,
    build_generator,
    options_of,
)
from dfgan_jax.models.patch_discriminator import DISCRIMINATOR_MIN_SIZE, PatchDiscriminator
from dfgan_jax.support.checks import check_above_zero, check_one_of
from dfgan_jax.support.errors import InputError
from dfgan_jax.training.state import Discriminators, Networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """The generator; the defaults are those of the published network.

    Attributes:
      architecture: one of `ARCHITECTURES`.
      width: channels of the U-Net's first stage, or of every layer of RED-CNN.
      attention: CBAM after every stage of the U-Net.
      output: of the U-Net; see `unet.Output`.
      add_image: the U-Net adds its input to all features after each up stage.
      open_gates: CBAM's gates start open.
      gate_window: that CBAM's channel gates take maxima of [pixels]; 0: the whole image.
      normalization: of the U-Net's stages; see `unet.Normalization`.
      momentum: share of its running statistics that batch normalisation keeps, 0 to below 1.
      blocks: of NAFNet's stages; see its options.

    Raises:
      InputError: a value is none of these.
    """

    architecture: str = UNNAMED
    width: int
    attention: bool
    output: str = "image"
    add_image: bool = True
    open_gates: bool = False
    gate_window: int = 0
    normalization: str = "batch"
    momentum: float = 0.9
    blocks: str = PUBLISHED_OPTIONS["blocks"]

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
        """Heights and widths of training slices are multiples of this [pixels]."""
        return ARCHITECTURES[self.architecture].size_multiple

    @property
    def min_size(self) -> int:
        """Smallest height and width of training slices, which discriminators take too [pixels]."""
        return max(ARCHITECTURES[self.architecture].min_size, DISCRIMINATOR_MIN_SIZE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorOptions:
    """Each of the discriminators.

    Attributes:
      width: channels of the first layer, above 0.
      spectral_norm: each kernel is divided by its largest singular value.

    Raises:
      InputError: a value is none of these.
    """

    width: int
    spectral_norm: bool = False

    def __post_init__(self) -> None:
        check_above_zero(self, "width")


def build_networks(*, generator: GeneratorOptions, discriminator: DiscriminatorOptions,
                   discriminators: Discriminators, dtype: str) -> Networks:
    """The modules.

    Args:
      generator: what `build_generator` takes.
      discriminator: of all of them.
      discriminators: their layout.
      dtype: of the computation.

    Raises:
      InputError: there is no such generator.
    """
    return Networks(
        generator=build_generator(**dataclasses.asdict(generator), dtype=dtype),
        discriminator=PatchDiscriminator(**dataclasses.asdict(discriminator), dtype=dtype),
        discriminators=discriminators)
