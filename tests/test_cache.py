"""The tensor cache: aligned with its movies, whole or absent, honest about what was left out."""

import json
from pathlib import Path

import numpy as np
import pytest

from poster_genres.cached import read_cache
from poster_genres.errors import InputError
from poster_genres.posters import load_poster
from tests.conftest import set_parameters, stage


def test_rows_are_the_posters_in_the_tables_order(project: Path) -> None:
    set_parameters(project, image_height=36, image_width=32)
    stage("join", cwd=project)
    stage("cache", cwd=project)
    posters, movies = read_cache(project / "data" / "cache")
    assert posters.shape == (len(movies), 36, 32, 3)
    assert isinstance(posters, np.memmap)
    for row in (0, 7, len(movies) - 1):
        expected = load_poster(project / "data" / "posters", "", movies["poster"][row], 36, 32)
        assert (posters[row] == expected).all()


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
    assert (posters[row] == load_poster(folder, "", "m005.jpg", 80, 80)).all()
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
    np.save(cache / "posters.npy", np.zeros((3, 80, 80, 3), np.uint8))
    with pytest.raises(InputError, match="does not belong to"):
        read_cache(cache)
    (cache / "posters.npy").write_bytes(b"no tensor")
    with pytest.raises(InputError, match="damaged"):
        read_cache(cache)
    (cache / "posters.npy").unlink()
    with pytest.raises(InputError, match="not there yet"):
        read_cache(cache)
