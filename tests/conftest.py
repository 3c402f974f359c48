"""What several tests need: small data sets, a project folder to run real commands in, and the real posters where they are."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before torch is imported, and for all commands that tests run: what they train is tiny, and several tests run at once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import fsspec
import numpy as np
import pytest
import yaml
from filelock import FileLock
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from poster_genres.detection import with_embeddings
from poster_genres.objects import Detection, PosterDetections

ROOT = Path(__file__).resolve().parent.parent
REAL_POSTERS = ROOT.parent / "shared" / "movie-posters"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# For the person who wants to see what the test saw.
SCREENSHOTS = ROOT / "build" / "screenshots"

# Training takes seconds with these, whatever the data.
QUICK = {"architecture": "residual", "epochs": 1, "image_height": 80, "image_width": 80, "limit": 60, "batch_size": 16}

# Of the fixture `make_once`: a name, and what makes the folder of that name.
MakeOnce = Callable[[str, Callable[[Path], object]], Path]


def jpeg(color: tuple[int, int, int], seed: int = 0) -> bytes:
    """A small noisy poster of mostly one colour."""
    noise = np.random.default_rng(seed).normal(0, 20, (60, 40, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def make_dataset(folder: Path, movies: int = 80) -> Path:
    """A data set that can be learned in an epoch or two: dark posters are Horror, bright ones Comedy, half of both Drama."""
    folder.mkdir(parents=True)
    rows = ["Id,Genre"]
    for i in range(movies):
        genre = ("Comedy", "Horror")[i % 2]
        genres = f"{genre}, Drama" if i % 4 < 2 else genre
        (folder / f"m{i:03}.jpg").write_bytes(jpeg((220, 210, 180) if genre == "Comedy" else (40, 20, 20), i))
        rows.append(f'm{i:03},"{genres}"')
    (folder / "movies.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def set_parameters(folder: Path, **values: object) -> None:
    """Change keys of a folder's params.yaml."""
    path = folder / "params.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(content | values, sort_keys=False), encoding="utf-8")


def run(*command: str | Path, cwd: Path, fails: bool = False, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run a command and see that it succeeds, or with `fails` that it does not."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout, check=False)
    assert (done.returncode != 0) == fails, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def stage(name: str, *arguments: str | Path, cwd: Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `python -m stages.NAME`. A failure must be one clear line with exit code 1."""
    done = run(sys.executable, "-m", f"stages.{name}", *arguments, cwd=cwd, fails=fails)
    if fails:
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: "), done.stderr
    return done


def environment() -> dict[str, str]:
    """The environment that the tests run in, as after its activation."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until a condition holds; it is an error when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def serving(*command: str | Path, cwd: Path, healthy: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a command that serves HTTP on the port `{port}`, chosen here, until the end; its address, once `healthy` answers."""
    port = free_port()
    words = [str(word).replace("{port}", str(port)) for word in command]
    log = cwd / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(words, cwd=cwd, env=environment(), stdout=output, stderr=output, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(address + healthy, timeout=2)
                break
            except OSError:
                assert process.poll() is None, log.read_text(encoding="utf-8")
                assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
                time.sleep(0.3)
        yield address, process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def s3_server(folder: Path) -> Iterator[tuple[dict[str, str], subprocess.Popen[bytes]]]:
    """A real S3 server on loopback with an empty bucket `posters`, and the environment in which programs find it."""
    with serving("moto_server", "-H", "127.0.0.1", "-p", "{port}", cwd=folder, healthy="/moto-api/") as (address, process):
        keys = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        request = urllib.request.Request(f"{address}/posters", method="PUT")
        urllib.request.urlopen(request, timeout=60).close()
        yield keys | {"AWS_ENDPOINT_URL": address}, process


@pytest.fixture
def bucket(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Any, subprocess.Popen[bytes]]]:
    """A real S3 server on loopback with an empty bucket s3://posters, which all programs find: its files, and its process."""
    with s3_server(tmp_path_factory.mktemp("s3")) as (variables, process):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield fsspec.filesystem("s3", skip_instance_cache=True), process


def with_sentences(found: list[list[Detection]]) -> list[PosterDetections]:
    """The objects on each of some posters, and what the words among them, and the largest of these, mean."""
    return list(with_embeddings(found))


def forget(project: Path) -> None:
    """Remove what was found on posters: in the store, and what would fill it."""
    for name in (".dvc/tmp/detections.db", "data/sources.json"):
        (project / name).unlink(missing_ok=True)


def copy_project(folder: Path) -> Path:
    """The project's tracked and new files, without what runs have made."""
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as fast what neither runs stages nor was marked as slow: `pytest -m fast`."""
    of_stages = {"project", "cached", "finished", "with_experiment", "real_posters"}
    for item in items:
        if of_stages.isdisjoint(getattr(item, "fixturenames", ())) and not item.get_closest_marker("slow"):
            item.add_marker("fast")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, up to four: most tests wait for programs that start, and three keep two cores busy."""
    return min(4, (os.cpu_count() or 1) + 1)


def make_project(folder: Path, **parameters: object) -> Path:
    """A copy of the project with a small data set in data/posters, quick parameters, and no Git."""
    copy_project(folder)
    make_dataset(folder / "data" / "posters")
    set_parameters(folder, dataset="data/posters", **(QUICK | parameters))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Such a project, to change."""
    return make_project(tmp_path / "project")


@pytest.fixture
def cached(make_once: MakeOnce, tmp_path: Path) -> Path:
    """Such a project that is ready to train, to change."""

    def make(folder: Path) -> None:
        make_project(folder)
        for name in ("join", "cache"):
            stage(name, cwd=folder)

    return shutil.copytree(make_once("cached", make), tmp_path / "project", symlinks=True)


def make_repository(folder: Path, **parameters: object) -> Path:
    """A copy of the project in a Git and DVC repository of its own, all committed."""
    copy_project(folder)
    set_parameters(folder, **(QUICK | parameters))
    run("git", "init", "-q", cwd=folder)
    run("git", "config", "user.name", "A tester", cwd=folder)
    run("git", "config", "user.email", "tester@example.com", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    run("git", "commit", "-qm", "Start", cwd=folder)
    return folder


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> MakeOnce:
    """A function that makes a folder of a name for all tests, which are not to change it.

    The processes that share out the tests (pytest-xdist) have a folder each below one; the first to come makes it for all.
    """
    own = tmp_path_factory.getbasetemp()

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder = (own if worker_id == "master" else own.parent) / name
        with FileLock(folder.with_suffix(".lock")):
            if not folder.with_suffix(".done").exists():
                make(folder)
                folder.with_suffix(".done").touch()
        return folder

    return made


@pytest.fixture(scope="session")
def finished(make_once: MakeOnce) -> Path:
    """A repository in which `dvc repro` has run on the sample, committed as a user would. Not to be changed."""

    def make(folder: Path) -> None:
        make_repository(folder)
        run("dvc", "repro", cwd=folder)
        run("git", "add", "-A", cwd=folder)
        run("git", "commit", "-qm", "First results", cwd=folder)

    return make_once("finished", make)


@pytest.fixture
def repository(finished: Path, tmp_path: Path) -> Path:
    """A copy of that repository, to change, without an MLflow store."""
    folder = shutil.copytree(finished, tmp_path / "repository", symlinks=True)
    (folder / "mlflow.db").unlink()
    shutil.rmtree(folder / "mlartifacts")
    return folder


EXPERIMENT = ("-S", "architecture=tutorial", "-S", "epochs=2", "-S", "learning_rate=0.00001")


@pytest.fixture(scope="session")
def with_experiment(finished: Path, make_once: MakeOnce) -> Path:
    """That repository after EXPERIMENT, named `two-epochs`; what DVC said is in .dvc/tmp/said.txt. Not to be changed."""

    def make(folder: Path) -> None:
        shutil.copytree(finished, folder, symlinks=True)
        said = run("dvc", "exp", "run", "-n", "two-epochs", *EXPERIMENT, cwd=folder).stdout
        (folder / ".dvc" / "tmp" / "said.txt").write_text(said, encoding="utf-8")

    return make_once("with_experiment", make)


@pytest.fixture
def experimented(with_experiment: Path, tmp_path: Path) -> Path:
    """A copy of that repository, to change."""
    return shutil.copytree(with_experiment, tmp_path / "repository", symlinks=True)


@pytest.fixture(scope="session")
def real_posters() -> Path:
    """The folder of real posters beside the project."""
    if not REAL_POSTERS.is_dir():
        pytest.skip("the real posters (../shared/movie-posters) are not on this machine")
    return REAL_POSTERS


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a browser that talks to nobody but this machine."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser on this machine ({', '.join(BROWSERS)}): `apt-get install chromium` on Debian")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu", *quiet])
        page = browser.new_page(viewport={"width": 1500, "height": 1300})
        page.set_default_timeout(60_000)
        yield page
        browser.close()
