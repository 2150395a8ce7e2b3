"""TD-MPC2's form of the agent: other defaults, which nested settings leave in place, and nothing else."""

from __future__ import annotations

import pytest

from forethought import make_agent
from forethought.agents.jepa_agent import JEPAAgent
from forethought.agents.tdmpc2_form import TDMPC2FormAgent
from forethought.cli.train import read_options
from forethought.core.errors import ForethoughtError

SMALL = {
    "model": {"latent_dims": 8, "hidden": 16},
    "behaviour": {"hidden": 16},
    "learning_starts": 20,
    "batch_size": 8,
}


def form(agent):
    model = agent.settings.model
    return model.latent_form, model.target, model.regularize, agent.settings.planning.planner


def test_its_defaults_are_the_form_and_settings_of_the_parts_leave_it_in_place(tmp_path):
    agent = make_agent("tdmpc2_form", "Pendulum-v1", planning={"budget": 16, "proposals": 2}, **SMALL)
    assert form(agent) == ("simplicial", "copy", "nothing", "mppi")
    assert (agent.settings.model.hidden, agent.settings.planning.budget) == (16, 16)
    agent.learn(30)
    observation = agent.observation_space.sample()
    agent.save(tmp_path / "agent.zip")
    loaded = TDMPC2FormAgent.load(tmp_path / "agent.zip")
    assert form(loaded) == form(agent)
    ours, theirs = (each.predict(observation, deterministic=True)[0] for each in (agent, loaded))
    assert (ours == theirs).all()


def test_but_for_that_form_it_is_the_jepa_agent():
    model = dict.fromkeys(("latent_form", "target", "regularize"), "auto")
    same = TDMPC2FormAgent("Pendulum-v1", model=model, planning={"planner": "auto"})
    assert same.settings.to_dict() == JEPAAgent("Pendulum-v1").settings.to_dict()


def test_the_command_line_has_its_defaults():
    options = read_options(["Pendulum-v1", "--agent", "tdmpc2_form", "--model.hidden", "16"])
    settings = options.agent_settings()
    assert (settings["model"]["latent_form"], settings["model"]["hidden"]) == ("simplicial", 16)
    assert settings["planning"]["planner"] == "mppi"


def test_discrete_actions_are_refused_because_mppi_has_none():
    with pytest.raises(ForethoughtError, match="MPPI does not plan categorical actions"):
        make_agent("tdmpc2_form", "CartPole-v1")
    with pytest.raises(ForethoughtError, match=r"Agents that fit: .*\.$") as refusal:
        make_agent("sac", "CartPole-v1")
    fitting = str(refusal.value).rpartition(": ")[2].strip(".").split(", ")
    assert {"dqn", "jepa", "ppo", "random"} <= set(fitting), "beside those that other tests have registered"
    assert {"sac", "td3", "tdmpc2_form"}.isdisjoint(fitting)
