"""Progress with the time that is left: a bar on a terminal, elsewhere, as in a log, a plain line now and then."""

import sys
import time
from typing import IO, Any

from tqdm import tqdm

# Seconds between two lines, at least.
INTERVAL = 60.0


class Lines:
    """What is used of tqdm, where there is no terminal: now and then a line like `cache: 2048 of 4080 posters, 01:59 left`."""

    def __init__(self, description: str, total: int, unit: str, interval: float) -> None:
        self.description, self.total, self.unit, self.interval = description, total, unit, interval
        self.done = self.initial = 0
        self.start = self.said = time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.said >= self.interval and self.done > self.initial:
            self.said = now
            left = tqdm.format_interval((now - self.start) / (self.done - self.initial) * (self.total - self.done))
            print(f"{self.description}: {self.done} of {self.total}{self.unit}, {left} left", file=sys.stderr, flush=True)

    def refresh(self) -> None:
        """On a terminal the bar's clock goes on; here nothing is said."""

    def write(self, text: str, file: IO[str]) -> None:
        print(text, file=file)


def resume(bar: "tqdm[Any] | Lines", done: int) -> None:
    """Tell a progress of what an earlier run has done, which says nothing of the time that is left."""
    bar.initial += done
    if isinstance(bar, Lines):
        bar.done += done
    else:
        bar.n = bar.last_print_n = bar.n + done
        bar.refresh()


def progress(
    description: str, total: int, unit: str = " posters", leave: bool = True, interval: float = INTERVAL
) -> "tqdm[Any] | Lines":
    """The progress of `total` pieces of work on standard error; a context manager, to be told by `update` how many are done.

    With `leave` a bar is there from the start and stays at the end; without, it comes after a second, and goes, as it may be work
    within other work that has one. One piece of work has no bar. Where there is no terminal, lines are `interval` seconds apart.
    """
    if sys.stderr.isatty() and total > 1:
        return tqdm(desc=description, total=total, unit=unit, leave=leave, delay=0 if leave else 1)
    return Lines(description, total, unit, interval)
