"""Conversion of model files of versions 5 to 9, so that they still load and their predictions do not change."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from poster_genres.mini_lm import LENGTH, mini_lm
from poster_genres.object_model import ObjectModel
from poster_genres.objects import MEASURES, SENTENCE_LENGTH, PosterDetections, object_vectors, text_of
from poster_genres.words import Words


class ObjectStream(nn.Module):
    """A network's branch for objects, from feature vectors, float32 (N, inputs), to logits (N, genres): the sum of a linear layer
    and a multilayer perceptron, on standardised features."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, inputs: int, genres: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))
        self.linear = nn.Linear(inputs, genres, bias=False)
        self.hidden = nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Identity(), nn.Linear(64, genres, bias=False))

    def forward(self, objects: Tensor) -> Tensor:
        standardised = (objects - self.mean) / self.deviation
        logits: Tensor = self.linear(standardised) + self.hidden(standardised)
        return logits


class ObjectStreams(ObjectModel):
    """The weighted sum of the object streams of a model's networks."""

    def __init__(self, classes: list[str], streams: list[tuple[float, ObjectStream]], genres: int) -> None:
        super().__init__(classes, np.zeros(0, np.float32), np.zeros((0, genres), np.float32))
        self.streams = streams

    def logits(self, contents: list[PosterDetections]) -> np.ndarray:
        vectors = torch.from_numpy(object_vectors(contents, self.classes))
        with torch.inference_mode():
            total: np.ndarray = sum(weight * stream(vectors) for weight, stream in self.streams).numpy()
        return total

    def by_object(self, content: PosterDetections) -> np.ndarray:
        """Zeros, as a stream's logits cannot be divided among detections."""
        return np.zeros((len(content.objects), self.genres), np.float32)


class OldWords(Words):
    """Words whose meaning is read from embeddings by `mini_lm`."""

    sentence_length = LENGTH

    def sentences(self, contents: list[PosterDetections]) -> np.ndarray:
        texts, model = [text_of(content.objects) for content in contents], mini_lm()
        return np.stack([model.embed(text) if text.strip() else np.zeros(LENGTH, np.float32) for text in texts])


def convert(old: dict[str, Any], version: int) -> dict[str, Any]:
    """Convert a checkpoint of version 5, 6, 7, 8 or 9 to version 10, for `load_model`.

    Up to version 9, titles were not seen apart. Up to version 8, meaning was that of a smaller sentence model. Version 7 had one
    weight for each part, and no SHA-256 at its end. Version 6 held all of a network's weights, and n-grams' weights as float32.
    """
    checkpoint = convert_5(old) if version == 5 else dict(old)
    if version < 7:
        checkpoint["pretrained"] = None
    if version < 7 and checkpoint["words"] is not None:
        words = dict(checkpoint["words"])
        weights = words.pop("weights")
        # Not rounded to levels, which would change the predictions a little.
        words |= {"levels": weights, "scales": torch.ones(len(weights)), "vocabulary": "\n".join(words["vocabulary"])}
        checkpoint["words"] = words
    genres = len(checkpoint["genres"])
    fusion = dict(checkpoint["fusion"])
    if version < 8:
        fusion["matrices"] = fusion.pop("weights")[:, None, None] * torch.eye(genres, dtype=torch.float64)
    if checkpoint["words"] is not None:
        title = {"title_weights": torch.zeros(SENTENCE_LENGTH, genres), "title_offset": torch.zeros(genres)}
        checkpoint["words"] = (Words if version == 9 else OldWords).load(checkpoint["words"] | title)
        fusion["parts"] = [*fusion["parts"], "title"]
        fusion["matrices"] = torch.cat([fusion["matrices"], torch.zeros(1, genres, genres, dtype=torch.float64)])
    return checkpoint | {"fusion": fusion}


def convert_5(old: dict[str, Any]) -> dict[str, Any]:
    """Convert a checkpoint of version 5 to version 6.

    In version 5, the logits were the networks' logits, weighted by `shares`, plus the text's, divided by a temperature. If `shares`
    is not empty, the last network is the probe.
    """
    checkpoint = dict(old)
    state_dicts, shares, temperature = checkpoint.pop("weights"), checkpoint.pop("shares"), checkpoint.pop("temperature")
    shares = shares or [1 / len(state_dicts)] * len(state_dicts)
    genres = len(checkpoint["genres"])
    streams = []
    for share, state_dict in zip(shares, state_dicts, strict=True):
        stream = {name.removeprefix("objects."): state_dict.pop(name) for name in list(state_dict) if name.startswith("objects.")}
        if stream:
            streams.append((share, ObjectStream(len(checkpoint["classes"]) * len(MEASURES), genres)))
            streams[-1][1].load_state_dict(stream)
    checkpoint["probe"] = state_dicts.pop() if old["shares"] else None
    checkpoint["networks"] = state_dicts
    checkpoint["objects"] = ObjectStreams(checkpoint["classes"], streams, genres) if streams else None
    weights: dict[str, float] = {}
    if state_dicts:
        weights["networks"] = sum(shares[: len(state_dicts)])
    if checkpoint["probe"] is not None:
        weights["probe"] = shares[-1]
    intercepts = torch.zeros(genres, dtype=torch.float64)
    if checkpoint["words"] is not None:
        weights |= {"letters": 1.0, "meaning": 1.0}
        # Version 5 subtracted the offset for posters without text, too.
        intercepts -= checkpoint["words"]["offset"].double() / temperature
        checkpoint["words"] |= {"offset": torch.zeros(genres), "sentence_offset": torch.zeros(genres)}
    if streams:
        weights["objects"] = 1.0
    scaled = torch.tensor([weight / temperature for weight in weights.values()], dtype=torch.float64)
    return checkpoint | {"fusion": {"parts": list(weights), "weights": scaled, "intercepts": intercepts}}
