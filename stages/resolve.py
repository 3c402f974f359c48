"""Check params.yaml, and write the values that each stage uses, so that DVC reruns a stage only if one of its own values changed.

In: params.yaml, poster_genres/recipes.yaml and the networks' code. Out, in data/parameters: one JSON file per stage with its
values, and for train and evaluate the SHA-256 of each file of the architecture's code. Run: `python -m stages.resolve`.
"""

import ast
import hashlib
from importlib import import_module
from pathlib import Path

from poster_genres import errors
from poster_genres.architectures import detector_module, module_of
from poster_genres.errors import InputError, require
from poster_genres.files import whole_folder, write_json
from poster_genres.parameters import (
    SAMPLE,
    CacheParameters,
    DetectParameters,
    EvaluateParameters,
    JoinParameters,
    Parameters,
    TrainParameters,
    Values,
    read_parameters,
)

FOLDER = Path("data/parameters")
# What `image_height: auto` is for most posters; stages.cache chooses it.
DEFAULT_SIZE = (320, 224)
STAGES: dict[str, type[Values]] = {
    "join": JoinParameters,
    "cache": CacheParameters,
    "detect": DetectParameters,
    "train": TrainParameters,
    "evaluate": EvaluateParameters,
}


def imported_files(file: Path) -> list[Path]:
    """The project's files that a Python file imports, directly or indirectly, as paths relative to the project; without itself."""
    imported: set[Path] = set()
    queue = [file]
    while queue:
        for node in ast.walk(ast.parse(queue.pop().read_text(encoding="utf-8"))):
            names = [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            for name in [*names, *(name.rpartition(".")[0] for name in names)]:
                path = Path(f"{name.replace('.', '/')}.py")
                if path.is_file() and path not in imported:
                    imported.add(path)
                    queue.append(path)
    return sorted(imported)


def check_early(parameters: Parameters) -> None:
    """See that packages are there and that the network can be made, now and not after posters have been decoded and read.

    Raises
    ------
    InputError
        The data set or a package is missing, a Hugging Face model cannot be read, or values do not suit the architecture.
    """
    dataset = Path(parameters.dataset)
    # A folder that DVC tracks may still have to be fetched.
    tracked = any(path.with_name(f"{path.name}.dvc").exists() for path in (dataset, *dataset.parents) if path.name)
    if not (dataset.exists() or tracked or dataset == SAMPLE):
        raise InputError(f"params.yaml: dataset: {dataset} is not there; `dvc import-url FOLDER {dataset}` brings a folder there")
    if parameters.dask_scheduler is not None:
        require(["distributed"], "params.yaml: dask_scheduler")
    for detector in parameters.detectors if parameters.two_stream else []:
        require(import_module(detector_module(detector)).Detector.packages, f"params.yaml: detectors: {detector}")
    import torch

    from poster_genres.network import find_architecture, network_to_train

    architecture = find_architecture(parameters.architecture)
    if architecture.weights_file is not None:
        architecture.weights_file()
    auto = "auto" in (parameters.image_height, parameters.image_width)
    size = DEFAULT_SIZE if auto else (int(parameters.image_height), int(parameters.image_width))
    with torch.device("meta"):  # shapes only, without weights
        network_to_train(
            parameters.architecture,
            architecture,
            2,
            size,
            linear_probe=parameters.recipe.linear_probe,
            frozen_blocks=parameters.recipe.frozen_blocks,
            interpolation=parameters.interpolation,
        )


def main() -> None:
    parameters = read_parameters()
    check_early(parameters)
    network = Path(f"{module_of(parameters.architecture).replace('.', '/')}.py")
    with whole_folder(FOLDER) as folder:
        for stage, kind in STAGES.items():
            values = parameters.used_by(kind).model_dump()
            if stage in ("train", "evaluate"):
                # The stage's other imports are listed in dvc.yaml.
                code = {network, *imported_files(network)}.difference(imported_files(Path(f"stages/{stage}.py")))
                values["code"] = {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(code)}
            write_json(folder / f"{stage}.json", values)
    recipe = parameters.recipe
    print(
        f"{parameters.dataset}: {parameters.architecture}, {recipe.ensemble_size} network{'s' * (recipe.ensemble_size > 1)}, "
        f"{recipe.epochs} epoch{'s' * (recipe.epochs != 1)}, "
        f"batches of {recipe.batch_size}, learning rate {recipe.learning_rate:g}"
    )


if __name__ == "__main__":
    errors.run_stage(main)
