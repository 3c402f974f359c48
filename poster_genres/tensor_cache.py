"""The cached posters: shards of one tensor, posters-000.npy and so on, and movies.csv with a row per poster in the same order."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from poster_genres.errors import InputError
from poster_genres.files import whole_file
from poster_genres.movies import read_movies


def shard_name(number: int) -> str:
    """The file name of a shard; names sort like the numbers."""
    return f"posters-{number:03}.npy"


def write_shard(path: Path, posters: Iterable[np.ndarray], max_posters: int, height: int, width: int) -> None:
    """Write posters one by one to a file in NumPy's format, version 1.0, which appears when it is complete.

    Parameters
    ----------
    posters : uint8 (height, width, 3) each
    max_posters : an upper bound of their number
    """
    with whole_file(path) as temporary, temporary.open("wb") as file:
        _write_header(file, (max_posters, height, width, 3))
        number = 0
        for number, poster in enumerate(posters, start=1):  # noqa: B007  # used after the loop
            file.write(poster.data)
        # NumPy pads the header, so that its length is the same for any smaller number of posters.
        file.seek(0)
        _write_header(file, (number, height, width, 3))


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


class CachedPosters:
    """The cached posters as one array uint8 (N, height, width, 3), of which only the requested rows are read.

    `posters[rows]` copies one poster, a slice or an array of rows, as a NumPy array does. Files are not memory-mapped, as mapped
    pages count as the process's memory; the next epoch finds them in the system's page cache.

    Raises
    ------
    InputError
        A shard is damaged, or its posters have another size than the first shard's.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._files = [path.open("rb", buffering=0) for path in paths]
        lengths: list[int] = []
        for path, file in zip(paths, self._files, strict=True):
            try:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError("of another version")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            except ValueError:
                raise InputError(f"{path}: damaged; remove it, and `dvc repro` makes it again") from None
            self._start = file.tell()
            size = int(np.prod(shape))
            if dtype != np.uint8 or len(shape) != 4 or path.stat().st_size != self._start + size:
                raise InputError(f"{path}: damaged; remove it, and `dvc repro` makes it again")
            if lengths and shape[1:] != self.shape[1:]:
                raise InputError(f"{path}: of another size than {paths[0]}; remove both, and `dvc repro` makes them again")
            self.shape: tuple[int, ...] = shape
            lengths.append(shape[0])
        self._ends = np.cumsum(lengths)
        self.shape = (int(self._ends[-1]), *self.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        rows = np.arange(len(self))[rows]  # negative numbers, slices and masks, too
        if np.ndim(rows) == 0:
            return self[[rows]][0]
        posters = np.empty((len(rows), *self.shape[1:]), np.uint8)
        shards = np.searchsorted(self._ends, rows, side="right")
        for poster, row, shard in zip(posters, rows, shards, strict=True):
            first = self._ends[shard - 1] if shard else 0
            self._files[shard].seek(self._start + int(row - first) * poster.size)
            self._files[shard].readinto(poster.data)
        return posters


Posters = np.ndarray | CachedPosters
"""uint8 (N, height, width, 3), in memory or in the cache; `posters[rows]` is a NumPy array of both, and both have `shape`."""


def read_cache(folder: Path) -> tuple[CachedPosters, pd.DataFrame]:
    """Read the cached posters and their movies.

    Returns
    -------
    The posters, uint8 (movies, height, width, 3); and the table of `poster_genres.movies`, one row per poster in the same order.

    Raises
    ------
    InputError
        They are missing, or do not belong together.
    """
    paths = sorted(folder.glob("posters-*.npy"))
    if not paths:
        raise InputError(f"{folder}/posters-000.npy: not there yet; `dvc repro` makes it")
    posters, movies = CachedPosters(paths), read_movies(folder / "movies.csv")
    if len(posters) != len(movies):
        raise InputError(f"{folder}: its posters do not belong to its movies.csv; remove it, and `dvc repro` makes it again")
    return posters, movies
