"""The tensor cache: aligned with its movies, whole or absent, honest about what was left out."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from PIL import Image

from poster_genres.errors import InputError
from poster_genres.posters import load_poster
from poster_genres.tensor_cache import CachedPosters, read_cache
from stages.cache import MAX_SHARDS, MIN_SHARD, choose_size, shard_size
from tests.conftest import ROOT, environment, set_parameters, stage, wait_until


def test_rows_are_the_posters_in_the_tables_order(project: Path) -> None:
    set_parameters(project, image_height=36, image_width=32)
    stage("join", cwd=project)
    stage("cache", cwd=project)
    posters, movies = read_cache(project / "data" / "cache")
    assert posters.shape == (len(movies), 36, 32, 3)
    for row in (0, 7, len(movies) - 1):
        expected = load_poster(project / "data" / "posters", "", movies["poster"][row], 36, 32, "bicubic")
        assert (posters[row] == expected).all()


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(300, 442)] * 3 + [(40, 20)], (320, 224)),  # width and height of most posters; height and width of the cache
        ([(3000, 4420)], (320, 224)),
        ([(500, 500)], (272, 272)),
        ([(640, 360)], (208, 352)),
        ([(112, 160)], (160, 112)),
        ([(20, 30)], (160, 112)),  # not smaller, as networks need some pixels
        ([(1000, 10)], (80, 1344)),  # nor narrower
        ([], (320, 224)),  # none can be read
    ],
)
def test_the_size_is_that_of_most_posters(tmp_path: Path, sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    for i, size in enumerate(sizes):
        Image.new("RGB", size).save(tmp_path / f"{i}.jpg")
    (tmp_path / f"{len(sizes)}.jpg").write_text("no picture", encoding="utf-8")
    movies = pd.DataFrame({"archive": "", "poster": [f"{i}.jpg" for i in range(len(sizes) + 1)]})
    assert choose_size(tmp_path, movies) == expected


def test_turned_posters_count_as_they_are_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (442, 300)).save(tmp_path / "0.jpg", exif=exif)
    assert choose_size(tmp_path, pd.DataFrame({"archive": "", "poster": ["0.jpg"]})) == (320, 224)


def test_many_shards_are_read_as_one_array(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (23, 4, 3, 3), np.uint8)
    paths = [tmp_path / f"{i}.npy" for i in range(5)]
    for path, (start, end) in zip(paths, ((0, 9), (9, 9), (9, 10), (10, 22), (22, 23)), strict=True):
        np.save(path, whole[start:end])
    posters = CachedPosters(paths)
    assert posters.shape == whole.shape
    for rows in (0, 9, 22, np.int64(10), slice(None), slice(5, 12), np.array([22, 0, 9, 9, 21, 10]), np.array([], int)):
        assert (posters[rows] == whole[rows]).all(), rows
        assert posters[rows].shape == whole[rows].shape


def test_the_number_of_shards_is_bounded() -> None:
    assert shard_size(1) == shard_size(4000) == MIN_SHARD
    for posters in (100_000, 1_000_001):
        assert posters / shard_size(posters) <= MAX_SHARDS


@pytest.fixture
def dask_cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A real Dask scheduler and two workers on loopback, each a process: the address and the workers."""
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> subprocess.Popen[bytes]:
            # In the project's folder, as README says, so that workers find its code.
            process = subprocess.Popen([sys.executable, "-m", "dask", *words], cwd=ROOT)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        described = tmp_path / "scheduler.json"
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(described))
        workers = [
            start("worker", "--scheduler-file", str(described), "--nthreads", "1", "--no-nanny", "--no-dashboard") for _ in "ab"
        ]
        wait_until(described.is_file)
        address = json.loads(described.read_text(encoding="utf-8"))["address"]
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


def test_a_dask_scheduler_that_does_not_answer(project: Path) -> None:
    stage("join", cwd=project)
    set_parameters(project, dask_scheduler="tcp://127.0.0.1:9")
    assert "dask_scheduler: no scheduler answers at tcp://127.0.0.1:9" in stage("cache", cwd=project, fails=True).stderr


def test_unreadable_posters_are_left_out_and_listed(project: Path) -> None:
    stage("join", cwd=project)
    folder = project / "data" / "posters"
    (folder / "m002.jpg").write_bytes(b"")
    (folder / "m003.jpg").write_bytes(b"text")
    (folder / "m004.jpg").unlink()
    set_parameters(project, max_unreadable=0.1)
    stage("cache", cwd=project)
    posters, movies = read_cache(project / "data" / "cache")
    assert len(posters) == len(movies)
    assert not {"m002", "m003", "m004"} & set(movies["id"])
    row = movies.index[movies["id"] == "m005"][0]
    assert (posters[row] == load_poster(folder, "", "m005.jpg", 80, 80, "bicubic")).all()
    counts = json.loads((project / "metrics" / "cache.json").read_text(encoding="utf-8"))
    assert counts["left_out"] == {"m002.jpg": "empty file", "m003.jpg": "not an image", "m004.jpg": "missing file"}
    assert (counts["posters"], counts["unreadable"]) == (len(movies), 3)
    assert counts["reasons"] == {"empty file": 1, "missing file": 1, "not an image": 1}


def test_too_many_unreadable_posters_stop_the_stage_and_nothing_is_lost(project: Path) -> None:
    stage("join", cwd=project)
    stage("cache", cwd=project)
    cache = project / "data" / "cache"
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    for i in range(1, 80, 4):
        (project / "data" / "posters" / f"m{i:03}.jpg").write_bytes(b"")
    error = stage("cache", cwd=project, fails=True).stderr
    assert "m001.jpg (empty file)" in error
    assert "more than `max_unreadable` (0.05) allows" in error
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before


def test_a_cache_that_does_not_fit_its_table_is_refused(project: Path) -> None:
    stage("join", cwd=project)
    stage("cache", cwd=project)
    cache = project / "data" / "cache"
    shard = cache / "posters-000.npy"
    np.save(shard, np.zeros((3, 80, 80, 3), np.uint8))
    with pytest.raises(InputError, match="do not belong to"):
        read_cache(cache)
    np.save(cache / "posters-001.npy", np.zeros((3, 80, 79, 3), np.uint8))
    with pytest.raises(InputError, match=r"posters-001.npy: of another size than .*posters-000.npy"):
        read_cache(cache)
    for damage in (b"no tensor", shard.read_bytes()[:-1]):
        shard.write_bytes(damage)
        with pytest.raises(InputError, match=r"posters-000.npy: damaged"):
            read_cache(cache)
    shard.unlink()
    (cache / "posters-001.npy").unlink()
    with pytest.raises(InputError, match="not there yet"):
        read_cache(cache)
