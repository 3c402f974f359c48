"""Where on a poster a model finds what speaks for a genre."""

import numpy as np
import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor
from torch.nn.functional import interpolate

from poster_genres.model import Model


def explain(model: Model, poster: np.ndarray, genres: list[int], device: torch.device) -> np.ndarray:
    """HiResCAM (Draelos and Carin 2020, arXiv:2011.08891) on the last maps of each of the model's networks, averaged over them and,
    where the model looks at it too, over the mirror image.

    Each place's activations times their gradients, summed over channels; what is negative, which speaks against the genre, is left
    out. Where the maps are averaged before the last layer this is Grad-CAM; where dense layers see each place by itself, as in the
    tutorial's network, Grad-CAM points at the wrong places and this does not.

    Parameters
    ----------
    poster : uint8 (height, width, 3)
    genres : columns of the model's output

    Returns
    -------
    float32 (genres, height, width) in [0, 1]: how much each place speaks for the genre, the strongest place of a genre being 1; all
    0 where nothing does
    """
    pixels = model.normalise(torch.from_numpy(poster[None]).to(device))
    found = torch.zeros(len(genres), model.height, model.width, device=device)
    for network in model.networks:
        network.eval()
        method = LayerGradientXActivation(network, network.maps)
        for mirrored in (False, True) if model.flip else (False,):
            view = pixels.flip(3) if mirrored else pixels
            for i, genre in enumerate(genres):
                cam: Tensor = method.attribute(view, target=genre).detach().sum(dim=1, keepdim=True).relu()
                cam = interpolate(cam, size=(model.height, model.width), mode="bilinear", align_corners=False)[0, 0]
                found[i] += cam.flip(1) if mirrored else cam
    return (found / found.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)).cpu().numpy()
