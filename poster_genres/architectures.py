"""The names of the architectures and of the detectors."""

from pathlib import PurePosixPath

# Each with the name of its recipe in params.yaml.
ARCHITECTURES = {
    "tutorial": "tutorial",
    "alexnet": "alexnet",
    "residual": "residual",
    "efficientnet_lite0": "efficientnet_lite",
    "efficientnet_lite1": "efficientnet_lite",
    "efficientnet_lite2": "efficientnet_lite",
}
# Names with this beginning are backbones of Hugging Face's transformers: hf/<model ID or folder>.
HUGGING_FACE = "hf/"
# And names with this one see the poster by another architecture, and beside it what detectors found on it.
TWO_STREAM = "two_stream/"
# Detectors with this beginning are files: onnx/<path>, in this folder of the project, on which the stage `detect` depends.
ONNX = "onnx/"
ONNX_FOLDER = "data/detectors"
# Those of poster_genres.detectors, but for hf/<model ID or folder> and onnx/<path>.
DETECTORS = ("lettering",)


def image_stream(architecture: str) -> str:
    """The architecture that sees the poster itself."""
    return architecture.removeprefix(TWO_STREAM)


def needs_objects(architecture: str) -> bool:
    """Whether it also sees what detectors find on the poster."""
    return architecture.startswith(TWO_STREAM)


def is_known(architecture: object) -> bool:
    """Whether it is the name of an architecture."""
    if not isinstance(architecture, str):
        return False
    name = image_stream(architecture)
    return name in ARCHITECTURES or (name.startswith(HUGGING_FACE) and name != HUGGING_FACE)


def recipe_name(architecture: str) -> str:
    """The name of the recipe that an architecture is trained by: two streams learn by the recipe of that which sees the poster."""
    name = image_stream(architecture)
    return "hf" if name.startswith(HUGGING_FACE) else ARCHITECTURES[name]


def is_detector(name: str) -> bool:
    """Whether it is the name of a detector."""
    return name in DETECTORS or any(name.startswith(kind) and name != kind for kind in (HUGGING_FACE, ONNX))


def in_folder(name: str) -> bool:
    """Whether the file of a detector onnx/<path> is in `ONNX_FOLDER`."""
    parts = PurePosixPath(name.removeprefix(ONNX)).parts
    folder = PurePosixPath(ONNX_FOLDER).parts
    return parts[: len(folder)] == folder and len(parts) > len(folder) and ".." not in parts
