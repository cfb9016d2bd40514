"""Protocols: named ways to score images, each with its window, data range and averaging.

The same image scores 14 to 46 dB under different protocols, so every number carries its
protocol's name, window, range and image size. All protocols share one SSIM (`metrics.ssim`); the
description of a protocol names the differences from its project's own.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from dfgan_jax.evaluation import metrics
from dfgan_jax.scans import windows
from dfgan_jax.scans.windows import Window
from dfgan_jax.support.errors import InputError

PUBLISHED_BATCH_SIZE = 16

FULL_RANGE_HU = 4095.0
"""The range of 12-bit CT."""

METRICS = ("psnr", "ssim", "rmse_hu", "vif")
"""In the order of tables. Only the protocols of ldct-benchmark have `vif`."""

Scores = dict[str, Float[np.ndarray, " n"]]
"""Metric → (N,) float64, per image."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way to score images against their normal-dose references.

    Attributes:
      name: in `results.json` and the report.
      description: one or two sentences for a reader of the table.
      data_range_hu: of PSNR and SSIM [HU]; or a function from the images of a group, (n, H, W),
        to their range, NaN where they have none.
      data_range: the same in words, with its unit.
      window_hu: images and references are clipped to it for PSNR and SSIM; None: not clipped.
      zero_hu: subtracted before SSIM, whose luminance depends on the zero of the scale.
      error_window_hu: the same for RMSE and VIF.
      group_size: images scored together, in file order; None: each by itself. The mean over the
        data set is the unweighted mean over groups.
      metrics: of `METRICS`.
    """

    name: str
    description: str
    data_range_hu: float | Callable[[Float[np.ndarray, "n h w"]], float]
    data_range: str
    window_hu: Window | None = None
    zero_hu: float = 0.0
    error_window_hu: Window | None = None
    group_size: int | None = None
    metrics: tuple[str, ...] = ("psnr", "ssim", "rmse_hu")

    def score(self, images: Float[np.ndarray, "..."], ndct: Float[np.ndarray, "..."], *,
              vif: Callable[[Window], Float[np.ndarray, " n"]] | None = None) -> Scores:
        """Scores images.

        Args:
          images: (N, H, W), HU: the input, or a denoised image.
          ndct: (N, H, W), HU: the reference.
          vif: from a window to the VIF of the images, (N,), which several protocols share; by
            default `metrics.vif`.

        Returns:
          `psnr` [dB], `ssim`, `rmse_hu` [HU], `data_range_hu`, and `vif` if the protocol has it,
          each (N,). PSNR and SSIM are NaN where there is no range.

        Raises:
          InputError: the shapes differ, or are not (N, H, W).
        """
        if images.shape != ndct.shape or images.ndim != 3:
            raise InputError(f"images have shape {images.shape}, references {ndct.shape}; "
                             "expected the same (N, H, W)")
        parts = []
        step = self.group_size or PUBLISHED_BATCH_SIZE
        for start in range(0, len(images), step):
            group, reference = images[start:start + step], ndct[start:start + step]
            data_range = np.float32(self.data_range_hu if isinstance(self.data_range_hu, float)
                                    else self.data_range_hu(group))
            scores = metrics.all_metrics(_clipped(group, self.window_hu) - self.zero_hu,
                                         _clipped(reference, self.window_hu) - self.zero_hu,
                                         data_range)
            if self.error_window_hu != self.window_hu:
                scores["rmse_hu"] = metrics.rmse_hu(_clipped(group, self.error_window_hu),
                                                    _clipped(reference, self.error_window_hu))
            parts.append({**scores, "data_range_hu": np.full(len(group), data_range)})
        joined = {name: np.concatenate([np.asarray(part[name], np.float64) for part in parts])
                  for name in parts[0]}
        if "vif" in self.metrics:
            assert self.error_window_hu is not None
            joined["vif"] = (vif(self.error_window_hu) if vif is not None else
                             metrics.vif(images, ndct, window_hu=self.error_window_hu))
        return joined

    def weights(self, count: int) -> Float[np.ndarray, " n"]:
        """The weights of `count` images in the mean over the data set, (count,), sum 1."""
        step = self.group_size or count
        sizes = [min(step, count - start) for start in range(0, count, step)]
        return np.repeat([1 / size / len(sizes) for size in sizes], sizes)

    def mean(self, scores: Mapping[str, Float[np.ndarray, " n"]]) -> dict[str, float]:
        """The mean over groups of the mean over each group's images; metric → number."""
        return {name: float(self.weights(len(scores[name])) @ scores[name])
                for name in self.metrics}


def _clipped(images: np.ndarray, window_hu: Window | None) -> np.ndarray:
    return images if window_hu is None else np.clip(images, *window_hu)


def _windowed(name: str, window_hu: Window, description: str, *, zero_hu: float | None = None,
              error_window_hu: Window | None = None,
              metrics: tuple[str, ...] = Protocol.metrics) -> Protocol:
    """A protocol that clips to a window, with its width as the range, and its low end as zero."""
    return Protocol(name=name, description=description, data_range_hu=window_hu.width,
                    data_range=f"{window_hu.width:g} HU", window_hu=window_hu,
                    zero_hu=window_hu.low if zero_hu is None else zero_hu,
                    error_window_hu=error_window_hu or window_hu, metrics=metrics)


def _ldct_benchmark(anatomy: str, window_hu: Window) -> Protocol:
    return _windowed(
        f"ldct_benchmark_{anatomy}", window_hu,
        f"ldct-benchmark's test window for the {anatomy} (centre {window_hu.center:g}, width "
        f"{window_hu.width:g} HU); RMSE and VIF over −1024 to 1900 HU. Its own code takes a width "
        "one HU less (at most 0.11 dB), SSIM with a flat 7×7 window, and VIF with the two images "
        "exchanged, which is another number.",
        error_window_hu=Window(-1024.0, 1900.0), metrics=METRICS)


FULL_RANGE = Protocol(
    name="full_range",
    description="A fixed range, that of 12-bit CT, each slice by itself.",
    data_range_hu=FULL_RANGE_HU,
    data_range=f"{FULL_RANGE_HU:g} HU")

PUBLISHED = Protocol(
    name="published",
    description="The published code's: the range is the brightest pixel of the scored images, so "
                "it moves with the prediction. For parity only.",
    # Of air alone the published range would be negative, and its PSNR and SSIM of no meaning.
    data_range_hu=lambda images: max(float(images.max()), 0.0) or math.nan,
    data_range="maximum of the scored images in each batch of 16 [HU]",
    group_size=PUBLISHED_BATCH_SIZE)

PROTOCOLS = {protocol.name: protocol for protocol in (
    FULL_RANGE,
    PUBLISHED,
    _windowed("redcnn", windows.SOFT_TISSUE,
              "The window in which RED-CNN, WGAN-VGG and CTformer score, on 512² slices.",
              zero_hu=0.0),
    _ldct_benchmark("chest", windows.LUNG),
    _ldct_benchmark("abdomen", windows.ABDOMEN),
    _ldct_benchmark("neuro", windows.BRAIN),
    _windowed("dugan", Window(-300.0, 300.0), "DU-GAN's window."),
    _windowed("corediff", Window(-1000.0, 1000.0),
              "CoreDiff's window. Its own code takes as range the difference of the brightest and "
              "the darkest pixel of each reference, at most 2000 HU."),
)}
"""Name → protocol. Windows and ranges are from the projects' own test code: Eulig et al.,
Medical Physics 2024 (ldct-benchmark); Chen et al., IEEE TMI 2017 (RED-CNN); Huang et al., IEEE
TIM 2021 (DU-GAN); Gao et al., IEEE TMI 2023 (CoreDiff)."""
