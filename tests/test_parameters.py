"""params.yaml is read into typed values, or refused with one clear message."""

from pathlib import Path

import pytest
import yaml

from poster_genres.architectures import ARCHITECTURES, recipe_name
from poster_genres.errors import InputError
from poster_genres.networks import NETWORKS
from poster_genres.parameters import Parameters, read_parameters
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
    assert parameters.recipe() == getattr(parameters.recipes, recipe_name(parameters.architecture))


def test_text_that_is_a_number_is_read_as_one(folder: Path) -> None:
    # DVC writes `-S learning_rate=0.00001` so, and YAML 1.1 takes it for a string.
    set_parameters(folder, learning_rate="LR")
    path = folder / "params.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("LR", "1e-05"), encoding="utf-8")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["learning_rate"] == "1e-05"
    assert read_parameters(path).recipe().learning_rate == 1e-5


def test_the_top_level_goes_before_the_recipe(folder: Path) -> None:
    recipe = read(folder, architecture="tutorial", epochs=50, learning_rate=0.5).recipe()
    assert (recipe.epochs, recipe.learning_rate, recipe.batch_size) == (50, 0.5, 64)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"epoch": 5}, ["epoch: unknown key", "epochs"]),
        ({"epochs": -1}, ["epochs:", "greater than or equal to 0", "'auto'", "not -1"]),
        ({"epochs": 0, "architecture": "residual"}, ["epochs: should be 1 or more; 0 is for architectures with a probe"]),
        ({"architecture": "hf/"}, ["architecture: 'hf/' is unknown", "hf/<model ID or folder>"]),
        ({"epochs": 2.5}, ["epochs:", "not 2.5"]),
        ({"epochs": True}, ["epochs:", "not true or false"]),
        ({"learning_rate": "fast"}, ["learning_rate:", "not 'fast'"]),
        ({"learning_rate": float("nan")}, ["learning_rate:"]),
        ({"validation": 1.0}, ["validation:", "less than 1", "not 1.0"]),
        ({"seed": -1}, ["seed:", "not -1"]),
        ({"metadata": "xml"}, ["metadata:", "'auto', 'csv' or 'groundtruth'", "not 'xml'"]),
        ({"architecture": "resnet"}, ["architecture: 'resnet' is unknown", "tutorial", "residual"]),
        ({"architecture": ["tutorial"]}, ["architecture: ['tutorial'] is unknown"]),
        ({"image_height": None}, ["image_height:", "not None"]),
        ({"seed": -1, "limit": "many"}, ["seed:", "limit:"]),
        ({"recipes": {"tutorial": {}}}, ["recipes.tutorial.epochs: is missing", "recipes.residual: is missing"]),
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


def test_each_architecture_has_a_network_and_a_recipe() -> None:
    assert set(ARCHITECTURES) == set(NETWORKS)
