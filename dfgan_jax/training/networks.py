"""The options of the networks, and the modules that they describe."""

import dataclasses
from typing import get_args

from dfgan_jax.models.generators import ARCHITECTURES, build_generator
from dfgan_jax.models.patch_discriminator import PatchDiscriminator
from dfgan_jax.models.unet import Normalization, Output
from dfgan_jax.support.checks import (
    check_above_zero,
    check_below_one,
    check_not_negative,
    check_one_of,
)
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

    Raises:
      InputError: a value is none of these.
    """

    architecture: str = "unet"
    width: int
    attention: bool
    output: str = "image"
    add_image: bool = True
    open_gates: bool = False
    gate_window: int = 0
    normalization: str = "batch"
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_one_of(self, "architecture", ARCHITECTURES)
        check_one_of(self, "output", get_args(Output))
        check_one_of(self, "normalization", get_args(Normalization))
        check_above_zero(self, "width")
        check_not_negative(self, "gate_window")
        check_below_one(self, "momentum")
        if (self.architecture, self.attention) == ("redcnn", True):
            raise InputError("attention is True; expected False, since RED-CNN has no attention")


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
