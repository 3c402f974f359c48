"""Hugging Face's transformers, which takes seconds to import."""

from typing import Any

from poster_genres.architectures import HUGGING_FACE
from poster_genres.errors import InputError
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
        raise InputError("hf/… needs more packages: pip install -r requirements.txt") from None
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def find(name: str) -> str:
    """The model's ID, or its folder, relative to the project's, which experiments in temporary copies find too."""
    name = name.removeprefix(HUGGING_FACE)
    folder = repository() / name
    return str(folder) if folder.is_dir() else name
