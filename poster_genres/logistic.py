"""Logistic regressions with a penalty, all genres at once."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def fit_logistic(features: Tensor, labels: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Logistic regressions on given features, one a genre, with an L2 penalty.

    Parameters
    ----------
    features : float32 (n, features)
    labels : float32 (n, genres), 0 or 1
    decay : of the weights of the standardised features, times half their squared norm, against the mean cross-entropy a genre

    Returns
    -------
    Weights (genres, features) and biases (genres,) for features as they are given.
    """
    mean, deviation = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
    standard = (features - mean) / deviation
    weight = torch.zeros(labels.shape[1], features.shape[1], requires_grad=True)
    bias = torch.logit(labels.mean(dim=0).clamp(1e-4, 1 - 1e-4)).requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        error = binary_cross_entropy_with_logits(standard @ weight.T + bias, labels) * labels.shape[1]
        total = error + decay / 2 * weight.square().sum()
        total.backward()
        return float(total.detach())

    optimizer.step(loss)
    scaled = weight.detach() / deviation
    return scaled, bias.detach() - scaled @ mean
