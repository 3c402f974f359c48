"""Check params.yaml, and write what each stage uses of it, so that a stage runs again only where a value changed that it uses.

In: params.yaml, recipes.yaml and the code of the networks. Out, in data/parameters: a JSON file a stage, with its values; and for
train and evaluate the SHA-256 of each file of the code of the architecture in use. Run: `python -m stages.resolve`.
"""

import ast
import hashlib
import shutil
from pathlib import Path

from poster_genres import errors
from poster_genres.architectures import module_of
from poster_genres.files import write_json
from poster_genres.parameters import (
    CacheParameters,
    DetectParameters,
    EvaluateParameters,
    JoinParameters,
    TrainParameters,
    Values,
    read_parameters,
)

FOLDER = Path("data/parameters")
STAGES: dict[str, type[Values]] = {
    "join": JoinParameters,
    "cache": CacheParameters,
    "detect": DetectParameters,
    "train": TrainParameters,
    "evaluate": EvaluateParameters,
}


def imported_files(file: Path) -> list[Path]:
    """The project's files that a Python file imports, directly or by way of others, without itself; relative to the project."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text(encoding="utf-8"))):
            names = [f"{node.module}.{name.name}" for name in node.names] if isinstance(node, ast.ImportFrom) else []
            for name in [part for full in names for part in (full, full.rpartition(".")[0])]:
                path = Path(f"{name.replace('.', '/')}.py")
                if path.is_file() and path not in found:
                    found.add(path)
                    waiting.append(path)
    return sorted(found)


def main() -> None:
    parameters = read_parameters()
    network = Path(f"{module_of(parameters.architecture).replace('.', '/')}.py")
    shutil.rmtree(FOLDER, ignore_errors=True)
    for stage, kind in STAGES.items():
        values = parameters.used_by(kind).model_dump()
        if stage in ("train", "evaluate"):
            # What else they import stands in dvc.yaml.
            code = {network, *imported_files(network)}.difference(imported_files(Path(f"stages/{stage}.py")))
            values["code"] = {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(code)}
        write_json(FOLDER / f"{stage}.json", values)
    recipe = parameters.recipe
    print(
        f"{parameters.dataset}: {parameters.architecture}, {recipe.ensemble_size} network(s), {recipe.epochs} epochs, "
        f"batches of {recipe.batch_size}, learning rate {recipe.learning_rate:g}"
    )


if __name__ == "__main__":
    errors.run(main)
