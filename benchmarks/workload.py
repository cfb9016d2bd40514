"""The tasks of both frameworks in `benchmarks.against_torch`, and their data.

Imports NumPy alone, so that both PyTorch's interpreter and ours can import it. Weights and
images are fills of `tests/reference`: both sides start from the same numbers without an
exchange.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from dfgan_jax.scans import hounsfield
from tests.reference.fill import image, tensor

Task = Literal["training", "inference", "inference on the device"]
"""`training`: one update of generator and discriminator, from a batch in the host's memory.
`inference`: from HU in the host's memory to HU there. `inference on the device`: from a
normalised batch on the device to a denoised one there."""

Arrays = dict[str, np.ndarray]

SEED = 7
COMPARED_SLICES = 2
"""Denoised slices of a batch that are sent back for comparing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One task in one framework and variant.

    Attributes:
      framework: `torch` or `jax`.
      task: the task.
      variant: `ours`; of PyTorch `eager`, as published, or the usual optimisations
        `channels_last` and modes of `torch.compile`.
      dtype: of the networks' computation; parameters are float32.
      batch: images at a time.
      size: their height and width [pixels].
      width: of the generator.
      discriminator_width: of the joint discriminator.
      exact: float32 without TF32; otherwise the precision of the framework or the variant.
    """

    framework: Literal["torch", "jax"]
    task: Task
    variant: str
    dtype: Literal["float32", "bfloat16"]
    batch: int
    size: int
    width: int
    discriminator_width: int
    exact: bool = False

    @property
    def essential(self) -> bool:
        """Whether every comparison needs it."""
        return self.variant in ("ours", "eager")

    @property
    def compiled(self) -> bool:
        return not self.essential and self.variant != "channels_last"

    @property
    def name(self) -> str:
        if self.framework == "jax":
            return f"ours, {self.dtype}"
        variant = f"compiled ({self.variant})" if self.compiled else self.variant
        return f"PyTorch {variant}, {self.dtype}"


class Run(NamedTuple):
    """A built side.

    Attributes:
      step: starts the task once; returns a handle.
      wait: waits for the handle's step, and so for all steps before it.
      result: handle → the losses, or some denoised slices, (N, H, W).
    """

    step: Callable[[], Any]
    wait: Callable[[Any], Any]
    result: Callable[[Any], Arrays]


def filled(shapes: dict[str, tuple[int, ...]]) -> Arrays:
    """Key of a PyTorch state dict → weights, from its shapes."""
    return {key: tensor(key, shape, SEED) for key, shape in shapes.items()}


@functools.lru_cache(maxsize=1)
def training_batch(batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`ndct` and `qdct`, (N, H, W), normalised HU."""
    shape = batch, size, size
    ndct, noise = (image(name, shape, SEED) for name in ("ndct", "noise"))
    return ndct, (ndct + 0.2 * (noise - 0.5)).astype(np.float32)


def slices_hu(batch: int, size: int) -> np.ndarray:
    """(N, H, W), HU."""
    return hounsfield.denormalise(training_batch(batch, size)[1])
