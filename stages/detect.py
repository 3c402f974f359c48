"""Find what is on each poster, for architectures that see it: two_stream/….

In: data/movies.csv and the posters of `dataset`, or its detections.csv, which then says all. Out, in data/detections: objects.csv,
a row an object; sentences.npy, what the words on each movie's poster mean, float32 (movies, 384); detectors.json, what found them,
and the movies' IDs. And metrics/detect.json. For other architectures these are empty. What was found is kept in
.dvc/tmp, and an interrupted detection goes on from there. Run: `python -m stages.detect`.
"""

import base64
import contextlib
import hashlib
import inspect
import json
import sqlite3
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from poster_genres import errors
from poster_genres.dataset import File, list_files, read_bytes
from poster_genres.errors import InputError
from poster_genres.files import repository, write_json
from poster_genres.movies import read_movies
from poster_genres.objects import DatasetDetections, Detection, PosterDetections, parse_objects, text_of, write_detections
from poster_genres.parameters import DetectParameters, read_parameters

GIVEN = "detections.csv"
FOLDER = Path("data/detections")
COUNTS = Path("metrics/detect.json")


class Store:
    """What was found before, by the poster's content or the words' text, in an SQLite file that several processes may use."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(path, timeout=60)
        with self.connection:
            self.connection.execute("CREATE TABLE IF NOT EXISTS found (poster, detector, objects, PRIMARY KEY (poster, detector))")

    def get(self, poster: str, detector: str) -> Any:
        """As JSON gives it; None where it is not known."""
        row = self.connection.execute("SELECT objects FROM found WHERE poster = ? AND detector = ?", (poster, detector)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, poster: str, detector: str, objects: Any) -> None:
        with self.connection:
            self.connection.execute("INSERT OR REPLACE INTO found VALUES (?, ?, ?)", (poster, detector, json.dumps(objects)))


def read_poster(dataset: Path, archive: str, path: str) -> bytes:
    """A poster's content; empty where there is none, which no detector takes for a poster."""
    with contextlib.suppress(OSError, KeyError, zipfile.BadZipFile, EOFError, ValueError):
        return read_bytes(dataset, archive, path)
    return b""


def detect_movies(
    dataset: Path, movies: pd.DataFrame, detectors: list[str], store: Store
) -> tuple[dict[str, list[Detection]], dict[str, str], list[str], dict[str, str]]:
    """Run the detectors on the movies' posters that they have not seen before.

    Returns
    -------
    The objects on them all, by the movies' IDs; the detectors' versions and classes; and, by IDs again, the reasons why posters
    cannot be read.
    """
    from tqdm import tqdm

    from poster_genres import detection as module

    places = dict(zip(movies["id"], zip(movies["archive"], movies["poster"], strict=True), strict=True))
    digests = {movie: hashlib.sha256(read_poster(dataset, *place)).hexdigest() for movie, place in places.items()}
    found: dict[str, list[Detection]] = {movie: [] for movie in places}
    reasons: dict[str, str] = {}
    versions: dict[str, str] = {}
    classes: list[str] = []
    for name in detectors:
        detector = module.open_detector(name)
        versions[name] = detector.version
        classes += [label for label in detector.classes if label not in classes]
        # Of its file alone, so that a change to another detector leaves what this one found.
        code = hashlib.sha256(Path(inspect.getfile(type(detector))).read_bytes()).hexdigest()[:16]
        key = f"{name}, {detector.version}, {code}"
        stored = {movie: store.get(digest, key) for movie, digest in digests.items()}
        known = {movie: [Detection(*one) for one in objects] for movie, objects in stored.items() if objects is not None}
        missing = [movie for movie in places if movie not in known]
        results = module.detect(name, (read_poster(dataset, *places[movie]) for movie in missing))
        for movie, result in tqdm(zip(missing, results, strict=True), desc=name, total=len(missing), unit=" posters", disable=None):
            if isinstance(result, str):
                reasons[movie] = result
            else:
                store.put(digests[movie], key, result)
                known[movie] = result
        for movie, objects in known.items():
            found[movie] += objects
    return found, versions, classes, reasons


def detect_sentences(found: dict[str, list[Detection]], store: Store) -> dict[str, PosterDetections]:
    """What the words on each poster mean, beside its objects."""
    from tqdm import tqdm

    from poster_genres import sentences as module

    key = f"sentence, {hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()[:16]}"
    detected = {}
    for movie, objects in tqdm(found.items(), desc="sentences", unit=" posters", disable=None):
        digest = hashlib.sha256(text_of(objects).encode()).hexdigest()
        stored = store.get(digest, key)
        sentence = module.embed(text_of(objects)) if stored is None else np.frombuffer(base64.b64decode(stored), np.float32)
        if stored is None:
            store.put(digest, key, base64.b64encode(sentence.tobytes()).decode())
        detected[movie] = PosterDetections(objects, sentence)
    return detected


def given_objects(dataset: Path, files: list[File]) -> dict[str, list[Detection]] | None:
    """The objects of the data set's own table, by ID; None where it has none.

    Raises
    ------
    InputError
        There are several, or it is wrong.
    """
    tables = [file for file in files if PurePosixPath(file.path).name == GIVEN]
    if not tables:
        return None
    if len(tables) > 1:
        raise InputError(f"{dataset}: {len(tables)} files {GIVEN} ({', '.join(file.name for file in tables)}); keep one")
    return parse_objects(read_bytes(dataset, tables[0].archive, tables[0].path), f"{dataset}/{tables[0].name}")


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
        found = {movie: given.get(movie, []) for movie in movies["id"]}
        counts["objects_of_unknown_movies"] = sum(len(objects) for movie, objects in given.items() if movie not in found)
        classes = sorted({one.label for objects in found.values() for one in objects})
        if not classes:
            raise InputError(f"{dataset}: {GIVEN} has no object of any of the {len(movies)} movies; its column id holds their IDs")
    elif parameters.detectors:
        found, versions, classes, reasons = detect_movies(dataset, movies, parameters.detectors, store)
        counts["source"] = ", ".join(parameters.detectors)
    else:
        raise InputError(f"params.yaml: detectors: two_stream/… needs one at least, or the objects in a table, {dataset}/{GIVEN}")
    write_detections(DatasetDetections(detect_sentences(found, store), versions, classes), FOLDER)
    labels = Counter(one.label for objects in found.values() for one in objects)
    without = sum(not objects for objects in found.values())
    counts |= {
        "posters": len(movies),
        "posters_without_objects": without,
        "unreadable": len(reasons),
        "reasons": dict(sorted(Counter(reasons.values()).items())),
        "objects": dict(labels.most_common()),
    }
    write_json(COUNTS, counts)
    seen = f"{len(movies) - without} of {len(movies)} posters"
    print(f"{labels.total()} objects of {len(labels)} classes on {seen} ({counts['source']})")


if __name__ == "__main__":
    errors.run(main)
