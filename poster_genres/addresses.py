"""Posters in buckets, such as s3://bucket/posters: where fsspec finds files, with the packages of DVC's remotes."""

from collections.abc import Callable
from functools import partial
from typing import Any

from poster_genres.dataset import POSTER_SUFFIXES
from poster_genres.errors import InputError

# Waiting takes most of the time, so that more are read at once than there are cores.
READ_AT_ONCE = 8
# A poster's address, its size in bytes, and what reads it.
Found = tuple[str, int, Callable[[], bytes]]


def failed(address: str, error: Exception) -> InputError:
    """What to say of an address that cannot be read; each protocol's library has errors of its own."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(f"{address}: cannot be read ({reason})")


def find(address: str) -> list[Found]:
    """The poster at an address, or all posters below it, at any depth.

    Raises
    ------
    InputError
        Nothing is there, it cannot be read, packages are missing, or it is no address of files: pages of the web have neither
        folders nor sizes that can be relied on.
    """
    import fsspec

    protocol = address.partition("://")[0]
    if protocol in ("http", "https"):
        raise InputError(f"{address}: addresses of the web are not opened; download the poster and give its file")
    try:
        files, root = fsspec.url_to_fs(address)
        one = root.lower().endswith(POSTER_SUFFIXES)
        found: dict[str, dict[str, Any]] = {root: files.info(root)} if one else files.find(root, detail=True)
        sizes = {path: int(found[path]["size"]) for path in sorted(found) if path.lower().endswith(POSTER_SUFFIXES)}
    except ImportError:
        raise InputError(f"{address}: needs more packages: pip install dvc-{protocol}") from None
    except FileNotFoundError:
        raise InputError(f"{address}: nothing is there") from None
    except Exception as error:
        raise failed(address, error) from None
    if not sizes:
        raise InputError(f"{address}: no posters there; files that end in {', '.join(POSTER_SUFFIXES)} are looked for")
    return [(files.unstrip_protocol(path), size, partial(read, files, path)) for path, size in sizes.items()]


def read(files: Any, path: str) -> bytes:
    """The content of a file; empty where it is gone.

    Raises
    ------
    InputError
        It cannot be read: there is no connection, or no permission, which is no fault of the poster.
    """
    try:
        return bytes(files.cat_file(path))
    except FileNotFoundError:
        return b""
    except Exception as error:
        raise failed(files.unstrip_protocol(path), error) from None
