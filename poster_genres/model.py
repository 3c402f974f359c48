"""A trained model: one file that holds all that is needed to use it, and the probabilities it gives."""

import contextlib
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from poster_genres.cached import Posters
from poster_genres.devices import autocast
from poster_genres.errors import InputError
from poster_genres.files import whole_file
from poster_genres.networks import Network, build_network
from poster_genres.objects import Detected, object_vectors, vector_names
from poster_genres.words import Words

FORMAT = "poster-genres model, version 5"
BATCH = 64


@dataclass
class Model:
    """Networks whose logits are averaged, with what they need.

    Attributes
    ----------
    architecture : their name, for `build_network`
    backbone : the configuration of an `hf/…` architecture's backbone, else empty
    genres : the names of their outputs, in order
    height, width : of their input, in pixels
    mean, std : 3 numbers each, for channels in [0, 255]; the input is normalised by them
    interpolation : by which posters are resized; see `posters.decode`
    networks : each of them float32 (N, 3, height, width), normalised, to logits (N, genres)
    prior : the share of training posters that have each genre
    shares : how much each network counts in the average, adding up to one; empty where they count the same
    detectors : the names of those that found the objects which a two-stream network sees, each with its version; empty where it
        sees none, or where they were given with the data set
    classes : of these objects
    words : what the words on a poster add to the logits; None where there are none
    flip : whether a poster's mirror image is looked at too, and the logits of both averaged
    temperature : logits are divided by it before the sigmoid, so that probabilities are as sure as they should be
    threshold : one for all genres
    thresholds : one for each genre
    """

    architecture: str
    genres: list[str]
    height: int
    width: int
    mean: list[float]
    std: list[float]
    networks: list[Network]
    prior: list[float]
    shares: list[float] = field(default_factory=list)
    detectors: dict[str, str] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    words: Words | None = None
    flip: bool = False
    temperature: float = 1.0
    backbone: dict[str, Any] = field(default_factory=dict)
    # Models of earlier versions of this project do not name it, and were trained so.
    interpolation: str = "bilinear"
    threshold: float = 0.5
    thresholds: list[float] | None = None

    def weighted(self) -> list[tuple[Network, float]]:
        """Each network with its share in the average."""
        return list(zip(self.networks, self.shares or [1 / len(self.networks)] * len(self.networks), strict=True))

    def normalise(self, posters: Tensor) -> Tensor:
        """uint8 (N, height, width, 3) to float32 (N, 3, height, width), channels last in memory, on the same device."""
        normal = posters.float()
        rows = normal.view(*normal.shape[:2], -1)
        # By whole rows of numbers, as torch is slow at threes.
        mean, std = (torch.tensor(numbers * posters.shape[2], device=posters.device) for numbers in (self.mean, self.std))
        rows.sub_(mean).div_(std)
        return normal.permute(0, 3, 1, 2)


def predict_logits(
    model: Model,
    posters: Posters,
    device: torch.device,
    rows: np.ndarray | None = None,
    found: list[Detected] | None = None,
) -> np.ndarray:
    """The logit of each genre for each poster, averaged over the model's networks and, with `flip`, over mirror images.

    Parameters
    ----------
    posters : uint8 (N, height, width, 3); may be mapped from a file, of which a batch at a time is read
    rows : int (n,), which of them; all, where it is not given
    found : on each of the N posters, for two streams

    Returns
    -------
    float32 (n, genres)
    """
    rows = np.arange(len(posters)) if rows is None else rows
    averages = np.empty((len(rows), len(model.genres)), np.float32)
    seen = None if found is None else [found[row] for row in rows]
    vectors = None if seen is None else torch.from_numpy(object_vectors(seen, model.classes))
    for network in model.networks:
        network.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            pixels = torch.from_numpy(posters[batch]).to(device)
            objects = None if vectors is None else vectors[start : start + BATCH].to(device)
            views = [model.normalise(pixels)]
            if model.flip:
                views.append(views[0].flip(3))
            with autocast(device):
                shares = model.weighted()
                logits = torch.stack([share * network(view, objects).float() for view in views for network, share in shares])
            averages[start : start + BATCH] = (logits.sum(dim=0) / len(views)).cpu().numpy()
    if model.words is not None and seen is not None:
        averages += model.words.logits(seen)
    return averages


def predict_probabilities(
    model: Model,
    posters: Posters,
    device: torch.device,
    rows: np.ndarray | None = None,
    found: list[Detected] | None = None,
) -> np.ndarray:
    """The probability of each genre for each poster, float32 (n, genres) in [0, 1]; what it takes is `predict_logits`'."""
    return expit(predict_logits(model, posters, device, rows, found) / model.temperature)


def save_model(model: Model, path: Path) -> None:
    """Write a model to one file, which appears only when it is whole. The same model gives the same bytes."""
    content: dict[str, Any] = {key: value for key, value in vars(model).items() if key not in ("networks", "words")}
    content["words"] = None if model.words is None else model.words.state()
    weights = [
        {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()} for network in model.networks
    ]
    # Through an open file: torch would write the temporary file's name into the archive.
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save({"format": FORMAT, **content, "weights": weights}, file)


def load_model(path: Path, device: torch.device) -> Model:
    """Read a model that `save_model` wrote. No code in the file is run.

    Raises
    ------
    InputError
        There is no such file, or it is not one of ours, or its weights do not fit its network.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such model file; `dvc repro` trains one")
    content = None
    # Only torch's zip format, as save_model writes it: the older one is a bare pickle.
    if zipfile.is_zipfile(path):
        # Whatever is in a file from outside, torch's restricted unpickler stops at it with one error or another.
        with contextlib.suppress(Exception):
            content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise InputError(f"{path}: not a model that this pipeline wrote; it was refused and no code in it was run")
    try:
        networks = []
        for weights in content.pop("weights"):
            shape = content["height"], content["width"]
            objects = len(vector_names(content["classes"]))
            network = build_network(content["architecture"], len(content["genres"]), *shape, content["backbone"], objects)
            network.load_state_dict(weights)
            networks.append(network.to(device))
        words = content.pop("words")
        return Model(networks=networks, words=None if words is None else Words.load(words), **content)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged, or from another version of this project: {str(error).splitlines()[0]}") from None
