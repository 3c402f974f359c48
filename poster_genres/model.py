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

from poster_genres.devices import autocast
from poster_genres.errors import InputError
from poster_genres.files import whole_file
from poster_genres.fusion import Fusion, equal_weights
from poster_genres.network import Network, find_architecture
from poster_genres.object_model import ObjectModel
from poster_genres.objects import PosterDetections
from poster_genres.tensor_cache import Posters
from poster_genres.words import Words

FORMAT = "poster-genres model, version 6"
OLD_FORMAT = "poster-genres model, version 5"
BATCH = 64


@dataclass
class Model:
    """Networks, what they need, and what words and objects say beside them.

    Attributes
    ----------
    architecture : their name, for `find_architecture`
    backbone : the configuration of an `hf/…` architecture's backbone, else empty
    genres : the names of their outputs, in order
    height, width : of their input, in pixels
    mean, std : 3 numbers each, for channels in [0, 255]; the input is normalised by them
    interpolation : by which posters are resized; see `posters.decode`
    networks : an ensemble, each of them float32 (N, 3, height, width), normalised, to logits (N, genres), which are averaged
    prior : the share of training posters that have each genre
    probe : the pretrained network with logistic regressions for a head (linear probe), None where there is none
    detectors : the names of those that found what is on posters, each with its version; empty for architectures of one stream, and
        where it was given with the data set
    classes : of the objects that they know
    words : what the words on a poster say; None where there are none
    objects : what the objects on a poster say; None where there are none
    fusion : how networks, probe, words and objects are added up
    flip : whether a poster's mirror image is looked at too, and the logits of both averaged (test-time augmentation)
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
    probe: Network | None = None
    detectors: dict[str, str] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    words: Words | None = None
    objects: ObjectModel | None = None
    fusion: Fusion | None = None
    flip: bool = False
    backbone: dict[str, Any] = field(default_factory=dict)
    # Models of earlier versions of this project do not name it, and were trained so.
    interpolation: str = "bilinear"
    threshold: float = 0.5
    thresholds: list[float] | None = None

    def normalise(self, posters: Tensor) -> Tensor:
        """uint8 (N, height, width, 3) to float32 (N, 3, height, width), channels last in memory, on the same device."""
        normal = posters.float()
        rows = normal.view(*normal.shape[:2], -1)
        # By whole rows of numbers, as torch is slow at threes.
        mean, std = (torch.tensor(numbers * posters.shape[2], device=posters.device) for numbers in (self.mean, self.std))
        rows.sub_(mean).div_(std)
        return normal.permute(0, 3, 1, 2)


def image_logits(
    model: Model, networks: list[Network], posters: Posters, device: torch.device, rows: np.ndarray | None = None
) -> np.ndarray:
    """The logit of each genre for each poster, averaged over these networks of the model's and, with `flip`, over mirror images.

    Parameters
    ----------
    posters : uint8 (N, height, width, 3); may be mapped from a file, of which a batch at a time is read
    rows : int (n,), which of them; all, where it is not given

    Returns
    -------
    float32 (n, genres)
    """
    rows = np.arange(len(posters)) if rows is None else rows
    averages = np.empty((len(rows), len(model.genres)), np.float32)
    for network in networks:
        network.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            pixels = torch.from_numpy(posters[rows[start : start + BATCH]]).to(device)
            views = [model.normalise(pixels)]
            if model.flip:
                views.append(views[0].flip(3))
            with autocast(device):
                logits = torch.stack([network(view).float() for view in views for network in networks])
            averages[start : start + BATCH] = logits.mean(dim=0).cpu().numpy()
    return averages


def evidence_of_detections(model: Model, detected: list[PosterDetections] | None) -> dict[str, np.ndarray]:
    """What words and objects say of some posters, float32 (posters, genres) each; see `predict_evidence`."""
    evidence = {}
    if detected is not None and model.words is not None:
        evidence["letters"], evidence["meaning"] = model.words.logits(detected)
    if detected is not None and model.objects is not None:
        evidence["objects"] = model.objects.logits(detected)
    return evidence


def predict_evidence(
    model: Model,
    posters: Posters,
    device: torch.device,
    rows: np.ndarray | None = None,
    detected: list[PosterDetections] | None = None,
) -> dict[str, np.ndarray]:
    """What each part of a model says of posters, before it is added up.

    Parameters
    ----------
    posters, rows : as for `image_logits`
    detected : what is on each of the N posters, for two streams

    Returns
    -------
    float32 (n, genres) logits of `networks`, `probe`, the `letters` and the `meaning` of words, and `objects`: of those that the
    model has.
    """
    evidence = {}
    if model.networks:
        evidence["networks"] = image_logits(model, model.networks, posters, device, rows)
    if model.probe is not None:
        evidence["probe"] = image_logits(model, [model.probe], posters, device, rows)
    if detected is not None and rows is not None:
        detected = [detected[row] for row in rows]
    return evidence | evidence_of_detections(model, detected)


def predict_logits(
    model: Model,
    posters: Posters,
    device: torch.device,
    rows: np.ndarray | None = None,
    detected: list[PosterDetections] | None = None,
) -> np.ndarray:
    """The logit of each genre for each poster, float32 (n, genres); takes what `predict_evidence` takes."""
    evidence = predict_evidence(model, posters, device, rows, detected)
    fusion = model.fusion or equal_weights(list(evidence), len(model.genres))
    return fusion.logits(evidence)


def predict_probabilities(
    model: Model,
    posters: Posters,
    device: torch.device,
    rows: np.ndarray | None = None,
    detected: list[PosterDetections] | None = None,
) -> np.ndarray:
    """The probability of each genre for each poster, float32 (n, genres) in [0, 1]; takes what `predict_evidence` takes."""
    return expit(predict_logits(model, posters, device, rows, detected))


def save_model(model: Model, path: Path) -> None:
    """Write a model to one file, which appears only when it is whole. The same model gives the same bytes."""
    assert model.fusion is not None
    parts = ("networks", "probe", "words", "objects", "fusion")
    content: dict[str, Any] = {key: value for key, value in vars(model).items() if key not in parts}
    content["words"] = None if model.words is None else model.words.state()
    content["objects"] = None if model.objects is None else model.objects.state()
    content["fusion"] = {
        "parts": model.fusion.parts,
        "weights": torch.from_numpy(model.fusion.weights),
        "intercepts": torch.from_numpy(model.fusion.intercepts),
    }

    def weights(network: Network) -> dict[str, Tensor]:
        return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}

    content["networks"] = [weights(network) for network in model.networks]
    content["probe"] = None if model.probe is None else weights(model.probe)
    # Through an open file: torch would write the temporary file's name into the archive.
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save({"format": FORMAT, **content}, file)


def load_model(path: Path, device: torch.device) -> Model:
    """Read a model that `save_model` wrote, of this version of the project or the one before. No code in the file is run.

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
    kind = content.pop("format", None) if isinstance(content, dict) else None
    if kind not in (FORMAT, OLD_FORMAT):
        raise InputError(f"{path}: not a model that this pipeline wrote; it was refused and no code in it was run")
    assert isinstance(content, dict)
    try:
        if kind == OLD_FORMAT:
            from poster_genres.old_model import convert

            content = convert(content)
        shape = content["height"], content["width"]
        architecture = find_architecture(content["architecture"], content["backbone"])

        def network(weights: dict[str, Tensor]) -> Network:
            built = architecture.build(len(content["genres"]), *shape)
            built.load_state_dict(weights)
            return built.to(device)

        networks = [network(weights) for weights in content.pop("networks")]
        probe = None if (weights := content.pop("probe")) is None else network(weights)
        words = None if (state := content.pop("words")) is None else Words.load(state)
        objects = content.pop("objects")
        if isinstance(objects, dict):
            objects = ObjectModel.load(objects)
        fusion = content.pop("fusion")
        added = Fusion(fusion["parts"], fusion["weights"].numpy(), fusion["intercepts"].numpy())
        return Model(networks=networks, probe=probe, words=words, objects=objects, fusion=added, **content)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged, or from another version of this project: {str(error).splitlines()[0]}") from None
