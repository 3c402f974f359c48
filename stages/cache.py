"""Decode and resize each poster once, into shards of one tensor.

In: data/movies.csv and the posters of `dataset`. Out, in data/cache: posters-000.npy and so on, uint8 (posters, height, width, 3),
and movies.csv, the same movies in the same order; metrics/cache.json. Run: `python -m stages.cache`.
"""

from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from poster_genres import errors
from poster_genres.errors import InputError
from poster_genres.files import whole_folder, write_json
from poster_genres.movies import SPLITS, read_movies, write_movies
from poster_genres.parameters import CacheParameters, read_parameters
from poster_genres.posters import Unreadable, decode_shard, size_of
from poster_genres.progress import progress
from poster_genres.spread import spread
from poster_genres.tensor_cache import shard_name

# Readers keep all shards open, and operating systems limit the number of open files to some hundreds.
MAX_SHARDS = 256
MIN_SHARD = 128
# For `image_height: auto`; see `choose_size`. 320 x 224 is of the shape of most movie posters.
DEFAULT_SIZE = (320, 224)
AREA, LEAST_AREA = 320 * 224, 160 * 112
STEP, MEASURED = 16, 200
# Every architecture takes posters of this height and width.
LEAST_SIDE = 80


def choose_size(dataset: Path, movies: pd.DataFrame) -> tuple[int, int]:
    """The height and width that `auto` stands for, multiples of STEP from LEAST_SIDE.

    They have the median shape of the first MEASURED readable posters, in AREA pixels; in fewer, but not under LEAST_AREA, if most
    are smaller, as enlarging adds nothing.
    """
    sizes = []
    for row in movies.head(MEASURED).itertuples():
        with suppress(Unreadable):
            sizes.append(size_of(dataset, row.archive, row.poster))
    heights, widths = np.array(sizes or [DEFAULT_SIZE]).T
    ratio = float(np.median(heights / widths))
    area = float(np.clip(np.median(heights * widths), LEAST_AREA, AREA))
    height, width = (max(LEAST_SIDE, round((area * share) ** 0.5 / STEP) * STEP) for share in (ratio, 1 / ratio))
    return height, width


def shard_size(posters: int) -> int:
    """Posters per shard: depends only on their total, so that any number of workers writes the same files."""
    return max(MIN_SHARD, -(-posters // MAX_SHARDS))


def write_cache(
    dataset: Path,
    movies: pd.DataFrame,
    height: int,
    width: int,
    interpolation: str,
    max_unreadable: float,
    folder: Path,
    dask_scheduler: str | None = None,
) -> dict[str, Any]:
    """Write the tensor and its movies to `folder`, which is replaced only when both are complete.

    Unreadable posters are left out of both.

    Returns
    -------
    The counts and reasons for metrics/cache.json.

    Raises
    ------
    InputError
        More than the share `max_unreadable` of the posters is unreadable, or all posters of a split are; see also `spread`.
    """
    locations = movies[["archive", "poster"]]
    size = shard_size(len(movies))
    starts = range(0, len(movies), size)
    shards = (list(locations[start : start + size].itertuples(index=False, name=None)) for start in starts)
    decode = partial(decode_shard, dataset.resolve(), height, width, interpolation)
    reasons: list[str] = []
    # Absolute, because Dask workers run in folders of their own.
    with whole_folder(folder.absolute()) as temporary:
        tasks = ((shard, temporary / shard_name(number)) for number, shard in enumerate(shards))
        with progress("cache", len(movies)) as bar:
            for shard_reasons in spread(decode, tasks, dask_scheduler):
                reasons += shard_reasons
                bar.update(len(shard_reasons))
        written = [(temporary / shard_name(number)).is_file() for number in range(len(starts))]
        if not all(written):
            raise InputError(
                f"params.yaml: dask_scheduler: {written.count(False)} of {len(written)} parts of {folder} are on the disks of "
                "workers; `cache` needs this folder at the same path on all machines, on a disk that they share"
            )
        readable = np.array([not reason for reason in reasons])
        unreadable = movies[~readable].assign(reason=[reason for reason in reasons if reason])
        names = [f"{row.archive}/{row.poster}".lstrip("/") for row in unreadable.itertuples()]
        if len(unreadable) > max_unreadable * len(movies):
            examples = ", ".join(f"{name} ({reason})" for name, reason in zip(names[:3], unreadable["reason"], strict=False))
            raise InputError(
                f"{dataset}: {len(unreadable)} of {len(movies)} posters cannot be read, more than `max_unreadable` "
                f"({max_unreadable:g}) allows: {examples}{', …' if len(names) > 3 else ''}"
            )
        kept = movies[readable]
        for split in SPLITS:
            if not (kept["split"] == split).any():
                raise InputError(f"{dataset}: no poster of the {split} split can be read; repair images or add some")
        for leftover in temporary.glob(".*.part"):  # written by lost workers
            leftover.unlink()
        write_movies(kept, temporary / "movies.csv")
    return {
        "posters": len(kept),
        "height": height,
        "width": width,
        "unreadable": len(unreadable),
        "reasons": dict(sorted(Counter(unreadable["reason"]).items())),
        "left_out": dict(zip(names, unreadable["reason"], strict=True)),
    }


def main() -> None:
    parameters = read_parameters().used_by(CacheParameters)
    movies = read_movies(Path("data/movies.csv"))
    dataset = Path(parameters.dataset)
    height, width = parameters.image_height, parameters.image_width
    if height == "auto" or width == "auto":
        height, width = choose_size(dataset, movies)
    counts = write_cache(
        dataset,
        movies,
        height,
        width,
        parameters.interpolation,
        parameters.max_unreadable,
        Path("data/cache"),
        parameters.dask_scheduler,
    )
    write_json(Path("metrics/cache.json"), counts)
    print(f"{counts['posters']} posters of {counts['height']} x {counts['width']} pixels, {counts['unreadable']} left out")


if __name__ == "__main__":
    errors.run_stage(main)
