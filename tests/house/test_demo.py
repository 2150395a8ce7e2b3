"""The demo fails loudly where the agent has not learned."""

from __future__ import annotations

import pytest

from forethought.cli.demo import TIMES_RANDOM, judge
from forethought.core.runs import Run
from forethought.evaluations.settings import TrainSettings


@pytest.fixture
def run_that_returns(tmp_path):
    """Return a function that makes a run whose agent brought a certain return, where acting at random brings 10."""

    def make(value: float | None):
        with Run.create(tmp_path / "run", TrainSettings(task="InvertedPendulum-v5").to_dict()) as run:
            run.log({"reference/random_returns": [9.0, 11.0]}, step=0)
            if value is not None:
                run.log({"evaluation/returns": [value, value]}, step=100)
        return run.folder

    return make


def test_an_agent_far_better_than_random_passes(run_that_returns, capsys):
    assert judge(run_that_returns(10.0 * TIMES_RANDOM), "demo") == 0
    assert "50.0" in capsys.readouterr().out


@pytest.mark.parametrize(("value", "told"), [(49.9, "has not learned"), (None, "no evaluation")])
def test_any_other_fails_and_says_why(run_that_returns, capsys, value, told):
    assert judge(run_that_returns(value), "demo") == 1
    assert told in capsys.readouterr().err
