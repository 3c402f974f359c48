"""Paired differences between models on the same posters, for the benchmarks' tables."""

import numpy as np

from benchmarks.real_posters import RARE
from poster_genres.evaluation import resampled_average_precision

SCORES = ("macro AP", "micro AP", "cross-entropy")
RESAMPLES = 1000
HEADER = f"{' | '.join(SCORES)} |\n| --- |{' --- |' * len(SCORES)}"


def score_resampled(labels: np.ndarray, logits: np.ndarray, genres: list[str], seed: int) -> np.ndarray:
    """SCORES on the posters and on RESAMPLES bootstrap resamples of them; the same seed gives the same resamples.

    Parameters
    ----------
    labels, logits : (posters, genres)

    Returns
    -------
    float64 (1 + RESAMPLES, 3), the original posters first; macro AP over the genres that are not RARE.
    """
    logits = logits.astype(np.float64)
    drawn = np.random.default_rng(seed).multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=RESAMPLES)
    weights = np.concatenate([np.ones((1, len(labels)), int), drawn])
    columns = [i for i, genre in enumerate(genres) if genre not in RARE and labels[:, i].any()]
    macro = np.mean([resampled_average_precision(labels[:, i], logits[:, i], weights) for i in columns], axis=0)
    # A few at a time, to limit memory: each resample has a weight for each poster and genre.
    micro = np.concatenate(
        [
            resampled_average_precision(labels.ravel(), logits.ravel(), np.repeat(part, labels.shape[1], axis=1))
            for part in np.array_split(weights, 20)
        ]
    )
    losses = (np.logaddexp(0, logits) - labels * logits).mean(axis=1)
    return np.stack([macro, micro, weights @ losses / weights.sum(axis=1)], axis=1)


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
