"""Where the project is, and writing files so that a reader never meets a half-written one."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def repository() -> Path:
    """The project's folder, also where DVC runs an experiment in a temporary copy of it."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it becomes `path` at the end, and vanishes after an error.

    The rename also leaves alone a file that DVC linked into its cache, which writing in place would corrupt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON with a newline at the end. NaN is refused: other readers choke on it."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with whole_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
