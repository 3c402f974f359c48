"""What tracking costs: the train stage with MLflow and without, in turns, by ratio.

Run: `python -m benchmarks.tracking [DATASET] [--rounds 2]`, by default the tutorial's network for 10 epochs at 200 x 200 on
../shared/movie-posters, with a local SQLite store. Works in a temporary copy of the project; Linux and macOS.
"""

import argparse
import json
import statistics
from pathlib import Path

from benchmarks.pipeline import DATASET, machine, project_copy, run_python, set_parameters

# The first counts the seconds that calls into MLflow take, its import included; the second leaves them out.
WITH = """
import time
from poster_genres.tracking import Tracking
attempt, spent = Tracking.attempt, []
def timed(self, action):
    start = time.perf_counter()
    try:
        return attempt(self, action)
    finally:
        spent.append(time.perf_counter() - start)
Tracking.attempt = timed
from stages.train import main
main()
import pathlib
pathlib.Path("spent.txt").write_text(str(sum(spent)))
"""
WITHOUT = """
from poster_genres.tracking import Tracking
Tracking.attempt = lambda self, action: None
from stages.train import main
main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="What tracking costs the train stage.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--architecture", default="tutorial")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2, help="how often each of both is run (2)")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {"with": [], "without": [], "in MLflow": []}
    with project_copy() as folder:
        size = {"image_height": 200, "image_width": 200} if arguments.architecture == "tutorial" else {}
        chosen = {"architecture": arguments.architecture, "epochs": arguments.epochs}
        set_parameters(folder, dataset=str(arguments.dataset.resolve()), **chosen, **size)
        run_python(["-m", "stages.join"], folder)
        run_python(["-m", "stages.cache"], folder)
        # Making the store is the first run's matter; all later ones find it there.
        run_python(["-c", "from poster_genres.tracking import connect; connect()"], folder)
        for i in range(arguments.rounds):
            # First one, then the other: a machine that becomes slower must not favour either.
            for name, program in list({"with": WITH, "without": WITHOUT}.items())[:: (1, -1)[i % 2]]:
                seconds[name].append(run_python(["-c", program], folder)[0])
            seconds["in MLflow"].append(float((folder / "spent.txt").read_text(encoding="utf-8")))
    means = {name: statistics.mean(values) for name, values in seconds.items()}
    print(f"\n{machine()}: train, {arguments.architecture}, {arguments.epochs} epochs, means of {arguments.rounds}")
    print("| with MLflow | without | ratio | in calls into MLflow, its import included | their share |")
    print("| --- | --- | --- | --- | --- |")
    print(
        f"| {means['with']:.1f} s | {means['without']:.1f} s | {means['with'] / means['without']:.3f} | "
        f"{means['in MLflow']:.1f} s | {means['in MLflow'] / means['with']:.1%} |"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(seconds, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
