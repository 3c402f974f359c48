"""A small residual network."""

import torch
from torch import Tensor, nn

from poster_genres.network import Architecture, Head, Network


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm, added to their input (He et al. 2016, arXiv:1512.03385, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        last = nn.BatchNorm2d(outputs)
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            last,
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            # Averaging before the 1 x 1 convolution keeps what a stride would skip (ResNet-D, He et al. 2019, arXiv:1812.01187).
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True) if stride != 1 else nn.Identity(),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )
        # The block begins as the identity, so that a deep network trains like a shallow one at first.
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class AverageAndMaxPool(nn.Module):
    """(N, C, H, W) to (N, 2 C): each channel's mean, which tells how much there is of it, and its maximum, whether it is there."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)


def residual(genres: int, height: int, width: int) -> Network:
    """A small residual network to be trained from nothing on a few thousand posters: four blocks of 48 to 384 channels.

    Wide and shallow, at a quarter of the resolution from the start, as large shapes and colours tell most of what a poster tells.
    Input of any size; 2.8 million parameters.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(3, 48, 7, 2, 3, bias=False),
        nn.BatchNorm2d(48),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 48
    for outputs in (48, 96, 192, 384):
        layers.append(Block(channels, outputs, 1 if outputs == channels else 2))
        channels = outputs
    head = Head(2 * channels, genres)
    # Nearly all genres are absent from a poster; beginning at 8 % spares the first epochs learning that.
    nn.init.constant_(head.bias, -2.5)
    return Network(nn.Sequential(*layers), AverageAndMaxPool(), nn.Sequential(nn.Dropout(0.4), head), any_size=True)


ARCHITECTURE = Architecture(residual)
