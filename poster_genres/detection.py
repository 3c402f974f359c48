"""Run the detectors named under `detectors` in params.yaml on posters, and find what the words on them mean.

Each detector is a module in poster_genres/detectors, imported only when its name is used, as its packages may not be installed.
"""

import base64
import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from itertools import islice, tee
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from poster_genres.architectures import detector_module
from poster_genres.errors import InputError, require
from poster_genres.files import sha256
from poster_genres.found import Store, find
from poster_genres.objects import EMBEDDINGS, Detection, PosterDetections, read_detections, text_of, title_of
from poster_genres.posters import Unreadable, upright

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
    chunks = iter(lambda: list(islice(iterator, 1 if parallel else chunk)), [])
    for result in find(partial(detect_chunk, name), chunks, store, key, dask_scheduler, None if parallel else 1):
        yield result if isinstance(result, str) else [Detection(*values) for values in result]


def embed_chunk(texts: list[bytes]) -> list[dict[str, str]]:
    """The embedding of each text in UTF-8, as JSON can hold it; by one core, as others embed other texts meanwhile."""
    import torch

    from poster_genres.mpnet import embed

    torch.set_num_threads(1)
    return [embedding_value(embed(text.decode())) for text in texts]


def embedding_value(embedding: np.ndarray) -> dict[str, str]:
    """An embedding as the store has it."""
    return {"float32": base64.b64encode(embedding.tobytes()).decode()}


def sentences_stored_under() -> str:
    """The key of sentence embeddings in the store."""
    from poster_genres import mpnet, sentences

    code = b"".join(Path(str(module.__file__)).read_bytes() for module in (mpnet, sentences))
    return f"sentence, {hashlib.sha256(code).hexdigest()[:16]}"


def embed_all(texts: Iterable[str], store: Store | None = None, dask_scheduler: str | None = None) -> Iterator[np.ndarray]:
    """The embedding of each text, by this machine's cores or a Dask cluster; neither these nor their number change a digit.

    Parameters
    ----------
    store : has the embeddings of earlier runs, which are not made again, and gets the new ones
    dask_scheduler : see `spread`
    """
    from poster_genres.mpnet import mpnet

    def load(chunk: list[bytes]) -> None:
        # Here, and not by all cores at once, as it may have to be downloaded; on a cluster by each worker.
        if dask_scheduler is None and any(text.strip() for text in chunk):
            mpnet()

    key = sentences_stored_under()
    for found in find(embed_chunk, ([text.encode()] for text in texts), store, key, dask_scheduler, prepare=load):
        yield np.frombuffer(base64.b64decode(found["float32"]), np.float32)


def with_embeddings(
    found: Iterable[list[Detection]], store: Store | None = None, dask_scheduler: str | None = None
) -> Iterator[PosterDetections]:
    """Add the embeddings of its text and of its title to what was found on each poster; the parameters are those of `embed_all`."""
    objects, copy = tee(found)
    # The title alone is embedded only where it is not all that there is.
    texts = (text for detections in copy for text in dict.fromkeys((text_of(detections), title_of(detections))))
    embeddings = embed_all(texts, store, dask_scheduler)
    for detections in objects:
        sentence = next(embeddings)
        title = sentence if title_of(detections) == text_of(detections) else next(embeddings)
        yield PosterDetections(detections, sentence, title)


@dataclass(frozen=True)
class Sources:
    """Where the detections on posters come from: the content of data/sources.json, by which another clone need not repeat them.

    Attributes
    ----------
    posters : the SHA-256 of each poster that can be read, by movie ID
    keys : what the detectors' detections are stored under, in the detectors' order, as on each poster; see `stored_under`
    counts : how many detections each detector made on each of `posters`
    sentences : what sentence embeddings are stored under
    files : the SHA-256 of each file of data/detections but the JSON, by name
    """

    posters: dict[str, str]
    keys: list[str]
    counts: list[list[int]]
    sentences: str
    files: dict[str, str]


def hashes(folder: Path, names: Iterable[str] = ("objects.csv", *EMBEDDINGS)) -> dict[str, str]:
    """The content of `Sources.files`."""
    return {name: sha256(folder / name) for name in names}


def restore(data: Path, store: Store) -> int:
    """Add to the store what an output of the stage `detect` has and the store has not: that of another clone, which was pulled.

    Parameters
    ----------
    data : the folder with `sources.json` and `detections`; nothing is added if they are not there, damaged, or not of one run

    Returns
    -------
    How many detections and embeddings were added.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, InputError):
        about = (data / "sources.json").read_bytes()
        digest = hashlib.sha256(about).hexdigest()
        if store.known(digest, "restored"):
            return 0
        sources = Sources(**json.loads(about))
        # Until 2026-12-01 there were no titles.
        titles = EMBEDDINGS[1] in sources.files
        embeddings = EMBEDDINGS if titles else EMBEDDINGS[:1] * 2
        if sources.files != hashes(data / "detections", ("objects.csv", *embeddings)):
            return 0
        by_movie = read_detections(data / "detections", list(sources.posters), embeddings).by_movie
        found: list[tuple[str, str, Any]] = []
        for poster, content, *counts in zip(sources.posters.values(), by_movie.values(), *sources.counts, strict=True):
            objects = iter(content.objects)
            found += [(poster, key, list(islice(objects, count))) for key, count in zip(sources.keys, counts, strict=True)]
            texts = [(text_of(content.objects), content.sentence), (title_of(content.objects), content.title)]
            for text, embedding in texts if titles else texts[:1]:
                of_text = hashlib.sha256(text.encode()).hexdigest()
                found.append((of_text, sources.sentences, embedding_value(embedding)))
        added = store.put_missing(found)
        # After the others, so that an interrupted restoration is made again.
        store.put(digest, "restored", True)
        return added
    return 0


def open_store(project: Path) -> Store | None:
    """The store of a project, with what is in its data/detections; None where it cannot be written, as outside of a clone."""
    if not (project / ".dvc").is_dir():
        return None
    try:
        return Store(project / ".dvc" / "tmp" / "detections.db", partial(restore, project / "data"))
    except (OSError, InputError):
        return None


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
