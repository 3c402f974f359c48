"""metrics/report.html: one self-contained page."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from poster_genres.captions import caption, how_many, is_read, most_confident, place_captions, words_of
from poster_genres.files import whole_file
from poster_genres.objects import Detection

SHOWN = 12
TOP = 10
# In rem, as in report.html: width of a poster with boxes; letter width (about), padding and line height of captions.
BROAD, LETTER, MARGIN, LINE = 11.25, 0.45, 0.3, 1.0
FIGURES = ("curves", "genres", "precision_recall", "reliability", "confusions")


def picture(data: bytes, kind: str) -> str:
    """An image file's content as a data URL for <img>."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def choose_examples(labels: np.ndarray, probabilities: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The rows of the gallery's test posters: those with the lowest and the highest cross-entropy, and random ones.

    Parameters
    ----------
    labels, probabilities : (posters, genres)
    """
    likelihoods = np.where(labels > 0, probabilities, 1 - probabilities)
    loss = -np.log(np.clip(likelihoods, 1e-7, 1)).mean(axis=1)
    order = np.argsort(loss, kind="stable")
    random = np.random.default_rng(seed).permutation(len(loss))
    return {"best": order[:SHOWN], "worst": order[::-1][:SHOWN], "random": random[:SHOWN]}


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def describe_detections(detections: list[Detection], height: int, width: int) -> dict[str, Any]:
    """The gallery's view of the detections on a poster of (height, width) pixels: boxes, captions, words, how many are shown.

    Positions are in percent of the poster's size, for CSS. Words are under the poster, where there is room for them.
    """
    shown = most_confident(detections)
    captioned = [detection for detection in shown if not is_read(detection)]
    captions = [caption(detection) for detection in captioned]
    # Approximate, as fonts differ between browsers.
    sizes = np.array([(LETTER * len(text) + MARGIN, LINE * width / height) for text in captions]).reshape(-1, 2) / BROAD
    positions = place_captions(captioned, np.minimum(sizes, 1))
    return {
        "boxes": [
            {"words": is_read(detection), "left": _percent(detection.left), "top": _percent(detection.top)}
            | {"width": _percent(detection.width), "height": _percent(detection.height)}
            for detection in shown
        ],
        "captions": [
            {"text": text, "left": _percent(x), "top": _percent(y)} for text, (x, y) in zip(captions, positions, strict=True)
        ],
        "words": words_of(detections),
        "how_many": how_many(detections),
    }


def describe_poster(
    poster: np.ndarray, movie: Any, genres: list[str], probabilities: np.ndarray, detections: list[Detection] | None
) -> dict[str, Any]:
    """The gallery's view of a poster: picture, title, year, true genres, and the most probable ones with whether they are true.

    And `describe_detections` of what is on it; None where there are none, or no detector was used.
    """
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(poster)).save(buffer, "JPEG", quality=80)
    likeliest = np.argsort(-probabilities, kind="stable")[:TOP]
    return {
        "picture": picture(buffer.getvalue(), "jpeg"),
        "title": movie["title"] or movie["id"],
        "year": movie["year"],
        "true": [genre for genre in genres if movie[genre]],
        "said": [(genres[i], float(probabilities[i]), bool(movie[genres[i]])) for i in likeliest],
        "found": describe_detections(detections, *poster.shape[:2]) if detections else None,
    }


def write_report(
    path: Path,
    model: dict[str, str],
    scores: pd.DataFrame,
    by_genre: pd.DataFrame,
    confusions: pd.DataFrame,
    decades: pd.DataFrame,
    duplicates: pd.DataFrame,
    words: pd.DataFrame,
    figures: Path,
    gallery: dict[str, list[dict[str, Any]]],
) -> None:
    """Write the page.

    Parameters
    ----------
    model : its properties by name
    scores : rows of the test split of metrics/scores.csv
    by_genre, confusions, decades, duplicates, words : the tables of metrics/ with these names
    figures : the folder of the figures
    gallery : for each heading, posters from `describe_poster`
    """
    # Titles are not trusted, so all values are escaped.
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    text = environment.get_template("report.html").render(
        model=model,
        scores=scores.to_dict("records"),
        genres=by_genre.sort_values("average_precision", ascending=False).to_dict("records"),
        confusions=confusions.head(10).to_dict("records"),
        decades=decades.to_dict("records"),
        duplicates=duplicates.head(20).to_dict("records"),
        duplicate_count=len(duplicates),
        words={genre: list(rows["word"]) for genre, rows in words.groupby("genre")},
        figures={name: picture((figures / f"{name}.png").read_bytes(), "png") for name in FIGURES},
        gallery=gallery,
    )
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
