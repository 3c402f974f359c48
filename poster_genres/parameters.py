"""`params.yaml` and `recipes.yaml`, read into typed values, and which of these each stage uses."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from poster_genres.architectures import (
    DETECTORS,
    HUGGING_FACE,
    NETWORKS,
    ONNX,
    ONNX_FOLDER,
    TWO_STREAM,
    in_folder,
    is_detector,
    is_known,
    names,
    needs_objects,
    recipe_name,
)
from poster_genres.errors import InputError

PARAMETERS, RECIPES = Path("params.yaml"), Path(__file__).parent / "recipes.yaml"
AUTO, DEFAULT = "auto", "default"


def _not_boolean(value: Any) -> Any:
    """Refuse YAML's `yes` and `true` as numbers, which pydantic would read as 1."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


def _size(value: Any) -> Any:
    if value != AUTO and (isinstance(value, bool) or not isinstance(value, int) or not 32 <= value <= 2048):
        raise ValueError(f"should be a whole number from 32 to 2048, or {AUTO!r}")
    return value


Size = Annotated[int | Literal["auto"], BeforeValidator(_size)]
Integer = Annotated[int, BeforeValidator(_not_boolean)]
# Floats are parsed from text too: DVC writes 0.00001 as 1e-05, which YAML 1.1 reads as a string.
Number = Annotated[float, BeforeValidator(_not_boolean), Field(allow_inf_nan=False)]
Count = Annotated[Integer, Field(ge=1)]
Seed = Annotated[Integer, Field(ge=0, lt=2**32)]


class Values(BaseModel):
    """A set of typed values, which cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Used = TypeVar("Used", bound=Values)


class Recipe(Values):
    """How a network is trained; recipes.yaml explains each key."""

    ensemble_size: Count
    linear_probe: bool
    frozen_blocks: Annotated[Integer, Field(ge=0)]
    epochs: Annotated[Integer, Field(ge=0)]
    batch_size: Annotated[Integer, Field(ge=2)]
    learning_rate: Annotated[Number, Field(gt=0)]
    backbone_learning_rate_factor: Annotated[Number, Field(gt=0, le=1)]
    schedule: Literal["constant", "one_cycle"]
    weight_decay: Annotated[Number, Field(ge=0)]
    ema_decay: Annotated[Number, Field(ge=0, lt=1)]
    flip: bool
    crop: Annotated[Number, Field(ge=0, lt=1)]


class JoinParameters(Values):
    """What `stages.join` uses."""

    dataset: Annotated[str, Field(min_length=1)]
    metadata: str | list[str]
    id_column: str
    label_columns: str | list[str]
    separator: Annotated[str, Field(min_length=1)]
    split_by: Literal["hash", "files"]
    max_identical_posters: Count
    limit: Count
    validation: Annotated[Number, Field(gt=0, lt=1)]
    test: Annotated[Number, Field(gt=0, lt=1)]
    seed: Seed


class CacheParameters(Values):
    """What `stages.cache` uses."""

    dataset: Annotated[str, Field(min_length=1)]
    image_height: Size
    image_width: Size
    interpolation: Literal["bilinear", "bicubic", "lanczos"]
    max_unreadable: Annotated[Number, Field(ge=0, le=1)]
    # Excluded from the values on which the stage depends, as it does not change the output.
    dask_scheduler: Annotated[str | None, Field(exclude=True)]


class DetectParameters(Values):
    """What `stages.detect` uses."""

    dataset: str
    detectors: list[str]
    two_stream: bool


class TrainParameters(Values):
    """What `stages.train` uses."""

    architecture: str
    interpolation: str
    recipe: Recipe
    patience: Annotated[Integer, Field(ge=0)]
    processes: Count
    seed: Seed


class EvaluateParameters(Values):
    """What `stages.evaluate` uses."""

    dataset: str
    seed: Seed


class Parameters(JoinParameters, CacheParameters):
    """All of `params.yaml`, which explains each key. Its keys of a recipe are in `recipe`, where the values of the architecture's
    recipe replace `auto`."""

    detectors: list[str]
    architecture: str
    recipe: Recipe
    patience: Annotated[Integer, Field(ge=0)]
    processes: Count
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]]

    @field_validator("detectors")
    @classmethod
    def _known_detectors(cls, chosen: list[str]) -> list[str]:
        for name in chosen:
            if not is_detector(name):
                raise ValueError(
                    f"should be of {', '.join(names(DETECTORS))}, hf/<model ID or folder> and onnx/{ONNX_FOLDER}/<file>"
                )
            if name.startswith(ONNX) and not in_folder(name):
                raise ValueError(
                    f"{name} should be in {ONNX_FOLDER}, where DVC sees when the file changes: "
                    f"copy it there, and say {ONNX}{ONNX_FOLDER}/{PurePosixPath(name).name}"
                )
        if len(set(chosen)) < len(chosen):
            raise ValueError("should name each detector once")
        return chosen

    @field_validator("image_width")
    @classmethod
    def _both_sizes(cls, width: int | str, info: ValidationInfo) -> int | str:
        if (width == AUTO) != (info.data.get("image_height", width) == AUTO):
            raise ValueError(f"set image_height and image_width, or leave both at {AUTO!r}")
        return width

    @property
    def two_stream(self) -> bool:
        """Whether the architecture also uses detections."""
        return needs_objects(self.architecture)

    def used_by(self, stage: type[Used]) -> Used:
        """The values that a stage uses, as one of the classes above."""
        return stage.model_validate({name: getattr(self, name) for name in stage.model_fields})


def read_parameters(path: Path = PARAMETERS) -> Parameters:
    """Read and check `params.yaml`, and poster_genres/recipes.yaml.

    Raises
    ------
    InputError
        A file is missing or is not YAML; a key is unknown or missing; a value has the wrong type or is out of range; the
        architecture is unknown. The one message names every fault of a file.
    """
    return check_parameters(_read_yaml(path), path)


def check_parameters(values: Any, path: Path) -> Parameters:
    """The content of `path`, as YAML reads it, as typed values; errors as in `read_parameters`."""
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no keys")
    architecture = values.get("architecture", "")
    if "architecture" in values and not is_known(architecture):
        choices = f"{', '.join(names(NETWORKS))}, hf/<model ID or folder>, and {TWO_STREAM} before any of these"
        raise InputError(f"{path}: architecture: {architecture!r} is unknown; the choices are {choices}")
    recipes = read_recipes()
    recipe = recipes.get(recipe_name(architecture), recipes[DEFAULT])
    chosen = {key: values[key] for key in Recipe.model_fields if values.get(key, AUTO) != AUTO}
    keys = [*(key for key in Parameters.model_fields if key != "recipe"), *Recipe.model_fields]
    faults = [f"{key}: unknown key; the keys are {', '.join(keys)}" for key in values if key not in keys]
    try:
        recipe = Recipe.model_validate(recipe.model_dump() | chosen)
    except ValidationError as error:
        faults += [fault.replace(", not ", f" or {AUTO!r}, not ") for fault in _faults(error)]
    if recipe.epochs == 0 and not recipe.linear_probe:
        faults.append("epochs: should be 1 or more; 0 is for architectures with a linear probe, which is then all there is")
    general = {key: value for key, value in values.items() if key in keys and key not in Recipe.model_fields}
    try:
        parameters = Parameters.model_validate({**general, "recipe": recipe})
    except ValidationError as error:
        faults += _faults(error)
    if faults:
        raise InputError(f"{path}: {'; '.join(faults)}")
    return parameters


def read_recipes(path: Path = RECIPES) -> dict[str, Recipe]:
    """The recipes by name: the default one, updated with the values of each architecture or family of architectures.

    Raises
    ------
    InputError
        As in `read_parameters`; or no architecture has this recipe.
    """
    content = _read_yaml(path)
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise InputError(f"{path}: should hold recipes by their names, {DEFAULT} among them, each with keys and values")
    if DEFAULT not in content:
        raise InputError(f"{path}: {DEFAULT}: is missing")
    choices = [DEFAULT, *sorted({recipe_name(name) for name in (*names(NETWORKS), HUGGING_FACE)})]
    faults = [f"{key}: no architecture has this recipe; they are {', '.join(choices)}" for key in content if key not in choices]
    recipes = {}
    for name, values in content.items():
        try:
            recipes[name] = Recipe.model_validate(content[DEFAULT] | values)
        except ValidationError as error:
            # Faults of the default recipe are reported once, not again for each of the others.
            faults += [f"{name}.{fault}" for fault in _faults(error) if name == DEFAULT or fault.partition(":")[0] in values]
    if faults:
        raise InputError(f"{path}: {'; '.join(faults)}")
    return recipes


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file here; run this in the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None


def _faults(error: ValidationError) -> list[str]:
    """One `key: what is wrong, not VALUE` per fault."""
    faults = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(name) for name in fault["loc"])
        if fault["type"] == "missing":
            faults.append(f"{key}: is missing")
        elif fault["type"] == "extra_forbidden":
            faults.append(f"{key}: unknown key; the keys are {', '.join(Recipe.model_fields)}")
        else:
            message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
            faults.append(f"{key}: {message}, not {fault['input']!r}")
    return faults
