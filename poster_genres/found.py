"""What was found on posters before, so that nothing is looked for twice."""

import json
import sqlite3
from pathlib import Path
from typing import Any


class Store:
    """Earlier detections and sentence embeddings, by the SHA-256 of poster or text, in an SQLite file that processes share."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(path, timeout=60)
        # Not waiting for the disk: what a power failure loses is found again.
        self.connection.execute("PRAGMA synchronous = OFF")
        with self.connection:
            self.connection.execute("CREATE TABLE IF NOT EXISTS found (poster, detector, objects, PRIMARY KEY (poster, detector))")

    def get(self, digest: str, detector: str) -> Any:
        """The stored value, or None."""
        row = self.connection.execute("SELECT objects FROM found WHERE poster = ? AND detector = ?", (digest, detector)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, digest: str, detector: str, value: Any) -> None:
        with self.connection:
            self.connection.execute("INSERT OR REPLACE INTO found VALUES (?, ?, ?)", (digest, detector, json.dumps(value)))


def open_store(project: Path) -> Store | None:
    """The store of a project; None where it cannot be written, as outside of a clone."""
    if not (project / ".dvc").is_dir():
        return None
    try:
        return Store(project / ".dvc" / "tmp" / "detections.db")
    except (OSError, sqlite3.Error):
        return None
