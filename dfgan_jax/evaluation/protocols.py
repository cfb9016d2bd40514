"""Named ways to score images: what is clipped, by which range, averaged how.

The same image scores 14 to 46 dB under different protocols, so every number
carries its protocol's name, window, range and image size. SSIM is the same function in all
(`metrics.ssim`); where a project's own differs, its protocol says so.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from dfgan_jax.evaluation import metrics
from dfgan_jax.support.errors import InputError

PUBLISHED_BATCH_SIZE = 16

FULL_RANGE_HU = 4095.0
"""The range of 12-bit CT."""

METRICS = ("psnr", "ssim", "rmse_hu", "vif")
"""In the order of tables. `vif` is of the protocols of ldct-benchmark alone."""

Window = tuple[float, float]
"""Lowest and highest HU."""

Scores = dict[str, np.ndarray]
"""Metric → (N,) float64, per image."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way to score images against their normal-dose references.

    Attributes:
      name: as `results.json` and the report write it.
      description: one or two sentences for a reader of the table.
      data_range_hu: of PSNR and SSIM [HU]; or what gives it for the images of a group, (n, H, W).
      data_range: the same in words, with its unit.
      window_hu: what images and references are clipped to for PSNR and SSIM; None: nothing is.
      error_window_hu: the same for RMSE and VIF.
      group_size: images scored together, in file order; None when each stands alone.
        The mean over the data set is the unweighted mean over groups.
      metrics: those that the protocol has.
    """

    name: str
    description: str
    data_range_hu: float | Callable[[np.ndarray], float]
    data_range: str
    window_hu: Window | None = None
    error_window_hu: Window | None = None
    group_size: int | None = None
    metrics: tuple[str, ...] = ("psnr", "ssim", "rmse_hu")

    def score(self, images: np.ndarray, ndct: np.ndarray, *,
              vif: Callable[[Window], np.ndarray] | None = None) -> Scores:
        """Scores images.

        Args:
          images: (N, H, W) float32, HU: the input, or a denoised image.
          ndct: (N, H, W) float32, HU: the reference.
          vif: gives the VIF of the images, (N,), under a window: several protocols share it.

        Returns:
          `psnr` [dB], `ssim`, `rmse_hu` [HU], where the protocol has it `vif`, and
          `data_range_hu`, each (N,).
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
            scores = metrics.all_metrics(_clipped(group, self.window_hu),
                                         _clipped(reference, self.window_hu), data_range)
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

    def weights(self, count: int) -> np.ndarray:
        """What each of `count` images weighs in the mean over the data set, (count,), sum 1."""
        step = self.group_size or count
        sizes = [min(step, count - start) for start in range(0, count, step)]
        return np.repeat([1 / size / len(sizes) for size in sizes], sizes)

    def mean(self, scores: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The mean over groups of the mean over each group's images; metric → number."""
        return {name: float(self.weights(len(scores[name])) @ scores[name])
                for name in self.metrics}


def _clipped(images: np.ndarray, window_hu: Window | None) -> np.ndarray:
    return images if window_hu is None else np.clip(images, *window_hu)


def _windowed(name: str, window_hu: Window, description: str, **options) -> Protocol:
    """A protocol that clips to a window, and whose range is that window's width."""
    width = window_hu[1] - window_hu[0]
    return Protocol(name=name, description=description, data_range_hu=width,
                    data_range=f"{width:g} HU", window_hu=window_hu,
                    **{"error_window_hu": window_hu, **options})


def _ldct_benchmark(anatomy: str, *, window_center: float, window_width: float) -> Protocol:
    return _windowed(
        f"ldct_benchmark_{anatomy}",
        (window_center - window_width / 2, window_center + window_width / 2),
        f"ldct-benchmark's test window for the {anatomy} (centre {window_center:g}, width "
        f"{window_width:g} HU); RMSE and VIF over −1024 to 1900 HU. Its own code takes a width "
        "one HU less (at most 0.11 dB), SSIM with a flat 7×7 window, and VIF with the two images "
        "exchanged, which is another number.",
        error_window_hu=(-1024.0, 1900.0), metrics=METRICS)


FULL_RANGE = Protocol(
    name="full_range",
    description="A fixed range, that of 12-bit CT, each slice by itself.",
    data_range_hu=FULL_RANGE_HU,
    data_range=f"{FULL_RANGE_HU:g} HU")

PUBLISHED = Protocol(
    name="published",
    description="The published code's: the range is the brightest pixel of the scored images, so "
                "it moves with the prediction. For parity only.",
    data_range_hu=lambda images: float(images.max()),
    data_range="maximum of the scored images in each batch of 16 [HU]",
    group_size=PUBLISHED_BATCH_SIZE)

PROTOCOLS = {protocol.name: protocol for protocol in (
    FULL_RANGE,
    PUBLISHED,
    _windowed("redcnn", (-160.0, 240.0),
              "The window in which RED-CNN, WGAN-VGG and CTformer score, on 512² slices."),
    _ldct_benchmark("chest", window_center=-600.0, window_width=1500.0),
    _ldct_benchmark("abdomen", window_center=50.0, window_width=400.0),
    _ldct_benchmark("neuro", window_center=40.0, window_width=80.0),
    _windowed("dugan", (-300.0, 300.0), "DU-GAN's window."),
    _windowed("corediff", (-1000.0, 1000.0), "CoreDiff's window."),
)}
"""Name → protocol. Windows and ranges are those of the projects' own test code; Eulig et al.,
Medical Physics 2024 (ldct-benchmark); Chen et al., IEEE TMI 2017 (RED-CNN); Huang et al., IEEE
TIM 2021 (DU-GAN); Gao et al., IEEE TMI 2023 (CoreDiff)."""
