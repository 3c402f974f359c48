"""Detections on posters: a table with one row per detection, feature vectors, and embeddings of each poster's text."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from poster_genres.errors import InputError
from poster_genres.files import whole_folder, write_json

NUMBERS = ["confidence", "left", "top", "width", "height"]
COLUMNS = ["id", "label", *NUMBERS, "text"]
# The features of each class in `object_vectors`.
MEASURES = ("confidence", "count", "area", "largest", "center")
# Of a sentence's embedding; here, as training does not depend on the sentence model.
SENTENCE_LENGTH = 768
# The largest lines of a poster, which mostly are the title, are those at least so many times as tall as the tallest. That is the
# height of their boxes: a line that runs upwards counts as large.
LARGEST = 0.6
# The files of embeddings in data/detections: of texts and of titles.
EMBEDDINGS = ("sentences.npy", "titles.npy")
# How far a box may extend beyond the poster, through rounding or a detector's error, before it is clipped.
TOLERANCE = 0.1


class Detection(NamedTuple):
    """One detected object.

    Attributes
    ----------
    label : its class
    confidence : in [0, 1]
    left, top, width, height : its bounding box, as fractions of the poster's size
    text : the recognised text, if the object is lettering
    """

    label: str
    confidence: float
    left: float
    top: float
    width: float
    height: float
    text: str = ""


@dataclass(frozen=True)
class PosterDetections:
    """The detections on one poster.

    Attributes
    ----------
    objects : in the order in which the detectors returned them
    sentence : the embedding of the poster's text, float32 (SENTENCE_LENGTH,); zeros without text
    title : the embedding of its largest lines, likewise
    """

    objects: list[Detection]
    sentence: np.ndarray
    title: np.ndarray


def text_of(detections: list[Detection]) -> str:
    """All text on a poster, one line per detection."""
    return "\n".join(detection.text for detection in detections if detection.text)


def is_title(detections: list[Detection]) -> list[bool]:
    """Whether each detection is one of the largest lines of text: at least LARGEST times as tall as the tallest."""
    tallest = max((detection.height for detection in detections if detection.text.strip()), default=0.0)
    return [bool(detection.text.strip()) and detection.height >= LARGEST * tallest for detection in detections]


def title_of(detections: list[Detection]) -> str:
    """The largest lines of text on a poster, one line per detection."""
    return text_of([detection for detection, title in zip(detections, is_title(detections), strict=True) if title])


def clipped(label: str, confidence: float, left: float, top: float, right: float, bottom: float, text: str = "") -> Detection:
    """A detection whose box is clipped to the poster and rounded to six digits, as in the table."""
    left, top, right, bottom = (min(max(float(value), 0.0), 1.0) for value in (left, top, right, bottom))
    confidence, left, top, width, height = (round(float(value), 6) for value in (confidence, left, top, right - left, bottom - top))
    return Detection(label, confidence, left, top, width, height, text)


def parse_objects(data: bytes, name: str) -> dict[str, list[Detection]]:
    """Parse a table of detections.

    Parameters
    ----------
    data : UTF-8 CSV with the columns `COLUMNS`; `text` is optional, and other columns are ignored
    name : the table's name in error messages

    Returns
    -------
    The detections by movie ID.

    Raises
    ------
    InputError
        It is no CSV, a row has too many cells, a column is missing, a value is not a number or is out of range, or a box lies
        outside the poster. Names the row.
    """
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not readable as UTF-8 CSV: {error}") from None
    # Not by pandas, which makes one row of those behind a quote that is not closed, and shifts the cells of a row with too many.
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        header, *rows = [row for row in reader if row]
    except csv.Error as error:
        raise InputError(f"{name}: not readable as UTF-8 CSV at line {reader.line_num}: {error}; look for a double quote") from None
    except ValueError:
        raise InputError(f"{name}: not readable as UTF-8 CSV: it is empty") from None
    if len(set(header)) < len(header):
        raise InputError(f"{name}: two columns of the header have one name")
    for i, row in enumerate(rows):
        if any(row[len(header) :]):
            raise InputError(f"{name}: row {i + 2}: {len(row)} cells, but the header has {len(header)}")
    cells = [(row + [""] * len(header))[: len(header)] for row in rows]
    table = pd.DataFrame(cells, columns=header, dtype=str)
    if "text" not in table:
        table["text"] = ""
    if missing := [column for column in COLUMNS if column not in table]:
        raise InputError(f"{name}: has no column {missing[0]!r}; the columns are {', '.join(COLUMNS)}")

    def reject(invalid: pd.Series, column: str, expected: str) -> None:
        if invalid.any():
            row = int(invalid.to_numpy().argmax())
            raise InputError(f"{name}: row {row + 2}: {column} {table[column].iloc[row]!r}: should be {expected}")

    for column in ("id", "label"):
        reject(table[column].str.strip() == "", column, "a name")
    numbers = table[NUMBERS].apply(pd.to_numeric, errors="coerce")
    for column in NUMBERS:
        low = -TOLERANCE if column in ("left", "top") else 0.0
        high = 1.0 if column == "confidence" else 1 + 2 * TOLERANCE
        expected = "a number in [0, 1]" if column == "confidence" else "a share of the poster's size, in [0, 1]"
        reject(~numbers[column].between(low, high), column, expected)
    for start, size in (("left", "width"), ("top", "height")):
        reject(numbers[start] + numbers[size] > 1 + TOLERANCE, size, f"no more than what is left of the poster from its {start}")
    detections_by_id: dict[str, list[Detection]] = {}
    values = zip(table["id"], table["label"], *(numbers[column] for column in NUMBERS), table["text"], strict=True)
    for movie, label, confidence, left, top, width, height, text in values:
        # A lone carriage return would not come back from objects.csv.
        words = text.replace("\r\n", "\n").replace("\r", "\n")
        detection = clipped(label.replace("\r", " "), confidence, left, top, left + width, top + height, words)
        detections_by_id.setdefault(movie, []).append(detection)
    return detections_by_id


def object_vectors(contents: list[PosterDetections], classes: list[str]) -> np.ndarray:
    """Feature vectors of fixed length for the detections on each poster.

    Parameters
    ----------
    contents : the detections on each poster
    classes : the classes to describe; other detections are ignored

    Returns
    -------
    float32 (posters, len(classes) * len(MEASURES)). For each class: the highest confidence; log(1 + number of detections); the
    boxes' total area as a fraction of the poster, at most 1; the largest box's area; and the mean vertical centre of the boxes,
    weighted by area, relative to the poster's centre, in [-0.5, 0.5], positive below it. All 0 for a class without detections.
    The features do not change when the poster is mirrored.
    """
    vectors = np.zeros((len(contents), len(classes), len(MEASURES)), np.float32)
    for i, content in enumerate(contents):
        for k, label in enumerate(classes):
            if detections := [detection for detection in content.objects if detection.label == label]:
                areas = np.array([detection.width * detection.height for detection in detections])
                centers = [detection.top + detection.height / 2 for detection in detections]
                confidence = max(detection.confidence for detection in detections)
                center = np.average(centers, weights=areas + 1e-6) - 0.5
                vectors[i, k] = (confidence, np.log1p(len(detections)), min(areas.sum(), 1.0), areas.max(), center)
    return vectors.reshape(len(contents), len(classes) * len(MEASURES))


@dataclass(frozen=True)
class DatasetDetections:
    """The output of the stage `detect`: detections by movie ID, the detectors' versions by name, and the detectors' classes."""

    by_movie: dict[str, PosterDetections]
    detectors: dict[str, str]
    classes: list[str]

    @property
    def posters(self) -> list[PosterDetections]:
        """The detections on each poster, in the order of the movies."""
        return list(self.by_movie.values())


def write_detections(dataset: DatasetDetections, folder: Path) -> None:
    """Write objects.csv, one row per detection; sentences.npy and titles.npy, one row per movie; and detectors.json, with the movie
    IDs."""
    rows = [(movie, *detection) for movie, content in dataset.by_movie.items() for detection in content.objects]
    table = pd.DataFrame(rows, columns=COLUMNS)
    embeddings = ([content.sentence for content in dataset.posters], [content.title for content in dataset.posters])
    about = {"detectors": dataset.detectors, "classes": dataset.classes, "movies": list(dataset.by_movie)}
    with whole_folder(folder) as temporary:
        table.to_csv(temporary / "objects.csv", index=False, encoding="utf-8", float_format="%.6g", lineterminator="\n")
        for name, rows_of_movies in zip(EMBEDDINGS, embeddings, strict=True):
            np.save(temporary / name, np.array(rows_of_movies, np.float32), allow_pickle=False)
        write_json(temporary / "detectors.json", about)


def read_detections(folder: Path, ids: list[str], embeddings: tuple[str, ...] = EMBEDDINGS) -> DatasetDetections:
    """Read the output of the stage `detect` for the movies with these IDs, in this order.

    Parameters
    ----------
    embeddings : the files with those of the texts and of the titles

    Raises
    ------
    InputError
        A file is missing or damaged, or belongs to other movies.
    """
    try:
        metadata = json.loads((folder / "detectors.json").read_text(encoding="utf-8"))
        table = (folder / "objects.csv").read_bytes()
        sentences, titles = (
            dict(zip(metadata["movies"], np.load(folder / name, allow_pickle=False), strict=True)) for name in embeddings
        )
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: not there yet; `dvc repro` makes it") from None
    except (ValueError, KeyError, TypeError, EOFError):
        raise InputError(f"{folder}: damaged; remove it, and `dvc repro` makes it again") from None
    if not metadata["classes"] or not set(ids) <= set(sentences):
        raise InputError(f"{folder}: not of these movies, or of another architecture; `dvc repro` makes it again")
    detections_by_id = parse_objects(table, str(folder / "objects.csv"))
    by_movie = {movie: PosterDetections(detections_by_id.get(movie, []), sentences[movie], titles[movie]) for movie in ids}
    return DatasetDetections(by_movie, metadata["detectors"], metadata["classes"])
