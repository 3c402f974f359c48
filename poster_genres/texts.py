"""Lists of names, as people read them."""

from collections.abc import Iterable


def some(names: Iterable[str], most: int = 5) -> str:
    """The first names, and how many more there are: `Drama, Comedy and 3 more`."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def unique(names: Iterable[str]) -> list[str]:
    """The names, numbered where one has been there before: `Genre`, `Genre 2`."""
    numbered: dict[str, None] = {}
    for name in names:
        number, new = 2, name
        while new in numbered:
            number, new = number + 1, f"{name} {number}"
        numbered[new] = None
    return list(numbered)
