"""Detectors of what is on a poster: lettering, and any of Hugging Face's transformers that finds objects.

Each is an optional requirement, and loaded only where its name is in `detectors` of params.yaml. Chosen for their licenses (no
AGPL, no weights for research only), their upkeep, and because they run without torchvision:

- `lettering`: where there is lettering and what it says, by PaddleOCR's networks (Apache-2.0; the weights are in RapidOCR's wheel)
  and ONNX Runtime (MIT): differentiable binarisation (Liao et al. 2020, arXiv:1911.08947) and a reader of lines.
- `hf/<model ID or folder>`: YOLOS, RT-DETR, D-FINE, DETR … (Apache-2.0) with the classes of COCO or any others. Only weights in the
  safetensors format are read.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np
from joblib import Parallel, delayed
from PIL import Image

from poster_genres.architectures import HUGGING_FACE
from poster_genres.errors import InputError
from poster_genres.objects import Found, clipped
from poster_genres.posters import Unreadable, upright

CHUNK = 16
# Posters are looked at in this size, so that what is found does not depend on the file's resolution; nearly all are 2:3.
WIDTH, HEIGHT = 480, 720
# Objects that their detector gives less than this are none.
MIN_CONFIDENCE = 0.3


class Detector(Protocol):
    """What finds objects on posters.

    Attributes
    ----------
    version : of the program or the weights; another one may find other things
    classes : the labels that it knows
    parallel : whether several of it should run in processes of their own; else it uses the whole machine by itself
    """

    version: str
    classes: list[str]
    parallel: bool

    def detect(self, images: list[Image.Image]) -> list[list[Found]]:
        """The objects of each of some RGB images of any size."""


def installed(package: str) -> str:
    """A package's name and version.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        raise InputError(f"detectors: lettering needs {package}: pip install -r requirements.txt") from None


class Lettering:
    parallel = True

    def __init__(self) -> None:
        self.classes = ["lettering"]
        installed("onnxruntime")
        self.version = installed("rapidocr")
        from rapidocr import RapidOCR

        settings = {"Det.limit_type": "min", "Det.limit_side_len": WIDTH, "Global.text_score": MIN_CONFIDENCE}
        self.find = RapidOCR(params=settings | {"Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": 1})

    def detect(self, images: list[Image.Image]) -> list[list[Found]]:
        found = []
        for image in images:
            pixels = np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))[:, :, ::-1]
            output: Any = self.find(np.ascontiguousarray(pixels), use_det=True, use_cls=False, use_rec=True)
            lines = (
                [] if output.boxes is None else list(zip(output.boxes / (WIDTH, HEIGHT), output.scores, output.txts, strict=True))
            )
            objects = []
            for corners, score, text in lines:
                (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
                objects.append(clipped("lettering", score, left, top, right, bottom, " ".join(text.split())))
            found.append(objects)
        return found


class TransformersDetector:
    parallel = False

    def __init__(self, name: str) -> None:
        from poster_genres.hugging_face import find, transformers

        library = transformers()
        import torch

        from poster_genres.devices import choose_device

        source = find(name)
        try:
            self.processor = library.AutoImageProcessor.from_pretrained(source, backend="pil")
            self.model: Any = library.AutoModelForObjectDetection.from_pretrained(source, use_safetensors=True)
        except (OSError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"detectors: {name}: {reason}; give the ID of a model that detects objects, or its folder") from None
        labels = self.model.config.id2label
        self.classes = list(dict.fromkeys(labels[i] for i in sorted(labels) if labels[i] != "N/A"))
        digest = hashlib.sha256(json.dumps([self.processor.to_dict(), labels], sort_keys=True, default=str).encode())
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().data if value.ndim else str(value.item()).encode())
        self.version = f"weights {digest.hexdigest()[:16]}"
        self.device = choose_device()
        self.model.eval().to(self.device)

    def detect(self, images: list[Image.Image]) -> list[list[Found]]:
        import torch

        # All of one size, so that none of the batch is padded, of which boxes would have to be cleared.
        batch = [image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for image in images]
        inputs = self.processor(images=batch, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            output = self.model(**inputs)
        results = self.processor.post_process_object_detection(
            output, threshold=MIN_CONFIDENCE, target_sizes=[(1.0, 1.0)] * len(images)
        )
        labels = self.model.config.id2label
        return [
            [
                clipped(labels[label], confidence, *box)
                for label, confidence, box in zip(*(result[key].tolist() for key in ("labels", "scores", "boxes")), strict=True)
                if labels[label] != "N/A"
            ]
            for result in results
        ]


@lru_cache(maxsize=8)
def open_detector(name: str) -> Detector:
    """Load a detector, once a process.

    Raises
    ------
    InputError
        Its packages are not installed, or it cannot be read.
    """
    if name.startswith(HUGGING_FACE):
        return TransformersDetector(name)
    return Lettering()


def detect_chunk(name: str, posters: list[bytes]) -> list[list[Found] | str]:
    """Find objects on posters as they come from files; the reason instead, where one cannot be read."""
    images: dict[int, Image.Image] = {}
    results: list[list[Found] | str] = [""] * len(posters)
    for i, data in enumerate(posters):
        try:
            images[i] = upright(data, (2 * WIDTH, 2 * HEIGHT))
        except Unreadable as error:
            results[i] = str(error)
    if images:
        for i, found in zip(images, open_detector(name).detect(list(images.values())), strict=True):
            results[i] = found
    return results


def detect(name: str, posters: Iterable[bytes]) -> Iterator[list[Found] | str]:
    """Find objects on any number of posters, a few chunks ahead of the reader; see `detect_chunk`."""
    rest = iter(posters)
    chunks = iter(lambda: list(islice(rest, CHUNK)), [])
    first = list(islice(chunks, 2))
    # Processes, as not all of it lets go of Python's lock; a few posters are not worth their start.
    processes = -1 if len(first) > 1 and open_detector(name).parallel else 1
    # What RapidOCR keeps in memory grows with every new shape of a line; joblib starts a new process then, and says so.
    warnings.filterwarnings("ignore", message="A worker stopped", category=UserWarning)
    parallel = Parallel(n_jobs=processes, return_as="generator", pre_dispatch="2*n_jobs")
    for results in parallel(delayed(detect_chunk)(name, chunk) for chunk in chain(first, chunks)):
        yield from results


def check_detectors(detectors: dict[str, str]) -> None:
    """See that the detectors that a model was trained with are here, in the same versions.

    Raises
    ------
    InputError
        One is not, and which would be right.
    """
    for name, trained_with in detectors.items():
        if (here := open_detector(name).version) != trained_with:
            raise InputError(f"detectors: {name}: the model was trained with {trained_with}, here is {here}; install the former")


def detect_all(detectors: Iterable[str], posters: list[bytes]) -> list[list[Found]]:
    """What these detectors find on each of some posters that can be read."""
    found: list[list[Found]] = [[] for _ in posters]
    for name in detectors:
        for objects, result in zip(found, detect(name, posters), strict=True):
            assert not isinstance(result, str), result
            objects.extend(result)
    return found
