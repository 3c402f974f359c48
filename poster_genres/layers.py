"""Layers that compute the same as torch's, in less memory or time: most of both goes into the first large maps of a network."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from poster_genres import processes

# Numbers that are worked on at a time, so that what is needed only in between is small.
CHUNK = 2**19


def at_a_time(maps: Tensor) -> int:
    """How many posters of maps (N, channels, rows, columns) make a chunk."""
    return max(1, CHUNK // max(1, maps[0].numel()))


def corners(pooled: Tensor, width: int, stride: int, padding: int) -> Tensor:
    """Where each window of a max pooling begins in a map of `width`, counted row by row: int64 (rows, columns)."""
    rows, columns = (torch.arange(length, device=pooled.device) * stride - padding for length in pooled.shape[2:])
    return rows[:, None] * width + columns


class _MaxPool(torch.autograd.Function):
    """Keeps for the backward pass where in its window each maximum stood, in 16 bits."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, size: int, stride: int, padding: int) -> Tensor:
        parts = []
        for part in maps.split(at_a_time(maps)):
            pooled, places = functional.max_pool2d(part, size, stride, padding, return_indices=True)
            parts.append((pooled, places.sub_(corners(pooled, maps.shape[3], stride, padding)).to(torch.int16)))
        pooled, places = (torch.cat(one) for one in zip(*parts, strict=True))
        ctx.save_for_backward(places)
        # Of the maps nothing but their form is needed, which takes no memory.
        ctx.form, ctx.window = torch.empty_like(maps, device="meta"), (size, stride, padding)
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        maps = torch.empty_like(ctx.form, device=gradient.device)
        size, stride, padding = ctx.window
        first = corners(gradient, maps.shape[3], stride, padding)
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        number = at_a_time(maps)
        for part, one, places in zip(*(each.split(number) for each in (maps, gradient, *ctx.saved_tensors)), strict=True):
            part[:] = backward(one, part, [size] * 2, [stride] * 2, [padding] * 2, [1, 1], False, places + first)
        return maps, None, None, None


class MaxPool(nn.Module):
    """`nn.MaxPool2d`, which itself keeps its input and 64 bits for each maximum.

    The windows are square, and the maps have at most 10,000 columns.
    """

    def __init__(self, size: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__()
        self.window = size, stride or size, padding

    def forward(self, maps: Tensor) -> Tensor:
        pooled: Tensor = _MaxPool.apply(maps, *self.window)
        return pooled


class Dropout(nn.Dropout):
    """`nn.Dropout` with cheaper random numbers on the CPU, where torch's take a tenth of a training.

    They have 16 bits, to which `p` is rounded, and come from numpy's SFC64, seeded by torch's global generator.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu":
            return super().forward(x)
        dropped = round(self.p * 2**16)
        seed = int(torch.randint(2**62, ()))
        count = processes.number() * x.numel()
        bits = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16))[:count]
        # In the order in which the numbers lie in memory, channels last; all others are slow.
        posters, channels, *places = x.shape
        bits = bits.view(posters * processes.number(), *places, channels).movedim(-1, 1)
        kept = processes.share(bits) >= dropped - 2**15
        return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))
