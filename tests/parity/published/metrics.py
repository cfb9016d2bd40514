"""The published metric protocol: PSNR and SSIM of pytorch-ignite, batch by batch."""

import numpy as np
import torch
from ignite.metrics import PSNR, SSIM

BATCH_SIZE = 16


def published_scores(images: torch.Tensor, ndct: torch.Tensor) -> dict[str, float]:
    """Unweighted means over batches of the mean over each batch's images.

    Args:
      images: (N, 1, H, W), HU: the input, or a denoised image. The brightest pixel
        of each of its batches is that batch's data range.
      ndct: the reference, same shape.

    Returns:
      `psnr` [dB] and `ssim`.
    """
    psnr, ssim = [], []
    for batch, reference in zip(images.split(BATCH_SIZE), ndct.split(BATCH_SIZE), strict=True):
        data_range = batch.max().item()
        psnr.append(_evaluate(PSNR(data_range), batch, reference))
        ssim.append(_evaluate(SSIM(data_range), batch, reference))
    return {"psnr": float(np.mean(psnr)), "ssim": float(np.mean(ssim))}


def _evaluate(metric, batch, reference) -> float:
    metric.update((batch, reference))
    return metric.compute()


def metrics(images: np.ndarray, ndct: np.ndarray) -> dict[str, float]:
    """`published_scores` of arrays, in their precision throughout."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, images.dtype.name))  # in which ignite makes its window
    try:
        return published_scores(torch.from_numpy(images), torch.from_numpy(ndct))
    finally:
        torch.set_default_dtype(default)
