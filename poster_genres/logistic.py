"""Logistic regressions with an L2 penalty, for all genres at once."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def fit_logistic(features: Tensor, labels: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Fit one logistic regression per genre, with an L2 penalty.

    Parameters
    ----------
    features : float32 (n, features)
    labels : float32 (n, genres), 0 or 1
    decay : half of it times the squared norm of the standardised features' weights is added to the genres' mean cross-entropies

    Returns
    -------
    Weights (genres, features) and biases (genres,), for features that are not standardised.
    """
    mean, deviation = features.mean(dim=0), features.std(dim=0)
    # A feature that is the same in all rows gets no weight; its deviation from a mean that is rounded would be a large one.
    deviation = deviation.where(deviation > 1e-6 + 1e-5 * mean.abs(), torch.inf)
    standardised = (features - mean) / deviation
    weight = torch.zeros(labels.shape[1], features.shape[1], requires_grad=True)
    bias = torch.logit(labels.mean(dim=0).clamp(1e-4, 1 - 1e-4)).requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        cross_entropy = binary_cross_entropy_with_logits(standardised @ weight.T + bias, labels) * labels.shape[1]
        loss = cross_entropy + decay / 2 * weight.square().sum()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    scaled = weight.detach() / deviation
    return scaled, bias.detach() - scaled @ mean
