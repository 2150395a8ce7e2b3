"""The README's snippets and short commands do what it says, with fewer steps."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from .readme import blocks, commands

FEWER_STEPS = re.compile(r"\b\d+_000\b")


@pytest.fixture
def run(tmp_path):
    """Return a function that runs Python with these arguments in an empty folder, and returns what it prints."""

    def run(*arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run


def _snippet(mark: str) -> str:
    (found,) = [snippet for snippet in blocks("python") if mark in snippet]
    return found


def test_the_example_trains_swaps_planners_saves_and_loads(run):
    lines = run("-c", FEWER_STEPS.sub("60", _snippet("agent.learn"))).splitlines()
    assert lines[0].startswith("return ")
    assert [line.split()[0] for line in lines[1:]] == ["policy", "cem", "mppi"]


def test_the_environment_is_found_by_its_module_and_is_sound(run, tmp_path):
    (tmp_path / "dock.py").write_text(_snippet("class Dock"))
    assert "ok   exact resume" in run("-m", "forethought", "doctor", "dock:Dock-v0", "--steps", "120")


def test_the_planner_keeps_every_promise(run, tmp_path):
    (tmp_path / "hill_climb.py").write_text(_snippet("class HillClimb("))
    run("hill_climb.py")


def test_each_part_works_alone(run):
    assert "tensor" in run("-c", FEWER_STEPS.sub("60", _snippet("EpisodeStore(2, 1)")))


SHORT = ("forethought list planners", "forethought doctor")


@pytest.mark.parametrize("command", SHORT)
def test_the_short_commands_run(run, command):
    assert command in commands()
    assert run("-m", *command.split())


def test_an_environment_is_perturbed(run):
    assert "teleport" in run("-c", _snippet("perturbations_for"))
