"""The published networks in PyTorch: U-Net, CBAM and patch discriminator.

Written from the description of the published code, with its names, so that a
published checkpoint loads with `load_state_dict`. Images are (N, C, H, W),
normalised HU.
"""

import torch
from torch import nn


class BasicConv(nn.Module):
    """Convolution without bias, then batch normalisation; no activation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size,
                              padding=(kernel_size - 1) // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-5, momentum=0.01)

    def forward(self, x):
        return self.bn(self.conv(x))


class ChannelGate(nn.Module):
    """Scales channels by σ(MLP(average pool) + MLP(max pool))."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        # Stages narrower than the reduction occur only below the published width.
        hidden = max(channels // reduction, 1)
        self.mlp = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels, hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels),
        )

    def forward(self, x):
        size = x.shape[2:]
        average = self.mlp(nn.functional.avg_pool2d(x, size, stride=size))
        maximum = self.mlp(nn.functional.max_pool2d(x, size, stride=size))
        scale = torch.sigmoid(average + maximum)
        return x * scale[:, :, None, None].expand_as(x)


class SpatialGate(nn.Module):
    """Scales pixels by σ(BN(conv 7×7 of [max over channels, mean over channels]))."""

    def __init__(self):
        super().__init__()
        self.spatial = BasicConv(2, 1, kernel_size=7)

    def forward(self, x):
        pooled = torch.cat([torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)], dim=1)
        return x * torch.sigmoid(self.spatial(pooled))


class CBAM(nn.Module):
    """Channel gate, then spatial gate (Woo et al., ECCV 2018)."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.ChannelGate = ChannelGate(channels, reduction)
        self.SpatialGate = SpatialGate()

    def forward(self, x):
        return self.SpatialGate(self.ChannelGate(x))


class DoubleConv(nn.Module):
    """[3×3 convolution without bias → batch normalisation → ReLU] twice."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        return self.conv(x)


class InConv(nn.Module):
    """The first stage, at full resolution and without attention."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = DoubleConv(in_channels, out_channels)

    def forward(self, x):
        return self.conv(x)


class Down(nn.Module):
    """Max-pool, double convolution and, with attention, CBAM."""

    def __init__(self, in_channels: int, out_channels: int, attention: bool):
        super().__init__()
        self.mpconv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(in_channels, out_channels))
        self.attn = CBAM(out_channels) if attention else None

    def forward(self, x):
        x = self.mpconv(x)
        return x if self.attn is None else self.attn(x)


class Up(nn.Module):
    """Transposed convolution, concatenation with the skip, double convolution and CBAM."""

    def __init__(self, in_channels: int, out_channels: int, attention: bool):
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, 2, stride=2)
        self.conv = DoubleConv(in_channels, out_channels)
        self.attn = CBAM(out_channels) if attention else None

    def forward(self, x, skip):
        x = self.conv(torch.cat([skip, self.up(x)], dim=1))
        return x if self.attn is None else self.attn(x)


class UNet(nn.Module):
    """The generator, (N, 1, H, W) to (N, 1, H, W); H and W multiples of 16.

    7,762,808 parameters at width 32, with attention 7,819,538.
    """

    def __init__(self, attention: bool = False, width: int = 32):
        super().__init__()
        self.inc = InConv(1, width)
        self.down1 = Down(width, 2 * width, attention)
        self.down2 = Down(2 * width, 4 * width, attention)
        self.down3 = Down(4 * width, 8 * width, attention)
        self.down4 = Down(8 * width, 16 * width, attention)
        self.up1 = Up(16 * width, 8 * width, attention)
        self.up2 = Up(8 * width, 4 * width, attention)
        self.up3 = Up(4 * width, 2 * width, attention)
        self.up4 = Up(2 * width, width, attention)
        self.outc = nn.Conv2d(width, 1, 3, padding=1)
        self.size_down8 = nn.Conv2d(1, 1, 8, stride=8)
        self.size_down4 = nn.Conv2d(1, 1, 4, stride=4)
        self.size_down2 = nn.Conv2d(1, 1, 2, stride=2)

    def forward(self, qdct):
        x1 = self.inc(qdct)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x5 = self.down4(x4)
        x = self.up1(x5, x4) + self.size_down8(qdct)
        x = self.up2(x, x3) + self.size_down4(qdct)
        x = self.up3(x, x2) + self.size_down2(qdct)
        x = self.up4(x, x1) + qdct
        return self.outc(x)


class PatchDiscriminator(nn.Module):
    """Scores 70-pixel patches, (N, channels, H, W) to (N, 1, H/8 − 2, W/8 − 2) in (0, 1).

    6,829,441 parameters with 2 channels.
    """

    def __init__(self, channels: int, width: int = 128):
        super().__init__()
        self.conv1 = self._layer(channels, width, stride=2)
        self.conv2 = self._layer(width, 2 * width, stride=2)
        self.conv3 = self._layer(2 * width, 4 * width, stride=2)
        self.conv4 = self._layer(4 * width, 4 * width, stride=1)
        self.out_conv = nn.Sequential(nn.Conv2d(4 * width, 1, 4, padding=1), nn.Sigmoid())

    @staticmethod
    def _layer(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(in_channels, out_channels, 4, stride=stride, padding=1),
                             nn.LeakyReLU(0.2))

    def forward(self, images):
        x = self.conv1(images)
        x = self.conv2(x)
        x = self.conv3(x)
        x = self.conv4(x)
        return self.out_conv(x)
