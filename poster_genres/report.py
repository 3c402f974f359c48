"""metrics/report.html: one page with everything inside, for people to open."""

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
# In rem, as in report.html: how broad a poster with boxes is, a letter of their captions about, their margins, and their line.
BROAD, LETTER, MARGIN, LINE = 11.25, 0.45, 0.3, 1.0
FIGURES = ("curves", "genres", "precision_recall", "reliability", "confusions")


def picture(data: bytes, kind: str) -> str:
    """An image file's content as the address of an <img>."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def choose_examples(labels: np.ndarray, probabilities: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The rows of test posters for the gallery: those with the lowest and the highest cross-entropy, and random ones.

    Parameters
    ----------
    labels, probabilities : (posters, genres)
    """
    given = np.where(labels > 0, probabilities, 1 - probabilities)
    loss = -np.log(np.clip(given, 1e-7, 1)).mean(axis=1)
    order = np.argsort(loss, kind="stable")
    random = np.random.default_rng(seed).permutation(len(loss))
    return {"best": order[:SHOWN], "worst": order[::-1][:SHOWN], "random": random[:SHOWN]}


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def describe_objects(objects: list[Detection], height: int, width: int) -> dict[str, Any]:
    """What the gallery shows of what is on a poster of (height, width) pixels: boxes, names of objects, words, how many are shown.

    Places are in percent of the poster's size, for styles. Lettering has its words under the poster, where there is room for them.
    """
    chosen = most_confident(objects)
    named = [one for one in chosen if not is_read(one)]
    captions = [caption(one) for one in named]
    # How large they come out, about; browsers have fonts of their own.
    sizes = np.array([(LETTER * len(text) + MARGIN, LINE * width / height) for text in captions]).reshape(-1, 2) / BROAD
    places = place_captions(named, np.minimum(sizes, 1))
    return {
        "boxes": [
            {"words": is_read(one), "left": _percent(one.left), "top": _percent(one.top)}
            | {"width": _percent(one.width), "height": _percent(one.height)}
            for one in chosen
        ],
        "captions": [
            {"text": text, "left": _percent(left), "top": _percent(top)} for text, (left, top) in zip(captions, places, strict=True)
        ],
        "words": words_of(objects),
        "how_many": how_many(objects),
    }


def describe_poster(
    poster: np.ndarray, movie: Any, genres: list[str], probabilities: np.ndarray, objects: list[Detection] | None
) -> dict[str, Any]:
    """What the gallery shows of a poster: picture, title, year, true genres, and the likeliest ones with whether they are true.

    And of the `objects` on it what `describe_objects` says; None where there are none, or no detector looked.
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
        "found": describe_objects(objects, *poster.shape[:2]) if objects else None,
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
    model : what it is, a name and a value a line
    scores : rows of the test split of metrics/scores.csv
    by_genre, confusions, decades, duplicates, words : as in the files of those names
    figures : the folder of the pictures
    gallery : for each heading, posters as `describe_poster` gives them
    """
    # Titles come from outside; what is put into the page is escaped.
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
