"""MLflow's model registry: each finished training is a version of the model `poster-genres`, the best has the alias `best`.

Best is the highest macro average precision on validation posters, which can only be compared on the same posters with the same
labels: a version that was validated on others never takes the alias, except that real posters take it from the sample's.
"""

import atexit
import hashlib
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from poster_genres.errors import InputError
from poster_genres.movies import genres_of

NAME = "poster-genres"
ALIAS = "best"
SCORE = "validation_macro_average_precision"
# The tag with `validation_set`.
VALIDATION = "validation_set"
# How far apart the versions are that `choose_best` looks at, and how often it looks.
SAME_MOMENT_MILLISECONDS = 60_000
ATTEMPTS = 10


def validation_set(movies: pd.DataFrame) -> str:
    """A hash of the validation posters' IDs and labels: scores on equal ones can be compared."""
    genres = genres_of(movies)
    table = movies.loc[movies["split"] == "validation", ["id", *genres]].sort_values("id")
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16]


def register(run_id: str, model_id: str, tags: dict[str, str], note: str) -> str:
    """Register a run's model, unless it is already, with tags and a description in Markdown; move the alias if it is the best.

    Parameters
    ----------
    tags : with SCORE and VALIDATION, and `caveat` if scores mean nothing

    Returns
    -------
    What was done, on one line.
    """
    import mlflow

    client = mlflow.MlflowClient()
    # A run's model may be registered under other names too, as MLflow's UI does.
    versions = [version for version in client.search_model_versions(f"run_id = '{run_id}'") if version.name == NAME]
    if versions:
        version = versions[0]
    else:
        # `mlflow.register_model` does the same, and prints.
        try:
            client.create_registered_model(NAME)
        except mlflow.MlflowException as error:  # on a server, another machine may be making it in the same moment
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = client.create_model_version(NAME, f"models:/{model_id}", run_id, tags, model_id=model_id)
    for key, value in tags.items():
        client.set_model_version_tag(NAME, version.version, key, value)
    client.update_model_version(NAME, version.version, note)
    best, moved = choose_best(version)
    said = f"version {version.version} of {NAME}"
    if str(best.version) == str(version.version):
        return f"{said}, {'now ' if moved else ''}the best: models:/{NAME}@{ALIAS}"
    if tags[VALIDATION] == best.tags.get(VALIDATION):
        return f"{said}; the best on validation is version {best.version}"
    stays = f"{ALIAS} stays version {best.version}, validated on other posters and not comparable"
    return f"{said}; {stays}; MLflow's page Models changes it"


def choose_best(version: Any) -> tuple[Any, bool]:
    """Move the alias to a registered version if it is the best; return the alias's version, and whether it was moved.

    Another machine may register a version in the same moment. MLflow then refuses to make the alias twice, or the later of the two
    moves undoes the other. So each client also looks at what was registered in the same minute, until there is nothing to move.
    """
    import mlflow

    client = mlflow.MlflowClient()
    moved = False
    for attempts_left in reversed(range(ATTEMPTS)):
        aliases = client.get_registered_model(NAME).aliases
        before = best = client.get_model_version(NAME, aliases[ALIAS]) if ALIAS in aliases else None
        others = [
            one
            for one in client.search_model_versions(f"name = '{NAME}'")
            if VALIDATION in one.tags and abs(one.creation_timestamp - version.creation_timestamp) < SAME_MOMENT_MILLISECONDS
        ]
        for one in sorted(others, key=lambda one: int(one.version)):
            if best is None or takes_alias(one.tags, best.tags):
                best = one
        assert best is not None
        if before is not None and str(before.version) == str(best.version):
            break
        try:
            client.set_registered_model_alias(NAME, ALIAS, best.version)
            moved = True
        except mlflow.MlflowException:
            if attempts_left == 0:
                raise
    return best, moved


def takes_alias(tags: dict[str, str], best: dict[str, str]) -> bool:
    """Whether a version takes the alias from the best, given the tags of both."""
    if ("caveat" in tags) != ("caveat" in best):
        return "caveat" in best
    # Not a number where no genre has enough validation posters.
    new, old = (
        -math.inf if math.isnan(score) else score for score in (float(tags.get(SCORE, "nan")), float(best.get(SCORE, "nan")))
    )
    return tags[VALIDATION] == best.get(VALIDATION) and new > old


def model_file(address: str) -> Path:
    """The model's file of an address in the registry, `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `models:/ID`.

    Raises
    ------
    InputError
        The store has no such model, or cannot be used.
    """
    from poster_genres.tracking import connect

    def find() -> Any:
        connect()
        import mlflow

        # Into a folder that goes with this process; MLflow would leave one behind.
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return mlflow.artifacts.download_artifacts(f"{address.rstrip('/')}/artifacts/model.pt", dst_path=folder)

    try:
        return Path(find())
    except Exception as error:  # MLflow passes on the exceptions of its store and network
        reason = next(iter(str(error).splitlines()), "")[:200].rstrip(" .")
        raise InputError(f"{address}: {reason}; models that are there: `mlflow ui`, page Models") from None
