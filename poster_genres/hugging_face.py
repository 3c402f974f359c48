"""Hugging Face's transformers, imported only where it is needed, as that takes seconds."""

from typing import Any

from poster_genres.architectures import HUGGING_FACE
from poster_genres.errors import REQUIREMENTS, InputError
from poster_genres.files import repository


def transformers() -> Any:
    """The library.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        import transformers as library
    except ImportError:
        raise InputError(f"hf/… needs transformers: pip install -r {REQUIREMENTS['transformers']}") from None
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def find(name: str) -> str:
    """The model's ID or folder; a folder is relative to the project's, so that experiments in temporary copies find it too."""
    name = name.removeprefix(HUGGING_FACE)
    folder = repository() / name
    return str(folder) if folder.is_dir() else name
