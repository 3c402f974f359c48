"""Run a grid of experiments, each combination of what `sweep:` in params.yaml lists: `python -m stages.sweep --jobs 2`.

Another grid can be given in its place: `python -m stages.sweep -S limit=625,1250,3000`.

The experiments are DVC's, queued and run by these commands, which are printed and work by hand as well:
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
# With another value of these, other posters validate, and scores on them tell nothing about which model is better.
SPLITTING = ("dataset", "metadata", "limit", "validation", "test", "seed")


def dvc(*arguments: str, show: bool = False) -> str:
    """Run a DVC command and give what it printed."""
    if show:
        print(f"> dvc {' '.join(arguments)}", flush=True)
    # Into files: a pipe would end only with the workers that `dvc queue start` leaves behind, and where two of them start in the
    # same moment, one may miss the word to end (https://github.com/treeverse/dvc-task/issues/73).
    with tempfile.TemporaryDirectory() as folder:
        output, complaints = Path(folder, "output"), Path(folder, "complaints")
        with output.open("wb") as stdout, complaints.open("wb") as stderr:
            done = subprocess.run([sys.executable, "-m", "dvc", *arguments], stdout=stdout, stderr=stderr, check=False)
        printed, complained = (file.read_text(encoding="utf-8") for file in (output, complaints))
    if done.returncode:
        reason = (complained or printed).strip().splitlines() or ["no reason given"]
        raise InputError(f"dvc {arguments[0]} {arguments[1]}: {reason[0].removeprefix('ERROR: ')}")
    return printed


def grid_options(sweep: dict[str, list[Any]]) -> list[str]:
    """The grid as options of `dvc exp run`: `-S architecture=a,b -S epochs=5,10`."""
    return [word for key, values in sweep.items() for word in ("-S", f"{key}={','.join(str(value) for value in values)}")]


def read_grid(options: list[str]) -> dict[str, list[Any]]:
    """The grid that `-S` options spell: KEY=A,B to the values A and B of KEY, as YAML reads them.

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
    """See that each value would be accepted, before an experiment fails on it.

    Raises
    ------
    InputError
        A key is not in params.yaml, or a value is wrong for it.
    """
    path = Path("params.yaml")
    for key, values in sweep.items():
        for value in values:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            *sections, last = key.split(".")
            place = content
            for section in sections:
                place = place.get(section) if isinstance(place, dict) else None
            if not isinstance(place, dict) or last not in place:
                raise InputError(f"{path}: sweep: {key!r} is no key of this file")
            place[last] = value
            check_parameters(content, path)


def check_history() -> None:
    """See that DVC can keep what queued experiments find.

    Raises
    ------
    InputError
        The project was cloned without its history: DVC would run everything, say "Success", and lose it all.
    """
    command = ["git", "rev-parse", "--is-shallow-repository"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stdout.strip() == "true":
        raise InputError("this is a shallow clone, in which DVC loses queued experiments; get its history: git fetch --unshallow")


def states(names: list[str]) -> dict[str, str]:
    """Each experiment's state by `dvc queue status`: Queued, Running, Success or Failed."""
    found = {}
    for line in dvc("queue", "status").splitlines():
        words = line.split()
        if len(words) > 2 and words[1] in names:
            found[words[1]] = words[-1]
    return found


def wait(names: list[str]) -> list[str]:
    """Show progress until all experiments are done. The names of those that failed."""
    with tqdm(total=len(names), desc="sweep", unit=" runs", disable=None) as progress:
        while True:
            found = states(names)
            done = [name for name in names if found.get(name) in ("Success", "Failed")]
            if len(done) > progress.n:
                if progress.disable:
                    print(f"{len(done)}/{len(names)} runs", flush=True)
                progress.update(len(done) - progress.n)
            if len(done) == len(names):
                return [name for name in names if found[name] == "Failed"]
            time.sleep(POLL_SECONDS)


def wait_for_workers() -> None:
    """Give the workers time to end, which they do some ten seconds after the queue is empty: the next sweep, started meanwhile,
    would count on them. Not for good: they may have experiments of others to run, too."""
    for _ in range(10):
        if "Worker status: 0 active, 0 idle" in dvc("queue", "status"):
            return
        time.sleep(POLL_SECONDS)


def results(names: list[str], keys: list[str]) -> pd.DataFrame:
    """A row an experiment: its name, what the grid set, and its scores; the best by validation first, or in the order of `names`
    where each has validation posters of its own."""
    from dvc.api import exp_show

    rows = []
    for experiment in exp_show():
        if experiment.get("Experiment") in names:
            scores = {
                "validation macro AP": experiment.get("validation.macro_average_precision"),
                "test macro AP": experiment.get("test.macro_average_precision"),
                "test micro AP": experiment.get("test.micro_average_precision"),
            }
            # DVC gives whole numbers as floats.
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
    # The workers inherit this. Trainings that each take all cores at once are several times slower than in turns.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // arguments.jobs)))
    sweep = read_grid(arguments.S) or read_parameters().sweep
    check_grid(sweep)
    check_history()
    # Short, as MLflow's pages show but the beginning of a run's name: the day and the time.
    name = f"sweep-{time.strftime('%d%H%M%S')}"
    dvc("exp", "run", "--queue", "--name", name, *grid_options(sweep), show=True)
    names = [f"{name}-{i + 1}" for i in range(math.prod(len(values) for values in sweep.values()))]
    dvc("queue", "start", "-j", str(arguments.jobs), show=True)
    failed = wait(names)
    wait_for_workers()
    for one in failed:
        log = dvc("queue", "logs", one).strip().splitlines()
        print(f"{one} failed: {log[-1] if log else 'no log'}; `dvc queue logs {one}` tells more", file=sys.stderr)
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
