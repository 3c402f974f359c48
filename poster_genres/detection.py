"""Running detectors, which are named in `detectors` of params.yaml, on posters.

Each has a file in poster_genres/detectors, which is imported only where its name is used. What it needs may not be installed.
"""

import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import import_module
from itertools import chain, islice
from typing import Protocol

from joblib import Parallel, delayed
from PIL import Image

from poster_genres.architectures import needs_objects
from poster_genres.errors import InputError
from poster_genres.objects import Detection, PosterDetections
from poster_genres.posters import Unreadable, upright

CHUNK = 16
# Width and height: a large JPEG may be decoded at a fraction of its size that is no smaller, twice what most detectors look at.
LEAST = (960, 1440)


class Detector(Protocol):
    """What finds objects on posters.

    Attributes
    ----------
    version : of the program or the weights; another one may find other things
    classes : the labels that it knows
    parallel : whether several of it should run in processes of their own; else it uses the whole machine by itself
    packages : what must be installed for it
    """

    version: str
    classes: list[str]
    parallel: bool
    packages: tuple[str, ...]

    def detect(self, images: list[Image.Image]) -> list[list[Detection]]:
        """The objects of each of some RGB images of any size."""


@lru_cache(maxsize=8)
def open_detector(name: str) -> Detector:
    """Load a detector, once a process.

    Raises
    ------
    InputError
        Its packages are not installed, or it cannot be read.
    """
    detector: Detector = import_module(f"poster_genres.detectors.{name.partition('/')[0]}").Detector(name)
    return detector


def detect_chunk(name: str, posters: list[bytes]) -> list[list[Detection] | str]:
    """Find objects on posters as they come from files; the reason instead, where one cannot be read."""
    images: dict[int, Image.Image] = {}
    results: list[list[Detection] | str] = [""] * len(posters)
    for i, data in enumerate(posters):
        try:
            images[i] = upright(data, LEAST)
        except Unreadable as error:
            results[i] = str(error)
    if images:
        for i, found in zip(images, open_detector(name).detect(list(images.values())), strict=True):
            results[i] = found
    return results


def detect(name: str, posters: Iterable[bytes]) -> Iterator[list[Detection] | str]:
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


def detect_for(architecture: str, detectors: dict[str, str], posters: list[bytes]) -> list[PosterDetections] | None:
    """What is on posters that can be read, as a trained model of this architecture and with these detectors needs it; None where it
    sees pixels only.

    Raises
    ------
    InputError
        Its detectors are not here in its versions; or it was trained on objects from a table.
    """
    if not needs_objects(architecture):
        return None
    if not detectors:
        raise InputError("the model was trained on objects from a table, detections.csv, and finds none by itself")
    from poster_genres.sentences import with_sentences

    check_detectors(detectors)
    found: list[list[Detection]] = [[] for _ in posters]
    for name in detectors:
        for objects, result in zip(found, detect(name, posters), strict=True):
            assert not isinstance(result, str), result
            objects.extend(result)
    return with_sentences(found)
