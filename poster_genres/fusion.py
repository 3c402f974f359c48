"""Stacking: combining the logits of a model's parts, which are the image networks, the linear probe, the text and the objects.

Each part is fitted on training posters; its evidence is one logit per genre. The model's logits are a weighted sum of the parts'
logits plus one intercept per genre: logistic regression on the parts' logits (stacking, Wolpert 1992), or, with a single part,
temperature scaling (Guo et al. 2017, arXiv:1706.04599) with intercepts. Weights and intercepts are fitted on validation posters, on
which no part was fitted, so that an uninformative part gets a weight near 0. Predictions for validation posters are out of fold.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from poster_genres.errors import InputError
from poster_genres.files import whole_file

# Parts that use the same input share an initial weight of 1.
GROUPS = (("networks", "probe"), ("letters", "meaning"), ("objects",))
# Standard deviations of the normal priors of weights and intercepts. With 0.5, the intercept of a genre with ten validation posters
# moves about two thirds of the way. From 0.1 to 3, neither changes the cross-entropy on 600 validation posters by 0.001.
WEIGHT_DEVIATION = 0.5
INTERCEPT_DEVIATION = 0.5
FOLDS = 5


@dataclass
class Fusion:
    """A weighted sum of the parts' logits.

    Attributes
    ----------
    parts : their names
    weights : float64 (parts,), non-negative
    intercepts : float64 (genres,)
    """

    parts: list[str]
    weights: np.ndarray
    intercepts: np.ndarray

    def logits(self, evidence: dict[str, np.ndarray]) -> np.ndarray:
        """The model's logits, float32 (posters, genres), given each part's logits of the same shape."""
        total = sum(weight * evidence[part] for part, weight in zip(self.parts, self.weights, strict=True))
        return np.asarray(total + self.intercepts, np.float32)

    def weight(self, part: str) -> float:
        """The weight of a part; 0 if the model has no part of that name."""
        return float(self.weights[self.parts.index(part)]) if part in self.parts else 0.0


def equal_weights(parts: list[str], genres: int) -> Fusion:
    """The initial fusion: the mean within each of GROUPS, summed over groups, which assumes that image, text and objects are
    conditionally independent given the genre."""
    weights = [1 / len(set(group) & set(parts)) for part in parts for group in GROUPS if part in group]
    return Fusion(parts, np.array(weights), np.zeros(genres))


def fit_fusion(evidence: dict[str, np.ndarray], labels: np.ndarray) -> Fusion:
    """Fit weights and intercepts: the maximum a posteriori estimate, with priors centred at `equal_weights`.

    Parameters
    ----------
    evidence : each part's logits, float32 (posters, genres), for posters on which no part was fitted
    labels : float32 (posters, genres), 0 or 1
    """
    start = equal_weights(list(evidence), labels.shape[1])
    part_logits = np.stack([evidence[part].astype(np.float64) for part in start.parts])
    n_parts = len(start.parts)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercepts = values[:n_parts], values[n_parts:]
        logits = np.tensordot(weights, part_logits, 1) + intercepts
        error = expit(logits) - labels
        penalty_gradients = (weights - start.weights) / WEIGHT_DEVIATION**2, intercepts / INTERCEPT_DEVIATION**2
        total = np.sum(np.logaddexp(0, logits) - labels * logits)
        total += (penalty_gradients[0] @ (weights - start.weights) + penalty_gradients[1] @ intercepts) / 2
        gradients = np.tensordot(part_logits, error, 2) + penalty_gradients[0], error.sum(axis=0) + penalty_gradients[1]
        return float(total), np.concatenate(gradients)

    bounds = [(0, None)] * n_parts + [(None, None)] * labels.shape[1]
    initial = np.concatenate([start.weights, start.intercepts])
    values = minimize(loss, initial, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500}).x
    return Fusion(start.parts, values[:n_parts], values[n_parts:])


def out_of_fold_logits(evidence: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Cross-validated logits, float32 (posters, genres): each poster's fusion is fitted on the other folds.

    The parameters are those of `fit_fusion`. Scores of these logits are not biased by the fit.
    """
    posters = len(labels)
    folds = np.random.default_rng(0).permutation(posters) % FOLDS
    logits = np.empty(labels.shape, np.float32)
    for fold in range(FOLDS):
        train, test = folds != fold, folds == fold
        fusion = fit_fusion({part: values[train] for part, values in evidence.items()}, labels[train])
        logits[test] = fusion.logits({part: values[test] for part, values in evidence.items()})
    return logits


def save_evidence(evidence: dict[str, np.ndarray], path: Path) -> None:
    """Write the logits of each part of a model. The same logits always give the same bytes."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **evidence)  # type: ignore[arg-type]


def read_evidence(path: Path, parts: list[str], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Read a file of `save_evidence`: float32 (posters, genres) for each part.

    Raises
    ------
    InputError
        The file is missing or damaged, or is of other parts, posters or genres.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            evidence = {part: file[part] for part in file.files}
    except FileNotFoundError:
        raise InputError(f"{path}: not there yet; `dvc repro` makes it") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        raise InputError(f"{path}: damaged; `dvc repro` makes it again") from None
    if list(evidence) != parts or any(logits.shape != shape for logits in evidence.values()):
        raise InputError(f"{path}: not of models/model.pt or not of data/cache; `dvc repro` makes them again")
    return evidence
