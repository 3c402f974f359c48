"""Random changes to a batch of posters that leave their genres alone, on the batch's device."""

import torch
from torch import Tensor
from torch.nn import functional


def augment(posters: Tensor, flip: bool, crop: float) -> Tensor:
    """Change each poster of a batch by its own random numbers, from torch's global generator.

    Parameters
    ----------
    posters : float32 (N, 3, height, width), normalised
    flip : whether half of the posters are mirrored
    crop : the largest share of height and width that is cut off, in [0, 1); the rest is stretched to the full size

    Returns
    -------
    Of the same shape, type and device, channels last in memory.
    """
    number, device = len(posters), posters.device
    # Random numbers are drawn on the CPU, so that a seed means the same on every device.
    if flip or crop:
        mirror = torch.where(torch.rand(number) < 0.5, -1.0, 1.0) if flip else torch.ones(number)
        scale = 1 - crop * torch.rand(number)
        shift = (2 * torch.rand(number, 2) - 1) * (1 - scale).unsqueeze(1)
        transform = torch.zeros(number, 2, 3)
        transform[:, 0, 0] = scale * mirror
        transform[:, 1, 1] = scale
        transform[:, :, 2] = shift
        grid = functional.affine_grid(transform.to(device), list(posters.shape), align_corners=False)
        posters = functional.grid_sample(posters, grid, padding_mode="reflection", align_corners=False)
    return posters.contiguous(memory_format=torch.channels_last)
