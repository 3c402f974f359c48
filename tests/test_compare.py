"""Two experiments on the same posters, by `python -m stages.compare`."""

import json
import re
import subprocess
from pathlib import Path

from tests.conftest import run, stage


def table(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    return [re.split(r"  +", line) for line in done.stdout.splitlines()]


def test_two_experiments_are_compared_on_the_same_posters(repository: Path) -> None:
    same = table(stage("compare", "HEAD", cwd=repository))
    posters = same[0][0]
    assert same[0] == [posters, "HEAD", "workspace", "difference", "95 % interval"]
    assert re.fullmatch(r"\d+ validation posters", posters)
    assert [row[0] for row in same[1:-1]] == ["macro average precision", "micro average precision", "binary cross entropy"]
    assert all(row[1] == row[2] and row[3:] == ["+0.0000", "+0.0000 to +0.0000"] for row in same[1:-1])
    assert same[-1] == ["they score the same: there is no difference"]

    run("dvc", "exp", "run", "-q", "-n", "longer", "-S", "epochs=2", cwd=repository)
    run("git", "checkout", "-q", "params.yaml", cwd=repository)
    committed = json.loads(run("git", "show", "HEAD:metrics/evaluation.json", cwd=repository).stdout)
    of_experiment = json.loads((repository / "metrics" / "evaluation.json").read_text(encoding="utf-8"))
    for split in ("validation", "test"):
        first, second = committed[split], of_experiment[split]
        rows = table(stage("compare", "HEAD", "longer", "--split", split, cwd=repository))
        name, *values = rows[1]
        assert name == "macro average precision"
        assert [float(value) for value in values[:2]] == [round(scores["macro_AP"], 4) for scores in (first, second)]
        low, high = (float(number) for number in values[3].split(" to "))
        assert low <= float(values[2]) <= high

    error = stage("compare", "HEAD", "nobody", cwd=repository, fails=True).stderr
    assert error == "error: nobody: no experiment, branch, tag or commit of that name; `dvc exp show` lists them\n"
    first_commit = run("git", "rev-list", "--max-parents=0", "HEAD", cwd=repository).stdout.strip()
    error = stage("compare", first_commit, cwd=repository, fails=True).stderr
    assert error == f"error: {first_commit}: has no metrics/predictions.csv, or it is not in DVC's cache; was it run to its end?\n"
    for name in ("HEAD:data", "HEAD^{tree}"):
        error = stage("compare", name, cwd=repository, fails=True).stderr
        assert error == f"error: {name}: no experiment, branch, tag or commit of that name; `dvc exp show` lists them\n"
    error = stage("compare", "", cwd=repository, fails=True).stderr
    assert error == "error: name an experiment, branch, tag or commit, or workspace, not ''\n"
    predictions = repository / "metrics" / "predictions.csv"
    lines = predictions.read_text(encoding="utf-8").splitlines(keepends=True)
    predictions.unlink()
    predictions.write_text("".join(lines[:-1]), encoding="utf-8")
    error = stage("compare", "HEAD", cwd=repository, fails=True).stderr
    assert error == "error: HEAD and workspace: other posters or labels; only runs on one data set, limit and seed compare\n"
    predictions.write_text("", encoding="utf-8")
    error = stage("compare", "HEAD", cwd=repository, fails=True).stderr
    assert error == (
        "error: workspace: metrics/predictions.csv or data/movies.csv is damaged (No columns to parse from file); remove it, "
        "and `dvc repro` makes it\n"
    )
    predictions.unlink()
    error = stage("compare", "HEAD", cwd=repository, fails=True).stderr
    assert error == "error: workspace: has no metrics/predictions.csv; `dvc repro` makes it\n"
