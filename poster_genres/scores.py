"""The scores with which training chooses epochs and thresholds. All others are in `evaluation`, which training does not import.

Labels are (posters, genres) 0 or 1, probabilities the same shape in [0, 1].
"""

import numpy as np
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score, precision_recall_curve

MIN_POSITIVES = 10
# Chosen out of fold for macro and micro F1 together: 20 and 50 are worse in both, 200 trades one for the other.
SHRINKAGE = 100


def scored_genres(*splits: np.ndarray) -> np.ndarray:
    """The genres that macro scores average over, the same in all splits: those with MIN_POSITIVES positive posters or more in each.

    If fewer than two have as many, as in a tiny data set, those with any: of a single genre there is no mean. A genre that all
    posters of a split have is left out, as it cannot be ranked rightly or wrongly. Splits without posters do not count.

    Parameters
    ----------
    splits : the labels of each split

    Returns
    -------
    int (genres,), columns of the labels; empty if no genre can be scored
    """
    columns = np.zeros(0, int)
    for least in (MIN_POSITIVES, 1):
        positives = [(labels.sum(axis=0), len(labels)) for labels in splits if len(labels)]
        columns = np.flatnonzero(np.all([(count >= least) & (count < posters) for count, posters in positives], axis=0))
        if len(columns) > 1:
            break
    return columns


def macro_average_precision(labels: np.ndarray, probabilities: np.ndarray, columns: np.ndarray) -> float:
    """The mean over the genres `columns`, from `scored_genres`, of the average precision; 0.0 if there are none."""
    return float(average_precision_score(labels[:, columns], probabilities[:, columns])) if len(columns) else 0.0


def micro_average_precision(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The average precision of all poster-genre pairs in one ranking; 0.0 if none is positive."""
    return float(average_precision_score(labels, probabilities, average="micro")) if labels.any() else 0.0


def best_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The threshold with the highest F1 score over all values, of any shape; `probability >= threshold` is positive.

    Without positives every threshold is equally bad, and 1.0 is returned.
    """
    labels, probabilities = labels.ravel(), probabilities.ravel()
    if not labels.any():
        return 1.0
    precision, recall, thresholds = precision_recall_curve(labels, probabilities)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return float(thresholds[np.argmax(f1[:-1])])


def expected_threshold(probabilities: np.ndarray) -> float:
    """The threshold with the highest F1 score to be expected if `probabilities`, float (posters,), not empty, are calibrated.

    It needs no labels, so that it is less noisy than `best_threshold` where few posters have the genre: the decision-theoretic
    approach of Nan et al. 2012, "Optimizing F-measure: A Tale of Two Approaches", arXiv:1206.4625.
    """
    descending = np.sort(probabilities.astype(np.float64))[::-1]
    positives = np.arange(1, len(descending) + 1)
    f1 = 2 * np.cumsum(descending) / (positives + descending.sum())
    return float(descending[np.argmax(f1)])


def tune_thresholds(labels: np.ndarray, probabilities: np.ndarray, shrinkage: float = SHRINKAGE) -> tuple[float, np.ndarray]:
    """Choose thresholds, on validation posters only.

    A genre's own best threshold is noisy where few posters have the genre. It is therefore shrunk, on the logit scale and as if
    `shrinkage` more positive posters supported that, towards the middle between the common one and its `expected_threshold`: the
    first is best for micro F1, the second for macro F1.

    Returns
    -------
    The common threshold with the highest micro F1, and each genre's own, float64 (genres,).
    """
    threshold = best_threshold(labels, probabilities)
    own = np.array([best_threshold(labels[:, i], probabilities[:, i]) for i in range(labels.shape[1])])
    if not shrinkage:
        return threshold, own
    expected = np.array([expected_threshold(probabilities[:, i]) for i in range(labels.shape[1])])
    middle = (bounded_logit(np.array(threshold)) + bounded_logit(expected)) / 2
    positives = labels.sum(axis=0)
    weight = positives / (positives + shrinkage)
    return threshold, expit(weight * bounded_logit(own) + (1 - weight) * middle)


def bounded_logit(probabilities: np.ndarray) -> np.ndarray:
    """The logits of probabilities that are clipped to [1e-6, 1 - 1e-6]."""
    logits: np.ndarray = logit(np.clip(probabilities.astype(np.float64), 1e-6, 1 - 1e-6))
    return logits


def binary_cross_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean over posters and genres of -log of the probability of the true label, in nats."""
    likelihoods = np.where(labels > 0, probabilities, 1 - probabilities)
    # Clipped as in Keras and PyTorch, so that one zero does not make the mean infinite.
    return float(-np.log(np.clip(likelihoods.astype(np.float64), 1e-7, 1)).mean())
