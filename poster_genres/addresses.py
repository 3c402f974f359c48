"""Posters at addresses, such as s3://bucket/posters: all that fsspec opens, with the packages of DVC's remotes."""

from collections.abc import Callable
from functools import partial
from typing import Any

from poster_genres.dataset import POSTER_SUFFIXES
from poster_genres.errors import InputError

# Waiting takes most of the time, so that more are read at once than there are cores.
READ_AT_ONCE = 8
# An address's name, size in bytes, None if that is not said, and what reads it.
Found = tuple[str, int | None, Callable[[], bytes]]


def failed(address: str, error: Exception) -> InputError:
    """What to say of an address that cannot be read; each protocol's library has errors of its own."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(f"{address}: cannot be read ({reason})")


def find(address: str) -> list[Found]:
    """The poster at an address, or all posters below it, at any depth.

    Raises
    ------
    InputError
        Nothing is there, it cannot be read, or packages are missing.
    """
    import fsspec

    protocol = address.partition("://")[0]
    try:
        files, root = fsspec.url_to_fs(address)
        one = protocol in ("http", "https") or root.lower().endswith(POSTER_SUFFIXES)
        found: dict[str, dict[str, Any]] = {root: files.info(root)} if one else files.find(root, detail=True)
    except ImportError:
        raise InputError(f"{address}: needs more packages: pip install dvc-{protocol}") from None
    except FileNotFoundError:
        raise InputError(f"{address}: nothing is there") from None
    except Exception as error:
        raise failed(address, error) from None
    paths = sorted(path for path in found if one or path.lower().endswith(POSTER_SUFFIXES))
    if not paths:
        raise InputError(f"{address}: no posters there; files that end in {', '.join(POSTER_SUFFIXES)} are looked for")
    # Not every protocol's own, which would give the address of a file on http:// twice its scheme.
    names = [address if one else files.unstrip_protocol(path) for path in paths]
    return [(name, found[path].get("size"), partial(read, files, name, path)) for name, path in zip(names, paths, strict=True)]


def read(files: Any, name: str, path: str) -> bytes:
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
        raise failed(name, error) from None
