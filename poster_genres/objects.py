"""What detectors found on posters: a table with a row an object, and what the words on each poster mean."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from poster_genres.errors import InputError
from poster_genres.files import whole_file, write_json

NUMBERS = ["confidence", "left", "top", "width", "height"]
COLUMNS = ["id", "label", *NUMBERS, "text"]
# What the vector says of each class.
MEASURES = ("confidence", "count", "area", "largest", "center")
# How far an edge of a box may lie outside of the poster, from rounding or by a detector's guess; it is cut off.
TOLERANCE = 0.1


class Detection(NamedTuple):
    """An object on a poster.

    Attributes
    ----------
    label : its class
    confidence : how sure the detector is, in [0, 1]
    left, top, width, height : its box, in shares of the poster's size
    text : what it says, where it is lettering
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
    """What was found on a poster.

    Attributes
    ----------
    objects : in the order in which they were found
    sentence : what the words among them mean, float32 (`sentences.LENGTH`,); zeros where there are none
    """

    objects: list[Detection]
    sentence: np.ndarray


def text_of(objects: list[Detection]) -> str:
    """All that is written on a poster, a line a piece of lettering."""
    return "\n".join(one.text for one in objects if one.text)


def clipped(label: str, confidence: float, left: float, top: float, right: float, bottom: float, text: str = "") -> Detection:
    """An object whose box is cut off at the poster's edges, rounded to six digits, as tables have it."""
    left, top, right, bottom = (min(max(float(value), 0.0), 1.0) for value in (left, top, right, bottom))
    confidence, left, top, width, height = (round(float(value), 6) for value in (confidence, left, top, right - left, bottom - top))
    return Detection(label, confidence, left, top, width, height, text)


def parse_objects(data: bytes, name: str) -> dict[str, list[Detection]]:
    """Read a table of objects that somebody gives.

    Parameters
    ----------
    data : UTF-8 CSV with the columns `COLUMNS`, of which `text` may be missing; others are passed over
    name : what to call it in errors

    Returns
    -------
    The objects by the movies' IDs.

    Raises
    ------
    InputError
        A column is missing; a number is none, or out of range; a box lies outside of the poster. The message names the row.
    """
    try:
        table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, na_filter=False, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{name}: not readable as UTF-8 CSV: {' '.join(str(error).split())}") from None
    if "text" not in table:
        table["text"] = ""
    if missing := [column for column in COLUMNS if column not in table]:
        raise InputError(f"{name}: has no column {missing[0]!r}; the columns are {', '.join(COLUMNS)}")

    def refuse(wrong: pd.Series, column: str, right: str) -> None:
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise InputError(f"{name}: row {row + 2}: {column} {table[column].iloc[row]!r}: should be {right}")

    for column in ("id", "label"):
        refuse(table[column].str.strip() == "", column, "a name")
    numbers = table[NUMBERS].apply(pd.to_numeric, errors="coerce")
    for column in NUMBERS:
        low = -TOLERANCE if column in ("left", "top") else 0.0
        high = 1.0 if column == "confidence" else 1 + 2 * TOLERANCE
        share = "a number in [0, 1]" if column == "confidence" else "a share of the poster's size, in [0, 1]"
        refuse(~numbers[column].between(low, high), column, share)
    for start, size in (("left", "width"), ("top", "height")):
        refuse(numbers[start] + numbers[size] > 1 + TOLERANCE, size, f"no more than what is left of the poster from its {start}")
    found: dict[str, list[Detection]] = {}
    rows = zip(table["id"], table["label"], *(numbers[column] for column in NUMBERS), table["text"], strict=True)
    for movie, label, confidence, left, top, width, height, text in rows:
        found.setdefault(movie, []).append(clipped(label, confidence, left, top, left + width, top + height, text))
    return found


def object_vectors(found: list[PosterDetections], classes: list[str]) -> np.ndarray:
    """Describe each poster's objects by a vector of fixed length.

    Parameters
    ----------
    found : of each poster
    classes : the labels that count

    Returns
    -------
    float32 (posters, len(classes) * len(MEASURES)). Of each class: the highest confidence; the logarithm of one more than the
    number of objects; the share of the poster that their boxes take, 1 at most; that of the largest; and how far below the
    poster's middle their centre lies, in [-0.5, 0.5], large boxes weighing more. 0 where there are none. The mirror image's vector
    is the same.
    """
    vectors = np.zeros((len(found), len(classes), len(MEASURES)), np.float32)
    for i, detected in enumerate(found):
        for k, label in enumerate(classes):
            if boxes := [one for one in detected.objects if one.label == label]:
                areas = np.array([one.width * one.height for one in boxes])
                centers = [one.top + one.height / 2 for one in boxes]
                confidence = max(one.confidence for one in boxes)
                center = np.average(centers, weights=areas + 1e-6) - 0.5
                vectors[i, k] = (confidence, np.log1p(len(boxes)), min(areas.sum(), 1.0), areas.max(), center)
    return vectors.reshape(len(found), len(classes) * len(MEASURES))


@dataclass(frozen=True)
class DatasetDetections:
    """What the stage `detect` found, by the movies' IDs; the detectors with their versions; the classes of objects."""

    by_movie: dict[str, PosterDetections]
    detectors: dict[str, str]
    classes: list[str]

    @property
    def posters(self) -> list[PosterDetections]:
        """What was found on each poster, in the order of the movies."""
        return list(self.by_movie.values())


def write_detections(detections: DatasetDetections, folder: Path) -> None:
    """Write objects.csv, a row an object; sentences.npy, a row a movie; and detectors.json, with the movies' IDs in that order."""
    rows = [(movie, *one) for movie, detected in detections.by_movie.items() for one in detected.objects]
    with whole_file(folder / "objects.csv") as temporary:
        table = pd.DataFrame(rows, columns=COLUMNS)
        table.to_csv(temporary, index=False, encoding="utf-8", float_format="%.6g", lineterminator="\n")
    sentences = np.array([detected.sentence for detected in detections.posters], np.float32)
    with whole_file(folder / "sentences.npy") as temporary, temporary.open("wb") as file:
        np.save(file, sentences, allow_pickle=False)
    write_json(
        folder / "detectors.json",
        {"detectors": detections.detectors, "classes": detections.classes, "movies": list(detections.by_movie)},
    )


def read_detections(folder: Path, ids: list[str]) -> DatasetDetections:
    """Read what the stage `detect` wrote, for the movies with these IDs, in their order.

    Raises
    ------
    InputError
        It is not there, or does not belong to these movies.
    """
    try:
        about = json.loads((folder / "detectors.json").read_text(encoding="utf-8"))
        table = (folder / "objects.csv").read_bytes()
        sentences = dict(zip(about["movies"], np.load(folder / "sentences.npy", allow_pickle=False), strict=True))
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: not there yet; `dvc repro` makes it") from None
    except (ValueError, KeyError):
        raise InputError(f"{folder}: damaged; remove it, and `dvc repro` makes it anew") from None
    if not about["classes"] or not set(ids) <= set(sentences):
        raise InputError(f"{folder}: not of these movies, or of another architecture; `dvc repro` makes it anew")
    found = parse_objects(table, str(folder / "objects.csv"))
    return DatasetDetections(
        {movie: PosterDetections(found.get(movie, []), sentences[movie]) for movie in ids}, about["detectors"], about["classes"]
    )
