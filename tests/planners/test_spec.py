"""ActionSpec reads spaces exactly, refuses what cannot be planned, and never leaves the bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from forethought.core.errors import SettingsError, UnsupportedSpaceError
from forethought.planners import ActionSpec, available_planners, make_planner


def box(low: list[float], high: list[float], dtype: type = np.float32) -> spaces.Box:
    return spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)


def test_a_block_holds_several_environment_steps() -> None:
    spec = ActionSpec.from_space(box([-1, 0], [1, 4]), block=3)
    assert spec.dims == 6
    assert spec.low.tolist() == [-1, 0] * 3
    assert spec.high.tolist() == [1, 4] * 3
    assert spec.scale.tolist() == [1, 2] * 3
    steps = torch.tensor([[[0, 1], [0.5, 2], [-1, 3]], [[1, 0], [0, 4], [-0.5, 2.5]]])
    assert torch.equal(spec.decode(steps.flatten(1)), steps)


def test_boxes_are_decoded_to_their_own_shape() -> None:
    spec = ActionSpec.from_space(spaces.Box(-1, 1, (2, 3)))
    assert spec.decode(torch.zeros(5, 4, 6)).shape == (5, 4, 2, 3)


def test_discrete_actions_respect_their_start() -> None:
    spec = ActionSpec.from_space(spaces.Discrete(3, start=-1))
    assert spec.groups == (3,)
    assert spec.decode(torch.eye(3)).tolist() == [-1, 0, 1]


def test_multi_discrete_actions_are_concatenated_one_hots() -> None:
    space = spaces.MultiDiscrete([2, 4], start=[10, 20])
    spec = ActionSpec.from_space(space, block=2)
    assert spec.groups == (2, 4, 2, 4)
    hot = torch.tensor([[0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1.0]])
    assert spec.decode(hot).tolist() == [[[11, 22], [10, 23]]]
    assert spec.decode(hot[:, None]).shape == (1, 1, 2, 2)


def test_multi_binary_actions_are_choices_of_two() -> None:
    spec = ActionSpec.from_space(spaces.MultiBinary((2, 2)))
    assert spec.groups == (2,) * 4
    assert spec.decode(torch.tensor([1, 0, 0, 1, 0, 1, 1, 0.0])).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    "space", [spaces.Discrete(5, start=3), spaces.MultiDiscrete([[2, 3], [4, 1]]), spaces.MultiBinary(3)]
)
def test_every_plan_of_categories_decodes_into_the_space(space: spaces.Space[np.ndarray]) -> None:
    spec = ActionSpec.from_space(space, block=2)
    planner = make_planner("random", spec, 3)
    plan = planner.plan(lambda actions: actions.cos().sum((2, 3)), planner.initial_state(range(4)))
    for action in spec.decode(plan.actions).flatten(0, 2).numpy():
        assert space.contains(action if space.shape else np.int64(action))


def test_categories_are_drawn_with_their_probabilities() -> None:
    hots = ActionSpec.from_space(spaces.MultiDiscrete([2, 5])).one_hots
    assert hots.uniform.tolist() == pytest.approx([0.5] * 2 + [0.2] * 5)
    noise = torch.randn(40_000, 2, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([0.9, 0.1, 0.0, 0.5, 0.2, 0.3, 0.0])
    drawn = hots.sample(wanted, noise)
    assert (drawn.view(-1, 7).mean(0) - wanted).abs().max() < 4 * (0.25 / 40_000) ** 0.5
    assert torch.equal(drawn[:, 2], torch.zeros(40_000))  # what is impossible never happens
    extremes = hots.sample(wanted, torch.tensor([[-40.0, -40.0], [40.0, 40.0]]))
    assert torch.equal(extremes.sum(1), torch.full((2,), 2.0))


def test_a_side_without_bound_needs_a_scale() -> None:
    space = box([-np.inf, 0, -1], [np.inf, np.inf, 1])
    with pytest.raises(UnsupportedSpaceError, match="pass scale="):
        ActionSpec.from_space(space)
    spec = ActionSpec.from_space(space, block=2, scale=[3, 0.5, 7])
    assert spec.scale.tolist() == [3, 0.5, 1] * 2  # a bounded side has a scale of its own
    assert spec.rest.tolist() == [0] * 6
    assert ActionSpec.from_space(space, scale=2).scale.tolist() == [2, 2, 1]
    for wrong in (0, -1, float("nan"), [1, 2], [[1, 1, 1]]):
        with pytest.raises(SettingsError, match="scale"):
            ActionSpec.from_space(space, scale=wrong)


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (spaces.Dict({"a": spaces.Discrete(2)}), "Dict"),
        (spaces.Tuple([spaces.Discrete(2)]), "Tuple"),
        (spaces.Text(3), "Text"),
        (spaces.Box(-1, 1, (0,)), "no dimension"),
        (spaces.MultiDiscrete([]), "no dimension"),
        (spaces.Box(0, 255, (2,), np.uint8), "uint8"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_the_reason(space: spaces.Space[np.ndarray], reason: str) -> None:
    with pytest.raises(UnsupportedSpaceError, match=reason):
        ActionSpec.from_space(space)


@pytest.mark.parametrize("block", [0, -1, 1.5, True])
def test_a_block_is_a_positive_whole_number(block: int) -> None:
    with pytest.raises(SettingsError, match="block"):
        ActionSpec.from_space(spaces.Discrete(2), block=block)


def test_gradients_pass_at_the_bounds_which_no_rounding_exceeds() -> None:
    low, high = torch.tensor(-0.46042657).item(), torch.tensor(0.27392337).item()
    spec = ActionSpec.from_space(box([low, -3.0], [high, 1.0]))
    assert (spec.high / 2 + spec.low / 2 + spec.scale > spec.high).any()  # so that the clamp is needed
    units = torch.tensor([[1.0, 1.0], [-1.0, 0.5]], requires_grad=True)
    actions = spec.to_actions(units)
    assert torch.equal(actions, spec.to_actions(units.detach()))
    assert spec.project(actions).equal(actions)
    actions.sum().backward()
    torch.testing.assert_close(units.grad, spec.scale.expand(2, 2))


def test_a_fixed_dimension_keeps_its_value_exactly() -> None:
    spec = ActionSpec.from_space(box([0.1, -1], [0.1, 1]))
    units = spec.clip(torch.randn(100, 2))
    assert torch.equal(spec.to_actions(units)[:, 0], torch.full((100,), 0.1))
    assert spec.rest.tolist() == pytest.approx([0.1, 0])


@given(st.tuples(st.floats(-1e38, 1e38), st.floats(-1e38, 1e38), st.sampled_from([np.float32, np.float64])))
@hypothesis_settings(deadline=None, max_examples=200, derandomize=True)
def test_decoded_actions_are_inside_any_box_even_one_finer_than_float32(sides: tuple[float, float, type]) -> None:
    low, high = (float(sides[2](side)) for side in sorted(sides[:2]))
    space = spaces.Box(np.array([low], sides[2]), np.array([high], sides[2]), dtype=sides[2])
    spec = ActionSpec.from_space(space)
    actions = spec.to_actions(spec.clip(torch.linspace(-3, 3, 41)[:, None]))
    assert actions.isfinite().all()
    assert (actions >= spec.low).all()
    assert (actions <= spec.high).all()
    assert spec.low <= spec.high
    for action in spec.decode(actions).numpy():
        assert space.contains(action)
    recovered = spec.to_actions(spec.to_units(actions))
    assert (recovered - actions).abs().max() <= 1e-5 * spec.scale.max()


def test_planners_of_continuous_actions_do_not_offer_themselves_for_categories() -> None:
    continuous = ActionSpec.from_space(spaces.Box(-1, 1, (2,)))
    discrete = ActionSpec.from_space(spaces.Discrete(2))
    assert available_planners(discrete) == ["categorical_cem", "policy", "random"]
    assert "categorical_cem" not in available_planners(continuous)
    assert set(available_planners(continuous)) | set(available_planners(discrete)) == set(available_planners())
    with pytest.raises(UnsupportedSpaceError, match="categorical_cem, policy, random"):
        make_planner("cem", discrete, 3)
