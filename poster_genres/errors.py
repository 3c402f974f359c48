"""How a stage ends: without output, or with one clear line and exit code 1."""

import argparse
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn


class InputError(Exception):
    """Input from outside is wrong. The message names the file, key or row, and what would be right."""


class Parser(argparse.ArgumentParser):
    """A command line that is bad input when it is wrong, as all else is: one line, and exit code 1 where argparse has 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


# What is not in requirements.txt, and the file that has it too.
REQUIREMENTS = {"distributed": "requirements-dask.txt", "transformers": "requirements-hf.txt"}


def require(packages: Iterable[str], needed_by: str) -> None:
    """Check that packages are installed.

    Raises
    ------
    InputError
        One is not.
    """
    for package in packages:
        try:
            version(package)
        except PackageNotFoundError:
            file = REQUIREMENTS.get(package, "requirements.txt")
            raise InputError(f"{needed_by} needs {package}: pip install -r {file}") from None


def printable(text: str) -> str:
    """A text on one line, as a terminal may show it: control characters, escape sequences and marks that turn the direction of
    writing are written out, as `\\x1b`."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode() for sign in text)


_interrupted: list[int] = []


def _interrupt(number: int, frame: object) -> None:
    _interrupted.append(number)
    raise KeyboardInterrupt


def check_interrupt() -> None:
    """Raise KeyboardInterrupt if there was an interrupt. Long computations call it regularly, as the exception that the handler
    raised may have been lost in a callback from C++ or in a destructor."""
    if _interrupted:
        raise KeyboardInterrupt


def run(main: Callable[[], None]) -> NoReturn:
    """Run a command's `main` and exit: 0, 1 with one line on standard error for bad input, 130 when interrupted.

    Any other exception is a bug in this program, and keeps its traceback.
    """
    # SIGTERM ends like Ctrl-C, so that temporary files are removed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        main()
    except InputError as error:
        # In distributed training all ranks raise it, and rank 0 prints it.
        sys.exit(printable(f"error: {error}") if os.environ.get("RANK", "0") == "0" else 1)
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept, and nothing half-written", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of the output is gone (`| head`). Closing the stream keeps Python from reporting it at exit.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        sys.exit(printable(f"error: {error.filename or Path.cwd()}: {error.strerror}"))
    # Skips the last garbage collection, which takes up to a second.
    gc.freeze()
    sys.exit(0)


def run_stage(main: Callable[[], None]) -> NoReturn:
    """`run` for a stage of dvc.yaml, which takes no options but --help, that prints what its module says of itself."""

    def checked() -> None:
        options = sys.argv[1:]
        if options in (["-h"], ["--help"]):
            print((sys.modules["__main__"].__doc__ or "").strip())
        elif options:
            name = Path(sys.argv[0]).stem
            raise InputError(
                f"{' '.join(options)}: stages.{name} takes no options; set values in params.yaml, or by dvc exp run -S KEY=VALUE"
            )
        else:
            main()

    run(checked)
