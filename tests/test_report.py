"""The page for people."""

import re
import warnings
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from poster_genres import figures
from poster_genres.captions import cut_middle
from poster_genres.evaluation import confusions
from poster_genres.figures import COLORS
from poster_genres.objects import Detection
from poster_genres.report import choose_examples, describe_poster, write_report


def test_best_and_worst_are_by_cross_entropy() -> None:
    labels = np.tile(np.array([[1.0, 0.0]]), (40, 1))
    probabilities = np.stack([np.linspace(0.1, 0.9, 40), np.full(40, 0.5)], axis=1)
    chosen = choose_examples(labels, probabilities, seed=0)
    assert chosen["best"].tolist() == list(range(39, 27, -1))
    assert chosen["worst"].tolist() == list(range(12))
    assert len(set(chosen["random"])) == 12
    assert chosen["random"].tolist() == choose_examples(labels, probabilities, seed=0)["random"].tolist()


def test_a_poster_is_described_with_its_true_and_predicted_genres_the_worst_mistake_first() -> None:
    genres = ["Comedy", "Drama", "Horror", "War", "Western"]
    movie = pd.Series({"id": "tt1", "title": "", "year": "1999", "Comedy": 0, "Drama": 1, "Horror": 1, "War": 0, "Western": 0})
    poster = np.zeros((800, 540, 3), np.uint8)
    found = describe_poster(poster, movie, genres, np.array([0.9, 0.6, 0.2, 0.45, 0.3]), np.full(5, 0.4), None)
    assert (found["title"], found["year"], found["found"]) == ("tt1", "1999", None)
    assert found["genres"] == [
        ("Comedy", 0.9, "sure"), ("Horror", 0.2, "missed"), ("War", 0.45, "wrong"), ("Drama", 0.6, "right")
    ]  # fmt: skip
    assert found["picture"].startswith("data:image/jpeg;base64,")
    assert (found["width"], found["height"]) == (270, 400)


HOSTILE = "<script>alert('&')</script>"
SCORES = pd.DataFrame({"score": ["macro_average_precision", "hamming_loss"], "model": [0.5, 0.1], "prior": [0.1, 0.2]})
ABOUT = {
    "architecture": HOSTILE, "dataset": HOSTILE, "posters": {"train": 2400, "test": 1080}, "caveat": "",
    "how": {"Trained": HOSTILE}, "parameters": {"seed": HOSTILE},
}  # fmt: skip


def page_with(folder: Path, *posters: dict[str, Any], scores: pd.DataFrame | None = None, found: bool = True, **about: str) -> str:
    """The page with these posters in the gallery, and names that would be code if they were not escaped; with words that indicate
    a genre where they were `found`."""
    numbers = ["average_precision", "low", "high", "prior_average_precision", "precision", "recall", "f1"]
    row = dict.fromkeys(numbers, 0.5) | {"genre": HOSTILE, "positives": 3, "scored": True}
    long = "science_fiction_and_fantasy_television_series"
    undefined = dict.fromkeys(("precision", "recall", "low", "high"), np.nan)
    rows = [row, row | {"average_precision": np.nan, "genre": "Other", "scored": False}, row | undefined | {"genre": long}]
    genres = pd.DataFrame(rows)
    # Each genre is missed on twenty posters, on which the other is said.
    labels = np.repeat(np.eye(2), 40, axis=0)
    said = np.where(np.arange(80)[:, None] % 40 < 20, labels, 1 - labels) > 0
    file = "posters/of_television/" + "series_" * 10 + ".jpg"
    near = pd.DataFrame([{"first": HOSTILE, "second": HOSTILE, "first_split": "train", "second_split": "test", "distance": 1}] * 2)
    near.loc[1, ["first", "second"]] = file
    decades = pd.DataFrame([{"name": "1980s", "posters": 3, "genres": 1, "prior_macro_average_precision": 0.1}])
    for name in ("", "_low", "_high"):
        decades[f"macro_average_precision{name}"] = 0.5
    words = pd.DataFrame([{"word": HOSTILE, "genre": HOSTILE, "posters": 8, "of": 10, "low": 0.4, "high": 0.9, "elsewhere": 0.1}])
    words = words if found else words.head(0)
    confused = confusions([HOSTILE, "Other"], labels, said)
    assert len(confused) == 2
    tables = {"confusions": confused, "decades": decades, "duplicates": near, "words": words}
    history = pd.DataFrame({"epoch": [0, 1], "train_loss": 0.5, "validation_loss": 0.5})
    history[["train_macro_average_precision", "validation_macro_average_precision"]] = 0.5
    curve = pd.DataFrame({"recall": [0.0, 1.0], "precision": [1.0, 0.5], "probability": [0.1, 0.4], "share": [0.1, 0.5]})
    charts = {
        "curves": figures.draw_curves(history, {"loss": 0.7, "macro_average_precision": 0.1}),
        "genres": figures.draw_genres(genres),
        "precision_recall": figures.draw_precision_recall(curve, curve),
        "reliability": figures.draw_reliability(curve, curve),
        "confusions": figures.draw_confusions(confused),
    }
    drawn = {name: figures.as_svg(figure, f'{name} "{HOSTILE}"') for name, figure in charts.items()}
    gallery = {"worst": list(posters), "random": [], "best": []}
    if scores is None:
        scores = SCORES.assign(low=[0.4, np.nan], high=[0.6, np.nan])
    write_report(folder / "page.html", ABOUT | about, scores, genres, tables, drawn, gallery)
    return (folder / "page.html").read_text(encoding="utf-8")


def test_what_comes_from_outside_is_text_and_not_code(tmp_path: Path) -> None:
    poster = describe([Detection(HOSTILE, 0.9, 0.1, 0.1, 0.2, 0.2, ""), Detection("lettering", 0.9, 0.1, 0.1, 0.2, 0.2, HOSTILE)])
    poster |= {"title": HOSTILE, "year": HOSTILE, "genres": [(HOSTILE, 0.5, "right")]}
    page = page_with(tmp_path, poster)
    assert page.lower().count("&lt;script&gt;alert(") > 20
    assert not re.search("<script", page, re.IGNORECASE)


def test_the_first_sentence_says_what_the_model_is_worth(tmp_path: Path) -> None:
    text = re.sub(r"\s+", " ", page_with(tmp_path, architecture="tutorial", dataset="data/posters").replace("&nbsp;", " "))
    assert (
        '<p class="lead">The network tutorial, trained on 2,400 posters of data/posters, reaches a macro average precision of '
        "<b>0.500</b> (95 % interval 0.400 to 0.600) over 2 of its 3 genres on 1,080 test posters that it had not seen. "
        "The prior, which gives every poster the genres' frequencies in training, has 0.100.</p>"
    ) in text
    assert 'class="caveat"' not in text


def lead(page: str) -> str:
    """The page's first sentences."""
    return " ".join(page.partition('<p class="lead">')[2].partition("</p>")[0].replace("&nbsp;", " ").split())


def test_a_score_without_interval_or_none_at_all(tmp_path: Path) -> None:
    scores = SCORES.assign(low=np.nan, high=np.nan)
    page = page_with(tmp_path, scores=scores, architecture="tutorial", dataset="data/posters")
    assert lead(page) == (
        "The network tutorial, trained on 2,400 posters of data/posters, reaches a macro average precision of <b>0.500</b> over "
        "2 of its 3 genres on 1,080 test posters that it had not seen. The prior, which gives every poster the genres' "
        "frequencies in training, has 0.100."
    )
    scores = scores.assign(model=[np.nan, 0.1], prior=[np.nan, 0.2])
    page = page_with(tmp_path, scores=scores, architecture="tutorial", dataset="data/posters")
    assert lead(page) == (
        "The network tutorial, trained on 2,400 posters of data/posters, has no macro average precision on its 1,080 test posters: "
        "every genre is on none or on all of those of a split."
    )
    assert not re.search(r"\bnan\b", page)


def test_words_of_training_posters_are_shown_beside_few_test_posters(tmp_path: Path) -> None:
    page = page_with(tmp_path, caveat="only 45 test posters: scores say little")
    assert '<section id="words">' in page
    assert '<a href="#words">' in page
    assert '<section id="confusions">' not in page


def test_names_are_cut_so_that_they_can_be_told_apart() -> None:
    assert cut_middle("Film-Noir", 18) == "Film-Noir"
    clothing = [cut_middle(f"Clothing > Women > {kind}", 18) for kind in ("Shoes", "Skirts")]
    assert clothing == ["Clothing…n > Shoes", "Clothing…> Skirts"]
    assert cut_middle("ドキュメンタリー映画と短編", 18) == "ドキュメ…画と短編"
    assert figures.unreadable(["Drama", "Épopée", "映画"]) == ["映画"]


def test_untested_confusions_are_not_called_chance() -> None:
    empty = confusions(["A", "B"], np.zeros((3, 2)), np.zeros((3, 2), bool))
    drawn = [figures.draw_confusions(empty, shown) for shown in (True, False)]
    with warnings.catch_warnings(action="error"):
        for figure in drawn:
            figures.as_svg(figure, "nothing")
    titles = [figure.get_suptitle() for figure in drawn]
    assert titles == [
        "No genre is predicted for another more than by chance",
        "Genres predicted for others: not tested, as the\ntest posters are too few or synthetic",
    ]


class Outline(HTMLParser):
    """What a page must have to be read by all: its tags are closed in order, and the rest is for tests to compare."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        assert len(dict(attributes)) == len(attributes), (tag, attributes)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for one, attributes in self.tags if one == tag]


def test_the_page_is_read_by_those_who_do_not_see_it(tmp_path: Path) -> None:
    page = Outline(page_with(tmp_path, describe([]), describe(None)))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("main")) == len(page.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert {cell.get("scope") for cell in page.all("th")} == {"col", "row"}
    assert [image["alt"] for image in page.all("img")] == ["Poster of Title", "Poster of Title"]
    assert [bool(chart["aria-label"]) for chart in page.all("svg")] == [True] * 5
    names = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert set(names.values()) == {1}
    assert all((link["href"] or "").removeprefix("#") in names for link in page.all("a"))
    assert set(re.findall(r"url\(#([^)]*)\)", (tmp_path / "page.html").read_text(encoding="utf-8"))) <= set(names)
    assert page.all("style")  # one, for the page
    assert len(page.all("style")) == 1


def luminance(color: str) -> float:
    """The relative luminance of WCAG 2."""
    shares = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("theme", [0, 1])
def test_all_that_says_something_stands_out_from_the_page(theme: int, tmp_path: Path) -> None:
    page = luminance(COLORS["page"][theme])
    for name in ("ink", "quiet", "model", "second"):  # 4.5 for text, which all of them are somewhere
        darker, lighter = sorted([page, luminance(COLORS[name][theme])])
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, name
    # Charts have no other colours than those.
    charts = re.findall("<svg.*?</svg>", page_with(tmp_path), re.DOTALL)
    assert len(charts) == 5
    used = {color for chart in charts for color in re.findall(r"(?:fill|stroke): ?([^;\"]+)", chart)}
    assert used <= {"none", *(f"var(--{name})" for name in COLORS)}


@pytest.mark.slow
def test_on_the_sample_nothing_is_called_a_finding(tmp_path: Path) -> None:
    page = page_with(tmp_path, found=False, caveat="synthetic posters: scores mean nothing")
    assert '<p class="caveat">Synthetic posters: scores mean nothing.</p>' in page
    assert "Confused genres" not in page
    assert "Words that indicate a genre" not in page


def test_the_page_is_small_with_real_posters(real_posters: Path) -> None:
    files = sorted(real_posters.rglob("*.jpg"))[::100][:36]
    assert len(files) == 36
    size = 0
    for file in files:
        poster = np.asarray(Image.open(file).convert("RGB").resize((600, 900)))
        size += len(describe_poster(poster, MOVIE, ["Drama"], np.array([0.25]), np.array([0.2]), None)["picture"])
    assert size < 2_500_000  # the page is to have at most 3 MB


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
        if tag == "img":
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
    poster = np.zeros((320, 224, 3), np.uint8)
    return describe_poster(poster, MOVIE, ["Drama"], np.array([0.25]), np.array([0.2]), objects)


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
    about = [["div", "", "", ""], ["h4", "", "", "Title "], ["span", "quiet", "", "1999"], ["ul", "genres", "", ""]]
    about += [["li", "", "", ""], ["span", "genre right", "", " Drama 0.25"], ["span", "", "right", "✓"]]
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
        *about,
        ["p", "", "", f"Words read: O'BRIEN & <i>SONS</i> · {'word ' * 18}word…"],
    ]  # fmt: skip
    assert cards[1] == cards[2] == [*start, *about]
    assert "<i>" not in page
    assert '<b>"' not in page


def test_the_surest_of_many_are_on_the_page(tmp_path: Path) -> None:
    objects = [Detection("lettering", i / 40, 0.1, i / 40, 0.2, 0.02, f"W{i}") for i in range(31)]
    (card,) = Cards(page_with(tmp_path, describe(objects))).cards
    assert [one[2] for one in card if one[1] == "lettering"] == [
        f"left:10.00%;top:{i / 0.4:.2f}%;width:20.00%;height:2.00%" for i in range(30, 10, -1)
    ]
    words = " · ".join(f"W{i}" for i in range(31))
    assert [one for one in card if one[0] == "p"] == [
        ["p", "", "", f"Words read: {words[:119].rstrip()}…"],
        ["p", "", "", "Boxes: 20 of 31 shown"],
    ]
    assert [one[1] for one in card if one[0] == "ul"] == ["genres"]
