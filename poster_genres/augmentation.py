"""Random augmentation of a batch of posters, on its device."""

import torch
from torch import Tensor
from torch.nn import functional

# The sides of windows of posters are multiples of so many pixels: on a CPU each size takes memory, 200 MB more with multiples of 8.
WINDOW_STEP = 16


def random_transforms(number: int, flip: bool, crop: float, one_size: bool = False) -> Tensor | None:
    """Draw a random transform for each of `number` posters, from torch's global generator.

    On the CPU, so that a seed gives the same transforms on every device.

    Parameters
    ----------
    flip : whether half of the posters are mirrored
    crop : the largest share of height and width that is cut off, in [0, 1)
    one_size : whether as much is cut off from each poster

    Returns
    -------
    Affine transforms, float32 (number, 2, 3); None without `flip` and `crop`
    """
    if not (flip or crop):
        return None
    mirror = torch.where(torch.rand(number) < 0.5, -1.0, 1.0) if flip else torch.ones(number)
    scale = 1 - crop * torch.rand(1 if one_size else number).expand(number)
    shift = (2 * torch.rand(number, 2) - 1) * (1 - scale).unsqueeze(1)
    transforms = torch.zeros(number, 2, 3)
    transforms[:, 0, 0] = scale * mirror
    transforms[:, 1, 1] = scale
    transforms[:, :, 2] = shift
    return transforms


def augment(posters: Tensor, transforms: Tensor | None, windows: bool = False) -> Tensor:
    """Apply to each poster, float32 (N, 3, height, width), its transform of `random_transforms`.

    Parameters
    ----------
    windows : whether what `crop` leaves stays as small as it is, which takes transforms of `one_size`; else it is enlarged again

    Returns
    -------
    The same dtype and device, channels last in memory; the same shape without `windows`
    """
    if transforms is not None and windows:
        mirrored = (transforms[:, 0, 0] < 0).to(posters.device)[:, None, None, None]
        return crop_windows(torch.where(mirrored, posters.flip(3), posters), transforms, WINDOW_STEP)
    if transforms is not None:
        grid = functional.affine_grid(transforms.to(posters.device), list(posters.shape), align_corners=False)
        posters = functional.grid_sample(posters, grid, padding_mode="reflection", align_corners=False)
    return posters.contiguous(memory_format=torch.channels_last)


def crop_windows(images: Tensor, transforms: Tensor, step: int = 1) -> Tensor:
    """Crop each image or feature map, (N, channels, rows, columns), as its transform of `random_transforms`, of `one_size`, does.

    What is left is not enlarged, so that the network sees things in the size that they have in prediction.

    Parameters
    ----------
    step : rows and columns that are left are a multiple of it, or all
    """
    rows, columns = images.shape[2:]
    scale = transforms[:, 0, 0].abs()
    share = float(scale[0])
    height, width = (size if share == 1 else min(size, max(1, round(size * share / step)) * step) for size in (rows, columns))
    # From 0, at the left and at the top, to 1.
    places = (transforms[:, :, 2] / (1 - scale).clamp_min(1e-6)[:, None] + 1) / 2
    lefts, tops = (places * (torch.tensor([columns, rows]) - torch.tensor([width, height]))).round().int().T.tolist()
    windows = [one[:, top : top + height, left : left + width] for one, top, left in zip(images, tops, lefts, strict=True)]
    return torch.stack(windows).contiguous(memory_format=torch.channels_last)
