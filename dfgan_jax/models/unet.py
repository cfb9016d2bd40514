"""The generator: a U-Net, with CBAM attention (AttnDFGAN) or without (DFGAN)."""

import dataclasses
from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dfgan_jax.models.architecture import Architecture, Generator, Options, mark_stage
from dfgan_jax.models.batch_norm import BatchNorm, conv_norm
from dfgan_jax.models.cbam import CBAM
from dfgan_jax.models.convolution import Conv
from dfgan_jax.models.initializers import kaiming_uniform, uniform_fan
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.checks import (
    check_above_zero,
    check_below_one,
    check_not_negative,
    check_one_of,
)
from dfgan_jax.support.errors import InputError

Output = Literal["image", "difference"]
"""`image`: the network returns the denoised image, as published. `difference`: it computes the
difference map, which is added to its input."""

Normalization = Literal["batch", "group", "none"]
"""After each convolution of a stage: batch normalisation, as published; group normalisation (Wu &
He, ECCV 2018) with `GROUP_SIZE` channels per group; or only a bias."""

GROUP_SIZE = 4

OPEN_CHANNEL_BIAS, OPEN_SPATIAL_BIAS = 1.5, 3.0
"""Initial biases of CBAM's gates with `open_gates`: both gates are σ(3) = 0.95 on average."""

SIZE_MULTIPLE = 16
"""Four max-pools halve the image: height and width must be multiples of this [pixels]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetOptions(Options):
    """The options of the U-Net; the defaults are the published network.

    Attributes:
      width: channels of the first stage, at least 1; doubled by each of the four down stages.
      attention: CBAM after every down and up stage (AttnDFGAN).
      output: see `Output`. With `difference` the last layer is initialised with zeros, so
        that an untrained network returns its input.
      add_image: add the input image to all features after each up stage.
      open_gates: initialise CBAM's gates open. With biases of zero each gate starts at about
        0.5, and the two gates at each of eight places scale features down.
      gate_window: height and width of the windows of the channel gates' maxima, in pixels of the
        image; 0 takes the maximum of the whole image, as published. See `cbam.pooled_maximum`.
      normalization: of the stages; see `Normalization`. CBAM's own normalisation is unaffected.
      momentum: of the running statistics of the stages' batch normalisation, in [0, 1).

    Raises:
      InputError: a value is out of range.
    """

    width: int = 32
    attention: bool = False
    output: Output = "image"
    add_image: bool = True
    open_gates: bool = False
    gate_window: int = 0
    normalization: Normalization = "batch"
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_above_zero(self, "width")
        for name in ("attention", "add_image", "open_gates"):
            check_one_of(self, name, (False, True))
        check_one_of(self, "output", get_args(Output))
        check_not_negative(self, "gate_window")
        check_one_of(self, "normalization", get_args(Normalization))
        if self.normalization == "group" and self.width % GROUP_SIZE:
            raise InputError(f"width is {self.width}; expected a multiple of {GROUP_SIZE}, the "
                             "channels of a group, with normalization=group")
        check_below_one(self, "momentum")


def max_pool_2x2(x: Float[Array, "n h w c"]) -> Float[Array, "n h//2 w//2 c"]:
    """Maximum over 2×2 windows: (N, H, W, C) to (N, H/2, W/2, C).

    Computed by a reshape and a maximum: on a CPU, its gradient is far cheaper than the gradient
    of a windowed reduction.
    """
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


class DoubleConv(nn.Module):
    """[3×3 conv → normalisation → ReLU] twice.

    Attributes:
      features: channels of the result.
      normalization: see `Normalization`.
      momentum: of the running statistics of batch normalisation.
      axis_name: mapped axis over which batch statistics are averaged.
      dtype: dtype of the computation.
    """

    features: int
    normalization: Normalization = "batch"
    momentum: float = 0.9
    axis_name: str | None = None
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool
                 ) -> Float[Array, "n h w features"]:
        """Maps (N, H, W, C) to (N, H, W, features)."""
        for i in (1, 2):
            conv = Conv(self.features, 3, padding=1, use_bias=self.normalization == "none",
                        kernel_init=kaiming_uniform, dtype=self.dtype, name=f"conv{i}")
            if self.normalization == "batch":
                x = conv_norm(conv, BatchNorm(
                    self.features, momentum=self.momentum, axis_name=self.axis_name,
                    dtype=self.dtype, name=f"norm{i}"), x, train=train)
            elif self.normalization == "group":
                x = nn.GroupNorm(num_groups=None, group_size=GROUP_SIZE, epsilon=1e-5,
                                 dtype=self.dtype, name=f"norm{i}")(conv(x))
            else:
                x = conv(x)
            x = nn.relu(x)
        return x


class UpConv(nn.Module):
    """Transposed convolution, 2×2 with stride 2.

    Its windows do not overlap, so that it equals a dense layer to 4·features channels and a
    depth-to-space, whose gradient is many times faster on a CPU.

    Attributes:
      features: channels of the result.
      dtype: dtype of the computation.
    """

    features: int
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n 2*h 2*w features"]:
        """Maps (N, H, W, C) to (N, 2H, 2W, features)."""
        n, h, w, c = x.shape
        init = uniform_fan(4 * self.features)
        kernel = self.param("kernel", init, (c, 2, 2, self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = x.reshape(-1, c) @ kernel.reshape(c, -1)
        x = x.reshape(n, h, w, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        y: Array = x.reshape(n, 2 * h, 2 * w, self.features) + bias
        return y


class UNet(Generator):
    """DFGAN's generator: quarter-dose slices in, denoised slices out.

    7,762,808 parameters at width 32, with attention 7,819,538. Besides the usual skip
    connections, with `add_image`, a strided convolution of the input image is added after each of
    the first three up stages, and the image itself after the last. The defaults are the
    published network.

    Attributes: see `UNetOptions` and `Generator`.
    """

    width: int = UNetOptions.width
    attention: bool = UNetOptions.attention
    output: Output = UNetOptions.output
    add_image: bool = UNetOptions.add_image
    open_gates: bool = UNetOptions.open_gates
    gate_window: int = UNetOptions.gate_window
    normalization: Normalization = UNetOptions.normalization
    momentum: float = UNetOptions.momentum

    @nn.compact
    def __call__(self, qdct: Float[Array, "..."], *, train: bool) -> Float[Array, "n h w 1"]:
        """Denoises normalised slices.

        Args:
          qdct: (N, H, W, 1), normalised HU; H and W multiples of 16.
          train: normalise by the batch's statistics, and update the running statistics.

        Returns:
          (N, H, W, 1), normalised HU.

        Raises:
          ValueError: the shape is not (N, H, W, 1), or H or W is no multiple of 16.
        """
        if qdct.ndim != 4 or qdct.shape[-1] != 1 or any(s % SIZE_MULTIPLE for s in qdct.shape[1:3]):
            raise ValueError(f"qdct has shape {qdct.shape}; expected (N, H, W, 1) with H and W "
                             f"multiples of {SIZE_MULTIPLE}")
        common: dict[str, Any] = {"axis_name": self.axis_name, "dtype": self.dtype}
        channel_bias = OPEN_CHANNEL_BIAS if self.open_gates else 0.0
        spatial_bias = OPEN_SPATIAL_BIAS if self.open_gates else 0.0

        def stage(x: Array, features: int, name: str, *, halvings: int | None) -> Array:
            x = DoubleConv(features, normalization=self.normalization, momentum=self.momentum,
                           name=name, **common)(x, train=train)
            if self.attention and halvings is not None:
                window = max(self.gate_window >> halvings, 1) if self.gate_window else 0
                x = CBAM(channel_bias=channel_bias, spatial_bias=spatial_bias, window=window,
                         name=f"{name}_cbam", **common)(x, train=train)
            return mark_stage(x)

        x = stage(qdct, self.width, "inc", halvings=None)
        skips = []
        for i in (1, 2, 3, 4):
            skips.append(x)
            x = stage(max_pool_2x2(x), self.width << i, f"down{i}", halvings=i)
        for i in (1, 2, 3, 4):
            features = self.width << (4 - i)
            x = UpConv(features, dtype=self.dtype, name=f"up{i}_conv")(x)
            x = jnp.concatenate([skips.pop(), x], axis=-1)
            x = stage(x, features, f"up{i}", halvings=4 - i)
            stride = 1 << (4 - i)
            if self.add_image and stride > 1:
                x += Conv(1, stride, stride=stride, kernel_init=kaiming_uniform,
                          dtype=self.dtype, name=f"size_down{stride}")(qdct)
            elif self.add_image:
                x += qdct
        is_image = self.output == "image"
        x = Conv(1, 3, padding=1, dtype=self.dtype, name="outc",
                 kernel_init=kaiming_uniform if is_image else nn.initializers.zeros_init())(x)
        return x if is_image else qdct + x.astype(qdct.dtype)


def _table_name(options: UNetOptions, discriminators: str | None) -> str:
    """DFGAN, or U-Net if trained without discriminators; files of weights count as DFGAN's."""
    return ("Attn" if options.attention else "") + (
        "U-Net" if discriminators == "none" else "DFGAN")


UNET = Architecture(
    name="unet", title="the U-Net", module=UNet, options=UNetOptions, table_name=_table_name,
    size_multiple=SIZE_MULTIPLE,
    # The network takes 16, which leaves a single pixel at the deepest stage.
    min_size=2 * SIZE_MULTIPLE, memory_share=1, scaled=hounsfield.normalise,
    unseen={
        "output": lambda output: "output: the difference map, which is added to the input",
        "gate_window": lambda pixels: "the channel gates take the mean of maxima over windows of "
                                      f"{pixels} pixels of the image"})
