"""The tensor cache: aligned with its movies, whole or absent, honest about what was left out."""

import json
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from poster_genres import errors, posters
from poster_genres.errors import InputError
from poster_genres.movies import read_movies
from poster_genres.posters import load_poster
from poster_genres.tensor_cache import CachedPosters, read_cache
from stages import cache
from stages.cache import MAX_SHARDS, MIN_SHARD, choose_size, shard_size
from tests.conftest import set_parameters, stage


def test_rows_are_the_posters_in_the_tables_order(project: Path) -> None:
    set_parameters(project, image_height=36, image_width=32)
    stage("join", cwd=project)
    stage("cache", cwd=project)
    posters, movies = read_cache(project / "data" / "cache")
    assert posters.shape == (len(movies), 36, 32, 3)
    for row in (0, 7, len(movies) - 1):
        expected = load_poster(project / "data" / "posters", "", movies["poster"][row], 36, 32, "bicubic")
        assert (posters[row] == expected).all()
    rows = posters[:9]
    mask = np.arange(len(movies)) % 3 == 0
    for some in (-1, slice(2, 9, 3), slice(None, None, -1), np.flatnonzero(mask), mask, [5, 0]):
        assert np.array_equal(posters[some], np.stack(list(posters[: len(movies)]))[some])
    assert np.array_equal(rows[-1], posters[8])


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
    for name in ("0.jpg", "0.png", "0.webp", "0.tiff"):
        Image.new("RGB", (442, 300)).save(tmp_path / name, exif=exif)
        assert choose_size(tmp_path, pd.DataFrame({"archive": "", "poster": [name]})) == (320, 224)


def test_shards_on_the_disk_of_a_worker_are_missed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage("join", cwd=project)
    movies = read_movies(project / "data" / "movies.csv")
    # A worker that has done its work, on another disk.
    monkeypatch.setattr(cache, "spread", lambda function, tasks, _: ([""] * len(places) for places, _ in tasks))
    folder = project / "data" / "cache"
    with pytest.raises(InputError) as refused:
        cache.write_cache(project / "data" / "posters", movies, 36, 32, "bicubic", 0.0, folder, "tcp://127.0.0.1:8786")
    assert str(refused.value) == (
        f"params.yaml: dask_scheduler: 1 of 1 parts of {folder} are on the disks of workers; `cache` needs this folder at the same "
        "path on all machines, on a disk that they share"
    )
    assert not folder.exists()


def test_decoding_ends_with_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (40, 60)).save(tmp_path / "0.png")
    seen = []

    def load(*_: object) -> np.ndarray:
        seen.append(1)
        errors._interrupted.append(signal.SIGINT)
        return np.zeros((36, 32, 3), np.uint8)

    monkeypatch.setattr(errors, "_interrupted", [])
    monkeypatch.setattr(posters, "load_poster", load)
    with pytest.raises(KeyboardInterrupt):
        posters.decode_shard(tmp_path, 36, 32, "bicubic", ([("", "0.png")] * 9, tmp_path / "shard.npy"))
    assert len(seen) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png"]


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
    for number in (100_000, 1_000_001):
        assert number / shard_size(number) <= MAX_SHARDS


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
