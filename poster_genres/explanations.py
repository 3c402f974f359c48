"""Where on a poster a model finds what speaks for a genre."""

import numpy as np
import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor
from torch.nn.functional import interpolate

from poster_genres.fusion import Fusion, equal_weights
from poster_genres.model import Model
from poster_genres.objects import PosterDetections


def logits_by_object(model: Model, fusion: Fusion, detected: PosterDetections) -> np.ndarray:
    """What each object on a poster, lettering too, adds to each genre's logit: float32 (objects, genres)."""
    total = np.zeros((len(detected.objects), len(model.genres)), np.float32)
    if model.words is not None:
        letters, meaning = model.words.by_object(detected)
        total += fusion.weight("letters") * letters + fusion.weight("meaning") * meaning
    if model.objects is not None:
        total += fusion.weight("objects") * model.objects.by_object(detected)
    return total


def explain(
    model: Model, poster: np.ndarray, genres: list[int], device: torch.device, detected: PosterDetections | None = None
) -> np.ndarray:
    """HiResCAM (Draelos and Carin 2020, arXiv:2011.08891) on the maps that the heads of the model's networks see, averaged over
    networks and, where the model looks at it too, the mirror image; words and objects, each in its box; by the model's weights.

    Each place's activations times their gradients, summed over channels; what is negative in the end, which speaks against the
    genre, is left out. Where the maps are averaged before the last layer, the places of all maps add up to the logit, but for its
    bias. Where dense layers see each place by itself, as in the tutorial's network, Grad-CAM can point at wrong places and this
    does not.

    Parameters
    ----------
    poster : uint8 (height, width, 3)
    genres : columns of the model's output
    detected : what is on the poster, for two streams

    Returns
    -------
    float32 (genres, height, width) in [0, 1]: how much each place speaks for the genre, the strongest place of a genre being 1; all
    0 where nothing does
    """
    pixels = model.normalise(torch.tensor(poster[None], device=device))
    size = (model.height, model.width)
    fusion = model.fusion or equal_weights(["networks"], len(model.genres))
    weighted = [(network, fusion.weight("networks") / len(model.networks)) for network in model.networks]
    if model.probe is not None:
        weighted.append((model.probe, fusion.weight("probe")))
    views = (False, True) if model.flip else (False,)
    found = torch.zeros(len(genres), *size, device=device)
    for network, weight in weighted:
        network.eval()
        method = LayerGradientXActivation(network, network.maps)
        for mirrored in views:
            view = pixels.flip(3) if mirrored else pixels
            for i, genre in enumerate(genres):
                attributions = method.attribute(view, target=genre)
                for attribution in attributions if isinstance(attributions, tuple) else (attributions,):
                    places: Tensor = attribution.detach().sum(dim=1, keepdim=True)
                    # A place of a coarse map stands for more of the poster than one of a fine map.
                    density = weight / len(views) * places * (places.shape[2] * places.shape[3])
                    density = interpolate(density, size=size, mode="bilinear", align_corners=False)[0, 0]
                    found[i] += density.flip(1) if mirrored else density
    if detected is not None:
        for one, logits in zip(detected.objects, logits_by_object(model, fusion, detected), strict=True):
            if not (one.width and one.height):
                continue
            rows = slice(int(one.top * model.height), max(1, round((one.top + one.height) * model.height)))
            columns = slice(int(one.left * model.width), max(1, round((one.left + one.width) * model.width)))
            added = torch.from_numpy(logits[genres] / (one.width * one.height)).to(device)
            found[:, rows, columns] += added[:, None, None]
    found = found.relu()
    return (found / found.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)).cpu().numpy()
