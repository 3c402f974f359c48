"""The commands that people type, typed for real: a Git and DVC repository, dvc repro, dvc exp run, dvc import-url."""

import ast
import http.server
import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import yaml

import stages.cache
import stages.detect
import stages.evaluate
import stages.join
import stages.train
from poster_genres.parameters import Parameters, read_parameters
from tests.conftest import QUICK, ROOT, jpeg, make_dataset, run, set_parameters

STAGES = ("sample", "join", "cache", "detect", "train", "evaluate")


def test_repro_makes_all_that_is_declared_and_nothing_else(finished: Path) -> None:
    declared = {"dvc.lock"}
    for one in yaml.safe_load((finished / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values():
        declared |= {next(iter(out)) if isinstance(out, dict) else out for out in one["outs"] + one.get("metrics", [])}
    assert all((finished / path).exists() for path in declared)
    made = run("git", "ls-files", "--others", "--exclude=__pycache__", cwd=finished).stdout.splitlines()
    made = [name for name in made if not name.startswith((".dvc/", "mlflow.db", "mlartifacts/"))]
    assert all(any(name == path or name.startswith(f"{path}/") for path in declared) for name in made), made
    metrics = json.loads((finished / "metrics" / "evaluation.json").read_text(encoding="utf-8"))
    assert set(metrics) == {"test", "prior", "validation"}
    assert all(figure.read_bytes().startswith(b"\x89PNG") for figure in (finished / "metrics" / "figures").iterdir())


def test_a_second_repro_does_nothing_and_says_so(finished: Path) -> None:
    before = (finished / "models" / "model.pt").stat().st_mtime_ns
    assert "Data and pipelines are up to date." in run("dvc", "repro", cwd=finished).stdout
    assert (finished / "models" / "model.pt").stat().st_mtime_ns == before


def test_the_report_is_one_page_with_everything_inside(finished: Path) -> None:
    page = (finished / "metrics" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', page)
    scores = pd.read_csv(finished / "metrics" / "scores.csv").set_index(["split", "score"])
    row = scores.loc[("test", "macro_average_precision")]
    assert f"{row['model']:.4f}" in page
    assert f"{row['low']:.3f} to {row['high']:.3f}; prior {row['prior']:.3f}" in page
    # Five pictures, and twelve posters under each of three headings.
    assert page.count("data:image/png;base64,") == 5
    assert page.count("data:image/jpeg;base64,") == 36


def test_metrics_and_plots_are_shown(finished: Path) -> None:
    assert "test.macro_average_precision" in run("dvc", "metrics", "show", cwd=finished).stdout
    run("dvc", "plots", "show", "-o", "plots", cwd=finished)
    page = (finished / "plots" / "index.html").read_text(encoding="utf-8")
    shutil.rmtree(finished / "plots")
    for title in ("Loss", "Accuracy", "Macro average precision", "Average precision by genre", "Precision and recall"):
        assert title in page
    # Training and validation are two lines of one plot.
    assert "train_accuracy" in page
    assert "validation_accuracy" in page


@pytest.mark.parametrize("change", ["epochs=2", "architecture=tutorial", "learning_rate=0.00001"])
def test_an_experiment_trains_anew_but_never_decodes_anew(repository: Path, change: str) -> None:
    cache = repository / "data" / "cache" / "posters-000.npy"
    before = cache.stat().st_mtime_ns
    output = run("dvc", "exp", "run", "-S", change, cwd=repository).stdout
    assert "Running stage 'train'" in output
    assert "Running stage 'cache'" not in output
    assert cache.stat().st_mtime_ns == before
    key, value = change.split("=")
    assert str(getattr(read_parameters(repository / "params.yaml").recipe(), key, value)) in (value, "1e-05")
    assert len(pd.read_csv(repository / "metrics" / "history.csv")) == (2 if key == "epochs" else QUICK["epochs"])


def test_another_seed_keeps_the_test_set(repository: Path) -> None:
    def test_set() -> list[str]:
        movies = pd.read_csv(repository / "data" / "movies.csv")
        return list(movies.loc[movies["split"] == "test", "id"])

    before, validation = test_set(), pd.read_csv(repository / "data" / "movies.csv")["split"].tolist()
    run("dvc", "exp", "run", "-S", "seed=5", cwd=repository)
    assert test_set() == before
    assert pd.read_csv(repository / "data" / "movies.csv")["split"].tolist() != validation


def test_an_unknown_key_is_refused(repository: Path) -> None:
    assert "epoch" in run("dvc", "exp", "run", "-S", "epoch=2", cwd=repository, fails=True).stderr


def test_a_folder_of_posters_is_imported_and_used(repository: Path, tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "source")
    run("dvc", "import-url", source, "data/movie-posters", cwd=repository)
    run("dvc", "exp", "run", "-S", "dataset=data/movie-posters", cwd=repository)
    movies = pd.read_csv(repository / "data" / "movies.csv")
    assert movies["id"].str.fullmatch(r"m\d{3}").all()
    assert read_parameters(repository / "params.yaml").dataset == "data/movie-posters"


@pytest.fixture
def archives(tmp_path: Path) -> Iterator[str]:
    """The address of a local server with two archives like those that the data set's authors ship."""
    served, posters, metadata = tmp_path / "served", tmp_path / "posters", tmp_path / "metadata"
    served.mkdir()
    for i in range(60):
        year, genre = 1980 + i % 3, ("Comedy", "Horror, Drama")[i % 2]
        folder = posters / "Movie_Poster_Dataset" / str(year)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"x{i:03}.jpg").write_bytes(jpeg((220, 210, 180) if i % 2 == 0 else (40, 20, 20), i))
        truth = metadata / "groundtruth" / f"{year}.txt"
        truth.parent.mkdir(parents=True, exist_ok=True)
        record = {"imdbID": f"x{i:03}", "Title": f"Movie {i}", "Genre": genre}
        with truth.open("a", encoding="utf-16" if i < 3 else "utf-16-le") as file:
            file.write(json.dumps(record).replace("{", f'{{ "_id" : ObjectId("{i:024x}"), ') + "\r\n")
    shutil.make_archive(str(served / "Movie_Poster_Dataset"), "zip", posters)
    shutil.make_archive(str(served / "Movie_Poster_Metadata"), "zip", metadata)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_authors_archives_are_downloaded_and_used_as_they_are(repository: Path, archives: str) -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    address = "https://www.cs.ccu.edu.tw/~wtchu/projects/MoviePoster"
    recipe = [line for line in page.splitlines() if "movie-posters" in line and line.startswith(("mkdir", "dvc import-url"))]
    downloads = [line for line in recipe if address in line]
    assert len(downloads) == 2
    (repository / "data" / "movie-posters").mkdir()
    for line in downloads:
        run(*line.replace(address, archives).split(), cwd=repository)
    run("dvc", "exp", "run", "-S", "dataset=data/movie-posters", cwd=repository)
    movies = pd.read_csv(repository / "data" / "movies.csv")
    assert len(movies) == 60
    assert movies["archive"].eq("Movie_Poster_Dataset.zip").all()
    assert movies["title"].str.startswith("Movie ").all()
    assert sorted(movies["year"].unique()) == [1980, 1981, 1982]


def imports_of(module: Path) -> set[str]:
    """The project's files that a file imports, directly or by way of others."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text(encoding="utf-8"))):
            names = [f"{node.module}.{name.name}" for name in node.names] if isinstance(node, ast.ImportFrom) else []
            for name in [part for full in names for part in (full, full.rpartition(".")[0])]:
                path = ROOT / f"{name.replace('.', '/')}.py"
                if path.is_file() and str(path.relative_to(ROOT)) not in found:
                    found.add(str(path.relative_to(ROOT)))
                    waiting.append(path)
    return found


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_all_code_that_it_imports(name: str) -> None:
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][name]["deps"]
    code = {path for path in declared if path.endswith(".py")}
    needed = imports_of(ROOT / "stages" / f"{name}.py") | {f"stages/{name}.py"}
    if name == "evaluate":  # the served model is run by MLflow, not imported
        needed |= imports_of(ROOT / "poster_genres" / "served_model.py") | {"poster_genres/served_model.py"}
    assert code == needed


class Recorder:
    """Parameters that note which of them are read."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters, self.read = parameters, set[str]()

    def __getattr__(self, name: str) -> object:
        self.read.add(name)
        return getattr(self.parameters, name)

    def model_dump(self, **options: object) -> dict[str, object]:
        return self.parameters.model_dump(**options)  # type: ignore[arg-type]  # to describe the run in MLflow, no more

    def recipe(self) -> object:
        return Parameters.recipe(self)  # type: ignore[arg-type]


def test_a_stage_declares_all_parameters_that_it_reads(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    set_parameters(project, architecture="two_stream/residual")
    # MLflow puts its store's address into the environment, from which it must go again after this test.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    declared = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for module in (stages.join, stages.cache, stages.detect, stages.train, stages.evaluate):
        recorder = Recorder(read_parameters())
        monkeypatch.setattr(module, "read_parameters", lambda recorder=recorder: recorder)
        module.main()
        name = module.__name__.removeprefix("stages.")
        # Where posters are decoded makes no difference to what comes out.
        assert recorder.read - {"dask_scheduler"} == {key.split(".")[0] for key in declared[name]["params"]}, name


def test_a_run_on_the_real_posters(repository: Path, real_posters: Path) -> None:
    run("dvc", "import-url", real_posters, "data/movie-posters", cwd=repository)
    run("dvc", "exp", "run", "-S", "dataset=data/movie-posters", "-S", "limit=300", cwd=repository)
    counts = json.loads((repository / "metrics" / "join.json").read_text(encoding="utf-8"))
    assert counts["movies"] == {"train": 240, "validation": 60, "test": 1080}
    done = run(sys.executable, "-m", "stages.predict", "--random", cwd=repository)
    assert len(done.stdout.splitlines()) == 11


def test_a_failing_stage_leaves_earlier_results_within_reach(repository: Path) -> None:
    before = (repository / "data" / "movies.csv").read_bytes()
    set_parameters(repository, limit=1)
    done = run("dvc", "repro", cwd=repository, fails=True)
    assert "error: params.yaml: limit: 1 movie(s) are too few" in done.stderr
    assert "Traceback" not in done.stderr
    set_parameters(repository, limit=QUICK["limit"])
    run("dvc", "repro", cwd=repository)
    assert (repository / "data" / "movies.csv").read_bytes() == before
