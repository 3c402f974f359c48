"""MLflow at the edge: where runs are kept, and a run while it is written. Whatever fails here costs one warning, never a training.

`train` begins a run, and writes what it is known by to models/run.json, an output of the stage: when DVC takes the stage from its
cache, the original run's mark comes back with the model. What the run holds in the end is in `finished_run`.
"""

import logging
import os
import signal
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import yaml

from poster_genres.files import repository
from poster_genres.parameters import Parameters

EXPERIMENT = "poster-genres"
RUN = Path("models/run.json")


def describe_run(parameters: Parameters) -> dict[str, Any]:
    """What a run is known by: its name, its parameters (flat), its tags. Text only, as MLflow keeps it."""
    experiment = os.environ.get("DVC_EXP_NAME", "")
    recipe = parameters.recipe
    flat = parameters.model_dump(exclude={"recipe", "sweep"}) | recipe.model_dump()
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
