"""Run the detectors named under `detectors` in params.yaml on posters.

Each detector is a module in poster_genres/detectors, imported only when its name is used, as its packages may not be installed.
"""

import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import import_module
from itertools import chain, islice
from typing import Protocol

from joblib import Parallel, delayed
from PIL import Image

from poster_genres.architectures import detector_module
from poster_genres.errors import InputError, require
from poster_genres.objects import Detection
from poster_genres.posters import Unreadable, upright

CHUNK = 16
# Minimum width and height to which a large JPEG may be downscaled while decoding: twice the input size of most detectors.
MIN_SIZE = (960, 1440)


class Detector(Protocol):
    """The interface of an object detector.

    Attributes
    ----------
    version : of the program or the weights; detections may differ between versions
    classes : the labels that it can return
    parallel : whether to run one instance in each of several processes; otherwise, a single instance uses all cores
    packages : the packages that it requires
    """

    version: str
    classes: list[str]
    parallel: bool
    packages: tuple[str, ...]

    def __init__(self, name: str) -> None:
        """Load it; `name` is as in params.yaml."""

    def detect(self, images: list[Image.Image]) -> list[list[Detection]]:
        """The detections on each image; images are RGB, of any size."""


@lru_cache(maxsize=8)
def open_detector(name: str) -> Detector:
    """Load a detector, once per process.

    Raises
    ------
    InputError
        Its packages are not installed, or it cannot be read.
    """
    detector: type[Detector] = import_module(detector_module(name)).Detector
    require(detector.packages, f"detectors: {name}")
    return detector(name)


def detect_chunk(name: str, posters: list[bytes]) -> list[list[Detection] | str]:
    """The detections on each poster, given the files' contents; for an unreadable poster, the reason."""
    images: dict[int, Image.Image] = {}
    results: list[list[Detection] | str] = [""] * len(posters)
    for i, data in enumerate(posters):
        try:
            images[i] = upright(data, MIN_SIZE)
        except Unreadable as error:
            results[i] = str(error)
    if images:
        for i, detections in zip(images, open_detector(name).detect(list(images.values())), strict=True):
            results[i] = detections
    return results


def detect(name: str, posters: Iterable[bytes], chunk: int = CHUNK) -> Iterator[list[Detection] | str]:
    """Run a detector on any number of posters, reading only a few chunks ahead; see `detect_chunk`."""
    iterator = iter(posters)
    chunks = iter(lambda: list(islice(iterator, chunk)), [])
    first_chunks = list(islice(chunks, 2))
    # Processes, not threads, as detectors hold the GIL; starting them does not pay for a few posters.
    processes = -1 if len(first_chunks) > 1 and open_detector(name).parallel else 1
    # RapidOCR uses more memory with every new input shape, until joblib restarts the worker with this warning.
    warnings.filterwarnings("ignore", message="A worker stopped", category=UserWarning)
    parallel = Parallel(n_jobs=processes, return_as="generator", pre_dispatch="2*n_jobs")
    for results in parallel(delayed(detect_chunk)(name, each) for each in chain(first_chunks, chunks)):
        yield from results


def check_detectors(detectors: dict[str, str]) -> None:
    """Check that a model's detectors are installed in the versions it was trained with.

    Raises
    ------
    InputError
        A detector is not installed, or in another version; the message names the right one.
    """
    for name, trained_with in detectors.items():
        if (version := open_detector(name).version) != trained_with:
            raise InputError(f"detectors: {name}: the model was trained with {trained_with}, here is {version}; install the former")
