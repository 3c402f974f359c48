"""Image backbones of Hugging Face's transformers, as `architecture: hf/<model id or local folder>`.

The library is an optional requirement. Only weights in the safetensors format are read, and no code that comes with a model is run.
"""

import inspect
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from poster_genres.architectures import image_stream
from poster_genres.errors import InputError
from poster_genres.hugging_face import find, transformers
from poster_genres.network import STANDARD, Architecture, FrozenMaps, Head, Network, Preprocessing, keep_statistics

# Of images that show how a processor scales pixels: black, the three channels alone, and one to check the result.
COLOURS = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 40, 120))


def read_backbone(architecture: str) -> tuple[dict[str, Any], Preprocessing]:
    """A backbone's configuration and the preprocessing of its input.

    Returns
    -------
    The configuration of its vision model, as JSON values, with `channel_order`, in which it takes red, green and blue (0, 1, 2);
    and the normalisation of its own processor.

    Raises
    ------
    InputError
        There is no such model, it takes no images, or its processor does more than scale channels.
    """
    library = transformers()
    source = find(architecture)
    try:
        config = library.AutoConfig.from_pretrained(source, trust_remote_code=False)
        processor = library.AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{architecture}: {reason}; give the ID of a model for images, or its folder") from None
    try:
        order, preprocessing = read_preprocessing(processor)
    except ValueError as error:
        raise InputError(f"{architecture}: {error}; give another backbone") from None
    config = getattr(config, "vision_config", config)
    return config.to_dict() | {"channel_order": order}, preprocessing


def read_preprocessing(processor: Any) -> tuple[list[int], Preprocessing]:
    """A processor's normalisation, measured on images of one colour each, as its settings have many names (do_rescale,
    rescale_offset, do_flip_channel_order, …).

    Returns
    -------
    Which of red, green and blue (0, 1, 2) each channel of the network's input is; and mean and std of red, green and blue.

    Raises
    ------
    ValueError
        It does more than reorder channels and scale each.
    """
    images = [Image.new("RGB", (64, 64), colour) for colour in COLOURS]
    pixels = np.stack([np.asarray(processor(image, return_tensors="np")["pixel_values"], np.float64)[0] for image in images])
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"its processor gives arrays {pixels.shape[1:]} instead of three channels of pixels")
    # (colours, channels), from the centre, where nothing is padded.
    values = pixels[:, :, pixels.shape[2] // 2, pixels.shape[3] // 2]
    slopes = (values[1:4] - values[0]).T / 255
    order = np.abs(slopes).argmax(axis=1).tolist()
    scale = slopes[range(3), order]
    expected = values[0] + scale * np.array(COLOURS[4])[order]
    if sorted(order) != [0, 1, 2] or (scale <= 0).any() or not np.allclose(values[4], expected, atol=1e-3):
        raise ValueError("its processor does more than to scale red, green and blue")
    mean, std = np.empty(3), np.empty(3)
    mean[order], std[order] = -values[0] / scale, 1 / scale
    resample = getattr(processor, "resample", None) if getattr(processor, "do_resize", True) else None
    interpolation = None if resample is None else Image.Resampling(resample).name.lower()
    return order, Preprocessing(tuple(mean.round(6).tolist()), tuple(std.round(6).tolist()), interpolation)


class BackboneNetwork(Network):
    """A backbone with a new head. Its features are the mean over the positions of its last hidden state, concatenated with its
    class token or, where there is none, its pooler output.

    Explanations use the positions only.
    """

    def __init__(self, config: dict[str, Any], genres: int, height: int, width: int) -> None:
        library = transformers()
        config = dict(config)
        kind = config.pop("model_type")
        # Models of earlier versions of this project do not have it.
        order = config.pop("channel_order", [0, 1, 2])
        backbone = library.AutoModel.from_config(library.AutoConfig.for_model(kind, **config), trust_remote_code=False)
        super().__init__(nn.Identity(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Sequential())
        self.backbone: Any = backbone
        self.order: list[int] | None = None if order == [0, 1, 2] else order
        # Only backbones with learned position embeddings have this option; they then interpolate them to the posters' shape.
        interpolates = "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters
        self.options: dict[str, Any] = {"interpolate_pos_encoding": True} if interpolates else {}
        try:
            with torch.no_grad():
                features = self.eval().features(torch.zeros(1, 3, height, width))
        except (RuntimeError, AttributeError) as error:  # of any kind that a backbone raises which takes one size only
            raise ValueError(f"the backbone raises {' '.join(str(error).split())[:150]!r}") from None
        head = Head(features.shape[1], genres)
        nn.init.constant_(head.bias, -2.5)
        self.head = nn.Sequential(nn.Dropout(0.3), head)

    def train(self, mode: bool = True) -> "BackboneNetwork":
        super().train(mode)
        keep_statistics(self.backbone)
        return self

    def features(self, posters: Tensor | FrozenMaps) -> Tensor:
        assert isinstance(posters, Tensor), "no block of a backbone can be frozen"
        if self.order is not None:
            posters = posters[:, self.order]
        output = self.backbone(pixel_values=posters, **self.options)
        hidden = output.last_hidden_state
        if hidden.ndim == 4:
            grid, global_features = hidden, []
        else:
            rows, columns = places(hidden.shape[1], posters.shape[2], posters.shape[3])
            special = hidden.shape[1] - rows * columns
            grid = hidden[:, special:].transpose(1, 2).unflatten(2, (rows, columns))
            global_features = [hidden[:, 0]] if special else []
        if not global_features and output.pooler_output is not None:
            global_features = [output.pooler_output.flatten(1)]
        return torch.cat([self.pool(self.maps(grid)), *global_features], dim=1)


def places(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the grid of patches among `tokens`, of which up to 8, at the beginning, are special tokens.

    Raises
    ------
    ValueError
        No grid of square patches has this many.
    """
    for stride in range(4, 65):
        rows, columns = height // stride, width // stride
        if 0 <= tokens - rows * columns <= 8 and rows * columns > 0:
            return rows, columns
    raise ValueError(f"its {tokens} tokens fit no grid of this size")


def load_backbone(network: Network, name: str) -> None:
    """Load the pretrained weights of `hf/…` into a network of that architecture.

    Raises
    ------
    InputError
        They cannot be read.
    """
    assert isinstance(network, BackboneNetwork)
    library = transformers()
    try:
        pretrained = library.AutoModel.from_pretrained(
            find(name), config=network.backbone.config, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: {' '.join(str(error).split())[:200]}") from None
    network.backbone.load_state_dict(pretrained.state_dict())


def architecture(name: str, config: dict[str, Any] | None) -> Architecture:
    """The record of `hf/…`; with the `config` of a trained network, whose pretrained model need not be there any more, it lacks
    what only training needs.

    Raises
    ------
    InputError
        The model cannot be read; see `read_backbone`.
    """
    if config is None:
        config, preprocessing = read_backbone(image_stream(name))
    else:
        preprocessing = STANDARD
    load = partial(load_backbone, name=image_stream(name))
    return Architecture(partial(BackboneNetwork, config), preprocessing, load, config=config)
