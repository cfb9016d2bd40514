"""The published losses in PyTorch: means over everything, scalars.

Images are (N, 1, H, W), normalised HU; scores are those of a patch
discriminator, in (0, 1).
"""

from typing import NamedTuple

import torch
from torch.nn import functional


class Weights(NamedTuple):
    """Weights of the generator's terms."""

    image: float
    difference: float
    gradient_image: float
    gradient_difference: float
    adversarial: float


SLIDES = Weights(1.0, 1.0, 0.0, 0.0, 0.05)
CODE = Weights(1.0, 1.0, 1.0, 1.0, 0.05)


def intensity(denoised, ndct):
    """Mean squared error."""
    return torch.mean((denoised - ndct) ** 2)


def image_gradients(images):
    """|∂x| and |∂y|: forward differences, with one zero column right and row below."""
    right = functional.pad(images, (0, 1, 0, 0))[:, :, :, 1:]
    below = functional.pad(images, (0, 0, 0, 1))[:, :, 1:, :]
    return torch.abs(right - images), torch.abs(below - images)


def gradient(denoised, ndct):
    """Mean absolute difference of the absolute image gradients."""
    denoised_x, denoised_y = image_gradients(denoised)
    ndct_x, ndct_y = image_gradients(ndct)
    return torch.mean(torch.abs(ndct_x - denoised_x) + torch.abs(ndct_y - denoised_y))


def adversarial_generator(scores_denoised):
    """½(D(denoised) − 1)²."""
    return torch.mean(0.5 * (scores_denoised - 1) ** 2)


def adversarial_discriminator(scores_ndct, scores_denoised):
    """½(D(ndct) − 1)² + ½D(denoised)²."""
    return torch.mean(0.5 * (scores_ndct - 1) ** 2) + torch.mean(0.5 * scores_denoised ** 2)
