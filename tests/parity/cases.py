"""What both sides run: the cases, their inputs, and the measure of how the results differ.

Both sides report `Quantities` in PyTorch's names and axes: quantity → name of a
tensor → array. Every weight and image is a fill of `tests/reference`, so both
start from the same numbers without exchanging any.
"""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np

from dfgan_jax.training.state import CHANNELS, Discriminators
from tests.reference.fill import image
from tests.reference.load import SEED

Precision = Literal["float32", "float64"]
Tensors = dict[str, np.ndarray]
Quantities = dict[str, Tensors]

STEPS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """A run of the published loop.

    Attributes:
      attention: AttnDFGAN, else DFGAN.
      variant: whose loss weights: of the slides or of the published code.
      discriminators: the layout.
      width: of the generator.
      discriminator_width: of each discriminator.
      size: height and width of the images [pixels].
    """

    attention: bool
    variant: Literal["slides", "code"]
    discriminators: Discriminators = "joint"
    width: int = 32
    discriminator_width: int = 128
    size: int = 64

    def __str__(self) -> str:
        return "-".join(["attn_unet" if self.attention else "unet", self.variant,
                         self.discriminators, str(self.width)])

    @property
    def channels(self) -> dict[str, int]:
        """Name of each discriminator → input channels."""
        return CHANNELS[self.discriminators]

    def prefix(self, discriminator: str) -> str:
        """What its fills are drawn by: a lone one as in the reference, two each by its name."""
        return "" if len(self.channels) == 1 else f"{discriminator}."


NARROW = {"width": 16, "discriminator_width": 32}
# One case has the published width, and smaller images; the others are narrower.
TRAINING_CASES = (
    Training(attention=False, variant="slides", **NARROW),
    Training(attention=False, variant="code", **NARROW),
    Training(attention=True, variant="slides", **NARROW),
    Training(attention=True, variant="code", size=32),
    Training(attention=False, variant="slides", discriminators="pair", **NARROW),
)


def filled_image(name: str, shape: tuple[int, ...], precision: Precision) -> np.ndarray:
    return image(name, shape, SEED).astype(precision)


def training_batch(step: int, size: int, precision: Precision) -> tuple[np.ndarray, np.ndarray]:
    """`ndct` and `qdct` of a step, (2, 1, size, size), those of the reference at size 64."""
    ndct, noise = (image(f"{name}{step}", (2, 1, size, size), SEED) for name in ("ndct", "noise"))
    qdct = (ndct + 0.2 * (noise - 0.5)).astype(np.float32)
    return ndct.astype(precision), qdct.astype(precision)


def generator_inputs(precision: Precision) -> tuple[np.ndarray, np.ndarray]:
    """The images that the generator sees, and the cotangent of its output."""
    return (filled_image("generator", (2, 1, 64, 64), precision),
            filled_image("cotangent", (2, 1, 64, 64), precision))


def discriminator_inputs(channels: int, precision: Precision) -> tuple[np.ndarray, np.ndarray]:
    """The images that a discriminator sees, and the cotangent of its scores."""
    return (filled_image("discriminator", (2, channels, 64, 64), precision),
            filled_image("cotangent", (2, 1, 6, 6), precision))


def loss_inputs(precision: Precision) -> dict[str, tuple[np.ndarray, ...]]:
    """Name of a loss → its arguments."""
    def scores(name):
        return (1 / (1 + np.exp(-image(name, (2, 1, 30, 30), SEED)))).astype(precision)

    images = tuple(filled_image(name, (2, 1, 64, 64), precision)
                   for name in ("loss_prediction", "loss_target"))
    real, fake = scores("loss_real_score"), scores("loss_fake_score")
    return {"intensity": images, "gradient": images,
            "adversarial_generator": (fake,), "adversarial_discriminator": (real, fake)}


def metric_inputs(precision: Precision) -> tuple[np.ndarray, np.ndarray]:
    """Images and references, (20, 1, 64, 64) HU: a batch of 16, and a short one."""
    ndct, noise = (image(name, (20, 1, 64, 64), SEED) for name in ("metric_ndct", "metric_noise"))
    # Images that grow noisier, so that the batches' scores differ.
    amount = np.linspace(0.05, 0.4, 20, dtype=np.float32)[:, None, None, None]
    hu = [500 * each - 500 for each in (ndct + amount * (noise - 0.5), ndct)]
    return hu[0].astype(precision), hu[1].astype(precision)


class Difference(NamedTuple):
    """How far a quantity of one or more tensors is from what was expected.

    Attributes:
      worst: of each tensor the largest difference over its largest value, in
        magnitude; of these the largest.
      overall: the norm of the difference over the norm, of all tensors together.
    """

    worst: float
    overall: float


def difference(actual: Tensors, expected: Tensors) -> Difference:
    """How far tensors of the same names and shapes are apart."""
    if actual.keys() != expected.keys():
        raise AssertionError(f"not on both sides: {sorted(actual.keys() ^ expected.keys())}")
    ratios, squares = [], np.zeros(2)
    for name, value in expected.items():
        if actual[name].shape != value.shape:
            raise AssertionError(f"{name} has shape {actual[name].shape}, expected {value.shape}")
        value = value.astype(np.float64)
        error = actual[name] - value
        squares += np.sum(np.square(error)), np.sum(np.square(value))
        largest = float(np.abs(error).max())
        ratios.append(largest and largest / float(np.abs(value).max()))
    worst = float(np.max(ratios))  # not max(), which may lose a NaN
    return Difference(worst, float(np.sqrt(squares[0] / squares[1])))


def differences(actual: Quantities, expected: Quantities) -> dict[str, Difference]:
    """Quantity → difference."""
    if actual.keys() != expected.keys():
        raise AssertionError(f"not on both sides: {sorted(actual.keys() ^ expected.keys())}")
    return {quantity: difference(actual[quantity], tensors)
            for quantity, tensors in expected.items()}


def relu_inputs(layers: Tensors) -> Tensors:
    """Of the outputs of a generator's layers, those that a ReLU follows."""
    return {name: value for name, value in layers.items()
            if name.endswith((".conv.1", ".conv.4", ".mlp.1"))}


def sign_changes(actual: Tensors, expected: Tensors) -> int:
    """How many inputs of a ReLU, among layers' outputs, are positive on one side only."""
    return sum(int(np.sum((actual[name] > 0) != (value > 0)))
               for name, value in relu_inputs(expected).items())


def within(actual: Difference, bound: Difference) -> bool:
    return actual.worst <= bound.worst and actual.overall <= bound.overall


def exceeding(actual: dict[str, Difference], bounds: dict[str, Difference]
              ) -> dict[str, Difference]:
    """The differences that are not within their bounds, or have none."""
    return {quantity: each for quantity, each in actual.items()
            if not within(each, bounds.get(quantity, Difference(-1.0, -1.0)))}
