"""The networks, by name: `build_network(name, genres=24, height=192, width=128)`.

Every network maps float32 posters (N, 3, height, width), normalised, to logits (N, genres). There is no sigmoid at the end:
the loss takes logits, which is numerically safer, and `predict_probabilities` of poster_genres.model applies the sigmoid. That of
`two_stream/NAME` is NAME's: what detectors found on posters is a part of the model beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from poster_genres.architectures import HUGGING_FACE, image_stream
from poster_genres.efficientnet import DEVIATION, INTERPOLATION, MEAN, VARIANTS, EfficientNetLite, imagenet_weights
from poster_genres.layers import Dropout, MaxPool, ReLUBatchNormMaxPool, ReLUMaxPool


class Head(nn.Linear):
    """The last layer, in float32 also under autocast: bfloat16 has three digits, with which many posters' logits would tie."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class Network(nn.Module):
    """A network in three parts: posters to `maps` of features, `pool` to features, `head` to logits.

    Attributes
    ----------
    maps : float32 (N, 3, height, width), normalised, to (N, channels, rows, columns), or a tuple of such maps: each place tells of
        a part
    pool : to (N, features)
    head : to logits (N, genres)
    """

    def __init__(self, maps: nn.Module, pool: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.maps, self.pool, self.head = maps, pool, head

    def freeze(self, blocks: int) -> None:
        """Keep the weights of the first blocks of the maps as they are in training.

        Raises
        ------
        ValueError
            There are no blocks that could be kept.
        """
        if isinstance(self.maps, EfficientNetLite):
            self.maps.freeze(blocks)
        elif blocks:
            raise ValueError("frozen_blocks: only EfficientNet-Lite has blocks to freeze; set it to 0")

    def features(self, posters: Tensor) -> Tensor:
        """What the head sees of posters: float32 (N, features)."""
        features: Tensor = self.pool(self.maps(posters))
        return features

    def forward(self, posters: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(posters))
        return logits


def tutorial(genres: int, height: int, width: int) -> Network:
    """The network of the tutorial that this project began from, as Keras builds it.

    Four blocks of a 5 x 5 convolution without padding, ReLU, 2 x 2 max pooling, batch norm and dropout, then two hidden
    dense layers. 702,425 parameters at 200 x 200 with 25 genres. Keras' defaults are kept where PyTorch's differ: Glorot
    uniform weights and zero biases, batch norm with momentum 0.99 (PyTorch counts it from the other end) and epsilon 0.001.
    """
    layers: list[nn.Module] = []
    channels = 3
    for block, filters in enumerate((16, 32, 64, 64)):
        layers += [nn.Conv2d(channels, filters, 5)]
        norm = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)
        # The first block's batch norm is before its pooling.
        layers += [ReLUBatchNormMaxPool(norm)] if block == 0 else [ReLUMaxPool(), norm]
        layers += [Dropout(0.2)]
        channels, height, width = filters, (height - 4) // 2, (width - 4) // 2
    if height < 1 or width < 1:
        raise ValueError("the tutorial's network needs posters of at least 76 x 76 pixels")
    dense = [nn.Linear(channels * height * width, 128), nn.ReLU(), Dropout(0.5)]
    dense += [nn.Linear(128, 64), nn.ReLU(), Dropout(0.5), Head(64, genres)]
    network = Network(nn.Sequential(*layers), nn.Flatten(), nn.Sequential(*dense))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network


def alexnet(genres: int, height: int, width: int) -> Network:
    """AlexNet, in the form of one column (Krizhevsky 2014, arXiv:1404.5997): five convolutions and three dense layers.

    The last maps are averaged to 6 x 6 whatever the posters' size, so that the dense layers are always those of 224 x 224. 57
    million parameters.
    """
    if height < 63 or width < 63:
        raise ValueError("AlexNet needs posters of at least 63 x 63 pixels")
    layers = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(inplace=True), MaxPool(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(inplace=True), MaxPool(3, 2)]
    layers += [nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(inplace=True), MaxPool(3, 2)]
    dense = [Dropout(0.5), nn.Linear(256 * 36, 4096), nn.ReLU(inplace=True)]
    dense += [Dropout(0.5), nn.Linear(4096, 4096), nn.ReLU(inplace=True), Head(4096, genres)]
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten())
    return Network(nn.Sequential(*layers), pool, nn.Sequential(*dense))


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
        MaxPool(3, 2, 1),
    ]
    channels = 48
    for outputs in (48, 96, 192, 384):
        layers.append(Block(channels, outputs, 1 if outputs == channels else 2))
        channels = outputs
    head = Head(2 * channels, genres)
    # Nearly all genres are absent from a poster; beginning at 8 % spares the first epochs learning that.
    nn.init.constant_(head.bias, -2.5)
    return Network(nn.Sequential(*layers), AverageAndMaxPool(), nn.Sequential(Dropout(0.4), head))


class AveragePoolOfAll(nn.Module):
    """Maps (N, channels, rows, columns), several of them, to the mean of each channel of each, float32 (N, all channels)."""

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([one.mean(dim=(2, 3), dtype=torch.float32) for one in maps], dim=1)


def efficientnet_lite(variant: str, genres: int, height: int, width: int) -> Network:
    """EfficientNet-Lite with a new head; input of any size.

    The head sees the means of every block's maps, not only the last one's: a poster's genre is in its colours and textures too,
    which the last layer, made for the things of ImageNet, has forgotten.
    """
    maps = EfficientNetLite(variant)
    head = Head(sum(maps.channels), genres)
    nn.init.constant_(head.bias, -2.5)
    return Network(maps, AveragePoolOfAll(), nn.Sequential(Dropout(0.3), head))


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of a poster's pixels, RGB in [0, 255], before a network sees them: less `mean`, over `std`, a channel each.

    `interpolation` is the way of resizing that the weights were trained with; None where any is as good.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str | None = None


@dataclass(frozen=True)
class Architecture:
    """How a network is made, from (genres, height, width), and what it is fed."""

    build: Callable[[int, int, int], Network]
    preprocessing: Preprocessing


# For networks that learn from nothing, which any numbers do that bring pixels near 0 and 1: those of ImageNet's photographs, from
# torchvision's references (https://pytorch.org/vision/stable/models.html), times 255.
STANDARD = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
NETWORKS = {
    # The tutorial only divides by 255.
    "tutorial": Architecture(tutorial, Preprocessing((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))),
    "alexnet": Architecture(alexnet, STANDARD),
    "residual": Architecture(residual, STANDARD),
} | {
    variant: Architecture(partial(efficientnet_lite, variant), Preprocessing(MEAN, DEVIATION, INTERPOLATION))
    for variant in VARIANTS
}


def describe(architecture: str) -> tuple[dict[str, Any], Preprocessing]:
    """What has to be known of an architecture before a network of it is built.

    Returns
    -------
    The configuration of its backbone (empty but for `hf/…`), and what its input must be.
    """
    architecture = image_stream(architecture)
    if architecture.startswith(HUGGING_FACE):
        from poster_genres.backbones import read_backbone

        return read_backbone(architecture)
    return {}, NETWORKS[architecture].preprocessing


def build_network(architecture: str, genres: int, height: int, width: int, backbone: dict[str, Any] | None = None) -> Network:
    """Build a network with fresh weights, from torch's global random numbers.

    Parameters
    ----------
    backbone : the configuration of one of `hf/…`

    Raises
    ------
    KeyError
        There is no such architecture.
    ValueError
        The posters are too small for it.
    """
    image = image_stream(architecture)
    if image.startswith(HUGGING_FACE):
        from poster_genres.backbones import BackboneNetwork

        network: Network = BackboneNetwork(backbone or {}, genres, height, width)
    else:
        network = NETWORKS[image].build(genres, height, width)
    # Posters lie channels-last in memory; convolutions on the CPU are fastest when their weights do too.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_pretrained(network: Network, architecture: str) -> bool:
    """Give a network the weights that it was pretrained to, where there are such; whether there are.

    Raises
    ------
    InputError
        They are not there, and how to get them.
    """
    architecture = image_stream(architecture)
    if architecture.startswith(HUGGING_FACE):
        from poster_genres.backbones import load_backbone

        load_backbone(network, architecture)
        return True
    if architecture not in VARIANTS:
        return False
    network.maps.load_state_dict(imagenet_weights(architecture)[0])
    return True
