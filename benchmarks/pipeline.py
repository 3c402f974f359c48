"""What benchmarks share: a temporary copy of the project to run stages in, and what each run costs."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from poster_genres.architectures import image_stream

ROOT = Path(__file__).resolve().parent.parent
DATASET = ROOT.parent / "shared" / "movie-posters"
# Height and width of the posters that networks see which learn from nothing; the tutorial's as in the tutorial.
SIZES = {"tutorial": (200, 200), "alexnet": (160, 112), "residual": (160, 112)}


@contextmanager
def project_copy() -> Iterator[Path]:
    """A temporary folder with the project's code and parameters, in which stages run without touching the project."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("stages", "poster_genres"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "params.yaml", folder)
        yield folder


def set_parameters(folder: Path, **parameters: object) -> None:
    """The project's params.yaml with these values, written to the copy in `folder`."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")) | parameters
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def size_of(architecture: str) -> dict[str, int]:
    """The size of the posters that a network is measured with, as keys of params.yaml."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    height, width = SIZES.get(image_stream(architecture), (values["image_height"], values["image_width"]))
    return {"image_height": height, "image_width": width}


def run_python(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Run Python with these arguments. Its seconds, all imports included, and its peak memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"python {' '.join(arguments)} failed")
    kilobytes = usage.ru_maxrss / (1024 if platform.system() == "Darwin" else 1)
    return time.perf_counter() - start, kilobytes / 1024


def machine() -> str:
    """One line on where and when a benchmark ran."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
