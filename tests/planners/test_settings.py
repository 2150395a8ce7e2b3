"""make_planner builds what was asked for, within the budget, or says what is wrong and what to do."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces

from forethought.core.errors import SettingsError, UnknownNameError
from forethought.planners import (
    ActionSpec,
    ObjectiveError,
    available_planners,
    make_planner,
    planner_class,
    planner_summary,
)

BOX = ActionSpec.from_space(spaces.Box(-1, 1, (2,)))
DISCRETE = ActionSpec.from_space(spaces.Discrete(3))


def spec_for(name: str) -> ActionSpec:
    return BOX if name in available_planners(BOX) else DISCRETE


def test_the_planners_that_the_documentation_names_are_there() -> None:
    assert {"random", "cem", "icem", "mppi", "gradient", "hybrid", "policy", "categorical_cem"} <= set(
        available_planners()
    )
    for name in available_planners():
        assert len(planner_summary(name)) > 20


@pytest.mark.parametrize("effort", [30, 100, 300, 500, 2000, 9000])
@pytest.mark.parametrize("preset", ["cpu", "gpu"])
@pytest.mark.parametrize("name", available_planners())
def test_a_budget_is_used_well_and_never_exceeded(name: str, preset: str, effort: int) -> None:
    planner = make_planner(name, spec_for(name), 5, preset=preset, budget=effort)
    used = planner.budget + 2 * planner.gradients
    assert used <= effort
    if name != "policy":
        assert used >= 0.8 * effort


@pytest.mark.parametrize("name", sorted(set(available_planners()) - {"policy"}))
def test_presets_are_settings_of_their_own_and_gpus_do_more(name: str) -> None:
    cpu, gpu = (make_planner(name, spec_for(name), 5, preset=preset) for preset in ("cpu", "gpu"))
    assert cpu.settings == planner_class(name).Settings()
    assert gpu.settings.effort > 4 * cpu.settings.effort
    assert 200 <= cpu.settings.effort <= 350


def test_settings_override_preset_and_budget() -> None:
    planner = make_planner("cem", BOX, 5, preset="gpu", samples=50)
    assert (planner.settings.samples, planner.settings.iterations) == (50, 10)
    planner = make_planner("cem", BOX, 5, budget=300, samples=50)
    assert (planner.settings.samples, planner.settings.iterations) == (50, 5)
    planner = make_planner("hybrid", BOX, 5, budget=300, steps=4)
    assert planner.settings.steps == 4
    assert 280 <= planner.settings.effort <= 300


@pytest.mark.parametrize("name", sorted(set(available_planners()) - {"policy", "random"}))
def test_an_impossible_budget_names_the_smallest_possible_one(name: str) -> None:
    with pytest.raises(SettingsError, match="at least") as caught:
        make_planner(name, spec_for(name), 5, budget=1)
    least = int(str(caught.value).rstrip(".").rsplit(" ", 1)[1])
    assert make_planner(name, spec_for(name), 5, budget=least).settings.effort <= least
    with pytest.raises(SettingsError, match="at least"):
        make_planner(name, spec_for(name), 5, budget=least - 1)


def test_fixed_settings_that_exceed_the_budget_say_so() -> None:
    with pytest.raises(SettingsError, match="at least 501"):
        make_planner("cem", BOX, 5, budget=300, samples=100, iterations=5)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("icen",), {}, "Did you mean 'icem'"),
        (("cem",), {"sample": 3}, "Did you mean 'samples'"),
        (("cem",), {"samples": 0}, r"samples = 0 is out of range: it must lie in \[1"),
        (("cem",), {"samples": 2.5}, "must be int"),
        (("cem",), {"preset": "gpus"}, "Did you mean 'gpu'"),
        (("cem",), {"budget": 0}, "budget = 0"),
        (("cem",), {"budget": 3.5}, "budget = 3.5"),
        (("mppi",), {"effective_fraction": 1.5}, "effective_fraction"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str], settings: dict[str, object], message: str) -> None:
    with pytest.raises((SettingsError, UnknownNameError), match=message):
        make_planner(*arguments, BOX, 5, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("horizon", [0, -1, 2.0, True])
def test_a_horizon_is_a_positive_whole_number(horizon: int) -> None:
    with pytest.raises(SettingsError, match="horizon"):
        make_planner("cem", BOX, horizon)


def test_states_and_proposals_of_other_shapes_are_refused() -> None:
    planner = make_planner("icem", BOX, 5)
    state = planner.initial_state([0, 1])

    def cost(actions: torch.Tensor) -> torch.Tensor:
        return actions.sum((2, 3))

    for other in (make_planner("cem", BOX, 5), make_planner("icem", BOX, 4)):
        with pytest.raises(SettingsError, match="another planner"):
            planner.plan(cost, other.initial_state([0, 1]))
    for shape in [(2, 5, 2), (1, 3, 5, 2), (2, 3, 4, 2), (2, 3, 5, 1)]:
        with pytest.raises(SettingsError, match="proposals must have shape"):
            planner.plan(cost, state, torch.zeros(shape))
    with pytest.raises(SettingsError, match=f"at most {planner.max_proposals}"):
        planner.plan(cost, state, torch.zeros(2, planner.max_proposals + 1, 5, 2))


def test_an_objective_of_the_wrong_shape_is_refused() -> None:
    planner = make_planner("cem", BOX, 5)
    for wrong in (lambda a: a.sum((1, 2, 3)), lambda a: a.sum(3), lambda a: 3.0):
        with pytest.raises(ObjectiveError, match=r"\(B, N\)"):
            planner.plan(wrong, planner.initial_state([0, 1]))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gradient", "hybrid"])
def test_gradient_planners_refuse_an_objective_without_gradient(name: str) -> None:
    planner = make_planner(name, BOX, 5)
    with pytest.raises(ObjectiveError, match="gradients"):
        planner.plan(lambda actions: actions.detach().sum((2, 3)), planner.initial_state(0))


@pytest.mark.parametrize("name", available_planners())
def test_half_and_double_precision_costs_are_understood(name: str) -> None:
    planner = make_planner(name, spec_for(name), 3)
    for dtype in (torch.bfloat16, torch.float64):
        plan = planner.plan(lambda a, dtype=dtype: (a - 0.2).square().sum((2, 3)).to(dtype), planner.initial_state(0))
        assert plan.cost.dtype == torch.float32
        assert plan.actions.dtype == torch.float32


def test_weights_of_a_model_are_left_without_gradients() -> None:
    model = torch.nn.Linear(2, 1)
    for name in ("gradient", "hybrid"):
        planner = make_planner(name, BOX, 3)
        planner.plan(lambda a: model(a).square().sum((2, 3)), planner.initial_state(0))
    assert model.weight.grad is None
