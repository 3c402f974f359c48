"""Join a data set's metadata and posters by ID, and split the movies into training, validation and test.

In: the folder that `dataset` names. Out: data/movies.csv, metrics/join.json. Run: `python -m stages.join`, or `dvc repro join`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from poster_genres import errors
from poster_genres.dataset import POSTER_SUFFIXES, File, list_files, read_bytes
from poster_genres.errors import InputError
from poster_genres.files import write_json
from poster_genres.metadata import Metadata, read_metadata
from poster_genres.movies import COLUMNS, SPLITS, choose_validation, genres_of, in_test, write_movies
from poster_genres.parameters import Parameters, read_parameters


def find_posters(files: list[File]) -> tuple[dict[str, File], int]:
    """The posters by ID, and how many more posters have an ID that another already has; the first by name is kept."""
    posters: dict[str, File] = {}
    repeats = 0
    for file in files:
        if file.suffix in POSTER_SUFFIXES:
            repeats += file.stem in posters
            posters.setdefault(file.stem, file)
    return posters, repeats


def group_identical(dataset: Path, posters: dict[str, File], movies: Iterable[str]) -> dict[str, str]:
    """Posters with the same bytes are one group, named by its smallest ID: that of each of these movies which has another one.

    Only posters of equal size can be identical, so only those are read.
    """
    by_size = defaultdict(list)
    for movie in movies:
        by_size[posters[movie].size].append(movie)
    groups: dict[str, str] = {}
    for same in by_size.values():
        if len(same) == 1:
            continue
        first: dict[bytes, str] = {}
        for movie in sorted(same):
            try:
                data = read_bytes(dataset, posters[movie].archive, posters[movie].path)
            except Exception:  # unreadable in whatever way: the cache stage leaves it out and says why
                continue
            if data and (group := first.setdefault(hashlib.sha256(data).digest(), movie)) != movie:
                groups[movie] = group
    return groups


def join(metadata: Metadata, posters: dict[str, File], parameters: Parameters) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Join metadata and posters, and split the movies.

    Returns
    -------
    The table of `poster_genres.movies`, in the metadata's order, and the counts for metrics/join.json.

    Raises
    ------
    InputError
        No ID is on both sides, or too few movies remain for a split.
    """
    dataset = parameters.dataset
    table = metadata.movies
    if not posters:
        raise InputError(f"{dataset}: no posters found; files like tt0081562.jpg are needed, in folders or zip archives")
    matched = table[table["id"].isin(posters.keys())]
    if matched.empty:
        some = f"metadata has {', '.join(table['id'][:3])}; posters are {', '.join(list(posters)[:3])}"
        raise InputError(f"{dataset}: no ID of the metadata is the file name of a poster: {some}")
    movies = matched[matched["genres"].map(len) > 0].reset_index(drop=True)
    if movies.empty:
        raise InputError(f"{dataset}: all {len(matched)} movies with a poster have unknown genres")
    genres = sorted({genre for row in movies["genres"] for genre in row})
    if clash := set(genres) & set(COLUMNS):
        raise InputError(f"{dataset}: genre {min(clash)!r} has the name of a column of data/movies.csv; write it in another case")

    groups = group_identical(Path(dataset), posters, movies["id"])
    movies["group"] = [groups.get(movie, movie) for movie in movies["id"]]
    test = movies["group"].map(lambda group: in_test(group, parameters.test)).to_numpy(bool)
    used = np.flatnonzero(~test)[: parameters.limit]
    if not test.any():
        raise InputError(f"{dataset}: none of the {len(movies)} movies falls into the test set; raise `test` or add movies")
    if (rest := int((~test).sum())) < parameters.limit:
        print(f"limit: {parameters.limit} is more than the {rest} movies beside the test set; all of them are used")
    labels = np.empty((len(movies), len(genres)), np.uint8)
    for column, genre in enumerate(genres):
        labels[:, column] = [genre in row for row in movies["genres"]]
    split = np.where(test, "test", "").astype(object)
    numbers = movies["group"].factorize()[0]
    try:
        validation = choose_validation(labels[used], numbers[used], parameters.validation, parameters.seed)
    except ValueError:
        raise InputError(
            f"params.yaml: limit: {len(used)} movie(s) are too few to set {parameters.validation:g} of them aside for validation"
            " and train on the rest; raise `limit`, or add movies"
        ) from None
    split[used] = np.where(validation, "validation", "train")

    kept = np.flatnonzero(split != "")
    joined = movies.loc[kept, ["id", "title", "year"]].reset_index(drop=True)
    joined.insert(1, "archive", [posters[movie].archive for movie in joined["id"]])
    joined.insert(2, "poster", [posters[movie].path for movie in joined["id"]])
    joined["split"] = split[kept]
    joined = pd.concat([joined, pd.DataFrame(labels[kept], columns=genres)], axis=1)
    counts = {
        "dataset": dataset,
        "metadata": metadata.source,
        "rows": metadata.rows,
        "repeated_rows_dropped": metadata.repeats,
        "conflicting_rows_dropped": metadata.conflicts,
        "posters": len(posters),
        "posters_without_metadata": len(posters) - len(matched),
        "rows_without_poster": len(table) - len(matched),
        "matched": len(matched),
        "unknown_genres": len(matched) - len(movies),
        "identical_posters": len(groups),
        "beyond_limit": len(movies) - len(joined),
        "movies": {name: int((joined["split"] == name).sum()) for name in SPLITS},
        "genres": {
            genre: {name: int(joined.loc[joined["split"] == name, genre].sum()) for name in SPLITS} for genre in genres_of(joined)
        },
    }
    return joined, counts


def main() -> None:
    parameters = read_parameters()
    dataset = Path(parameters.dataset)
    files = list_files(dataset)
    posters, poster_repeats = find_posters(files)
    metadata = read_metadata(dataset, files, parameters.metadata)
    movies, counts = join(metadata, posters, parameters)
    counts["repeated_posters_dropped"] = poster_repeats
    write_movies(movies, Path("data/movies.csv"))
    write_json(Path("metrics/join.json"), counts)
    sizes = ", ".join(f"{number} {name}" for name, number in counts["movies"].items())
    print(f"{counts['matched']} of {counts['rows']} rows have a poster; {sizes}; {len(counts['genres'])} genres")


if __name__ == "__main__":
    errors.run(main)
