"""The names of architectures and detectors, and where their code is."""

from pathlib import Path, PurePosixPath

# Each of these folders has one file per name, or per kind for names KIND/….
NETWORKS, DETECTORS = Path(__file__).parent / "networks", Path(__file__).parent / "detectors"
KINDS = ("hf", "onnx")
# Architectures with this prefix are backbones of Hugging Face's transformers: hf/<model ID or folder>.
HUGGING_FACE = "hf/"
# Architectures with this prefix have two streams: the architecture named after it for the image, and detections.
TWO_STREAM = "two_stream/"
# Detectors with this prefix are files: onnx/<path>, in this folder of the project, on which the stage `detect` depends.
ONNX = "onnx/"
ONNX_FOLDER = "data/detectors"


def names(folder: Path) -> list[str]:
    """The names with a file of their own in a folder, `NETWORKS` or `DETECTORS`."""
    return sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", *KINDS))


def image_stream(architecture: str) -> str:
    """The architecture of the image stream."""
    return architecture.removeprefix(TWO_STREAM)


def needs_objects(architecture: str) -> bool:
    """Whether the architecture also uses detections."""
    return architecture.startswith(TWO_STREAM)


def is_hugging_face(architecture: str) -> bool:
    """Whether the image stream is a backbone of Hugging Face's transformers."""
    return image_stream(architecture).startswith(HUGGING_FACE)


def is_known(architecture: object) -> bool:
    """Whether this is the name of an architecture."""
    if not isinstance(architecture, str):
        return False
    name = image_stream(architecture)
    return name in names(NETWORKS) or (is_hugging_face(name) and name != HUGGING_FACE)


def module_of(architecture: str) -> str:
    """The module with an architecture's record, or with the function that makes it."""
    return f"poster_genres.networks.{image_stream(architecture).partition('/')[0]}"


def recipe_name(architecture: str) -> str:
    """The name of its recipe in recipes.yaml, if there is one: efficientnet_lite for efficientnet_lite1, hf for hf/…"""
    return "hf" if is_hugging_face(architecture) else image_stream(architecture).rstrip("0123456789")


def detector_module(detector: str) -> str:
    """The module that has a detector's class, `Detector`."""
    return f"poster_genres.detectors.{detector.partition('/')[0]}"


def is_detector(name: str) -> bool:
    """Whether this is the name of a detector."""
    return name in names(DETECTORS) or any(name.startswith(kind) and name != kind for kind in (HUGGING_FACE, ONNX))


def in_folder(name: str) -> bool:
    """Whether the file of a detector onnx/<path> is in `ONNX_FOLDER`."""
    parts = PurePosixPath(name.removeprefix(ONNX)).parts
    folder = PurePosixPath(ONNX_FOLDER).parts
    return parts[: len(folder)] == folder and len(parts) > len(folder) and ".." not in parts
