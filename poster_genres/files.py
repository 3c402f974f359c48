"""The project's folder, and writing files and folders so that no reader sees an incomplete one."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from poster_genres.errors import InputError


def repository() -> Path:
    """The project's folder, even if DVC runs an experiment in a temporary copy of it."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; at the end it is renamed to `path`, or removed after an error.

    The rename does not change a file that DVC linked to its cache, which writing in place would corrupt.

    Raises
    ------
    InputError
        The disk is full.
    """
    with _unfinished(path, Path.touch) as temporary:
        yield temporary
        temporary.replace(path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` to write files into; at the end it replaces `path`, or is removed after an error.

    Raises
    ------
    InputError
        The disk is full.
    """
    with _unfinished(path, Path.mkdir) as temporary, _unfinished(path.with_name(f"{path.name}.old"), Path.mkdir) as old:
        yield temporary
        while True:
            # A folder that has files cannot be replaced in one step.
            with suppress(FileNotFoundError):
                path.rename(old)
            try:
                temporary.rename(path)
                return
            except OSError as error:  # another process was faster
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                _remove(old)


@contextmanager
def _unfinished(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Make an empty file or folder `.NAME.PID.part` beside `path`, and remove it at the end.

    It is locked as long as this process lives. What is not locked was left by a process that was killed, and is removed.
    """
    folder = path.parent
    temporary = folder / f".{path.name}.{os.getpid()}.part"
    descriptor = -1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.part"):
            if re.fullmatch(r"\..+\.[1-9]\d*\.part", leftover.name):  # else it is somebody's own
                _remove_unlocked(leftover)
        _remove(temporary)
        # Before it is locked, another process may take it for a leftover and remove it.
        while descriptor < 0:
            make(temporary)
            descriptor = _locked(temporary)
        yield temporary
    except (OSError, RuntimeError) as error:
        if is_full(error):
            folder = next(parent for parent in path.parents if parent.suffix != ".part")
            raise no_space(folder) from None
        raise
    finally:
        _remove(temporary)
        if descriptor >= 0:
            os.close(descriptor)


def no_space(folder: Path) -> InputError:
    """What to say where the disk with this folder is full."""
    return InputError(f"{folder}: no space left on the disk; make room, and type the same command again")


def is_full(error: Exception) -> bool:
    """Whether a write failed because the disk is full, or a quota reached."""
    if isinstance(error, OSError):
        # NumPy asks for the space before it writes.
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "Not enough free space" in str(error)
    # PyTorch says only where it stopped.
    return "unexpected pos" in str(error)


def _locked(path: Path) -> int:
    """A descriptor by which a file or folder is locked until it is closed; -1 where it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return -1
    with suppress(OSError):  # on file systems without locks nothing is removed
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    os.close(descriptor)
    return -1


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON with a final newline. NaN raises ValueError, as it is not JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with whole_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
