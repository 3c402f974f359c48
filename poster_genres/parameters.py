"""`params.yaml`, read in one place into typed values."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from poster_genres.architectures import (
    ARCHITECTURES,
    DETECTORS,
    ONNX,
    ONNX_FOLDER,
    TWO_STREAM,
    in_folder,
    is_detector,
    is_known,
    recipe_name,
)
from poster_genres.errors import InputError


def _not_boolean(value: Any) -> Any:
    """YAML's `yes` and `true` are not numbers, though pydantic would take them for 1."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


Integer = Annotated[int, BeforeValidator(_not_boolean)]
# A float also reads text: DVC writes 0.00001 as 1e-05, which YAML 1.1 takes for a string.
Number = Annotated[float, BeforeValidator(_not_boolean), Field(allow_inf_nan=False)]
Count = Annotated[Integer, Field(ge=1)]
Auto = Literal["auto"]


class Recipe(BaseModel):
    """How one architecture is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    networks: Count
    probe: bool
    frozen_blocks: Annotated[Integer, Field(ge=0)]
    epochs: Annotated[Integer, Field(ge=0)]
    batch_size: Annotated[Integer, Field(ge=2)]
    learning_rate: Annotated[Number, Field(gt=0)]
    body_learning_rate: Annotated[Number, Field(gt=0, le=1)]
    schedule: Literal["constant", "one_cycle"]
    weight_decay: Annotated[Number, Field(ge=0)]
    flip: bool
    crop: Annotated[Number, Field(ge=0, lt=1)]
    weight_averaging: Annotated[Number, Field(ge=0, lt=1)]


class Recipes(BaseModel):
    """A recipe an architecture, or a family of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tutorial: Recipe
    alexnet: Recipe
    residual: Recipe
    efficientnet_lite: Recipe
    hf: Recipe


class Parameters(BaseModel):
    """All of `params.yaml`; what each key means is said there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Annotated[str, Field(min_length=1)]
    metadata: Literal["auto", "csv", "groundtruth"]
    limit: Count
    validation: Annotated[Number, Field(gt=0, lt=1)]
    test: Annotated[Number, Field(gt=0, lt=1)]
    seed: Annotated[Integer, Field(ge=0, lt=2**32)]
    image_height: Annotated[Integer, Field(ge=32, le=2048)]
    image_width: Annotated[Integer, Field(ge=32, le=2048)]
    interpolation: Literal["bilinear", "bicubic", "lanczos"]
    max_unreadable: Annotated[Number, Field(ge=0, le=1)]
    dask_scheduler: str | None
    detectors: list[str]
    architecture: str
    epochs: Annotated[Integer, Field(ge=0)] | Auto
    batch_size: Annotated[Integer, Field(ge=2)] | Auto
    learning_rate: Annotated[Number, Field(gt=0)] | Auto
    patience: Annotated[Integer, Field(ge=0)]
    processes: Count
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]]
    recipes: Recipes

    @field_validator("detectors")
    @classmethod
    def _known_detectors(cls, names: list[str]) -> list[str]:
        for name in names:
            if not is_detector(name):
                raise ValueError(f"should be of {', '.join(DETECTORS)}, hf/<model ID or folder> and onnx/{ONNX_FOLDER}/<file>")
            if name.startswith(ONNX) and not in_folder(name):
                raise ValueError(
                    f"{name} should be in {ONNX_FOLDER}, where DVC sees when the file changes: "
                    f"copy it there, and say {ONNX}{ONNX_FOLDER}/{PurePosixPath(name).name}"
                )
        if len(set(names)) < len(names):
            raise ValueError("should name each detector once")
        return names

    @model_validator(mode="after")
    def _something_is_trained(self) -> Self:
        recipe = self.recipe()
        if recipe.epochs == 0 and not recipe.probe:
            raise ValueError("epochs: should be 1 or more; 0 is for architectures with a probe, which is then all there is")
        return self

    def recipe(self) -> Recipe:
        """The recipe of the chosen architecture, with what the top level says in place of `auto`."""
        recipe: Recipe = getattr(self.recipes, recipe_name(self.architecture))
        chosen = {key: getattr(self, key) for key in ("epochs", "batch_size", "learning_rate")}
        return recipe.model_copy(update={key: value for key, value in chosen.items() if value != "auto"})


def read_parameters(path: Path = Path("params.yaml")) -> Parameters:
    """Read and check `params.yaml`.

    Raises
    ------
    InputError
        The file is missing or no YAML; a key is unknown or missing; a value has the wrong type or is out of range; the
        architecture is unknown. Every fault is named in the one message.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file here; run this in the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    return check_parameters(values, path)


def check_parameters(values: Any, path: Path) -> Parameters:
    """The content of `path`, as YAML reads it, as typed values; errors as in `read_parameters`."""
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no keys")
    architecture = values.get("architecture")
    if "architecture" in values and not is_known(architecture):
        choices = f"{', '.join(ARCHITECTURES)}, hf/<model ID or folder>, and {TWO_STREAM} before any of these"
        raise InputError(f"{path}: architecture: {architecture!r} is unknown; the choices are {choices}")
    try:
        return Parameters.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path}: {'; '.join(_faults(error))}") from None


def _faults(error: ValidationError) -> list[str]:
    """One `key: what is wrong, not VALUE` a fault. A union's branches report alike; each key is named once."""
    faults: dict[str, str] = {}
    for fault in error.errors(include_url=False):
        branches = ("constrained-int", "constrained-float", "int", "float", "literal", "function-before")
        names = [str(name) for name in fault["loc"] if not str(name).startswith(branches)]
        key = ".".join(names)
        if not key:  # about several keys at once; the message names them
            faults[key] = fault["msg"].removeprefix("Value error, ")
            continue
        if fault["type"] == "extra_forbidden":
            fields: Any = Recipe if len(names) == 3 else Recipes if len(names) == 2 else Parameters
            faults[key] = f"{key}: unknown key; the keys are {', '.join(fields.model_fields)}"
        elif fault["type"] == "missing":
            faults[key] = f"{key}: is missing"
        else:
            message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
            if key in faults:
                faults[key] = faults[key].replace(", not ", f" or {message.removeprefix('should be ')}, not ", 1)
            else:
                faults[key] = f"{key}: {message}, not {fault['input']!r}"
    return list(faults.values())
