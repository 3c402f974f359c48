"""The files of a data set, in folders of any depth and in zip archives, which are read without unpacking them."""

import os
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from poster_genres.errors import InputError

POSTER_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff")


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
            if name.startswith(".") or not path.is_file():
                continue
            relative = path.relative_to(dataset).as_posix()
            if path.suffix.lower() == ".zip":
                files += _list_archive(path, relative)
            else:
                files.append(File("", relative, path.stat().st_size))
    return sorted(files, key=lambda file: file.name)


def _list_archive(path: Path, relative: str) -> list[File]:
    files = []
    for member in open_archive(path).infolist():
        # zipfile turns backslashes into slashes only on Windows, and cuts the name at a NUL.
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
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
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: not a readable zip archive ({error}); download it again") from None


def read_bytes(dataset: Path, archive: str, path: str) -> bytes:
    """The content of a data set's file.

    Raises
    ------
    OSError, zipfile.BadZipFile
        The file cannot be read.
    """
    if archive:
        try:
            return open_archive(dataset / archive).read(path)
        except (NotImplementedError, RuntimeError) as error:  # an unknown compression, an encrypted member
            raise zipfile.BadZipFile(str(error)) from None
    return (dataset / path).read_bytes()
