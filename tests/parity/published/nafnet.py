"""NAFNet in PyTorch, with the names of its published code (github.com/megvii-research/NAFNet).

Written from the paper (Chen et al., ECCV 2022, figures 2 and 4, section 4) and those names.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of (N, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        last = functional.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias,
                                     eps=1e-6)
        return last.movedim(-1, 1)


def gate(x):
    return torch.mul(*x.chunk(2, dim=1))


class Block(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.conv1 = nn.Conv2d(c, 2 * c, 1)
        self.conv2 = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.conv3 = nn.Conv2d(c, c, 1)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c, 1))
        self.conv4 = nn.Conv2d(c, 2 * c, 1)
        self.conv5 = nn.Conv2d(c, c, 1)
        self.norm1 = ChannelNorm(c)
        self.norm2 = ChannelNorm(c)

    def forward(self, x):
        gated = gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.beta * self.conv3(gated * self.sca(gated))
        return x + self.gamma * self.conv5(gate(self.conv4(self.norm2(x))))


def stage(c: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Block(c) for _ in range(count)))


class NAFNet(nn.Module):
    """Images (N, 1, H, W), H and W multiples of 2 to the number of the encoder's stages."""

    def __init__(self, width: int, encoder: Sequence[int], middle: int,
                 decoder: Sequence[int]):
        super().__init__()
        widths = [width * 2**level for level in range(len(encoder) + 1)]
        self.intro = nn.Conv2d(1, width, 3, padding=1)
        self.ending = nn.Conv2d(width, 1, 3, padding=1)
        self.encoders = nn.ModuleList(map(stage, widths, encoder))
        self.decoders = nn.ModuleList(map(stage, widths[-2::-1], decoder))
        self.middle_blks = stage(widths[-1], middle)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 2 * c, 1, bias=False), nn.PixelShuffle(2))
            for c in widths[:0:-1])
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in widths[:-1])

    def forward(self, image):
        x, skips = self.intro(image), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(x))
            x = down(skips[-1])
        x = self.middle_blks(x)
        for decoder, up in zip(self.decoders, self.ups, strict=True):
            x = decoder(up(x) + skips.pop())
        return image + self.ending(x)
