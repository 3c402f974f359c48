"""How a stage ends: quietly, or with one clear line and exit code 1."""

import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


class InputError(Exception):
    """Something given from outside is wrong. The message names the file, key or row, and says what would be right."""


_interrupted: list[int] = []


def _interrupt(number: int, frame: object) -> None:
    _interrupted.append(number)
    raise KeyboardInterrupt


def check_interrupt() -> None:
    """Raise KeyboardInterrupt if there was one. For long work to call now and then: where Python was called back from C++ or by a
    destructor, what the signal's handler raised may have been swallowed."""
    if _interrupted:
        raise KeyboardInterrupt


def run(main: Callable[[], None]) -> NoReturn:
    """Run a command's `main` and exit: 0, 1 with one line on standard error for bad input, 130 when interrupted.

    Anything else is a fault of this program, and keeps its traceback.
    """
    # A plain kill ends like Ctrl-C, so that temporary files are cleared away.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        main()
    except InputError as error:
        # Of several processes that train together, all of which meet it, the first says so.
        sys.exit(f"error: {error}" if os.environ.get("RANK", "0") == "0" else 1)
    except KeyboardInterrupt:
        print("interrupted: nothing half-written was left behind", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`| head`). Closing the stream keeps Python from complaining at exit.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {error.filename}: {error.strerror}")
    # What is still there need not be gone through for garbage once more, which takes up to a second.
    gc.freeze()
    sys.exit(0)
