"""Which poster is whose: the IDs of a table and the files of posters, as people write both."""

import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath

from poster_genres.dataset import File, read_bytes
from poster_genres.errors import InputError

# How an ID was matched, for people.
PATH, NAME, FORM, NUMBER = "path", "file name", "file name but for case or Unicode form", "number"


def parts_of(text: str) -> tuple[str, ...]:
    """The parts of a path, of whichever system; of an address on the web its last one."""
    text = text.strip().replace("\\", "/")
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    return parts[-1:] if "://" in text else parts


def normal(text: str) -> str:
    """A name without regard to case and to Unicode's form."""
    return unicodedata.normalize("NFC", text).casefold()


def number_in(text: str) -> tuple[str, str]:
    """An ID's letters, and the number after them without leading zeros: `tt` and 86425 of `tt0086425`, none and 86425 of `86425.0`;
    two empty texts where it is not of this form."""
    match = re.fullmatch(r"([^\W\d_]{0,4})0*(\d+)(?:\.0)?", text)
    return (match[1].casefold(), match[2]) if match else ("", "")


class Posters:
    """The files of posters, found by the IDs of a table.

    Parameters
    ----------
    dataset : for messages
    files : of posters, by name
    """

    def __init__(self, dataset: str, files: list[File]) -> None:
        self.dataset, self.files = dataset, files
        self.paths = [tuple(PurePosixPath(file.name).parts) for file in files]
        # From a file's name, with and without its ending, to the numbers of the files.
        self.by_name, self.by_form, self.by_number = (defaultdict[str, list[int]](list) for _ in range(3))
        for i, file in enumerate(files):
            name = self.paths[i][-1]
            for key in {name, file.stem}:
                self.by_name[key].append(i)
                self.by_form[normal(key)].append(i)
            if number := number_in(file.stem)[1]:
                self.by_number[number].append(i)

    def may_be(self, cell: object) -> bool:
        """Whether a cell may be the ID of one of the posters."""
        if not isinstance(cell, str) or not (parts := parts_of(cell)):
            return False
        name = parts[-1]
        return name in self.by_name or normal(name) in self.by_form or bool(self._by_number(name))

    def match(self, ids: list[str], tables: list[str]) -> tuple[list[int | None], Counter[str]]:
        """The number of the poster of each ID, None where it has none.

        A rule is tried for those IDs only that the ones before it leave over: the path, or the file's name, with its ending or
        without; the same but for case and Unicode's form; and, where these match none at all, the number in it.

        Parameters
        ----------
        ids : of the rows
        tables : the table of each row, relative to the data set; it tells of posters of one name those in its folder, or in the
            folder that has its name

        Returns
        -------
        The numbers, and how many different IDs each rule matched.

        Raises
        ------
        InputError
            An ID is the name of several posters; or a number is that of several posters, or of several IDs.
        """
        known: dict[tuple[str, str], tuple[int | None, str]] = {}
        for key in dict.fromkeys(zip(ids, tables, strict=True)):
            known[key] = self._by_name(*key)
        if not any(number is not None for number, _ in known.values()):
            numbers: dict[str, str] = {}
            for text, table in known:
                number = number_in(text.strip())[1]
                found = self._by_number(text.strip())
                if len(found) > 1:
                    self._refuse(text, found)
                if found:
                    if (other := numbers.setdefault(number, text)) != text:
                        raise InputError(
                            f"{self.dataset}: IDs {other!r} and {text!r} are the same number; write them as posters are named"
                        )
                    known[text, table] = found[0], NUMBER
        rules = Counter(rule for number, rule in known.values() if number is not None)
        return [known[key][0] for key in zip(ids, tables, strict=True)], rules

    def _by_number(self, text: str) -> list[int]:
        """The posters with the number of an ID, where one of both has no letters before it, or both have the same."""
        letters, number = number_in(text)
        candidates = self.by_number.get(number, []) if number else []
        return [i for i in candidates if "" in (letters, other := number_in(self.files[i].stem)[0]) or letters == other]

    def _by_name(self, text: str, table: str) -> tuple[int | None, str]:
        parts = parts_of(text)
        if not parts:
            return None, ""
        for index, rule, form in ((self.by_name, NAME, str), (self.by_form, FORM, normal)):
            wanted = tuple(form(part) for part in parts)
            found = index.get(wanted[-1], [])
            if len(wanted) > 1:
                # All of the ID's folders are the poster's, or all of the poster's are the ID's: never another folder's picture.
                found = [i for i in found if _same_folders(wanted[:-1], tuple(form(part) for part in self.paths[i][:-1]))]
            if len(found) > 1:
                found = self._nearest(found, parts, table)
            if len(found) > 1 and not self._same_bytes(found):
                self._refuse(text, found)
            if found:
                return found[0], PATH if rule == NAME and len(wanted) > 1 else rule
        return None, ""

    def _same_bytes(self, found: list[int]) -> bool:
        """Whether posters of one name are copies of each other, of which any will do."""
        files = [self.files[i] for i in found]
        if len({file.size for file in files}) > 1:
            return False
        return len({read_bytes(Path(self.dataset), file.archive, file.path) for file in files}) == 1

    def _nearest(self, found: list[int], parts: tuple[str, ...], table: str) -> list[int]:
        """Of posters of one name the one that is meant: at exactly this path; in the table's folder; in the folder of its name."""
        path = PurePosixPath(table)
        folders = [parts[:-1]] if len(parts) > 1 else []
        folders += [path.parent.parts] if path.parent.parts else []
        folders.append((*path.parent.parts, path.stem))
        for folder in folders:
            if here := [i for i in found if self.paths[i][:-1] == folder]:
                return here
        return found

    def _refuse(self, text: str, found: list[int]) -> None:
        names = " and ".join(self.files[i].name for i in found[:2])
        raise InputError(
            f"{self.dataset}: {text!r} is the name of {len(found)} posters, {names}; write paths in the table, or keep one of them"
        )


def _same_folders(wanted: tuple[str, ...], folders: tuple[str, ...]) -> bool:
    number = min(len(wanted), len(folders))
    return number == 0 or wanted[-number:] == folders[-number:]
