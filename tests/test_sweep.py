"""Grids and searches of experiments, queued and run by several workers at once."""

import contextlib
import fcntl
import itertools
import os
import re
import shlex
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from poster_genres.errors import InputError
from poster_genres.parameters import Range, read_parameters
from poster_genres.search import Search
from stages import sweep
from stages.sweep import as_override, check_place, check_sweep, name_of, read_options
from tests.conftest import ROOT, environment, run, set_parameters, stage, wait_until
from tests.test_tracking import check_whole, runs_of

GRID = {"architecture": ["tutorial", "residual"], "epochs": [2, 3]}
SPACE: dict[str, list[str] | Range] = {
    "learning_rate": Range(low=1e-4, high=1e-2, log=True),
    "epochs": Range(low=1, high=9),
    "schedule": ["constant", "one_cycle"],
}


SHOW = "dvc exp show --only-changed --hide-failed --drop 'Executor|sweep.*|.*/.*'"


def in_terminal(command: str, folder: Path, columns: int) -> list[str]:
    """What a command shows in a terminal of so many columns, by line, without colours."""
    parent, child = os.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with subprocess.Popen(
        [*shlex.split(command), "--no-pager"],
        cwd=folder,
        # The variable, which a test runner may set, goes before the terminal's own width.
        env=environment() | {"COLUMNS": str(columns)},
        stdout=child,
        stderr=child,
    ) as process:
        os.close(child)
        output = b""
        with contextlib.suppress(OSError):  # at its end
            while part := os.read(parent, 1 << 16):
                output += part
    os.close(parent)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", output.decode()).splitlines()


def test_a_sweep_loses_no_run_on_a_fresh_store(repository: Path) -> None:
    set_parameters(repository, sweep=GRID)
    done = stage("sweep", "--jobs", "2", cwd=repository)
    output = done.stdout
    found = runs_of(repository)
    assert len(found) == 4
    for one in found:
        check_whole(one, epochs=int(one.data.params["epochs"]))
    settings = {(one.data.params["architecture"], one.data.params["epochs"]) for one in found}
    assert settings == {("tutorial", "2"), ("tutorial", "3"), ("residual", "2"), ("residual", "3")}
    (name,) = {one.data.tags["sweep"] for one in found}
    assert sorted(one.info.run_name or "" for one in found) == [f"{name}-{i}" for i in (1, 2, 3, 4)]
    assert f"> dvc exp run --queue --name {name} -S architecture=tutorial,residual -S epochs=2,3\n" in output
    assert "> OMP_NUM_THREADS=1 dvc queue start -j 2\n" in output
    # Told as it happens: the sweep waits for its experiments, not for the workers' end.
    told = re.findall(r"^sweep: (\d) of 4 runs, (\d\d:\d\d) left$", done.stderr, re.MULTILINE)
    assert [number for number, _ in told] == ["1", "2", "3", "4"]
    assert [left == "00:00" for _, left in told] == [False, False, False, True]
    table = output[output.index("experiment ") :]
    header = ["experiment", "architecture", "epochs", "validation", "macro", "AP", "±", "micro", "AP", "cross-entropy"]
    assert table.splitlines()[0].split() == header
    scores = [float(line.split()[3]) for line in table.splitlines() if line.lstrip().startswith(f"{name}-")]
    assert len(scores) == 4
    assert re.search(rf"{name}-1 +tutorial +2 +0\.", output)
    assert scores == sorted(scores, reverse=True)
    ahead = rf"It is \+0\.\d{{4}} ahead of {name}-\d on \d+ validation posters[ (,]"
    assert len(re.findall(ahead, output)) == 1
    # Test scores of the winner only.
    assert output.count("on test: macro AP") == 1
    # The same command again runs nothing, and shows the same.
    again = stage("sweep", "--jobs", "2", cwd=repository).stdout
    assert again.strip() == table.strip()
    shown = in_terminal(SHOW, repository, columns=160)
    assert max(map(len, shown)) <= 160
    assert shown[1].split() == [
        "Experiment",
        "Created",
        "State",
        "validation.macro_AP",
        "test.macro_AP",
        "test.micro_AP",
        "architecture",
        "epochs",
    ]
    assert "…" not in "".join(shown)
    winner = re.search(r"dvc exp apply (\S+)", output)
    assert winner
    run("dvc", "exp", "apply", winner[1], cwd=repository)
    best = pd.read_csv(repository / "metrics" / "scores.csv").set_index(["split", "score"])
    assert best.loc[("validation", "macro_average_precision"), "model"] == pytest.approx(scores[0], abs=1e-4)


def started_sweep(repository: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stages.sweep", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=repository, env=environment(), stdout=pipe, stderr=pipe, text=True)


@pytest.mark.long
def test_an_interrupted_search_stops_all_and_goes_on(repository: Path) -> None:
    options = ("--trials", "2", "-S", "learning_rate={low: 1e-4, high: 1e-2, log: true}")
    set_parameters(repository, epochs=30)
    with started_sweep(repository, *options) as search:
        wait_until(lambda: list((repository / ".dvc" / "tmp" / "training").glob("*.pt")), 300)
        search.send_signal(signal.SIGINT)
        error = search.communicate(timeout=300)[1]
    assert search.returncode == 130
    assert error.splitlines()[-3:] == [
        "stopping the experiments of this sweep …",
        "stopped; the same command goes on with what is missing",
        "interrupted: what was finished is kept, and nothing half-written",
    ]
    assert run("dvc", "queue", "status", cwd=repository).stdout.endswith("\nWorker status: 0 active, 0 idle\n")
    assert stage("sweep", "--stop", cwd=repository).stdout == "stopped: nothing was running\n"
    (killed,) = runs_of(repository)
    assert killed.info.status == "KILLED"

    output = stage("sweep", *options, cwd=repository).stdout
    (name,) = set(re.findall(r"sweep-\w{6}", output))
    names = [f"{name}-1", f"{name}-2"]
    assert sorted(run("dvc", "exp", "list", "--name-only", cwd=repository).stdout.split()) == names
    assert {path.name for path in (repository / "metrics" / "search" / name).iterdir()} == {"history.png", "slices.png"}
    by_name = {one.info.run_name: one for one in runs_of(repository)}
    assert set(by_name) == {name, *names}
    for one in names:
        check_whole(by_name[one], epochs=30)
        assert by_name[one].data.tags["mlflow.parentRunId"] == by_name[name].info.run_id
    # The training went on, in its run, with the same learning rate.
    assert by_name[names[0]].info.run_id == killed.info.run_id
    assert by_name[names[0]].data.params == killed.data.params
    scores = {one: by_name[one].data.metrics["validation/macro_average_precision"] for one in names}
    assert by_name[name].data.metrics["best"] == pytest.approx(max(scores.values()), abs=1e-5)
    assert f"dvc exp apply {max(names, key=scores.__getitem__)}\n" in output


@pytest.mark.slow
def test_an_experiment_that_left_the_queue_is_not_waited_for(repository: Path) -> None:
    set_parameters(repository, epochs=15)

    def tasks() -> dict[str, str]:
        lines = map(str.split, run("dvc", "queue", "status", cwd=repository).stdout.splitlines())
        return {fields[1]: fields[-1] for fields in lines if len(fields) > 2 and fields[1].startswith("sweep-")}

    with started_sweep(repository, "-S", "learning_rate=0.001,0.002") as sweep:
        wait_until(lambda: sorted(tasks().values()) == ["Queued", "Running"], 300)
        (lost,) = (name for name, state in tasks().items() if state == "Queued")
        (left,) = (name for name, state in tasks().items() if state == "Running")
        run("dvc", "queue", "remove", lost, cwd=repository)
        output, error = sweep.communicate(timeout=300)
    assert sweep.returncode == 1
    assert f"dvc exp apply {left}\n" in output
    assert [line for line in error.splitlines() if "sweep-" in line or "error" in line] == [
        f"{lost} failed: no longer in DVC's queue; type the same command again",
        "error: 1 of 2 experiments failed",
    ]


def test_the_tensor_cache_is_linked_and_not_copied(finished: Path) -> None:
    tensor = finished / "data" / "cache" / "posters-000.npy"
    # One file under several names (a hard link), read-only, so that nothing writes into DVC's cache by accident.
    assert tensor.stat().st_nlink > 1
    assert tensor.stat().st_mode & 0o222 == 0


def found_by(search: Search, trials: int) -> list[dict[str, str]]:
    """Ask and tell until there are so many trials; the higher the learning rate, the better."""
    while len(search.completed()) < trials:
        trial = (search.unfinished() or [search.ask()])[0]
        search.tell(trial, float(search.values(trial)["learning_rate"]))
    return [search.values(trial) for trial in range(trials)]


def test_the_same_seed_gives_the_same_trials_interrupted_or_not(tmp_path: Path) -> None:
    def search(name: str, seed: int) -> Search:
        return Search(f"sqlite:///{tmp_path / 'studies.db'}", name, SPACE, seed, random_trials=5)

    whole = found_by(search("whole", 0), 12)
    found_by(search("in parts", 0), 7)
    search("in parts", 0).ask()  # and killed
    assert found_by(search("in parts", 0), 12) == whole
    assert found_by(search("another", 1), 12) != whole
    for values in whole:
        assert 1e-4 <= float(values["learning_rate"]) <= 1e-2
        assert values["learning_rate"] == f"{float(values['learning_rate'])}"
        assert values["epochs"] in map(str, range(1, 10))
        assert values["schedule"] in SPACE["schedule"]
    # No random trial repeats another, or one of the next seed's.
    drawn = sorted(float(values["learning_rate"]) for values in [*whole[:5], *found_by(search("another", 1), 12)[:5]])
    assert min(later / earlier for earlier, later in itertools.pairwise(drawn)) > 1.01
    # Guided: nearer to where the score is high than random ones, half of which are below 1e-3.
    rates = [float(values["learning_rate"]) for values in found_by(Search("sqlite://", "guided", SPACE, 0, random_trials=5), 30)]
    assert statistics.median(rates[5:]) > 2e-3


def test_a_failed_trial_is_left_out_and_pictures_are_drawn(tmp_path: Path) -> None:
    search = Search("sqlite://", "failing", SPACE, 0, random_trials=5)
    search.tell(search.ask(), None)
    found_by(search, 0)
    assert search.completed() == []
    search.draw(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for score in (0.1, 0.2, 0.3):
        search.tell(search.ask(), score)
    assert search.completed() == [1, 2, 3]
    search.draw(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.png", "importances.png", "slices.png"]
    best = ", ".join(f"`{key}={value}`" for key, value in search.values(3).items())
    assert search.describe() == (
        "A search of 3 trials over `learning_rate` from 0.0001 to 0.01, `epochs` from 1 to 9, `schedule` of constant, one_cycle; "
        "its trials are the runs below it.\n\n"
        f"Best: trial 4, **validation macro average precision 0.3000** with {best}. The best of many is "
        "somewhat too good."
    )


def test_a_parameter_with_one_value_is_in_no_picture(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    search = Search("sqlite://", "fixed", {"epochs": ["2"], "learning_rate": SPACE["learning_rate"]}, 0, random_trials=5)
    found_by(search, 3)
    search.draw(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.png", "slices.png"]
    assert [str(one.message) for one in recwarn if "identical" in str(one.message)] == []


def test_a_sweep_on_the_command_line() -> None:
    given = ["limit=500,1000", "architecture=hf/a/b", "detectors=[lettering],[lettering,hf/a]", "crop={low: 0, high: 0.2}"]
    assert read_options(given) == {
        "limit": [500, 1000],
        "architecture": ["hf/a/b"],
        "detectors": [["lettering"], ["lettering", "hf/a"]],
        "crop": {"low": 0, "high": 0.2},
    }
    for option in ("epochs", "epochs=", "=3", "epochs=1,,2", "epochs=[1", "epochs=null", "seed=2020-99-99", "epochs=010"):
        with pytest.raises(InputError) as refused:
            read_options([option])
        assert str(refused.value) == f"-S {option}: should be a key of params.yaml and its values, as -S epochs=5,10"
    with pytest.raises(InputError) as refused:
        read_options(["epochs=5", "epochs=6"])
    assert str(refused.value) == "-S epochs=6: epochs is there twice; write all of its values after one -S, as -S epochs=5,10"


def test_values_reach_dvc_as_they_are() -> None:
    from dvc.utils.hydra import to_hydra_overrides

    values = [
        5,
        0.1,
        1e-05,
        True,
        None,
        "true",
        "residual",
        "hf/a-b/c_1",
        "",
        "it's",
        'a "quoted" \\ path, {x}',
        ["a"],
        ["a b", 1, []],
    ]
    for value in values:
        (parsed,) = to_hydra_overrides([f"key={as_override(value)}"])
        assert parsed.value() == value
    sweep_of_all = ",".join(map(as_override, values))
    (parsed,) = to_hydra_overrides([f"key={sweep_of_all}"])
    assert len(list(parsed.sweep_iterator())) == len(values)


WRONG: list[tuple[dict[str, Any], int | None, str]] = [
    ({"epoch": [1, 2]}, None, "sweep: epoch is no key of this file"),
    ({"sweep": [1, 2]}, None, "sweep: sweep is no key of this file"),
    ({"epochs": [1, "many"]}, None, "epochs: should be a whole number from 0, or 'auto', not 'many'"),
    ({"epochs": [1, 2, 1]}, None, "sweep.epochs: 1 is there twice; keep one"),
    ({"epochs": {"low": 1, "high": 9}}, None, "sweep.epochs: is a range; say how many of its values to try, as --trials 20"),
    ({"epochs": {"low": 1, "high": 2.5}}, 3, "sweep.epochs: low and high should be whole numbers, not 1 and 2.5"),
    ({"flip": {"low": 0, "high": 1}}, 3, "sweep.flip: is no number, and takes a list of values, not a range"),
    ({"crop": {"low": 0, "high": 1}}, 3, "crop: should be a number from 0 to less than 1, or 'auto', not 1.0"),
    ({"limit": [50, 60]}, 3, "sweep: no search over limit: other posters validate, and scores cannot be compared"),
    ({}, None, "sweep: is empty; list keys of this file with their values"),
    (
        {"epochs": list(range(1, 41)), "seed": list(range(40))},
        None,
        "sweep: has 1,600 combinations, more than 1,000; search them with --trials 20",
    ),
]


@pytest.mark.parametrize(("given", "trials", "message"), WRONG)
def test_a_wrong_sweep_is_refused_before_anything_runs(given: dict[str, Any], trials: int | None, message: str) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    with pytest.raises(InputError) as refused:
        check_sweep(content | {"sweep": given}, None, trials)
    assert str(refused.value) == f"params.yaml: {message}"


def test_combinations_are_checked_whole() -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    sizes = {"image_height": [96, 128], "image_width": [64]}
    assert check_sweep(content, sizes, None)[1] == sizes
    assert check_sweep(content, {"crop": {"low": "0", "high": 0.5}}, 3)[1] == {"crop": Range(low=0, high=0.5)}


@pytest.fixture
def committed(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's files in Git, without its data set, and without DVC."""
    run("git", "init", "-q", cwd=project)
    for key in ("user.name", "user.email"):
        run("git", "config", key, "tester", cwd=project)
    run("git", "add", "--", ".", ":!data/posters", cwd=project)
    run("git", "commit", "-qm", "Start", cwd=project)
    monkeypatch.chdir(project)
    return project


def test_a_queue_that_cannot_be_read_for_a_moment_ends_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "Task Name Created Status\n0a1b2c3 sweep-1 10:00 Running\nWorker status: 1 active, 0 idle\n"
    failures = iter([True, True, False, *[True] * 5])

    def dvc(*_: str) -> str:
        if next(failures):
            raise InputError("dvc queue status: unexpected error")
        return lines

    monkeypatch.setattr(sweep, "dvc", dvc)
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.0)
    assert sweep.read_queue() == ([sweep.Task("0a1b2c3", "sweep-1", "Running")], 1, 0)
    with pytest.raises(InputError, match=r"^dvc queue status: unexpected error$"):
        sweep.read_queue()


def refusal(*datasets: str) -> str:
    with pytest.raises(InputError) as refused:
        check_place(datasets)
    return str(refused.value)


def test_what_experiments_would_lack_is_said_before_anything_runs(committed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_place(["data/sample", str(committed)])
    message = "neither in Git nor in DVC, and would be missing in experiments: dvc add data/posters, git add data, and git commit"
    assert refusal("data/sample", "data/posters") == f"data/posters: {message}"
    assert refusal("../posters") == (
        "../posters: not found from where experiments run; give the whole path, or dvc import-url it into data"
    )
    assert refusal("data/none") == "data/none: no such folder"
    # What DVC writes for `dvc add`.
    Path("data/posters.dvc").touch()
    Path("data/.gitignore").write_text("/posters\n", encoding="utf-8")
    assert refusal("data/posters") == f"data/posters: {message}"
    run("git", "add", "data", cwd=committed)
    check_place(["data/posters"])
    Path("poster_genres/new.py").touch()
    assert refusal("data/sample") == "poster_genres/new.py: not in Git, and would be missing in experiments: git add it, and commit"
    folder = committed.with_name("münchen")
    shutil.copytree(committed, folder)
    monkeypatch.chdir(folder)
    assert refusal() == f"{folder}: DVC's queue works only in folders whose path is of ASCII letters; move the project"
    monkeypatch.chdir(committed)
    shutil.rmtree(".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(committed.parent))
    assert refusal() == ("this is no Git repository with a commit, from which experiments start: git init, git add and git commit")


def test_a_shallow_clone_is_told_how_to_get_its_history(committed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("git", "commit", "-q", "--allow-empty", "-m", "A second commit", cwd=committed)
    run("git", "clone", "-q", "--depth=1", committed.as_uri(), "../shallow", cwd=committed)
    monkeypatch.chdir("../shallow")
    assert refusal() == "this is a shallow clone, in which DVC loses queued experiments; get its history: git fetch --unshallow"


def test_a_sweep_has_the_same_name_until_its_files_change(committed: Path) -> None:
    first = name_of(read_parameters(), search=False)
    assert name_of(read_parameters(), search=True) != first
    Path("metrics/evaluation.json").write_text("{}", encoding="utf-8")
    assert name_of(read_parameters(), search=False) == first
    with Path("stages/train.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert name_of(read_parameters(), search=False) != first


def test_equals_have_no_winner(capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame({"experiment": ["a-1", "a-2", "a-3"], "validation macro AP": [0.3, 0.5, 0.5]})
    sweep.report(table, ["epochs"])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "       a-2               0.5000",
        "       a-3               0.5000",
        "       a-1               0.3000",
        "",
        "No winner: 2 are equal on validation. Apply any: dvc exp apply a-2",
    ]


def test_without_the_same_posters_there_is_no_winner(capsys: pytest.CaptureFixture[str]) -> None:
    sweep.report(
        pd.DataFrame({"experiment": ["sweep-1", "sweep-2"], "limit": ["60", "50"], "validation macro AP": [0.1, 0.2]}), ["limit"]
    )
    assert capsys.readouterr().out == (
        "experiment limit  validation macro AP\n"
        "   sweep-1    60               0.1000\n"
        "   sweep-2    50               0.2000\n"
        "\nNo winner: with another limit other posters validate. Apply any: dvc exp apply sweep-1\n"
    )
