"""The real agent keeps evaluation's promises: exact resume, planners swapped without training, batches of any size."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from forethought.agents import make_agent
from forethought.core.files import load_archive
from forethought.core.runs import Run
from forethought.evaluations import TrainSettings, evaluate, evaluate_planners, load_trained, resume, train
from forethought.evaluations.planner_table import PLANNERS

from .conftest import reproducible

SMALL = {"model": {"latent_dims": 8, "hidden": 16}, "learning_starts": 30, "batch_size": 8, "updates_per_step": 0.2}
ASKED = TrainSettings("CartPole-v1", "jepa", steps=90, evaluations=3, episodes=2, agent_settings=SMALL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    train(ASKED, folder)
    return folder


def evaluations(folder):
    rows = [row for row in Run.open(folder).read_metrics() if "evaluation/returns" in row]
    return [reproducible(row) for row in rows]


def test_a_run_interrupted_at_a_milestone_ends_like_the_unbroken_one(trained, tmp_path):
    def stop(progress):
        if progress.step == 60 and progress.activity == "evaluating":
            os.kill(os.getpid(), signal.SIGINT)

    assert train(ASKED, tmp_path / "run", stop).step == 60
    assert resume(tmp_path / "run").status == "finished"
    assert Run.open(tmp_path / "run").manifest["resume"] == "exact"
    assert evaluations(tmp_path / "run") == evaluations(trained)
    ours, theirs = (load_archive(folder / "agent.zip").tensors["model"] for folder in (tmp_path / "run", trained))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_both_efforts_are_evaluated(trained):
    assert all(len(row["evaluation/policy_returns"]) == 2 for row in evaluations(trained))


def test_episodes_do_not_depend_on_how_many_run_at_once(trained):
    agent, chosen = load_trained(trained)
    together, apart = (evaluate(agent, chosen.task, 4, deterministic=False, at_once=count) for count in (4, 1))
    assert np.array_equal(together.returns, apart.returns)


def test_continuous_actions_depend_on_how_many_episodes_run_at_once_only_by_rounding():
    agent = make_agent("jepa", "Pendulum-v1", **SMALL)
    together, apart = (evaluate(agent, "Pendulum-v1", 4, max_steps=5, at_once=count) for count in (4, 1))
    np.testing.assert_allclose(together.returns, apart.returns, rtol=1e-4)
    assert len(set(together.returns.round(3))) == 4, "the episodes differ by far more than rounding"


def test_every_planner_acts_in_the_same_trained_agent(trained):
    agent, chosen = load_trained(trained)
    rows = evaluate_planners(agent, chosen.task, budget=40, episodes=2).rows
    assert [row.name for row in rows] == ["policy", "random", "categorical_cem"]


def test_no_planner_exceeds_the_budget_of_the_table():
    agent = make_agent("jepa", "Pendulum-v1", **SMALL)
    rows = evaluate_planners(agent, "Pendulum-v1", budget=60, episodes=2, max_steps=2).rows
    assert [row.name for row in rows] == list(PLANNERS)
    assert all(row.budget + 2 * row.gradients <= 60 for row in rows)
    assert rows[0].budget == 1, "the bare actor evaluates its one proposal"
