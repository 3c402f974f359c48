"""Stacking: combining the logits of a model's parts, which are the image networks, the linear probe, the text and the objects.

Each part is fitted on training posters; its evidence is one logit per genre. All but the networks are also fitted in folds, so that
there is out-of-fold evidence of the training posters, on which `fit_stack` fits how the parts add up (stacking, Wolpert 1992).
Training networks in folds would take too long: on validation posters, `fit_fusion` fits with a weight or two how much a fine-tuned
network counts, which takes the place of what it started from: the image networks that of the probe, the text network that of
`meaning`. Without a probe, one weight is fitted for the networks and one for the stack.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

# Parts that use the same input share an initial weight of 1.
GROUPS = (("networks", "probe"), ("letters", "meaning", "title", "text"), ("objects",), ("stack",))
# Standard deviations of the normal priors: of a part's weight and of the intercepts, of `fit_weights`; and, for `fit_stack`, of how
# far a genre's own weight is from its part's, and of the weights between genres. Chosen on validation.
WEIGHT_DEVIATION = 0.5
INTERCEPT_DEVIATION = 0.5
OWN_DEVIATION = 0.3
CROSS_DEVIATION = 0.06
FOLDS = 5
# With fewer training posters, parts that were fitted on four fifths of them tell too little of those fitted on all: there is no
# stack, and nothing to distil from it.
STACKED = 500


@dataclass
class Fusion:
    """A linear map from the parts' logits to the model's.

    Attributes
    ----------
    parts : their names
    matrices : float64 (parts, genres, genres): by which a part's logits, a row each poster, are multiplied from the right. The
        diagonal holds each genre's own weight; the rest lets genres speak for and against each other
    intercepts : float64 (genres,)
    """

    parts: list[str]
    matrices: np.ndarray
    intercepts: np.ndarray

    def __str__(self) -> str:
        """The parts with their mean weights, for people."""
        return ", ".join(f"{part} {self.weight(part):.2f}" for part in self.parts)

    def logits(self, evidence: dict[str, np.ndarray]) -> np.ndarray:
        """The model's logits, float32 (posters, genres), given each part's logits of the same shape."""
        total = sum(evidence[part].astype(np.float64) @ matrix for part, matrix in zip(self.parts, self.matrices, strict=True))
        return np.asarray(total + self.intercepts, np.float32)

    def matrix(self, part: str) -> np.ndarray:
        """The matrix of a part; zeros if the model has no part of that name."""
        return np.asarray(self.matrices[self.parts.index(part)] if part in self.parts else np.zeros_like(self.matrices[0]))

    def weight(self, part: str) -> float:
        """The mean of a part's weights for the genre that a logit is of; 0 if the model has no part of that name."""
        return float(self.matrix(part).diagonal().mean())


def weighted_sum(parts: list[str], weights: np.ndarray, intercepts: np.ndarray) -> Fusion:
    """The fusion with one weight for each part, (parts,), and with these intercepts."""
    return Fusion(parts, weights[:, None, None] * np.eye(len(intercepts)), intercepts)


def initial_weights(parts: list[str]) -> np.ndarray:
    """The mean within each of GROUPS, summed over groups, which assumes that image, text and objects are conditionally independent
    given the genre: float64 (parts,)."""
    return np.array([1 / len(set(group) & set(parts)) for part in parts for group in GROUPS if part in group])


def equal_weights(parts: list[str], genres: int) -> Fusion:
    """The fusion of `initial_weights`, without intercepts."""
    return weighted_sum(parts, initial_weights(parts), np.zeros(genres))


def fit_weights(evidence: dict[str, np.ndarray], labels: np.ndarray) -> Fusion:
    """Fit one weight for each part and the intercepts: the maximum a posteriori estimate, with priors centred at `equal_weights`.

    With a single part it is temperature scaling (Guo et al. 2017, arXiv:1706.04599) with intercepts.

    Parameters
    ----------
    evidence : each part's logits, float32 (posters, genres), for posters on which no part was fitted
    labels : float32 (posters, genres), 0 or 1
    """
    parts = list(evidence)
    start, intercepts = initial_weights(parts), np.zeros(labels.shape[1])
    part_logits = np.stack([evidence[part].astype(np.float64) for part in parts])
    n_parts = len(parts)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercepts = values[:n_parts], values[n_parts:]
        logits = np.tensordot(weights, part_logits, 1) + intercepts
        error = expit(logits) - labels
        penalty_gradients = (weights - start) / WEIGHT_DEVIATION**2, intercepts / INTERCEPT_DEVIATION**2
        total = log_loss(logits, labels) + (penalty_gradients[0] @ (weights - start) + penalty_gradients[1] @ intercepts) / 2
        gradients = np.tensordot(part_logits, error, 2) + penalty_gradients[0], error.sum(axis=0) + penalty_gradients[1]
        return total, np.concatenate(gradients)

    bounds = [(0, None)] * n_parts + [(None, None)] * labels.shape[1]
    initial = np.concatenate([start, intercepts])
    values = minimize(loss, initial, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500}).x
    return weighted_sum(parts, values[:n_parts], values[n_parts:])


def fit_stack(evidence: dict[str, np.ndarray], labels: np.ndarray) -> Fusion:
    """Fit a matrix for each part and the intercepts: logistic regressions on all parts' logits of all genres, with normal priors
    centred at `fit_weights`.

    The parameters are those of `fit_weights`; the evidence may be out of fold.
    """
    start = fit_weights(evidence, labels)
    genres = labels.shape[1]
    inputs = np.concatenate([evidence[part].astype(np.float64) for part in start.parts], axis=1)
    # Relative to their means, so that weights between genres leave the intercepts as they are.
    means = inputs.mean(axis=0)
    inputs -= means
    base = start.logits(evidence).astype(np.float64)
    deviations = np.where(np.eye(genres) > 0, OWN_DEVIATION, CROSS_DEVIATION)
    precisions = np.tile(deviations**-2, (len(start.parts), 1))

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        changes, intercepts = values[:-genres].reshape(-1, genres), values[-genres:]
        logits = base + inputs @ changes + intercepts
        error = expit(logits) - labels
        penalty_gradients = changes * precisions, intercepts / INTERCEPT_DEVIATION**2
        total = log_loss(logits, labels) + (np.vdot(penalty_gradients[0], changes) + penalty_gradients[1] @ intercepts) / 2
        gradients = inputs.T @ error + penalty_gradients[0], error.sum(axis=0) + penalty_gradients[1]
        return total, np.concatenate([gradient.ravel() for gradient in gradients])

    values = minimize(loss, np.zeros(precisions.size + genres), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    changes = values[:-genres].reshape(-1, genres)
    intercepts = start.intercepts + values[-genres:] - means @ changes
    return Fusion(start.parts, start.matrices + changes.reshape(start.matrices.shape), intercepts)


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """The sum over posters and genres of the binary cross-entropy, in nats."""
    return float(np.sum(np.logaddexp(0, logits) - labels * logits))


def fit_fusion(stack: Fusion | None, evidence: dict[str, np.ndarray], labels: np.ndarray) -> Fusion:
    """The fusion of a whole model: the stack and, where there are any, the networks and the text network, with weights fitted on
    validation posters.

    Parameters
    ----------
    stack : of all parts but these networks; None if there is no other part, or too few training posters: each part gets one weight
    evidence, labels : of validation posters, as for `fit_weights`
    """
    if stack is None:
        return fit_weights(evidence, labels)
    fusion = stack
    if "networks" in evidence and "probe" not in stack.parts:
        # Without its intercepts, as the networks' logits have the genres' frequencies in them.
        beside = stack.logits(evidence) - stack.intercepts
        both = fit_weights({"networks": evidence["networks"], "stack": beside}, labels)
        matrices = np.concatenate([both.matrices[:1], both.weight("stack") * stack.matrices])
        fusion = Fusion(["networks", *stack.parts], matrices, both.intercepts)
    changes: list[dict[str, np.ndarray]] = []
    if "networks" in evidence and "probe" in stack.parts:
        changes.append({"networks": fusion.matrix("probe"), "probe": -fusion.matrix("probe")})
    if "text" in evidence:
        changes += [{"text": fusion.matrix("meaning")}, {"meaning": -fusion.matrix("meaning")}]
    return fit_changes(fusion, changes, evidence, labels) if changes else fusion


def fit_changes(
    fusion: Fusion, changes: list[dict[str, np.ndarray]], evidence: dict[str, np.ndarray], labels: np.ndarray
) -> Fusion:
    """Add each change to a fusion, times a weight of at least 0, fitted by maximum likelihood.

    Parameters
    ----------
    changes : what each adds to the matrices of some parts, of new ones too, by their names
    """
    logits = fusion.logits(evidence).astype(np.float64)
    added = np.stack([sum(evidence[part] @ matrix for part, matrix in change.items()) for change in changes])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        total = logits + np.tensordot(weights, added, 1)
        return log_loss(total, labels), np.tensordot(added, expit(total) - labels, 2)

    # What takes something away takes no more than there is.
    bounds = [(0, 1 if set(change) & set(fusion.parts) else None) for change in changes]
    weights = minimize(loss, np.zeros(len(changes)), jac=True, method="L-BFGS-B", bounds=bounds).x
    parts = dict.fromkeys([*fusion.parts, *(part for change in changes for part in change)])
    matrices = {part: fusion.matrix(part).copy() for part in parts}
    for weight, change in zip(weights, changes, strict=True):
        for part, matrix in change.items():
            matrices[part] += weight * matrix
    return Fusion(list(matrices), np.stack(list(matrices.values())), fusion.intercepts)


def out_of_fold_logits(stack: Fusion | None, evidence: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Logits of validation posters, float32 (posters, genres): each poster's fusion is fitted on the other folds.

    The parameters are those of `fit_fusion`. Scores of these logits are not biased by the fit.
    """
    logits = np.empty(labels.shape, np.float32)
    for train, test in folds(len(labels)):
        fusion = fit_fusion(stack, {part: values[train] for part, values in evidence.items()}, labels[train])
        logits[test] = fusion.logits({part: values[test] for part, values in evidence.items()})
    return logits


def folds(rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """FOLDS random divisions of rows, bool (rows,), into those to fit on and those to predict."""
    fold_of = np.random.default_rng(0).permutation(rows) % FOLDS
    for fold in range(FOLDS):
        yield fold_of != fold, fold_of == fold
