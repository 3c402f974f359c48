"""Run the detectors named under `detectors` in params.yaml on posters.

Each detector is a module in poster_genres/detectors, imported only when its name is used, as its packages may not be installed.
"""

import hashlib
import inspect
from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Protocol

from PIL import Image

from poster_genres.architectures import detector_module
from poster_genres.errors import InputError, require
from poster_genres.found import Store
from poster_genres.objects import Detection
from poster_genres.posters import Unreadable, upright
from poster_genres.spread import spread

# Posters that a detector which uses all cores sees at a time; the others take single ones.
CHUNK = 16
# Minimum width and height to which a large JPEG may be downscaled while decoding: twice the input size of most detectors.
MIN_SIZE = (960, 1440)


class Detector(Protocol):
    """The interface of an object detector.

    Attributes
    ----------
    version : of the program or the weights; detections may differ between versions
    classes : the labels that it can return
    parallel : whether several threads may call `detect`, each of which uses one core; otherwise, one call uses all cores
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


def stored_under(name: str) -> str:
    """The key of a detector's detections in the store: another one whenever others may be found."""
    detector = open_detector(name)
    # Only of the detector's own file, so that changes to other detectors do not invalidate its stored detections.
    code = hashlib.sha256(Path(inspect.getfile(type(detector))).read_bytes()).hexdigest()[:16]
    return f"{name}, {detector.version}, {code}"


def detect(
    name: str, posters: Iterable[bytes], store: Store | None = None, dask_scheduler: str | None = None, chunk: int = CHUNK
) -> Iterator[list[Detection] | str]:
    """Run a detector on any number of posters, given the files' contents, of which only a few are read ahead; see `detect_chunk`.

    Parameters
    ----------
    store : the detections of earlier runs, which are not made again, and to which new ones are added
    dask_scheduler : see `spread`
    chunk : posters that a detector which uses all cores sees at a time
    """
    parallel = open_detector(name).parallel
    key = "" if store is None else stored_under(name)
    iterator = iter(posters)
    # Of each chunk on its way, the posters' digests and what is known of them.
    looked_up: deque[tuple[list[str], list[list[Detection] | None]]] = deque()

    def unknown() -> Iterator[list[bytes]]:
        while data := list(islice(iterator, 1 if parallel else chunk)):
            digests = [] if store is None else [hashlib.sha256(each).hexdigest() for each in data]
            rows = [None] * len(data) if store is None else [store.get(digest, key) for digest in digests]
            known = [None if each is None else [Detection(*values) for values in each] for each in rows]
            looked_up.append((digests, known))
            yield [each for each, found in zip(data, known, strict=True) if found is None]

    for results in spread(partial(detect_chunk, name), unknown(), dask_scheduler, None if parallel else 1):
        digests, known = looked_up.popleft()
        new = iter(results)
        for i, found in enumerate(known):
            result = next(new) if found is None else found
            if store is not None and found is None and not isinstance(result, str):
                store.put(digests[i], key, result)
            yield result


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
