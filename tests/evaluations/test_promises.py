"""What plans promised is compared with what followed, decision by decision, as far as that is known."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from forethought import JEPAAgent
from forethought.evaluations.planner_table import evaluate_planners
from forethought.evaluations.promises import Promising


@dataclass
class Scripted:
    """A planner whose plans promise what is written."""

    promises: list[list[float]]

    def plan(self, objective, state, proposals=None):
        row = self.promises[state.ticks[0]]
        return SimpleNamespace(cost=-torch.tensor(row[: len(state.seeds)]))


def promising(promises, discount=0.5, block=1, execute=1):
    policy = SimpleNamespace(
        controller=SimpleNamespace(planner=Scripted(promises), block=block, execute=execute), answer=42
    )
    view = Promising(policy, discount)
    for tick in range(len(promises)):
        seeds = (7, 8)[: len(promises[tick])]
        view.policy.controller.planner.plan(None, SimpleNamespace(seeds=seeds, ticks=(tick,) * len(seeds)))
    return view


def test_what_is_kept_is_the_discounted_return_to_the_end():
    view = promising([[10.0, 1.0], [20.0]])
    kept = view.kept([7, 8], [np.array([1.0, 2.0]), np.array([5.0])], [True, True])
    assert kept.decisions == 3
    assert kept.promised == pytest.approx((10 + 20 + 1) / 3)
    assert kept.kept == pytest.approx((1 + 0.5 * 2 + 2 + 5) / 3)
    assert kept.correlation == pytest.approx(np.corrcoef([10, 20, 1], [2, 2, 5])[0, 1])
    assert view.answer == 42  # all else is the policy's


def test_where_an_episode_was_cut_its_last_decisions_do_not_count():
    view = promising([[1.0]] * 8)  # at 0.5 the weight falls below 0.05 after 5 steps
    kept = view.kept([7], [np.ones(8)], [False])
    assert kept.decisions == 3
    assert kept.kept == pytest.approx(2, abs=0.05)
    assert np.isnan(kept.correlation)
    assert kept.to_dict()["correlation"] is None
    assert view.kept([7], [np.ones(5)], [False]) is None


def test_a_step_is_one_of_the_model_and_a_plan_may_last_several():
    view = promising([[4.0], [6.0]], block=2, execute=2)
    kept = view.kept([7], [np.arange(8.0)], [True])  # blocks bring 1, 5, 9, 13
    assert kept.decisions == 2
    assert kept.kept == pytest.approx((1 + 5 / 2 + 9 / 4 + 13 / 8 + 9 + 13 / 2) / 2)


def test_an_untrained_agent_promises_what_it_does_not_keep():
    agent = JEPAAgent("InvertedPendulum-v5", model={"latent_dims": 4, "hidden": 8}, behaviour={"hidden": 8})
    table = evaluate_planners(agent, "InvertedPendulum-v5", ["cem"], 30, 2, horizon=2)
    for row in table.rows:
        assert row.promises.decisions == row.evaluation.lengths.sum()
        assert row.promises.kept > 1 > abs(row.promises.promised)
    assert [len(cells) for cells in table.table().rows] == [8, 8]
