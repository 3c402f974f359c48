"""What all networks share, and the record of an architecture, which `find_architecture` finds by its name.

Every network maps float32 posters (N, 3, height, width), normalised, to logits (N, genres). There is no sigmoid at the end: the
loss takes logits, which is numerically safer, and `predict_probabilities` of poster_genres.model applies the sigmoid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from poster_genres.architectures import is_hugging_face, module_of
from poster_genres.errors import InputError


class Head(nn.Linear):
    """The last layer, in float32 even under autocast: with bfloat16's three digits many posters' logits would tie."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class FrozenMaps(NamedTuple):
    """What a network's frozen blocks make of posters, from where the other blocks go on.

    Attributes
    ----------
    maps : (N, channels, rows, columns), of the last frozen block
    features : float32 (N, features), of all frozen blocks
    """

    maps: Tensor
    features: Tensor


class Network(nn.Module):
    """A network in three parts: `maps` turns posters into feature maps, `pool` these into features, `head` these into logits.

    Attributes
    ----------
    maps : float32 (N, 3, height, width), normalised, to (N, channels, rows, columns), or to a tuple of such feature maps
    pool : to (N, features)
    head : to logits (N, genres)
    any_size : whether posters may be of other sizes than the network was made for, so that it is trained on windows of them
    """

    def __init__(self, maps: nn.Module, pool: nn.Module, head: nn.Module, any_size: bool = False) -> None:
        super().__init__()
        self.maps, self.pool, self.head, self.any_size = maps, pool, head, any_size

    def freeze(self, blocks: int) -> None:
        """Freeze the weights of the first blocks of `maps`.

        Raises
        ------
        ValueError
            There are no blocks to freeze.
        """
        if blocks:
            raise ValueError("frozen_blocks: this architecture has no blocks to freeze; set it to 0")

    @property
    def has_frozen_blocks(self) -> bool:
        return False

    def common_blocks(self, other: "Network") -> int:
        """How many of the first blocks have the same weights as another network's, of the same architecture."""
        return 0

    def frozen_maps(self, posters: Tensor) -> FrozenMaps:
        """What the frozen blocks make of posters, which `features` and `forward` also take."""
        raise NotImplementedError

    def features(self, posters: Tensor | FrozenMaps) -> Tensor:
        """The input of the head: float32 (N, features)."""
        features: Tensor = self.pool(self.maps(posters))
        return features

    def forward(self, posters: Tensor | FrozenMaps) -> Tensor:
        logits: Tensor = self.head(self.features(posters))
        return logits


def keep_statistics(pretrained: nn.Module) -> None:
    """Keep batch norm's pretrained running statistics fixed, in training too.

    With each batch's statistics, a network whose head starts from a linear probe would start no better than the prior: with a
    validation cross-entropy of 0.263 instead of 0.221.
    """
    for module in pretrained.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


@dataclass(frozen=True)
class Preprocessing:
    """How a network's input is normalised: pixels, RGB in [0, 255], minus `mean`, divided by `std`, per channel.

    `interpolation` is how the pretraining resized images; None where it does not matter.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str | None = None


# For networks trained from scratch, where any values do that bring pixels near mean 0 and standard deviation 1: ImageNet's, from
# torchvision's references (https://pytorch.org/vision/stable/models.html), times 255.
STANDARD = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def normalise(posters: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (N, height, width, 3) to float32 (N, 3, height, width), channels last in memory, on the same device.

    `mean` and `std` are those of a `Preprocessing`.
    """
    pixels = posters.float()
    rows = pixels.view(*pixels.shape[:2], -1)
    # On whole rows of pixels, as broadcasting over an axis of three is slow.
    means, deviations = (torch.tensor([*values] * posters.shape[2], device=posters.device) for values in (mean, std))
    rows.sub_(means).div_(deviations)
    return pixels.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Architecture:
    """The record of an architecture.

    Attributes
    ----------
    make : makes a network from (genres, height, width), with initial weights from torch's global generator
    preprocessing : of the network's input
    load_pretrained : loads pretrained weights into a network, None where the architecture has none; raises InputError where they
        cannot be read
    weights_package : the pip package with the pretrained weights, where a model's file may name it instead of holding them
    weights_file : the path of the pretrained weights in that package; raises InputError where it is not installed
    config : the JSON values that a model's file must hold to make the network again
    """

    make: Callable[[int, int, int], Network]
    preprocessing: Preprocessing = STANDARD
    load_pretrained: Callable[[Network], None] | None = None
    weights_package: str = ""
    weights_file: Callable[[], Path] | None = None
    config: dict[str, Any] = field(default_factory=dict)

    def build(self, genres: int, height: int, width: int) -> Network:
        """A network with initial weights.

        Raises
        ------
        ValueError
            It cannot take posters of this size.
        """
        # Posters are channels-last in memory; convolutions on the CPU are fastest when their weights are too.
        return self.make(genres, height, width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def find_architecture(name: str, config: dict[str, Any] | None = None) -> Architecture:
    """The record of an architecture, from its file in poster_genres/networks; two_stream/NAME has that of NAME.

    Parameters
    ----------
    config : of a trained `hf/…` network, whose pretrained model need not be there any more

    Raises
    ------
    InputError
        A Hugging Face model cannot be read.
    """
    module = import_module(module_of(name))
    architecture: Architecture = module.architecture(name, config) if is_hugging_face(name) else module.ARCHITECTURE
    return architecture


def network_to_train(
    name: str,
    architecture: Architecture,
    genres: int,
    size: tuple[int, int],
    *,
    linear_probe: bool,
    frozen_blocks: int,
    interpolation: str,
) -> Network:
    """A network with initial weights, its first blocks frozen, for posters of `size`, height and width in pixels.

    Raises
    ------
    InputError
        Values of params.yaml do not suit the architecture of this name.
    """
    pretraining = architecture.preprocessing.interpolation
    if architecture.load_pretrained is None and linear_probe:
        raise InputError(f"params.yaml: linear_probe: {name} has no pretrained weights; set it to false")
    if pretraining not in (None, interpolation):
        raise InputError(
            f"params.yaml: interpolation: {name} was pretrained on pictures resized by {pretraining} interpolation; "
            f"set it to that, not {interpolation!r}"
        )
    try:
        network = architecture.build(genres, *size)
    except ValueError as error:
        raise InputError(f"params.yaml: image_height, image_width: {size[0]} x {size[1]} does not suit {name}: {error}") from None
    try:
        network.freeze(frozen_blocks)
    except ValueError as error:
        raise InputError(f"params.yaml: {error}") from None
    return network
