"""Run many DVC experiments, one for each combination of values in `sweep:` of params.yaml: `python -m stages.sweep --jobs 2`.

With ranges there (`learning_rate: {low: 1e-4, high: 1e-2, log: true}`), `python -m stages.sweep --trials 20 --jobs 2` searches them
with Optuna. Either can be given instead: `-S limit=625,1250,3000`. Scores on validation posters decide.

The experiments are queued and run by these commands, which are printed and also work by hand:
`dvc exp run --queue -S architecture=a,b -S epochs=5,10` and `dvc queue start -j 2`. Ctrl-C stops them, and `python -m stages.sweep
--stop` stops all of DVC's queue. The same command goes on with what is missing.
"""

import contextlib
import hashlib
import io
import itertools
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from poster_genres import errors
from poster_genres.errors import InputError
from poster_genres.parameters import (
    PARAMETERS,
    JoinParameters,
    Parameters,
    Range,
    StrictLoader,
    as_number,
    check_parameters,
    is_whole,
    named,
    read_parameters,
    shown,
)
from poster_genres.progress import progress, resume

POLL_SECONDS = 2.0
# While experiments run, DVC's queue is read when one has left its result there, or after so long: reading it costs a second of
# processor time.
LONGEST_POLL_SECONDS = 20.0
RESULTS = Path(".dvc/tmp/exps/celery/result")
ATTEMPTS = 5  # to read the queue
# A worker takes seconds to start; if none is seen in so many polls while experiments wait, workers are started again.
PATIENT_POLLS = 5
# An experiment that was told to stop and did not is told again after this time.
STOP_SECONDS = 30.0
MOST_COMBINATIONS = 1000
# These change the validation split: scores of experiments that differ in them cannot be compared.
SPLITTING = tuple(JoinParameters.model_fields)
# So many trials of a search are random before earlier ones guide it.
RANDOM_TRIALS = 5
STUDIES = Path(".dvc/tmp/studies.db")
PICTURES = Path("metrics/search")
SCORES = Path("metrics/scores.csv")
OBJECTIVE = "macro_average_precision"

Sweep = dict[str, list[Any] | Range]


def dvc(*arguments: str, show: bool = False) -> str:
    """Run a DVC command and return its standard output. If it fails, raise InputError with the first line of its error."""
    if show:
        threads = f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} " if arguments[:2] == ("queue", "start") else ""
        print(f"> {threads}{shlex.join(['dvc', *arguments])}", flush=True)
    # Into files: a pipe stays open until the workers that `dvc queue start` leaves behind stop, and if two of them start at the
    # same moment, one may miss the signal to stop (https://github.com/treeverse/dvc-task/issues/73).
    with tempfile.TemporaryDirectory() as folder:
        stdout_path, stderr_path = Path(folder, "stdout"), Path(folder, "stderr")
        with stdout_path.open("wb") as stdout, stderr_path.open("wb") as stderr:
            # Ctrl-C must not cut a command short that writes the queue or has stashed the folder's changes.
            process = subprocess.Popen(
                [sys.executable, "-m", "dvc", *arguments], stdout=stdout, stderr=stderr, start_new_session=True
            )
            try:
                process.wait()
            except KeyboardInterrupt:
                process.wait()
                raise
        output, error_output = (path.read_text(encoding="utf-8") for path in (stdout_path, stderr_path))
    if process.returncode:
        reason = (error_output or output).strip().splitlines() or ["no reason given"]
        raise InputError(f"dvc {arguments[0]} {arguments[1]}: {reason[0].removeprefix('ERROR: ')}")
    return output


def git(*arguments: str) -> str:
    """The standard output of a Git command; empty if it fails."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout


def as_override(value: Any) -> str:
    """A value as `dvc exp run -S KEY=VALUE` takes it, which parses it by Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(as_override, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    if not isinstance(value, str) or (re.fullmatch(r"[A-Za-z_][\w./-]*", text) and text.lower() not in ("true", "false", "null")):
        return text
    return "'" + re.sub(r"(\\*)(')", r"\1\1\\\2", text) + "'"


def options(values: dict[str, str]) -> list[str]:
    return [argument for key, value in values.items() for argument in ("-S", f"{key}={value}")]


def read_options(given: list[str]) -> dict[str, Any]:
    """Parse `-S` options as `sweep:` in YAML: KEY=A,B gives the values A and B of KEY, KEY={low: A, high: B} a range.

    Raises
    ------
    InputError
        An option is not of this form.
    """
    sweep: dict[str, Any] = {}
    for option in given:
        key, _, values = option.partition("=")
        try:
            parsed = yaml.load(f"[{values}]", StrictLoader)
        except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that is none
            parsed = []
        if not key or not parsed or None in parsed:
            raise InputError(f"-S {option}: should be a key of params.yaml and its values, as -S epochs=5,10")
        if key in sweep:
            raise InputError(f"-S {option}: {key} is there twice; write all of its values after one -S, as -S epochs=5,10")
        sweep[key] = parsed[0] if len(parsed) == 1 and isinstance(parsed[0], dict) else parsed
    return sweep


def combinations(sweep: Sweep) -> list[dict[str, Any]]:
    """All combinations of values, the last key's changing fastest, as DVC numbers them."""
    return [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]


def check_sweep(content: dict[str, Any], given: dict[str, Any] | None, trials: int | None) -> tuple[Parameters, Sweep]:
    """Check all values of the sweep before any experiment starts.

    Parameters
    ----------
    content : of params.yaml
    given : a sweep in place of the one in `content`
    trials : how many trials a search has; None for a grid

    Raises
    ------
    InputError
        A key is not in params.yaml, a value is not valid for it, there are too many combinations, or what is given is for a
        search, but not trials, or the other way round.
    """
    parameters = check_parameters(content | ({"sweep": given} if given else {}), PARAMETERS)
    sweep: Sweep = parameters.sweep
    where = f"{PARAMETERS}: sweep"
    if not sweep:
        raise InputError(f"{where}: is empty; list keys of this file with their values")
    for key, values in sweep.items():
        if key not in content or key == "sweep":
            raise InputError(f"{where}: {named(key)} is no key of this file")
        if not isinstance(values, Range):
            if values_twice := [shown(value) for i, value in enumerate(values) if value in values[:i]]:
                raise InputError(f"{where}.{key}: {values_twice[0]} is there twice; keep one")
        elif is_whole(key) is None:
            raise InputError(f"{where}.{key}: is no number, and takes a list of values, not a range")
        elif is_whole(key) and not (values.low.is_integer() and values.high.is_integer()):
            raise InputError(f"{where}.{key}: low and high should be whole numbers, not {values.low:g} and {values.high:g}")
        elif trials is None:
            raise InputError(f"{where}.{key}: is a range; say how many of its values to try, as --trials 20")
    ends: Sweep = {
        key: [as_number(key, end) for end in (values.low, values.high)] if isinstance(values, Range) else values
        for key, values in sweep.items()
    }
    if trials is None:
        count = math.prod(map(len, ends.values()))  # type: ignore[arg-type]
        if count > MOST_COMBINATIONS:
            raise InputError(f"{where}: has {count:,} combinations, more than {MOST_COMBINATIONS:,}; search them with --trials 20")
        checked = combinations(ends)
    else:
        if splitting := [key for key in sweep if key in SPLITTING]:
            raise InputError(f"{where}: no search over {splitting[0]}: other posters validate, and scores cannot be compared")
        # Each value on its own, beside the first of the others, as combinations may be endless.
        first = combinations({key: values[:1] for key, values in ends.items()})[0]  # type: ignore[index]
        checked = [first | {key: value} for key, values in ends.items() for value in values]
    for chosen in checked:
        check_parameters(content | chosen, PARAMETERS)
    return parameters, sweep


def check_place(datasets: Iterable[str]) -> None:
    """Check that experiments can run in a temporary copy of the project, and that DVC can keep their results.

    Raises
    ------
    InputError
        There is no commit; the clone is shallow: DVC would run all experiments, report "Success" and lose their results; the path
        is one that DVC's queue cannot work in; or what Git and DVC do not know would be missing in the copy.
    """
    here = str(Path.cwd())
    if not here.isascii():
        raise InputError(f"{here}: DVC's queue works only in folders whose path is of ASCII letters; move the project")
    if not git("rev-parse", "HEAD"):
        raise InputError("this is no Git repository with a commit, from which experiments start: git init, git add and git commit")
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        raise InputError("this is a shallow clone, in which DVC loses queued experiments; get its history: git fetch --unshallow")
    paths = ["stages", "poster_genres", "data/detectors", "dvc.yaml", str(PARAMETERS)]
    if untracked := git("ls-files", "--others", "--exclude-standard", "--", *paths).splitlines():
        adds = "dvc add" if untracked[0].startswith("data/") else "git add"
        raise InputError(f"{untracked[0]}: not in Git, and would be missing in experiments: {adds} it, and commit")
    outputs = [
        out for stage in yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"].values() for out in stage["outs"]
    ]
    for dataset in datasets:
        path = Path(dataset)
        if path.is_absolute() or dataset in outputs:
            continue
        if ".." in path.parts:
            raise InputError(
                f"{dataset}: not found from where experiments run; give the whole path, or dvc import-url it into data"
            )
        if not path.exists():
            raise InputError(f"{dataset}: no such folder")
        known = [f"{parent.as_posix()}.dvc" for parent in (path, *path.parents[:-1])]
        others = git("ls-files", "--others", "--exclude-standard", "--", dataset)
        if others or not git("ls-files", "--", dataset, *known):
            raise InputError(
                f"{dataset}: neither in Git nor in DVC, and would be missing in experiments: dvc add {dataset}, "
                f"git add {path.parent.as_posix()}, and git commit"
            )


def name_of(parameters: Parameters, search: bool) -> str:
    """The sweep's name, the same for the same commit, changes to its files, and grid or search: the same command goes on."""
    # What runs write does not count, so that `dvc repro` changes nothing.
    changes = git("diff", "HEAD", "--", ".", ":!dvc.lock", ":!metrics")
    text = f"{git('rev-parse', 'HEAD')}{changes}{parameters.sweep!r}{'search' if search else ''}"
    # Short, because MLflow's UI truncates long run names.
    return f"sweep-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


class Task(NamedTuple):
    """An experiment in DVC's queue; its state is Queued, Running, Success or Failed."""

    revision: str
    name: str
    state: str


def read_queue() -> tuple[list[Task], int, int]:
    """The queue's tasks, and how many workers are active and idle."""
    tasks, active, idle = [], 0, 0
    for attempts_left in reversed(range(ATTEMPTS)):
        try:
            status = dvc("queue", "status")
            break
        except InputError:
            # DVC may read a file that one of its workers is just writing.
            if attempts_left == 0:
                raise
            time.sleep(POLL_SECONDS)
    for line in status.splitlines():
        fields = line.split()
        if workers := re.fullmatch(r"Worker status: (\d+) active, (\d+) idle", line.strip()):
            active, idle = int(workers[1]), int(workers[2])
        elif len(fields) > 2 and re.fullmatch("[0-9a-f]{7}", fields[0]):
            tasks.append(Task(fields[0], fields[1], fields[-1]))
    return tasks, active, idle


def results() -> set[str]:
    """The names of the files in which DVC's workers say how an experiment ended."""
    return {path.name for path in RESULTS.glob("*")}


def finished(prefix: str) -> list[str]:
    """Names of the finished experiments whose name starts with `prefix`."""
    return [name for name in dvc("exp", "list", "--name-only").split() if name.startswith(prefix)]


def follow(names: list[str], ended: int, total: int, jobs: int, done: Callable[[str, bool], list[str]]) -> None:
    """Run queued experiments, with progress, until none is left. Says why one failed.

    One that is no longer in the queue, while nothing runs, has failed too: it was removed; or DVC lost it, which can happen to one
    that is queued at the moment at which a worker takes another.

    Parameters
    ----------
    names : of experiments that are queued, or run
    ended : how many of `total` experiments have ended before
    done : is called with the name of each that ends and whether it succeeded; returns the names of those that it queued then
    """
    pending, unseen = list(names), 0
    dvc("queue", "start", "-j", str(jobs), show=True)
    with progress("sweep", total, " runs", interval=0) as bar:
        resume(bar, ended)
        while pending:
            before = results()
            tasks, active, idle = read_queue()
            state_of = {task.name: task.state for task in tasks}
            unseen = 0 if active + idle or "Running" in state_of.values() else unseen + 1
            if unseen == PATIENT_POLLS:
                state_of |= {name: "Lost" for name in pending if name not in state_of}
            queued: list[str] = []
            for name in [name for name in pending if state_of.get(name) in ("Success", "Failed", "Lost")]:
                pending.remove(name)
                if state_of[name] == "Failed":
                    bar.write(why_failed(name), sys.stderr)
                elif state_of[name] == "Lost":
                    bar.write(f"{name} failed: no longer in DVC's queue; type the same command again", sys.stderr)
                queued += done(name, state_of[name] == "Success")
                bar.update()
            pending += queued
            if queued or (pending and unseen == PATIENT_POLLS):
                dvc("queue", "start", "-j", str(jobs))
                unseen = 0
            elif pending:
                until = time.monotonic() + (LONGEST_POLL_SECONDS if "Running" in state_of.values() else POLL_SECONDS)
                while time.monotonic() < until and results() == before:
                    time.sleep(POLL_SECONDS / 4)
                    bar.refresh()


def stop(names: Iterable[str] | None = None) -> list[str]:
    """Take experiments out of the queue, interrupt those that run, and wait until they have ended, and the workers too.

    Parameters
    ----------
    names : of experiments; None is all of them

    Returns
    -------
    What was stopped.
    """
    chosen = None if names is None else set(names)
    told: dict[str, float] = {}
    stopped: dict[str, str] = {}
    while True:
        tasks = read_queue()[0]
        ours = [task for task in tasks if chosen is None or task.name in chosen]
        # As many workers as experiments that run take the next ones until these are removed.
        if queued := [task for task in ours if task.state == "Queued"]:
            with contextlib.suppress(InputError):  # it has just been started
                dvc("queue", "remove", *(task.revision for task in queued))
                stopped |= {task.revision: task.name for task in queued}
        running = [task for task in ours if task.state == "Running"]
        for task in running:
            if time.monotonic() - told.get(task.revision, -math.inf) > STOP_SECONDS:
                # Ctrl-C for it: `dvc queue stop --kill` would leave its training running. While it is being set up, this fails.
                with contextlib.suppress(InputError):
                    dvc("queue", "kill", task.revision)
                    told[task.revision] = time.monotonic()
                    stopped[task.revision] = task.name
        if not queued and not running:
            break
        time.sleep(POLL_SECONDS)
    # Not left behind as failed, with the scores of the commit that they started from.
    if ended := [task.revision for task in tasks if task.revision in told and task.state == "Failed"]:
        dvc("queue", "remove", *ended)
    wait_for_workers(polls=1)
    return sorted(stopped.values())


def wait_for_workers(polls: int = 10) -> None:
    """Wait until the workers have stopped, about ten seconds after the queue is empty: a sweep started before that would rely on
    them. After some polls, tell those that missed the signal, unless they have other experiments to run."""
    while True:
        tasks, active, idle = read_queue()
        if active + idle == 0 or any(task.state in ("Queued", "Running") for task in tasks):
            return
        polls -= 1
        if polls <= 0:
            dvc("queue", "stop")
        time.sleep(POLL_SECONDS)


def why_failed(name: str) -> str:
    """Why an experiment failed, in one line: its stage's, or else DVC's, or else the last one of its log."""
    try:
        log = dvc("queue", "logs", name).strip().splitlines() or ["no log"]
    except InputError as error:  # it failed before its first stage
        log = [str(error)]
    reason = next((line for start in ("error: ", "ERROR: ") for line in log if line.startswith(start)), log[-1])
    return f"{name} failed: {reason}; `dvc queue logs {name}` tells more"


def enqueue(name: str, values: dict[str, str], states: dict[str, Task]) -> None:
    """Queue an experiment, unless it is there already; one that failed or was removed is replaced."""
    task = states.get(name)
    if task is not None and task.state in ("Queued", "Running"):
        return
    if task is not None:
        dvc("queue", "remove", task.revision)
    dvc("exp", "run", "--queue", "--name", name, *options(values), show=True)


def run_grid(sweep: str, grid: Sweep, jobs: int) -> dict[str, dict[str, Any]]:
    """Run all combinations that have not finished yet; the values of each experiment by its name."""
    values_of = {f"{sweep}-{i + 1}": values for i, values in enumerate(combinations(grid))}
    there = finished(f"{sweep}-")
    missing = {name: values for name, values in values_of.items() if name not in there}
    if not missing:
        return values_of
    states = {task.name: task for task in read_queue()[0]}

    with stopped_by_interrupt(values_of):
        if len(missing) == len(values_of) > 1 and not states.keys() & missing.keys():
            grid_options = {key: ",".join(map(as_override, values)) for key, values in grid.items()}
            dvc("exp", "run", "--queue", "--name", sweep, *options(grid_options), show=True)
        else:
            for name, values in missing.items():
                enqueue(name, {key: as_override(value) for key, value in values.items()}, states)
        follow(list(missing), len(values_of) - len(missing), len(values_of), jobs, lambda name, succeeded: [])
    return values_of


@contextlib.contextmanager
def stopped_by_interrupt(names: Iterable[str]) -> Iterator[None]:
    """Stop experiments at the first Ctrl-C; at a second one say what goes on."""
    try:
        yield
    except KeyboardInterrupt:
        names = list(names)
        try:
            print("\nstopping the experiments of this sweep …", file=sys.stderr, flush=True)
            stop(names)
        except KeyboardInterrupt:
            goes_on = ", ".join(task.name for task in read_queue()[0] if task.name in names and task.state in ("Queued", "Running"))
            print(f"going on: {goes_on or 'nothing'}; `python -m stages.sweep --stop` stops it", file=sys.stderr, flush=True)
            raise
        print("stopped; the same command goes on with what is missing", file=sys.stderr, flush=True)
        raise


def read_scores(name: str) -> pd.DataFrame:
    """The table metrics/scores.csv of an experiment, by split and score."""
    from dvc.api import DVCFileSystem

    text = DVCFileSystem(".", rev=name).read_text(str(SCORES))
    return pd.read_csv(io.StringIO(text)).set_index(["split", "score"])


def run_search(sweep: str, parameters: Parameters, trials: int, jobs: int) -> dict[str, dict[str, Any]]:
    """Run the trials of a search that have not finished yet; the values of each experiment by its name."""
    from poster_genres.search import Search

    space = {
        key: values if isinstance(values, Range) else [as_override(value) for value in values]
        for key, values in parameters.sweep.items()
    }
    STUDIES.parent.mkdir(parents=True, exist_ok=True)
    search = Search(f"sqlite:///{STUDIES}", sweep, space, parameters.seed, RANDOM_TRIALS)
    states = {task.name: task for task in read_queue()[0]}
    there = finished(f"{sweep}-")
    # Trials that failed before are replaced by others; those that fail now are not, or this might never end.
    last = trials + len(search.failed())
    running: list[int] = []

    def name(trial: int) -> str:
        return f"{sweep}-{trial + 1}"

    def tell(trial: int, succeeded: bool) -> None:
        search.tell(trial, float(read_scores(name(trial)).loc[("validation", OBJECTIVE), "model"]) if succeeded else None)

    def next_ones() -> list[str]:
        """Queue as many trials as there are jobs free."""
        queued = []
        while len(running) < jobs and len(search.trials()) < last:
            trial = search.ask()
            running.append(trial)
            enqueue(name(trial), search.values(trial), states)
            queued.append(name(trial))
        return queued

    def done(ended: str, succeeded: bool) -> list[str]:
        trial = int(ended.rpartition("-")[2]) - 1
        tell(trial, succeeded)
        running.remove(trial)
        return next_ones()

    with stopped_by_interrupt(name(trial) for trial in range(last)):
        # Those that an interrupted search has asked for go on with the same values.
        for trial in search.unfinished():
            if name(trial) in there:
                tell(trial, True)
            else:
                running.append(trial)
                enqueue(name(trial), search.values(trial), states)
        asked = [*map(name, running), *next_ones()]
        if asked:
            follow(asked, len(search.completed()), max(trials, len(search.completed())), jobs, done)
    search.draw(PICTURES / sweep)
    search.log(PICTURES / sweep)
    if search.completed():
        print(f"\nThe search in pictures: {PICTURES / sweep}, and the run {sweep} in MLflow\n")
    return {name(trial): search.values(trial) for trial in search.completed()}


def table_of(values_of: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row per finished experiment: its name, values, and validation scores, macro average precision with its standard error
    by the bootstrap over posters. Test scores are left out: they are for the one that is chosen."""
    rows = []
    there = set(dvc("exp", "list", "--name-only").split())
    for name, values in values_of.items():
        if name in there:
            scores = read_scores(name).loc["validation"]
            best = scores.loc[OBJECTIVE]
            rows.append(
                {"experiment": name}
                | {key: value if isinstance(value, str) else as_override(value) for key, value in values.items()}
                | {
                    "validation macro AP": best["model"],
                    # A 95 % interval is 2 x 1.96 standard errors wide.
                    "±": (best["high"] - best["low"]) / 3.92,
                    "micro AP": scores.loc["micro_average_precision", "model"],
                    "cross-entropy": scores.loc["binary_cross_entropy", "model"],
                }
            )
    return pd.DataFrame(rows)


def report(table: pd.DataFrame, keys: Iterable[str]) -> None:
    """Print the experiments, the best on validation first, and how to apply it."""
    if splitting := [key for key in keys if key in SPLITTING]:
        print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
        changed, first = " or ".join(splitting), table["experiment"][0]
        print(f"\nNo winner: with another {changed} other posters validate. Apply any: dvc exp apply {first}")
        return
    table = table.sort_values("validation macro AP", ascending=False, ignore_index=True, kind="stable")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    winner, scores = table["experiment"][0], table["validation macro AP"]
    if (equal := int((scores == scores[0]).sum())) > 1:  # as where no epoch is better than the linear probe
        print(f"\nNo winner: {equal} are equal on validation. Apply any: dvc exp apply {winner}")
        return
    test = read_scores(winner).loc["test"]
    macro, micro = (test.loc[score] for score in (OBJECTIVE, "micro_average_precision"))
    print(
        f"\nThe winner on test: macro AP {macro['model']:.4f} (prior {macro['prior']:.4f}), micro AP {micro['model']:.4f} "
        f"(prior {micro['prior']:.4f})"
    )
    if len(table) > 1:
        print(ahead_of_second(table["experiment"][1], winner))
    print(f"Apply the winner, the best on validation: dvc exp apply {winner}")


def ahead_of_second(second: str, winner: str) -> str:
    """Whether the best experiment is better than the second beyond chance, on the same validation posters."""
    from stages.compare import compare

    differences, posters, *_ = compare((second, winner), "validation")
    macro = differences.set_index("score").loc[OBJECTIVE]
    said = f"It is {macro['difference']:+.4f} ahead of {second} on {posters} validation posters"
    if math.isnan(macro["low"]):
        return f"{said}, too few to tell whether by chance"
    interval = f"95 % interval {macro['low']:+.4f} to {macro['high']:+.4f}"
    return f"{said} ({interval}): {'beyond chance' if macro['low'] > 0 else 'within chance, so either will do'}"


def main() -> None:
    parser = errors.Parser(
        prog="python -m stages.sweep", description="Run the grid of `sweep:` in params.yaml, or search its ranges."
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many experiments run at once (1)")
    parser.add_argument("--trials", type=int, metavar="N", help="search with so many experiments, not all combinations")
    parser.add_argument("-S", action="append", default=[], metavar="KEY=A,B", help="a key and its values, in place of `sweep:`")
    parser.add_argument("--stop", action="store_true", help="stop all experiments and workers of DVC's queue, and wait for them")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error("--jobs takes a number from 1")
    if arguments.trials is not None and arguments.trials < 1:
        parser.error("--trials takes a number from 1")
    if arguments.stop:
        print(f"stopped: {', '.join(stop()) or 'nothing was running'}")
        return
    # Inherited by the workers. Concurrent trainings that each use all cores are several times slower than one after another.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // arguments.jobs)))
    read_parameters()  # whose message names the line of what is not readable
    content = yaml.safe_load(PARAMETERS.read_text(encoding="utf-8"))
    parameters, sweep = check_sweep(content, read_options(arguments.S), arguments.trials)
    datasets = sweep.get("dataset", [parameters.dataset])
    assert isinstance(datasets, list)
    check_place(datasets)
    name = name_of(parameters, search=arguments.trials is not None)
    if arguments.trials is None:
        values_of, asked = run_grid(name, sweep, arguments.jobs), len(combinations(sweep))
    else:
        values_of, asked = run_search(name, parameters, arguments.trials, arguments.jobs), arguments.trials
    wait_for_workers()
    table = table_of(values_of)
    if table.empty:
        raise InputError("all experiments of the sweep failed")
    report(table, sweep)
    if len(table) < asked:
        raise InputError(f"{asked - len(table)} of {asked} experiments failed")


if __name__ == "__main__":
    errors.run(main)
