"""What DVC and start-up cost, for the tutorial's network at 200 x 200, in a fresh clone after one `dvc repro`.

Run: `python -m benchmarks.overhead [DATASET] [--limit 3000] [--epochs 5]`, by default on ../shared/movie-posters, or the sample
if that does not exist. It prints four tables:

- `dvc repro` with nothing to do, compared with `dvc status`, in turns;
- the time from `dvc exp run -S epochs=1 -S learning_rate=…` to the first training step, which is when the epoch's line was printed
  less `seconds` of metrics/history.csv; saving the epoch, some hundredths of a second, is therefore counted as start-up;
- `python -m stages.sweep --jobs 2` over 8 learning rates, until all results are available, compared with the same trainings in a
  bare loop in one process, in turns. The sweep's runs also evaluate and log to MLflow;
- the import times of each stage, and of the packages that take most of them.

All times include Python's start. Linux and macOS.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.pipeline import DATASET, commit, environment, machine, project_clone, run_python, run_quietly, size_of

ARCHITECTURE = "tutorial"
RUNS, JOBS = 8, 2
IMPORTED = ("torch", "mlflow", "pandas", "sklearn.metrics", "dvc.cli", "dvc.repo")
BARE_LOOP = """
import sys
from pathlib import Path
from poster_genres.tensor_cache import read_cache
from poster_genres.devices import prepare
from poster_genres.movies import genres_of, labels_of
from poster_genres.parameters import TrainParameters, read_parameters
from poster_genres.training import Training
from stages.train import new_model

posters, movies = read_cache(Path("data/cache"))
labels, splits = labels_of(movies), movies["split"].to_numpy(str)
device = prepare()
for rate in sys.argv[1].split(","):
    parameters = read_parameters().used_by(TrainParameters)
    parameters = parameters.model_copy(update={"recipe": parameters.recipe.model_copy(update={"learning_rate": float(rate)})})
    model = new_model(parameters, genres_of(movies), posters.shape, labels[splits == "train"].mean(axis=0), device)
    training = Training(model, posters, labels, splits, parameters.recipe, device)
    for _ in range(training.recipe.epochs):
        row = training.run_epoch()
    training.finish()
    print(f"{rate}: {training.best_loss():.4f}", flush=True)
"""


def reset(folder: Path) -> None:
    """Restore the committed state, and wait for DVC's workers of an earlier sweep, so that the next does not rely on them."""
    subprocess.run(["git", "checkout", "-q", "."], cwd=folder, check=True)
    run_quietly(["-m", "dvc", "checkout", "-q"], folder)
    status = [sys.executable, "-m", "dvc", "queue", "status"]
    while "0 active, 0 idle" not in subprocess.run(status, cwd=folder, capture_output=True, text=True, check=True).stdout:
        time.sleep(1)


def time_first_step(rate: str, folder: Path) -> dict[str, float]:
    """Run an experiment of one epoch, and return the seconds until the stage `train` started, until the network was built after all
    imports and reading, and until the first training step began."""
    moments: dict[str, float] = {}
    log = []
    start = time.perf_counter()
    command = [sys.executable, "-m", "dvc", "exp", "run", "-S", "epochs=1", "-S", f"learning_rate={rate}"]
    # Unbuffered, so that each line arrives when it is printed; the stage inherits DVC's standard output.
    process = subprocess.Popen(
        command, cwd=folder, env=environment() | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        log.append(line)
        for moment, beginning in (("stage", "Running stage 'train'"), ("network", f"{ARCHITECTURE}: "), ("step", "epoch   1/1")):
            if line.startswith(beginning):
                moments[moment] = time.perf_counter() - start
    if process.wait() or len(moments) < 3:
        sys.exit(f"{' '.join(command)} failed\n{''.join(log)}")
    with (folder / "metrics" / "history.csv").open(encoding="utf-8") as file:
        moments["step"] -= float(next(csv.DictReader(file))["seconds"])
    print(f"first step after {moments['step']:.2f} s", flush=True)
    return moments


def measure(folder: Path, rounds: int, sweeps: int) -> dict[str, dict[str, list[float]]]:
    """All measurements in seconds, by table and name."""
    found: dict[str, dict[str, list[float]]] = {"nothing to do": {}, "first step": {}, "sweep": {}, "imports": {}}

    def note(table: str, name: str, seconds: float) -> None:
        found[table].setdefault(name, []).append(seconds)

    for i in range(rounds + 2):
        for name in ("repro", "status") if i % 2 else ("status", "repro"):
            note("nothing to do", name, run_quietly(["-m", "dvc", name], folder))
    stages = sorted(path.stem for path in (folder / "stages").glob("*.py") if path.stem != "__init__")
    for _ in range(rounds):
        note("imports", "Python alone", run_python(["-c", ""], folder)[0])
        for name in (*(f"stages.{stage}" for stage in stages), *IMPORTED):
            note("imports", name, run_python(["-c", f"import {name}"], folder)[0])
    # New learning rates each time, so that DVC has no cached run of them.
    rates = (f"{0.001 + i * 1e-5:.5f}" for i in range(1, 1000))
    for _ in range(rounds):
        reset(folder)
        for moment, seconds in time_first_step(next(rates), folder).items():
            note("first step", moment, seconds)
    for _ in range(sweeps):
        reset(folder)
        some = ",".join(next(rates) for _ in range(RUNS))
        note("sweep", "bare loop", run_python(["-c", BARE_LOOP, some], folder)[0])
        note("sweep", "sweep", run_quietly(["-m", "stages.sweep", "--jobs", str(JOBS), "-S", f"learning_rate={some}"], folder))
    reset(folder)
    return found


def print_tables(found: dict[str, dict[str, list[float]]]) -> None:
    """Print Markdown tables of medians."""
    nothing, first, sweep, imports = ({k: statistics.median(v) for k, v in table.items()} for table in found.values())
    print("\n| `dvc repro`, nothing to do | `dvc status` | ratio |\n| --- | --- | --- |")
    print(f"| {nothing['repro']:.2f} s | {nothing['status']:.2f} s | {nothing['repro'] / nothing['status']:.2f} |")
    stage, network, step = (first[moment] for moment in ("stage", "network", "step"))
    print("\n| DVC, until train starts | until the network is there | until the first step | in all |")
    print("|" + " --- |" * 4)
    print(f"| {stage:.2f} s | {network - stage:.2f} s | {step - network:.2f} s | {step:.2f} s |")
    if sweep:
        print(f"\n| sweep of {RUNS}, {JOBS} at once | bare loop | ratio |\n| --- | --- | --- |")
        print(f"| {sweep['sweep']:.1f} s | {sweep['bare loop']:.1f} s | {sweep['sweep'] / sweep['bare loop']:.2f} |")
    print("\n| import | seconds |\n| --- | --- |")
    for name, seconds in imports.items():
        print(f"| {name} | {seconds:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="What DVC and start-up cost.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET if DATASET.is_dir() else None)
    parser.add_argument("--limit", type=int, default=3000, help="movies to train and validate on (3000)")
    parser.add_argument("--epochs", type=int, default=5, help="of each training of the sweep (5)")
    parser.add_argument("--rounds", type=int, default=3, help="of each experiment; two more of `dvc repro` and `dvc status` (3)")
    parser.add_argument("--sweeps", type=int, default=1, help="(1; 0 leaves them out)")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    arguments = parser.parse_args()
    dataset = "data/sample" if arguments.dataset is None else str(arguments.dataset.resolve())
    size = {"architecture": ARCHITECTURE, "limit": arguments.limit, "epochs": arguments.epochs, **size_of(ARCHITECTURE)}
    with project_clone(dataset=dataset, **size) as folder:
        print(f"dvc repro: {run_quietly(['-m', 'dvc', 'repro'], folder):.1f} s", flush=True)
        commit(folder)
        found = measure(folder, arguments.rounds, arguments.sweeps)
    print(f"\n{machine()}: {ARCHITECTURE} on {dataset}, limit {arguments.limit}, sweeps of {arguments.epochs} epochs")
    print_tables(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
