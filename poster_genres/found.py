"""What was found on posters before, so that nothing is looked for twice."""

import hashlib
import json
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from poster_genres.errors import InputError
from poster_genres.files import no_space
from poster_genres.spread import spread


class Store:
    """Earlier detections and sentence embeddings, by the SHA-256 of poster or text, in an SQLite file that processes share.

    Parameters
    ----------
    fill : adds what was found elsewhere; called once, when something is not there

    Raises
    ------
    InputError
        The file cannot be read or written.
    """

    def __init__(self, path: Path, fill: Callable[["Store"], object] | None = None) -> None:
        self.path, self.fill = path, fill
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._said():
            self.connection = sqlite3.connect(path, timeout=60)
        # Not waiting for the disk: what a power failure loses is found again.
        self._run("PRAGMA synchronous = OFF")
        self._run("CREATE TABLE IF NOT EXISTS found (poster, detector, objects, PRIMARY KEY (poster, detector))")

    def get(self, digest: str, detector: str) -> Any:
        """The stored value, or None."""
        if self.fill is not None and not self.known(digest, detector):
            fill, self.fill = self.fill, None
            fill(self)
        rows = self._run("SELECT objects FROM found WHERE poster = ? AND detector = ?", digest, detector)
        return json.loads(rows[0][0]) if rows else None

    def known(self, digest: str, detector: str) -> bool:
        """Whether there is a stored value."""
        return bool(self._run("SELECT 1 FROM found WHERE poster = ? AND detector = ?", digest, detector))

    def put(self, digest: str, detector: str, value: Any) -> None:
        self._run("INSERT OR REPLACE INTO found VALUES (?, ?, ?)", digest, detector, json.dumps(value))

    def put_missing(self, values: list[tuple[str, str, Any]]) -> int:
        """Add values, each with its digest and detector, where there is none; return how many were added."""
        rows = [(digest, detector, json.dumps(value)) for digest, detector, value in values]
        with self._said(), self.connection:
            return self.connection.executemany("INSERT OR IGNORE INTO found VALUES (?, ?, ?)", rows).rowcount

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
            remedy = "remove it, and what is on posters is found again"
            if "locked" in str(error):
                remedy = "another command uses it: try again when that has ended"
            elif any(reason in str(error) for reason in ("disk I/O", "readonly", "unable to open")):
                remedy = "is there room, and may it be written?"
            raise InputError(f"{self.path}: {error}; {remedy}") from None


def find(
    function: Callable[[list[bytes]], list[Any]],
    chunks: Iterable[list[bytes]],
    store: Store | None,
    key: str,
    dask_scheduler: str | None = None,
    cores: int | None = None,
    prepare: Callable[[list[bytes]], None] = lambda items: None,
) -> Iterator[Any]:
    """What `function` makes of each item of each chunk, in their order; only of those that are not in the store, to which they are
    added.

    Parameters
    ----------
    function : gives for each item of a chunk what JSON can hold; text says why there is nothing, and is not stored
    key : under which the store has the results of this function
    dask_scheduler, cores : see `spread`
    prepare : is called with the items of a chunk that are not in the store, before they are handed out
    """
    # Of each chunk on its way, the items' digests and what is known of them.
    looked_up: deque[tuple[list[str], list[Any]]] = deque()

    def unknown() -> Iterator[list[bytes]]:
        for chunk in chunks:
            digests = [] if store is None else [hashlib.sha256(item).hexdigest() for item in chunk]
            known = [None] * len(chunk) if store is None else [store.get(digest, key) for digest in digests]
            looked_up.append((digests, known))
            items = [item for item, value in zip(chunk, known, strict=True) if value is None]
            prepare(items)
            yield items

    for results in spread(function, unknown(), dask_scheduler, cores):
        digests, known = looked_up.popleft()
        new = iter(results)
        for i, value in enumerate(known):
            result = next(new) if value is None else value
            if store is not None and value is None and not isinstance(result, str):
                store.put(digests[i], key, result)
            yield result
