"""Image backbones of Hugging Face's transformers, as `architecture: hf/<model id or local folder>`.

The library is an optional requirement. Only weights in the safetensors format are read, and no code that comes with a model is run.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from poster_genres.errors import InputError
from poster_genres.hugging_face import find, transformers
from poster_genres.networks import IMAGENET, Head, Network


def read_backbone(architecture: str) -> tuple[dict[str, Any], list[float], list[float]]:
    """What a backbone is, and what its input is normalised by.

    Returns
    -------
    The configuration of its image part, as JSON has it; mean and deviation of the channels, in [0, 255].

    Raises
    ------
    InputError
        There is no such model, or it takes no images.
    """
    library = transformers()
    source = find(architecture)
    try:
        config = library.AutoConfig.from_pretrained(source)
        processor = library.AutoImageProcessor.from_pretrained(source, backend="pil")
        mean, std = processor.image_mean, processor.image_std
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{architecture}: {reason}; give the ID of a model for images, or its folder") from None
    config = getattr(config, "vision_config", config)
    if mean is None or std is None:
        return config.to_dict(), list(IMAGENET[0]), list(IMAGENET[1])
    return config.to_dict(), [255 * value for value in mean], [255 * value for value in std]


class BackboneNetwork(Network):
    """A backbone with a new head. Its features are the mean over the places of its last maps and, beside it, its class token or,
    where there is none, what its own pooling gives.

    Explanations see the places only.
    """

    def __init__(self, config: dict[str, Any], genres: int, height: int, width: int) -> None:
        library = transformers()
        config = dict(config)
        kind = config.pop("model_type")
        backbone = library.AutoModel.from_config(library.AutoConfig.for_model(kind, **config))
        super().__init__(nn.Identity(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Sequential())
        self.backbone: Any = backbone
        # Only backbones with learned positions know this word; they then fit them to the posters' shape.
        knows = "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters
        self.options: dict[str, Any] = {"interpolate_pos_encoding": True} if knows else {}
        with torch.no_grad():
            features = self.eval().features(torch.zeros(1, 3, height, width))
        head = Head(features.shape[1], genres)
        nn.init.constant_(head.bias, -2.5)
        self.head = nn.Sequential(nn.Dropout(0.3), head)

    def features(self, posters: Tensor) -> Tensor:
        output = self.backbone(pixel_values=posters, **self.options)
        hidden = output.last_hidden_state
        if hidden.ndim == 4:
            grid, others = hidden, []
        else:
            rows, columns = places(hidden.shape[1], posters.shape[2], posters.shape[3])
            special = hidden.shape[1] - rows * columns
            grid = hidden[:, special:].transpose(1, 2).unflatten(2, (rows, columns))
            others = [hidden[:, 0]] if special else []
        if not others and output.pooler_output is not None:
            others = [output.pooler_output.flatten(1)]
        return torch.cat([self.pool(self.maps(grid)), *others], dim=1)


def places(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the places that `tokens` stand for, a few of which, at the beginning, stand for no place.

    Raises
    ------
    ValueError
        No division of the poster into squares has so many.
    """
    for stride in range(4, 65):
        rows, columns = height // stride, width // stride
        if 0 <= tokens - rows * columns <= 8 and rows * columns > 0:
            return rows, columns
    raise ValueError(f"its {tokens} tokens fit no grid of this size")


def load_backbone(network: Network, architecture: str) -> None:
    """Give a network its backbone's pretrained weights.

    Raises
    ------
    InputError
        They cannot be read.
    """
    assert isinstance(network, BackboneNetwork)
    library = transformers()
    try:
        pretrained = library.AutoModel.from_pretrained(find(architecture), config=network.backbone.config, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{architecture}: {' '.join(str(error).split())[:200]}") from None
    network.backbone.load_state_dict(pretrained.state_dict())
