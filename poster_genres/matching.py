"""Which poster is whose: the IDs of a table and the files of posters, as people write both."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath

from poster_genres.dataset import POSTER_SUFFIXES, File, hash_of
from poster_genres.errors import InputError

# How an ID was matched, for people.
PATH, NAME, FORM, NUMBER = "path", "file name", "file name but for case or Unicode form", "number"
STEM = "file name but for its ending"

_NUMBER = re.compile(r"([^\W\d_]{0,4})0*(\d+)(?:\.0)?")


def parts_of(text: str) -> tuple[str, ...]:
    """The parts of a path, of whichever system; of an address on the web its last one."""
    text = text.strip().replace("\\", "/").rpartition("?d=")[2]  # behind it Label Studio has the paths of local files
    if "://" in text:
        return (re.split(r"[?#]", text)[0].rpartition("/")[2],)
    return tuple(part for part in text.split("/") if part not in ("", "."))


def normal(text: str) -> str:
    """A name without regard to case and to Unicode's form."""
    return unicodedata.normalize("NFC", text).casefold()


def number_in(text: str) -> tuple[str, str]:
    """An ID's letters, and the number after them without leading zeros: `tt` and 86425 of `tt0086425`, none and 86425 of `86425.0`;
    two empty texts where it is not of this form."""
    match = _NUMBER.fullmatch(text)
    return (match[1].casefold(), match[2]) if match else ("", "")


class Posters:
    """The files of posters, found by the IDs of a table.

    Parameters
    ----------
    dataset : for messages
    files : of posters, by name
    most : the bytes that a poster may have; larger ones are left out, and are in `too_large`
    """

    def __init__(self, dataset: str, files: list[File], most: int = 100_000_000) -> None:
        self.dataset = dataset
        self.files = [file for file in files if file.size <= most]
        self.too_large = [file for file in files if file.size > most]
        self.by_stem = _index((_names(file)[1], i) for i, file in enumerate(self.files))
        # What the methods below have found out.
        self._homes: dict[str, str | None] = {}
        self._share: dict[tuple[str, str], bool] = {}

    @cached_property
    def by_form(self) -> dict[str, list[int]]:
        """From stems without regard to case and Unicode form to the numbers of the files."""
        return _index((normal(_names(file)[1]), i) for i, file in enumerate(self.files))

    @cached_property
    def by_folder(self) -> dict[str, set[str]]:
        """From folders to the names of the files in them, without endings."""
        folders: dict[str, set[str]] = {}
        for file in self.files:
            folder, _, name = file.name.rpartition("/")
            folders.setdefault(folder, set()).add(name.rpartition(".")[0])
        return folders

    @cached_property
    def by_number(self) -> dict[str, list[int]]:
        """From the numbers in names to the numbers of the files."""
        return _index((number, i) for i, file in enumerate(self.files) if (number := number_in(_names(file)[1])[1]))

    def named(self, name: str, form: Callable[[str], str]) -> list[int]:
        """The numbers of the files of this name, with its ending or without, in this form of names."""
        index = self.by_stem if form is str else self.by_form
        stem = name.rpartition(".")[0]
        with_ending = [i for i in index.get(form(stem), []) if form(_names(self.files[i])[0]) == form(name)] if stem else []
        return index.get(form(name), []) + with_ending

    def is_file(self, cell: object) -> bool:
        """Whether a cell is the name of a file with its ending, or a path to it."""
        if not isinstance(cell, str) or "." not in cell or not (parts := parts_of(cell)):
            return False
        return any(_names(self.files[i])[0] == parts[-1] for i in self.by_stem.get(parts[-1].rpartition(".")[0], []))

    def may_be(self, cell: object, exactly: bool) -> bool:
        """Whether a cell may be the ID of one of the posters, by its name or, if not `exactly`, by any rule of `match`."""
        return bool(self.candidates(cell, exactly))

    def candidates(self, cell: object, exactly: bool = False) -> list[int]:
        """The numbers of the posters of which a cell may be the ID; see `may_be`."""
        if not isinstance(cell, str) or not (parts := parts_of(cell)):
            return []
        name = parts[-1]
        if exactly:
            return self.named(name, str)
        return self.named(name, str) or self.named(name, normal) or self.named(_stem(name), str) or self._of_number(name)

    def match(self, ids: list[str], tables: list[str]) -> tuple[list[int | None], Counter[str]]:
        """The number of the poster of each ID, None where it has none.

        A rule is tried for those IDs only that the ones before it leave over: the path, or the file's name, with its ending or
        without; the same but for case and Unicode's form; and, where these match none at all, the name but for its ending, as of
        images that were converted, or else the number in it. Where they match some, an ID that is left differs from a poster's name
        that is left by leading zeros only, as spreadsheets cut them off.

        Parameters
        ----------
        ids : of the rows
        tables : the table of each row, relative to the data set; it tells of posters of one name those in its folder, or in the
            folder that has its name

        Returns
        -------
        The numbers, and how many rows each rule matched.

        Raises
        ------
        InputError
            An ID is the name of several posters; or a number is that of several posters, or of several IDs.
        """
        matches = [self._by_name(text, table) for text, table in zip(ids, tables, strict=True)]
        if not any(rule for _, rule in matches):
            matches = self._by_stems(ids, tables)
        if not any(rule for _, rule in matches):
            matches = self._by_numbers([text.strip() for text in ids])
        elif STEM not in {rule for _, rule in matches}:
            self._match_cut_zeros(ids, tables, matches)
        rules = Counter(rule for _, rule in matches if rule)
        return [number for number, _ in matches], rules

    def _by_stems(self, ids: list[str], tables: list[str]) -> list[tuple[int | None, str]]:
        first: dict[int, str] = {}
        matches: list[tuple[int | None, str]] = []
        for text, table in zip(ids, tables, strict=True):
            number, _ = self._by_name(_stem(text), table)
            if number is not None and (other := first.setdefault(number, text)) != text:
                raise InputError(
                    f"{self.dataset}: IDs {other!r} and {text!r} differ in their endings only; write them as images are named"
                )
            matches.append((number, "" if number is None else STEM))
        return matches

    def _by_numbers(self, ids: list[str]) -> list[tuple[int | None, str]]:
        first: dict[str, str] = {}
        matches: list[tuple[int | None, str]] = []
        for text in ids:
            files = self._of_number(text)
            if len(files) > 1:
                self._refuse(text, files, "number")
            if files and (other := first.setdefault(number_in(text)[1], text)) != text:
                raise InputError(f"{self.dataset}: IDs {other!r} and {text!r} are the same number; write them as images are named")
            matches.append((files[0], NUMBER) if files else (None, ""))
        return matches

    def _match_cut_zeros(self, ids: list[str], tables: list[str], matches: list[tuple[int | None, str]]) -> None:
        """Match in place the IDs that are left to the posters that are left, by their numbers, where it is one to one."""
        taken = {number for number, _ in matches if number is not None}
        rows: dict[int, set[str]] = {}
        found: dict[int, int] = {}
        for row, (text, table) in enumerate(zip(ids, tables, strict=True)):
            if matches[row][0] is None and (key := number_in(text.strip()))[1]:
                files = [i for i in self.by_number.get(key[1], []) if number_in(_names(self.files[i])[1]) == key and i not in taken]
                if len(files) == 1 and not self._is_elsewhere(files[0], table):
                    found[row] = files[0]
                    rows.setdefault(files[0], set()).add(text)
        for row, number in found.items():
            if len(rows[number]) == 1:
                matches[row] = number, NUMBER

    def _of_number(self, text: str) -> list[int]:
        """The posters with the number of an ID, if the letters before it are the same, or missing on one side."""
        letters, number = number_in(text)
        candidates = self.by_number.get(number, []) if number else []
        return [i for i in candidates if len({letters, number_in(_names(self.files[i])[1])[0]} - {""}) < 2]

    def _by_name(self, text: str, table: str) -> tuple[int | None, str]:
        parts = parts_of(text)
        if not parts:
            return None, ""
        for rule, form in ((NAME, str), (FORM, normal)):
            files = self.named(parts[-1], form)
            if len(parts) > 1:
                # All of the ID's folders are the poster's, or all of the poster's are the ID's: never another folder's picture.
                folders = tuple(map(form, parts[:-1]))
                files = [i for i in files if _same_folders(folders, tuple(map(form, self._folders(i))))]
            if len(files) > 1:
                files = self._nearest(files, parts, table)
            if len(parts) == 1 and self._home(table) is not None:
                files = [i for i in files if not self._is_elsewhere(i, table)]
            if len(files) > 1 and not self._same_bytes(files):
                self._refuse(text, files)
            if files:
                return files[0], PATH if rule == NAME and len(parts) > 1 else rule
        return None, ""

    def _folders(self, number: int) -> tuple[str, ...]:
        return tuple(self.files[number].name.split("/")[:-1])

    def _same_bytes(self, numbers: list[int]) -> bool:
        """Whether posters of one name are copies of each other, of which any will do."""
        files = [self.files[i] for i in numbers]
        if len({file.size for file in files}) > 1:
            return False
        try:
            return len({hash_of(Path(self.dataset), file.archive, file.path) for file in files}) == 1
        except Exception:  # unreadable for any reason, as in stages.join
            return False

    def _nearest(self, numbers: list[int], parts: tuple[str, ...], table: str) -> list[int]:
        """Of posters of one name the one that is meant: at exactly this path; in the table's folder; in the folder of its name."""
        for folder in ((parts[:-1],) if len(parts) > 1 else ()) + _folders_of(table):
            if inside := [i for i in numbers if self._folders(i) == folder]:
                return inside
        return numbers

    def _home(self, table: str) -> str | None:
        """The folder with a table's posters, None where that is not known."""
        if table not in self._homes:
            self._homes[table] = next((name for name in map("/".join, _folders_of(table)) if name in self.by_folder), None)
        return self._homes[table]

    def _is_elsewhere(self, number: int, table: str) -> bool:
        """Whether a poster is in another folder than the table's posters, where both folders use the same names."""
        home, folder = self._home(table), self.files[number].name.rpartition("/")[0]
        if home is None or f"{folder}/".startswith(f"{home}/"):
            return False
        if (home, folder) not in self._share:
            self._share[home, folder] = not self.by_folder[home].isdisjoint(self.by_folder[folder])
        return self._share[home, folder]

    def _refuse(self, text: str, numbers: list[int], kind: str = "name") -> None:
        names = " and ".join(self.files[i].name for i in numbers[:2])
        raise InputError(
            f"{self.dataset}: {text!r} is the {kind} of {len(numbers)} images, {names}; write paths in the table, or keep one"
        )


def _same_folders(wanted: tuple[str, ...], folders: tuple[str, ...]) -> bool:
    number = min(len(wanted), len(folders))
    return number == 0 or wanted[-number:] == folders[-number:]


def _folders_of(table: str) -> tuple[tuple[str, ...], ...]:
    """Where the posters of a table may be: in its folder, if that is not the data set's own, or in the folder of its name."""
    path = PurePosixPath(table)
    own = (*path.parent.parts, path.stem)
    return (path.parent.parts, own) if path.parent.parts else (own,)


def _names(file: File) -> tuple[str, str]:
    """A file's name, and that without its ending."""
    name = file.path.rpartition("/")[2]
    return name, name.rpartition(".")[0]


def _stem(text: str) -> str:
    """A name or path without an image's ending."""
    stem, _, suffix = text.strip().rpartition(".")
    return stem if f".{suffix.lower()}" in POSTER_SUFFIXES else text


def _index(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    index: dict[str, list[int]] = {}
    for key, number in pairs:
        index.setdefault(key, []).append(number)
    return index
