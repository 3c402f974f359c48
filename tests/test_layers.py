"""The project's own layers do what torch's do."""

import copy

import pytest
import torch
from torch import nn

from poster_genres import layers, processes
from poster_genres.layers import Dropout, MaxPool, ReLUBatchNormMaxPool, ReLUMaxPool


@pytest.mark.parametrize("shape", [(5, 3, 12, 10), (4, 2, 13, 11), (1, 1, 3, 3)])
@pytest.mark.parametrize("window", [(2,), (3, 2), (3, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize("chunk", [1, 700, 2**20])
def test_max_pooling_is_torchs(
    shape: tuple[int, ...], window: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "CHUNK", chunk)
    torch.manual_seed(0)
    for values in (torch.randn(shape), torch.randint(0, 2, shape).float()):  # the second with ties everywhere
        results = []
        for pool in (MaxPool(*window), nn.MaxPool2d(*window)):  # type: ignore[arg-type]
            maps = values.clone().contiguous(memory_format=torch.channels_last).requires_grad_()
            pooled = pool(maps)
            gradient = torch.arange(1.0, pooled.numel() + 1).view(pooled.shape)
            pooled.backward(gradient)
            results.append((pooled.detach(), maps.grad))
        for one, other in zip(*results, strict=True):
            assert torch.equal(one, other)


def test_max_pooling_keeps_little_for_the_backward_pass() -> None:
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.nbytes)
        return tensor

    maps = torch.randn(2, 16, 64, 64, requires_grad=True).contiguous(memory_format=torch.channels_last)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pooled = MaxPool(2)(maps)
    assert kept == [pooled.numel() * 2]


def passed(layer: nn.Module, values: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    """What a layer gives for maps, and what gradients reach them and its parameters; and what it keeps of them, in float64."""
    maps = values.to(dtype, copy=True).contiguous(memory_format=torch.channels_last).requires_grad_()
    pooled = layer(maps)
    pooled.backward(torch.linspace(-1, 2, pooled.numel()).view(pooled.shape).to(dtype))
    parts = [pooled, maps.grad, *(one.grad for one in layer.parameters()), *(one for one in layer.buffers() if one.ndim)]
    return [part.detach().double() for part in parts if part is not None]


@pytest.mark.parametrize("shape", [(5, 3, 12, 10), (4, 16, 13, 11), (1, 1, 3, 3)])
@pytest.mark.parametrize("chunk", [1, 700, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_relu_and_max_pooling_are_torchs(
    shape: tuple[int, ...], chunk: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "CHUNK", chunk)
    torch.manual_seed(0)
    for values in (torch.randn(shape), torch.randint(-2, 3, shape).float(), -torch.rand(shape)):  # the second with many ties
        expected = passed(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), values, dtype)
        for one, other in zip(passed(ReLUMaxPool(), values, dtype), expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(5, 3, 12, 10), (4, 16, 13, 11), (3, 2, 3, 3)])
@pytest.mark.parametrize("chunk", [1, 700, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("weights", ["positive", "of both signs"])
def test_relu_batch_norm_and_max_pooling_are_torchs(
    shape: tuple[int, ...], chunk: int, dtype: torch.dtype, training: bool, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "CHUNK", chunk)
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(shape[1], eps=1e-3, momentum=0.01)
    nn.init.uniform_(norm.weight, 0.2 if weights == "positive" else -1, 1)
    nn.init.normal_(norm.bias)
    for values in (torch.randn(shape) + 0.3, torch.randint(-2, 3, shape).float()):
        layer = ReLUBatchNormMaxPool(copy.deepcopy(norm)).to(dtype).train(training)
        # Torch's own in more digits than it has otherwise.
        plain = nn.Sequential(nn.ReLU(), copy.deepcopy(norm), nn.MaxPool2d(2)).double().train(training)
        for one, other in zip(passed(layer, values, dtype), passed(plain, values, torch.float64), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("shape", [(8, 16, 30, 20), (64, 1000), (3, 5, 7)])
@pytest.mark.parametrize("p", [0.0, 0.2, 0.5])
def test_dropout_drops_and_scales(shape: tuple[int, ...], p: float) -> None:
    layer = Dropout(p)
    x = torch.rand(shape).add(1).requires_grad_()
    torch.manual_seed(0)
    first, second = layer(x), layer(x)
    torch.manual_seed(0)
    assert torch.equal(layer(x), first)
    if p:
        assert not torch.equal(first, second)
    dropped = first == 0
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(float(dropped.float().mean()) - p) <= 4 * deviation
    torch.testing.assert_close(first[~dropped], x[~dropped] / (1 - p), rtol=1e-4, atol=0)
    first.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(dropped, 0.0, 1 / (1 - p)), rtol=1e-4, atol=0)
    assert torch.equal(layer.eval()(x), x)


def test_dropout_has_no_pattern_over_posters_channels_and_places() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(64, 16, 20, 20)) > 0).float()
    for dimensions in ((1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)):
        means = kept.mean(dim=dimensions)
        deviation = 0.5 / (kept.numel() / means.numel()) ** 0.5
        assert float((means - 0.5).abs().max()) < 4.5 * deviation


@pytest.mark.parametrize("posters", [64, 65])
def test_dropout_is_the_same_in_several_processes(posters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(posters, 6, 5, 4)
    layer = Dropout(0.3)
    torch.manual_seed(0)
    whole = layer(x)
    monkeypatch.setattr(processes, "number", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        torch.manual_seed(0)
        assert torch.equal(layer(processes.shard(x)), whole[rank::2])
