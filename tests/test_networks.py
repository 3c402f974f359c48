"""The networks: the tutorial's to the letter, and all of them at any shape."""

import pytest
import torch
from torch import nn

from poster_genres.networks import NETWORKS, build_network


def test_the_tutorials_network_is_reproduced_exactly() -> None:
    network = build_network("tutorial", genres=25, height=200, width=200)
    assert sum(parameter.numel() for parameter in network.parameters()) == 702_425
    layers = [*network.maps.children(), network.pool, *network.head.children()]
    kinds = [type(layer).__name__ for layer in layers]
    first = ["Conv2d", "ReLU", "BatchNorm2d", "MaxPool2d", "Dropout"]
    other = ["Conv2d", "ReLU", "MaxPool2d", "BatchNorm2d", "Dropout"]
    assert kinds == [*first, *other * 3, "Flatten", *["Linear", "ReLU", "Dropout"] * 2, "Head"]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [16, 32, 64, 64]
    assert {(layer.kernel_size, layer.padding, layer.stride) for layer in convolutions} == {((5, 5), (0, 0), (1, 1))}
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [0.2] * 4 + [0.5] * 2
    assert [layer.out_features for layer in layers if isinstance(layer, nn.Linear)] == [128, 64, 25]


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize(("height", "width"), [(200, 200), (168, 112), (77, 101)])
def test_posters_of_any_shape_become_logits(architecture: str, height: int, width: int) -> None:
    torch.manual_seed(0)
    network = build_network(architecture, 7, height, width)
    logits = network(torch.randn(3, 3, height, width))
    assert logits.shape == (3, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("architecture", NETWORKS)
def test_logits_keep_their_digits_under_autocast(architecture: str) -> None:
    torch.manual_seed(0)
    network = build_network(architecture, 1, 80, 80).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.randn(64, 3, 80, 80))
    assert logits.dtype == torch.float32
    # Rounded to bfloat16, fewer would differ.
    different = len(logits.unique())
    assert different > 60
    assert len(logits.bfloat16().unique()) < different


def test_posters_too_small_for_the_tutorials_network() -> None:
    with pytest.raises(ValueError, match="at least 76 x 76"):
        build_network("tutorial", 7, 75, 76)
    build_network("tutorial", 7, 76, 76)
