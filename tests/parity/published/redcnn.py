"""RED-CNN in PyTorch, with the names of its published code (github.com/SSinyu/RED-CNN).

Written from the paper (Chen et al., IEEE TMI 2017) and those names. Images are
(N, 1, H, W), taken from −1024..3072 HU to 0..1.
"""

from torch import nn
from torch.nn.functional import relu


class REDCNN(nn.Module):
    """Five convolutions and five transposed ones, 5×5 without padding; H and W at least 21."""

    def __init__(self, width: int = 96):
        super().__init__()
        for i in (1, 2, 3, 4, 5):
            setattr(self, f"conv{i}", nn.Conv2d(width if i > 1 else 1, width, 5))
        for i in (1, 2, 3, 4, 5):
            setattr(self, f"tconv{i}", nn.ConvTranspose2d(width, width if i < 5 else 1, 5))

    def forward(self, image):
        second = relu(self.conv2(relu(self.conv1(image))))
        fourth = relu(self.conv4(relu(self.conv3(second))))
        x = relu(self.conv5(fourth))
        x = relu(self.tconv1(x) + fourth)
        x = relu(self.tconv2(x))
        x = relu(self.tconv3(x) + second)
        x = relu(self.tconv4(x))
        return relu(self.tconv5(x) + image)
