"""A generator that compiles in a fraction of the U-Net's time."""

import flax.linen as nn

from dfgan_jax.models.architecture import Generator, mark_stage
from dfgan_jax.models.cbam import CBAM
from dfgan_jax.models.convolution import Conv
from dfgan_jax.models.initializers import kaiming_uniform
from dfgan_jax.models.unet import DoubleConv


class SmallGenerator(Generator):
    """The U-Net's first stage and last layer: all that training steps and devices depend on.

    It has batch normalisation, whose statistics devices share, and attention if asked.
    """

    width: int = 2
    attention: bool = False

    @nn.compact
    def __call__(self, qdct, *, train):
        common = {"axis_name": self.axis_name, "dtype": self.dtype}
        x = DoubleConv(self.width, name="inc", **common)(qdct, train=train)
        if self.attention:
            x = CBAM(name="inc_cbam", **common)(x, train=train)
        return Conv(1, 3, padding=1, kernel_init=kaiming_uniform, dtype=self.dtype,
                    name="outc")(mark_stage(x))
