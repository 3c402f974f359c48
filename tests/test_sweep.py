"""Grids of experiments, queued and run by several workers at once."""

import re
from pathlib import Path

import pandas as pd
import pytest

from poster_genres.errors import InputError
from poster_genres.parameters import read_parameters
from stages.sweep import read_grid
from tests.conftest import run, set_parameters, stage
from tests.test_tracking import check_whole, runs_of

GRID = {"architecture": ["tutorial", "residual"], "epochs": [2, 3]}


def test_a_sweep_loses_no_run_on_a_fresh_store(repository: Path) -> None:
    set_parameters(repository, sweep=GRID)
    output = stage("sweep", "--jobs", "2", cwd=repository).stdout
    found = runs_of(repository)
    assert len(found) == 4
    for one in found:
        check_whole(one, epochs=int(one.data.params["epochs"]))
    settings = {(one.data.params["architecture"], one.data.params["epochs"]) for one in found}
    assert settings == {("tutorial", "2"), ("tutorial", "3"), ("residual", "2"), ("residual", "3")}
    (sweep,) = {one.data.tags["sweep"] for one in found}
    assert sorted(one.info.run_name or "" for one in found) == [f"{sweep}-{i}" for i in (1, 2, 3, 4)]
    assert "> dvc exp run --queue" in output
    assert "> dvc queue start -j 2" in output
    scores = [
        float(line.split()[3]) for line in output.splitlines() if line.split()[:1] and line.split()[0].startswith(f"{sweep}-")
    ]
    assert len(scores) == 4
    assert re.search(rf"{sweep}-1 +tutorial +2 +0\.", output)
    assert scores == sorted(scores, reverse=True)
    winner = re.search(r"dvc exp apply (\S+)", output)
    assert winner
    run("dvc", "exp", "apply", winner[1], cwd=repository)
    best = pd.read_csv(repository / "metrics" / "scores.csv").set_index(["split", "score"])
    assert best.loc[("validation", "macro_average_precision"), "model"] == pytest.approx(scores[0], abs=1e-4)


def test_a_sweep_over_other_validation_posters_has_no_winner(repository: Path) -> None:
    output = stage("sweep", "-S", "limit=60,50", cwd=repository).stdout
    # Told as it happens: the sweep waits for its experiments, not for the workers' end.
    assert "1/2 runs" in output
    assert "No winner: with another limit other posters validate." in output
    assert [line.split()[1] for line in output.splitlines() if line.lstrip().startswith("sweep-")] == ["60", "50"]


def test_the_tensor_cache_is_linked_and_not_copied(finished: Path) -> None:
    tensor = finished / "data" / "cache" / "posters-000.npy"
    # One file under several names (a hard link), read-only, so that nothing writes into DVC's cache by accident.
    assert tensor.stat().st_nlink > 1
    assert tensor.stat().st_mode & 0o222 == 0


def test_a_grid_on_the_command_line() -> None:
    expected = {"limit": [500, 1000], "architecture": ["hf/a/b"], "sections.of.crop": [0.1, 0.2]}
    assert read_grid(["limit=500,1000", "architecture=hf/a/b", "sections.of.crop=0.1,0.2"]) == expected


def test_a_sweep_of_what_is_not_there(repository: Path) -> None:
    set_parameters(repository, sweep={"epoch": [1, 2]})
    assert "sweep: 'epoch'" in stage("sweep", cwd=repository, fails=True).stderr
    set_parameters(repository, sweep={"architecture": ["resnet"]})
    assert "'resnet' is unknown" in stage("sweep", cwd=repository, fails=True).stderr
    assert "-S epochs: should be a key" in stage("sweep", "-S", "epochs", cwd=repository, fails=True).stderr
    assert "not 'many'" in stage("sweep", "-S", "epochs=1,many", cwd=repository, fails=True).stderr
    set_parameters(repository, sweep={"epochs": []})
    with pytest.raises(InputError, match=r"sweep\.epochs:"):
        read_parameters(repository / "params.yaml")


def test_a_shallow_clone_is_told_how_to_get_its_history(repository: Path, tmp_path: Path) -> None:
    (repository / "another").write_text("file", encoding="utf-8")
    run("git", "add", "another", cwd=repository)
    run("git", "commit", "-qm", "A second commit", cwd=repository)
    run("git", "clone", "-q", "--depth=1", repository.as_uri(), "shallow", cwd=tmp_path)
    assert "git fetch --unshallow" in stage("sweep", cwd=tmp_path / "shallow", fails=True).stderr
