"""Work spread over cores and over a real Dask cluster: the same bytes, whoever is lost; and nothing done twice."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from poster_genres import detection, progress
from poster_genres.detection import embed_all, open_store, restore
from poster_genres.errors import InputError
from poster_genres.found import Store
from poster_genres.movies import read_movies
from poster_genres.mpnet import embed
from poster_genres.objects import Detection, read_detections, text_of
from poster_genres.spread import AHEAD, spread
from tests.conftest import ROOT, environment, forget, jpeg, run, set_parameters, stage, wait_until


def test_results_come_in_order_and_few_shards_are_read_ahead() -> None:
    read = 0

    def shards() -> Iterator[int]:
        nonlocal read
        while read < 100:
            read += 1
            yield read

    # The first shards take longest.
    first_may_end = threading.Event()

    def square(shard: int) -> int:
        if shard == 1:
            first_may_end.wait(60)
        if shard == 2:
            first_may_end.set()
        return shard**2

    results = spread(square, shards(), cores=2)
    assert next(results) == 1
    assert read == 2 * AHEAD
    assert list(results) == [shard**2 for shard in range(2, 101)]
    assert list(spread(square, iter([]))) == []


def test_what_fails_on_one_shard_ends_it_all() -> None:
    results = spread(lambda shard: 1 / shard, iter([1, 2, 0, 4]), cores=2)
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_terminal_shows_a_bar_at_once_but_not_of_work_within_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.progress("networks", 3, leave=False) as bar:
        bar.update(3)
    for total in (0, 1):
        with progress.progress("sentences", total) as bar:
            bar.update(total)
    assert terminal.getvalue() == ""
    with progress.progress("predict", 3) as bar:
        assert "predict:   0%" in terminal.getvalue()
        bar.update(3)
    assert re.search(r"predict: 100%.*3/3 \[.*\]\n$", terminal.getvalue())


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.progress("lettering", 300) as bar:
        for _ in range(300):
            now += 0.5
            bar.update()
    assert capsys.readouterr().err == "lettering: 120 of 300 posters, 01:30 left\nlettering: 240 of 300 posters, 00:30 left\n"


def test_what_an_earlier_run_has_done_tells_nothing_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.progress("predict", 4000) as bar:
        progress.resume(bar, 3000)
        for _ in range(12):
            now += 5
            bar.update()
    assert capsys.readouterr().err == "predict: 3012 of 4000 posters, 1:22:20 left\n"
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.progress("predict", 4000) as bar:
        progress.resume(bar, 3000)
        assert isinstance(bar, tqdm)
        assert (bar.n, bar.format_dict["initial"]) == (3000, 3000)


class Counting:
    """A detector that finds as many objects as it has seen posters."""

    version, classes, parallel, packages = "1", ["thing"], False, ()

    def __init__(self) -> None:
        self.seen = 0

    def detect(self, images: list[Image.Image]) -> list[list[Detection]]:
        self.seen += len(images)
        return [[Detection("thing", 0.5, 0.0, 0.0, 1.0, 1.0)] for _ in images]


def test_a_poster_that_was_seen_before_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Counting()
    monkeypatch.setattr(detection, "open_detector", lambda name: detector)
    (tmp_path / ".dvc").mkdir()
    store = open_store(tmp_path)
    assert store is not None
    first, second, third = (jpeg((90, 90, 90), seed) for seed in range(3))
    thing = [Detection("thing", 0.5, 0.0, 0.0, 1.0, 1.0)]
    for parallel, new in ((False, third), (True, jpeg((90, 90, 90), 3))):
        detector.parallel = parallel
        assert list(detection.detect("counting", [first, b"", second], store)) == [thing, "empty file", thing]
        before = detector.seen
        again = [new, second, b"", first, first]
        assert list(detection.detect("counting", again, store)) == [thing, thing, "empty file", thing, thing]
        assert detector.seen == before + 1
    # Another version may find others.
    detector.version = "2"
    assert len(list(detection.detect("counting", [first, second], store))) == 2
    assert detector.seen == before + 3
    assert open_store(tmp_path / "no project") is None


def test_predict_reads_no_poster_twice(project: Path) -> None:
    set_parameters(project, architecture="two_stream/residual")
    posters = [project / "data" / "posters" / f"m00{i}.jpg" for i in range(3)]
    model = ("--model", ROOT / "models" / "real_posters.pt", "--json")
    first = stage("predict", *posters[:2], *model, cwd=project).stdout
    store = project / ".dvc" / "tmp" / "detections.db"
    with sqlite3.connect(store) as connection:
        assert connection.execute("SELECT count(*) FROM found WHERE detector LIKE 'lettering%'").fetchone() == (2,)
    # Were they read again, these words would not be there.
    say(project, "HAUNTED BLOOD KILLER")
    again = stage("predict", *posters[:2], *model, cwd=project).stdout
    assert again != first
    forget(project)
    assert stage("predict", *posters[:2], *model, cwd=project).stdout == first


def say(project: Path, words: str) -> None:
    """Let the store tell that these are the words on each poster, and a smaller line."""
    with sqlite3.connect(project / ".dvc" / "tmp" / "detections.db") as connection:
        found = json.dumps([["lettering", 0.9, 0, 0, 1, height, text] for height, text in ((0.5, words), (0.1, "a film"))])
        connection.execute("UPDATE found SET objects = ? WHERE detector LIKE 'lettering%'", (found,))


def test_a_clone_with_the_same_remote_reads_new_posters_only(repository: Path, tmp_path: Path) -> None:
    set_parameters(repository, architecture="two_stream/residual")
    run("dvc", "repro", "detect", cwd=repository)
    before = len(read_movies(repository / "data" / "movies.csv"))
    # Were they read again, these words would not be there.
    say(repository, "HAUNTED")
    run("dvc", "repro", "-f", "-s", "detect", cwd=repository)
    run("dvc", "remote", "add", "-d", "storage", tmp_path / "storage", cwd=repository)
    run("dvc", "push", cwd=repository)
    run("git", "add", "-A", cwd=repository)
    run("git", "commit", "-qm", "A remote", cwd=repository)
    clone = tmp_path / "clone"
    run("git", "clone", "-q", repository, clone, cwd=tmp_path)
    set_parameters(clone, limit=70)
    said = run("dvc", "repro", "detect", cwd=clone).stderr
    # Each poster's detections, and the meanings of the text and the title that are on all.
    assert f"{before + 2} detections and texts' meanings of the last run are taken over from DVC" in said.splitlines()
    movies = read_movies(clone / "data" / "movies.csv")
    found = read_detections(clone / "data" / "detections", list(movies["id"])).posters
    assert before < len(movies)
    assert sum(text_of(poster.objects) == "HAUNTED\na film" for poster in found) == before

    # And so does `predict` of a clone that only pulled.
    other = tmp_path / "other"
    run("git", "clone", "-q", repository, other, cwd=tmp_path)
    run("dvc", "pull", cwd=other)
    model = ("--model", ROOT / "models" / "real_posters.pt", "--json")
    poster = next(path for path in sorted((other / "data" / "sample").rglob("*.jpg")) if path.stem in set(movies["id"]))
    haunted = stage("predict", poster, *model, cwd=other).stdout
    forget(other)
    assert stage("predict", poster, *model, cwd=other).stdout != haunted
    # What was found before titles were seen apart is taken over as well.
    shutil.copytree(repository / "data", tmp_path / "data")
    older = tmp_path / "older"
    shutil.copytree(repository / "data", older)
    (older / "detections" / "titles.npy").unlink()
    sources = json.loads((older / "sources.json").read_text(encoding="utf-8"))
    del sources["files"]["titles.npy"]
    (older / "sources.json").write_text(json.dumps(sources), encoding="utf-8")
    assert restore(older, Store(tmp_path / "older.db")) == before + 1
    # What does not fit together is not.
    objects = tmp_path / "data" / "detections" / "objects.csv"
    for content in (objects.read_bytes().replace(b"HAUNTED", b"CURSED"), b""):
        objects.write_bytes(content)
        store = Store(tmp_path / "some.db", partial(restore, tmp_path / "data"))
        assert store.get("0", "lettering") is None
        assert store._run("SELECT count(*) FROM found") == [(0,)]


def test_sentences_are_the_same_by_one_core() -> None:
    texts = ["THE GREAT MOVIE", "", "in a world\nwhere nobody laughs", "word " * 300]
    for text, alone in zip(texts, embed_all(texts), strict=True):
        np.testing.assert_allclose(alone, embed(text), atol=1e-5)


@pytest.fixture
def dask_cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A real Dask scheduler and two workers on loopback, each a process: the address and the workers."""
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> subprocess.Popen[bytes]:
            # In the project's folder, so that workers find its code.
            process = subprocess.Popen([sys.executable, "-m", "dask", *words], cwd=ROOT)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        described = tmp_path / "scheduler.json"
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(described))
        workers = [
            start("worker", "--scheduler-file", str(described), "--nthreads", "1", "--no-nanny", "--no-dashboard") for _ in "ab"
        ]

        def address_of() -> str:
            # The file is there before all of it is written.
            with contextlib.suppress(OSError, ValueError):
                return str(json.loads(described.read_text(encoding="utf-8"))["address"])
            return ""

        wait_until(address_of)
        address = address_of()
        with Client(address) as client:
            client.wait_for_workers(2, timeout=120)
        yield address, workers


def test_a_dask_cluster_makes_the_same_cache_though_a_worker_is_killed(
    project: Path, dask_cluster: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, workers = dask_cluster
    folder = project / "data" / "posters"
    genres = pd.read_csv(folder / "movies.csv")
    for i in range(300):  # large ones, so that each shard takes a while
        large = Image.new("RGB", (1200, 800), (i % 256, 90, i // 2))
        large.putpixel((0, 0), (i % 256, i // 256, 0))
        large.save(folder / f"n{i:03}.png", compress_level=1)
    more = pd.DataFrame({"Id": [f"n{i:03}" for i in range(300)], "Genre": ["Comedy", "Horror"] * 150})
    pd.concat([genres, more]).to_csv(folder / "movies.csv", index=False)
    set_parameters(project, limit=1000)
    stage("join", cwd=project)
    stage("cache", cwd=project)
    cache = project / "data" / "cache"
    local = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert len(local) == 4

    set_parameters(project, dask_scheduler=address)
    command = [sys.executable, "-m", "stages.cache"]
    running = subprocess.Popen(
        command, cwd=project, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    # A shard that is being written bears the number of its writer.
    part = project / "data" / f".cache.{running.pid}.part"
    wait_until(lambda: all(list(part.glob(f".*.{worker.pid}.part")) for worker in workers))
    workers[0].kill()
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert workers[1].poll() is None
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == local
    assert not part.exists()


def test_a_dask_cluster_finds_the_same_words_though_a_worker_is_killed(
    project: Path, dask_cluster: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, workers = dask_cluster
    font = ImageFont.load_default(28)
    # A few posters with words, which take longer; on the others there is nothing.
    for i, path in enumerate(sorted((project / "data" / "posters").glob("*.jpg"))[::10]):
        poster = Image.new("RGB", (300, 450), (20, i, 60))
        ImageDraw.Draw(poster).text((30, 330), f"THE MOVIE {i}", fill="white", font=font)
        poster.save(path)
    set_parameters(project, architecture="two_stream/residual", detectors=["lettering"])
    stage("join", cwd=project)
    stage("detect", cwd=project)
    folder, store = project / "data" / "detections", project / ".dvc" / "tmp" / "detections.db"
    local = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert local["objects.csv"].count(b"MOVIE") == 8
    forget(project)

    set_parameters(project, dask_scheduler=address)
    command = [sys.executable, "-m", "stages.detect"]
    running = subprocess.Popen(
        command, cwd=project, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )

    def stored() -> int:
        with contextlib.suppress(sqlite3.OperationalError), sqlite3.connect(store) as connection:
            return int(connection.execute("SELECT count(*) FROM found").fetchone()[0])
        return 0

    wait_until(lambda: stored() >= 10)
    workers[0].kill()
    assert stored() < 80
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert workers[1].poll() is None
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == local

    # `predict` of many posters asks the cluster too, which has one worker left.
    some = project / "some"
    some.mkdir()
    for path in sorted((project / "data" / "posters").glob("*.jpg"))[:24]:
        path.rename(some / path.name)
    predict = ("predict", "some", "--model", ROOT / "models" / "real_posters.pt")
    forget(project)
    stage(*predict, "--csv", "cluster.csv", cwd=project)
    workers[1].kill()
    set_parameters(project, dask_scheduler=None)
    forget(project)
    stage(*predict, "--csv", "local.csv", cwd=project)
    assert (project / "cluster.csv").read_bytes() == (project / "local.csv").read_bytes()
    forget(project)
    set_parameters(project, dask_scheduler="tcp://127.0.0.1:9")
    refused = stage(*predict, cwd=project, fails=True).stderr.splitlines()[-1]
    assert refused == "error: params.yaml: dask_scheduler: no scheduler answers at tcp://127.0.0.1:9"


def test_a_lost_scheduler_and_work_that_ends_its_workers_are_said(
    dask_cluster: tuple[str, list[subprocess.Popen[bytes]]],
) -> None:
    address, _ = dask_cluster

    def fragile(dask_scheduler: Any) -> int:
        dask_scheduler.allowed_failures = 0
        return os.getpid()

    with Client(address) as client:
        scheduler = client.run_on_scheduler(fragile)
    with pytest.raises(InputError) as ended:
        list(spread(os._exit, iter([1]), address))
    assert str(ended.value) == (
        f"params.yaml: dask_scheduler: some posters ended several workers of {address}, as too little memory does; "
        "the workers' output may tell why"
    )
    results = spread(time.sleep, iter([0.1] * 100), address)
    next(results)
    os.kill(scheduler, signal.SIGKILL)
    with pytest.raises(InputError) as lost:
        list(results)
    assert str(lost.value) == f"params.yaml: dask_scheduler: the scheduler at {address} was lost; start it again"


def test_a_dask_cluster_computes_the_same_features_though_a_worker_is_killed(
    cached: Path, dask_cluster: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, workers = dask_cluster
    model = cached / "models" / "model.pt"
    set_parameters(cached, architecture="efficientnet_lite0", epochs=1)
    stage("train", cwd=cached)
    local = model.read_bytes()
    model.unlink()
    set_parameters(cached, dask_scheduler=address)
    command = [sys.executable, "-m", "stages.train"]
    running = subprocess.Popen(command, cwd=cached, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    # The network is there; the workers make theirs.
    assert "posters to train" in running.stdout.readline()
    with Client(address) as client:
        wait_until(lambda: all(client.processing().values()))
    workers[0].kill()
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert workers[1].poll() is None
    assert model.read_bytes() == local


def test_a_dask_scheduler_that_does_not_answer(project: Path) -> None:
    stage("join", cwd=project)
    set_parameters(project, dask_scheduler="tcp://127.0.0.1:9")
    assert "dask_scheduler: no scheduler answers at tcp://127.0.0.1:9" in stage("cache", cwd=project, fails=True).stderr
