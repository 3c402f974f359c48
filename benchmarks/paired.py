"""Paired differences between models on the same posters, for the benchmarks' tables."""

import numpy as np
from scipy.special import expit

from benchmarks.real_posters import RARE
from poster_genres.evaluation import resampled_scores

SCORES = ("macro AP", "micro AP", "cross-entropy")
HEADER = f"{' | '.join(SCORES)} |\n| --- |{' --- |' * len(SCORES)}"


def score_resampled(labels: np.ndarray, logits: np.ndarray, genres: list[str], seed: int) -> np.ndarray:
    """`resampled_scores` of logits (posters, genres), with macro AP over the genres that are not RARE."""
    columns = np.array([i for i, genre in enumerate(genres) if genre not in RARE and labels[:, i].any()])
    return resampled_scores(labels, expit(logits.astype(np.float64)), columns, seed)


def row(name: str, runs: list[np.ndarray], others: list[np.ndarray] | None = None) -> str:
    """A row of a Markdown table: the mean of SCORES over seeds, from the `score_resampled` of each seed in `runs`; with `others`,
    also the paired difference from them, with its bootstrap standard error over posters."""
    values = np.mean(runs, axis=0)
    cells = [f"{value:.4f}" for value in values[0]]
    if others is not None:
        differences = values - np.mean(others, axis=0)
        # Macro AP is NaN for a resample in which some genre has no poster.
        errors = np.nanstd(differences[1:], axis=0)
        cells = [f"{cell} ({a:+.4f} ± {b:.4f})" for cell, a, b in zip(cells, differences[0], errors, strict=True)]
    return f"| {name} | {' | '.join(cells)} |"
