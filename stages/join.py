"""Join a data set's metadata and images by ID, and split them into training, validation and test sets.

In: the folder that `dataset` names. Out: data/movies.csv, metrics/join.json. Run: `python -m stages.join`, or `dvc repro join`.
"""

import re
import shlex
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from poster_genres import errors
from poster_genres.dataset import POSTER_SUFFIXES, File, hash_of, list_files
from poster_genres.errors import InputError
from poster_genres.files import write_json
from poster_genres.matching import Posters
from poster_genres.metadata import FILES, HASH, Metadata, read_metadata, split_of_folders, split_of_table
from poster_genres.movies import COLUMNS, SPLITS, choose_validation, genres_of, in_test, labels_of, write_movies
from poster_genres.parameters import JoinParameters, read_parameters
from poster_genres.texts import some

# A genre on fewer training posters is hardly learned.
RARE = 10
# Fewer images cannot be trained on.
LEAST_TRAIN = 2
# So many of the IDs and images that are left out are named, in metrics/join.json and on the screen.
EXAMPLES, SHOWN = 100, 3
# So many names that consist of others show that they should have been split.
COMPOSED = 3


def group_identical(dataset: Path, posters: pd.DataFrame) -> dict[str, str]:
    """Group posters with identical bytes: from the ID of each poster to the smallest ID in its group, if that is another one.

    Only posters of equal size can be identical, so only those are read.

    Parameters
    ----------
    posters : a table with the columns id, archive, poster and size
    """
    same_size = posters.loc[posters["size"].duplicated(keep=False), ["size", "id", "archive", "poster"]].sort_values(["size", "id"])
    groups: dict[str, str] = {}
    for _, rows in groupby(same_size.itertuples(), attrgetter("size")):
        first: dict[str, str] = {}
        for row in rows:
            try:
                digest = hash_of(dataset, row.archive, row.poster) if row.size else ""
            except Exception:  # unreadable for any reason: the stage `cache` leaves it out and reports why
                continue
            if digest and (group := first.setdefault(digest, row.id)) != row.id:
                groups[row.id] = group
    return groups


@dataclass(frozen=True)
class Joined:
    """The table described in `poster_genres.movies`, the counts for metrics/join.json, and what people should know."""

    movies: pd.DataFrame
    counts: dict[str, Any]
    about_splits: str
    warnings: list[str]


def unite(movies: pd.DataFrame) -> tuple[pd.DataFrame, int, int]:
    """One row for each poster: the first one, with the labels of all of its rows.

    Returns
    -------
    The table; how many rows repeat another; and how many of these name other labels than the rows before them.

    Raises
    ------
    InputError
        Tables contradict each other.
    """
    repeats = movies["number"].duplicated()
    conflicts = between = repeated_between = 0
    movies["known"] = movies.groupby("number")["known"].transform("any")
    labels: dict[int, tuple[str, ...]] = {}
    tables: dict[int, str] = {}
    for number, names, table in zip(movies["number"], movies["genres"], movies["table"], strict=True):
        before = labels.setdefault(number, names)
        other = tables.setdefault(number, table) != table
        repeated_between += other
        if before is not names and set(names) != set(before):
            conflicts += 1
            between += other
            labels[number] = tuple(dict.fromkeys(before + names))
    if repeated_between > 4 and between > repeated_between / 2:
        names = some(dict.fromkeys(movies["table"]))
        raise InputError(
            f"{names}: {between} of {repeated_between} images have other labels in each; set `metadata` to one of them"
        )
    first = movies[~repeats].reset_index(drop=True)
    first["genres"] = pd.Series([labels[number] for number in first["number"]], dtype=object)
    return first, int(repeats.sum()), conflicts


def match_posters(metadata: Metadata, posters: Posters, dataset: str) -> tuple[pd.DataFrame, list[str], Counter[str]]:
    """The rows that have a poster, with its number in `posters`; the IDs of those without; and how many rows each rule matched.

    Raises
    ------
    InputError
        No row has one; see also `Posters.match`.
    """
    table = metadata.movies
    if not posters.files and posters.too_large:
        number = len(posters.too_large)
        raise InputError(f"{dataset}: all {number} images have more bytes than `max_poster_megabytes` in params.yaml allows")
    if not posters.files:
        raise InputError(f"{dataset}: no images found; files like tt0081562.jpg are needed, in folders or zip archives")
    numbers, rules = posters.match(list(table["id"]), list(table["table"]))
    table = table.assign(number=numbers)
    rows = table[table["number"].notna()].reset_index(drop=True)
    if rows.empty:
        examples = f"metadata has {', '.join(table['id'][:3])}; images are {', '.join(file.name for file in posters.files[:3])}"
        raise InputError(f"{dataset}: no ID of the metadata is the file name of an image: {examples}")
    return rows.astype({"number": int}), list(table.loc[table["number"].isna(), "id"]), rules


def locate(movies: pd.DataFrame, posters: Posters) -> pd.DataFrame:
    """Add the columns archive, poster and size of each movie's poster; IDs that two posters share become their paths."""
    files = [posters.files[number] for number in movies["number"]]
    movies = movies.assign(
        archive=[file.archive for file in files], poster=[file.path for file in files], size=[file.size for file in files]
    )
    shared = movies["id"].duplicated(keep=False)
    movies.loc[shared, "id"] = [file.name for file, twice in zip(files, shared, strict=True) if twice]
    return movies


def drop_placeholders(movies: pd.DataFrame, groups: dict[str, str], most: int) -> tuple[pd.DataFrame, int]:
    """Leave out the posters that more than `most` movies share; and how many these are."""
    names = movies["id"].map(lambda movie: groups.get(movie, movie))
    placeholder = names.map(names.value_counts()) > most
    return movies[~placeholder].reset_index(drop=True), int(placeholder.sum())


def splits_of_files(movies: pd.DataFrame) -> list[str]:
    """The split that the name of each movie's table says, or those of its folders and archives; empty where none does."""
    folders = [PurePosixPath(archive, poster).parent for archive, poster in zip(movies["archive"], movies["poster"], strict=True)]
    places = list(zip(movies["table"], folders, strict=True))
    splits = {place: split_of_table(place[0]) or split_of_folders(place[1].parts) for place in dict.fromkeys(places)}
    return [splits[place] for place in places]


def describe_splits(split_by: str, column: str | None, of_column: pd.Series, of_files: list[str]) -> str:
    """What the named column says; or that a hash decides although there is such a column, or there are files of such names."""
    if split_by not in (HASH, FILES):
        numbers = ", ".join(f"{name} for {(of_column == name).sum()} images" for name in SPLITS)
        return f"split_by: column {split_by!r} says {numbers}"
    both, takes = {"train", "test"}, "takes train, val and test from"
    if split_by == HASH and both <= set(of_column):
        return f"split_by: a hash of the ID decides; `-S {shlex.quote(f'split_by={column}')}` {takes} column {column!r}"
    if split_by == HASH and both <= set(of_files):
        return f"split_by: a hash of the ID decides; `-S split_by=files` {takes} the names of files and folders"
    return ""


def doubts_about_splits(given: pd.Series, split_by: str, in_several: int) -> list[str]:
    """What is unclear in splits that the data gives: lines for people.

    Parameters
    ----------
    given : the split of each movie, empty where the data says none
    in_several : how many movies have several in a column
    """
    lines = []
    if unnamed := int((given == "").sum()):
        missing = f"have no split in column {split_by!r}"
        if split_by == FILES:
            missing = "are in no table, folder or archive named train, val or test"
        lines.append(f"{unnamed} images {missing}: they are for training and validation")
    if split_by != FILES and in_several:
        lines.append(f"{in_several} images have several splits in column {split_by!r}: that of their first row counts")
    return lines


def choose_test(movies: pd.DataFrame, parameters: JoinParameters) -> np.ndarray:
    """Which movies are for the test, bool (movies,): by the hash of their ID, or as the data says.

    Raises
    ------
    InputError
        None is.
    """
    dataset, split_by = parameters.dataset, parameters.split_by
    if split_by == HASH:
        test = movies["group"].map(lambda group: in_test(group, parameters.test)).to_numpy(bool)
        fault = f"none of the {len(movies)} images falls into the test set; raise `test` or add images"
    else:
        test = (movies["given_split"] == "test").to_numpy(bool)
        column = f"column {split_by!r} says test for none of the {len(movies)} images"
        fault = "no table, folder or archive is named test" if split_by == FILES else column
        fault += f", as `split_by: {split_by}` needs; set it to hash"
    if not test.any():
        raise InputError(f"{dataset}: {fault}")
    return test


def split_movies(movies: pd.DataFrame, labels: np.ndarray, test: np.ndarray, parameters: JoinParameters) -> np.ndarray:
    """The split of each movie, one of SPLITS.

    Raises
    ------
    InputError
        There are too few movies for a split.
    """
    split = np.where(test, "test", "train").astype(object)
    rest = np.flatnonzero(~test)
    if parameters.split_by != HASH and (movies["given_split"] == "validation").any():
        split[movies["given_split"] == "validation"] = "validation"
        if (number := int((split == "train").sum())) < LEAST_TRAIN:
            raise InputError(
                f"{parameters.dataset}: `split_by: {parameters.split_by}` leaves {number} image(s) to train on; set it to hash"
            )
        return split
    try:
        chosen = choose_validation(labels[rest], movies["group"].factorize()[0][rest], parameters.validation, parameters.seed)
    except ValueError:
        chosen = np.ones(len(rest), bool)
    if (~chosen).sum() < LEAST_TRAIN:
        raise InputError(
            f"params.yaml: limit: {len(rest)} image(s) are too few to set {parameters.validation:g} of them aside for validation"
            f" and train on the rest, at least {LEAST_TRAIN}; raise `limit`, lower `validation`, or add images"
        )
    split[rest[chosen]] = "validation"
    return split


def suspicions(movies: int, counts: dict[str, dict[str, int]]) -> list[str]:
    """What looks like a mistake, or makes a genre hard to learn: lines for people.

    Parameters
    ----------
    movies : how many there are
    counts : of each genre, the posters in each split
    """
    lines = []
    total = {genre: sum(numbers.values()) for genre, numbers in counts.items()}
    if len(counts) > 0.5 * movies:
        lines.append(
            f"nearly as many labels ({len(counts)}) as images ({movies}): are cells split as they should be? See `separator`"
        )
    signs = [(name, match) for name in counts for match in re.finditer(r"[\W_]+(?:(?:and|et|und|y|or)\W+)?", name)]
    composed = dict.fromkeys(name for name, match in signs if {name[: match.start()], name[match.end() :]} <= set(counts))
    if len(composed) >= COMPOSED:
        lines.append(
            f"{len(composed)} labels consist of others: {some(map(quoted, composed))}; set `separator` to what stands between them"
        )
    if everywhere := [genre for genre, number in total.items() if number == movies]:
        lines.append(f"on all images, so that nothing can be learned of it: {', '.join(everywhere)}")
    for split in SPLITS:
        if without := [genre for genre, numbers in counts.items() if not numbers[split]]:
            lines.append(f"no {split} images of {len(without)} label(s): {some(without)}")
    if rare := [genre for genre, numbers in counts.items() if 0 < numbers["train"] < RARE]:
        lines.append(f"fewer than {RARE} training images of {len(rare)} label(s): {some(rare)}")
    return lines


def join(metadata: Metadata, posters: Posters, parameters: JoinParameters) -> Joined:
    """Join metadata and posters, and split the movies.

    Raises
    ------
    InputError
        Metadata and posters share no ID, no genre is known or there is but one, or a split has too few movies.
    """
    dataset = parameters.dataset
    movies, without, rules = match_posters(metadata, posters, dataset)
    rows_with_poster = len(movies)
    in_several = int((movies.groupby("number")["given_split"].nunique() > 1).sum())
    movies, repeats, conflicts = unite(movies)
    matched, with_row = len(movies), set(movies["number"])
    movies = locate(movies[movies["known"]].reset_index(drop=True), posters)
    if movies.empty:
        raise InputError(f"{dataset}: all {matched} rows with an image have unknown labels")
    unknown = matched - len(movies)
    groups = group_identical(Path(dataset), movies)
    movies, placeholders = drop_placeholders(movies, groups, parameters.max_identical_posters)
    if movies.empty:
        raise InputError(f"{dataset}: all images are one picture, under {placeholders} IDs; see `max_identical_posters`")
    movies["group"] = [groups.get(movie, movie) for movie in movies["id"]]
    names = sorted({genre for row in movies["genres"] for genre in row})
    unlabelled = int((movies["genres"].map(len) == 0).sum())
    if len(names) < 2:
        shown = f"one label only, {names[0]!r}," if names else "no label"
        raise InputError(f"{dataset}: {shown} on {len(movies) - unlabelled} of {len(movies)} images; two or more are needed")
    of_files = splits_of_files(movies)
    about_splits = describe_splits(parameters.split_by, metadata.split_column, movies["given_split"], of_files)
    if parameters.split_by == FILES:
        movies["given_split"] = of_files
    test = choose_test(movies, parameters)
    rest = ~test
    if parameters.split_by != HASH:  # posters for validation that are given are all used
        rest &= (movies["given_split"] != "validation").to_numpy(bool)
    beyond = np.flatnonzero(rest)[parameters.limit :]
    movies, test = movies.drop(index=beyond).reset_index(drop=True), np.delete(test, beyond)
    labels = np.empty((len(movies), len(names)), np.uint8)
    for column, name in enumerate(names):
        labels[:, column] = [name in row for row in movies["genres"]]
    split = split_movies(movies, labels, test, parameters)
    # A genre that is named like a column gets another name.
    genres = [f"{name} (genre)" if name in COLUMNS else name for name in names]
    counts = {genre: {name: int(labels[split == name, i].sum()) for name in SPLITS} for i, genre in enumerate(genres)}
    about = {
        "dataset": dataset,
        "metadata": metadata.source,
        "understood": metadata.understood,
        "rows": len(metadata.movies),
        "rows_without_poster": len(metadata.movies) - rows_with_poster,
        "examples_of_rows_without_poster": without[:EXAMPLES],
        "matched_by": dict(rules),
        "repeated_rows": repeats,
        "repeated_rows_with_other_genres": conflicts,
        "posters": len(posters.files),
        "posters_too_large": len(posters.too_large),
        "posters_without_metadata": len(posters.files) - matched,
        "examples_of_posters_without_metadata": [file.name for i, file in enumerate(posters.files) if i not in with_row][:EXAMPLES],
        "matched": matched,
        "unknown_genres": unknown,
        "without_genres": unlabelled,
        "placeholders": placeholders,
        "identical_posters": int((movies["group"] != movies["id"]).sum()),
        "beyond_limit": len(beyond),
        "movies": {name: int((split == name).sum()) for name in SPLITS},
        "genres": counts,
    }
    joined = pd.concat([movies.assign(split=split)[COLUMNS], pd.DataFrame(labels, columns=genres)], axis=1)
    warnings = suspicions(len(movies), counts)
    if parameters.split_by != HASH:
        warnings += doubts_about_splits(movies["given_split"], parameters.split_by, in_several)
    if 2 * matched < len(posters.files) and 2 * rows_with_poster < len(metadata.movies):
        few = f"{rows_with_poster} of {len(metadata.movies)} rows and {matched} of {len(posters.files)} images belong together"
        warnings.insert(0, f"{few}: is that by accident, and does another column name the images? See `id_column`")
    if unknown > len(movies):
        warnings.insert(0, f"most images, {unknown} of {matched}, have unknown labels: is each row's cell filled?")
    return Joined(joined, about, about_splits, warnings)


def quoted(label: str) -> str:
    """A label, in quotes where it would look like several."""
    return repr(label) if "," in label else label


def describe(joined: Joined, metadata: Metadata, parameters: JoinParameters) -> list[str]:
    """What was understood, in about ten lines."""
    counts, movies = joined.counts, joined.movies
    lines = list(metadata.understood)
    genres = genres_of(movies)
    for movie, labels in list(zip(movies.itertuples(), labels_of(movies), strict=True))[:3]:
        title = f", {movie.title}{f' ({movie.year})' if movie.year else ''}" if movie.title else ""
        shown = ", ".join(quoted(genre) for genre, label in zip(genres, labels, strict=True) if label) or "none"
        lines.append(f"  {movie.id}{title}: {shown} [{f'{movie.archive}/' if movie.archive else ''}{movie.poster}]")
    rules = ", ".join(f"{number} by {rule}" for rule, number in counts["matched_by"].items())
    rows = counts["rows"] - counts["rows_without_poster"]
    lines.append(f"{rows} of {counts['rows']} rows have an image ({rules}); {counts['posters']} images")

    def examples(key: str) -> str:
        return ", ".join([*counts[f"examples_of_{key}"][:SHOWN], *["…"] * (counts[key] > SHOWN)])

    left_out = {
        f"rows without an image ({examples('rows_without_poster')})": counts["rows_without_poster"],
        f"images without a row ({examples('posters_without_metadata')})": counts["posters_without_metadata"],
        f"images of more than {parameters.max_poster_megabytes:g} MB (`max_poster_megabytes`)": counts["posters_too_large"],
        "of unknown labels": counts["unknown_genres"],
        f"placeholders, one picture under more than {parameters.max_identical_posters} IDs": counts["placeholders"],
        f"beyond `limit` ({parameters.limit})": counts["beyond_limit"],
    }
    if any(left_out.values()):
        lines.append(f"left out: {'; '.join(f'{number} {name}' for name, number in left_out.items() if number)}")
    if counts["repeated_rows"]:
        other = counts["repeated_rows_with_other_genres"]
        lines.append(f"{counts['repeated_rows']} rows repeat an image, {other} with other labels: all of its labels count")
    if counts["without_genres"]:
        lines.append(f"{counts['without_genres']} images have zeros only: they stay, as images without any of these labels")
    if counts["movies"]["train"] + counts["movies"]["validation"] < parameters.limit:
        rest = len(movies) - counts["movies"]["test"]
        lines.append(f"limit: {parameters.limit} is more than the {rest} images beside the test set; all of them are used")
    if joined.about_splits:
        lines.append(joined.about_splits)
    sizes = ", ".join(f"{number} {name}" for name, number in counts["movies"].items())
    frequent = sorted(genres, key=lambda genre: -sum(counts["genres"][genre].values()))
    lines.append(f"{sizes}; {len(genres)} labels: {some(frequent)}")
    return lines + [f"warning: {line}" for line in joined.warnings]


def main() -> None:
    parameters = read_parameters().used_by(JoinParameters)
    dataset = Path(parameters.dataset)
    images: list[File] = []
    others: list[File] = []
    for file in list_files(dataset):
        (images if file.suffix in POSTER_SUFFIXES else others).append(file)
    posters = Posters(parameters.dataset, images, int(parameters.max_poster_megabytes * 1_000_000))
    metadata = read_metadata(
        dataset,
        others,
        posters,
        parameters.metadata,
        parameters.id_column,
        parameters.label_columns,
        parameters.separator,
        parameters.split_by,
    )
    joined = join(metadata, posters, parameters)
    write_movies(joined.movies, Path("data/movies.csv"))
    write_json(Path("metrics/join.json"), joined.counts)
    print("\n".join(map(errors.printable, describe(joined, metadata, parameters))))


if __name__ == "__main__":
    errors.run_stage(main)
