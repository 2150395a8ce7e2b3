"""The planner table swaps planners on one agent, on the same episodes, and counts what each costs."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from forethought.agents.settings import PlanningSettings
from forethought.core.errors import SettingsError, UnknownNameError, UnsupportedSpaceError
from forethought.evaluations.planner_table import _view, acts_bare, evaluate_planners
from forethought.evaluations.tables import Table


class View:
    """Acts always the same; a larger action brings more."""

    def __init__(self, action, budget, gradients=0):
        self.action = action
        self.planner = SimpleNamespace(budget=budget, gradients=gradients)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.tile(np.float32([self.action, 0.0]), (len(observation), 1)), state


class Agent:
    def planning_with(self, name, budget=None, **settings):
        if name == "categorical_cem":
            raise UnsupportedSpaceError("only for discrete actions")
        if name == "policy":
            assert (budget, settings) == (None, {"horizon": 1, "proposals": 1}), "one proposal: the actor itself"
            return View(0.25, 1)
        self.settings = settings
        if name == "spender":
            return View(0.5, settings["samples"])
        if name == "hybrid":
            return View(0.5, budget - 200, 100)
        if name == "broken":
            return View(float("nan"), budget)
        raise UnknownNameError(f"Unknown planner {name!r}.")


def test_gains_are_paired_with_the_bare_policy_episode_by_episode(countdown):
    table = evaluate_planners(Agent(), countdown, ["policy", "hybrid"], episodes=6)
    policy, hybrid = table.rows
    lengths = hybrid.evaluation.lengths
    assert np.array_equal(policy.evaluation.lengths, lengths)
    assert policy.gain is None
    assert hybrid.gain.value == pytest.approx(0.25 * lengths.mean())
    assert hybrid.gain.low > 0, "the episodes differ by far more than the planners, and pairing sees through it"
    assert hybrid.gain.high - hybrid.gain.low < hybrid.evaluation.interval().high - hybrid.evaluation.interval().low


def test_the_bare_policy_comes_along_where_it_was_not_asked_for(countdown):
    assert [row.name for row in evaluate_planners(Agent(), countdown, ["hybrid"], episodes=2).rows] == [
        "policy",
        "hybrid",
    ]


def test_the_table_says_what_a_decision_costs(countdown):
    markdown = evaluate_planners(Agent(), countdown, ["hybrid"], budget=300, episodes=2).to_markdown()
    assert "| hybrid" in markdown
    assert "100 + 100" in markdown
    assert "budget + 2 x gradients <= 300" in markdown


def test_horizon_and_film_are_each_planner_s_own(tmp_path, countdown):
    agent = Agent()
    table = evaluate_planners(
        agent, countdown, ["hybrid"], episodes=1, horizon=7, video=tmp_path / "film.gif", env_kwargs={"longest": 4}
    )
    assert agent.settings == {"horizon": 7}
    assert [row.evaluation.video.name for row in table.rows] == ["film-policy.gif", "film-hybrid.gif"]


def test_a_planner_can_be_compared_with_itself_under_other_settings(countdown):
    agent = Agent()
    table = evaluate_planners(agent, countdown, ["hybrid", "hybrid+doubt=2.5+bootstrap=mean"], episodes=1, horizon=7)
    assert agent.settings == {"horizon": 7, "doubt": 2.5, "bootstrap": "mean"}
    assert [row.name for row in table.rows] == ["policy", "hybrid", "hybrid+doubt=2.5+bootstrap=mean"]
    evaluate_planners(agent, countdown, ["hybrid+horizon=3"], episodes=1, horizon=7)
    assert agent.settings == {"horizon": 3}, "what is said of one planner outweighs what is said of all"
    evaluate_planners(agent, countdown, ["hybrid+doubt=1e+2"], episodes=1)
    assert agent.settings == {"doubt": 100}
    _view(agent, "hybrid+execute=2", {"budget": 300}, execute=1)
    assert agent.settings == {"execute": 1}, "in the true simulator plans are made anew at every step"
    with pytest.raises(SettingsError, match="Planner 'hybrid\\+doubt': 'doubt' is not of the form NAME=VALUE"):
        evaluate_planners(agent, countdown, ["hybrid+doubt"])
    with pytest.raises(SettingsError, match="budget, spec cannot be set for one of several"):
        evaluate_planners(agent, countdown, ["hybrid+spec=1+budget=900"])
    with pytest.raises(SettingsError, match="beyond the budget of 300 that all have"):
        evaluate_planners(agent, countdown, ["spender+samples=1000"])


def test_planners_that_do_not_fit_or_break_stay_in_the_table_without_a_claim(countdown):
    table = evaluate_planners(Agent(), countdown, ["categorical_cem", "broken"], episodes=2)
    markdown = table.to_markdown()
    assert "not for these actions" in markdown
    assert "unknown, 2 cut" in markdown
    assert json.loads(json.dumps(table.to_dict(), allow_nan=False))["rows"][2]["gain"] is None


@pytest.mark.parametrize(
    ("planner", "proposals", "bare"), [("policy", 1, True), ("policy", 8, False), ("cem", 1, False)]
)
def test_an_agent_is_bare_where_it_follows_its_actor_alone(planner, proposals, bare, seeded_agent):
    planning = PlanningSettings(planner=planner, proposals=proposals)
    assert acts_bare(SimpleNamespace(settings=SimpleNamespace(planning=planning))) is bare
    assert not acts_bare(seeded_agent)


def test_a_misspelt_planner_fails_before_any_episode(countdown):
    def never():
        raise AssertionError("an episode was played")

    with pytest.raises(UnknownNameError, match="icme"):
        evaluate_planners(Agent(), never, ["hybrid", "icme"])


def test_an_agent_without_a_model_is_refused(countdown, seeded_agent):
    with pytest.raises(SettingsError, match="no world model"):
        evaluate_planners(seeded_agent, countdown)


def test_the_table_is_kept_for_the_report(tmp_path, countdown):
    table = evaluate_planners(Agent(), countdown, ["hybrid"], episodes=2)
    table.save(tmp_path / "planners.json")
    written = json.loads((tmp_path / "planners.json").read_text())
    assert Table.from_dict(written["table"]).to_markdown() == table.to_markdown()
    assert written["process"]["versions"]["torch"] == torch.__version__
    assert written["command"]
    assert "steps" not in written  # which this agent does not count
    agent = Agent()
    agent.num_timesteps = 7
    assert evaluate_planners(agent, countdown, ["hybrid"], episodes=2).to_dict()["steps"] == 7


def test_the_table_shows_on_a_terminal(countdown):
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(evaluate_planners(Agent(), countdown, ["hybrid"], episodes=2).table().to_rich())
    assert "hybrid" in console.export_text()
