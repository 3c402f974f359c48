"""What was found on posters before, so that nothing is looked for twice."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from poster_genres.errors import InputError
from poster_genres.files import no_space


class Store:
    """Earlier detections and sentence embeddings, by the SHA-256 of poster or text, in an SQLite file that processes share.

    Raises
    ------
    InputError
        The file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._said():
            self.connection = sqlite3.connect(path, timeout=60)
        # Not waiting for the disk: what a power failure loses is found again.
        self._run("PRAGMA synchronous = OFF")
        self._run("CREATE TABLE IF NOT EXISTS found (poster, detector, objects, PRIMARY KEY (poster, detector))")

    def get(self, digest: str, detector: str) -> Any:
        """The stored value, or None."""
        rows = self._run("SELECT objects FROM found WHERE poster = ? AND detector = ?", digest, detector)
        return json.loads(rows[0][0]) if rows else None

    def put(self, digest: str, detector: str, value: Any) -> None:
        self._run("INSERT OR REPLACE INTO found VALUES (?, ?, ?)", digest, detector, json.dumps(value))

    def _run(self, statement: str, *values: str) -> list[Any]:
        with self._said(), self.connection:
            return self.connection.execute(statement, values).fetchall()

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "disk is full" in str(error):
                raise no_space(self.path.parent) from None
            raise InputError(f"{self.path}: {error}; remove it, and what is on posters is found again") from None


def open_store(project: Path) -> Store | None:
    """The store of a project; None where it cannot be written, as outside of a clone."""
    if not (project / ".dvc").is_dir():
        return None
    try:
        return Store(project / ".dvc" / "tmp" / "detections.db")
    except (OSError, InputError):
        return None
