"""Decode and resize each poster once, into one tensor that training maps into memory.

In: data/movies.csv and the posters of `dataset`. Out: data/cache/posters.npy, uint8 (movies, height, width, 3), and
data/cache/movies.csv, the same movies in the same order; metrics/cache.json. Run: `python -m stages.cache`.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from poster_genres import errors
from poster_genres.errors import InputError
from poster_genres.files import whole_file, write_json
from poster_genres.movies import SPLITS, read_movies, write_movies
from poster_genres.parameters import read_parameters
from poster_genres.posters import Unreadable, load_poster

CHUNK = 64

Chunk = list[tuple[np.ndarray | None, str]]


def load_chunk(dataset: Path, places: list[tuple[str, str]], height: int, width: int) -> Chunk:
    """Load posters. For each: its pixels and "", or None and the reason why it cannot be used."""
    loaded: Chunk = []
    for archive, path in places:
        try:
            loaded.append((load_poster(dataset, archive, path, height, width), ""))
        except Unreadable as error:
            loaded.append((None, str(error)))
    return loaded


def load_chunks(dataset: Path, movies: pd.DataFrame, height: int, width: int) -> Iterator[Chunk]:
    """Load the posters of all movies in their order, on all cores, a few chunks ahead of the reader."""
    places = list(zip(movies["archive"], movies["poster"], strict=True))
    chunks = [places[i : i + CHUNK] for i in range(0, len(places), CHUNK)]
    # Threads: Pillow decodes and resizes without holding Python's lock, and nothing has to be copied between processes.
    parallel = Parallel(n_jobs=-1, backend="threading", return_as="generator", pre_dispatch="2*n_jobs")
    yield from parallel(delayed(load_chunk)(dataset, chunk, height, width) for chunk in chunks)


def write_cache(
    dataset: Path, movies: pd.DataFrame, height: int, width: int, max_unreadable: float, folder: Path
) -> dict[str, Any]:
    """Write the tensor and its movies to `folder`.

    Posters that cannot be used are left out of both.

    Returns
    -------
    The counts and reasons for metrics/cache.json.

    Raises
    ------
    InputError
        More than the share `max_unreadable` of the posters cannot be used, or the movies of a whole split.
    """
    reasons: list[str] = []
    with whole_file(folder / "posters.npy") as temporary:
        with temporary.open("wb") as file, tqdm(total=len(movies), desc="cache", unit=" posters", disable=None) as progress:
            _write_header(file, (len(movies), height, width, 3))
            for chunk in load_chunks(dataset, movies, height, width):
                for pixels, reason in chunk:
                    reasons.append(reason)
                    if pixels is not None:
                        file.write(pixels.data)
                progress.update(len(chunk))
            readable = np.array([not reason for reason in reasons])
            # The header has the same length for any number of posters: it is padded.
            file.seek(0)
            _write_header(file, (int(readable.sum()), height, width, 3))
        unreadable = movies[~readable].assign(reason=[reason for reason in reasons if reason])
        names = [f"{row.archive}/{row.poster}".lstrip("/") for row in unreadable.itertuples()]
        if len(unreadable) > max_unreadable * len(movies):
            some = ", ".join(f"{name} ({reason})" for name, reason in zip(names[:3], unreadable["reason"], strict=False))
            raise InputError(
                f"{dataset}: {len(unreadable)} of {len(movies)} posters cannot be read, more than `max_unreadable` "
                f"({max_unreadable:g}) allows: {some}{', …' if len(names) > 3 else ''}"
            )
        kept = movies[readable]
        for split in SPLITS:
            if not (kept["split"] == split).any():
                raise InputError(f"{dataset}: no poster of the {split} split can be read; repair posters or add movies")
    write_movies(kept, folder / "movies.csv")
    return {
        "posters": len(kept),
        "height": height,
        "width": width,
        "unreadable": len(unreadable),
        "reasons": dict(sorted(Counter(unreadable["reason"]).items())),
        "left_out": dict(zip(names, unreadable["reason"], strict=True)),
    }


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def main() -> None:
    parameters = read_parameters()
    movies = read_movies(Path("data/movies.csv"))
    counts = write_cache(
        Path(parameters.dataset),
        movies,
        parameters.image_height,
        parameters.image_width,
        parameters.max_unreadable,
        Path("data/cache"),
    )
    write_json(Path("metrics/cache.json"), counts)
    print(f"{counts['posters']} posters of {counts['height']} x {counts['width']} pixels, {counts['unreadable']} left out")


if __name__ == "__main__":
    errors.run(main)
