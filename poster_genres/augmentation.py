"""Random augmentation of a batch of posters, on its device."""

import torch
from torch import Tensor
from torch.nn import functional


def random_transforms(number: int, flip: bool, crop: float) -> Tensor | None:
    """Draw a random transform for each of `number` posters, from torch's global generator.

    On the CPU, so that a seed gives the same transforms on every device.

    Parameters
    ----------
    flip : whether half of the posters are mirrored
    crop : the largest share of height and width that is cut off, in [0, 1); the rest is resized to the full size

    Returns
    -------
    Affine transforms, float32 (number, 2, 3); None without `flip` and `crop`
    """
    if not (flip or crop):
        return None
    mirror = torch.where(torch.rand(number) < 0.5, -1.0, 1.0) if flip else torch.ones(number)
    scale = 1 - crop * torch.rand(number)
    shift = (2 * torch.rand(number, 2) - 1) * (1 - scale).unsqueeze(1)
    transforms = torch.zeros(number, 2, 3)
    transforms[:, 0, 0] = scale * mirror
    transforms[:, 1, 1] = scale
    transforms[:, :, 2] = shift
    return transforms


def augment(posters: Tensor, transforms: Tensor | None) -> Tensor:
    """Apply to each poster, float32 (N, 3, height, width), its transform of `random_transforms`.

    Returns
    -------
    The same shape, dtype and device, channels last in memory.
    """
    if transforms is not None:
        grid = functional.affine_grid(transforms.to(posters.device), list(posters.shape), align_corners=False)
        posters = functional.grid_sample(posters, grid, padding_mode="reflection", align_corners=False)
    return posters.contiguous(memory_format=torch.channels_last)
