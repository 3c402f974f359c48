"""Run a grid of DVC experiments, one for each combination of values in `sweep:` of params.yaml: `python -m stages.sweep --jobs 2`.

Another grid can be given instead: `python -m stages.sweep -S limit=625,1250,3000`.

The experiments are queued and run by these commands, which are printed and also work by hand:
`dvc exp run --queue -S architecture=a,b -S epochs=5,10` and `dvc queue start -j 2`.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from tqdm import tqdm

from poster_genres import errors
from poster_genres.errors import InputError
from poster_genres.parameters import check_parameters, read_parameters

POLL_SECONDS = 2.0
# These change the validation split: scores of experiments that differ in them cannot be compared.
SPLITTING = ("dataset", "metadata", "limit", "validation", "test", "seed")


def dvc(*arguments: str, show: bool = False) -> str:
    """Run a DVC command and return its standard output. If it fails, raise InputError with the first line of its error."""
    if show:
        print(f"> dvc {' '.join(arguments)}", flush=True)
    # Into files: a pipe stays open until the workers that `dvc queue start` leaves behind stop, and if two of them start at the
    # same moment, one may miss the signal to stop (https://github.com/treeverse/dvc-task/issues/73).
    with tempfile.TemporaryDirectory() as folder:
        stdout_path, stderr_path = Path(folder, "stdout"), Path(folder, "stderr")
        with stdout_path.open("wb") as stdout, stderr_path.open("wb") as stderr:
            completed = subprocess.run([sys.executable, "-m", "dvc", *arguments], stdout=stdout, stderr=stderr, check=False)
        output, error_output = (path.read_text(encoding="utf-8") for path in (stdout_path, stderr_path))
    if completed.returncode:
        reason = (error_output or output).strip().splitlines() or ["no reason given"]
        raise InputError(f"dvc {arguments[0]} {arguments[1]}: {reason[0].removeprefix('ERROR: ')}")
    return output


def grid_options(sweep: dict[str, list[Any]]) -> list[str]:
    """The grid as options of `dvc exp run`: `-S architecture=a,b -S epochs=5,10`."""
    return [argument for key, values in sweep.items() for argument in ("-S", f"{key}={','.join(str(value) for value in values)}")]


def read_grid(options: list[str]) -> dict[str, list[Any]]:
    """Parse `-S` options: KEY=A,B gives the values A and B of KEY, parsed as YAML.

    Raises
    ------
    InputError
        An option is not of this form.
    """
    grid = {}
    for option in options:
        key, sign, values = option.partition("=")
        if not (key and sign and all(values.split(","))):
            raise InputError(f"-S {option}: should be a key of params.yaml and its values, as -S epochs=5,10")
        grid[key] = [yaml.safe_load(value) for value in values.split(",")]
    return grid


def check_grid(sweep: dict[str, list[Any]]) -> None:
    """Check all values of the grid before any experiment starts.

    Raises
    ------
    InputError
        A key is not in params.yaml, or a value is not valid for it.
    """
    path = Path("params.yaml")
    for key, values in sweep.items():
        for value in values:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            *sections, last = key.split(".")
            mapping = content
            for section in sections:
                mapping = mapping.get(section) if isinstance(mapping, dict) else None
            if not isinstance(mapping, dict) or last not in mapping:
                raise InputError(f"{path}: sweep: {key!r} is no key of this file")
            mapping[last] = value
            check_parameters(content, path)


def check_history() -> None:
    """Check that DVC can keep the results of queued experiments.

    Raises
    ------
    InputError
        The clone is shallow: DVC would run all experiments, report "Success" and lose their results.
    """
    command = ["git", "rev-parse", "--is-shallow-repository"]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.stdout.strip() == "true":
        raise InputError("this is a shallow clone, in which DVC loses queued experiments; get its history: git fetch --unshallow")


def states(names: list[str]) -> dict[str, str]:
    """Each experiment's state by `dvc queue status`: Queued, Running, Success or Failed."""
    state_of = {}
    for line in dvc("queue", "status").splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[1] in names:
            state_of[fields[1]] = fields[-1]
    return state_of


def wait(names: list[str]) -> list[str]:
    """Show progress until all experiments are done, and return the names of those that failed."""
    with tqdm(total=len(names), desc="sweep", unit=" runs", disable=None) as progress:
        while True:
            state_of = states(names)
            done = [name for name in names if state_of.get(name) in ("Success", "Failed")]
            if len(done) > progress.n:
                if progress.disable:
                    print(f"{len(done)}/{len(names)} runs", flush=True)
                progress.update(len(done) - progress.n)
            if len(done) == len(names):
                return [name for name in names if state_of[name] == "Failed"]
            time.sleep(POLL_SECONDS)


def wait_for_workers() -> None:
    """Wait until the workers stop, about ten seconds after the queue is empty: a sweep started before that would rely on them.
    Give up after ten polls, because they may also have other experiments to run."""
    for _ in range(10):
        if "Worker status: 0 active, 0 idle" in dvc("queue", "status"):
            return
        time.sleep(POLL_SECONDS)


def results(names: list[str], keys: list[str]) -> pd.DataFrame:
    """One row per experiment: name, values of the grid, and scores; best validation score first, or in the order of `names` if
    the experiments' validation splits differ."""
    from dvc.api import exp_show

    rows = []
    for experiment in exp_show():
        if experiment.get("Experiment") in names:
            scores = {
                "validation macro AP": experiment.get("validation.macro_average_precision"),
                "test macro AP": experiment.get("test.macro_average_precision"),
                "test micro AP": experiment.get("test.micro_average_precision"),
            }
            # DVC returns integers as floats.
            settings = {key: f"{value:g}" if isinstance(value := experiment.get(key), float) else value for key in keys}
            rows.append({"experiment": experiment["Experiment"], **settings, **scores})
    if set(keys) & set(SPLITTING):
        return pd.DataFrame(sorted(rows, key=lambda row: names.index(row["experiment"])))
    return pd.DataFrame(rows).sort_values("validation macro AP", ascending=False, ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.sweep", description="Run the grid of `sweep:` in params.yaml.")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many experiments run at once (1)")
    parser.add_argument("-S", action="append", default=[], metavar="KEY=A,B", help="a key and its values, in place of `sweep:`")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error("--jobs takes a number from 1")
    # Inherited by the workers. Concurrent trainings that each use all cores are several times slower than one after another.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // arguments.jobs)))
    sweep = read_grid(arguments.S) or read_parameters().sweep
    check_grid(sweep)
    check_history()
    # Only day and time, because MLflow's UI truncates long run names.
    name = f"sweep-{time.strftime('%d%H%M%S')}"
    dvc("exp", "run", "--queue", "--name", name, *grid_options(sweep), show=True)
    names = [f"{name}-{i + 1}" for i in range(math.prod(len(values) for values in sweep.values()))]
    dvc("queue", "start", "-j", str(arguments.jobs), show=True)
    failed = wait(names)
    wait_for_workers()
    for experiment in failed:
        log = dvc("queue", "logs", experiment).strip().splitlines()
        print(f"{experiment} failed: {log[-1] if log else 'no log'}; `dvc queue logs {experiment}` tells more", file=sys.stderr)
    if len(failed) == len(names):
        raise InputError("all experiments of the sweep failed")
    table = results(names, list(sweep))
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    if splitting := [key for key in sweep if key in SPLITTING]:
        print(f"\nNo winner: with another {' or '.join(splitting)} other posters validate. Apply any: dvc exp apply {names[0]}")
    else:
        print(f"\nApply the winner, the best on validation: dvc exp apply {table['experiment'][0]}")
    if failed:
        raise InputError(f"{len(failed)} of {len(names)} experiments failed")


if __name__ == "__main__":
    errors.run(main)
