"""The files of a data set, in folders of any depth and in zip archives, which are read without unpacking them."""

import hashlib
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import cast

from poster_genres.errors import InputError

POSTER_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff")
# What reading a file of a damaged archive, or of a disk, may raise.
NOT_READ = (OSError, KeyError, zipfile.BadZipFile, EOFError, ValueError, zlib.error)
# The most bytes of an archive's directory, and of a table.
MAX_DIRECTORY = 50_000_000
MAX_TABLE = 2_000_000_000


@dataclass(frozen=True, slots=True)
class File:
    """A file of a data set.

    Attributes
    ----------
    archive : the zip archive that contains it, relative to the data set; empty for a file in a folder
    path : with forward slashes, relative to the data set or to the archive's root
    size : in bytes, unpacked
    """

    archive: str
    path: str
    size: int

    @property
    def stem(self) -> str:
        return PurePosixPath(self.path).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix.lower()

    @property
    def name(self) -> str:
        """The whole path, for messages and tables: `posters.zip/1980/tt0081562.jpg`."""
        return f"{self.archive}/{self.path}" if self.archive else self.path


def list_files(dataset: Path) -> list[File]:
    """All files of a data set, sorted by name. Hidden files, and those that macOS adds to archives, are ignored.

    Raises
    ------
    InputError
        The data set is not a folder, an archive cannot be read, or a member lies outside of its archive's root.
    """
    if not dataset.is_dir():
        raise InputError(f"{dataset}: no such folder; `dataset` in params.yaml names one with images and metadata")
    files = []
    for folder, folders, names in os.walk(dataset):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if name.startswith((".", "~$")) or not path.is_file():  # hidden, or there while Excel has it open
                continue
            relative = path.relative_to(dataset).as_posix()
            if not relative.isprintable() and any("\ud800" <= sign <= "\udfff" for sign in relative):
                raise InputError(f"{dataset}: the name {relative!a} is not UTF-8; rename it")
            if path.suffix.lower() == ".zip":
                files += _list_archive(path, relative)
            else:
                files.append(File("", relative, path.stat().st_size))
    return sorted(files, key=lambda file: file.name)


def _list_archive(path: Path, relative: str) -> list[File]:
    files = []
    for member in open_archive(path).infolist():
        # zipfile cuts the name at a NUL.
        parts = PurePosixPath(member.filename).parts
        if ".." in parts or parts[:1] == ("/",) or (parts and parts[0][1:2] == ":") or "\0" in member.orig_filename:
            raise InputError(f"{path}: its member {member.orig_filename!r} lies outside of the archive; make the archive again")
        if member.is_dir() or "__MACOSX" in parts or any(part.startswith(".") for part in parts):
            continue
        files.append(File(relative, member.filename, member.file_size))
    return files


@lru_cache(maxsize=64)
def open_archive(path: Path) -> zipfile.ZipFile:
    """Open a zip archive once per process, as reading its directory again for each poster would take most of the time."""
    try:
        with path.open("rb") as file:
            # The size of the directory at the archive's end, of which a member takes some sixty bytes, and a kilobyte in memory.
            record = zipfile._EndRecData(file)  # type: ignore[attr-defined]
        if record and record[zipfile._ECD_SIZE] > MAX_DIRECTORY:  # type: ignore[attr-defined]
            raise InputError(f"{path}: has too many files for one archive; unpack it, or make several of it")
        archive = zipfile.ZipFile(path)
        for member in archive.infolist():
            if "\\" in member.filename:  # which zipfile turns into slashes on Windows only
                member.filename = member.filename.replace("\\", "/")
                archive.NameToInfo[member.filename] = member
        return archive
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, struct.error) as error:
        raise InputError(f"{path}: not a readable zip archive ({error}); download it again") from None


@contextmanager
def open_file(dataset: Path, archive: str, path: str) -> Iterator[BufferedIOBase]:
    """Open a data set's file to read it; of a member of an archive no more than its directory says can be read.

    Raises
    ------
    OSError, zipfile.BadZipFile
        The file cannot be read.
    """
    try:
        with open_archive(dataset / archive).open(path) if archive else (dataset / path).open("rb") as file:
            yield cast(BufferedIOBase, file)
    except (NotImplementedError, RuntimeError, zlib.error, lzma.LZMAError) as error:
        raise zipfile.BadZipFile(str(error)) from None


def read_bytes(dataset: Path, archive: str, path: str) -> bytes:
    """The content of a data set's file; for what it raises, see `open_file`."""
    with open_file(dataset, archive, path) as file:
        size = open_archive(dataset / archive).getinfo(path).file_size if archive else os.fstat(file.fileno()).st_size
        # With the size, as zipfile otherwise unpacks without end what says that it is small.
        return file.read(size)


def read_table_bytes(dataset: Path, file: File) -> bytes:
    """The content of a file that is needed.

    Raises
    ------
    InputError
        It cannot be read.
    """
    try:
        return read_bytes(dataset, file.archive, file.path)
    except (OSError, zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
        raise InputError(f"{dataset}/{file.name}: not readable ({error}); copy or download it again") from None


def hash_of(dataset: Path, archive: str, path: str) -> str:
    """The SHA-256 of a data set's file, in hexadecimal, read in chunks; for what it raises, see `open_file`."""
    with open_file(dataset, archive, path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
