"""params.yaml is read into typed values, or refused with one clear message."""

from pathlib import Path

import pytest
import yaml

from poster_genres.architectures import NETWORKS, names, recipe_name
from poster_genres.errors import InputError
from poster_genres.network import Architecture, find_architecture
from poster_genres.parameters import DEFAULT, RECIPES, Parameters, read_parameters, read_recipes
from tests.conftest import ROOT, set_parameters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def read(folder: Path, **values: object) -> Parameters:
    set_parameters(folder, **values)
    return read_parameters(folder / "params.yaml")


def test_the_projects_own_parameters_are_read(folder: Path) -> None:
    parameters = read(folder)
    assert parameters.limit == 3000
    assert parameters.recipe == read_recipes()[DEFAULT]


def test_text_that_is_a_number_is_read_as_one(folder: Path) -> None:
    # DVC writes `-S learning_rate=0.00001` so, and YAML 1.1 takes it for a string.
    set_parameters(folder, learning_rate="LR")
    path = folder / "params.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("LR", "1e-05"), encoding="utf-8")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["learning_rate"] == "1e-05"
    assert read_parameters(path).recipe.learning_rate == 1e-5


def test_the_top_level_goes_before_the_recipe(folder: Path) -> None:
    recipe = read(folder, architecture="tutorial", epochs=50, learning_rate=0.5).recipe
    assert (recipe.epochs, recipe.learning_rate, recipe.batch_size) == (50, 0.5, 64)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"epoch": 5}, ["epoch: unknown key", "epochs"]),
        ({"epochs": -1}, ["epochs:", "greater than or equal to 0", "'auto'", "not -1"]),
        ({"epochs": 0, "architecture": "residual"}, ["epochs: should be 1 or more; 0 is for architectures with a linear probe"]),
        ({"architecture": "hf/"}, ["architecture: 'hf/' is unknown", "hf/<model ID or folder>"]),
        ({"epochs": 2.5}, ["epochs:", "not 2.5"]),
        ({"epochs": True}, ["epochs:", "not true or false"]),
        ({"learning_rate": "fast"}, ["learning_rate:", "not 'fast'"]),
        ({"learning_rate": float("nan")}, ["learning_rate:"]),
        ({"validation": 1.0}, ["validation:", "less than 1", "not 1.0"]),
        ({"seed": -1}, ["seed:", "not -1"]),
        ({"split_by": "year"}, ["split_by:", "'hash' or 'files'", "not 'year'"]),
        ({"architecture": "resnet"}, ["architecture: 'resnet' is unknown", "tutorial", "residual"]),
        ({"architecture": ["tutorial"]}, ["architecture: ['tutorial'] is unknown"]),
        ({"image_height": None}, ["image_height:", "not None"]),
        ({"seed": -1, "limit": "many"}, ["seed:", "limit:"]),
        ({"recipe": {"epochs": 1}}, ["recipe: unknown key; the keys are dataset, "]),
        (
            {"crop": 1, "flip": "sometimes"},
            ["crop: should be less than 1 or 'auto', not 1", "flip: ", "or 'auto', not 'sometimes'"],
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(folder: Path, values: dict[str, object], named: list[str]) -> None:
    with pytest.raises(InputError) as error:
        read(folder, **values)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(folder / "params.yaml"))
    assert all(text in message for text in named), message


def test_a_missing_key_and_a_broken_file_are_named(folder: Path) -> None:
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    del values["limit"]
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(InputError, match="limit: is missing"):
        read_parameters(path)
    path.write_text("epochs: [1,", encoding="utf-8")
    with pytest.raises(InputError, match="not readable as YAML"):
        read_parameters(path)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        read_parameters(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  epochs: 10\n", "  epochs: -10\n", "tutorial.epochs: should be greater than or equal to 0, not -10"),
        (
            "  epochs: 10\n",
            "  epoch: 10\n",
            "tutorial.epoch: unknown key; the keys are ensemble_size, linear_probe, frozen_blocks, epochs, ",
        ),
        ("  crop: 0.3 ", "  crop: much ", "default.crop: should be a valid number, unable to parse string as a number, not 'much'"),
        (
            "\nalexnet:\n",
            "\nalexnett:\n",
            "alexnett: no architecture has this recipe; they are default, alexnet, ",
        ),
        ("default:\n", "standard:\n", "default: is missing"),
    ],
)
def test_a_wrong_recipe_is_named_with_what_would_be_right(folder: Path, old: str, new: str, message: str) -> None:
    path = folder / "recipes.yaml"
    text = RECIPES.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_recipes(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", names(NETWORKS))
def test_each_file_in_networks_is_an_architecture(name: str) -> None:
    assert isinstance(find_architecture(name), Architecture)
    assert recipe_name(f"two_stream/{name}") == name.rstrip("012")


def test_a_recipe_is_the_default_and_what_is_different(folder: Path) -> None:
    default, hf = (read(folder, architecture=name).recipe.model_dump() for name in ("efficientnet_lite2", "hf/a/b"))
    assert {key: value for key, value in hf.items() if value != default[key]} == yaml.safe_load(
        RECIPES.read_text(encoding="utf-8")
    )["hf"]
