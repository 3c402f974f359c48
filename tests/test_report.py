"""The page for people."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

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
    found = describe_poster(poster, movie, ["Comedy", "Drama", "Horror"], np.array([0.2, 0.3, 0.1]))
    assert (found["title"], found["year"], found["true"]) == ("tt1", "1999", ["Drama"])
    assert found["said"] == [
        ("Drama", pytest.approx(0.3), True), ("Comedy", pytest.approx(0.2), False), ("Horror", pytest.approx(0.1), False)
    ]  # fmt: skip
    assert found["picture"].startswith("data:image/jpeg;base64,")


def test_what_comes_from_outside_is_text_and_not_code(tmp_path: Path) -> None:
    for name in FIGURES:
        (tmp_path / f"{name}.png").write_bytes(b"")
    poster = {"picture": "", "title": "<script>alert(1)</script>", "year": "", "true": ["<b>"], "said": [("<i>", 0.5, True)]}
    scores = pd.DataFrame({"score": ["macro_f1"], "model": [0.5], "prior": [0.1], "low": [0.4], "high": [0.6]})
    numbers = ["average_precision", "low", "high", "prior_average_precision", "threshold", "precision", "recall", "f1"]
    row = dict.fromkeys(numbers, 0.5) | {"genre": "<u>", "positives": 3, "calibration_error": 0.01, "scored": True}
    genres = pd.DataFrame([row])
    nothing = pd.DataFrame()
    words = pd.DataFrame({"genre": ["<u>"], "word": ["<b>"]})
    tables = (scores, genres, nothing, nothing, nothing, words)
    write_report(tmp_path / "page.html", {"architecture": "<s>"}, *tables, tmp_path, {"Best": [poster]})
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in page
    assert not any(tag in page for tag in ("<script", "<u>", "<i>", "<s>"))
    assert "None found by perceptual hash." in page
