"""Backbones of Hugging Face's transformers: tiny ones with random weights, saved to a folder as the library does."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
import torch
import transformers
from PIL import Image

from poster_genres.errors import InputError
from poster_genres.model import Model
from poster_genres.network import find_architecture
from poster_genres.networks.hf import BackboneNetwork, places
from poster_genres.posters import decode
from tests.conftest import run, set_parameters, stage

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def save(model: transformers.PreTrainedModel, processor: transformers.BaseImageProcessor, folder: Path) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def vit(folder: Path) -> Path:
    config = transformers.ViTConfig(**SMALL, image_size=64, patch_size=16)
    return save(transformers.ViTModel(config), transformers.ViTImageProcessorPil(), folder)


def convnext(folder: Path) -> Path:
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
    return save(transformers.ConvNextModel(config), transformers.ConvNextImageProcessorPil(), folder)


def dinov2(folder: Path) -> Path:
    config = transformers.Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    return save(transformers.Dinov2Model(config), transformers.BitImageProcessorPil(), folder)


def clip(folder: Path) -> Path:
    vision = SMALL | {"image_size": 64, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=SMALL | {"vocab_size": 50}, vision_config=vision, projection_dim=16)
    return save(transformers.CLIPModel(config), transformers.CLIPImageProcessorPil(), folder)


def siglip(folder: Path) -> Path:
    vision = SMALL | {"image_size": 64, "patch_size": 16}
    config = transformers.SiglipConfig(text_config=SMALL | {"vocab_size": 50}, vision_config=vision)
    return save(transformers.SiglipModel(config), transformers.SiglipImageProcessorPil(), folder)


# What it takes for a repository's own code to be imported.
FOREIGN = "from pathlib import Path\nPath('ran').touch()\n"


def test_a_models_own_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anybody asked whether it may."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "modeling_evil.py").write_text(FOREIGN, encoding="utf-8")
    classes = {"AutoConfig": "modeling_evil.EvilConfig", "AutoModel": "modeling_evil.EvilModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": classes}), encoding="utf-8")
    with pytest.raises(InputError, match=r"^hf/evil: "):
        find_architecture("hf/evil")
    # As a model's file may name it.
    config = {"model_type": "trocr", "auto_map": {"AutoModel": f"{folder}--modeling_evil.EvilModel"}}
    with pytest.raises(ValueError, match="trust_remote_code"):
        find_architecture("hf/evil", config).build(3, 224, 224)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("make", [vit, convnext, dinov2, clip, siglip])
@pytest.mark.parametrize(("height", "width"), [(96, 64), (80, 80)])
def test_posters_of_any_shape_become_logits(tmp_path: Path, make, height: int, width: int) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    name = f"hf/{make(tmp_path / 'backbone')}"
    architecture = find_architecture(name)
    network = find_architecture(name, json.loads(json.dumps(architecture.config))).build(7, height, width)
    assert isinstance(network, BackboneNetwork)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert architecture.load_pretrained is not None
    architecture.load_pretrained(network)
    assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())
    posters = torch.randn(2, 3, height, width)
    network.eval()
    # The backbone's weights as saved, and its own answer.
    saved = transformers.AutoModel.from_pretrained(name.removeprefix("hf/"), config=network.backbone.config)
    with torch.inference_mode():
        expected = saved.eval()(pixel_values=posters, **network.options).last_hidden_state
        assert torch.equal(network.backbone(pixel_values=posters, **network.options).last_hidden_state, expected)
        assert network(posters).shape == (2, 7)


def mobilevit(folder: Path) -> Path:
    config = transformers.MobileViTConfig(hidden_sizes=[16, 16, 16], neck_hidden_sizes=[8] * 7, num_attention_heads=2)
    return save(transformers.MobileViTModel(config), transformers.MobileViTImageProcessorPil(), folder)


@pytest.mark.parametrize(
    ("make", "interpolation"),
    [
        (vit, "bilinear"),
        (siglip, "bicubic"),
        (dinov2, "bicubic"),
        (clip, "bicubic"),
        (convnext, "bicubic"),
        (mobilevit, "bicubic"),
    ],
)
def test_pixels_are_those_of_the_backbones_own_processor(tmp_path: Path, make, interpolation: str) -> None:  # type: ignore[no-untyped-def]
    name = f"hf/{make(tmp_path / 'backbone')}"
    architecture = find_architecture(name)
    preprocessing = architecture.preprocessing
    assert preprocessing.interpolation == interpolation
    picture = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    # Resized to one size without cropping: what it does to pixels is compared, not which part of a picture it takes.
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "backbone", backend="pil")
    with Image.open(picture) as image:
        resized = image.resize((160, 192), Image.Resampling[interpolation.upper()])
    options = {"size": {"height": 192, "width": 160}, "do_center_crop": False, "do_resize": False}
    expected = processor(resized, return_tensors="pt", **options)["pixel_values"]
    network = architecture.build(2, 192, 160)
    mean, std = list(preprocessing.mean), list(preprocessing.std)
    model = Model(name, ["A", "B"], 192, 160, mean, std, [network], [0.5, 0.5], interpolation=interpolation)
    pixels = model.normalise(torch.from_numpy(decode(picture.read_bytes(), 192, 160, interpolation)[None].copy()))
    seen: list[torch.Tensor] = []
    assert isinstance(network, BackboneNetwork)
    network.backbone.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True)
    with torch.inference_mode():
        network.eval()(pixels)
    torch.testing.assert_close(seen[0], expected, atol=2e-6, rtol=1e-5)


def test_tokens_are_laid_out_as_the_poster_is() -> None:
    assert places(1 + 15 * 10, 240, 160) == (15, 10)
    assert places(1 + 4 + 17 * 11, 240, 160) == (17, 11)  # four registers, patches of 14
    assert places(7 * 5, 224, 160) == (7, 5)
    with pytest.raises(ValueError, match="fit no grid"):
        places(100_003, 240, 160)


@pytest.mark.parametrize(
    ("make", "epochs", "interpolation"), [(vit, 1, "bilinear"), pytest.param(convnext, 0, "bicubic", marks=pytest.mark.long)]
)
def test_the_whole_pipeline(project: Path, make, epochs: int, interpolation: str) -> None:  # type: ignore[no-untyped-def]
    make(project / "backbones" / "tiny")
    set_parameters(project, architecture="hf/backbones/tiny", epochs=epochs, interpolation="lanczos")
    for name in ("join", "cache"):
        stage(name, cwd=project)
    assert stage("train", cwd=project, fails=True).stderr.splitlines()[-1] == (
        f"error: params.yaml: interpolation: hf/backbones/tiny was pretrained on pictures resized by {interpolation} "
        "interpolation; set it to that, not 'lanczos'"
    )
    set_parameters(project, interpolation=interpolation)
    for name in ("cache", "train", "evaluate"):
        stage(name, cwd=project)
    history = pd.read_csv(project / "metrics" / "history.csv")
    assert history["epoch"].tolist() == list(range(epochs + 1))
    poster = project / "data" / "posters" / "m000.jpg"
    # The model file is all that is needed from here on.
    (project / "backbones").rename(project / "gone")
    assert len(stage("predict", poster, "--explain", project / "why.png", cwd=project).stdout.splitlines()) == 4


def test_a_backbone_of_one_size_is_refused_for_others() -> None:
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match='the backbone raises "shape'),
    ):
        BackboneNetwork(transformers.HieraConfig().to_dict(), 3, 96, 80)


def test_what_is_missing_is_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    set_parameters(project, architecture="hf/nowhere/to-be-found")
    assert "hf/nowhere/to-be-found: " in stage("resolve", cwd=project, fails=True).stderr
    program = (
        "import sys; sys.modules['transformers'] = None; import runpy; runpy.run_module('stages.resolve', run_name='__main__')"
    )
    done = run(sys.executable, "-c", program, cwd=project, fails=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: hf/… needs transformers: pip install -r requirements-hf.txt"
