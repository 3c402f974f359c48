"""Layers that compute the same as torch's, in less memory or time: most of both goes into the first large maps of a network."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from poster_genres import processes

# Numbers that are worked on at a time, so that what is needed only in between is small, and still in the processor's cache.
CHUNK = 2**20
# Floating-point numbers that are not negative stand in the same order as the integers of the same bits, which are compared faster.
INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}


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


def quarters(maps: Tensor) -> list[Tensor]:
    """What stands at the same place in each 2 x 2 window of maps (N, rows, columns, channels): four views (N, rows // 2, columns //
    2, channels), row by row."""
    rows, columns = (length // 2 * 2 for length in maps.shape[1:3])
    return [maps[:, row:rows:2, column:columns:2] for row in (0, 1) for column in (0, 1)]


def channels_last(maps: Tensor) -> Tensor:
    """Maps (N, channels, rows, columns) as (N, rows, columns, channels), which they should be in memory."""
    return maps.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


def channel_sums(maps: Tensor) -> Tensor:
    """The sum of each channel of maps (N, rows, columns, channels), float64."""
    # Over each row's columns first: torch gives whole rows to a core, as it does when it makes the maps, and what one core has
    # just written is read slowly by another.
    rows = maps.sum(dim=2, dtype=torch.promote_types(maps.dtype, torch.float32))
    return rows.view(-1, maps.shape[3]).sum(dim=0, dtype=torch.float64)


def pool(maps: Tensor, larger: Any = torch.maximum) -> Tensor:
    """The largest of each 2 x 2 window of maps (N, rows, columns, channels), rectified."""
    rows, columns = (length // 2 * 2 for length in maps.shape[1:3])
    # Rows first, which lie in one piece.
    larger_rows = larger(maps[:, :rows:2], maps[:, 1:rows:2])
    return larger(larger_rows[:, :, :columns:2], larger_rows[:, :, 1:columns:2]).relu_()


def give_back(gradient: Tensor, maps: Tensor, to: Tensor) -> None:
    """Give each window's gradient to the first of its largest numbers, as torch does.

    All are the bits of numbers, as integers (N, rows, columns, channels): `gradient` of what is given, `maps` of the numbers, of
    which the largest is right in windows where any is positive, and `to` of what is written, where nothing is beyond the windows.
    """
    first, second, third, fourth = quarters(maps)
    at_first, at_second, at_third, at_fourth = quarters(to)
    second_is_larger, fourth_is_larger, below_is_larger = (torch.empty_like(gradient) for _ in range(3))
    torch.gt(second, first, out=second_is_larger)
    torch.gt(fourth, third, out=fourth_is_larger)
    torch.gt(torch.maximum(third, fourth), torch.maximum(first, second), out=below_is_larger)
    # Bits times 1 or 0 are the number itself or zero.
    below = below_is_larger.mul_(gradient)
    above = gradient ^ below
    torch.mul(above, second_is_larger, out=at_second)
    torch.bitwise_xor(above, at_second, out=at_first)
    torch.mul(below, fourth_is_larger, out=at_fourth)
    torch.bitwise_xor(below, at_fourth, out=at_third)


class _ReLUMaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        maps = channels_last(maps)
        pooled = torch.cat([pool(part) for part in maps.split(at_a_time(maps))])
        ctx.save_for_backward(maps, pooled)
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        maps, pooled = ctx.saved_tensors
        result = torch.empty_like(maps)
        result[:, pooled.shape[1] * 2 :] = 0
        result[:, :, pooled.shape[2] * 2 :] = 0
        for part in zip(*(one.split(at_a_time(maps)) for one in (channels_last(gradient), maps, pooled, result)), strict=True):
            given, numbers, largest, to = (one.view(INTEGERS[one.dtype]) for one in part)
            give_back(torch.gt(largest, 0, out=torch.empty_like(largest)).mul_(given), numbers, to)
        return result.permute(0, 3, 1, 2)


class ReLUMaxPool(nn.Module):
    """`nn.ReLU` and `nn.MaxPool2d(2)`, in either order, in half the time on the CPU."""

    def forward(self, maps: Tensor) -> Tensor:
        if maps.device.type != "cpu":
            return functional.max_pool2d(maps, 2).relu()
        pooled: Tensor = _ReLUMaxPool.apply(maps)
        return pooled


class _ReLUBatchNormMaxPool(torch.autograd.Function):
    """Also gives the mean and the biased variance of the whole batch, and the number of each channel's values in it."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        maps = channels_last(maps)
        # Where a weight is negative, the largest number after batch norm is the smallest before.
        negative = torch.nonzero(weight < 0)[:, 0]
        parts = []
        sums = torch.zeros(2, maps.shape[3], dtype=torch.float64)
        for part in maps.split(at_a_time(maps)):
            pooled = pool(part)
            if len(negative):
                pooled[..., negative] = pool(part[..., negative], torch.minimum)
            parts.append(pooled)
            rectified = part.float().relu_() if part.dtype == torch.bfloat16 else part.relu()
            sums += torch.stack([channel_sums(rectified), channel_sums(rectified.square_())])
        count = processes.all_reduce(torch.tensor(float(maps.numel() // maps.shape[3]), dtype=torch.float64))
        means = processes.all_reduce(sums) / count
        mean, variance = means[0].to(weight.dtype), (means[1] - means[0].square()).to(weight.dtype)
        pooled = torch.cat(parts).permute(0, 3, 1, 2)
        normed = functional.batch_norm(pooled, mean, variance, weight, bias, False, 0.0, epsilon)
        ctx.save_for_backward(maps, pooled, weight, negative, mean, variance, count)
        ctx.epsilon = epsilon
        ctx.mark_non_differentiable(mean, variance, count)
        return normed, mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        maps, pooled, weight, negative, mean, variance, count = ctx.saved_tensors
        # As in Ioffe and Szegedy 2015, arXiv:1502.03167: what reaches a number directly, at the places of the maxima, and what
        # reaches it by way of mean and variance, which is a linear function of the number itself.
        standard = functional.batch_norm(pooled, mean, variance, None, None, False, 0.0, ctx.epsilon)
        own = torch.stack([channel_sums(channels_last(one)) for one in (gradient * standard, gradient)]).to(weight.dtype)
        whole = processes.all_reduce(own.clone())
        inverse = torch.rsqrt(variance + ctx.epsilon)
        scale = weight * inverse
        slope = -scale * inverse * whole[0] / count.to(weight.dtype)
        level = -scale * whole[1] / count.to(weight.dtype) - slope * mean
        scaled = channels_last(gradient * scale.to(gradient.dtype)[:, None, None])
        zero, one = torch.zeros_like(mean), torch.ones_like(mean)
        result = torch.empty_like(maps)
        number = at_a_time(maps)
        for given, numbers, to in zip(scaled.split(number), maps.split(number), result.split(number), strict=True):
            bits = numbers.view(INTEGERS[numbers.dtype])
            if len(negative):
                bits = bits.clamp_min(0)
                bits[..., negative] = bits[..., negative].bitwise_not()
            direct = torch.zeros_like(bits) if maps.shape[1] % 2 or maps.shape[2] % 2 else torch.empty_like(bits)
            give_back(given.contiguous().view(bits.dtype), bits, direct)
            whole_gradient = functional.batch_norm(numbers.permute(0, 3, 1, 2), zero, one, slope, level, False, 0.0, 0.0)
            whole_gradient += direct.view(maps.dtype).permute(0, 3, 1, 2)
            # Nothing reaches what was negative.
            torch.ops.aten.threshold_backward.grad_input(
                whole_gradient, numbers.permute(0, 3, 1, 2), 0, grad_input=to.permute(0, 3, 1, 2)
            )
        return result.permute(0, 3, 1, 2), own[0], own[1], None


class ReLUBatchNormMaxPool(nn.Module):
    """`nn.ReLU`, a batch norm and `nn.MaxPool2d(2)`, one after the other: in training on the CPU faster, and keeping nothing large
    but its input. In several processes the batch is the whole one, of which each has a part."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, maps: Tensor) -> Tensor:
        norm = self.norm
        if norm.training and maps.device.type == "cpu":
            normed, *statistics = _ReLUBatchNormMaxPool.apply(maps, norm.weight, norm.bias, norm.eps)
            processes.average_statistics(norm, *statistics)
            return normed
        if not norm.training and bool((norm.weight >= 0).all()):
            # The largest number is the same before and after, where it takes a fourth of the time.
            return norm(ReLUMaxPool()(maps))
        return functional.max_pool2d(norm(maps.relu()), 2)


class Dropout(nn.Dropout):
    """`nn.Dropout` with cheaper random numbers on the CPU, where torch's take a tenth of a training.

    They have 16 bits, to which `p` is rounded, and come from numpy's SFC64, seeded by torch's global generator.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu":
            return super().forward(x)
        dropped = round(self.p * 2**16)
        seed = int(torch.randint(2**62, ()))
        count = processes.world_size() * x.numel()
        bits = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16))[:count]
        # In the order in which the numbers lie in memory, channels last; all others are slow.
        posters, channels, *places = x.shape
        bits = bits.view(posters * processes.world_size(), *places, channels).movedim(-1, 1)
        # In place, as 16 bits: torch is slow at truth values.
        kept = processes.shard(bits).ge_(dropped - 2**15)
        return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))
