"""Detect the objects and lettering on each poster, for two_stream/… architectures.

In: data/movies.csv and the posters of `dataset`, or its detections.csv, which replaces all detectors. Out, in data/detections:
objects.csv, one row per object; sentences.npy, an embedding of the words on each movie's poster, float32 (movies, 384);
detectors.json, with the detectors' versions, their classes and the movies' IDs; and metrics/detect.json. For other architectures
these are empty. Detections are also stored in .dvc/tmp, from where an interrupted run resumes. Run: `python -m stages.detect`.
"""

import base64
import contextlib
import hashlib
import inspect
import json
import sqlite3
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from poster_genres import errors
from poster_genres.dataset import File, hash_of, list_files, read_bytes, read_table_bytes
from poster_genres.errors import InputError
from poster_genres.files import no_space, repository, write_json
from poster_genres.movies import read_movies
from poster_genres.objects import DatasetDetections, Detection, PosterDetections, parse_objects, text_of, write_detections
from poster_genres.parameters import DetectParameters, read_parameters

GIVEN = "detections.csv"
FOLDER = Path("data/detections")
COUNTS = Path("metrics/detect.json")


class Store:
    """Earlier detections and sentence embeddings, by the SHA-256 of poster or text, in an SQLite file that processes share.

    Raises
    ------
    InputError
        The file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._said():
            self.connection = sqlite3.connect(path, timeout=60)
        # Not waiting for the disk: what a power failure loses is found again.
        self._run("PRAGMA synchronous = OFF")
        self._run("CREATE TABLE IF NOT EXISTS found (poster, detector, objects, PRIMARY KEY (poster, detector))")

    def get(self, digest: str, detector: str) -> Any:
        """The stored value, or None."""
        rows = self._run("SELECT objects FROM found WHERE poster = ? AND detector = ?", digest, detector)
        return json.loads(rows[0][0]) if rows else None

    def put(self, digest: str, detector: str, value: Any) -> None:
        self._run("INSERT OR REPLACE INTO found VALUES (?, ?, ?)", digest, detector, json.dumps(value))

    def _run(self, statement: str, *values: str) -> list[Any]:
        with self._said(), self.connection:
            return self.connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "disk is full" in str(error):
                raise no_space(self.path.parent) from None
            raise InputError(f"{self.path}: {error}; remove it, and what is on posters is found again") from None


def digest(dataset: Path, archive: str, path: str) -> str:
    """The SHA-256 of a poster's file; that of nothing if it cannot be read."""
    with contextlib.suppress(OSError, KeyError, zipfile.BadZipFile, EOFError, ValueError, zlib.error):
        return hash_of(dataset, archive, path)
    return hashlib.sha256().hexdigest()


def read_poster(dataset: Path, archive: str, path: str) -> bytes:
    """The bytes of a poster's file; empty if it cannot be read, which `detection.detect` then reports."""
    with contextlib.suppress(OSError, KeyError, zipfile.BadZipFile, EOFError, ValueError, zlib.error):
        return read_bytes(dataset, archive, path)
    return b""


def detect_movies(
    dataset: Path, movies: pd.DataFrame, detectors: list[str], store: Store
) -> tuple[dict[str, list[Detection]], dict[str, str], list[str], dict[str, str]]:
    """Run the detectors on those of the movies' posters for which the store has no detections.

    Returns
    -------
    The detections on all posters, by movie ID; the detectors' versions, by name; their classes; and the reasons why posters
    cannot be read, by movie ID.
    """
    from tqdm import tqdm

    from poster_genres.detection import detect, open_detector

    locations = dict(zip(movies["id"], zip(movies["archive"], movies["poster"], strict=True), strict=True))
    digests = {movie: digest(dataset, *location) for movie, location in locations.items()}
    by_movie: dict[str, list[Detection]] = {movie: [] for movie in locations}
    reasons: dict[str, str] = {}
    versions: dict[str, str] = {}
    classes: list[str] = []
    for name in detectors:
        detector = open_detector(name)
        versions[name] = detector.version
        classes += [label for label in detector.classes if label not in classes]
        # Only of the detector's own file, so that changes to other detectors do not invalidate its stored detections.
        code = hashlib.sha256(Path(inspect.getfile(type(detector))).read_bytes()).hexdigest()[:16]
        key = f"{name}, {detector.version}, {code}"
        stored = {movie: store.get(digest, key) for movie, digest in digests.items()}
        results = {movie: [Detection(*values) for values in rows] for movie, rows in stored.items() if rows is not None}
        missing = [movie for movie in locations if movie not in results]
        new = detect(name, (read_poster(dataset, *locations[movie]) for movie in missing))
        for movie, result in tqdm(zip(missing, new, strict=True), desc=name, total=len(missing), unit=" posters", disable=None):
            if isinstance(result, str):
                reasons[movie] = result
            else:
                store.put(digests[movie], key, result)
                results[movie] = result
        for movie, detections in results.items():
            by_movie[movie] += detections
    return by_movie, versions, classes, reasons


def detect_sentences(by_movie: dict[str, list[Detection]], store: Store) -> dict[str, PosterDetections]:
    """Add an embedding of the words on each poster to its detections."""
    from tqdm import tqdm

    from poster_genres import sentences

    key = f"sentence, {hashlib.sha256(Path(str(sentences.__file__)).read_bytes()).hexdigest()[:16]}"
    contents = {}
    for movie, detections in tqdm(by_movie.items(), desc="sentences", unit=" posters", disable=None):
        digest = hashlib.sha256(text_of(detections).encode()).hexdigest()
        stored = store.get(digest, key)
        sentence = sentences.embed(text_of(detections)) if stored is None else np.frombuffer(base64.b64decode(stored), np.float32)
        if stored is None:
            store.put(digest, key, base64.b64encode(sentence.tobytes()).decode())
        contents[movie] = PosterDetections(detections, sentence)
    return contents


def given_objects(dataset: Path, files: list[File]) -> dict[str, list[Detection]] | None:
    """The detections in the data set's own detections.csv, by movie ID; None if it has no such file.

    Raises
    ------
    InputError
        It has several, or one that is not valid.
    """
    tables = [file for file in files if PurePosixPath(file.path).name == GIVEN]
    if not tables:
        return None
    if len(tables) > 1:
        raise InputError(f"{dataset}: {len(tables)} files {GIVEN} ({', '.join(file.name for file in tables)}); keep one")
    return parse_objects(read_table_bytes(dataset, tables[0]), f"{dataset}/{tables[0].name}")


def main() -> None:
    parameters = read_parameters().used_by(DetectParameters)
    if not parameters.two_stream:
        write_detections(DatasetDetections({}, {}, []), FOLDER)
        write_json(COUNTS, {"needed": False})
        print("the architecture is not two_stream/…: nothing to detect")
        return
    dataset = Path(parameters.dataset)
    movies = read_movies(Path("data/movies.csv"))
    given = given_objects(dataset, list_files(dataset))
    counts: dict[str, Any] = {"needed": True, "source": GIVEN}
    store = Store(repository() / ".dvc" / "tmp" / "detections.db")
    versions: dict[str, str] = {}
    reasons: dict[str, str] = {}
    if given is not None:
        by_movie = {movie: given.get(movie, []) for movie in movies["id"]}
        counts["objects_of_unknown_movies"] = sum(len(rows) for movie, rows in given.items() if movie not in by_movie)
        classes = sorted({detection.label for detections in by_movie.values() for detection in detections})
        if not classes:
            raise InputError(f"{dataset}: {GIVEN} has no object of any of the {len(movies)} movies; its column id holds their IDs")
    elif parameters.detectors:
        by_movie, versions, classes, reasons = detect_movies(dataset, movies, parameters.detectors, store)
        counts["source"] = ", ".join(parameters.detectors)
    else:
        raise InputError(f"params.yaml: detectors: two_stream/… needs one at least, or the objects in a table, {dataset}/{GIVEN}")
    write_detections(DatasetDetections(detect_sentences(by_movie, store), versions, classes), FOLDER)
    by_class = Counter(detection.label for detections in by_movie.values() for detection in detections)
    empty = sum(not detections for detections in by_movie.values())
    counts |= {
        "posters": len(movies),
        "posters_without_objects": empty,
        "unreadable": len(reasons),
        "reasons": dict(sorted(Counter(reasons.values()).items())),
        "objects": dict(by_class.most_common()),
    }
    write_json(COUNTS, counts)
    posters = f"{len(movies) - empty} of {len(movies)} posters"
    print(f"{by_class.total()} objects of {len(by_class)} classes on {posters} ({counts['source']})")


if __name__ == "__main__":
    errors.run(main)
