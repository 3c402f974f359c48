"""Hugging Face's transformers, imported only where it is needed, as that takes seconds."""

from pathlib import Path
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
    """The model's ID or folder. An experiment's temporary copy has the folder if Git or DVC track it, as they do data/detectors; if
    not, the project has."""
    name = name.removeprefix(HUGGING_FACE)
    return next((str(folder) for folder in (Path(name), repository() / name) if folder.is_dir()), name)
