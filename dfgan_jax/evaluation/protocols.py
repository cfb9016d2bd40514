"""Named ways to score images: what is clipped, by which range, averaged how.

The same image scores 20 dB apart under different protocols, so every number
carries its protocol's name, range and image size.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from dfgan_jax.errors import InputError
from dfgan_jax.evaluation import metrics

PUBLISHED_BATCH_SIZE = 16

FULL_RANGE_HU = 4095.0
"""The range of 12-bit CT."""

Scores = dict[str, np.ndarray]
"""Metric → (N,) float64, per image."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way to score images against their normal-dose references.

    Attributes:
      name: as `results.json` and the report write it.
      data_range: of PSNR and SSIM, in words, with its unit.
      description: one sentence for a reader of the table.
      group_size: images scored together, in file order; None when each stands alone.
        The mean over the data set is the unweighted mean over groups.
      range_of: (images of a group, (n, H, W) HU) → data range [HU].
    """

    name: str
    data_range: str
    description: str
    group_size: int | None
    range_of: Callable[[np.ndarray], float]

    def score(self, images: np.ndarray, ndct: np.ndarray) -> Scores:
        """Scores images.

        Args:
          images: (N, H, W) float32, HU: the input, or a denoised image.
          ndct: (N, H, W) float32, HU: the reference.

        Returns:
          `psnr` [dB], `ssim` and `rmse_hu` [HU], each (N,).
        """
        if images.shape != ndct.shape or images.ndim != 3:
            raise InputError(f"images have shape {images.shape}, references {ndct.shape}; "
                             "expected the same (N, H, W)")
        parts = []
        step = self.group_size or PUBLISHED_BATCH_SIZE
        for start in range(0, len(images), step):
            group = images[start:start + step]
            reference = ndct[start:start + step]
            parts.append(metrics.all_metrics(group, reference, np.float32(self.range_of(group))))
        return {name: np.concatenate([np.asarray(part[name], np.float64) for part in parts])
                for name in parts[0]}

    def mean(self, scores: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The mean over groups of the mean over each group's images; metric → number."""
        means = {}
        for name, values in scores.items():
            step = self.group_size or len(values)
            groups = [values[start:start + step].mean() for start in range(0, len(values), step)]
            means[name] = float(np.mean(groups))
        return means


PUBLISHED = Protocol(
    name="published",
    data_range="maximum of the scored images in each batch of 16 [HU]",
    description="The published code's: the range is the brightest pixel of the scored images, so "
                "it moves with the prediction. For parity only.",
    group_size=PUBLISHED_BATCH_SIZE,
    range_of=lambda images: float(images.max()))

FULL_RANGE = Protocol(
    name="full_range",
    data_range=f"{FULL_RANGE_HU:g} HU",
    description="A fixed range, that of 12-bit CT, each slice by itself.",
    group_size=None,
    range_of=lambda images: FULL_RANGE_HU)

PROTOCOLS = {protocol.name: protocol for protocol in (FULL_RANGE, PUBLISHED)}
