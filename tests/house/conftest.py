"""Runs the command line inside the test process, and trains the one small agent that its tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from forethought.cli import main

SMALL = ["--model.latent-dims", "8", "--model.hidden", "16", "--model.directions", "8", "--behaviour.hidden", "16"]
SHORT = ["--steps", "60", "--learning-starts", "40", "--batch-size", "8", "--evaluations", "1", "--episodes", "1"]
QUICK = ["--planning.budget", "20", "--planning.proposals", "2", *SMALL, *SHORT]


@dataclass(frozen=True)
class Outcome:
    """What a command ended with."""

    code: int
    out: str
    err: str

    def is_one_sentence_about(self, *parts: str) -> bool:
        """Whether it refused with a single line on standard error that holds all ``parts``, and nothing else."""
        told = self.err.strip().lower()
        return self.code == 2 and not self.out and "\n" not in told and all(part.lower() in told for part in parts)


@pytest.fixture
def forethought(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs ``forethought ARGUMENTS``."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def quick() -> list[str]:
    """Return the options of a training that takes seconds."""
    return QUICK


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of the JEPA agent, too short to have learned anything."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "Pendulum-v1", "--out", str(folder), *QUICK]) == 0
    return folder
