"""The scores, against values worked out by hand and by their definitions."""

import numpy as np
import pytest

from poster_genres import scores


@pytest.fixture
def labels() -> np.ndarray:
    """200 posters; 4 genres with 100, 40, 12 and 5 positives."""
    random = np.random.default_rng(0)
    columns = [random.permutation(np.arange(200) < number) for number in (100, 40, 12, 5)]
    return np.stack(columns, axis=1).astype(np.float32)


def average_precision(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean of the precision at each positive, in order of falling probability; no ties."""
    hits = truth[np.argsort(-probabilities)]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits > 0].mean())


def test_macro_scores_are_over_genres_with_ten_positives(labels: np.ndarray) -> None:
    probabilities = np.random.default_rng(1).random(labels.shape).astype(np.float32)
    assert scores.scored_genres(labels).tolist() == [0, 1, 2]
    expected = np.mean([average_precision(labels[:, i], probabilities[:, i]) for i in range(3)])
    assert scores.macro_average_precision(labels, probabilities) == pytest.approx(expected)
    assert scores.micro_average_precision(labels, probabilities) == pytest.approx(
        average_precision(labels.ravel(), probabilities.ravel())
    )


def test_few_posters_fall_back_to_genres_with_any_positive(labels: np.ndarray) -> None:
    few = labels[:8]
    assert scores.scored_genres(few).tolist() == np.flatnonzero((few.sum(axis=0) > 0) & (few.sum(axis=0) < 8)).tolist()
    nothing = np.zeros((8, 4), np.float32)
    assert scores.macro_average_precision(nothing, nothing) == 0.0
    assert all(np.isfinite(value) for value in scores.score(nothing, nothing + 0.1, 0.5, np.full(4, 0.5)).values())


def test_perfect_and_prior_predictions(labels: np.ndarray) -> None:
    threshold, thresholds = scores.tune_thresholds(labels, labels)
    perfect = scores.score(labels, labels, threshold, thresholds)
    for name, value in perfect.items():
        # A poster without any genre has no F1 and no top genre.
        if name not in ("samples_f1", "top_1_hit"):
            assert value == pytest.approx(0 if name in ("hamming_loss", "binary_cross_entropy") else 1, abs=1e-6), name
    prior = np.tile(labels.mean(axis=0), (200, 1))
    of_prior = scores.score(labels, prior, *scores.tune_thresholds(labels, prior))
    assert of_prior["macro_average_precision"] == pytest.approx((100 + 40 + 12) / 3 / 200)
    assert of_prior["macro_roc_auc"] == 0.5
    shares = labels.mean(axis=0)
    entropy = -(shares * np.log(shares) + (1 - shares) * np.log(1 - shares)).mean()
    assert of_prior["binary_cross_entropy"] == pytest.approx(entropy, rel=1e-5)
    # Tuned, the prior says yes to all: F1 of a share p is 2p / (1 + p).
    assert of_prior["macro_f1"] == pytest.approx(np.mean([2 * p / (1 + p) for p in shares[:3]]))


def test_the_best_threshold_is_the_best(labels: np.ndarray) -> None:
    random = np.random.default_rng(2)
    probabilities = np.clip(0.3 * labels + random.random(labels.shape) * 0.7, 0, 1)

    def f1(threshold: float) -> float:
        said = probabilities >= threshold
        return float(2 * (said * labels).sum() / (said.sum() + labels.sum()))

    best = scores.best_threshold(labels, probabilities)
    assert f1(best) == pytest.approx(max(f1(t) for t in np.unique(probabilities)))
    threshold, thresholds = scores.tune_thresholds(labels, probabilities)
    assert threshold == best
    assert thresholds[3] == best  # five positives: too few for a threshold of its own
    assert scores.best_threshold(labels[:0, :1], probabilities[:0, :1]) == 1.0


def test_a_row_a_genre(labels: np.ndarray) -> None:
    probabilities = np.random.default_rng(1).random(labels.shape)
    labels[:, 3] = 0
    prior = np.tile(labels.mean(axis=0), (200, 1))
    table = scores.score_genres(["a", "b", "c", "d"], labels, probabilities, prior, np.full(4, 0.5)).set_index("genre")
    assert table["positives"].tolist() == [100, 40, 12, 0]
    assert table["scored"].tolist() == [True, True, True, False]
    assert table.loc["b", "average_precision"] == pytest.approx(average_precision(labels[:, 1], probabilities[:, 1]))
    assert table.loc["b", "prior_average_precision"] == pytest.approx(0.2)
    said = probabilities[:, 1] >= 0.5
    assert table.loc["b", "precision"] == pytest.approx(labels[said, 1].mean())
    assert table.loc["b", "recall"] == pytest.approx(said[labels[:, 1] > 0].mean())
    assert np.isnan(table.loc["d", "average_precision"])
