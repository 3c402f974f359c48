"""What all networks have in common, and the record of an architecture, which `find_architecture` finds by its name.

Every network maps float32 posters (N, 3, height, width), normalised, to logits (N, genres). There is no sigmoid at the end: the
loss takes logits, which is numerically safer, and `predict_probabilities` of poster_genres.model applies the sigmoid.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from poster_genres.architectures import is_hugging_face, module_of


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
        if blocks:
            raise ValueError("frozen_blocks: this architecture has no blocks to freeze; set it to 0")

    def features(self, posters: Tensor) -> Tensor:
        """What the head sees of posters: float32 (N, features)."""
        features: Tensor = self.pool(self.maps(posters))
        return features

    def forward(self, posters: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(posters))
        return logits


def keep_statistics(pretrained: nn.Module) -> None:
    """Have batch norm go by the statistics that it was pretrained with, in training too.

    By those of each batch, a network that begins where a logistic regression on its features ends would begin as badly as the
    prior: of these posters' validation, with a cross-entropy of 0.263 instead of 0.221.
    """
    for module in pretrained.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of a poster's pixels, RGB in [0, 255], before a network sees them: less `mean`, over `std`, a channel each.

    `interpolation` is the way of resizing that the weights were trained with; None where any is as good.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str | None = None


# For networks that learn from nothing, which any numbers do that bring pixels near 0 and 1: those of ImageNet's photographs, from
# torchvision's references (https://pytorch.org/vision/stable/models.html), times 255.
STANDARD = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclass(frozen=True)
class Architecture:
    """All that is to be known of an architecture.

    Attributes
    ----------
    make : makes a network from (genres, height, width), with fresh weights from torch's global random numbers
    preprocessing : what the network is fed
    load_pretrained : gives a network the weights that it was pretrained to; None where there are none. It raises InputError where
        they are not there.
    config : what a model's file must keep to make the network again, as JSON has it
    """

    make: Callable[[int, int, int], Network]
    preprocessing: Preprocessing = STANDARD
    load_pretrained: Callable[[Network], None] | None = None
    config: dict[str, Any] = field(default_factory=dict)

    def build(self, genres: int, height: int, width: int) -> Network:
        """A network with fresh weights.

        Raises
        ------
        ValueError
            The posters are too small for it.
        """
        # Posters lie channels-last in memory; convolutions on the CPU are fastest when their weights do too.
        return self.make(genres, height, width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def find_architecture(name: str, config: dict[str, Any] | None = None) -> Architecture:
    """The record of an architecture, from its own file in poster_genres/networks; that of two_stream/NAME is NAME's.

    Parameters
    ----------
    config : that of a trained `hf/…` network, whose model need not be there any more

    Raises
    ------
    InputError
        A model of Hugging Face's cannot be read.
    """
    module = import_module(module_of(name))
    found: Architecture = module.architecture(name, config) if is_hugging_face(name) else module.ARCHITECTURE
    return found
