"""CNN-10 in PyTorch, with the names of ldct-benchmark (github.com/eeulig/ldct-benchmark).

Written from the sizes of its layers (9×9 with 64 filters, 3×3 with 32, 5×5 with one; ReLU between
them, zeros around the image, no normalisation) and those names. Images are (N, 1, H, W), in
standard deviations of its training data from their mean.
"""

from torch import nn


class CNN10(nn.Module):
    """Three convolutions that keep the size; `width` filters, then half as many, then one."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 9, padding="same"), nn.ReLU(),
            nn.Conv2d(width, width // 2, 3, padding="same"), nn.ReLU(),
            nn.Conv2d(width // 2, 1, 5, padding="same"))

    def forward(self, image):
        return self.layers(image)
