"""How the parts of a model are added up: the picture's networks, the words, the objects.

Each part gives evidence: a logit a genre, fitted on training posters. The model's logit is their weighted sum and an intercept a
genre, which is logistic regression on the parts' logits (stacking, Wolpert 1992; where there is one part, temperature scaling, Guo
et al. 2017, arXiv:1706.04599, with an intercept a genre). Weights and intercepts are fitted on validation posters, on which no part
was fitted: a part that says nothing gets a weight near 0. What is said of validation posters themselves is out of fold.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

# Parts that tell of the same thing share a weight of 1 to begin with.
GROUPS = (("networks", "probe"), ("letters", "meaning"), ("objects",))
# Standard deviations of the normal priors that weights and intercepts have; of intercepts so that a genre on ten validation posters
# moves about two thirds of the way. From 0.1 to 3, neither changes the cross-entropy on 600 validation posters by 0.001.
WEIGHT_DEVIATION = 0.5
INTERCEPT_DEVIATION = 0.5
FOLDS = 5


@dataclass
class Fusion:
    """The sum of the parts.

    Attributes
    ----------
    parts : their names
    weights : float64 (parts,), none below 0
    intercepts : float64 (genres,)
    """

    parts: list[str]
    weights: np.ndarray
    intercepts: np.ndarray

    def logits(self, evidence: dict[str, np.ndarray]) -> np.ndarray:
        """float32 (posters, genres), from the same of each part."""
        total = sum(weight * evidence[part] for part, weight in zip(self.parts, self.weights, strict=True))
        return np.asarray(total + self.intercepts, np.float32)

    def weight(self, part: str) -> float:
        """Of a part; 0 where the model has none of that name."""
        return float(self.weights[self.parts.index(part)]) if part in self.parts else 0.0


def equal_weights(parts: list[str], genres: int) -> Fusion:
    """The sum before anything is fitted: the mean within each of GROUPS, and the sum over them (as if, given the genre, pictures,
    words and objects did not depend on each other)."""
    shares = [1 / len(set(group) & set(parts)) for part in parts for group in GROUPS if part in group]
    return Fusion(parts, np.array(shares), np.zeros(genres))


def fit_fusion(evidence: dict[str, np.ndarray], labels: np.ndarray) -> Fusion:
    """The weights and intercepts of highest posterior probability, beginning from `equal_weights`.

    Parameters
    ----------
    evidence : float32 (posters, genres) logits of each part, which was not fitted on these posters
    labels : float32 (posters, genres), 0 or 1
    """
    start = equal_weights(list(evidence), labels.shape[1])
    parts = np.stack([evidence[part].astype(np.float64) for part in start.parts])
    number = len(start.parts)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercepts = values[:number], values[number:]
        logits = np.tensordot(weights, parts, 1) + intercepts
        error = expit(logits) - labels
        moved = (weights - start.weights) / WEIGHT_DEVIATION**2, intercepts / INTERCEPT_DEVIATION**2
        total = np.sum(np.logaddexp(0, logits) - labels * logits)
        total += (moved[0] @ (weights - start.weights) + moved[1] @ intercepts) / 2
        gradients = np.tensordot(parts, error, 2) + moved[0], error.sum(axis=0) + moved[1]
        return float(total), np.concatenate(gradients)

    bounds = [(0, None)] * number + [(None, None)] * labels.shape[1]
    first = np.concatenate([start.weights, start.intercepts])
    values = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500}).x
    return Fusion(start.parts, values[:number], values[number:])


def out_of_fold_logits(evidence: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """The logits of each poster by weights and intercepts that were fitted on others, in FOLDS folds.

    Takes what `fit_fusion` takes, and gives float32 (posters, genres): scores of it are not flattered by the fit.
    """
    posters = len(labels)
    folds = np.random.default_rng(0).permutation(posters) % FOLDS
    logits = np.empty(labels.shape, np.float32)
    for fold in range(FOLDS):
        kept, left_out = folds != fold, folds == fold
        fusion = fit_fusion({part: values[kept] for part, values in evidence.items()}, labels[kept])
        logits[left_out] = fusion.logits({part: values[left_out] for part, values in evidence.items()})
    return logits
