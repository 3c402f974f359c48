"""Several processes that train one network together, each on its share of every batch, as `torchrun` starts them.

All of them go through the same steps with the same random numbers and end with the same weights. One process alone is the plain
case: nothing here then does anything.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn


def rank() -> int:
    """This process's number, from 0; the first one speaks and writes for all."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def launch(processes: int, module: str) -> None:
    """Run `python -m MODULE` in so many processes on this machine, and wait for them; ends this one if they fail."""
    import logging

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # The first process says what went wrong.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(1, 1, processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
    try:
        elastic_launch(config, sys.executable)("-m", module)
    except ChildFailedError:
        sys.exit(1)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Meet the other processes, and part from them at the end."""
    if world_size() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def shard(rows: Any) -> Any:
    """This process's part of rows, an array or a tensor (N, …)."""
    return rows[rank() :: world_size()]


def all_gather(part: np.ndarray) -> list[np.ndarray]:
    """What all processes give, in the order of their numbers."""
    parts: list[Any] = [part] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(parts, part)
    return parts


def all_gather_rows(part: np.ndarray) -> np.ndarray:
    """What all processes made of their `shard` of rows, in the order of the rows."""
    parts = all_gather(part)
    whole = np.empty((sum(map(len, parts)), *part.shape[1:]), part.dtype)
    for i, one in enumerate(parts):
        whole[i :: world_size()] = one
    return whole


def broadcast_random_state() -> None:
    """Have torch's global generator go on in all processes as it does in the first."""
    if world_size() > 1:
        state = [torch.get_rng_state()]
        distributed.broadcast_object_list(state)
        torch.set_rng_state(state[0])


def all_reduce(part: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in its place."""
    if world_size() > 1:
        distributed.all_reduce(part)
    return part


class _Sum(torch.autograd.Function):
    """`all_reduce`, which each process goes on with."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return all_reduce(part.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce(gradient.clone())


def average_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Take the mean and the biased variance of a batch with so many numbers a channel into the running ones."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_((variance * count / (count - 1)).to(variance.dtype), norm.momentum)


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the whole batch, of which each process has a part; torch's own, `SyncBatchNorm`, is for GPUs only."""

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


def distribute(network: nn.Module) -> nn.Module:
    """The network as it is trained: its gradients are averaged over all processes, and its batch norms are over whole batches."""
    if world_size() == 1:
        return network
    from torch.nn.parallel import DistributedDataParallel

    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm
    return DistributedDataParallel(network, forward_sync_buffers=False, static_graph=True)
