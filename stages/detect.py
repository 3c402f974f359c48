"""Detect the objects and lettering on each poster, for two_stream/… architectures.

In: data/movies.csv and the posters of `dataset`, or its detections.csv, which replaces all detectors. Out, in data/detections:
objects.csv, one row per object; sentences.npy and titles.npy, embeddings of the words on each movie's poster, all of them and the
largest, float32 (movies, 768); detectors.json, with the detectors' versions, their classes and the movies' IDs. Also out:
data/sources.json, from which posters and detectors they come; and metrics/detect.json. For other architectures these are empty.
Detections are also stored in .dvc/tmp, from where an interrupted run resumes; what another clone found and DVC's remote has is
not looked for again.
Run: `python -m stages.detect`.
"""

import contextlib
import hashlib
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from poster_genres import errors
from poster_genres.dataset import NOT_READ, File, list_files, read_bytes, read_table_bytes
from poster_genres.errors import InputError
from poster_genres.files import repository, write_json
from poster_genres.found import Store
from poster_genres.movies import read_movies
from poster_genres.objects import DatasetDetections, Detection, PosterDetections, parse_objects, write_detections
from poster_genres.parameters import DetectParameters, read_parameters
from poster_genres.progress import progress

GIVEN = "detections.csv"
FOLDER = Path("data/detections")
SOURCES = Path("data/sources.json")
COUNTS = Path("metrics/detect.json")


def read_poster(dataset: Path, archive: str, path: str) -> bytes:
    """The bytes of a poster's file; empty if it cannot be read, which `detection.detect` then reports."""
    with contextlib.suppress(*NOT_READ):
        return read_bytes(dataset, archive, path)
    return b""


def restore_from_dvc(store: Store) -> None:
    """Add what the last run of this stage found, here or in another clone, if DVC's cache or remote has it, and say so. DVC has
    removed the files by now, but dvc.lock still tells their hashes."""
    try:
        if SOURCES.as_posix() not in Path("dvc.lock").read_text(encoding="utf-8"):
            return
    except OSError:
        return
    from dvc.api import DVCFileSystem

    from poster_genres.detection import restore

    with TemporaryDirectory() as temporary:
        try:
            dvc = DVCFileSystem()
            for path in (SOURCES, FOLDER):
                dvc.get(path.as_posix(), str(Path(temporary) / path.name), recursive=True)
        except Exception as error:  # DVC passes on those of its remotes, whose kinds are many
            reason = next(iter(str(error).splitlines()), "")[:200]
            print(f"DVC does not have what was found before ({type(error).__name__}: {reason}); detecting again", file=sys.stderr)
            return
        if added := restore(Path(temporary), store):
            print(f"{added} detections and texts' meanings of the last run are taken over from DVC", file=sys.stderr)


def detect_movies(
    dataset: Path, movies: pd.DataFrame, detectors: list[str], store: Store, dask_scheduler: str | None
) -> tuple[dict[str, list[Detection]], dict[str, str], list[str], dict[str, str], dict[str, Any]]:
    """Run the detectors on those of the movies' posters for which the store has no detections.

    Returns
    -------
    The detections on all posters, by movie ID; the detectors' versions, by name; their classes; the reasons why posters cannot be
    read, by movie ID; and what `detection.Sources` has of the posters.
    """
    from poster_genres.detection import detect, open_detector, stored_under

    def read(movie: Any) -> bytes:
        content = read_poster(dataset, movie.archive, movie.poster)
        digests[movie.id] = hashlib.sha256(content).hexdigest()
        return content

    by_movie: dict[str, list[Detection]] = {movie: [] for movie in movies["id"]}
    reasons: dict[str, str] = {}
    versions: dict[str, str] = {}
    classes: list[str] = []
    digests: dict[str, str] = {}
    counts: list[dict[str, int]] = []
    for name in detectors:
        detector = open_detector(name)
        versions[name] = detector.version
        classes += [label for label in detector.classes if label not in classes]
        posters = map(read, movies.itertuples())
        counts.append({})
        with progress(name, len(movies)) as bar:
            for movie, result in zip(movies["id"], detect(name, posters, store, dask_scheduler), strict=True):
                bar.update()
                if isinstance(result, str):
                    reasons[movie] = result
                else:
                    by_movie[movie] += result
                    counts[-1][movie] = len(result)
    readable = {movie: digest for movie, digest in digests.items() if movie not in reasons}
    sources: dict[str, Any] = {"posters": readable, "keys": [stored_under(name) for name in detectors]}
    sources["counts"] = [[count[movie] for movie in readable] for count in counts]
    return by_movie, versions, classes, reasons, sources


def detect_sentences(by_movie: dict[str, list[Detection]], store: Store, dask_scheduler: str | None) -> dict[str, PosterDetections]:
    """Add embeddings of the words on each poster to its detections."""
    from poster_genres.detection import with_embeddings

    found = {}
    with progress("sentences", len(by_movie)) as bar:
        for movie, content in zip(by_movie, with_embeddings(by_movie.values(), store, dask_scheduler), strict=True):
            found[movie] = content
            bar.update()
    return found


def finish_sources(sources: dict[str, Any]) -> dict[str, Any]:
    """The content of data/sources.json, given what `detect_movies` returned, after data/detections was written."""
    from poster_genres.detection import Sources, hashes, sentences_stored_under

    return asdict(Sources(**sources, sentences=sentences_stored_under(), files=hashes(FOLDER)))


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
        write_json(SOURCES, {})
        write_json(COUNTS, {"needed": False})
        print("the architecture is not two_stream/…: nothing to detect")
        return
    dataset = Path(parameters.dataset)
    movies = read_movies(Path("data/movies.csv"))
    given = given_objects(dataset, list_files(dataset))
    counts: dict[str, Any] = {"needed": True, "source": GIVEN}
    store = Store(repository() / ".dvc" / "tmp" / "detections.db", restore_from_dvc)
    versions: dict[str, str] = {}
    reasons: dict[str, str] = {}
    sources: dict[str, Any] = {}
    if given is not None:
        by_movie = {movie: given.get(movie, []) for movie in movies["id"]}
        counts["objects_of_unknown_movies"] = sum(len(rows) for movie, rows in given.items() if movie not in by_movie)
        classes = sorted({detection.label for detections in by_movie.values() for detection in detections})
        if not classes:
            raise InputError(f"{dataset}: {GIVEN} has no object of any of the {len(movies)} movies; its column id holds their IDs")
    elif parameters.detectors:
        by_movie, versions, classes, reasons, sources = detect_movies(
            dataset, movies, parameters.detectors, store, parameters.dask_scheduler
        )
        counts["source"] = ", ".join(parameters.detectors)
    else:
        raise InputError(
            f"params.yaml: detectors: two_stream/… needs one at least, or the objects in a table, {dataset}/{GIVEN}; "
            f"for pictures alone name the architecture without two_stream/"
        )
    write_detections(DatasetDetections(detect_sentences(by_movie, store, parameters.dask_scheduler), versions, classes), FOLDER)
    write_json(SOURCES, finish_sources(sources) if sources else {})
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
    others = f"; {number} of other IDs are left out" if (number := counts.get("objects_of_unknown_movies")) else ""
    kinds = "1 class" if len(by_class) == 1 else f"{len(by_class)} classes"
    print(f"{by_class.total()} objects of {kinds} on {posters} ({counts['source']}){others}")


if __name__ == "__main__":
    errors.run_stage(main)
