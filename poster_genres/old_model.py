"""Models of the version before, which added up networks, words and objects in another way: converted when they are read, to predict
as they did."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from poster_genres.object_model import ObjectModel
from poster_genres.objects import MEASURES, PosterDetections, object_vectors


class ObjectStream(nn.Module):
    """What a network made of the vector of objects, float32 (N, inputs), to logits (N, genres): a linear layer, and one with a
    hidden layer, on the standardised vector."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, inputs: int, genres: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))
        self.linear = nn.Linear(inputs, genres, bias=False)
        self.hidden = nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Identity(), nn.Linear(64, genres, bias=False))

    def forward(self, objects: Tensor) -> Tensor:
        standard = (objects - self.mean) / self.deviation
        logits: Tensor = self.linear(standard) + self.hidden(standard)
        return logits


class ObjectStreams(ObjectModel):
    """The object streams of all networks of a model, with the shares by which they were added up."""

    def __init__(self, classes: list[str], streams: list[tuple[float, ObjectStream]], genres: int) -> None:
        super().__init__(classes, np.zeros(0, np.float32), np.zeros((0, genres), np.float32))
        self.streams = streams

    def logits(self, detected: list[PosterDetections]) -> np.ndarray:
        vectors = torch.from_numpy(object_vectors(detected, self.classes))
        with torch.inference_mode():
            total: np.ndarray = sum(share * stream(vectors) for share, stream in self.streams).numpy()
        return total

    def by_object(self, detected: PosterDetections) -> np.ndarray:
        """The whole vector was seen at once: no object has a part of its own."""
        return np.zeros((len(detected.objects), self.genres), np.float32)


def convert(old: dict[str, Any]) -> dict[str, Any]:
    """The content of a model's file of version 5 as `load_model` takes that of version 6.

    Then a logit was the sum of the networks' by their shares and of the words', over the temperature; the last network was the
    probe, where shares are given.
    """
    content = dict(old)
    weights, shares, temperature = content.pop("weights"), content.pop("shares"), content.pop("temperature")
    shares = shares or [1 / len(weights)] * len(weights)
    genres = len(content["genres"])
    streams = []
    for share, network in zip(shares, weights, strict=True):
        stream = {name.removeprefix("objects."): network.pop(name) for name in list(network) if name.startswith("objects.")}
        if stream:
            streams.append((share, ObjectStream(len(content["classes"]) * len(MEASURES), genres)))
            streams[-1][1].load_state_dict(stream)
    content["probe"] = weights.pop() if old["shares"] else None
    content["networks"] = weights
    content["objects"] = ObjectStreams(content["classes"], streams, genres) if streams else None
    parts: dict[str, float] = {}
    if weights:
        parts["networks"] = sum(shares[: len(weights)])
    if content["probe"] is not None:
        parts["probe"] = shares[-1]
    intercepts = torch.zeros(genres, dtype=torch.float64)
    if content["words"] is not None:
        parts |= {"letters": 1.0, "meaning": 1.0}
        # It was taken off whether a poster has words or not.
        intercepts -= content["words"]["offset"].double() / temperature
        content["words"] |= {"offset": torch.zeros(genres), "sentence_offset": torch.zeros(genres)}
    if streams:
        parts["objects"] = 1.0
    added = torch.tensor([weight / temperature for weight in parts.values()], dtype=torch.float64)
    return content | {"fusion": {"parts": list(parts), "weights": added, "intercepts": intercepts}}
