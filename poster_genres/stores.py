"""MLflow's store: where it is, whether it answers, and where it keeps artifacts (figures, tables, models)."""

import os
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from poster_genres.files import repository

if TYPE_CHECKING:
    from filelock import FileLock

# How long to wait for a store that another program has locked.
LOCKED_SECONDS = 5
ARTIFACTS = "mlartifacts"
# Where MLflow's tables have the address of artifacts.
COLUMNS = (("runs", "artifact_uri"), ("logged_models", "artifact_location"), ("model_versions", "storage_location"))


class StoreError(Exception):
    """The store cannot be used; the message says why, and what would help."""


def store_uri() -> str:
    """The tracking URI: MLFLOW_TRACKING_URI, by default that of `mlflow.db`, which `mlflow ui` opens by default, too.

    A relative path is relative to the project's folder, as queued experiments run in temporary copies of it.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if parts := _sqlite(uri):
        prefix, path, options = parts
        return f"{prefix}{repository() / path}{options}"
    is_path = not urlsplit(uri).scheme and not uri.startswith(("databricks", "uc"))
    return (repository() / uri).as_uri() if is_path else uri


def store_lock() -> "FileLock":
    """A lock that the workers of this project share."""
    from filelock import FileLock

    path = repository() / ".dvc" / "tmp" / "mlflow.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, timeout=120)


def _sqlite(uri: str) -> tuple[str, str, str] | None:
    """The URI of an SQLite file as prefix, path and options; None for other URIs."""
    found = re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^?]+)(\?.*)?", uri)
    return None if found is None or found[2] == ":memory:" else (found[1], found[2], found[3] or "")


def database_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for other stores."""
    parts = _sqlite(uri)
    return None if parts is None else Path(parts[1])


def artifact_location(uri: str) -> str | None:
    """Where artifacts of new runs go: a folder beside a store that is a file, and in the project for another database.

    MLflow's own choice would be relative to the working directory, and lost with an experiment's temporary copy. None leaves it to
    a server or to a store that is a folder.
    """
    if path := database_file(uri):
        return (path.resolve().parent / ARTIFACTS).as_uri()
    return (repository() / ARTIFACTS).as_uri() if urlsplit(uri).scheme.startswith(("postgres", "mysql", "mssql")) else None


def check_store(uri: str) -> None:
    """Check that an SQLite store can be written to, as MLflow itself would retry for a minute.

    Raises
    ------
    StoreError
        It is a folder, no database, locked by another program, or in a folder that cannot be written to.
    """
    if (path := database_file(uri)) is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=LOCKED_SECONDS)) as database:
            database.execute("BEGIN IMMEDIATE")
    except (OSError, sqlite3.Error) as error:
        reason = "it is a folder; name a file" if path.is_dir() else getattr(error, "strerror", None) or str(error)
        raise StoreError(f"{path}: {reason}") from None


def find_moved_artifacts(uri: str, old: str) -> None:
    """Let a store whose folder was moved or copied find its artifacts, whose absolute addresses it holds. Says so, where it does.

    New artifacts go beside the store; old ones are looked for there if they are there, or are not where they were.

    Parameters
    ----------
    old : where the store says that an experiment's artifacts go
    """
    path, place = database_file(uri), artifact_location(uri)
    if path is None or place is None or old == place or urlsplit(old).scheme not in ("", "file"):
        return
    # Else somebody chose that place.
    if not old.endswith(f"/{ARTIFACTS}") and _path(old).parent.exists():
        return
    found = 0
    with closing(sqlite3.connect(path, timeout=LOCKED_SECONDS)) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (place, old))
        for table, column in COLUMNS:
            select = f"SELECT rowid, {column} FROM {table} WHERE substr({column}, 1, ?) = ?"
            for row, address in database.execute(select, (len(old) + 1, f"{old}/")).fetchall():
                new = place + address[len(old) :]
                if _path(new).exists() or not _path(address).exists():
                    database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (new, row))
                    found += 1
    print(f"{path}: was moved or copied: {found} runs and models are now found in {_path(place)}", file=sys.stderr)


def _path(uri: str) -> Path:
    return Path(url2pathname(urlsplit(uri).path))
