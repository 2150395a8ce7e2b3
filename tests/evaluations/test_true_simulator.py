"""Plans tried out in the true simulator: exact, without a trace, and only where that can be."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from forethought import JEPAAgent
from forethought.core.errors import SettingsError
from forethought.envs import make_env
from forethought.evaluations.planner_table import evaluate_planners
from forethought.evaluations.true_simulator import SimulatorPolicy, TrueSimulator

SMALL = {"model": {"latent_dims": 4, "hidden": 8}, "behaviour": {"hidden": 8}}


@pytest.fixture(scope="module")
def agent():
    return JEPAAgent("InvertedPendulum-v5", **SMALL)


@pytest.mark.parametrize("task", ["Hopper-v5", "Ant-v5"])  # Ant's reward reads what the last step left behind
def test_what_is_tried_out_is_what_happens_and_leaves_no_trace(task):
    simulator = TrueSimulator(partial(make_env, task))
    tried, untouched = simulator.env(), make_env(task)
    rng = np.random.default_rng(0)
    plan = rng.uniform(-1, 1, (1, 3, 40, 2, *tried.action_space.shape)).astype(np.float32)
    for env in (tried, untouched):
        env.reset(seed=3)
        for _ in range(5):
            env.step(np.full(env.action_space.shape, 0.3, np.float32))
    observations, rewards, alive = simulator.try_out(np.array([0]), plan)
    assert not alive[0, 2].all()  # it falls
    for step in range(40):
        total, ended = 0.0, False
        for action in plan[0, 2, step]:
            after = untouched.step(action)
            told = tried.step(action)
            assert np.array_equal(after[0], told[0]["observation"])
            assert after[1] == told[1]
            total, ended = total + after[1], after[2]
            if ended:
                break
        assert np.array_equal(observations[0, 2, step], after[0])
        assert rewards[0, 2, step] == pytest.approx(total, rel=1e-5)
        assert alive[0, 2, step] == (not ended)
        if ended:
            assert not rewards[0, 2, step + 1 :].any()
            assert not alive[0, 2, step:].any()
            break
    simulator.close()


def test_plans_are_judged_by_what_they_would_bring(agent):
    """The model has learned nothing; the simulator knows that a pendulum that is let fall brings no more reward."""
    table = evaluate_planners(
        agent, "InvertedPendulum-v5", ["cem", "gradient"], 200, 2, horizon=15, simulator=True, max_steps=60
    )
    assert [row.name for row in table.rows] == ["policy", "cem", "cem, in the true simulator", "gradient"]
    learned, true = table.rows[1].evaluation, table.rows[2].evaluation
    assert (true.lengths == 60).all()
    assert (learned.lengths < 60).all()
    assert table.rows[2].gain.value > 0
    assert table.rows[2].budget == table.rows[1].budget
    assert "no agent may look there" in table.table().notes[0]


def test_only_planners_that_are_named_look_into_the_simulator(agent):
    table = evaluate_planners(
        agent, "InvertedPendulum-v5", ["cem", "icem"], 50, 1, simulator=["icem", "categorical_cem"], max_steps=3
    )
    assert [row.name for row in table.rows] == ["policy", "cem", "icem", "icem, in the true simulator"]


@pytest.mark.parametrize(("planner", "changes"), [("gradient", {}), ("cem", {"execute": 2, "horizon": 3})])
def test_what_cannot_be_tried_out_is_refused(agent, planner, changes):
    with pytest.raises(SettingsError, match="without gradients that plan anew at every step"):
        SimulatorPolicy(
            agent.planning_with(planner, **changes), TrueSimulator(partial(make_env, "InvertedPendulum-v5"))
        )


def test_only_tasks_of_mujoco_have_a_simulator(agent):
    with pytest.raises(SettingsError, match="MuJoCo's tasks only"):
        TrueSimulator(partial(make_env, "Pendulum-v1"))
    with pytest.raises(SettingsError, match="name the task or give a factory"):
        evaluate_planners(agent, make_env("InvertedPendulum-v5"), ["cem"], episodes=1, simulator=True)
