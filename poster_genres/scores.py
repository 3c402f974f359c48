"""Scores of multi-label predictions. Labels are (posters, genres) 0 or 1, probabilities the same shape in [0, 1]."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    hamming_loss,
    label_ranking_average_precision_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
)

MIN_POSITIVES = 10


def scored_genres(labels: np.ndarray) -> np.ndarray:
    """The genres that macro scores are the mean of: those with at least MIN_POSITIVES positive posters.

    Where no genre has as many, as in a tiny data set, those with any. A genre that all posters have is left out, as no ranking
    of posters can be right or wrong about it.

    Returns
    -------
    int (genres,), columns of `labels`; empty where no genre can be scored
    """
    positives = labels.sum(axis=0)
    for least in (MIN_POSITIVES, 1):
        columns = np.flatnonzero((positives >= least) & (positives < len(labels)))
        if len(columns):
            return columns
    return columns


def macro_average_precision(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean over `scored_genres` of the average precision; 0.0 where there is no such genre."""
    columns = scored_genres(labels)
    return float(average_precision_score(labels[:, columns], probabilities[:, columns])) if len(columns) else 0.0


def micro_average_precision(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The average precision of all poster-genre pairs in one ranking; 0.0 where there is no positive one."""
    return float(average_precision_score(labels, probabilities, average="micro")) if labels.any() else 0.0


def best_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The threshold with the highest F1 score over all given values, of any shape; `probability >= threshold` means yes.

    Where there is no positive, every threshold is equally bad, and 1.0 is returned.
    """
    labels, probabilities = labels.ravel(), probabilities.ravel()
    if not labels.any():
        return 1.0
    precision, recall, thresholds = precision_recall_curve(labels, probabilities)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return float(thresholds[np.argmax(f1[:-1])])


def tune_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
    """Choose thresholds, on validation posters only.

    Returns
    -------
    The one threshold for all genres with the highest micro F1, and float64 (genres,): each genre's own with its highest F1. A
    genre with fewer than MIN_POSITIVES positive posters takes the common one: its own would be chance.
    """
    threshold = best_threshold(labels, probabilities)
    thresholds = np.full(labels.shape[1], threshold)
    for column in np.flatnonzero(labels.sum(axis=0) >= MIN_POSITIVES):
        thresholds[column] = best_threshold(labels[:, column], probabilities[:, column])
    return threshold, thresholds


def binary_cross_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean over posters and genres of -log of the probability given to the truth, in nats."""
    given = np.where(labels > 0, probabilities, 1 - probabilities)
    # As Keras and PyTorch do, the logarithm is bounded, lest one zero make the mean infinite.
    return float(-np.log(np.clip(given.astype(np.float64), 1e-7, 1)).mean())


def score(labels: np.ndarray, probabilities: np.ndarray, threshold: float, thresholds: np.ndarray) -> dict[str, float]:
    """All scores of one split by name.

    Micro and samples F1 and hamming loss are at the one `threshold`; macro F1 at each genre's own of `thresholds`.
    """
    columns = scored_genres(labels)
    chosen = probabilities >= threshold
    own = probabilities >= thresholds
    top = probabilities.argmax(axis=1)
    return {
        "macro_average_precision": macro_average_precision(labels, probabilities),
        "micro_average_precision": micro_average_precision(labels, probabilities),
        "macro_f1": float(f1_score(labels[:, columns], own[:, columns], average="macro", zero_division=0)) if len(columns) else 0.0,
        "micro_f1": float(f1_score(labels, chosen, average="micro", zero_division=0)),
        "samples_f1": float(f1_score(labels, chosen, average="samples", zero_division=0)),
        "macro_roc_auc": float(roc_auc_score(labels[:, columns], probabilities[:, columns])) if len(columns) else 0.5,
        "label_ranking_average_precision": float(label_ranking_average_precision_score(labels, probabilities)),
        "hamming_loss": float(hamming_loss(labels, chosen)),
        "accuracy": float(((probabilities >= 0.5) == (labels > 0)).mean()),
        "binary_cross_entropy": binary_cross_entropy(labels, probabilities),
        "top_1_hit": float(labels[np.arange(len(labels)), top].mean()),
    }


def score_genres(
    genres: list[str], labels: np.ndarray, probabilities: np.ndarray, prior: np.ndarray, thresholds: np.ndarray
) -> pd.DataFrame:
    """A row a genre: positives, average precision (model and prior), threshold, precision, recall, F1, and whether it is scored.

    The prior gives all posters of a genre the same probability, so its average precision is the share of positives. A genre
    without positives has no average precision; its cells are empty (NaN).
    """
    positives = labels.sum(axis=0).astype(int)
    chosen = probabilities >= thresholds
    scored = np.isin(np.arange(len(genres)), scored_genres(labels))
    rows: list[dict[str, Any]] = []
    for i, genre in enumerate(genres):
        truth, said = labels[:, i], chosen[:, i]
        rows.append(
            {
                "genre": genre,
                "positives": positives[i],
                "average_precision": average_precision_score(truth, probabilities[:, i]) if positives[i] else np.nan,
                "prior_average_precision": average_precision_score(truth, prior[:, i]) if positives[i] else np.nan,
                "threshold": thresholds[i],
                "precision": precision_score(truth, said, zero_division=0),
                "recall": recall_score(truth, said, zero_division=0),
                "f1": f1_score(truth, said, zero_division=0),
                "scored": bool(scored[i]),
            }
        )
    return pd.DataFrame(rows)
