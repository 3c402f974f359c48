"""The commands that people type, typed for real: a Git and DVC repository, dvc repro, dvc exp run, dvc import-url."""

import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

import stages.join
import stages.resolve
from poster_genres import errors
from poster_genres.architectures import NETWORKS, names
from poster_genres.errors import InputError
from poster_genres.network import find_architecture
from poster_genres.parameters import check_parameters, read_parameters
from stages.cache import LEAST_SIDE
from stages.resolve import imported_files
from tests.conftest import QUICK, ROOT, environment, jpeg, make_dataset, run, set_parameters, stage, wait_until

STAGES = ("sample", "resolve", "join", "cache", "detect", "train", "evaluate")


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"architecture": "tutorial", "image_height": 60},
            "image_height, image_width: 60 x 80 does not suit tutorial: it needs at least 76 x 76 pixels",
        ),
        (
            {"architecture": "alexnet", "image_width": 62},
            "image_height, image_width: 80 x 62 does not suit alexnet: it needs at least 63 x 63 pixels",
        ),
        ({"frozen_blocks": 2}, "frozen_blocks: this architecture has no blocks to freeze; set it to 0"),
        ({"linear_probe": True}, "linear_probe: residual has no pretrained weights; set it to false"),
        (
            {"architecture": "efficientnet_lite0", "interpolation": "lanczos"},
            "interpolation: efficientnet_lite0 was pretrained on pictures resized by bicubic interpolation; set it to that, "
            "not 'lanczos'",
        ),
        (
            {"dataset": "data/nothing"},
            "dataset: data/nothing is not there; `dvc import-url FOLDER data/nothing` brings a folder there",
        ),
        ({"dask_scheduler": "tcp://127.0.0.1:9"}, "dask_scheduler needs distributed: pip install -r requirements-dask.txt"),
    ],
)
def test_what_train_and_cache_would_refuse_is_refused_first(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, object], message: str
) -> None:
    def version(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(errors, "version", version)
    own = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    with pytest.raises(InputError) as error:
        stages.resolve.check_early(check_parameters(own | QUICK | values, Path("params.yaml")))
    assert str(error.value) == f"params.yaml: {message}"


def test_a_data_set_that_dvc_may_still_fetch_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "posters.dvc").write_text("outs: []", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    own = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for dataset in ("data/posters", "data/posters/small"):
        stages.resolve.check_early(check_parameters(own | QUICK | {"dataset": dataset}, Path("params.yaml")))


@pytest.mark.parametrize("architecture", names(NETWORKS))
def test_every_architecture_takes_the_smallest_image_that_auto_chooses(architecture: str) -> None:
    with torch.device("meta"):
        find_architecture(architecture).build(2, LEAST_SIDE, LEAST_SIDE)


def test_a_second_repro_does_nothing_and_says_so(finished: Path) -> None:
    before = (finished / "models" / "model.pt").stat().st_mtime_ns
    assert "Data and pipelines are up to date." in run("dvc", "repro", cwd=finished).stdout
    assert (finished / "models" / "model.pt").stat().st_mtime_ns == before


def test_the_report_is_one_page_with_everything_inside(finished: Path) -> None:
    page = (finished / "metrics" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert len(page) < 3_000_000
    scores = pd.read_csv(finished / "metrics" / "scores.csv").set_index(["split", "score"])
    row = scores.loc[("test", "macro_average_precision")]
    assert f"{row['model']:.3f}<small>{row['low']:.3f} to {row['high']:.3f}</small></td><td>{row['prior']:.3f}</td>" in page
    run_of = json.loads((finished / "models" / "run.json").read_text(encoding="utf-8"))
    for value in ("dvc.data", "trained", "commit", "training"):
        assert run_of["tags"][value] in page
    # Of curves one epoch has none, and on the sample no genre is called confused.
    assert page.count("<svg ") == 3
    assert "Synthetic posters: scores mean nothing." in page
    # Twelve posters under each of three headings.
    assert page.count("data:image/jpeg;base64,") == 36


def test_metrics_and_plots_are_shown(finished: Path) -> None:
    scores = run("dvc", "metrics", "show", cwd=finished).stdout.split()
    assert sorted(scores[1:5]) == ["prior.macro_AP", "test.macro_AP", "test.micro_AP", "validation.macro_AP"]
    run("dvc", "plots", "show", "-o", "plots", cwd=finished)
    page = (finished / "plots" / "index.html").read_text(encoding="utf-8")
    shutil.rmtree(finished / "plots")
    for title in ("Loss", "Macro average precision", "Average precision by genre", "Precision and recall"):
        assert title in page
    assert "static/workspace_metrics_figures_genres.png" in page
    # Training and validation are two lines of one plot.
    assert "train_loss" in page
    assert "validation_loss" in page


def test_curves_are_shown_while_training(repository: Path) -> None:
    history = repository / "metrics" / "history.csv"
    set_parameters(repository, epochs=2000)
    with subprocess.Popen(
        ["dvc", "repro", "train"], cwd=repository, env=environment(), stdout=subprocess.DEVNULL, start_new_session=True
    ) as repro:
        try:
            wait_until(lambda: history.exists() and len(history.read_text(encoding="utf-8").splitlines()) > 3, 300)
            shown = json.loads(run("dvc", "plots", "show", "--json", cwd=repository).stdout)
            assert repro.poll() is None
        finally:
            os.killpg(repro.pid, signal.SIGINT)
    (plot,) = shown["data"]["Loss"]
    rows = plot["content"]["data"]["values"]
    assert [row["epoch"] for row in rows if row["field"] == "validation_loss"][:3] == ["1", "2", "3"]


def test_a_branch_is_reported_beside_its_base(experimented: Path, tmp_path: Path) -> None:
    repository = experimented
    run("git", "commit", "-qam", "A longer training", cwd=repository)
    commit = run("git", "rev-parse", "--short=8", "HEAD", cwd=repository).stdout.strip()
    model = (repository / "models" / "model.pt").read_bytes()
    # The base has no scores in Git: they are made, here from the cache of runs.
    run(".ci/report", "HEAD~2", tmp_path / "report", cwd=repository)
    lines = (tmp_path / "report" / "report.md").read_text(encoding="utf-8").splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert table[0][:2] == ["Path", "Metric"]
    assert table[0][3:] == [commit, "Change"]
    after = json.loads((repository / "metrics" / "evaluation.json").read_text(encoding="utf-8"))
    scores = {row[1]: row[3] for row in table[2:5]}
    assert scores["validation.macro_AP"] == f"{after['validation']['macro_AP']:.5g}"  # as DVC rounds it
    assert ["params.yaml", "epochs", "1", "2"] in table
    assert "train_loss" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert run("git", "rev-parse", "--short=8", "HEAD", cwd=repository).stdout.strip() == commit
    assert run("git", "status", "--short", cwd=repository).stdout == ""
    assert (repository / "models" / "model.pt").read_bytes() == model


def test_git_ignores_what_dvc_keeps() -> None:
    # Otherwise DVC changes a .gitignore in each clone.
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    outputs = [out for one in stages.values() for out in one["outs"]]
    assert run("git", "check-ignore", "--no-index", *outputs, cwd=ROOT).stdout.split() == outputs


def test_an_experiment_trains_anew_but_never_decodes_anew(finished: Path, with_experiment: Path) -> None:
    output = (with_experiment / ".dvc" / "tmp" / "said.txt").read_text(encoding="utf-8")
    assert "Running stage 'train'" in output
    assert "Running stage 'cache'" not in output
    before, after = (folder / "data" / "cache" / "posters-000.npy" for folder in (finished, with_experiment))
    assert after.stat().st_mtime_ns == before.stat().st_mtime_ns
    parameters = read_parameters(with_experiment / "params.yaml")
    assert (parameters.architecture, parameters.recipe.epochs, parameters.recipe.learning_rate) == ("tutorial", 2, 1e-5)
    history = pd.read_csv(with_experiment / "metrics" / "history.csv")
    assert len(history) == 2 != QUICK["epochs"]
    assert history["learning_rate"].tolist() == [1e-5, 1e-5]


def test_another_seed_keeps_the_test_set(repository: Path) -> None:
    before = pd.read_csv(repository / "data" / "movies.csv")["split"]
    set_parameters(repository, seed=5)
    stage("join", cwd=repository)
    after = pd.read_csv(repository / "data" / "movies.csv")["split"]
    assert (before == "test").tolist() == (after == "test").tolist()
    assert before.tolist() != after.tolist()


def test_an_unknown_key_is_refused(repository: Path) -> None:
    assert "epoch" in run("dvc", "exp", "run", "-S", "epoch=2", cwd=repository, fails=True).stderr


def test_a_stage_tells_what_it_does_and_takes_no_options(project: Path) -> None:
    told = stage("join", "--help", cwd=project).stdout
    assert told.strip() == (stages.join.__doc__ or "").strip()
    refused = stage("join", "--limit", "5", cwd=project, fails=True).stderr
    advice = "set values in params.yaml, or by dvc exp run -S KEY=VALUE"
    assert refused == f"error: --limit 5: stages.join takes no options; {advice}\n"
    assert not (project / "data" / "movies.csv").exists()


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
    run(
        "dvc", "exp", "run", "-S", "dataset=data/movie-posters", "cache", "detect", cwd=repository
    )  # after that, nothing reads them
    movies = pd.read_csv(repository / "data" / "movies.csv")
    assert len(movies) == 60
    assert movies["archive"].eq("Movie_Poster_Dataset.zip").all()
    assert movies["title"].str.startswith("Movie ").all()
    assert sorted(movies["year"].unique()) == [1980, 1981, 1982]


def code_of(*files: Path) -> set[str]:
    """Python files and all of the project's files that they import, relative to the project."""
    return {path.as_posix() for file in files for path in (file, *imported_files(file))}


def files_in(folder: str) -> list[Path]:
    return [path for path in Path(folder).glob("*.py") if path.stem != "__init__"]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_all_code_that_it_uses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    declared = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][name]["deps"]
    code = {path for path in declared if path.endswith(".py") or Path(path).parent.name == "poster_genres"}
    own = Path(f"stages/{name}.py")
    needed = code_of(own)
    if name == "evaluate":  # the served model is run by MLflow, not imported
        needed |= code_of(Path("poster_genres/served_model.py"))
        code.remove("poster_genres/report.html")
    if name == "detect":
        needed |= code_of(*files_in("poster_genres/detectors"))
    if name == "resolve":
        code.remove("poster_genres/recipes.yaml")
        needed |= code_of(*files_in("poster_genres/networks"))
    else:
        # They turn params.yaml into the values of data/parameters, on which the stage depends.
        needed -= {"poster_genres/parameters.py", "poster_genres/architectures.py"}
    folders = ("poster_genres/networks", "poster_genres/detectors")
    assert code == {next((folder for folder in folders if path.startswith(f"{folder}/")), path) for path in needed}


def test_each_value_reaches_the_stages_that_use_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(stages.resolve, "check_early", lambda parameters: None)  # not all of these go together
    values = {
        "dataset": ("data/other", "join cache detect evaluate"),
        "metadata": ("csv", "join"),
        "id_column": ("Id", "join"),
        "label_columns": (["Genre"], "join"),
        "separator": ("|", "join"),
        "split_by": ("files", "join"),
        "max_poster_megabytes": (50, "join"),
        "max_identical_posters": (5, "join"),
        "limit": (61, "join"),
        "validation": (0.3, "join"),
        "test": (0.3, "join"),
        "seed": (1, "join train evaluate"),
        "image_height": (81, "cache"),
        "image_width": (81, "cache"),
        "interpolation": ("lanczos", "cache train"),
        "max_unreadable": (0.1, "cache"),
        "dask_scheduler": ("tcp://nowhere:1", ""),
        "architecture": ("two_stream/residual", "detect train"),
        "detectors": (["hf/a"], "detect"),
        "patience": (3, "train"),
        "processes": (2, "train"),
        "sweep": ({"epochs": [1]}, ""),
    } | {
        key: (value, "train")
        for key, value in {
            "ensemble_size": 3,
            "linear_probe": True,
            "frozen_blocks": 1,
            "epochs": 9,
            "batch_size": 8,
            "learning_rate": 0.1,
            "text_learning_rate": 0.0,
            "backbone_learning_rate_factor": 0.5,
            "schedule": "constant",
            "weight_decay": 0.1,
            "flip": False,
            "crop": 0.1,
        }.items()
    }  # fmt: skip
    assert set(values) == set(yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")))

    def resolved() -> dict[str, str]:
        stages.resolve.main()
        return {path.stem: path.read_text(encoding="utf-8") for path in Path("data/parameters").iterdir()}

    before, text = resolved(), Path("params.yaml").read_text(encoding="utf-8")
    for key, (value, expected) in values.items():
        set_parameters(project, **{key: value})
        after = resolved()
        assert {name for name in after if after[name] != before[name]} == set(expected.split()), key
        Path("params.yaml").write_text(text, encoding="utf-8")
    # Another architecture brings its code and its recipe, and evaluate the code.
    set_parameters(project, architecture="tutorial")
    after = resolved()
    assert {name for name in after if after[name] != before[name]} == {"train", "evaluate"}


# What runs again, at most, when a file is edited while `two_stream/residual` is in use with the detector `lettering`.
EDITED = {
    "": """
        stages/__init__.py stages/compare.py stages/demo.py stages/export.py stages/predict.py stages/sweep.py stages/track.py
        poster_genres/demo.css poster_genres/demo.html poster_genres/demo.js poster_genres/demo.py
        poster_genres/__init__.py poster_genres/addresses.py poster_genres/architectures.py poster_genres/explanations.py
        poster_genres/parameters.py
        poster_genres/efficientnet.py poster_genres/onnx_example.py poster_genres/recipes.yaml poster_genres/search.py
        stages/resolve.py
    """,
    "evaluate": """
        stages/evaluate.py poster_genres/captions.py poster_genres/duplicates.py poster_genres/evaluation.py
        poster_genres/figures.py poster_genres/finished_run.py poster_genres/report.py poster_genres/report.html
        poster_genres/prediction.py poster_genres/registry.py poster_genres/served_model.py
    """,
    "train evaluate": """
        poster_genres/networks/residual.py poster_genres/network.py
        poster_genres/fusion.py poster_genres/logistic.py poster_genres/model.py poster_genres/object_model.py
        poster_genres/old_model.py poster_genres/scores.py poster_genres/stores.py poster_genres/tracking.py
        poster_genres/mini_lm.py poster_genres/text_network.py poster_genres/words.py
    """,
    "train": """
        stages/train.py poster_genres/augmentation.py poster_genres/inputs.py poster_genres/processes.py poster_genres/training.py
    """,
    # It finds what it found before in its store, but for a detector whose own file is edited.
    "detect": """
        stages/detect.py poster_genres/hugging_face.py
    """,
    "detect evaluate": "poster_genres/detection.py poster_genres/downloads.py poster_genres/found.py poster_genres/mpnet.py",
    "detect train evaluate": "poster_genres/devices.py poster_genres/objects.py poster_genres/sentences.py",
    "sample": "stages/sample.py",
    "join": """
        stages/join.py poster_genres/labels.py poster_genres/matching.py poster_genres/metadata.py poster_genres/tables.py
    """,
    "join evaluate": "poster_genres/texts.py",
    "cache": "stages/cache.py",
    "cache detect evaluate": "poster_genres/posters.py",
    "cache detect train evaluate": "poster_genres/progress.py poster_genres/spread.py poster_genres/tensor_cache.py",
    "join cache detect evaluate": "poster_genres/dataset.py",
    "join cache detect train evaluate": "poster_genres/movies.py",
    "sample join cache detect train evaluate": "poster_genres/errors.py poster_genres/files.py",
}


def test_an_edited_file_reruns_only_what_it_can_change(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what stages depend on; and, of some files, by what `dvc status` says after `resolve`."""
    from dvc.repo import Repo

    monkeypatch.chdir(repository)
    expected = {name: set(key.split()) for key, files in EDITED.items() for name in files.split()}
    tracked = run("git", "ls-files", "stages", "poster_genres", cwd=repository).stdout.split()
    for name in tracked:
        if name not in expected and name.startswith(("poster_genres/networks/", "poster_genres/detectors/")):
            expected[name] = {"detect"} if "/detectors/" in name else set()
    assert set(tracked) - set(expected) == set(), "say in EDITED what runs again when these are edited"
    set_parameters(repository, architecture="two_stream/residual")
    run("dvc", "repro", "resolve", cwd=repository)
    # Nothing else has to be run for this: what is there is taken for what it depends on.
    run("dvc", "commit", "--force", cwd=repository)
    with Repo() as repo:
        depends = {stage.name: [Path(dep.fs_path) for dep in stage.deps] for stage in repo.index.stages if stage.cmd}
    found = {}
    for name in expected:
        path = repository / name
        found[name] = {key for key, deps in depends.items() if {path, *path.parents} & set(deps)}
    # What `resolve` reads may change what it tells other stages.
    of_resolve = {name for name, reruns in found.items() if "resolve" in reruns}
    assert [(name, reruns) for name, reruns in found.items() if name not in of_resolve and reruns != expected[name]] == []

    for name in of_resolve | set({frozenset(reruns): name for name, reruns in expected.items()}.values()):
        path = repository / name
        text = path.read_text(encoding="utf-8")
        path.write_text(text + ("\n<!-- edited -->\n" if path.suffix == ".html" else "\n# edited\n"), encoding="utf-8")
        stages.resolve.main()
        with Repo() as repo:
            assert set(repo.status()) - {"resolve"} == expected[name], name
        path.write_text(text, encoding="utf-8")


def test_an_experiment_leaves_the_rest_of_params_yaml_as_it_is(repository: Path) -> None:
    path = repository / "params.yaml"
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    run("git", "commit", "-qam", "The project's own parameters", cwd=repository)
    run("dvc", "exp", "run", "resolve", "-S", "epochs=50", "-S", "learning_rate=0.00001", cwd=repository)
    (repository / "data" / "other").mkdir()
    run("dvc", "exp", "run", "resolve", "-S", "detectors=[lettering,hf/a]", "-S", "dataset=data/other", cwd=repository)
    expected = text.replace("epochs: auto\n", "epochs: 50\n").replace("\nlearning_rate: auto\n", "\nlearning_rate: 1e-05\n")
    expected = expected.replace("\n- lettering\n", "\n- lettering\n- hf/a\n").replace(": data/sample ", ": data/other  ")
    assert path.read_text(encoding="utf-8") == expected
    run("dvc", "exp", "run", "resolve", "-S", "detectors=[]", cwd=repository)
    assert path.read_text(encoding="utf-8") == expected.replace("detectors:\n- lettering\n- hf/a\n", "detectors: []\n")


def test_a_run_on_the_real_posters(repository: Path, real_posters: Path) -> None:
    run("dvc", "import-url", real_posters, "data/movie-posters", cwd=repository)
    run("dvc", "exp", "run", "-S", "dataset=data/movie-posters", "-S", "limit=300", "-S", "test=0.05", cwd=repository)
    counts = json.loads((repository / "metrics" / "join.json").read_text(encoding="utf-8"))
    assert counts["movies"] == {"train": 240, "validation": 60, "test": 200}
    done = run(sys.executable, "-m", "stages.predict", "--random", cwd=repository)
    assert len(done.stdout.splitlines()) == 12


def test_a_run_on_the_posters_of_a_bucket(repository: Path, tmp_path: Path, bucket: tuple[Any, subprocess.Popen[bytes]]) -> None:
    files, _ = bucket
    files.put(f"{make_dataset(tmp_path / 'posters')}/", "posters/dark and bright/", recursive=True)
    run("dvc", "import-url", "s3://posters/dark and bright", "data/posters", cwd=repository)
    run("dvc", "exp", "run", "-S", "dataset=data/posters", "cache", cwd=repository)
    counts = json.loads((repository / "metrics" / "join.json").read_text(encoding="utf-8"))
    assert sum(counts["movies"].values()) == 80
    assert (repository / "data" / "posters" / "m079.jpg").read_bytes() == (tmp_path / "posters" / "m079.jpg").read_bytes()
    # What changes in the bucket comes by `dvc update`, and is seen.
    assert run("dvc", "status", "join", cwd=repository).stdout == "Data and pipelines are up to date.\n"
    files.pipe_file("posters/dark and bright/m000.jpg", jpeg((1, 2, 3)))
    run("dvc", "update", "data/posters.dvc", cwd=repository)
    assert "data/posters" in run("dvc", "status", "join", cwd=repository).stdout


def test_a_failing_stage_leaves_earlier_results_within_reach(repository: Path) -> None:
    before = (repository / "data" / "movies.csv").read_bytes()
    set_parameters(repository, limit=1)
    done = run("dvc", "repro", cwd=repository, fails=True)
    assert "error: params.yaml: limit: 1 image(s) are too few" in done.stderr
    assert "Traceback" not in done.stderr
    set_parameters(repository, limit=QUICK["limit"])
    run("dvc", "repro", cwd=repository)
    assert (repository / "data" / "movies.csv").read_bytes() == before
