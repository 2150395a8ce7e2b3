"""The rooms stand at the repository's root, are installed under one name, and import each other downwards only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("agents", "envs", "evaluations", "planners", "world_model")
PACKAGE = ROOT / "src" / "forethought"


@pytest.fixture(scope="module")
def setuptools_table():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_the_package_list_names_exactly_the_packages_on_disk(setuptools_table):
    places = [PACKAGE, *(path for path in PACKAGE.iterdir() if path.is_dir() and not path.is_symlink())]
    places += [ROOT / room for room in ROOMS]
    nested = {init.parent for place in places if place != PACKAGE for init in place.rglob("__init__.py")}
    on_disk = {place for place in [PACKAGE, *nested] if (place / "__init__.py").exists()}
    listed = {name: ROOT / setuptools_table["package-dir"][name] for name in setuptools_table["packages"]}
    assert set(listed.values()) == on_disk
    assert sorted(setuptools_table["packages"]) == sorted(setuptools_table["package-dir"])


def test_each_room_is_linked_into_the_package_relatively():
    links = {path.name: os.readlink(path) for path in PACKAGE.iterdir() if path.is_symlink()}
    assert links == {room: f"../../{room}" for room in ROOMS}


def test_no_file_is_longer_than_four_hundred_lines():
    files = [
        path for room in (*ROOMS, "src/forethought/core", "src/forethought/cli") for path in ROOT.glob(f"{room}/*.py")
    ]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert not {name: length for name, length in lengths.items() if length > 400}


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("planners/cem.py", "from ..world_model import JEPA"),
        ("envs/tasks.py", "from ..planners import Plan"),
        ("world_model/jepa.py", "from ..agents import JEPAAgent"),
        ("src/forethought/core/files.py", "from ..envs import make_env"),
        ("agents/online.py", "import forethought.evaluations"),
    ],
)
def test_a_forbidden_import_is_caught(tmp_path, module, planted):
    copy = _copy_of_the_code(tmp_path)
    assert _lint(copy).returncode == 0, "the contract does not hold to begin with"
    target = copy / module
    target.write_text(target.read_text() + f"\n{planted}\n")
    result = _lint(copy)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Arrows point down only BROKEN" in result.stdout


def _copy_of_the_code(folder: Path) -> Path:
    copy = folder / "copy"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("src", *ROOMS):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).parent / "lint-imports"
    return subprocess.run(
        [command, "--no-cache", "--no-logo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
    )
