"""Tables as people have them, read to cells: CSV in any form, TSV, JSON, JSON lines, Parquet, Excel, objects of the Mongo shell.

A cell is text, stripped of spaces, or what JSON and Parquet have in its place: a list or a dictionary. Missing ones are empty text.
"""

import codecs
import contextlib
import csv
import io
import json
import math
import re
import zipfile
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from poster_genres.dataset import File, open_file, read_table_bytes
from poster_genres.errors import InputError
from poster_genres.texts import unique

SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".xlsx", ".xls")
DELIMITERS = (",", ";", "\t", "|")
# So much of a long text is read to see whether it is a table.
HEAD = 1 << 16
# Lines that show which delimiter a file has.
SAMPLE = 50
# Single-byte and East Asian encodings that spreadsheets write, told apart by charset-normalizer where UTF-8 does not fit.
ENCODINGS = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "shift_jis", "gb18030", "big5", "euc_kr"]
_OBJECT_ID = re.compile(r'("_id"\s*:\s*)ObjectId\(\s*("[^"]*")\s*\)')
_LINE_END = re.compile(r"\r\n|\r|\n")
_SPACE = re.compile(r"\s*")


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
    """A file's text, and its encoding: by a byte-order mark, by UTF-16's NULs, UTF-8, or the likeliest of `ENCODINGS`."""
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):
            return _decode(data, encoding, name), encoding.removesuffix("-sig")
    if data[:1] and b"\0" in data[:2]:
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
        return _decode(data, encoding, name), encoding
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    from charset_normalizer import from_bytes

    matches = list(from_bytes(data, cp_isolation=ENCODINGS))
    # Where several are as likely, Western European: few letters tell it from Central European.
    least = min((match.chaos for match in matches), default=0.0)
    western = any("cp1252" in match.could_be_from_charset and match.chaos <= least for match in matches)
    encoding = "cp1252" if western or not matches else matches[0].encoding
    try:
        return data.decode(encoding), encoding
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"


def _decode(data: bytes, encoding: str, name: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not readable as {encoding} text at byte {error.start}; save it as UTF-8") from None


def read_table(dataset: Path, file: File) -> Table | None:
    """The cells of a file; None for a text file that is no table, such as a README or a license.

    Raises
    ------
    InputError
        The file cannot be read as what its name says, and where it is wrong.
    """
    name = f"{dataset}/{file.name}"
    if file.suffix in (".parquet", ".xlsx", ".xls"):
        return _read_frame(dataset, file, name)
    if file.suffix == ".txt" and file.size > HEAD:
        # What cannot be read is said below, where all of it is.
        unreadable = contextlib.suppress(OSError, zipfile.BadZipFile, EOFError, KeyError)
        with unreadable, open_file(dataset, file.archive, file.path) as opened:
            if not _may_be_table(opened.read(HEAD)):
                return None
    text, encoding = decode(read_table_bytes(dataset, file), name)
    first_line = text.strip("\ufeff \t\r\n").partition("\n")[0]
    text_only = file.suffix == ".txt" and not first_line.startswith("{") and not any(sign in first_line for sign in DELIMITERS)
    if not first_line or text_only:
        return None
    if file.suffix in (".json", ".jsonl", ".ndjson"):
        records = _json_records(text, name)
        return None if records is None else _from_records(records, file, [encoding])
    if file.suffix == ".txt" and first_line.startswith("{"):
        return _from_records(_mongo_records(text, name), file, [encoding, "groundtruth"])
    return _read_csv(text, encoding, file, name)


def _may_be_table(head: bytes) -> bool:
    """Whether a text that begins so may be a table: a delimiter is in its first line, or it is an object. In UTF-8 and UTF-16."""
    line = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").partition(b"\n")[0]
    return line.startswith(b"{") or any(sign.encode() in line for sign in DELIMITERS)


def _read_csv(text: str, encoding: str, file: File, name: str) -> Table:
    csv.field_size_limit(2**31 - 1)
    text = text.lstrip("\ufeff")
    hint = re.match(r'"?sep=(.)"?[\r\n]+', text)  # Excel's own
    body = text[hint.end() :] if hint else text
    delimiter = hint[1] if hint else _delimiter(_LINE_END.split(body, SAMPLE)[:SAMPLE], file.suffix)
    # Between tabs quotes are letters where each line has as many cells as the header, as in IMDb's files.
    plain = delimiter == "\t" and len({line.count("\t") for line in _LINE_END.split(body) if line.strip()}) == 1
    # With the lines' ends, as a quoted cell may contain some.
    quoting = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter, quoting=quoting, skipinitialspace=True)  # type: ignore[arg-type]
    skipped = 1 if hint else 0
    header: list[str] = []
    cells: list[list[str]] = []
    rows: list[str] = []
    try:
        for row in reader:
            line = [cell.strip() for cell in row]
            if plain:
                line = [cell[1:-1].replace('""', '"') if re.fullmatch(r'".*"', cell) else cell for cell in line]
            if not any(line):
                continue
            if not header:
                header = line
                cells = [[] for _ in header]
                continue
            while len(line) > len(header) and not line[-1]:
                line.pop()
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
    try:
        content = json.loads(text)
    except json.JSONDecodeError as whole:
        try:
            content = [json.loads(line) for line in text.split("\n") if line.strip()]
        except (json.JSONDecodeError, RecursionError):
            raise InputError(f"{name}: not readable as JSON: {whole}") from None
    except RecursionError:
        raise InputError(f"{name}: not readable as JSON: it is nested too deeply") from None
    if isinstance(content, dict):
        values = list(content.values())
        if values and all(isinstance(value, dict) for value in values):
            keys = [set(value) for value in values]
            if len(values) > 1 and all(key == keys[0] for key in keys) and len(keys[0]) >= len(values) and "0" in keys[0]:
                # Columns by their names, cells by the rows' numbers: pandas' `to_json`.
                content = [{column: cells[row] for column, cells in content.items()} for row in values[0]]
            else:
                content = [{"id": key, **value} for key, value in content.items()]
        elif values and all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
            content = [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
        else:
            content = [content]
    if not isinstance(content, list) or not content or not all(isinstance(record, dict) for record in content):
        return None
    return content


def _mongo_records(text: str, name: str) -> list[dict[str, Any]]:
    """Objects as the Mongo shell prints them: JSON, one after the other, except for `"_id" : ObjectId("…")`."""
    text = _OBJECT_ID.sub(r"\1\2", text.lstrip())
    decoder = json.JSONDecoder(strict=False)
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
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | dict):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _read_frame(dataset: Path, file: File, name: str) -> Table:
    data = io.BytesIO(read_table_bytes(dataset, file))
    try:
        frame = pd.read_parquet(data) if file.suffix == ".parquet" else pd.read_excel(data, dtype=object)
    except ImportError as error:
        package = "pyarrow" if file.suffix == ".parquet" else "xlrd" if file.suffix == ".xls" else "openpyxl"
        raise InputError(f"{name}: needs one more package to be read: pip install {package} ({error})") from None
    except Exception as error:  # whatever the libraries raise on a damaged file
        raise InputError(f"{name}: not readable as {file.suffix[1:]}: {' '.join(str(error).split())[:150]}") from None
    frame = frame.reset_index() if frame.index.name else frame
    cells = {
        str(column).strip(): [_cell(value.tolist() if hasattr(value, "tolist") else value) for value in frame[column]]
        for column in frame.columns
    }
    filled = [i for i, row in enumerate(zip(*cells.values(), strict=True)) if any(row)]
    columns = {column: [values[i] for i in filled] for column, values in cells.items()}
    rows = [f"row {i + 2}" for i in filled]
    return Table([file.name], columns, [file.name] * len(rows), rows, [file.suffix[1:]])
