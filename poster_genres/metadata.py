"""Metadata of movies, or of whatever the posters show, in the layouts that people have: which tables and columns say what.

All become a table with one row per row of the files, in their order: `id`, `title`, `year` (text, empty if unknown), `genres`, a
tuple of names; `known`, whether these are known, as no name may mean that there is none; `table`, the file; and `given_split`, the
split that a column says, empty if none does.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from poster_genres.dataset import MAX_TABLE, POSTER_SUFFIXES, File
from poster_genres.errors import InputError
from poster_genres.labels import is_unknown, read_labels, tidy
from poster_genres.matching import Posters
from poster_genres.tables import SUFFIXES, Table, read_table, table_suffix
from poster_genres.texts import some

AUTO = "auto"
# Values of `split_by` that name no column.
HASH, FILES = "hash", "files"
# Tables in a data set that are not metadata.
OTHER_TABLES = ("detections.csv",)
# Names of columns, without regard to case, spaces and signs, in order of precedence.
ID_NAMES = (
    "id", "imdbid", "tconst", "filename", "file", "image", "imagename", "imagefile", "imagefilename", "imagepath", "path",
    "filepath", "imageindex", "imageid", "img", "imgid", "imgname", "imgpath", "poster", "posterid", "posterpath", "movieid",
    "titleid", "itemid", "key", "name", "asin", "tmdbid", "url",
)  # fmt: skip
GENRE_NAMES = ("genres", "genre", "genrename", "genrenames", "genresname", "genreslist", "genrelist")
LABEL_NAMES = (
    "label", "labels", "tag", "tags", "target", "targets", "class", "classes", "category", "categories", "findinglabels",
    "findings", "choice", "choices", "attributeids", "attributes", "labelname", "labelnames", "classname", "classnames", "tagname",
    "tagnames", "categoryname", "categorynames", "targetname", "targetnames", "annotation", "annotations", "keyword", "keywords",
    "subject", "subjects",
)  # fmt: skip
# Beside columns of zeros and ones, numbers in such a column are no labels, but who is in the picture.
PEOPLE = ("subject", "subjects")
TITLE_NAMES = ("title", "primarytitle", "movietitle", "originaltitle", "movie", "moviename", "titel", "titre", "titulo")
YEAR_NAMES = ("year", "startyear", "releaseyear", "titleyear", "releasedate", "released", "date", "jahr")
# Columns of zeros and ones that are no labels.
FLAG_NAMES = (
    "isadult", "adult", "video", "split", "fold", "istest", "istrain", "isvalid", "isval", "test", "train", "val", "valid",
    "validation", "unnamed0", "index", "released", "hasposter", "hasimage", "count", "width", "height", "runtime", "duration",
    "votes", "views",
)  # fmt: skip
YES = frozenset({
    "true", "yes", "y", "x", "t", "on", "ja", "wahr", "oui", "vrai", "si", "sí", "sì", "vero", "verdadero", "sim", "да", "+",
    "pos", "positive", "present", "tak", "是", "有", "はい", "✓", "✔", "√", "☑", "✅", "○", "◯",
})  # fmt: skip
NO = frozenset({
    "false", "no", "n", "f", "off", "nein", "falsch", "non", "faux", "falso", "não", "нет", "-", "neg", "negative", "absent", "nie",
    "否", "无", "いいえ", "✗", "✘", "☐", "❌", "✕", "✖", "\u00d7",
})  # fmt: skip
# What stands before the name of a group of columns of labels, and after it: `Secondary Genre`, `Genre III`, `genre_b`.
_ORDINAL = re.compile(
    r"(?:primary|secondary|tertiary|main|side|other|first|second|third|\d+(?:st|nd|rd|th))?(?P<name>.+?)(?:[abc]|i{1,3}|iv)?"
)
# Of columns of zeros and ones those with such a beginning are the labels, if there are several, and others beside them are not.
PREFIXES = ("genre", "label", "tag", "class", "category")
# A column of such a name, where IDs are repeated, says how sure a row's label is, or whether it is right.
VALUE_NAMES = ("confidence", "score", "value", "probability", "prob", "present", "ispresent", "relevance")
ANSWER_NAMES = (
    *VALUE_NAMES,
    "verified",
    "isverified",
    "correct",
    "iscorrect",
    "positive",
    "ispositive",
    "applies",
    "exists",
    "answer",
    "count",
)
# Words in the names of tables that hold no truth, where there are others.
NO_TRUTH = {"submission", "submissions", "sample", "prediction", "predictions", "pred", "preds", "example", "old", "backup", "copy"}
# Names of texts and settings that are no tables.
NO_TABLES = {"readme", "license", "licence", "copying", "notice", "changelog", "citation", "requirements", "config", "settings"}
# Cells that are looked at to find the column of IDs.
SAMPLE = 1000
SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
SPLIT_ORDER = ("train", "validation", "test", "")


class NotMetadata(InputError):
    """A table has no columns of IDs and labels: it is about something else, or parameters should name its columns."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table say what. `labels` are cells with names or, with `one_hot`, a column per name; `split` is the column
    that `split_by` names, or else one that says of each row whether it is for training or for the test."""

    id: str
    labels: list[str]
    one_hot: bool
    title: str | None
    year: str | None
    split: str | None


@dataclass(frozen=True)
class Metadata:
    """What the files say.

    Attributes
    ----------
    movies : the table, a row for each row of the files
    source : "csv", "groundtruth", or "csv and groundtruth"
    understood : lines for people: files, columns, form, what was ignored or merged
    split_column : the column that `split_by` names, or that says of each row whether it is for training or for the test
    """

    movies: pd.DataFrame
    source: str
    understood: list[str] = field(default_factory=list)
    split_column: str | None = None


def read_metadata(
    dataset: Path,
    files: list[File],
    posters: Posters,
    choice: str | list[str] = AUTO,
    id_column: str = AUTO,
    label_columns: str | list[str] = AUTO,
    separator: str = AUTO,
    split_by: str = HASH,
) -> Metadata:
    """Read a data set's metadata.

    Tables of one form are read together. If there are such and groundtruth files, the tables give the movies, their order and their
    genres, and groundtruth adds title and year.

    Parameters
    ----------
    files : of the data set
    posters : by which the column of IDs is found
    choice : "auto"; "csv" or "groundtruth" to leave the other out; or the names of the files to read
    id_column, label_columns : their names, or "auto"
    separator : what stands between names in a cell, "none", or "auto"
    split_by : HASH, FILES, or the name of a column

    Raises
    ------
    InputError
        There is no metadata of the chosen kind, it is wrong, or it is not clear which files or columns are meant; the message names
        file and row, or the parameter to set.
    """
    tables, ignored = read_tables(dataset, files, choice)
    left_out = f"; not read: {'; '.join(ignored)}" if ignored else ""
    truths = [table for table in tables if "groundtruth" in table.about and choice != "csv"]
    others = [table for table in tables if "groundtruth" not in table.about and choice != "groundtruth"]
    chosen: tuple[Table, Columns] | None = None
    if others:
        try:
            chosen, faults = choose_tables(dataset, others, posters, id_column, label_columns, split_by, bool(truths))
        except NotMetadata as error:
            raise InputError(f"{error}{left_out}") from None
        ignored += faults
    truth = None
    if truths:
        whole = _together(truths)
        truth = _rows(whole, find_columns(dataset, whole, posters, AUTO, AUTO, HASH), AUTO)[0]
    if chosen is None:
        if truth is None:
            wanted = {"csv": "a table", "groundtruth": "groundtruth/*.txt"}.get(
                str(choice), "a table (CSV, TSV, JSON, Parquet or Excel) of IDs and labels"
            )
            there = [file.name for file in files if file.suffix not in POSTER_SUFFIXES]
            seen = f"; files there: {some(there)}" if there else ""
            raise InputError(f"{dataset}: no metadata found; {wanted} is needed beside the images{seen}{left_out}")
        lines = [f"metadata: {some([name for table in truths for name in table.names])} (groundtruth)"]
        return Metadata(truth, "groundtruth", lines)
    table, columns = chosen
    movies, understood = _rows(table, columns, separator)
    if ignored:
        understood.append(f"not read: {'; '.join(ignored)}")
    if truth is None:
        return Metadata(movies, "csv", understood, columns.split)
    details = truth.drop_duplicates("id").set_index("id")
    for column in ("title", "year"):
        known = movies["id"].map(details[column]).fillna("")
        movies[column] = known.where(known != "", movies[column])
    understood.append(f"title and year: {some([name for table in truths for name in table.names])}")
    return Metadata(movies, "csv and groundtruth", understood, columns.split)


def read_tables(dataset: Path, files: list[File], choice: str | list[str]) -> tuple[list[Table], list[str]]:
    """The files that may be metadata, or those of the names that are chosen; many JSON files of a record each as one table.

    Returns
    -------
    The tables; and lines on files that are left out by their names.
    """
    names = [choice] if isinstance(choice, str) else choice
    candidates = [file for file in files if table_suffix(file) in SUFFIXES and PurePosixPath(file.path).name not in OTHER_TABLES]
    ignored = [f"{file.name} ({file.size / 1e9:.1f} GB)" for file in candidates if file.size > MAX_TABLE]
    candidates = [file for file in candidates if file.size <= MAX_TABLE]
    if set(names) <= {AUTO, "csv", "groundtruth"}:
        candidates = [file for file in candidates if file.stem.partition(".")[0].casefold() not in NO_TABLES]
        doubtful = [file for file in candidates if NO_TRUTH & set(re.split(r"[\W_]+", file.stem.casefold()))]
        if len(doubtful) < len(candidates):
            candidates = [file for file in candidates if file not in doubtful]
            ignored += [f"{file.name} (by its name; `metadata` can name it)" for file in doubtful]
    else:
        named = []
        for name in names:
            books = [file for file in candidates if table_suffix(file) in (".xlsx", ".xls")]
            found = [file for file in candidates if file.name == name] or [b for b in books if name.startswith(f"{b.name}/")]
            found = found or [file for file in candidates if PurePosixPath(file.path).name == name]
            if not found:
                there = some(file.name for file in candidates) or "none"
                raise InputError(f"params.yaml: metadata: {dataset} has no table {name!r}; it has {there}")
            if len(found) > 1:
                paths = some(file.name for file in found)
                raise InputError(f"params.yaml: metadata: {dataset} has {len(found)} tables {name!r}, {paths}; write a path")
            named += [file for file in found if file not in named]
        candidates = named
    tables: list[Table] = []
    single: dict[str, list[tuple[File, Table]]] = {}
    for file in candidates:
        read = read_table(dataset, file)
        # A sheet of a workbook that has but one is the workbook.
        sheets = [name for name in names if name.startswith(f"{file.name}/") and len(read) > 1]
        for name in sheets:
            if not any(table.names[0] == name for table in read):
                there = some(table.names[0] for table in read)
                raise InputError(f"params.yaml: metadata: {dataset} has no table {name!r}; it has {there}")
        for table in read:
            if sheets and table.names[0] not in sheets:
                continue
            if table_suffix(file) == ".json" and len(table.rows) == 1:
                single.setdefault(str(PurePosixPath(file.name).parent), []).append((file, table))
            elif table.rows:
                tables.append(table)
            else:
                ignored.append(f"{file.name} (no row below its header)")
    for group in single.values():
        for file, table in group:  # a JSON a movie, as MM-IMDb has them: named by the ID
            if not any(_plain(column) in ID_NAMES for column in table.columns):
                table.columns = {"file name": [file.stem], **table.columns}
        tables.append(_together([table for _, table in group]))
    return tables, ignored


def choose_tables(
    dataset: Path,
    tables: list[Table],
    posters: Posters,
    id_column: str,
    label_columns: str | list[str],
    split_by: str,
    optional: bool,
) -> tuple[tuple[Table, Columns] | None, list[str]]:
    """The tables that have IDs and labels, as one, with its columns; and why others are not read.

    Raises
    ------
    NotMetadata
        There is none, though it is not `optional` or columns are named.
    InputError
        There are several of different forms.
    """
    usable: dict[tuple[str, tuple[str, ...]], list[tuple[Table, Columns]]] = {}
    faults: list[str] = []
    for table in tables:
        try:
            columns = find_columns(dataset, table, posters, id_column, label_columns, split_by)
        except NotMetadata as error:
            faults.append(str(error))
            continue
        form = _plain(columns.id), ("one-hot",) if columns.one_hot else tuple(map(_plain, columns.labels))
        usable.setdefault(form, []).append((table, columns))
    if not usable:
        # A column that is named must be somewhere.
        if optional and (id_column, label_columns) == (AUTO, AUTO) and split_by in (HASH, FILES):
            return None, []
        raise NotMetadata("; or ".join(faults[:3]))
    if len(usable) > 1:
        shown = "; ".join(
            f"{some([name for table, _ in group for name in table.names])} ({form[0]}, {', '.join(form[1])})"
            for form, group in list(usable.items())[:4]
        )
        raise InputError(
            f"{dataset}: tables of different forms could be the metadata: {shown}; set `metadata` in params.yaml to one of them"
        )
    ((_, group),) = usable.items()
    group.sort(key=lambda pair: SPLIT_ORDER.index(split_of_table(pair[0].names[0])))
    whole, columns = _together([table for table, _ in group]), group[0][1]
    if columns.one_hot:  # a label that is in some of the tables only is one too
        spellings = _spellings([table for table, _ in group])
        labels = [spelling[name] for spelling, (_, own) in zip(spellings, group, strict=True) for name in own.labels]
        columns = replace(columns, labels=list(dict.fromkeys(labels)))
    # Why, but not what to do: they may well be about something else.
    return (whole, columns), [fault.removeprefix(f"{dataset}/").partition("; ")[0] for fault in faults]


def find_columns(
    dataset: Path, table: Table, posters: Posters, id_column: str, label_columns: str | list[str], split_by: str
) -> Columns:
    """Which columns of a table hold IDs, labels, titles, years and splits: those that are named, or by their names and cells.

    Raises
    ------
    InputError
        There are no such columns, or several; the message names them and the parameter to set.
    """
    where = f"{dataset}/{table.names[0]}"
    names = ", ".join(map(repr, list(table.columns)[:8])) + (", …" if len(table.columns) > 8 else "")
    first = next((name for name in table.columns if posters.is_file(name) or posters.may_be(name, True)), None)
    if first is not None and not any(_plain(name) in ID_NAMES for name in table.columns):
        raise NotMetadata(f"{where}: begins with {first!r}, which names an image; write a header above it, as id,labels")
    wanted = [] if label_columns == AUTO else [label_columns] if isinstance(label_columns, str) else label_columns
    named = [("id_column", id_column)] * (id_column != AUTO) + [("label_columns", name) for name in wanted]
    for parameter, name in named + [("split_by", split_by)] * (split_by not in (HASH, FILES)):
        if name not in table.columns:
            raise NotMetadata(f"{where}: has no column {name!r}, as `{parameter}` in params.yaml says; its columns are {names}")
    identifier = id_column if id_column != AUTO else _find_ids(where, table, posters, wanted)
    if identifier is None:
        raise NotMetadata(
            f"{where}: no column of IDs found, which name the images; its columns are {names}; name one: -S id_column=NAME"
        )
    # Not of zeros and ones: `movie` may also be a label beside `book`.
    texts = [column for column, cells in table.columns.items() if column != identifier and not _is_binary(cells, column)]
    title, year = (
        next((column for name in usual for column in texts if _plain(column) == name), None) for usual in (TITLE_NAMES, YEAR_NAMES)
    )
    split = split_by if split_by in table.columns else _find_splits(table)
    rest = [column for column in table.columns if column not in (identifier, title, year, split)]
    if wanted:
        for name in wanted if len(wanted) > 1 else []:
            _refuse_typo(table, name)
        one_hot = all(_is_binary(table.columns[name], name) for name in wanted)
        values = {str(cell) for name in wanted for cell in table.columns[name]}
        if len(wanted) > 1 and not one_hot and all(re.fullmatch(r"[-\d.,]*", value) for value in values):
            raise InputError(
                f"{where}: `label_columns` hold numbers, as {max(values)!r}; of a column per label, 1 is right, else 0"
            )
        return Columns(identifier, wanted, one_hot, title, year, split)
    groups: dict[str, list[str]] = {}
    for column in rest:
        groups.setdefault(_group(column), []).append(column)

    def cells_of(group: str) -> list[Any]:
        return [cell for column in groups[group] for cell in table.columns[column]]

    flags = [column for column in rest if _plain(column) not in FLAG_NAMES]
    binary = [column for column in flags if _is_binary(table.columns[column], column)]
    usual = [name for name in GENRE_NAMES if name in groups] or [name for name in LABEL_NAMES if name in groups]
    if len(binary) > 1:
        usual = [name for name in usual if name not in PEOPLE or not _are_numbered(cells_of(name))]
    if len(usual) > 1:  # of labels' names and numbers, the names; and not those that nobody filled in
        words = [name for name in usual if not _are_numbers(cells_of(name)) and not all(map(is_unknown, map(str, cells_of(name))))]
        usual = words or usual
    if len(usual) > 1 and usual[0] not in GENRE_NAMES:
        candidates = ", ".join(repr(column) for name in usual for column in groups[name])
        raise InputError(f"{where}: several columns could hold the labels: {candidates}; set `label_columns` to one of them")
    if usual:
        labels = groups[usual[0]]
        return Columns(identifier, labels, len(labels) > 1 and set(labels) <= set(binary), title, year, split)
    prefixed = [column for column in binary if _prefix(column)]
    if len(prefixed) > 1:
        return Columns(identifier, prefixed, True, title, year, split)
    if len(binary) > 1:
        for column in flags:
            _refuse_typo(table, column)
        return Columns(identifier, binary, True, title, year, split)
    claimed = {"id_column": id_column, "split_by": split_by}
    beside = " and ".join(f"{name!r} (`{parameter}`)" for parameter, name in claimed.items() if name in table.columns)
    raise NotMetadata(
        f"{where}: no column of labels found{f' beside {beside}' if beside else ''}, nor columns of zeros and ones; "
        f"its columns are {names}; name one: -S label_columns=NAME"
    )


def _find_ids(where: str, table: Table, posters: Posters, labels: list[str]) -> str | None:
    """The column with the most cells that may be posters' names: of those that are named as IDs are, else of all, or where far more
    cells of another may be."""
    step = max(1, len(table.rows) // SAMPLE)
    half = 0.5 * len(table.rows[::step])

    def matches_of(names: list[str], exactly: bool) -> dict[str, int]:
        return {column: sum(posters.may_be(cell, exactly) for cell in table.columns[column][::step]) for column in names}

    columns = [column for column in table.columns if column not in labels]
    known = sorted((column for column in columns if _plain(column) in ID_NAMES), key=lambda name: ID_NAMES.index(_plain(name)))
    # Whole names of files with their endings are no accident, as a column of numbers may be.
    files = {column: sum(posters.is_file(cell) for cell in table.columns[column][::step]) for column in columns}
    if max(files.values(), default=0) > half:
        return max(known + columns, key=lambda column: files[column])
    for exactly in (True, False):
        matches = matches_of(known, exactly)
        if number := max(matches.values(), default=0):
            # Hardly repeated, as a year or a runtime is.
            rest = [name for name in columns if name not in known and len(set(map(str, table.columns[name][::step]))) > half]
            if number <= half < max(matches_of(rest, False).values(), default=0) > 2 * max(matches_of(known, False).values()):
                break  # a few are an accident, as of a game called 1080
            best = [column for column in known if matches[column] == number]
            for column in best[1:]:
                if not _same_images(table.columns[best[0]][::step], table.columns[column][::step], posters):
                    raise InputError(
                        f"{where}: {best[0]!r} and {column!r} could both name the images, but not the same ones; set `id_column` "
                        "to one of them"
                    )
            return best[0]
    matches = matches_of(columns, False)
    others = [column for column in columns if matches[column] > half]
    if len(others) > 1:
        exact = matches_of(others, True)
        others = [column for column in others if exact[column] > half] or others
    if len(others) > 1 and len({tuple(table.columns[column]) for column in others}) > 1:
        candidates = ", ".join(map(repr, others))
        raise InputError(f"{where}: several columns could hold the IDs: {candidates}; set `id_column` to one of them")
    return others[0] if others else known[0] if known else None


def _find_splits(table: Table) -> str | None:
    """The column that says of each row whether it is for training or for the test."""
    for column, cells in table.columns.items():
        first = next((text for text in map(str, cells) if text.strip()), "")
        # Of zeros and ones only those that are no labels, as a train among vehicles is.
        if first.strip().casefold() not in SPLIT_NAMES and _plain(column) not in FLAG_NAMES:
            continue
        meaning = _split_meanings(column, cells)
        if None not in meaning.values() and {"train", "test"} <= set(meaning.values()):
            return column
    return None


def _split_meanings(column: str, cells: list[Any]) -> dict[str, str | None]:
    """The split that each different cell of a column says: by its name or, in a column like `is_test`, by yes and no; an empty text
    where the cell is empty, None where it says none."""
    names = set(map(str, cells))
    split = _split_in(column)
    if split and _is_binary(cells, column):
        other = "test" if split == "train" else "train"
        flags = {name: _flag(name, column) for name in names}
        empty = "" if False in flags.values() else other  # yes, or nothing
        return {name: {True: split, False: other}.get(flag, empty) for name, flag in flags.items()}  # type: ignore[arg-type]
    return {name: SPLIT_NAMES.get(name.strip().casefold()) if name.strip() else "" for name in names}


def _same_images(first: list[Any], second: list[Any], posters: Posters) -> bool:
    """Whether the cells of two columns may be the IDs of the same posters, row by row."""
    pairs = [(set(posters.candidates(a)), set(posters.candidates(b))) for a, b in zip(first, second, strict=True)]
    return all(a & b for a, b in pairs if a and b)


def _rows(table: Table, columns: Columns, separator: str) -> tuple[pd.DataFrame, list[str]]:
    """The table of the module's docstring, and lines on how it was read."""
    ids = [str(cell).strip() for cell in table.columns[columns.id]]
    for row, text in enumerate(ids):
        if text == "." or (".." in text and ".." in re.split(r"[/\\]", text)) or not text.isprintable():
            raise InputError(
                f"{table.where(row)}: {text!r} is no ID; an ID is the image's file name, as tt0081562 or tt0081562.jpg"
            )
    lines = [f"metadata: {some(table.names)} ({', '.join(dict.fromkeys(table.about))})"]
    others = (columns.id, *columns.labels, columns.title, columns.year)
    rest = [name for name in table.columns if name not in others]
    if columns.split and not _is_binary(table.columns[columns.split], columns.split):
        rest = [name for name in rest if name != columns.split]
    about_values = [] if columns.one_hot else _check_values(table, ids, columns.labels, rest)
    if columns.one_hot:
        genres, known = _read_one_hot(table, columns.labels)
        form = f"{len(columns.labels)} columns of zeros and ones: {some(columns.labels, 30)}"
        merged: dict[str, str] = {}
        texts = (text for name in columns.labels for text in map(str, table.columns[name]) if _flag(text, name) == "")
        unknown = Counter(text for text in texts if text.strip())
        if number := sum(_count_minus_one(table.columns[name]) for name in columns.labels):
            form += f", {number} cells of -1 beside zeros read as 0"
    else:
        _refuse_second_header(table, columns.labels)
        number = len(table.rows)
        cells = [cell for name in columns.labels for cell in table.columns[name]]
        labels = read_labels(cells, separator, lambda i: table.where(i % number))
        parts = [labels.rows[start : start + number] for start in range(0, len(cells), number)]
        genres = parts[0] if len(parts) == 1 else [tuple(dict.fromkeys(sum(row, ()))) for row in zip(*parts, strict=True)]
        _check_one_hot(table, columns, genres)
        known = list(map(bool, genres))
        form, merged = f"{', '.join(map(repr, columns.labels))} ({labels.form})", labels.merged
        unknown = labels.unknown
        # Those that could have been labels.
        usual = (*GENRE_NAMES, *LABEL_NAMES)
        flags = [name for name in rest if _plain(name) not in FLAG_NAMES and _is_binary(table.columns[name], name)]
        rest = [name for name in rest if _group(name) in usual or (len(flags) > 1 and name in flags)]
    form += f"; not labels: {some(map(repr, rest), 30)}" if rest else ""
    also = [f"{kind} {name!r}" for kind, name in (("title", columns.title), ("year", columns.year)) if name]
    lines.append(f"columns: ID {columns.id!r}; labels {form}{'; ' + ', '.join(also) if also else ''}")
    if merged:
        lines.append(f"one label in several spellings: {some(f'{name} as {other}' for name, other in merged.items())}")
    if unknown:
        numbers = [f"'{text}' ({number} cells)" for text, number in unknown.most_common()]
        lines.append(f"taken as unknown: {some(numbers)}")
    lines += about_values
    titles = [tidy(str(cell)) for cell in table.columns[columns.title]] if columns.title else [""] * len(ids)
    years = list(_years(table.columns[columns.year] if columns.year else [""] * len(ids), titles))
    movies = {"id": ids, "title": titles, "year": years, "genres": pd.Series(genres, dtype=object)}
    movies |= {"known": known, "table": table.files, "given_split": _read_splits(table, columns.split)}
    return pd.DataFrame(movies), lines


def _read_splits(table: Table, column: str | None) -> list[str]:
    """The split that each row says in a column; empty where it says none."""
    if column is None:
        return [""] * len(table.rows)
    cells = list(map(str, table.columns[column]))
    meaning = _split_meanings(column, cells)
    splits = [meaning[cell] for cell in cells]
    if None in splits:
        row = splits.index(None)
        said = f"{cells[row][:60]!r} in column {column!r}, which `split_by` names,"
        raise InputError(f"{table.where(row)}: {said} is none of train, val and test")
    return splits  # type: ignore[return-value]


def _years(cells: list[Any], titles: list[str]) -> Iterator[str]:
    """The year in each cell, or else in brackets at the end of the title, as MovieLens writes it."""
    for cell, title in zip(cells, titles, strict=True):
        match = re.search(r"(?<!\d)(1[89]\d\d|20\d\d)(?!\d)", str(cell)) or re.search(r"\((1[89]\d\d|20\d\d)\)$", title)
        yield match[1] if match else ""


def _read_one_hot(table: Table, names: list[str]) -> tuple[list[tuple[str, ...]], list[bool]]:
    """The labels of each row, and whether they are known: not where all cells are empty."""
    meanings = [{cell: _flag(cell, name) for cell in set(map(str, table.columns[name]))} for name in names]
    flags = [[meaning[str(cell)] for cell in table.columns[name]] for name, meaning in zip(names, meanings, strict=True)]
    tidied = [tidy(name[len(_prefix(name)) :]) if all(map(_prefix, names)) else tidy(name) for name in names]
    rows = zip(*flags, strict=True)
    read = [(tuple(name for name, flag in zip(tidied, row, strict=True) if flag), any(flag != "" for flag in row)) for row in rows]
    return [labels for labels, _ in read], [known for _, known in read]


def _flag(cell: object, column: str) -> bool | str | None:
    """What a cell of a column of zeros and ones says: True, False, an empty text where nothing stands there, None if it is none."""
    text = str(cell).strip().strip("'\"\ufe0f").casefold()  # the last is what phones write behind a tick
    if re.fullmatch(r"[-+]?\d+(?:[.,]0*)?", text):
        return {1: True, 0: False, -1: False}.get(int(re.split("[.,]", text)[0]))
    if text in YES or text in (column.casefold(), column[len(_prefix(column)) :].casefold()):
        return True
    return False if text in NO else "" if is_unknown(text) else None


def _is_binary(cells: list[Any], column: str) -> bool:
    flags: dict[str, bool | str] = {}
    for cell in map(str, cells):
        if cell not in flags:
            if (flag := _flag(cell, column)) is None:
                return False
            flags[cell] = flag
    return set(flags.values()) != {""}


def _are_numbers(cells: list[Any]) -> bool:
    return all(re.fullmatch(r"(?:[-\d., \[\]{}:]|['\"]id['\"])*", str(cell)) for cell in cells)


def _are_numbered(cells: list[Any]) -> bool:
    """Whether cells are numbers, with letters before them: `S012`."""
    return all(re.fullmatch(r"[^\W\d_]*[-_ ]?\d+", str(cell)) for cell in cells)


def _group(column: str) -> str:
    """The group of columns of labels that a column may belong to: genre of `Genre2` and `Secondary Genre`."""
    name, text = re.sub(r"\d+", "", _plain(column)), re.sub(r"\d+$", "", _plain(column))
    match = _ORDINAL.fullmatch(text)
    return match["name"] if match and match["name"] in GENRE_NAMES else name


def _count_minus_one(cells: list[Any]) -> int:
    """How many cells are -1 in a column that has zeros too, as CheXpert's for uncertain findings; 0 where -1 stands for them."""
    values = Counter(str(cell).removesuffix(".0") for cell in cells)
    return values["-1"] if values["0"] else 0


def _prefix(column: str) -> str:
    """The beginning of a column's name that says that it is a label's, as `genre_` does; else empty."""
    match = re.match(rf"(?:{'|'.join(PREFIXES)})s?[_: .=/-]+(?=\S)", column, re.IGNORECASE)
    return match[0] if match else ""


def _refuse_typo(table: Table, column: str) -> None:
    """Refuse a column that holds zeros and ones but for a few cells."""
    cells = list(map(str, table.columns[column]))
    meaning = {cell: _flag(cell, column) for cell in set(cells)}
    wrong = [i for i, cell in enumerate(cells) if meaning[cell] is None]
    if wrong and len(wrong) <= 0.1 * len(cells) and True in meaning.values():
        where, cell = table.where(wrong[0]), cells[wrong[0]]
        raise InputError(f"{where}: column {column!r} holds {cell!r}, where 0 or 1 is right; mend it, or set `label_columns`")


def _refuse_second_header(table: Table, columns: list[str]) -> None:
    """Refuse columns of zeros and ones whose names stand in a second row, as pandas writes columns of two levels."""
    names = [str(table.columns[column][0]) for column in columns]
    below = all(_is_binary(table.columns[column][1:], column) for column in columns)
    if len(columns) > 1 and below and all(_flag(name, column) is None for name, column in zip(names, columns, strict=True)):
        raise InputError(f"{table.where(0)}: a second header, {some(names)}; keep one row of names")


def _check_values(table: Table, ids: list[str], labels: list[str], columns: list[str]) -> list[str]:
    """Refuse rows of one label each with a value, a share, a percentage or yes and no, of which it is not known which ones mean
    that the label is right; a value that is the same in all rows of an image is not about the label. Returns lines on columns of
    yes and no whose names do not say what they are about."""
    images = [row for row, text in enumerate(ids) if text]
    number = len({ids[row] for row in images})

    def same(cells: list[Any]) -> bool:
        return len({(ids[row], str(cells[row])) for row in images}) == number

    lines: list[str] = []
    if number == len(images) or all(same(table.columns[label]) for label in labels):
        return lines
    for column in columns:
        cells, name = table.columns[column], _plain(column)
        binary = _is_binary(cells, column)
        if (not binary and name not in VALUE_NAMES and name != "count") or same(cells):
            continue
        flags = {_flag(cell, column) for cell in set(map(str, cells))}
        both = binary and {True, False} <= flags
        numbers = [str(cell).replace(",", ".").removesuffix("%") for cell in cells if str(cell)]
        if both and name not in ANSWER_NAMES:
            lines.append(f"column {column!r} says yes and no in rows of one image: the labels of all rows count")
        elif both or (False in flags if name == "count" else _are_shares(numbers)):
            said = "says no of some labels"
            if not binary:
                said = f"has values from {'0' if name == 'count' else min(numbers, key=float)} for the rows' labels"
            raise InputError(
                f"{table.names[0]}: column {column!r} {said}; keep the rows whose label is right, and leave that column out"
            )
    return lines


def _are_shares(cells: list[str]) -> bool:
    """Whether texts are numbers from 0 to 1, or to 100, and some are below a half of that."""
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return False
    top = 1 if max(values, default=0) <= 1 else 100
    return 0 <= min(values, default=1) < 0.5 * top and max(values) <= top


def _check_one_hot(table: Table, columns: Columns, genres: list[tuple[str, ...]]) -> None:
    """Check that the columns named like genres hold 0 or 1 and agree with the labels, but for those that do not in so many rows
    that they must be about something else."""
    names = {name for row in genres for name in row}
    for column in [column for column in table.columns if column in names and column not in (columns.id, *columns.labels)]:
        meaning = {cell: _flag(cell, column) for cell in set(map(str, table.columns[column]))}
        flags = [meaning[str(cell)] for cell in table.columns[column]]
        wrong = [row for row, flag in enumerate(flags) if flag is None or bool(flag) != (column in genres[row])]
        if not wrong or len(wrong) > max(10, 0.1 * len(flags)):
            continue
        row, cell = wrong[0], table.columns[column][wrong[0]]
        if flags[row] is None:
            raise InputError(f"{table.where(row)}: column {column!r} holds {cell!r}; 0 or 1 is right")
        said = f"{columns.labels[0]} is {', '.join(genres[row])!r}"
        raise InputError(f"{table.where(row)}: {said}, but column {column!r} holds {cell}")


def split_of_table(name: str) -> str:
    """The split that a word in a table's name says, or the names of its folders; empty where none does."""
    path = PurePosixPath(name)
    return _split_in(path.stem) or split_of_folders(path.parent.parts)


def split_of_folders(folders: Sequence[str]) -> str:
    """The split that the names of folders and archives say, from the outermost; empty where none does.

    The outermost that is named after a split decides, as in `test/train/bus.jpg`, where `train` is a class; else the innermost that
    has such a word in its name.
    """
    names = [folder.casefold().removesuffix(".zip") for folder in folders]
    named = [SPLIT_NAMES[name] for name in names if name in SPLIT_NAMES]
    return next(iter(named + list(filter(None, map(_split_in, reversed(names))))), "")


def _split_in(name: str) -> str:
    words = re.split(r"[\W_]+", name.casefold())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")


def _together(tables: list[Table]) -> Table:
    """Several tables as one; what one of them has not is empty."""
    if len(tables) == 1:
        return tables[0]
    whole = Table([], {}, [], [])
    spellings = _spellings(tables)
    for name in dict.fromkeys(name for spelling in spellings for name in spelling.values()):
        whole.columns[name] = []
    for table, spelling in zip(tables, spellings, strict=True):
        whole.names += table.names
        whole.files += table.files
        whole.rows += table.rows
        whole.about += table.about
        own = {spelling[name]: cells for name, cells in table.columns.items()}
        for name in whole.columns:
            whole.columns[name] += own.get(name) or [""] * len(table.rows)
    return whole


def _spellings(tables: list[Table]) -> list[dict[str, str]]:
    """For each table, from the names of its columns to those that they have in all tables together.

    They are those of the first table that has them, without regard to case, spaces and signs where a table has but one such name:
    `C`, `C++` and `C#` are three.
    """
    alike: dict[str, list[str]] = {}
    spellings = []
    for table in tables:
        numbers = Counter(map(_plain, table.columns))
        spelling = {}
        for name in table.columns:
            known = alike.setdefault(_plain(name), [])
            same = len(known) == 1 == numbers[_plain(name)]
            spelling[name] = known[0] if same else name
        for name in spelling.values():
            if name not in alike[_plain(name)]:
                alike[_plain(name)].append(name)
        spellings.append(spelling)
    return spellings


def _plain(name: str) -> str:
    """A column's name without case, spaces and signs."""
    return re.sub(r"[\W_]+", "", name.casefold())
