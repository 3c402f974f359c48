"""How long a newcomer waits: `dvc repro` on the sample in a fresh clone, by stage, beside the import of the largest packages.

Run: `python -m benchmarks.first_look [--runs 3]`. It is the committed project that is measured. Linux and macOS.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.pipeline import ROOT, environment, machine

IMPORTS = "import torch, mlflow, sklearn"


def seconds_of_imports() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - start


def seconds_by_stage() -> dict[str, float]:
    """The seconds of each stage, and those of all of `dvc repro`, in a fresh clone."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "project"
        subprocess.run(["git", "clone", "-q", "--no-local", ROOT, folder], check=True)
        (folder / ".dvc" / "config.local").write_text(f"[core]\n    site_cache_dir = {temporary}/dvc\n", encoding="utf-8")
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
    ends = [*list(stages.values())[1:], end]
    return {name: after - begin for (name, begin), after in zip(stages.items(), ends, strict=True)} | {"all": end - start}


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
