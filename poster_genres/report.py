"""metrics/report.html: one self-contained page."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from poster_genres.captions import caption, how_many, is_read, most_confident, place_captions, words_of
from poster_genres.figures import COLORS, LISTED
from poster_genres.files import whole_file
from poster_genres.objects import Detection
from poster_genres.posters import data_url

SHOWN = 12
# Most of them are drawn 11.25 rem wide: larger pictures would only make the page larger.
THUMBNAIL = (270, 400)
# A wrong genre with at least this probability is a confident mistake, and the loudest thing on the page.
SURE = 0.5
LOW_IS_GOOD = ("hamming_loss", "binary_cross_entropy", "macro_calibration_error", "macro_calibration_error_by_chance")
# What stands beside a score's name.
NOTES = dict.fromkeys(LOW_IS_GOOD, "low is good") | {"macro_calibration_error_by_chance": "of perfect calibration"}
# In rem, as in report.html: width of a poster with boxes; letter width (about), padding and line height of captions.
BROAD, LETTER, MARGIN, LINE = 11.25, 0.45, 0.3, 1.0


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
    return {"worst": order[::-1][:SHOWN], "random": random[:SHOWN], "best": order[:SHOWN]}


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
    poster: np.ndarray,
    movie: Any,
    genres: list[str],
    probabilities: np.ndarray,
    thresholds: np.ndarray,
    detections: list[Detection] | None,
) -> dict[str, Any]:
    """The gallery's view of a poster: picture, title, year, its true and predicted genres, and what was detected on it.

    Parameters
    ----------
    poster : uint8 (height, width, 3)
    movie : its row of the table of movies
    probabilities, thresholds : (genres,)

    Returns
    -------
    Of `genres`, those with the highest loss first: name, probability, and whether it is `right`, `missed`, `wrong` or, with SURE,
    `sure` and wrong. `found` is of `describe_detections`; None without detections.
    """
    image = Image.fromarray(np.asarray(poster))
    image.thumbnail(THUMBNAIL)
    said = probabilities >= thresholds
    shown = [i for i in range(len(genres)) if said[i] or movie[genres[i]]]
    likelihood = {i: probabilities[i] if movie[genres[i]] else 1 - probabilities[i] for i in shown}

    def verdict(i: int) -> str:
        if movie[genres[i]]:
            return "right" if said[i] else "missed"
        return "sure" if probabilities[i] >= SURE else "wrong"

    return {
        "picture": data_url(image, "jpeg"),
        "width": image.width,
        "height": image.height,
        "title": movie["title"] or movie["id"],
        "year": movie["year"],
        "genres": [(genres[i], float(probabilities[i]), verdict(i)) for i in sorted(shown, key=lambda i: float(likelihood[i]))],
        "found": describe_detections(detections, *poster.shape[:2]) if detections else None,
    }


def write_report(
    path: Path,
    about: dict[str, Any],
    scores: pd.DataFrame,
    by_genre: pd.DataFrame,
    tables: dict[str, pd.DataFrame],
    charts: dict[str, str],
    gallery: dict[str, list[dict[str, Any]]],
) -> None:
    """Write the page.

    Parameters
    ----------
    about : of the model and its run, from `evaluate.describe_run`
    scores : rows of the test split of metrics/scores.csv
    by_genre : the table of metrics/genres_test.csv
    tables : those of metrics/ with the names confusions, decades, duplicates and words
    charts : SVG elements by the figures' names; those that are not there are left out
    gallery : worst, random and best posters, from `describe_poster`
    """
    # Titles are not trusted, so all values are escaped.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("report.html").render(
        about=about,
        headline=scores.set_index("score").loc["macro_average_precision"].to_dict(),
        scores=scores.assign(note=scores["score"].map(NOTES).fillna("")).to_dict("records"),
        genres=by_genre.sort_values("average_precision", ascending=False).to_dict("records"),
        confusions=tables["confusions"].head(LISTED).to_dict("records"),
        confusion_count=len(tables["confusions"]),
        decades=tables["decades"].to_dict("records"),
        duplicates=tables["duplicates"].head(LISTED).to_dict("records"),
        duplicate_count=len(tables["duplicates"]),
        words={genre: rows.head(LISTED).to_dict("records") for genre, rows in tables["words"].groupby("genre")},
        charts=charts,
        gallery=gallery,
        colors=COLORS,
        sure=SURE,
    )
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
