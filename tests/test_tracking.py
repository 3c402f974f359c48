"""MLflow and DVC agree: every training is one run with all that is known of it, however it was started."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run

from tests.conftest import run, set_parameters, stage


def runs_of(folder: Path | str) -> list[Run]:
    """All runs in a project's own store, or in the store at an address."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db" if isinstance(folder, Path) else folder)
    # MLflow also puts the address into the environment, where the commands that tests run would find it.
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before
    experiment = mlflow.get_experiment_by_name("poster-genres")
    assert experiment is not None
    return mlflow.search_runs([experiment.experiment_id], output_format="list")


def check_whole(one: Run, epochs: int) -> None:
    """A run has its curves, scores, pictures, data sets and model, and all can be read."""
    client = mlflow.MlflowClient()
    assert one.info.status == "FINISHED"
    for name in ("train/loss", "validation/loss", "train/accuracy", "validation/macro_average_precision", "learning_rate"):
        assert sorted(m.step for m in client.get_metric_history(one.info.run_id, name)) == list(range(1, epochs + 1)), name
    for name in ("test/macro_average_precision", "test_prior/macro_average_precision", "test_average_precision/Drama"):
        assert name in one.data.metrics
    assert int(one.data.params["epochs"]) == epochs
    assert one.inputs is not None
    assert one.outputs is not None
    assert {data.dataset.name.split(" ")[1] for data in one.inputs.dataset_inputs} == {"(train)", "(validation)", "(test)"}
    for path in ("figures/curves.png", "metrics/scores.csv", "test_posters.json"):
        local = mlflow.artifacts.download_artifacts(run_id=one.info.run_id, artifact_path=path)
        assert Path(local).stat().st_size > 0
    assert len(one.outputs.model_outputs) == 1


def test_repro_is_one_whole_run(finished: Path) -> None:
    (one,) = runs_of(finished)
    check_whole(one, epochs=1)
    assert one.data.tags["architecture"] == one.data.params["architecture"] == "residual"
    assert one.data.params["dataset"] == "data/sample"
    lock = (finished / "dvc.lock").read_text(encoding="utf-8")
    assert one.data.tags["dvc.data"] in lock
    scores = pd.read_csv(finished / "metrics" / "scores.csv").set_index(["split", "score"])
    logged = one.data.metrics["test/macro_average_precision"]
    assert logged == pytest.approx(scores.loc[("test", "macro_average_precision"), "model"])


def test_the_model_is_loaded_by_mlflow(finished: Path) -> None:
    (one,) = runs_of(finished)
    assert one.outputs is not None
    model = mlflow.pyfunc.load_model(f"models:/{one.outputs.model_outputs[0].model_id}")
    poster = next((finished / "data" / "sample" / "posters").rglob("*.jpg"))
    as_path = model.predict(pd.DataFrame({"poster": [str(poster)]}))
    as_text = model.predict(pd.DataFrame({"poster": [base64.b64encode(poster.read_bytes()).decode()]}))
    printed = json.loads(stage("predict", poster, "--json", cwd=finished).stdout)["genres"]
    assert as_path.iloc[0].to_dict() == pytest.approx(printed, abs=1e-3)
    assert np.allclose(as_path, as_text)


def test_experiments_in_the_workspace_and_in_temporary_folders_share_the_store(repository: Path) -> None:
    run("dvc", "exp", "run", "-n", "here", "-S", "epochs=2", cwd=repository)
    elsewhere = [
        subprocess.Popen(
            [Path(sys.executable).parent / "dvc", "exp", "run", "--temp", "-n", f"there{i}", "-S", f"epochs={i}"],
            cwd=repository,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in (3, 4)
    ]
    for process in elsewhere:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert "Running stage 'cache'" not in output
    found = {one.info.run_name: one for one in runs_of(repository)}
    assert set(found) == {"here", "there3", "there4"}
    for name, one in found.items():
        check_whole(one, epochs=2 if name == "here" else int(name[-1]))
        assert one.data.tags["dvc.experiment"] == name
        assert len(one.data.tags["dvc.baseline"]) == 40


def test_a_run_cache_hit_keeps_the_original_run(repository: Path) -> None:
    run("dvc", "exp", "run", "-S", "epochs=2", cwd=repository)
    (before,) = runs_of(repository)
    run("dvc", "exp", "run", "-S", "epochs=1", cwd=repository)
    output = run("dvc", "exp", "run", "-S", "epochs=2", cwd=repository).stdout
    assert "Stage 'train' is cached" in output
    assert before.info.run_id in [one.info.run_id for one in runs_of(repository)]
    description = json.loads((repository / "models" / "run.json").read_text(encoding="utf-8"))
    assert description["tags"]["training"] == before.data.tags["training"]


def test_a_store_that_does_not_know_the_run_gets_all_of_it_once(repository: Path) -> None:
    for _ in range(2):
        stage("track", cwd=repository)
        (one,) = runs_of(repository)
        check_whole(one, epochs=1)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "sqlite:////proc/no/mlflow.db"])
def test_a_store_out_of_reach_costs_one_warning_and_no_training(
    repository: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    done = stage("train", cwd=repository)
    assert done.stderr.count("warning: no MLflow") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert len(pd.read_csv(repository / "metrics" / "history.csv")) == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    stage("evaluate", cwd=repository)
    (one,) = runs_of(repository)
    check_whole(one, epochs=1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real MLflow server on loopback, with a store of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", str(tmp_path / "artifacts")]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/health", timeout=1)
            break
        except OSError:
            time.sleep(0.5)
    yield address, process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_server_is_used_and_may_die_in_the_middle(
    repository: Path, server: tuple[str, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, process = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    stage("train", cwd=repository)
    stage("evaluate", cwd=repository)
    (one,) = runs_of(address)
    check_whole(one, epochs=1)
    assert not (repository / "mlflow.db").exists()

    set_parameters(repository, epochs=12)
    training = subprocess.Popen([sys.executable, "-m", "stages.train"], cwd=repository, stderr=subprocess.PIPE, text=True)
    history = repository / "metrics" / "history.csv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (history.is_file() and 2 <= len(pd.read_csv(history)) < 10):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    _, errors = training.communicate(timeout=300)
    assert training.returncode == 0, errors
    assert errors.count("warning: no MLflow") == 1, errors
    assert len(pd.read_csv(history)) == 12
    # Logged later, into another store.
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    stage("evaluate", cwd=repository)
    (later,) = runs_of(repository)
    check_whole(later, epochs=12)
