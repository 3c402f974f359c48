"""Every block of commands in README and docs, typed from top to bottom in a copy of the project with small settings."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from poster_genres.parameters import read_parameters
from tests.conftest import ROOT, environment, make_dataset, run, serving, set_parameters
from tests.test_onnx import NAMES, Network

PAGES = ("README.md", "data/detectors/README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
# Commands that are run elsewhere, or need what no test has; none may be here that is on no page.
ELSEWHERE = {
    "python3 -m venv": "CI runs README's two commands word for word",
    "pip install": "needs the internet",
    "mkdir data/movie-posters": "test_the_authors_archives_are_downloaded_and_used_as_they_are",
    "dvc import-url https://www.cs.ccu.edu.tw": "the same",
    'git add data && git commit -m "Add the posters of Chu and Guo"': "the same",
    "dvc exp run -S dataset=data/movie-posters": "the same",
    "python -m stages.export": "test_export.py",
    "python export/predict.py": "the same",
    "mlflow server --host 0.0.0.0": "test_two_people_train_at_once_with_a_server_on_postgresql",
    "export MLFLOW_TRACKING_URI": "the same",
    "python -m dask scheduler": "test_spread.py, with a scheduler and two workers",
    "python -m dask worker": "the same",
    "dvc exp run -S dask_scheduler": "the same",
    "torchrun": "test_train.py, with two processes",
    "dvc commit -f train": "the same",
}


def blocks(page: str) -> list[str]:
    """The commands of a page's blocks, in order, each on one line."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```", text, re.S | re.M) for line in block.splitlines()]
    return [line for line in (re.sub(r"\s{2,}#.*", "", line).strip() for line in lines) if line]


def elsewhere(command: str) -> bool:
    return any(command.startswith(beginning) for beginning in ELSEWHERE)


def test_only_what_must_be_is_run_elsewhere() -> None:
    commands = [command for page in PAGES for command in blocks(page)]
    assert len(commands) > 20
    assert all(any(command.startswith(beginning) for command in commands) for beginning in ELSEWHERE)


def in_shell(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pages() -> list[Any]:
    """The pages with commands to run; weekly those whose experiments are like other tests'."""
    found = [page for page in PAGES if any(not elsewhere(command) for command in blocks(page))]
    return [page if page in ("README.md", "docs/serving.md") else pytest.param(page, marks=pytest.mark.long) for page in found]


@pytest.mark.parametrize("page", pages())
def test_the_commands_of_a_page_work_in_order(page: str, repository: Path, tmp_path: Path) -> None:
    # What is on these posters is given, as reading it takes a second a poster.
    dataset = make_dataset(tmp_path / "posters")
    rows = [f"m{i:03},{'dog' if i % 2 else 'cat'},0.9,0.1,0.1,0.5,0.5," for i in range(80)]
    (dataset / "detections.csv").write_text("\n".join(["id,label,confidence,left,top,width,height,text", *rows]), encoding="utf-8")
    detector = Network("yolox", metadata=NAMES).write(tmp_path / "NAME.onnx")
    remote = tmp_path / "remote.git"
    run("git", "init", "-q", "--bare", remote, cwd=tmp_path)
    run("git", "remote", "add", "origin", remote, cwd=repository)
    run("git", "config", "push.autoSetupRemote", "true", cwd=repository)
    if "/path/to/posters" not in "\n".join(blocks(page)):
        shutil.copytree(dataset, repository / "data" / "own")
        set_parameters(repository, dataset="data/own")
        run("dvc", "add", "data/own", cwd=repository)
        if "yolox_nano" in "\n".join(blocks(page)):
            (repository / "data" / "own" / "detections.csv").unlink()
            run("dvc", "add", "data/own", cwd=repository)
            shutil.copy(detector, repository / "data" / "detectors" / "yolox_nano.onnx")
            set_parameters(repository, architecture="two_stream/residual")
            run("dvc", "add", "data/detectors/yolox_nano.onnx", cwd=repository)
        run("git", "add", "-A", cwd=repository)
        run("git", "commit", "-qm", "Small settings", cwd=repository)
    small = {
        "/path/to/posters": shlex.quote(str(dataset)),
        "/path/to/NAME.onnx": shlex.quote(str(detector)),
        "s3://bucket/movie-genres": shlex.quote(str(tmp_path / "bucket")),
        "image_height=200 -S image_width=200": "image_height=80 -S image_width=80",
        "image_height=auto -S image_width=auto": "image_height=96 -S image_width=64",
        "[lettering, onnx": "[onnx",
        "epochs=5,10": "epochs=1",
        "poster.jpg": shlex.quote(str(dataset / "m000.jpg")),
    }
    with ExitStack() as servers:
        for typed in blocks(page):
            if elsewhere(typed):
                continue
            pattern = "|".join(map(re.escape, small))
            command = re.sub(pattern, lambda found: small[found.group()], typed)
            if command.startswith("mlflow models serve"):
                # In this environment instead of a new one, which takes minutes.
                words = shlex.split(command.replace("--env-manager uv", "--env-manager local").replace("5001", "{port}"))
                small["http://127.0.0.1:5001"], _ = servers.enter_context(serving(*words, cwd=repository, healthy="/ping"))
                continue
            output = in_shell(command, repository)
            if command.endswith("-S dataset=data/posters"):
                assert pd.read_csv(repository / "data" / "movies.csv")["id"].str.fullmatch(r"m\d{3}").all()
                assert read_parameters(repository / "params.yaml").dataset == "data/posters"
            if "/invocations" in command:
                (answer,) = json.loads(output)["predictions"]
                assert answer["error"] is None
                assert set(answer["probabilities"]) == {"Comedy", "Drama", "Horror"}
            if "dvc queue start" in command:
                deadline = time.monotonic() + 400
                while not re.search(r"0 active, 0 idle", in_shell("dvc queue status", repository)):
                    assert time.monotonic() < deadline
                    time.sleep(2)
                assert in_shell("dvc queue status", repository).count("Success") == 2


@pytest.mark.long
def test_the_commands_of_readmes_table_work_in_order(repository: Path) -> None:
    set_parameters(repository, sweep={"epochs": [1, 2]})
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| command | what happens |")[2].partition("\n\n")[0]
    commands = re.findall(r"^\| `([^`]+)` \|", table, re.M)
    assert len(commands) == 5
    run("git", "commit", "-qam", "Small settings", cwd=repository)
    for command in commands:
        if command == "mlflow ui":
            with serving(sys.executable, "-m", "mlflow", "ui", "--port", "{port}", cwd=repository, healthy="/health"):
                continue
        output = in_shell(command.replace("epochs=50", "epochs=2"), repository)
        if "exp show" in command:
            assert "validation.macro_AP" in output
