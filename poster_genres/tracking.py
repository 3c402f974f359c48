"""MLflow tracking: the store, and logging while training. A failure here causes one warning and never stops the training.

`train` starts a run and writes its description to models/run.json, an output of the stage: when DVC restores the stage from its
cache, the original run's tag is restored with the model. `finished_run` completes the run.
"""

import atexit
import fcntl
import logging
import os
import signal
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import yaml

from poster_genres.files import repository
from poster_genres.parameters import SAMPLE, Parameters
from poster_genres.stores import (
    StoreError,
    artifact_location,
    check_store,
    database_file,
    find_moved_artifacts,
    store_lock,
    store_uri,
)

EXPERIMENT = "poster-genres"
# How long a server may take to answer; uploads may take longer, see `finished_run`.
HTTP_SECONDS = "10"
RUN = Path("models/run.json")
SYNTHETIC = "synthetic posters: scores mean nothing"


def describe_run(parameters: Parameters) -> dict[str, Any]:
    """A run's name, parameters (flat) and tags; all values are text, as in MLflow."""
    experiment = os.environ.get("DVC_EXP_NAME", "")
    recipe = parameters.recipe
    flat = parameters.model_dump(exclude={"recipe", "sweep"}) | recipe.model_dump()
    tags = {
        "training": uuid.uuid4().hex,
        "architecture": flat["architecture"],
        "dvc.experiment": experiment,
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
        "dvc.data": data_hash(flat["dataset"]),
        # Of the training itself: a run that is logged later, or to a second store, gets MLflow's own for that moment.
        "trained": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": code_version(),
        "caveat": caveat(flat["dataset"]),
        # `stages.sweep` names its experiments SWEEP-1, SWEEP-2, …
        "sweep": experiment.rpartition("-")[0] if experiment.startswith("sweep-") else "",
    }
    return {
        "name": experiment or f"{flat['architecture']}, {recipe.epochs} epoch{'s' * (recipe.epochs != 1)}",
        "parameters": {key: str(value) for key, value in flat.items()},
        "tags": {key: value for key, value in tags.items() if value},
    }


def what(description: dict[str, Any]) -> str:
    """What a run trains, in Markdown."""
    parameters, tags = description["parameters"], description["tags"]
    epochs = f"{parameters['epochs']} epoch{'s' * (parameters['epochs'] != '1')}"
    said = f"`{parameters['architecture']}`, {epochs}, on the posters of `{parameters['dataset']}`"
    return f"**{tags['caveat']}**\n\n{said}" if "caveat" in tags else said


def caveat(dataset: str) -> str:
    """What to say beside any score on this data set: `SYNTHETIC` of the sample that comes with the project, else nothing."""
    return SYNTHETIC if Path(dataset) == SAMPLE else ""


def code_version() -> str:
    """The Git commit, as `301e58c2, changed: params.yaml`: with the files of code and parameters that differ; empty without Git."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout

    try:
        commit = git("rev-parse", "--short=8", "HEAD").strip()
        status = git("status", "--porcelain", "--", "params.yaml", "dvc.yaml", "poster_genres", "stages")
    except (OSError, subprocess.CalledProcessError):
        return ""
    changed = ", ".join(line[3:] for line in status.splitlines())
    return f"{commit}, changed: {changed}" if changed else commit


def data_hash(dataset: str) -> str:
    """DVC's hash of the data set, from dvc.lock; empty if there is none."""
    try:
        lock = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))
        return next(dep["md5"] for dep in lock["stages"]["join"]["deps"] if dep["path"] == dataset)
    except (OSError, yaml.YAMLError, KeyError, TypeError, StopIteration):
        return ""


def connect() -> str:
    """Set MLflow's tracking URI, create the experiment if it does not exist, and return its ID.

    The URI is that of `stores.store_uri`; MLFLOW_EXPERIMENT_NAME is the experiment's name, by default `EXPERIMENT`.

    Raises
    ------
    StoreError
        The store cannot be used, or the experiment was deleted.
    """
    # By default, MLflow would block the training for seven times two minutes if a server hangs.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", HTTP_SECONDS)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Nor does DVC report who uses it how: .dvc/config.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # `mlflow.start_run` would write into that run, whoever's it is.
    os.environ.pop("MLFLOW_RUN_ID", None)
    import mlflow

    # Hide hints, messages about migrations, and tracebacks of what is also raised; `Tracking` reports failures.
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="mlflow")
    uri = store_uri()
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    # MLflow migrates a new SQLite store on first use, which two workers must not do at once.
    with store_lock():
        check_store(uri)
        mlflow.set_tracking_uri(uri)
        experiment = mlflow.get_experiment_by_name(name)
        if experiment is None:
            try:
                # Says that it is one of trainings, not of prompts and traces. Which of both views opens is up to the address.
                return str(
                    mlflow.create_experiment(name, artifact_location(uri), {"mlflow.experimentKind": "custom_model_development"})
                )
            except mlflow.MlflowException:
                # The lock only excludes this folder's workers; on a server, another machine may just have created it.
                experiment = mlflow.get_experiment_by_name(name)
                if experiment is None:
                    raise
        find_moved_artifacts(uri, experiment.artifact_location)
    if experiment.lifecycle_stage == "deleted":
        restore = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        raise StoreError(f"the experiment {name} was deleted; `{restore}` brings it back")
    return str(experiment.experiment_id)


def address_of(experiment: str, run_id: str = "") -> str:
    """The address of an experiment, or of a run in it, in MLflow's pages: in the view of trainings, not of prompts and traces."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    server = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    page = f"/runs/{run_id}" if run_id else ""
    return f"{server.rstrip('/')}/#/experiments/{experiment}{page}?workflowType=machine_learning"


def how_to_see(experiment: str) -> str:
    """What to type and to open to see an experiment's runs."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    address = address_of(experiment)
    if uri.startswith("http"):
        return address
    # Found by `mlflow ui` in the project's folder.
    store = "" if database_file(uri) == repository() / "mlflow.db" else f" --backend-store-uri {uri}"
    return f"`mlflow ui{store}`, then {address}"


def find_runs(experiment: str, training: str) -> list[Any]:
    """The run with this training tag, if there is one."""
    import mlflow

    return list(mlflow.search_runs([experiment], f"tags.training = '{training}'", max_results=1, output_format="list"))


def held_folder() -> Path:
    """The folder with a file for each training whose run is being written, which is locked as long as the process lives."""
    return repository() / ".dvc" / "tmp" / "running"


def hold(training: str) -> None:
    """Tell other processes that this one writes the run of a training, until it ends, however that is."""
    path = held_folder() / training
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not closed, as that would unlock it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT)
    with suppress(OSError):  # on file systems without locks no run is ended
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    atexit.register(path.unlink, missing_ok=True)


def end_killed_runs(experiment: str) -> None:
    """Give the status KILLED to the runs of processes that were killed, which could not say so."""
    import mlflow

    for path in held_folder().glob("*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for run in find_runs(experiment, path.name):
                    if run.info.status == "RUNNING":
                        mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")
                path.unlink()
            finally:
                os.close(descriptor)


def start_run(experiment: str, description: dict[str, Any], **options: Any) -> Any:
    """Resume the run with the description's training tag, or create it with its parameters and tags; return the active run."""
    import mlflow

    end_killed_runs(experiment)
    training = description["tags"]["training"]
    hold(training)
    runs = find_runs(experiment, training)
    if runs:
        run = mlflow.start_run(run_id=runs[0].info.run_id, **options)
        # An experiment that resumes an interrupted one has another name.
        mlflow.set_tags(description["tags"] | {"mlflow.runName": description["name"]})
        return run
    tags, name = description["tags"], description["name"]
    run = mlflow.start_run(experiment_id=experiment, run_name=name, tags=tags, description=what(description), **options)
    mlflow.log_params(description["parameters"])
    return run


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Defer the first SIGINT or SIGTERM to the end of the block. A second one, as when a store hangs, raises immediately.

    If interrupted during a write, MLflow and its database driver print their own tracebacks and leave the store locked.
    """
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    handlers = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


class Tracking:
    """Logs to an MLflow run during training. After the first failure, all calls do nothing."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        self.on = True

    def attempt(self, action: Callable[[], Any]) -> Any:
        """Return the result of `action`; None if it fails, with one warning, and after any failure.

        Call it in the main thread only, and do not nest it.
        """
        if not self.on:
            return None
        try:
            with interrupts_deferred():
                return action()
        except Exception as error:  # MLflow passes on the exceptions of its store and network
            self.on = False
            # What the database says, which SQLAlchemy and MLflow wrap in errors of their own.
            said = getattr(error.__cause__, "orig", error)
            reason = next(iter(str(said).splitlines()), "")[:200]
            print(
                f"warning: no MLflow ({type(said).__name__}: {reason}); all goes on without it, and `python -m stages.track` "
                "logs the finished run later",
                file=sys.stderr,
                flush=True,
            )
            return None

    def __enter__(self) -> Self:
        """Start the run, or resume an interrupted training's, and log system metrics until it ends."""

        self.attempt(lambda: start_run(connect(), self.description, log_system_metrics=True))
        return self

    def log_epoch(self, row: dict[str, Any]) -> None:
        """Log the metrics in a row of metrics/history.csv."""
        self.attempt(lambda: log_epoch(row))

    def log_missing_epochs(self, history: list[dict[str, Any]]) -> None:
        """Log the rows of metrics/history.csv that the run does not contain yet."""
        self.attempt(lambda: log_missing_epochs(history))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        def end() -> None:
            import mlflow

            mlflow.end_run("FINISHED" if kind is None else "KILLED" if kind is KeyboardInterrupt else "FAILED")

        self.attempt(end)


def curve_name(column: str) -> str:
    """`train_loss` as `curves/train_loss`, `seconds` as `training/seconds`.

    MLflow's pages group charts by the prefix before the slash, in alphabetical order: curves come before `test/…`, of one bar each.
    """
    return f"curves/{column}" if column.startswith(("train_", "validation_")) else f"training/{column}"


def log_epoch(row: dict[str, Any]) -> None:
    """Log the metrics in a row of metrics/history.csv to the active run."""
    import mlflow

    mlflow.log_metrics(
        # As metrics/history.csv has them.
        {curve_name(key): float(f"{value:.6g}") for key, value in row.items() if key != "epoch"},
        step=int(row["epoch"]),
    )


def log_missing_epochs(history: list[dict[str, Any]]) -> None:
    """Log the rows of metrics/history.csv that the active run does not contain yet."""
    import mlflow

    active = mlflow.active_run()
    assert active is not None
    logged = {metric.step for metric in mlflow.MlflowClient().get_metric_history(active.info.run_id, "curves/train_loss")}
    for row in history:
        if row["epoch"] not in logged:
            log_epoch(row)
