"""Tables as people have them, read to cells: CSV in any form, TSV, JSON, JSON lines, COCO, Parquet, Excel, lists of CelebA and
MovieLens, objects of the Mongo shell; as they are, or compressed.

A cell is text, stripped of spaces, or what JSON and Parquet have in its place: a list or a dictionary. Missing ones are empty text.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import math
import re
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from poster_genres.dataset import POSTER_SUFFIXES, File, open_file, read_table_bytes
from poster_genres.errors import InputError
from poster_genres.texts import unique

SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".dat", ".json", ".jsonl", ".ndjson", ".parquet", ".xlsx", ".xls")
COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# A compressed table may be this large, in bytes, when it is read.
MOST_BYTES = 1 << 30
DELIMITERS = (",", ";", "\t", "|")
# So much of a long text is read to see whether it is a table.
HEAD = 1 << 16
# Lines that show which delimiter a file has.
SAMPLE = 50
# Single-byte and East Asian encodings that spreadsheets write or wrote, told apart by charset-normalizer where UTF-8 does not fit.
ENCODINGS = [
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r", "shift_jis", "euc_jp",
    "gb18030", "big5", "euc_kr", "mac_roman",
]  # fmt: skip
_OBJECT_ID = re.compile(r'("_id"\s*:\s*)ObjectId\(\s*("[^"]*")\s*\)')
# Keys of an image's own record, unlike those of a frame around records.
_OF_A_RECORD = re.compile("id$|file|image|label|tag|genre|path|name|title", re.IGNORECASE)
_OF_AN_IMAGE = re.compile("id$|file|image|path|name", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")
_SPACE = re.compile(r"\s*")
_ESCAPED = re.compile("[\udc80-\udcff]")
# A text is UTF-8 if fewer of its signs that are not ASCII are wrong.
MIXED = 0.1


@dataclass
class Table:
    """The cells of a file, or of several of one form.

    Attributes
    ----------
    names : of the files, relative to the data set
    columns : the cells of each column, by its name in the header
    files : of each row, the file
    rows : of each row, where it is in its file: `row 3`
    about : encoding and delimiter, for people
    """

    names: list[str]
    columns: dict[str, list[Any]]
    files: list[str]
    rows: list[str]
    about: list[str] = field(default_factory=list)

    def where(self, row: int) -> str:
        """A row's place, for messages: `movies.csv, row 3`."""
        return f"{self.files[row]}, {self.rows[row]}"


def decode(data: bytes, name: str) -> tuple[str, str]:
    """A file's text, and its encoding: by a byte-order mark, by UTF-16's NULs, UTF-8, also with a few wrong bytes, Mac Roman by its
    line ends, or the likeliest of `ENCODINGS`."""
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig"}
    for mark, encoding in (marks | {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}).items():
        if data.startswith(mark):
            return _decode(data, encoding, name), encoding.removesuffix("-sig")
    if data[:1] and b"\0" in data[:2]:
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
        return _decode(data, encoding, name), encoding
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return _decode_other(data)


def _decode_other(data: bytes) -> tuple[str, str]:
    """A text that is not UTF-8, or not throughout, and its encoding."""
    escaped = data.decode("utf-8", "surrogateescape")  # with a surrogate for each byte that is wrong
    wrong = list(_ESCAPED.finditer(escaped))
    if len(wrong) < MIXED * sum(not sign.isascii() for sign in escaped):  # a few rows of another origin
        line = escaped.count("\n", 0, wrong[0].start()) + 1
        about = f"utf-8, but {len(wrong)} byte(s) read as cp1252, the first in line {line}"
        return _ESCAPED.sub(lambda byte: byte[0].encode("utf-8", "surrogateescape").decode("cp1252", "replace"), escaped), about
    if b"\r" in data and b"\n" not in data:  # line ends of Excel's "CSV (Macintosh)"
        return data.decode("mac_roman"), "mac_roman"
    from charset_normalizer import from_bytes

    matches = list(from_bytes(data, cp_isolation=ENCODINGS))
    # Where several are as likely, Western European: few letters tell it from Central European.
    least = min((match.chaos for match in matches), default=0.0)
    western = any("cp1252" in match.could_be_from_charset and match.chaos <= least for match in matches)
    encoding = "cp1252" if western or not matches else matches[0].encoding
    with suppress(UnicodeDecodeError):
        return data.decode(encoding), f"{encoding}, guessed"
    return data.decode("latin-1"), "latin-1"


def _decode(data: bytes, encoding: str, name: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not readable as {encoding} text at byte {error.start}; save it as UTF-8") from None


def table_suffix(file: File) -> str:
    """The ending that says what a table is, without that of its compression: `.csv` of `movies.csv.gz`."""
    return PurePosixPath(file.path.removesuffix(file.suffix)).suffix.lower() if file.suffix in COMPRESSED else file.suffix


def _content(dataset: Path, file: File) -> bytes:
    """The bytes of a table, unpacked."""
    data = read_table_bytes(dataset, file)
    if file.suffix not in COMPRESSED:
        return data
    try:
        with COMPRESSED[file.suffix](io.BytesIO(data)) as stream:
            data = stream.read(MOST_BYTES + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"{dataset}/{file.name}: cannot be unpacked: {error}; download it again") from None
    if len(data) > MOST_BYTES:
        raise InputError(f"{dataset}/{file.name}: more than {MOST_BYTES >> 20} MB unpacked; keep the rows of your images only")
    return data


def read_table(dataset: Path, file: File) -> list[Table]:
    """The cells of a file, of a workbook those of each sheet; none for a text file that is no table, such as a README or a license.

    Raises
    ------
    InputError
        The file cannot be read as what its name says, and where it is wrong.
    """
    name, suffix = f"{dataset}/{file.name}", table_suffix(file)
    if suffix in (".parquet", ".xlsx", ".xls"):
        return _read_frames(_content(dataset, file), suffix, file, name)
    if file.suffix == ".txt" and file.size > HEAD:
        # What cannot be read is said below, where all of it is.
        with (
            suppress(OSError, zipfile.BadZipFile, EOFError, KeyError),
            open_file(dataset, file.archive, file.path) as opened,
        ):
            if not _may_be_table(opened.read(HEAD)):
                return []
    table = _read_text(_content(dataset, file), suffix, file, name)
    return [] if table is None else [table]


def _read_text(data: bytes, suffix: str, file: File, name: str) -> Table | None:
    if suffix == ".dat" and data.partition(b"\n")[0].count(b"::") != 2:
        return None
    text, encoding = decode(data, name)
    text = text.rstrip("\0\x1a")  # which old programs write at the end
    first_line = text.strip("\ufeff \t\r\n").partition("\n")[0]
    records = None
    if suffix in (".json", ".jsonl", ".ndjson") and first_line:
        records = _json_records(text, name)
    elif suffix == ".txt" and first_line.startswith("{"):
        records = _mongo_records(text, name)
    if records is not None:
        return _from_records(records, file, [encoding, "groundtruth"] if suffix == ".txt" else [encoding])
    if suffix == ".dat":
        return _read_movielens(text, encoding, file)
    if suffix == ".txt" and first_line.strip().isdecimal():
        return _read_celeba(text, encoding, file)
    is_csv = suffix in (".csv", ".tsv", ".tab") or (suffix == ".txt" and any(sign in first_line for sign in DELIMITERS))
    return _read_csv(text, encoding, suffix, file, name) if is_csv and first_line else None


def _may_be_table(head: bytes) -> bool:
    """Whether a text that begins so may be a table: its first line is a number, has a delimiter, or begins an object. In UTF-8 and
    UTF-16."""
    line = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").partition(b"\n")[0]
    return line.startswith(b"{") or line.strip().isdigit() or any(sign.encode() in line for sign in DELIMITERS)


def _read_movielens(text: str, encoding: str, file: File) -> Table:
    """`movies.dat` of MovieLens: ID, title and genres between `::`, without a header."""
    lines = [(i + 1, line.split("::")) for i, line in enumerate(text.splitlines()) if line.strip()]
    if wrong := next((i for i, cells in lines if len(cells) != 3), None):
        raise InputError(f"{file.name}, row {wrong}: should be an ID, a title and genres between '::'")
    columns = dict(zip(("movieId", "title", "genres"), map(list, zip(*(cells for _, cells in lines), strict=True)), strict=True))
    return Table([file.name], columns, [file.name] * len(lines), [f"row {i}" for i, _ in lines], [encoding, "cells between '::'"])


def _read_celeba(text: str, encoding: str, file: File) -> Table | None:
    """`list_attr_celeba.txt` of CelebA: the number of images, the names of attributes, and for each image its name and 1 or -1 of
    each, between spaces; None for other text."""
    lines = [(i + 1, line.split()) for i, line in enumerate(text.splitlines()) if line.strip()]
    if len(lines) < 3 or {len(cells) for _, cells in lines[2:]} != {len(lines[1][1]) + 1}:
        return None
    cells = map(list, zip(*(cells for _, cells in lines[2:]), strict=True))
    columns = dict(zip(["image_id", *unique(lines[1][1])], cells, strict=True))
    rows = [f"row {i}" for i, _ in lines[2:]]
    return Table([file.name], columns, [file.name] * len(rows), rows, [encoding, "cells between spaces"])


def _read_csv(text: str, encoding: str, suffix: str, file: File, name: str) -> Table:
    csv.field_size_limit(2**31 - 1)
    text = text.lstrip("\ufeff")
    hint = re.match(r'"?sep=(.)"?[\r\n]+', text)  # Excel's own
    body = text[hint.end() :] if hint else text
    delimiter = hint[1] if hint else _delimiter(_LINE_END.split(body, SAMPLE)[:SAMPLE], suffix)
    options = _quoting(body, delimiter, name)
    plain = options.get("quoting") == csv.QUOTE_NONE
    # With the lines' ends, as a quoted cell may contain some.
    reader = csv.reader(_lines(body), delimiter=delimiter, skipinitialspace=True, **options)
    of_excel = '="' in body  # which keeps zeros so: ="0086425"
    skipped = 1 if hint else 0
    header: list[str] = []
    cells: list[list[str]] = []
    rows: list[str] = []
    try:
        for row in reader:
            line = [cell.strip() for cell in row]
            if plain:
                line = [cell[1:-1].replace('""', '"') if re.fullmatch(r'".*"', cell) else cell for cell in line]
            if of_excel:
                line = [cell[2:-1] if re.fullmatch(r'="[^"]*"', cell) else cell for cell in line]
            if not any(line):
                continue
            if not header:
                header = line
                cells = [[] for _ in header]
                continue
            while len(line) > len(header) and not line[-1]:
                line.pop()
            if len(line) > len(header) == 1:
                raise InputError(
                    f"{name}: its first row has one cell, {header[0][:60]!r}, and row {skipped + reader.line_num} has {len(line)}; "
                    "remove what stands above the header"
                )
            if len(line) > len(header):
                raise InputError(
                    f"{name}, row {skipped + reader.line_num}: {len(line)} cells, but the header has {len(header)}: "
                    f"{delimiter.join(line)[:60]!r}; put cells that contain {delimiter!r} in double quotes"
                )
            if line == header[: len(line)] and len(line) > 1:  # the header again, where files were put together
                continue
            for column, cell in zip_longest(cells, line, fillvalue=""):
                column.append(cell)  # type: ignore[union-attr]
            rows.append(f"row {skipped + reader.line_num}")
    except csv.Error as error:
        raise InputError(f"{name}, row {skipped + reader.line_num}: not readable as CSV: {error}") from None
    if unnamed := [i + 1 for i, column in enumerate(header) if i and not column and any(cells[i])]:
        raise InputError(
            f"{name}: column {unnamed[0]} has cells but no name in the header, {delimiter.join(header)[:60]!r}; name it, or remove "
            "what stands above or below the header"
        )
    # Without a name there may be one column, the first, as pandas writes its index.
    named = [i for i, column in enumerate(header) if column or not i]
    columns = dict(zip(unique(header[i] for i in named), (cells[i] for i in named), strict=True))
    shown = {"\t": "tab"}.get(delimiter, repr(delimiter))
    return Table([file.name], columns, [file.name] * len(rows), rows, [encoding, f"cells between {shown}"])


def _lines(text: str) -> Iterator[str]:
    """The lines of a text with their ends; unlike those of `splitlines`, a Unicode line separator ends none."""
    start = 0
    for end in _LINE_END.finditer(text):
        yield text[start : end.end()]
        start = end.end()
    if start < len(text):
        yield text[start:]


def _quoting(text: str, delimiter: str, name: str) -> dict[str, Any]:
    """How quotes are meant in a CSV text, as options of `csv.reader`: around cells and written twice, or after a backslash, within
    them; or as letters, where each line has as many cells as the header.

    Raises
    ------
    InputError
        A cell begins with a quote that is not closed, and would contain all that follows.
    """
    if '"' not in text:
        return {}
    plain = len({line.count(delimiter) for line in _lines(text) if line.strip()}) == 1
    if plain and delimiter == "\t":  # as in IMDb's files
        return {"quoting": csv.QUOTE_NONE}
    backslashes: list[dict[str, Any]] = [{"escapechar": "\\"}] if '\\"' in text else []
    for options in ({}, *backslashes):
        with suppress(csv.Error):
            deque(csv.reader(_lines(text), delimiter=delimiter, skipinitialspace=True, strict=True, **options), maxlen=0)
            return options
    if plain:
        return {"quoting": csv.QUOTE_NONE}
    reader, before = csv.reader(_lines(text), delimiter=delimiter, skipinitialspace=True), 0
    for _ in reader:
        if reader.line_num > before + 1:
            raise InputError(
                f"{name}, row {before + 1}: a double quote opens a cell and does not close it; remove it, or write two"
            )
        before = reader.line_num
    return {}


def _delimiter(lines: list[str], suffix: str) -> str:
    """The delimiter that gives the most cells in the header, and the same number in most lines below it."""
    if suffix in (".tsv", ".tab"):
        return "\t"

    def fit(delimiter: str) -> tuple[float, int]:
        numbers = [len(row) for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True) if any(row)]
        if not numbers or numbers[0] < 2:
            return 0.0, 0
        return sum(number == numbers[0] for number in numbers) / len(numbers), numbers[0]

    fits = {delimiter: fit(delimiter) for delimiter in DELIMITERS}
    return max(DELIMITERS, key=lambda delimiter: (fits[delimiter][1] > 0, fits[delimiter][0] > 0.5, fits[delimiter][1]))


def _json_records(text: str, name: str) -> list[dict[str, Any]] | None:
    """The records of a JSON file: a list of them, one, one by ID, one per line, or pandas' columns; None where it has none."""
    once = partial(_once, name)
    try:
        content = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as whole:
        try:
            content = [json.loads(line, object_pairs_hook=once) for line in text.split("\n") if line.strip()]
        except (json.JSONDecodeError, RecursionError):
            raise InputError(f"{name}: not readable as JSON: {whole}") from None
    except RecursionError:
        raise InputError(f"{name}: not readable as JSON: it is nested too deeply") from None
    if isinstance(content, dict):
        if all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories")):
            return _coco_records(content, name)
        values = list(content.values())
        lists = [value for value in values if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)]
        if values and all(isinstance(value, dict) for value in values):
            keys = [set(value) for value in values]
            if len(values) > 1 and all(key == keys[0] for key in keys) and len(keys[0]) >= len(values) and "0" in keys[0]:
                # Columns by their names, cells by the rows' numbers: pandas' `to_json`.
                content = [{column: cells[row] for column, cells in content.items()} for row in values[0]]
            else:
                # The key may be the image's name, or a running number beside an `id` of the record's own.
                name_of_key = "key" if any("id" in value for value in values) else "id"
                content = [{name_of_key: key, **value} for key, value in content.items()]
        elif values and sum(PurePosixPath(key).suffix.lower() in POSTER_SUFFIXES for key in content) > 0.5 * len(content):
            # Labels by the names of files.
            content = [{"file_name": key, "labels": value} for key, value in content.items()]
        elif len(lists) == 1 and not any(_OF_A_RECORD.search(key) for key, value in content.items() if value is not lists[0]):
            # The records in a frame of other things, as in the answers of web services.
            content = lists[0]
        elif set(content) == {"columns", "index", "data"} and all(
            isinstance(row, list) for row in [content["columns"], *content["data"]]
        ):
            # pandas' `to_json(orient="split")`.
            content = [dict(zip(content["columns"], row, strict=False)) for row in content["data"]]
        elif (
            all(isinstance(value, list) for value in values)
            and len({len(value) for value in values}) == 1
            and any(_OF_AN_IMAGE.search(key) for key in content)  # else a record of lists: {"genres": ["Drama"], "cast": ["Kim"]}
        ):
            content = [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
        else:
            content = [content]
    if not isinstance(content, list) or not content or not all(isinstance(record, dict) for record in content):
        return None
    return [_label_studio(record) for record in content]


def _once(name: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file, of which Python would keep the last value of a key that is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs) and (twice := next((key for key, value in pairs if value != found[key]), None)) is not None:
        raise InputError(f"{name}: {twice[:60]!r} is there twice, with different values; keep one")
    return found


def _coco_records(content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The images of COCO's format, each with the names of its annotations' categories."""
    try:
        names = {category["id"]: category["name"] for category in content["categories"]}
        labels: dict[Any, dict[str, None]] = {image["id"]: {} for image in content["images"]}
        for annotation in content["annotations"]:
            labels[annotation["image_id"]][names[annotation["category_id"]]] = None
        return [{"file_name": image["file_name"], "labels": list(labels[image["id"]])} for image in content["images"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{name}: not COCO's format: of its images, annotations and categories one lacks {error}") from None


def _label_studio(record: dict[str, Any]) -> dict[str, Any]:
    """A task of Label Studio's JSON as its data and the choices of its annotations; other records as they are."""
    data, annotations = record.get("data"), record.get("annotations")
    if not isinstance(data, dict) or not isinstance(annotations, list):
        return record
    kept = [annotation for annotation in annotations if isinstance(annotation, dict) and not annotation.get("was_cancelled")]
    results = [result for annotation in kept for result in annotation.get("result") or [] if isinstance(result, dict)]
    values = [value for result in results if isinstance(value := result.get("value"), dict)]
    kinds = ("choices", "rectanglelabels", "polygonlabels", "brushlabels")
    return data | {"labels": [name for value in values for kind in kinds for name in value.get(kind) or []]}


def _mongo_records(text: str, name: str) -> list[dict[str, Any]]:
    """Objects as the Mongo shell prints them: JSON, one after the other, except for `"_id" : ObjectId("…")`."""
    text = _OBJECT_ID.sub(r"\1\2", text.lstrip())
    decoder = json.JSONDecoder(object_pairs_hook=partial(_once, name), strict=False)
    records: list[dict[str, Any]] = []
    position = 0
    while position < len(text):
        try:
            record, position = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{name}, record {len(records) + 1}: not a JSON object ({error})") from None
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if not isinstance(record, dict) or not isinstance(record.get("imdbID"), str):
            raise InputError(
                f'{name}, record {len(records) + 1}: no "imdbID"; a record looks like '
                '{"imdbID": "tt0081562", "Genre": "Comedy, Crime"}'
            )
        record.pop("_id", None)
        if re.fullmatch(r"\d{4}", stem := PurePosixPath(name).stem):
            record.setdefault("Year", stem)
        records.append(record)
    return records


def _from_records(records: list[dict[str, Any]], file: File, about: list[str]) -> Table:
    names = list(dict.fromkeys(str(name).strip() for record in records for name in record))
    cleaned = [{str(name).strip(): _cell(value) for name, value in record.items()} for record in records]
    columns = {name: [record.get(name, "") for record in cleaned] for name in names}
    rows = [f"record {i + 1}" for i in range(len(records))]
    return Table([file.name], columns, [file.name] * len(rows), rows, about)


def _cell(value: Any) -> Any:
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, dict) and isinstance(value.get("path"), str) and "bytes" in value:
        return value["path"]  # an image, as Hugging Face's datasets write it
    if isinstance(value, list | dict):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _read_frames(data: bytes, suffix: str, file: File, name: str) -> list[Table]:
    frames: dict[str, pd.DataFrame]
    try:
        if suffix == ".parquet":
            frames = {"": pd.read_parquet(io.BytesIO(data))}
        else:
            frames = pd.read_excel(io.BytesIO(data), sheet_name=None, dtype=object)
    except ImportError as error:
        package = "pyarrow" if suffix == ".parquet" else "xlrd" if suffix == ".xls" else "openpyxl"
        raise InputError(f"{name}: needs one more package to be read: pip install {package} ({error})") from None
    except Exception as error:  # whatever the libraries raise on a damaged file
        raise InputError(f"{name}: not readable as {suffix[1:]}: {' '.join(str(error).split())[:150]}") from None
    filled = {sheet: frame for sheet, frame in frames.items() if len(frame)}
    return [_from_frame(frame, f"{file.name}/{sheet}" if len(filled) > 1 else file.name, suffix) for sheet, frame in filled.items()]


def _from_frame(frame: pd.DataFrame, name: str, suffix: str) -> Table:
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index(names=[name or "" for name in frame.index.names], allow_duplicates=True)
    cells = {
        column: [_cell(value.tolist() if hasattr(value, "tolist") else value) for value in frame.iloc[:, i]]
        for i, column in enumerate(unique(str(column).strip() for column in frame.columns))
    }
    filled = [i for i, row in enumerate(zip(*cells.values(), strict=True)) if any(row)]
    columns = {column: [values[i] for i in filled] for column, values in cells.items()}
    rows = [f"row {i + 2}" for i in filled]
    return Table([name], columns, [name] * len(rows), rows, [suffix[1:]])
