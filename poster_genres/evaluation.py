"""Scores of a trained model: with confidence intervals, by genre and by slice, calibration and confusions.

Labels are (posters, genres) 0 or 1, probabilities the same shape in [0, 1].
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, false_discovery_control, hypergeom
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    hamming_loss,
    label_ranking_average_precision_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from poster_genres.objects import PosterDetections, text_of
from poster_genres.scores import binary_cross_entropy, macro_average_precision, micro_average_precision, scored_genres
from poster_genres.texts import some

BOOTSTRAPS = 1000
# Where a genre is on so few posters that fewer of the resamples have all genres, they vary too little: there is no interval.
COMPLETE = 0.9
# Poster-genre pairs that are ranked at a time.
BOOTSTRAP_PAIRS = 1_000_000
BINS = 10
DRAWS = 20
FALSE_DISCOVERIES = 0.05
# For the table of indicative words: what counts as a word, and on how many posters it must be.
WORD = r"[^\W\d_]{3,}"
MIN_POSTERS = 6


def score(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float, thresholds: np.ndarray, columns: np.ndarray
) -> dict[str, float]:
    """All scores of one split, by name.

    Micro and samples F1 and hamming loss use the common `threshold`; macro F1 uses each genre's own of `thresholds`. Macro scores
    are over the genres `columns`, from `scored_genres`; NaN if there are none.
    """
    predictions = probabilities >= threshold
    own = probabilities >= thresholds
    top = probabilities.argmax(axis=1)
    return {
        **average_precisions(labels, probabilities, columns),
        # Not by average="macro", which takes a single column for two classes.
        "macro_f1": float(np.mean([f1_score(labels[:, i], own[:, i], zero_division=0) for i in columns] or [np.nan])),
        "micro_f1": float(f1_score(labels, predictions, average="micro", zero_division=0)),
        "samples_f1": float(f1_score(labels, predictions, average="samples", zero_division=0)),
        "macro_roc_auc": float(roc_auc_score(labels[:, columns], probabilities[:, columns])) if len(columns) else np.nan,
        "label_ranking_average_precision": float(label_ranking_average_precision_score(labels, probabilities)),
        "hamming_loss": float(hamming_loss(labels, predictions)),
        "accuracy": float(((probabilities >= 0.5) == (labels > 0)).mean()),
        "binary_cross_entropy": binary_cross_entropy(labels, probabilities),
        "macro_calibration_error": macro_calibration_error(labels, probabilities, columns),
        "macro_calibration_error_by_chance": calibration_error_by_chance(probabilities, columns),
        "top_1_hit": float(labels[np.arange(len(labels)), top].mean()),
    }


def score_genres(
    genres: list[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    prior: np.ndarray,
    thresholds: np.ndarray,
    columns: np.ndarray,
) -> pd.DataFrame:
    """One row per genre: positives, average precision (model and prior), threshold, precision, recall, F1, calibration error, and
    whether macro scores include it (`columns`).

    The prior gives all posters of a genre the same probability, so its average precision is the share of positives. What is not
    defined is NaN, an empty cell: the precision of a genre that is never predicted, and average precision, recall and F1 of one
    that no poster has.
    """
    positives = labels.sum(axis=0).astype(int)
    predictions = probabilities >= thresholds
    scored = np.isin(np.arange(len(genres)), columns)
    rows: list[dict[str, Any]] = []
    for i, genre in enumerate(genres):
        truth, predicted = labels[:, i], predictions[:, i]
        rows.append(
            {
                "genre": genre,
                "positives": positives[i],
                "average_precision": average_precision_score(truth, probabilities[:, i]) if positives[i] else np.nan,
                "prior_average_precision": average_precision_score(truth, prior[:, i]) if positives[i] else np.nan,
                "threshold": thresholds[i],
                "precision": precision_score(truth, predicted, zero_division=np.nan),
                "recall": recall_score(truth, predicted, zero_division=np.nan),
                "f1": f1_score(truth, predicted, zero_division=0) if positives[i] else np.nan,
                "calibration_error": calibration_error(truth, probabilities[:, i]),
                "scored": bool(scored[i]),
            }
        )
    return pd.DataFrame(rows)


def resampled_average_precision(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The average precision for many vectors of sample weights at once.

    Parameters
    ----------
    labels, probabilities : (n,)
    weights : (resamples, n), how often each sample is drawn

    Returns
    -------
    float64 (resamples,), as of scikit-learn's `average_precision_score` with these weights; NaN where no positive sample is drawn.
    """
    order = np.argsort(-probabilities, kind="stable")
    # Samples with the same probability are one step of the ranking.
    ends = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)
    drawn = weights[:, order].astype(np.float64)
    hits = np.cumsum(drawn * labels[order], axis=1)[:, ends]
    total = np.cumsum(drawn, axis=1)[:, ends]
    precision = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    with np.errstate(invalid="ignore"):
        return (np.diff(hits, axis=1, prepend=0) * precision).sum(axis=1) / hits[:, -1]


def resamples(shape: tuple[int, ...], seed: int) -> Iterator[np.ndarray]:
    """How often each poster is drawn in the posters themselves, all once, and in BOOTSTRAPS resamples of them.

    Parameters
    ----------
    shape : (posters, genres)

    Yields
    ------
    int (some, posters), so many that memory does not grow with the number of posters
    """
    random = np.random.default_rng(seed)
    posters = shape[0]
    step = max(1, BOOTSTRAP_PAIRS // math.prod(shape))
    for start in range(0, BOOTSTRAPS + 1, step):
        weights = random.multinomial(posters, np.full(posters, 1 / posters), size=min(step, BOOTSTRAPS + 1 - start))
        if start == 0:
            weights[0] = 1
        yield weights


def bootstrap(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float, thresholds: np.ndarray, columns: np.ndarray, seed: int
) -> tuple[dict[str, tuple[float, float]], np.ndarray]:
    """95 % confidence intervals of the scores.

    The basic bootstrap over posters (Davison and Hinkley 1997, "Bootstrap Methods and their Application", equation 5.6), with
    BOOTSTRAPS resamples: twice the score minus the percentiles of resampled scores. A resample repeats some posters, which raises
    average precision, as repeated positives are adjacent in the ranking: for macro average precision over rare genres most
    resamples are above the score itself, and percentile intervals would cover the true value in only half of all cases.

    Returns
    -------
    (low, high) of macro and micro average precision and macro and micro F1; and float64 (genres, 2), the same of each genre's
    average precision. NaN where a genre that counts is on so few posters that less than COMPLETE of the resamples have it.
    """
    genres = labels.shape[1]
    resampled: dict[str, list[np.ndarray]] = {
        "macro_average_precision": [], "micro_average_precision": [], "macro_f1": [], "micro_f1": []
    }  # fmt: skip
    by_genre: list[np.ndarray] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a mean over no genre is NaN
        for weights in resamples(labels.shape, seed):
            of_genres = [resampled_average_precision(labels[:, i], probabilities[:, i], weights) for i in range(genres)]
            by_genre.append(np.stack(of_genres, axis=1))
            micro_scores = resampled_average_precision(labels.ravel(), probabilities.ravel(), np.repeat(weights, genres, axis=1))
            resampled["micro_average_precision"].append(micro_scores)
            own, common = (_resampled_f1(labels, probabilities >= t, weights) for t in (thresholds, threshold))
            resampled["micro_f1"].append(common[1])
            resampled["macro_average_precision"].append(by_genre[-1][:, columns].mean(axis=1))
            # Of a genre that a resample has on no poster, F1 is 0 or not defined.
            resampled["macro_f1"].append(np.where(np.isnan(by_genre[-1]), np.nan, own[0])[:, columns].mean(axis=1))
        intervals = {name: np.clip(_basic_interval(np.concatenate(values)), 0, 1) for name, values in resampled.items()}
        genre_intervals = np.clip(_basic_interval(np.concatenate(by_genre)), 0, 1).T
        return {name: (float(low), float(high)) for name, (low, high) in intervals.items()}, genre_intervals


def resampled_scores(labels: np.ndarray, probabilities: np.ndarray, columns: np.ndarray, seed: int) -> np.ndarray:
    """Scores of the posters, and of BOOTSTRAPS resamples of them: the same seed and number of posters give the same resamples, so
    that differences between models are paired.

    Returns
    -------
    float64 (1 + BOOTSTRAPS, 3), the posters themselves first: macro average precision over the genres `columns`, NaN where one of
    them has no poster and 0 without any, micro average precision, and binary cross-entropy
    """
    posters, genres = labels.shape
    likelihoods = np.where(labels > 0, probabilities, 1 - probabilities).astype(np.float64)
    losses = -np.log(np.clip(likelihoods, 1e-7, 1)).mean(axis=1)
    chunks = []
    for weights in resamples(labels.shape, seed):
        of_genres = [resampled_average_precision(labels[:, i], probabilities[:, i], weights) for i in columns]
        macro = np.mean(of_genres or np.zeros((1, len(weights))), axis=0)
        micro = resampled_average_precision(labels.ravel(), probabilities.ravel(), np.repeat(weights, genres, axis=1))
        chunks.append(np.stack([macro, micro, weights @ losses / posters], axis=1))
    return np.concatenate(chunks)


def describe_scored(scored: Sequence[str], genres: Sequence[str]) -> str:
    """Over which genres macro scores are, of all, for people; empty if over all."""
    left_out = [genre for genre in genres if genre not in scored]
    if not left_out:
        return ""
    counts = f"macro scores are over {len(scored)} of {len(genres)} genres"
    why = "on too few or on all of the validation or test posters"
    if 0 < len(scored) < len(left_out):
        return f"{counts}, {some(scored)}; the others are {why}"
    return f"{counts}; not over {some(left_out)}, which are {why}"


def paired_differences(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, columns: np.ndarray, seed: int = 0
) -> pd.DataFrame:
    """What the second model scores more than the first on the same posters: one row per score of `resampled_scores`.

    Parameters
    ----------
    first, second : the models' probabilities, (posters, genres)

    Returns
    -------
    Columns score, first, second, difference; error, its standard error over posters; low and high, its 95 % interval, of the basic
    bootstrap. The last three are NaN where a genre is on so few posters that less than COMPLETE of the resamples have it
    """
    scores = [resampled_scores(labels, probabilities, columns, seed) for probabilities in (first, second)]
    differences = scores[1] - scores[0]
    low, high = _basic_interval(differences)
    return pd.DataFrame(
        {
            "score": ["macro_average_precision", "micro_average_precision", "binary_cross_entropy"],
            "first": scores[0][0],
            "second": scores[1][0],
            "difference": differences[0],
            "error": np.where(np.isnan(low), np.nan, np.nanstd(differences[1:], axis=0)),
            "low": low,
            "high": high,
        }
    )


def _basic_interval(values: np.ndarray) -> np.ndarray:
    """The basic bootstrap's 95 % interval.

    Parameters
    ----------
    values : (1 + resamples, …), the score itself first; NaN in resamples that lack a genre

    Returns
    -------
    float64 (2, …), low and high; NaN where fewer than COMPLETE of the resamples are not NaN: what is left then are those in which
    every rare genre happens to be, which vary too little
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but NaN
        interval = 2 * values[0] - np.nanpercentile(values[1:], [97.5, 2.5], axis=0)
    return np.where(np.isnan(values[1:]).mean(axis=0) > 1 - COMPLETE, np.nan, interval)


def _resampled_f1(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F1, as 2 TP / (predicted + actual positives), of each genre (resamples, genres), and micro F1 (resamples,)."""
    drawn = weights.astype(np.float64)
    hits, total = drawn @ (predictions * labels), drawn @ (predictions + labels)
    f1 = np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0)
    return f1, 2 * hits.sum(axis=1) / np.maximum(total.sum(axis=1), 1)


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Mean probability and share of positives in up to BINS bins with about equally many values each, one row per bin.

    Equal probabilities are in one bin: cut into several, as the prior's would be, they would seem to be wrong in each.

    Parameters
    ----------
    labels, probabilities : of the same shape, any
    """
    bins = quantile_bins(probabilities.ravel())
    values = np.bincount(bins)
    of_bin = [np.bincount(bins, weights=numbers.ravel()) / values for numbers in (probabilities, labels)]
    return pd.DataFrame({"values": values, "probability": of_bin[0], "share": of_bin[1]})


def quantile_bins(values: np.ndarray) -> np.ndarray:
    """The bin of each value, int (n,): of up to BINS with about equally many values each, and equal values in the same one."""
    starts = np.sort(values)[np.linspace(0, len(values), BINS, endpoint=False).astype(int)]
    bins: np.ndarray = np.searchsorted(np.unique(starts), values, side="right") - 1
    return bins


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The expected calibration error (ECE): the mean absolute difference between probability and share in the bins of `reliability`
    (Naeini et al. 2015, with bins of equal size as Nixon et al. 2019, arXiv:1904.01685, since most probabilities are near 0)."""
    bins = quantile_bins(probabilities.ravel())
    return float(np.abs(np.bincount(bins, weights=(probabilities - labels).ravel())).sum() / labels.size)


def macro_calibration_error(labels: np.ndarray, probabilities: np.ndarray, columns: np.ndarray) -> float:
    """The mean over the genres `columns` of the calibration error; NaN if there are none."""
    return float(np.mean([calibration_error(labels[:, i], probabilities[:, i]) for i in columns] or [np.nan]))


def calibration_error_by_chance(probabilities: np.ndarray, columns: np.ndarray) -> float:
    """The macro calibration error that a perfectly calibrated model with these probabilities would get on so few posters: the mean
    over DRAWS draws of labels from them."""
    random = np.random.default_rng(0)
    draws = (random.random(probabilities.shape) < probabilities for _ in range(DRAWS))
    return float(np.mean([macro_calibration_error(labels.astype(np.float32), probabilities, columns) for labels in draws]))


def more_than_elsewhere(kinds: dict[str, list[str]], both: np.ndarray, of: np.ndarray, all_both: Any, total: Any) -> pd.DataFrame:
    """The pairs (a, b) of things where posters with a have b more often than the other posters do, beyond chance.

    By Fisher's exact test, one-sided, for each pair; of all pairs that were looked at, the share of false ones among those returned
    is kept at FALSE_DISCOVERIES (Benjamini and Hochberg 1995, "Controlling the false discovery rate").

    Parameters
    ----------
    kinds : the names of all a, and of all b, by the name of their column
    both, of : int (all a, all b), the posters with a and b, and with a
    all_both, total : int, to be broadcast to that shape, the posters with b, and all posters

    Returns
    -------
    The two columns of `kinds`; posters, of; share, low and high: of the posters with a, those with b, and the 95 % interval of
    Wilson (1927); elsewhere, the share of the other posters; p, adjusted. The surest first.
    """
    (first, firsts), (second, seconds) = kinds.items()
    columns = [first, second, "posters", "of", "share", "low", "high", "elsewhere", "p"]
    if not both.size:
        return pd.DataFrame(columns=columns)
    # Where there are no posters to compare, NaN.
    chance = np.nan_to_num(hypergeom.sf(both - 1, total, all_both, of), nan=1.0)
    p = false_discovery_control(chance, axis=None).reshape(both.shape)
    all_both, total = np.broadcast_to(all_both, both.shape), np.broadcast_to(total, both.shape)
    rows = []
    for i, j in np.argwhere(p < FALSE_DISCOVERIES):
        count, posters = int(both[i, j]), int(of[i, j])
        interval = binomtest(count, posters).proportion_ci(method="wilson")
        elsewhere = (all_both[i, j] - count) / (total[i, j] - posters)
        rows.append((firsts[i], seconds[j], count, posters, count / posters, interval.low, interval.high, elsewhere, p[i, j]))
    return pd.DataFrame(rows, columns=columns).sort_values("p", kind="stable", ignore_index=True)


def confusions(genres: list[str], labels: np.ndarray, predictions: np.ndarray) -> pd.DataFrame:
    """Where one genre was missed, which others are wrongly predicted more often than on the other posters without them.

    Parameters
    ----------
    labels : (posters, genres), 0 or 1
    predictions : bool (posters, genres)

    Returns
    -------
    As `more_than_elsewhere`, of the columns missed and predicted; all posters are those without the genre `predicted`.
    """
    missed, absent = ((labels > 0) & ~predictions).astype(int), (labels == 0).astype(int)
    wrong = absent * predictions
    kinds = {"missed": genres, "predicted": genres}
    # A genre is not both missed and wrongly predicted: it is on no poster of its own pair, which gets p = 1.
    return more_than_elsewhere(kinds, missed.T @ wrong, missed.T @ absent, wrong.sum(axis=0), absent.sum(axis=0))


def indicative_words(contents: list[PosterDetections], labels: np.ndarray, genres: list[str]) -> pd.DataFrame:
    """The words that are on more posters of a genre than of the others.

    Parameters
    ----------
    contents : the detections on each poster
    labels : (posters, genres), 0 or 1

    Returns
    -------
    As `more_than_elsewhere`, of the columns word and genre, for words of three letters or more on MIN_POSTERS posters or more.
    """
    vectorizer = CountVectorizer(token_pattern=WORD, binary=True, min_df=MIN_POSTERS)
    try:
        has = vectorizer.fit_transform(text_of(content.objects) for content in contents)
    except ValueError:  # no poster, or no word on enough of them
        return more_than_elsewhere({"word": [], "genre": genres}, *[np.zeros((0, len(genres)), int)] * 4)
    both = np.asarray(has.T @ labels.astype(int))
    of = np.broadcast_to(np.asarray(has.sum(axis=0), int).T, both.shape)
    words = vectorizer.get_feature_names_out().tolist()
    return more_than_elsewhere({"word": words, "genre": genres}, both, of, labels.sum(axis=0).astype(int), len(contents))


def score_slices(names: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, prior: np.ndarray, seed: int) -> pd.DataFrame:
    """Average precision on slices of the posters, such as decades: one row per slice, sorted by name.

    Parameters
    ----------
    names : (posters,), the slice of each; posters of the slice "" are left out

    Returns
    -------
    Columns name, posters, genres (how many the macro scores are over); for macro_average_precision and micro_average_precision
    the score, the same with prior_ before it, and its 95 % interval with _low and _high behind it. Macro scores over no genre are
    NaN, and so are intervals where a slice has a genre on too few posters.
    """
    both = ("macro_average_precision", "micro_average_precision")
    header = ["name", "posters", "genres"]
    header += [column for score in both for column in (score, f"prior_{score}", f"{score}_low", f"{score}_high")]
    rows = []
    for name in sorted(set(names) - {""}):
        mask = names == name
        columns = scored_genres(labels[mask])
        intervals, _ = bootstrap(labels[mask], probabilities[mask], 0.5, np.full(labels.shape[1], 0.5), columns, seed)
        row: list[Any] = [name, int(mask.sum()), len(columns)]
        of_model, of_prior = (average_precisions(labels[mask], scored[mask], columns) for scored in (probabilities, prior))
        for score in both:
            row += [of_model[score], of_prior[score], *intervals[score]]
        rows.append(row)
    return pd.DataFrame(rows, columns=header)


def average_precisions(labels: np.ndarray, probabilities: np.ndarray, columns: np.ndarray) -> dict[str, float]:
    """Macro average precision over the genres `columns`, NaN if there are none, and micro average precision."""
    return {
        "macro_average_precision": macro_average_precision(labels, probabilities, columns) if len(columns) else np.nan,
        "micro_average_precision": micro_average_precision(labels, probabilities),
    }
