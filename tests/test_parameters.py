"""params.yaml is read into typed values, or refused with one clear message."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from poster_genres.architectures import NETWORKS, names, recipe_name
from poster_genres.errors import InputError
from poster_genres.network import Architecture, find_architecture
from poster_genres.parameters import DEFAULT, RECIPES, Parameters, check_parameters, read_parameters, read_recipes
from tests.conftest import ROOT, set_parameters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def read(folder: Path, **values: object) -> Parameters:
    set_parameters(folder, **values)
    return read_parameters(folder / "params.yaml")


def refusal(source: Path, path: Path, old: str, new: str, read_file: Callable[[Path], object]) -> str:
    """What is said of a file like `source`, at `path`, in which the text `old` is replaced by `new`."""
    text = source.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_file(path)
    return str(error.value)


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


KEYS = (
    "dataset, image_height, image_width, interpolation, max_unreadable, dask_scheduler, metadata, id_column, label_columns, "
    "separator, split_by, max_poster_megabytes, max_identical_posters, limit, validation, test, seed, detectors, architecture, "
    "patience, processes, "
    "sweep, ensemble_size, linear_probe, frozen_blocks, epochs, batch_size, learning_rate, text_learning_rate, "
    "backbone_learning_rate_factor, schedule, weight_decay, flip, crop"
)
NETWORKS_KNOWN = "alexnet, efficientnet_lite0, efficientnet_lite1, efficientnet_lite2, residual, tutorial"
CHOICES = f"the choices are {NETWORKS_KNOWN}, hf/<model ID or folder>, and two_stream/ before any of these"
VALUES = "should be a list of one value or more, or a range as {low: 0.0001, high: 0.01, log: true}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Epoch": 5, "a b": 1, 3: 4}, f"Epoch, 'a b', 3: unknown key; the keys are {KEYS}"),
        ({"epoch": 5}, f"epoch: unknown key; the keys are {KEYS}"),
        ({"recipe": {"epochs": 1}}, f"recipe: unknown key; the keys are {KEYS}"),
        (
            {"epochs": 0, "architecture": "residual"},
            "epochs: should be 1 or more; 0 is for architectures with a linear probe, which is then all there is",
        ),
        ({"architecture": "hf/"}, f"architecture: 'hf/' is unknown; {CHOICES}"),
        ({"architecture": ["tutorial"]}, f"architecture: ['tutorial'] is unknown; {CHOICES}"),
        ({"image_height": 200}, "image_width: set image_height and image_width, or leave both at 'auto', not 'auto'"),
        (
            {"seed": -1, "limit": "many"},
            "limit: should be a whole number from 1, not 'many'; seed: should be a whole number from 0 to 4294967295, not -1",
        ),
        ({"sweep": {"epochs": 3}}, f"sweep.epochs: {VALUES}, not 3"),
        ({"sweep": {"epochs": [], "crop": [0.1]}}, f"sweep.epochs: {VALUES}, not []"),
        ({"sweep": {"crop": {"low": "x", "high": 1}}}, "sweep.crop.low: should be a number, not 'x'"),
        ({"sweep": {"crop": {"low": True, "high": 1}}}, "sweep.crop.low: should be a number, not True"),
        ({"sweep": {"crop": {"low": 0.1}, "epochs": 2}}, f"sweep.crop.high: is missing; sweep.epochs: {VALUES}, not 2"),
        ({"sweep": {"crop": {"low": 0.2, "high": 0.1}}}, "sweep.crop.high: should be above low, not 0.1"),
        ({"sweep": {"crop": {"low": 0, "high": 0.1, "log": True}}}, "sweep.crop.log: is for a low above 0, not True"),
        ({"sweep": {"crop": {"low": 0, "high": 0.1, "log": "x"}}}, "sweep.crop.log: should be true or false, not 'x'"),
        (
            {"sweep": {"crop": {"low": 0, "high": 0.1, "step": 2}}},
            "sweep.crop.step: unknown key; the keys are low, high, log",
        ),
        ({"detectors": ["lettering", 3]}, "detectors: should be a list of detectors, not 3"),
        ({"detectors": ["lettering", "lettering"]}, "detectors: should name each detector once, not ['lettering', 'lettering']"),
        ({"limit": "9" * 5000}, f"limit: should be a whole number from 1, not '{'9' * 57}...{'9' * 58}'"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(values: dict[Any, object], message: str) -> None:
    own = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    with pytest.raises(InputError) as error:
        check_parameters(own | values, Path("params.yaml"))
    assert str(error.value) == f"params.yaml: {message}"


WHOLE, AUTO_TOO = "a whole number from", ", or 'auto'"
RIGHT = {
    "dataset": "the path of a folder",
    "metadata": "the name of a file, a list of such names, or 'auto'",
    "id_column": "the name of a column, or 'auto'",
    "label_columns": "the name of a column, a list of such names, or 'auto'",
    "separator": "a text, 'none', or 'auto'",
    "split_by": "hash, files, or the name of a column",
    "max_poster_megabytes": "a number above 0",
    "max_identical_posters": f"{WHOLE} 1",
    "limit": f"{WHOLE} 1",
    "validation": "a number between 0 and 1",
    "test": "a number between 0 and 1",
    "seed": f"{WHOLE} 0 to 4294967295",
    "interpolation": "bilinear, bicubic or lanczos",
    "max_unreadable": "a number from 0 to 1",
    "dask_scheduler": "an address like tcp://HOST:8786, or nothing",
    "patience": f"{WHOLE} 0",
    "processes": f"{WHOLE} 1 to 1000",
    "detectors": "a list of detectors",
    "sweep": "keys of this file, each with a list of values or a range",
    "ensemble_size": f"{WHOLE} 1 to 1000{AUTO_TOO}",
    "linear_probe": f"true or false{AUTO_TOO}",
    "frozen_blocks": f"{WHOLE} 0{AUTO_TOO}",
    "epochs": f"{WHOLE} 0{AUTO_TOO}",
    "batch_size": f"{WHOLE} 2 to 65536{AUTO_TOO}",
    "learning_rate": f"a number above 0{AUTO_TOO}",
    "text_learning_rate": f"a number from 0{AUTO_TOO}",
    "backbone_learning_rate_factor": f"a number above 0, of at most 1{AUTO_TOO}",
    "schedule": f"constant or one_cycle{AUTO_TOO}",
    "weight_decay": f"a number from 0{AUTO_TOO}",
    "flip": f"true or false{AUTO_TOO}",
    "crop": f"a number from 0 to less than 1{AUTO_TOO}",
    "image_height": f"{WHOLE} 32 to 2048{AUTO_TOO}",
    "image_width": f"{WHOLE} 32 to 2048{AUTO_TOO}",
}


@pytest.mark.parametrize("key", RIGHT)
def test_what_is_right_is_said_of_each_key(key: str) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert set(RIGHT) == set(values) - {"architecture"}
    texts = {"dataset", "metadata", "id_column", "label_columns", "separator", "split_by", "dask_scheduler"}
    wrong: list[object] = [
        -1,
        -0.5,
        {},
        float("nan"),
        *([] if key in ("linear_probe", "flip") else [True]),
        *([] if key in texts else ["ten", "", -(10**30)]),
        *(["", -(10**30)] if key in ("separator", "split_by") else []),
    ]
    for value in wrong:
        if value == {} and key == "sweep":
            continue
        with pytest.raises(InputError) as error:
            check_parameters(values | {key: value}, Path("params.yaml"))
        shown = {-(10**30): "-1000000000000000000000000000000"}.get(value, repr(value)) if value != {} else "{}"  # type: ignore[call-overload]
        # image_width is left at auto, which is wrong as well beside a number.
        message = str(error.value).partition("; image_width: set")[0]
        assert message == f"params.yaml: {key}: should be {RIGHT[key]}, not {shown}"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
)


@given(values=st.dictionaries(st.sampled_from(KEYS.split(", ")) | st.text(max_size=9), JUNK, min_size=1, max_size=3))
@settings(deadline=None)
@pytest.mark.slow
def test_any_values_are_taken_or_refused_in_one_short_line(values: dict[str, object]) -> None:
    own = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    try:
        check_parameters(own | values, Path("params.yaml"))
    except InputError as error:
        message = str(error).replace(KEYS, "")
        assert "\n" not in message
        assert "function" not in message.replace(str(values), "")
        assert len(message) < 1000


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("limit: 3000 ", "limit: 0100 ", "line 10: '0100' would be read as 64; write the number, or quote the text"),
        ("limit: 3000 ", "limit: 50:00 ", "line 10: '50:00' would be read as 3000; write the number, or quote the text"),
        ("limit: 3000 ", "seed: 3\nlimit: 3000 ", "line 14: 'seed' is there twice; keep one"),
        ("  epochs:\n", "  architecture:\n", "line 51: 'architecture' is there twice; keep one"),
    ],
)
def test_what_reads_otherwise_than_it_looks_is_refused_with_its_line(folder: Path, old: str, new: str, message: str) -> None:
    path = folder / "params.yaml"
    assert refusal(path, path, old, new, read_parameters) == f"{path}: {message}"


def test_a_missing_key_and_a_broken_file_are_named(folder: Path) -> None:
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    del values["limit"]
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(InputError, match="limit: is missing"):
        read_parameters(path)
    path.write_text("epochs: [1,", encoding="utf-8")
    with pytest.raises(InputError, match="line 1: expected the node content"):
        read_parameters(path)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        read_parameters(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  epochs: 10\n", "  epochs: -10\n", "tutorial.epochs: should be a whole number from 0, not -10"),
        (
            "  epochs: 10\n",
            "  epoch: 10\n",
            "tutorial.epoch: unknown key; the keys are ensemble_size, linear_probe, frozen_blocks, epochs, ",
        ),
        ("  crop: 0.3 ", "  crop: much ", "default.crop: should be a number from 0 to less than 1, not 'much'"),
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
    said = refusal(RECIPES, path, old, new, read_recipes)
    assert said.startswith(f"{path}: {message}")
    assert "\n" not in said


@pytest.mark.parametrize("name", names(NETWORKS))
def test_each_file_in_networks_is_an_architecture(name: str) -> None:
    assert isinstance(find_architecture(name), Architecture)
    assert recipe_name(f"two_stream/{name}") == name.rstrip("012")


def test_a_recipe_is_the_default_and_what_is_different(folder: Path) -> None:
    default, hf = (read(folder, architecture=name).recipe.model_dump() for name in ("efficientnet_lite2", "hf/a/b"))
    assert {key: value for key, value in hf.items() if value != default[key]} == yaml.safe_load(
        RECIPES.read_text(encoding="utf-8")
    )["hf"]
