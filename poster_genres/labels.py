"""Cells that name labels, in the forms in which people write them, read to tuples of names.

The form is decided once for a whole column, from the column's statistics: a sign may separate names in one column and be part of a
name in another.
"""

import ast
import html
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from poster_genres.errors import InputError

# What pandas, NumPy, IMDb, MovieLens, Excel, SQL, JSON, Wikipedia and people write where nothing is known, without regard to case.
UNKNOWN = frozenset(
    {
        "", "n/a", "n.a.", "n.a", "na", "#n/a", "#n/a n/a", "#na", "<na>", "nan", "-nan", "nat", "none", "(none)", "null", "#null!",
        "nil", "\\n", "\\\\n", "-", "--", "\u2013", "\u2014", "?", "??", ".", "unknown", "(unknown)", "[unknown]", "unspecified",
        "undefined", "missing", "not available", "not known", "(no genres listed)", "no genres listed", "(no genre listed)",
        "no genre", "tbd", "tba", "keine angabe", "k.a.", "unbekannt", "inconnu", "desconocido",
        "sconosciuto", "...", "\u2026", "[]", "{}", "()", "set()", "array([])", '""', "''",
    }
)  # fmt: skip
# In order of precedence. The first ones are no part of names; the others are separators if names recur on both sides of them.
# Of the sure ones: full-width comma and semicolon, the ideographic and the Arabic comma, the bullet.
SURE = ("|", ";", "\t", "\n", "\uff0c", "\uff1b", "\u3001", "\u060c", "\u2022", "<br>", "<br/>", "<br />")
COMMA = ","
UNSURE = ("/", "&", "+", "·", "::", "\\", "~", "^", " and ", " et ", " und ", " y ", "#", " - ")
# As they are signs within names too, they separate only where each name also stands alone.
HYPHENS = ("_", ":", "-")
SPACE = " "
NO_SEPARATOR = "none"
NAMES = {"\t": "tab", "\n": "line break", SPACE: "space", NO_SEPARATOR: "none: one label per cell"}
SIGNS = {name: sign for sign, name in NAMES.items()}
# The share of names that must stand in several different cells for a sign to be a separator.
RECURRING = {**dict.fromkeys(UNSURE, 0.7), **dict.fromkeys(HYPHENS, 0.95), SPACE: 0.95}
# With fewer recurring words, cells are phrases.
LEAST_RECURRING = 0.85
# A comma is part of names where its cells are repeated so often, in the mean, without any of their parts standing elsewhere.
REPEATED = 5
# So few cells with a sign that is no part of names, beside those with a comma that separates, were written by mistake.
ODD = 0.05
# Under these keys dictionaries have a label's name, as TMDB's and Label Studio's do.
KEYS = ("name", "label", "title", "value", "genre", "class", "category", "description")
# Where one of these stands beside a name, it is not said whether the name is meant.
VALUES = ("score", "confidence", "probability", "prob", "weight")
# Where false or 0 stands under one of these, it is not.
ANSWERS = ("value", "present")
CHOICES = ("choices", "labels", "genres", "tags")
_VALUED = re.compile(r".+[:=( ]\s*(?:[01]?[.,]\d+|\d{1,3}\s?%)\)?")
_ENTITY = re.compile(r"&(?:\w+|#\d+);")
_CALL = re.compile(r"(?:frozenset|set|array|Index|Counter|OrderedDict|deque)\((.*?)(?:,\s*dtype=[^)]*)?\)", re.DOTALL)
# Stack Overflow's <c#><.net>.
_TAGS = re.compile(r"(?:<[^<>/]+>[\s,;|]*)+")
# XML and HTML: <genre>Comedy</genre><genre>Drama</genre>, links.
_ELEMENT = re.compile(r"<(\w+)(?:\s[^<>]*)?>([^<>]*)</\1>")
_ELEMENTS = re.compile(rf"(?:{_ELEMENT.pattern}[\s,;|]*)+")
_FOOTNOTE = re.compile(r"(?<=.)(?:\[\d{1,3}\])+$")
_BULLET = re.compile(r"[-*\u2022\u00b7\u2013]\s+(?=\S)")
_BROKEN = re.compile(r"""\s*[\[{(]\s*(?:['"{\[]|__)""")
_STRING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
# NumPy 2 prints texts in lists as np.str_('Comedy'), and missing ones as nan, which are no literals of Python.
_NUMPY_TEXT = re.compile(rf"\b(?:np|numpy)\.str_\(({_STRING.pattern})\)|({_STRING.pattern})|\b(?:np\.)?nan\b")
QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d"}
_BYTES = re.compile(rf"b(?:{_STRING.pattern})")
_QUOTED_NAME = re.compile("[,;|/]\\s*['\"\u201c]|['\"\u201d]\\s*[,;|/]")
_WHOLE_NUMBER = re.compile(r"(\d+)\.0")
# The marks of `1. Comedy 2. Drama` and `1) Comedy, 2) Drama`.
_NUMBER = re.compile(r"(?:^|[\s,;|/]+)(\d{1,2})[.)]\s*(?=\S)")
_QUOTED = re.compile("(['\"`\u2018\u2019\u201c])(.*)(['\"`\u2019\u201d])", re.DOTALL)


@dataclass(frozen=True)
class Labels:
    """What a column's cells name.

    Attributes
    ----------
    rows : of each cell the names, in their order; empty if they are unknown
    form : how the cells were read, for people
    merged : from each spelling that another one replaces to that one
    unknown : texts that were taken as unknown, with the number of cells
    """

    rows: list[tuple[str, ...]]
    form: str
    merged: dict[str, str]
    unknown: Counter[str]


def is_unknown(name: str) -> bool:
    """Whether a cell or a part of it says that nothing is known."""
    return name.strip().casefold() in UNKNOWN


def tidy(name: str) -> str:
    """A name in Unicode's composed form (NFC), with single spaces, without quotes around it, a bullet before it and Wikipedia's
    footnotes behind it."""
    name = " ".join("".join(sign for sign in unicodedata.normalize("NFC", name) if sign.isprintable() or sign.isspace()).split())
    return _FOOTNOTE.sub("", unquote(_BULLET.sub("", name, count=1) if _BULLET.match(name) else name)).strip()


def unquote(text: str) -> str:
    """A text without quotes around it."""
    match = _QUOTED.fullmatch(text)
    return match[2] if match and match[2] and match[1] not in match[2] else text


def read_labels(cells: list[Any], separator: str, where: Callable[[int], str]) -> Labels:
    """Read a column.

    Parameters
    ----------
    cells : text, or lists and dictionaries as JSON has them
    separator : "auto", "none", or what stands between names, which for some signs may be their names, as "space"
    where : says in which file and row a cell is, for messages

    Raises
    ------
    InputError
        In a column of lists a cell is none; a list holds something else than names.
    """
    cells = [_plain_text(cell) if isinstance(cell, str) else cell for cell in cells]
    # Cells that are equal are read once, and share one tuple.
    keys = [cell if isinstance(cell, str) else json.dumps(cell, sort_keys=True, default=str) for cell in cells]
    parsed = _parse_cells(cells, keys, where)
    texts = [value for value in parsed.values() if isinstance(value, str) and not is_unknown(value)]
    if texts and all(map(_WHOLE_NUMBER.fullmatch, texts)):  # as pandas writes numbers where others are missing
        parsed = {key: value.removesuffix(".0") if isinstance(value, str) else value for key, value in parsed.items()}
    plain = Counter(value for key in keys if isinstance(value := parsed[key], str) and not is_unknown(value))
    numbered = _are_numbered(plain)
    if numbered:
        parsed = {key: _unnumbered(value) if isinstance(value, str) else value for key, value in parsed.items()}
    chosen = choose_separator(plain) if separator == "auto" else SIGNS.get(separator, separator)
    split = {key: split_cell(value, chosen) if isinstance(value, str) else value for key, value in parsed.items()}
    tidied = {key: tuple(map(tidy, parts)) for key, parts in split.items()}
    names = {key: tuple(name for name in parts if not is_unknown(name)) for key, parts in tidied.items()}
    unknown = Counter(name for key in keys for name in dict.fromkeys(tidied[key]) if name and is_unknown(name))
    counts = Counter(name for key in keys for name in names[key])
    if set(counts) <= {"0", "1"} and (vector := next((key for key in keys if len(names[key]) > 1), None)):
        raise _no_names(where(keys.index(vector)), vector)
    valued = [name for name in counts if _VALUED.fullmatch(name)]
    if len(valued) > 0.5 * len(counts):
        row = next(row for row, key in enumerate(keys) if valued[0] in names[key])
        raise InputError(f"{where(row)}: names have values, as {valued[0]!r}; write the names that are right, without values")
    spelling = choose_spelling(counts)
    final = {key: tuple(dict.fromkeys(spelling[name] for name in parts)) for key, parts in names.items()}
    merged = {name: other for name, other in spelling.items() if name != other}
    form = f"separator {NAMES.get(chosen, repr(chosen))}" if plain or len(parsed) == len(plain) else "lists"
    return Labels([final[key] for key in keys], "numbered lists" if numbered else form, merged, unknown)


def _plain_text(cell: str) -> str:
    """A cell without HTML's entities, and without what Python writes around bytes."""
    if _BYTES.fullmatch(cell):
        with suppress(ValueError, SyntaxError):
            cell = ast.literal_eval(cell).decode("utf-8", "replace")
    return html.unescape(cell) if _ENTITY.search(cell) else cell


def _parse_cells(cells: list[Any], keys: list[str], where: Callable[[int], str]) -> dict[str, tuple[str, ...] | str]:
    """For each different cell, by its key, the names in its list, or the text where it is none."""
    texts = [cell for cell in cells if isinstance(cell, str) and not is_unknown(cell)]
    # Quotes are around cells, or around the names in them.
    around = not any(_QUOTED_NAME.search(unquote(text)) for text in set(texts) if any(quote in text for quote in QUOTES))
    # Lists are the rule, or the exception as "(500) Days" is.
    lists = sum(map(_looks_like_list, texts)) > 0.5 * len(texts)
    parsed: dict[str, tuple[str, ...] | str] = {}
    for row, (cell, key) in enumerate(zip(cells, keys, strict=True)):
        if key in parsed:
            continue
        bracketed = isinstance(cell, str) and _looks_like_list(cell)
        if isinstance(cell, str) and not bracketed and not _BROKEN.match(cell):
            parsed[key] = unquote(cell) if around else cell
            continue
        names = parse_list(cell) if isinstance(cell, str) else flatten(cell)
        if names is not None:
            parsed[key] = tuple(names)
        elif isinstance(cell, str) and not lists and not _BROKEN.match(cell):
            parsed[key] = cell
        else:
            raise InputError(f"{where(row)}: {str(cell)[:60]!r} is not a list of names; it looks like ['Comedy', 'Drama']")
    vectors = [value for value in parsed.values() if not isinstance(value, str)]
    if len(vectors) > 1 and len({len(value) for value in vectors}) == 1 < len(vectors[0]) and set().union(*vectors) <= {"0", "1"}:
        raise _no_names(where(0), str(cells[0]))
    return parsed


def _no_names(where: str, cell: str) -> InputError:
    return InputError(f"{where}: {cell[:60]!r} has no names; write them, or a column of 0 and 1 per name")


def _are_numbered(cells: Mapping[str, int]) -> bool:
    """Whether each cell counts its names from 1 on, as `1. Comedy 2. Drama` does, and some have several."""
    numbers = [[int(number) for number in _NUMBER.findall(cell)] for cell in cells]
    counted = all(
        _NUMBER.match(cell) and found == list(range(1, len(found) + 1)) for cell, found in zip(cells, numbers, strict=True)
    )
    return counted and any(len(found) > 1 for found in numbers)


def _unnumbered(cell: str) -> tuple[str, ...]:
    """The names of a cell of `_are_numbered`."""
    return tuple(_NUMBER.split(cell)[2::2])


def _looks_like_list(cell: str) -> bool:
    if is_unknown(cell):
        return False
    inner = cell[1:-1] if cell[:2] + cell[-2:] in ('"[]"', '"{}"') else cell  # JSON in JSON
    return inner[:1] + inner[-1:] in ("[]", "()", "{}") or any(form.fullmatch(cell) for form in (_CALL, _TAGS, _ELEMENTS))


def choose_spelling(counts: Counter[str]) -> dict[str, str]:
    """For each name the most frequent of those that are equal but for case and a full stop; of those like `Drama` if any."""
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(unicodedata.normalize("NFKC", name).casefold().removesuffix("."), []).append(name)
    best = {
        key: min(names, key=lambda name: (name.endswith("."), not _is_capitalised(name), -counts[name], name))
        for key, names in groups.items()
    }
    return {name: best[key] for key, names in groups.items() for name in names}


def _is_capitalised(name: str) -> bool:
    return name[:1].isupper() and not name.isupper()


def flatten(value: Any) -> list[str] | None:
    """The names in lists, dictionaries and texts, nested as JSON may nest them; None where there is something else."""
    if isinstance(value, dict):
        if any(key in value for key in VALUES):
            return None
        name = next((value[key] for key in KEYS if isinstance(value.get(key), str)), None)
        choices = next((value[key] for key in CHOICES if key in value), None)
        if name is not None or choices is not None or not value:
            denied = any(value.get(key) in (False, 0) for key in ANSWERS)
            return [] if denied else flatten(choices or [] if name is None else name)
        answers = {str(key): _answer(answer) for key, answer in value.items()}
        if None not in answers.values():
            return [name for name, answer in answers.items() if answer]
        by_number = all(isinstance(name, str) and re.match(r"/?\w*\d|/", key) for key, name in value.items())
        return flatten(list(value.values())) if by_number else None
    if isinstance(value, list | tuple) and value and all(isinstance(item, list | tuple) for item in value):
        # Pairs of numbers and names.
        pairs = [[item for item in pair if isinstance(item, str)] for pair in value]
        value = pairs if all(map(len, pairs)) else value
    if isinstance(value, list | tuple):
        parts = [flatten(item) for item in value]
        return None if any(part is None for part in parts) else [name for part in parts if part for name in part]
    return [] if value is None else [str(value)] if isinstance(value, str | int | float) else None


def _answer(value: Any) -> bool | None:
    """Yes or no, as JSON has them; None for anything else."""
    if isinstance(value, str):
        return {"yes": True, "true": True, "no": False, "false": False}.get(value.casefold())
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def parse_list(text: str) -> list[str] | None:
    """The names in a list as Python, NumPy, JSON or PostgreSQL write it; None where the text is no list."""
    text = text.strip()
    if _ELEMENTS.fullmatch(text):
        return [tidy(name) for _, name in _ELEMENT.findall(text)]
    if match := _CALL.fullmatch(text):
        text = match[1].strip()
    value = _literal(text)
    if value is None:
        value = _literal(_NUMPY_TEXT.sub(lambda found: found[1] or found[2] or "None", text))
    if isinstance(value, str) and value != text:
        return [value] if text.startswith("(") else parse_list(value)
    if isinstance(value, set):
        value = [ast.literal_eval(name) for name in _STRING.findall(text)]  # a set has no order
    if isinstance(value, list | tuple | dict):
        return flatten(value)
    if _TAGS.fullmatch(text):
        return [tidy(name) for name in re.findall("<([^<>]+)>", text)]
    signs = {"[]": r"[\[\]{}:()'\"]", "{}": r"[\[\]{}:]"}.get(text[:1] + text[-1:])
    if signs and not re.search(signs, text[1:-1]):
        # PostgreSQL's {Comedy,"Science Fiction"}, and [Comedy, Drama] without quotes.
        return [tidy(name.strip().strip("\"'")) for name in re.findall(r'("(?:[^"\\]|\\.)*"|[^,]+)(?:,|$)', text[1:-1])]
    return None


def _literal(text: str) -> Any:
    """The value of a text in JSON or Python's literals; None where it is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    if text.startswith("[") and "," not in _STRING.sub("", text):
        # NumPy prints no commas, and of texts side by side Python makes one.
        return [ast.literal_eval(name) for name in _STRING.findall(text)] or value
    return value


def split_cell(cell: str, separator: str) -> tuple[str, ...]:
    """The parts of a cell; all of it where it is said to be unknown."""
    if is_unknown(cell) or separator == NO_SEPARATOR:
        return (cell,)
    parts = cell.split(separator) if separator != SPACE else cell.split()
    if any(quote in cell for quote in QUOTES):
        parts = _whole_quotes(parts, separator)
    return tuple(part for part in parts if part.strip())


def _whole_quotes(parts: list[str], separator: str) -> list[str]:
    """The parts of a cell, those together that are in quotes together: `"Movies, TV", Books`."""
    whole: list[str] = []
    i = 0
    while i < len(parts):
        end = i + 1
        if (opening := parts[i].strip()[:1]) in QUOTES and opening:
            closed = [j for j in range(i, len(parts)) if parts[j].strip().endswith(QUOTES[opening]) and parts[j].strip() != opening]
            end = closed[0] + 1 if closed else end
        whole.append(separator.join(parts[i:end]))
        i = end
    return whole


def choose_separator(cells: Mapping[str, int]) -> str:
    """What stands between names, or "none" where each cell is one.

    Parameters
    ----------
    cells : different cells, none of them unknown, each with the number of its rows
    """
    for sign in SURE:
        # A cell or two of another form do not decide for all others.
        rows, others = (sum(number for cell, number in cells.items() if part in cell) for part in (sign, COMMA))
        if rows and not (rows < ODD * others and _separates({cell: cells[cell] for cell in cells if sign not in cell}, COMMA)):
            return sign
    return next((sign for sign in (COMMA, *UNSURE, SPACE, *HYPHENS) if _separates(cells, sign)), NO_SEPARATOR)


def _separates(cells: Mapping[str, int], sign: str) -> bool:
    """Whether the parts on both sides of a sign are names, which stand beside others elsewhere or alone."""
    parts_of = {cell: {tidy(part).casefold() for part in split_cell(cell, sign)} - UNKNOWN for cell in cells}
    cells_with = Counter(part for parts in parts_of.values() for part in parts)
    # A sign at one side only, as in C# and C++, separates nothing.
    separated = {part for cell, parts in parts_of.items() if len(split_cell(cell, sign)) > 1 for part in parts}
    if not separated:
        return False
    recurring = sum(cells_with[part] > 1 for part in separated) / len(separated)
    if sign == COMMA:
        # Names with commas are repeated whole; a list of names has others beside it.
        numbers = [number for cell, number in cells.items() if sign in cell]
        return recurring > 0 or sum(numbers) < REPEATED * len(numbers)
    alone = {part for parts in parts_of.values() if len(parts) == 1 for part in parts}
    if sign == SPACE:
        number = sum(map(len, parts_of.values())) / len(parts_of)
        if (by_words := _are_words(cells, separated, alone, number)) is not None:
            return by_words
        if recurring < LEAST_RECURRING:
            return False
        # In cells of many words, a few rare ones count little.
        recurring = sum(cells_with[part] for part in separated if cells_with[part] > 1) / sum(
            cells_with[part] for part in separated
        )
    return recurring >= RECURRING[sign] and (sign not in HYPHENS or separated <= alone)


def _are_words(cells: Mapping[str, int], separated: set[str], alone: set[str], number: float) -> bool | None:
    """Whether what spaces part are names, and not the words of names; None where it depends on how often they recur.

    Parameters
    ----------
    cells : as of `choose_separator`
    separated, alone : parts that stand beside others, and alone
    number : of parts, in the mean cell
    """
    if separated <= {"0", "1"}:
        return False
    if all(map(str.isdecimal, separated)):
        return True
    # "Romantic Comedy", "Musical Comedy", "Romantic Drama": words of names recur too, but seldom stand alone, or many together.
    two_at_most = all(len(cell.split()) < 3 for cell in cells)  # of names in pairs, most also stand alone
    few = len(alone & separated) < (0.75 if two_at_most else 0.6) * len(separated) and number < 2.5
    signs = not all(any(map(str.isalnum, part)) for part in separated)
    return False if few or signs or _is_phrase(cells) else None


def _is_phrase(cells: Mapping[str, int]) -> bool:
    """Whether a word is written small within cells and large alone, as in "Dress shirt" beside "Shirt"."""
    words = [cell.split() for cell in cells]
    alone = {word for parts in words if len(parts) == 1 for word in parts}
    return any(word.islower() and word not in alone and word.capitalize() in alone for parts in words for word in parts[1:])
