"""Distributed training: several processes, as `torchrun` starts them, train one network, each on its shard of every batch.

All take the same steps with the same random numbers and end with the same weights. With a world size of 1, nothing here but
`QuickDropout` has an effect.
"""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor, distributed, nn


def rank() -> int:
    """This process's rank, from 0; rank 0 prints and writes for all."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def launch(processes: int, module: str) -> None:
    """Run `python -m MODULE` in this many processes on this machine and wait for them; exits with code 1 if one fails."""
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # Rank 0 prints what went wrong.
    logging.disable(logging.ERROR)
    # Without an ID, torch warns that it draws one.
    config = LaunchConfig(1, 1, processes, run_id=uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
    try:
        elastic_launch(config, sys.executable)("-m", module)
    except ChildFailedError:
        sys.exit(1)
    except SignalException:
        raise KeyboardInterrupt from None


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes' group, and leave it at the end."""
    if world_size() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The others wait while rank 0 fine-tunes a sentence model, which torch's ten or thirty minutes may be too few for.
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1))
    try:
        yield
    finally:
        distributed.destroy_process_group()


def shard(rows: Any) -> Any:
    """This process's shard of rows, an array or a tensor (N, …)."""
    return rows[rank() :: world_size()]


def all_gather_rows(array: np.ndarray) -> np.ndarray:
    """The inverse of `shard`: the rows of all processes' arrays, in their order before it."""
    shards: list[Any] = [array] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(shards, array)
    rows = np.empty((sum(map(len, shards)), *array.shape[1:]), array.dtype)
    for i, values in enumerate(shards):
        rows[i :: world_size()] = values
    return rows


def broadcast(value: Any) -> Any:
    """The value that rank 0 has."""
    values = [value]
    if world_size() > 1:
        distributed.broadcast_object_list(values)
    return values[0]


def broadcast_random_state() -> None:
    """Give torch's global generator in all processes the state that it has in rank 0."""
    torch.set_rng_state(broadcast(torch.get_rng_state()))


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
    return tensor


class _Sum(torch.autograd.Function):
    """`all_reduce` with a gradient, which is summed over all processes too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return all_reduce(tensor.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce(gradient.clone())


def average_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Update the running statistics by the mean and the biased variance of a batch with `count` values per channel."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_((variance * count / (count - 1)).to(variance.dtype), norm.momentum)


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the whole batch, of which each process has a shard; torch's own, `SyncBatchNorm`, is for GPUs only."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        dimensions = (0, 2, 3)
        count = _Sum.apply(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
        mean = _Sum.apply(x.sum(dimensions)) / count
        centered = x - mean[:, None, None]
        variance = _Sum.apply(centered.square().sum(dimensions)) / count
        average_statistics(self, mean, variance, count)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


class QuickDropout(nn.Dropout):
    """Dropout on a CPU, where torch's draws a number for each element, by one core: a third of a step of the tutorial's network on
    two. This draws 16 bits for each, four elements at a time.

    In several processes, each of which has a shard of the batch, all draw the bits for the whole batch, so that their generators
    stay equal. They are those that one process alone would draw, but for a network with several dropouts and no batch norm,
    `alexnet`, which one process takes in micro-batches.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not 0 < self.p < 1 or input.device.type != "cpu":
            return super().forward(input)
        rows = int(all_reduce(torch.tensor(len(input)))) if world_size() > 1 else len(input)
        # The bits are drawn in the order in which the maps lie in memory.
        channels_last = input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last)
        shape = (rows, *input.shape[2:], input.shape[1]) if channels_last else (rows, *input.shape[1:])
        elements = math.prod(shape)
        bits = torch.empty((elements + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        dropped = min(max(round(self.p * 2**16), 1), 2**16 - 1)
        kept = (bits[:elements] >= dropped - 2**15).view(shape)
        mask = shard(kept.movedim(-1, 1) if channels_last else kept).to(input.dtype)
        return input * mask.mul_(2**16 / (2**16 - dropped))


def distribute(network: nn.Module) -> nn.Module:
    """Prepare a network for training: gradients are averaged over all processes; batch norm and dropout are of whole batches."""
    for module in network.modules():
        if type(module) is nn.Dropout:
            module.__class__ = QuickDropout
    if world_size() == 1:
        return network
    from torch.nn.parallel import DistributedDataParallel

    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm
    return DistributedDataParallel(network, forward_sync_buffers=False, static_graph=True)
