"""Two experiments on the same posters, by `python -m stages.compare`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stages.compare
from poster_genres.errors import InputError
from tests.conftest import run, stage


def table(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    return [re.split(r"  +", line) for line in done.stdout.splitlines()]


def test_two_experiments_are_compared_on_the_same_posters(finished: Path, with_experiment: Path) -> None:
    same = table(stage("compare", "HEAD", cwd=finished))
    posters = same[0][0]
    assert same[0] == [posters, "HEAD", "workspace", "difference", "95 % interval"]
    assert re.fullmatch(r"\d+ validation posters", posters)
    assert [row[0] for row in same[1:-1]] == ["macro average precision", "micro average precision", "binary cross entropy"]
    assert all(row[1] == row[2] and row[3:] == ["+0.0000", "+0.0000 to +0.0000"] for row in same[1:-1])
    assert same[-1] == ["they score the same: there is no difference"]

    committed = json.loads(run("git", "show", "HEAD:metrics/evaluation.json", cwd=with_experiment).stdout)
    of_experiment = json.loads((with_experiment / "metrics" / "evaluation.json").read_text(encoding="utf-8"))
    for split in ("validation", "test"):
        first, second = committed[split], of_experiment[split]
        rows = table(stage("compare", "HEAD", "two-epochs", "--split", split, cwd=with_experiment))
        name, *values = rows[1]
        assert name == "macro average precision"
        assert [float(value) for value in values[:2]] == [round(scores["macro_AP"], 4) for scores in (first, second)]
        low, high = (float(number) for number in values[3].split(" to "))
        assert low <= float(values[2]) <= high


def test_what_cannot_be_compared_is_said(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)

    def error(*names: str) -> str:
        monkeypatch.setattr(sys, "argv", ["compare", *names])
        with pytest.raises(InputError) as raised:
            stages.compare.main()
        return str(raised.value)

    nobody = "no experiment, branch, tag or commit of that name; `dvc exp show` lists them"
    # Once as a command; the others without its start.
    assert stage("compare", "HEAD", "nobody", cwd=repository, fails=True).stderr == f"error: nobody: {nobody}\n"
    first_commit = run("git", "rev-list", "--max-parents=0", "HEAD", cwd=repository).stdout.strip()
    not_there = "has no metrics/predictions.csv, or it is not in DVC's cache; was it run to its end, and dvc.lock committed?"
    assert error(first_commit) == f"{first_commit}: {not_there}"
    for name in ("HEAD:data", "HEAD^{tree}"):
        assert error(name) == f"{name}: {nobody}"
    assert error("") == "name an experiment, branch, tag or commit, or workspace, not ''"
    predictions = repository / "metrics" / "predictions.csv"
    lines = predictions.read_text(encoding="utf-8").splitlines(keepends=True)
    predictions.unlink()
    predictions.write_text("".join(lines[:-1]), encoding="utf-8")
    other = "HEAD and workspace: other posters or labels; only runs on one data set, limit and seed compare"
    assert error("HEAD") == other
    predictions.write_text("", encoding="utf-8")
    assert error("HEAD") == (
        "workspace: metrics/predictions.csv or data/movies.csv is damaged (No columns to parse from file); remove it, "
        "and `dvc repro` makes it"
    )
    predictions.unlink()
    assert error("HEAD") == "workspace: has no metrics/predictions.csv; `dvc repro` makes it"
