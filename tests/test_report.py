"""The page for people."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from poster_genres.objects import Detection
from poster_genres.report import FIGURES, choose_examples, describe_poster, write_report


def test_best_and_worst_are_by_cross_entropy() -> None:
    labels = np.tile(np.array([[1.0, 0.0]]), (40, 1))
    probabilities = np.stack([np.linspace(0.1, 0.9, 40), np.full(40, 0.5)], axis=1)
    chosen = choose_examples(labels, probabilities, seed=0)
    assert chosen["best"].tolist() == list(range(39, 27, -1))
    assert chosen["worst"].tolist() == list(range(12))
    assert len(set(chosen["random"])) == 12
    assert chosen["random"].tolist() == choose_examples(labels, probabilities, seed=0)["random"].tolist()


def test_a_poster_is_described_with_its_true_genres() -> None:
    movie = pd.Series({"id": "tt1", "title": "", "year": "1999", "Comedy": 0, "Drama": 1, "Horror": 0})
    poster = np.zeros((30, 20, 3), np.uint8)
    found = describe_poster(poster, movie, ["Comedy", "Drama", "Horror"], np.array([0.2, 0.3, 0.1]), None)
    assert found["found"] is None
    assert (found["title"], found["year"], found["true"]) == ("tt1", "1999", ["Drama"])
    assert found["said"] == [
        ("Drama", pytest.approx(0.3), True), ("Comedy", pytest.approx(0.2), False), ("Horror", pytest.approx(0.1), False)
    ]  # fmt: skip
    assert found["picture"].startswith("data:image/jpeg;base64,")


def page_with(tmp_path: Path, *posters: dict[str, Any]) -> str:
    """The page with these posters in the gallery, and names that would be code if they were not escaped."""
    for name in FIGURES:
        (tmp_path / f"{name}.png").write_bytes(b"")
    scores = pd.DataFrame({"score": ["macro_f1"], "model": [0.5], "prior": [0.1], "low": [0.4], "high": [0.6]})
    numbers = ["average_precision", "low", "high", "prior_average_precision", "threshold", "precision", "recall", "f1"]
    row = dict.fromkeys(numbers, 0.5) | {"genre": "<u>", "positives": 3, "calibration_error": 0.01, "scored": True}
    genres = pd.DataFrame([row])
    nothing = pd.DataFrame()
    words = pd.DataFrame({"genre": ["<u>"], "word": ["<b>"]})
    tables = (scores, genres, nothing, nothing, nothing, words)
    write_report(tmp_path / "page.html", {"architecture": "<s>"}, *tables, tmp_path, {"Best": list(posters)})
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_what_comes_from_outside_is_text_and_not_code(tmp_path: Path) -> None:
    said = [("<i>", 0.5, True)]
    poster = {"picture": "", "title": "<script>alert(1)</script>", "year": "", "true": ["<b>"], "said": said, "found": None}
    page = page_with(tmp_path, poster)
    assert "&lt;script&gt;alert(1)" in page
    assert not any(tag in page for tag in ("<script", "<u>", "<i>", "<s>"))
    assert "None found by perceptual hash." in page


class Cards(HTMLParser):
    """The elements in the gallery's cards, as (tag, class, style, text), and the pictures' addresses are left out."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cards: list[list[list[str]]] = []
        self.open: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        one = [tag, given.get("class") or "", given.get("style") or given.get("aria-label") or "", ""]
        if "poster" in one[1].split():
            self.cards.append([])
        if self.cards and self.open:
            self.cards[-1].append(one)
        if tag in ("img", "br"):
            return
        if self.open or "poster" in one[1].split():
            self.open.append(one)

    def handle_endtag(self, tag: str) -> None:
        if self.open:
            assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.open[-1][3] += data.replace("\n", "")


MOVIE = pd.Series({"id": "tt1", "title": "Title", "year": "1999", "Drama": 1})


def describe(objects: list[Detection] | None) -> dict[str, Any]:
    return describe_poster(np.zeros((320, 224, 3), np.uint8), MOVIE, ["Drama"], np.array([0.25]), objects)


def test_what_was_found_is_on_the_page(tmp_path: Path) -> None:
    objects = [
        Detection("lettering", 0.8, 0.1, 0.05, 0.8, 0.1, "O'BRIEN & <i>SONS</i>"),
        Detection('<b>"x"</b>', 0.944, 0.25, 0.5, 0.5, 0.4),
        Detection("it's", 0.5, 0.0, 0.2, 0.123456, 0.1),
        Detection("lettering", 0.4, 0.5, 0.95, 0.2, 0.04),
        Detection("lettering", 0.3, 0.7, 0.95, 0.2, 0.04, "word " * 40),
    ]
    page = page_with(tmp_path, describe(objects), describe([]), describe(None))
    cards = Cards(page).cards
    start = [["div", "boxes", "", ""], ["img", "", "", ""]]
    about = [["b", "", "", "Title"], ["span", "quiet", "", "1999"], ["br", "", "", ""], ["ol", "", "", ""]]
    about += [["li", "yes", "", "Drama (0.250)"]]
    # Captions stand above their boxes, in a line of 1 rem on a poster of 11.25 rem; the last is moved into the poster.
    line = 100 * 1 / (11.25 * 320 / 224)
    assert cards[0] == [
        *start,
        ["span", "", "left:25.00%;top:50.00%;width:50.00%;height:40.00%", ""],
        ["span", "lettering", "left:10.00%;top:5.00%;width:80.00%;height:10.00%", ""],
        ["span", "", "left:0.00%;top:20.00%;width:12.35%;height:10.00%", ""],
        ["span", "", "left:50.00%;top:95.00%;width:20.00%;height:4.00%", ""],
        ["span", "lettering", "left:70.00%;top:95.00%;width:20.00%;height:4.00%", ""],
        ["ul", "", "On the poster", ""],
        ["li", "", f"left:25.00%;top:{50 - line:.2f}%", '<b>"x"</b> 0.94'],
        ["li", "", f"left:0.00%;top:{20 - line:.2f}%", "it's 0.50"],
        ["li", "", f"left:{100 - 100 * (14 * 0.45 + 0.3) / 11.25:.2f}%;top:{95 - line:.2f}%", "lettering 0.40"],
        ["div", "genres", "", " Drama"],
        *about,
        ["p", "", "", f"Words read: O'BRIEN & <i>SONS</i> · {'word ' * 18}word…"],
    ]  # fmt: skip
    assert cards[1] == cards[2] == [["img", "", "", ""], ["div", "", "", " Drama"], *about]
    assert not any(
        tag in page
        for tag in (
            "<script",
            "<i>",
            '<b>"',
        )
    )


def test_the_surest_of_many_are_on_the_page(tmp_path: Path) -> None:
    objects = [Detection("lettering", i / 40, 0.1, i / 40, 0.2, 0.02, f"W{i}") for i in range(31)]
    (card,) = Cards(page_with(tmp_path, describe(objects))).cards
    assert [one[2] for one in card if one[1] == "lettering"] == [
        f"left:10.00%;top:{i / 0.4:.2f}%;width:20.00%;height:2.00%" for i in range(30, 10, -1)
    ]
    words = " · ".join(f"W{i}" for i in range(31))
    assert [one for one in card if one[0] == "p"] == [
        ["p", "", "", f"Words read: {words[:119].rstrip()}…"],
        ["p", "quiet", "", "Boxes: 20 of 31 shown"],
    ]
    assert not [one for one in card if one[0] == "ul"]
