"""Saliency maps: which regions of a poster raise a genre's logit."""

import numpy as np
import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor
from torch.nn.functional import interpolate

from poster_genres.fusion import Fusion, equal_weights
from poster_genres.model import Model
from poster_genres.objects import PosterDetections


def logits_by_object(model: Model, fusion: Fusion, content: PosterDetections) -> np.ndarray:
    """The contribution of each detection on a poster, text included, to the logits: float32 (objects, genres)."""
    total = np.zeros((len(content.objects), len(model.genres)), np.float32)
    if model.words is not None:
        letters, meaning = model.words.by_object(content)
        total += fusion.weight("letters") * letters + fusion.weight("meaning") * meaning
    if model.objects is not None:
        total += fusion.weight("objects") * model.objects.by_object(content)
    return total


def explain(
    model: Model, poster: np.ndarray, genres: list[int], device: torch.device, content: PosterDetections | None = None
) -> np.ndarray:
    """HiResCAM (Draelos and Carin 2020, arXiv:2011.08891) on the networks' feature maps, averaged over the ensemble and, with
    test-time augmentation, the mirror image; plus the contributions of text and objects, each spread over its box.

    Activations times gradients are summed over channels; negative totals, which lower the logit, are set to 0 at the end. If the
    feature maps are averaged before the last layer, a map's values add up to the logit without its bias. If dense layers follow the
    flattened feature maps, as in the tutorial's network, Grad-CAM can highlight wrong regions; HiResCAM does not.

    Parameters
    ----------
    poster : uint8 (height, width, 3)
    genres : columns of the model's output
    content : the detections on the poster, for two-stream architectures

    Returns
    -------
    float32 (genres, height, width) in [0, 1]: each map divided by its maximum; all 0 if nothing raises the logit.
    """
    pixels = model.normalise(torch.tensor(poster[None], device=device))
    size = (model.height, model.width)
    fusion = model.fusion or equal_weights(["networks"], len(model.genres))
    weighted = [(network, fusion.weight("networks") / len(model.networks)) for network in model.networks]
    if model.probe is not None:
        weighted.append((model.probe, fusion.weight("probe")))
    views = (False, True) if model.flip else (False,)
    maps = torch.zeros(len(genres), *size, device=device)
    for network, weight in weighted:
        network.eval()
        method = LayerGradientXActivation(network, network.maps)
        for mirrored in views:
            view = pixels.flip(3) if mirrored else pixels
            for i, genre in enumerate(genres):
                attributions = method.attribute(view, target=genre)
                for attribution in attributions if isinstance(attributions, tuple) else (attributions,):
                    values: Tensor = attribution.detach().sum(dim=1, keepdim=True)
                    # Per area: a position in a coarse feature map covers more of the poster than one in a fine one.
                    density = weight / len(views) * values * (values.shape[2] * values.shape[3])
                    density = interpolate(density, size=size, mode="bilinear", align_corners=False)[0, 0]
                    maps[i] += density.flip(1) if mirrored else density
    if content is not None:
        for detection, logits in zip(content.objects, logits_by_object(model, fusion, content), strict=True):
            left, top, width, height = detection[2:6]
            if not (width and height):
                continue
            rows = slice(int(top * model.height), max(1, round((top + height) * model.height)))
            columns = slice(int(left * model.width), max(1, round((left + width) * model.width)))
            density = torch.from_numpy(logits[genres] / (width * height)).to(device)
            maps[:, rows, columns] += density[:, None, None]
    maps = maps.relu()
    return (maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)).cpu().numpy()
