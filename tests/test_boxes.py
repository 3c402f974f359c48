"""Boxes and captions of what was found, on the picture of an explanation."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from poster_genres.captions import caption, cut, how_many, most_confident, place_captions, words_of
from poster_genres.figures import draw_explanation
from poster_genres.objects import Detection

PERSON = Detection("person", 0.942, 0.25, 0.25, 0.5, 0.5)
SIGN = Detection("lettering", 0.8, 0.1, 0.85, 0.6, 0.05, "THE GREAT \n $MOVIE$")
GREEN = (0, 160, 60)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """The area that two rectangles have in common: left, top, width, height."""
    sides = np.minimum(one[:2] + one[2:], other[:2] + other[2:]) - np.maximum(one[:2], other[:2])
    return float(np.maximum(sides, 0).prod())


def test_captions_are_one_short_line() -> None:
    assert [caption(one) for one in (PERSON, SIGN, SIGN._replace(text=" "))] == [
        "person 0.94", "THE GREAT $MOVIE$", "lettering 0.80"
    ]  # fmt: skip
    assert caption(PERSON._replace(label="one\ttwo " * 9)) == "one two one two one two… 0.94"
    assert caption(SIGN._replace(text="A" * 25)) == "A" * 23 + "…"
    assert (cut("A" * 24, 24), cut("", 24)) == ("A" * 24, "")
    assert words_of([SIGN, PERSON, SIGN._replace(text="映画")]) == "THE GREAT $MOVIE$ · 映画"
    assert words_of([SIGN._replace(text="word " * 60)]) == "word " * 23 + "word…"


def test_the_surest_are_shown() -> None:
    many = [PERSON._replace(confidence=i / 40) for i in range(31)]
    assert [one.confidence for one in most_confident(many)] == [i / 40 for i in range(30, 10, -1)]
    assert (how_many(many), how_many(many[:20]), how_many([])) == ("20 of 31 shown", "", "")


def test_captions_keep_apart_and_within_the_poster() -> None:
    sizes = np.array([[0.3, 0.04]] * 8)
    # All the same; at the edges; and a box without size.
    for objects in ([PERSON] * 8, [PERSON._replace(left=0.9, top=0.0, width=0.1, height=0.1)] * 2, [PERSON._replace(width=0.0)]):
        places = place_captions(objects, sizes[: len(objects)])
        rectangles = np.hstack([places, sizes[: len(objects)]])
        assert places.min() >= 0
        assert (places + sizes[: len(objects)]).max() <= 1 + 1e-9
        for i, one in enumerate(rectangles):
            assert max([overlap(one, other) for other in rectangles[:i]], default=0) < 1e-9
    # Alone it stands above its box, at the left; a box there is left free.
    (alone,) = place_captions([PERSON], sizes[:1])
    assert alone.tolist() == pytest.approx([0.25, 0.21])
    above = SIGN._replace(left=0.2, top=0.2, width=0.6, height=0.04)
    below, _ = place_captions([PERSON, above], sizes[:2])
    assert below.tolist() == pytest.approx([0.25, 0.75])
    assert place_captions([], np.zeros((0, 2))).shape == (0, 2)


def draw(objects: list[Detection], path: Path, color: tuple[int, int, int] = GREEN) -> np.ndarray:
    """The explanation of a poster of one colour: uint8 (height, width, 3)."""
    poster = np.full((120, 80, 3), color, np.uint8)
    maps = np.zeros((3, 120, 80), np.float32)
    logits = np.zeros((len(objects), 3), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_explanation(poster, objects, ["A", "B", "C"], np.array([0.9, 0.5, 0.1]), maps, logits, path)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def poster_in(picture: np.ndarray) -> tuple[int, int, int, int]:
    """The first row, the first column, the height and the width of what is in the poster's colour."""
    rows, columns = np.nonzero((picture == GREEN).all(axis=2))
    return int(rows.min()), int(columns.min()), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def test_boxes_are_drawn_where_objects_are(tmp_path: Path) -> None:
    drawn = draw([PERSON, SIGN], tmp_path / "why.png")
    top, left, height, width = poster_in(drawn)
    other = draw([PERSON._replace(left=0.0, top=0.0, width=0.01, height=0.01)], tmp_path / "other.png")
    assert poster_in(other)[2:] == pytest.approx((height, width), abs=3)

    def at(x: float, y: float) -> np.ndarray:
        return np.asarray(drawn[top + round(y * (height - 1)), left + round(x * (width - 1))])

    for x, y in ((0.25, 0.5), (0.75, 0.5), (0.5, 0.25), (0.5, 0.75)):
        assert np.abs(at(x, y) - (255, 213, 74)).max() < 40, (x, y)
    for x, y in ((0.1, 0.875), (0.7, 0.875), (0.4, 0.9)):
        assert np.abs(at(x, y) - GREEN).max() > 60, (x, y)
    # Within and outside nothing is changed but where captions stand.
    for x, y in ((0.5, 0.5), (0.3, 0.7), (0.15, 0.5), (0.9, 0.2), (0.5, 0.1), (0.85, 0.875)):
        assert at(x, y).tolist() == list(GREEN), (x, y)
    # The caption above the box: white on dark.
    label = drawn[top + int(0.215 * height) : top + int(0.245 * height), left + int(0.255 * width) : left + int(0.4 * width)]
    assert label.max(axis=(0, 1)).min() > 230
    assert label.min() < 60


@pytest.mark.slow
def test_any_label_is_drawn_on_any_poster(tmp_path: Path) -> None:
    odd = ['<b>"x"</b>', "it's $a_b$ $", "映画 हिन्दी", "العربية", "\\frac{", "a\x00\x01b"]
    objects = [Detection(label, 0.5, 0.1 * i, 0.1 * i, 0.3, 0.1) for i, label in enumerate(odd)]
    objects += [Detection("edge", 1.0, 0.0, 0.0, 1.0, 1.0), Detection("nothing", 0.0, 1.0, 1.0, 0.0, 0.0)]
    for color in ((255, 255, 255), (0, 0, 0), (255, 213, 74)):
        picture = draw([*objects, *[SIGN] * 30], tmp_path / "why.png", color)
        half = picture[:, : picture.shape[1] // 2]
        assert np.ptp(half.reshape(-1, 3), axis=0).min() > 120
    first = (tmp_path / "why.png").read_bytes()
    draw([*objects, *[SIGN] * 30], tmp_path / "why.png", color)
    assert (tmp_path / "why.png").read_bytes() == first


def test_without_objects_the_picture_is_in_one_row(tmp_path: Path) -> None:
    drawn = draw([], tmp_path / "why.png")
    assert drawn.shape[1] > 2 * drawn.shape[0]
    assert poster_in(drawn)[2] < 310 < poster_in(draw([PERSON], tmp_path / "with.png"))[2]
