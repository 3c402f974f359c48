"""How long a newcomer waits: `dvc repro` on the sample in a fresh clone, by stage, and then for the genres of a poster, beside the
import of the largest packages.

Run: `python -m benchmarks.first_look [--runs 3]`. It is the committed project that is measured. Linux and macOS.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.pipeline import environment, machine, project_clone, run_quietly
from poster_genres.model import seal

IMPORTS = "import torch, mlflow, sklearn"


def seconds_of_imports() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - start


def seconds_by_stage() -> dict[str, float]:
    """The seconds of each stage, of all of `dvc repro`, and of `predict`, in a fresh clone."""
    with project_clone() as folder:
        start = time.perf_counter()
        process = subprocess.Popen(
            ["dvc", "repro"], cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        stages: dict[str, float] = {}
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"Running stage '(\w+)'", line):
                stages[found[1]] = time.perf_counter()
        if process.wait():
            sys.exit("dvc repro failed")
        end = time.perf_counter()
        poster = next((folder / "data" / "sample" / "posters").rglob("*.jpg"))
        predictions = {
            "predict, with words": run_quietly(["-m", "stages.predict", str(poster)], folder),
            "predict, with words, and --explain": run_quietly(["-m", "stages.predict", str(poster), "--explain", "a.png"], folder),
        }
        without_words(folder)
        predictions["predict, without words"] = run_quietly(["-m", "stages.predict", str(poster)], folder)
    ends = [*list(stages.values())[1:], end]
    seconds = {name: after - begin for (name, begin), after in zip(stages.items(), ends, strict=True)}
    return seconds | {"all": end - start} | predictions


def without_words(folder: Path) -> None:
    """Make the model in a project's folder one that sees pixels only."""
    path = folder / "models" / "model.pt"
    content = torch.load(path, weights_only=True)
    fusion = content["fusion"]
    kept = [i for i, part in enumerate(fusion["parts"]) if part in ("networks", "probe")]
    fusion |= {"parts": [fusion["parts"][i] for i in kept], "matrices": fusion["matrices"][kept]}
    path.unlink()  # DVC may have linked it to its cache
    torch.save(content | {"architecture": "efficientnet_lite1", "words": None, "detectors": {}}, path)
    seal(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="How long `dvc repro` on the sample takes.")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    runs, imports = [], []
    for _ in range(arguments.runs):
        imports.append(seconds_of_imports())
        runs.append(seconds_by_stage())
    print(f"{machine()}; medians of {arguments.runs}\n\n| | seconds |\n| --- | --- |")
    for name in runs[0]:
        print(f"| {name} | {median(run[name] for run in runs):.1f} |")
    print(f"| `{IMPORTS}` | {median(imports):.1f} |")
    ratios = [run["all"] / each for run, each in zip(runs, imports, strict=True)]
    print(f"\nall of it is {median(ratios):.1f} times the imports")


if __name__ == "__main__":
    main()
