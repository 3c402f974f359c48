"""`params.yaml` and `recipes.yaml`, read into typed values, and which of these each stage uses."""

import math
import re
import reprlib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, ValidationInfo, field_validator

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
SAMPLE = Path("data/sample")  # the data set that the stage `sample` draws
MOST_DIGITS = 40


def _not_boolean(value: Any) -> Any:
    """Refuse YAML's `yes` and `true` as numbers, which pydantic would read as 1."""
    if isinstance(value, bool):
        # Unlike of a ValueError, nobody reads its message: the field's description says what is right.
        raise AssertionError("true and false are not numbers")
    return value


def _size(value: Any) -> Any:
    if value != AUTO and (isinstance(value, bool) or not isinstance(value, int) or not 32 <= value <= 2048):
        raise ValueError(f"should be a whole number from 32 to 2048, or {AUTO!r}")
    return value


Size = Annotated[int | Literal["auto"], BeforeValidator(_size)]
# The description of a field is what an error says that its value should be.
Integer = Annotated[int, BeforeValidator(_not_boolean)]
# Floats are parsed from text too: DVC writes 0.00001 as 1e-05, which YAML 1.1 reads as a string.
Number = Annotated[float, BeforeValidator(_not_boolean), Field(allow_inf_nan=False)]
Positive = Annotated[Integer, Field(ge=1, description="a whole number from 1")]
Natural = Annotated[Integer, Field(ge=0, description="a whole number from 0")]
Few = Annotated[Integer, Field(ge=1, le=1000, description="a whole number from 1 to 1000")]
Seed = Annotated[Integer, Field(ge=0, lt=2**32, description="a whole number from 0 to 4294967295")]
Part = Annotated[Number, Field(gt=0, lt=1, description="a number between 0 and 1")]
Share = Annotated[Number, Field(ge=0, le=1, description="a number from 0 to 1")]
LessThanOne = Annotated[Number, Field(ge=0, lt=1, description="a number from 0 to less than 1")]
YesOrNo = Annotated[bool, Field(description="true or false")]
Folder = Annotated[str, Field(min_length=1, description="the path of a folder")]
# Excluded from the values on which a stage depends, as it does not change the output.
Scheduler = Annotated[str | None, Field(exclude=True, description="an address like tcp://HOST:8786, or nothing")]


class Values(BaseModel):
    """A set of typed values, which cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Used = TypeVar("Used", bound=Values)


class Recipe(Values):
    """How a network is trained; recipes.yaml explains each key."""

    ensemble_size: Few
    linear_probe: YesOrNo
    frozen_blocks: Natural
    epochs: Natural
    batch_size: Annotated[Integer, Field(ge=2, le=65536, description="a whole number from 2 to 65536")]
    learning_rate: Annotated[Number, Field(gt=0, description="a number above 0")]
    text_learning_rate: Annotated[Number, Field(ge=0, description="a number from 0")]
    backbone_learning_rate_factor: Annotated[Number, Field(gt=0, le=1, description="a number above 0, of at most 1")]
    schedule: Annotated[Literal["constant", "one_cycle"], Field(description="constant or one_cycle")]
    weight_decay: Annotated[Number, Field(ge=0, description="a number from 0")]
    flip: YesOrNo
    crop: LessThanOne


class JoinParameters(Values):
    """What `stages.join` uses."""

    dataset: Folder
    metadata: Annotated[str | list[str], Field(description="the name of a file, a list of such names, or 'auto'")]
    id_column: Annotated[str, Field(description="the name of a column, or 'auto'")]
    label_columns: Annotated[str | list[str], Field(description="the name of a column, a list of such names, or 'auto'")]
    separator: Annotated[str, Field(min_length=1, description="a text, 'none', or 'auto'")]
    split_by: Annotated[str, Field(min_length=1, description="hash, files, or the name of a column")]
    max_poster_megabytes: Annotated[Number, Field(gt=0, description="a number above 0")]
    max_identical_posters: Positive
    limit: Positive
    validation: Part
    test: Part
    seed: Seed


class CacheParameters(Values):
    """What `stages.cache` uses."""

    dataset: Folder
    image_height: Size
    image_width: Size
    interpolation: Annotated[Literal["bilinear", "bicubic", "lanczos"], Field(description="bilinear, bicubic or lanczos")]
    max_unreadable: Share
    dask_scheduler: Scheduler


class DetectParameters(Values):
    """What `stages.detect` uses."""

    dataset: str
    detectors: list[str]
    two_stream: bool
    dask_scheduler: Scheduler


class TrainParameters(Values):
    """What `stages.train` uses."""

    architecture: str
    interpolation: str
    recipe: Recipe
    patience: Natural
    processes: Few
    seed: Seed
    dask_scheduler: Scheduler


class EvaluateParameters(Values):
    """What `stages.evaluate` uses."""

    dataset: str
    seed: Seed


class Range(Values):
    """The values that a search may give a parameter, both ends included."""

    low: Annotated[Number, Field(description="a number")]
    high: Annotated[Number, Field(description="a number")]
    log: YesOrNo = False

    @field_validator("high")
    @classmethod
    def _above_low(cls, high: float, info: ValidationInfo) -> float:
        if high <= info.data.get("low", -math.inf):
            raise ValueError("should be above low")
        return high

    @field_validator("log")
    @classmethod
    def _above_zero(cls, log: bool, info: ValidationInfo) -> bool:
        if log and info.data.get("low", 1) <= 0:
            raise ValueError("is for a low above 0")
        return log


def _choices(value: Any) -> list[Any] | Range:
    if isinstance(value, list) and value and all(map(_is_choice, value)):
        return value
    if not isinstance(value, dict):
        raise ValueError("should be a list of one value or more, or a range as {low: 0.0001, high: 0.01, log: true}")
    try:
        return Range.model_validate(value)
    except ValidationError as error:
        raise ValueError(_faults(error, Range)[0]) from None


def _is_choice(value: Any) -> bool:
    """Whether a value is one, or a list of such. Nothing deeper, as a few lines of YAML can stand for lists without end."""
    return not any(isinstance(item, list | dict) for item in (value if isinstance(value, list) else [value]))


def is_whole(key: str) -> bool | None:
    """Whether a parameter is a whole number, by its type; None for what is no number."""
    kind = (Recipe.model_fields | Parameters.model_fields)[key].annotation
    return False if kind is float else True if int in (kind, *get_args(kind)) else None


def as_number(key: str, value: float) -> int | float:
    """A number as the parameter has it, whole or not."""
    return int(value) if is_whole(key) else value


class Parameters(JoinParameters, CacheParameters):
    """All of `params.yaml`, which explains each key. Its keys of a recipe are in `recipe`, where the values of the architecture's
    recipe replace `auto`."""

    detectors: Annotated[list[str], Field(description="a list of detectors")]
    architecture: str
    recipe: Recipe
    patience: Natural
    processes: Few
    sweep: Annotated[
        dict[str, Annotated[list[Any] | Range, PlainValidator(_choices)]],
        Field(description="keys of this file, each with a list of values or a range"),
    ]

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
        raise InputError(f"{path}: architecture: {shown(architecture)} is unknown; the choices are {choices}")
    recipes = read_recipes()
    recipe = recipes.get(recipe_name(architecture), recipes[DEFAULT])
    chosen = {key: values[key] for key in Recipe.model_fields if values.get(key, AUTO) != AUTO}
    keys = [*(key for key in Parameters.model_fields if key != "recipe"), *Recipe.model_fields]
    unknown = [named(key) for key in values if key not in keys]
    faults = [f"{', '.join(unknown[:5])}: unknown key; the keys are {', '.join(keys)}"] if unknown else []
    try:
        recipe = Recipe.model_validate(recipe.model_dump() | chosen)
    except ValidationError as error:
        faults += _faults(error, Recipe, f", or {AUTO!r}")
    if recipe.epochs == 0 and not recipe.linear_probe:
        faults.append("epochs: should be 1 or more; 0 is for architectures with a linear probe, which is then all there is")
    general = {key: value for key, value in values.items() if key in keys and key not in Recipe.model_fields}
    try:
        parameters = Parameters.model_validate({**general, "recipe": recipe})
    except ValidationError as error:
        faults += _faults(error, Parameters)
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
            faults += [
                f"{name}.{fault}" for fault in _faults(error, Recipe) if name == DEFAULT or fault.partition(":")[0] in values
            ]
    if faults:
        raise InputError(f"{path}: {'; '.join(faults)}")
    return recipes


class StrictLoader(yaml.SafeLoader):
    """YAML without what reads otherwise than it looks: a key twice, of which the last would win, and numbers of YAML 1.1 that
    people do not mean, as 50:00, which is 3000, and 0100, which is 64."""


def _refuse_repeated_keys(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value]
    for i, (key, _) in enumerate(node.value):
        if keys[i] in keys[:i]:
            raise yaml.MarkedYAMLError(problem=f"{shown(keys[i])} is there twice; keep one", problem_mark=key.start_mark)
    return loader.construct_mapping(node, deep=True)


def _refuse_odd_numbers(loader: StrictLoader, node: yaml.ScalarNode) -> int:
    if len(node.value) > MOST_DIGITS:
        raise yaml.MarkedYAMLError(problem=f"a number of {len(node.value)} digits", problem_mark=node.start_mark)
    if not re.fullmatch(r"[-+]?(0|[1-9][0-9_]*)", node.value):
        problem = f"{shown(node.value)} would be read as {loader.construct_yaml_int(node)}; write the number, or quote the text"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return int(loader.construct_yaml_int(node))


StrictLoader.add_constructor("tag:yaml.org,2002:map", _refuse_repeated_keys)
StrictLoader.add_constructor("tag:yaml.org,2002:int", _refuse_odd_numbers)


def _read_yaml(path: Path) -> Any:
    try:
        # A subclass of SafeLoader, which makes nothing but plain values.
        return yaml.load(path.read_text(encoding="utf-8"), StrictLoader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file here; run this in the project's folder") from None
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise InputError(f"{path}: {line}{error.problem}") from None
    except RecursionError:
        raise InputError(f"{path}: lists or keys in each other, too deep to be read") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())[:200]}") from None


def shown(value: Any) -> str:
    """A value as a message shows it: long enough for a path, and cut before it is made into text, which may be endless."""
    short = reprlib.Repr()
    short.maxstring, short.maxother, short.maxlong = 120, 60, 60
    short.maxlevel, short.maxlist, short.maxdict = 2, 4, 4
    return short.repr(value)[:160]


def named(key: Any) -> str:
    """A key as a message shows it."""
    return str(key) if str(key).isidentifier() else shown(key)


def _faults(error: ValidationError, kind: type[Values], also: str = "") -> list[str]:
    """For each key with a fault, `key: should be what is right, not VALUE`.

    Parameters
    ----------
    kind : the class whose fields describe what is right
    also : what else may stand there
    """
    faults: dict[str, str] = {}
    for fault in error.errors(include_url=False):
        key = str(fault["loc"][0])
        description = kind.model_fields[key].description if key in kind.model_fields else None
        if key == "sweep" and len(fault["loc"]) > 1:
            key = f"sweep.{named(fault['loc'][1])}"
        if key.startswith("sweep.") and isinstance(fault["input"], dict):
            faults[key] = f"{key}.{fault['msg'].removeprefix('Value error, ')}"
        elif fault["type"] == "missing":
            faults[key] = f"{key}: is missing"
        elif fault["type"] == "extra_forbidden":
            faults[key] = f"{key}: unknown key; the keys are {', '.join(kind.model_fields)}"
        elif fault["type"] == "value_error" or description is None:
            faults[key] = f"{key}: {fault['msg'].removeprefix('Value error, ')}, not {shown(fault['input'])}"
        else:
            faults.setdefault(key, f"{key}: should be {description}{also}, not {shown(fault['input'])}")
    return list(faults.values())
