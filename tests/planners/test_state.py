"""A state's problems are shifted, reset, selected and replaced each on its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from forethought.core.errors import SettingsError
from forethought.planners import ActionSpec, PlanState, make_planner

STEPS = torch.arange(1.0, 5.0)  # the warm start is 1, 2, 3, 4 in every problem


def state(problems: int = 3) -> PlanState:
    actions = STEPS.view(1, 4, 1).repeat(problems, 1, 1)
    elites = actions[:, None].repeat(1, 2, 1, 1)
    return PlanState(actions, elites, torch.zeros(1), tuple(range(problems)), (5,) * problems)


@pytest.mark.parametrize("steps", [2, [0, 1, 9], np.array([1, 0, 4]), torch.tensor([3, 2, 1])])
def test_each_problem_is_shifted_by_its_own_steps(steps: object) -> None:
    shifted = state().shift(steps)  # type: ignore[arg-type]
    for problem, by in enumerate([steps] * 3 if isinstance(steps, int) else [int(step) for step in steps]):  # type: ignore[attr-defined]
        ahead = [min(step + by, 4) for step in (1, 2, 3, 4)]
        assert shifted.actions[problem, :, 0].tolist() == ahead  # the last step is repeated
        known = shifted.elites[problem, 0, :, 0].isfinite()
        assert known.tolist() == [step + by <= 4 for step in (1, 2, 3, 4)]
        assert shifted.elites[problem, 0, :, 0][known].tolist() == [float(s) for s in range(1 + by, 5)]
    assert (shifted.seeds, shifted.ticks) == ((0, 1, 2), (5, 5, 5))


def test_a_reset_forgets_only_what_it_is_told_to() -> None:
    before = state()
    after = before.reset(np.array([False, True, False]), seeds=[7, 8, 9])
    assert after.seeds == (0, 8, 2)
    assert after.ticks == (5, 0, 5)
    assert after.actions[1].eq(0).all()
    assert after.elites[1].isnan().all()
    for problem in (0, 2):
        assert torch.equal(after.actions[problem], before.actions[problem])
        assert torch.equal(after.elites[problem], before.elites[problem])
    assert before.actions[1].flatten().tolist() == STEPS.tolist()


def test_a_reset_without_seeds_goes_on_ticking() -> None:
    after = state().reset([True, True, False])
    assert (after.seeds, after.ticks) == ((0, 1, 2), (5, 5, 5))


def test_a_selection_may_repeat_and_reorder() -> None:
    before = state().shift([0, 1, 2])
    picked = before.select(torch.tensor([2, 0, 2]))
    assert picked.seeds == (2, 0, 2)
    assert len(picked) == 3
    assert torch.equal(picked.actions, before.actions[[2, 0, 2]])
    assert torch.equal(before.put([2, 0], before.select([2, 0])).actions, before.actions)


def test_problems_are_put_back_where_they_came_from() -> None:
    whole, part = state(), state(2).shift(1).reset([True, False], seeds=[40, 0])
    merged = whole.put(np.array([2, 0]), part)
    assert merged.seeds == (1, 1, 40)
    assert merged.ticks == (5, 5, 0)
    assert merged.actions[0, :, 0].tolist() == [2, 3, 4, 4]
    assert merged.actions[1, :, 0].tolist() == STEPS.tolist()
    assert merged.actions[2, :, 0].tolist() == [0, 0, 0, 0]


def test_seeds_are_whole_numbers_one_per_problem() -> None:
    planner = make_planner("cem", ActionSpec.from_space(spaces.Box(-1, 1, (2,))), 3)
    assert planner.initial_state(4).seeds == (4,)
    assert planner.initial_state(np.int64(4)).seeds == (4,)  # type: ignore[arg-type]
    assert planner.initial_state(np.arange(3)).seeds == (0, 1, 2)
    with pytest.raises(SettingsError, match="whole numbers"):
        planner.initial_state("no seed")  # type: ignore[arg-type]
    for seeds in ("12", [0.2, 0.7]):
        with pytest.raises(SettingsError, match="whole numbers"):
            planner.initial_state(seeds)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="needs as many seeds"):
        planner.initial_state([1, 2]).reset([True, False], seeds=[3])
