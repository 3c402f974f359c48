"""Random augmentation of a batch of posters, on its device."""

import torch
from torch import Tensor
from torch.nn import functional


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


def augment(posters: Tensor, transforms: Tensor | None) -> Tensor:
    """Apply to each poster, float32 (N, 3, height, width), its transform of `random_transforms`; what is left is enlarged again.

    Returns
    -------
    The same shape, dtype and device, channels last in memory.
    """
    if transforms is not None:
        grid = functional.affine_grid(transforms.to(posters.device), list(posters.shape), align_corners=False)
        posters = functional.grid_sample(posters, grid, padding_mode="reflection", align_corners=False)
    return posters.contiguous(memory_format=torch.channels_last)


def crop_maps(maps: Tensor, transforms: Tensor) -> Tensor:
    """Crop each feature map, (N, channels, rows, columns), as its transform of `random_transforms`, of `one_size`, does.

    What is left is not enlarged, so that the network sees things in the size that they have in prediction.
    """
    rows, columns = maps.shape[2:]
    scale = transforms[:, 0, 0].abs()
    height, width = (max(1, round(size * float(scale[0]))) for size in (rows, columns))
    # From 0, at the left and at the top, to 1.
    places = (transforms[:, :, 2] / (1 - scale).clamp_min(1e-6)[:, None] + 1) / 2
    lefts, tops = (places * (torch.tensor([columns, rows]) - torch.tensor([width, height]))).round().int().T.tolist()
    windows = [one[:, top : top + height, left : left + width] for one, top, left in zip(maps, tops, lefts, strict=True)]
    return torch.stack(windows).contiguous(memory_format=torch.channels_last)
