"""Shared by the benchmarks: temporary copies of the project to run stages in, and the time and memory of each run."""

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import yaml

from poster_genres.architectures import image_stream

ROOT = Path(__file__).resolve().parent.parent
DATASET = ROOT.parent / "shared" / "movie-posters"
# Height and width of posters for networks trained from scratch; the tutorial's as in the tutorial.
SIZES = {"tutorial": (200, 200), "alexnet": (160, 112), "residual": (160, 112)}


@contextmanager
def project_copy() -> Iterator[Path]:
    """A temporary folder with the project's code and parameters, in which stages run without changing the project. It includes the
    project's stored detections, because reading the words on a few thousand posters takes minutes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("stages", "poster_genres"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "params.yaml", folder)
        detections = Path(".dvc") / "tmp" / "detections.db"
        if (ROOT / detections).is_file():
            (folder / detections).parent.mkdir(parents=True)
            shutil.copy(ROOT / detections, folder / detections)
        yield folder


@contextmanager
def project_clone(**parameters: object) -> Iterator[Path]:
    """A temporary clone of the project as committed, with these parameters, also committed, in which DVC runs as for a user."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "project"
        subprocess.run(["git", "clone", "-q", "--no-local", ROOT, folder], check=True)
        set_parameters(folder, **parameters)
        # DVC's cache of file hashes is deleted with the clone.
        (folder / ".dvc" / "config.local").write_text(f"[core]\n    site_cache_dir = {temporary}/dvc\n", encoding="utf-8")
        for key, value in {"user.name": "A benchmark", "user.email": "benchmark@example.com"}.items():
            subprocess.run(["git", "config", key, value], cwd=folder, check=True)
        commit(folder)
        yield folder


def commit(folder: Path) -> None:
    """Commit all changes in a clone."""
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "-qm", "Benchmark"], cwd=folder, check=True)


def set_parameters(folder: Path, **parameters: object) -> None:
    """Write the project's params.yaml with these values to the copy in `folder`."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")) | parameters
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def size_of(architecture: str) -> dict[str, int]:
    """The poster size for measuring an architecture, as keys of params.yaml."""
    height, width = SIZES.get(image_stream(architecture), (320, 224))
    return {"image_height": height, "image_width": width}


def run_python(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Run Python with these arguments, and return its seconds, imports included, and its peak memory in MB."""
    return run([sys.executable, *arguments], folder)


def run(command: list[str], folder: Path, output: IO[str] | None = None) -> tuple[float, float]:
    """Run a command as in the activated virtual environment. Return its seconds, and the peak memory in MB of the largest process:
    the command's own, or one that it or its children waited for, as DVC waits for its stages."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output)
    # `ru_maxrss` includes the largest peak of all descendants that were waited for.
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    kilobytes = usage.ru_maxrss / (1024 if platform.system() == "Darwin" else 1)
    return time.perf_counter() - start, kilobytes / 1024


def environment() -> dict[str, str]:
    """The environment as in the activated virtual environment, for commands that start `python` and `dvc` by name."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run_quietly(arguments: list[str], folder: Path) -> float:
    """Run Python with these arguments, show its output only if it fails, and return its seconds, imports included."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"python {' '.join(arguments)} failed\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


def machine() -> str:
    """One line that describes the machine and the date of a benchmark."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
