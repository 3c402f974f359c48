"""What on a poster speaks for a genre: regions of its picture, and what was read or found on it."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from poster_genres.fusion import Fusion, equal_weights
from poster_genres.model import Model
from poster_genres.network import Network
from poster_genres.objects import PosterDetections


def logits_by_object(model: Model, content: PosterDetections) -> np.ndarray:
    """What each detection on a poster, text included, adds to the logits: float32 (objects, genres)."""
    fusion = fusion_of(model)
    total = np.zeros((len(content.objects), len(model.genres)))
    if model.words is not None:
        for part, logits in model.words.by_object(content).items():
            total += logits @ fusion.matrix(part)
    if model.text is not None:
        total += model.text.by_object(content) @ fusion.matrix("text")
    if model.objects is not None:
        total += model.objects.by_object(content) @ fusion.matrix("objects")
    return total.astype(np.float32)


def fusion_of(model: Model) -> Fusion:
    """The model's fusion; of a model that has none yet, the mean of its networks."""
    return model.fusion or equal_weights(["networks"], len(model.genres))


def attributions(network: Network, pixels: Tensor, weights: Tensor) -> list[tuple[Tensor, ...]]:
    """For each weighted sum of the network's logits, activations times the sum's gradients of each of its feature maps, summed over
    channels.

    Where features are averages over a map, these add up to the sum without the biases. The network is frozen by this.

    Parameters
    ----------
    pixels : float32 (1, 3, height, width), normalised
    weights : float32 (sums, genres)

    Returns
    -------
    For each sum, float32 (1, 1, rows, columns) for each feature map.
    """
    leaves: list[Tensor] = []

    def cut(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        leaves.extend(one.detach().requires_grad_() for one in (output if isinstance(output, tuple) else (output,)))
        return tuple(leaves) if isinstance(output, tuple) else leaves[0]

    # The gradient is needed only of what comes after the maps, a small part of the network.
    network.eval().requires_grad_(False)
    hook = network.maps.register_forward_hook(cut)
    try:
        logits = network(pixels)[0]
    finally:
        hook.remove()
    by_sum = []
    for total in weights @ logits:
        gradients = torch.autograd.grad(total, leaves, retain_graph=True)
        products = [leaf.detach() * gradient for leaf, gradient in zip(leaves, gradients, strict=True)]
        by_sum.append(tuple(product.sum(dim=1, keepdim=True) for product in products))
    return by_sum


def explain(model: Model, poster: np.ndarray, genres: list[int], device: torch.device) -> np.ndarray:
    """Which regions of a poster's picture raise the logits: HiResCAM (Draelos and Carin 2020, arXiv:2011.08891) on the feature maps
    of networks and linear probe, weighted as in the model's logits and, with `flip`, averaged over the mirror image.

    If dense layers follow the flattened feature maps, as in the tutorial's network, Grad-CAM can highlight wrong regions; HiResCAM
    does not.

    Parameters
    ----------
    poster : uint8 (height, width, 3)
    genres : columns of the model's output

    Returns
    -------
    float32 (genres, height, width), from 0: a map's mean is what its regions add to the logit where they raise it, so that maps of
    several genres have one scale. Regions that lower the logit are 0.
    """
    pixels = model.normalise(torch.tensor(poster[None], device=device))
    size = (model.height, model.width)
    fusion = fusion_of(model)
    weighted = [(network, fusion.matrix("networks") / len(model.networks)) for network in model.networks]
    if model.probe is not None:
        weighted.append((model.probe, fusion.matrix("probe")))
    views = (False, True) if model.flip else (False,)
    # Feature maps of one size are added before they are enlarged, which takes most of the time.
    by_size: dict[tuple[int, ...], Tensor] = {}
    for network, matrix in weighted:
        weights = torch.tensor(matrix.T[genres], dtype=torch.float32, device=device)
        for mirrored in views:
            by_genre = attributions(network, pixels.flip(3) if mirrored else pixels, weights)
            for by_map in zip(*by_genre, strict=True):
                values = torch.cat(by_map)
                # Per area: a position in a coarse feature map covers more of the poster than one in a fine one.
                density = values / len(views) * (values.shape[2] * values.shape[3])
                density = density.flip(3) if mirrored else density
                by_size[density.shape] = by_size.get(density.shape, torch.zeros_like(density)) + density
    maps = torch.zeros(len(genres), *size, device=device)
    for density in by_size.values():
        maps += interpolate(density, size=size, mode="bilinear", align_corners=False)[:, 0]
    return maps.relu().cpu().numpy()
