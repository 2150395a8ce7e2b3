"""The front door opens at once: neither torch nor Stable-Baselines3 is loaded before it is needed."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

import forethought

HEAVY = ("torch", "stable_baselines3", "gymnasium", "mujoco", "matplotlib")


def _loaded_after(code: str) -> list[str]:
    report = f"import sys\n{code}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return result.stdout.splitlines()[-1].split()


def test_importing_the_package_loads_nothing_heavy():
    assert _loaded_after("import forethought") == []


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(argument):
    assert _loaded_after(f"from forethought.cli import main\nassert main([{argument!r}]) == 0") == []


def test_making_environments_loads_no_torch():
    assert "torch" not in _loaded_after("from forethought import make_env\nmake_env('CartPole-v1')")


def test_every_public_name_can_be_had():
    assert [name for name in forethought.__all__ if getattr(forethought, name, None) is None] == []


def _processor_seconds(arguments: list[str]) -> float:
    """Return what python took with these arguments, other processes that compete for the cores left out."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_answers_within_half_a_second():
    assert min(_processor_seconds(["-m", "forethought", "--help"]) for _ in range(3)) < 0.5


@pytest.mark.parametrize("command", ["train", "evaluate", "compare", "report", "list", "doctor", "demo"])
def test_the_help_of_a_command_answers_within_four_seconds(command):
    """Most of them are torch's; where that alone takes more than two, the machine is slow, or busy in every core."""
    seconds = _processor_seconds(["-m", "forethought", command, "--help"])
    assert seconds < 4 or seconds < 2 * _processor_seconds(["-c", "import torch"])
