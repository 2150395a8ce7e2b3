"""Saved agents act alike and go on learning, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from forethought import JEPAAgent, make_agent
from forethought.agents.saving import parts
from forethought.core.errors import (
    CheckpointError,
    SettingsError,
)
from forethought.core.files import load_archive, save_archive
from forethought.world_model.settings import SIGREG

from .conftest import Target


def test_saved_agents_act_alike_and_go_on_learning(small, tmp_path):
    agent = make_agent("jepa", Target, seed=2, **small).learn(30)
    agent.save(tmp_path / "agent")
    loaded = JEPAAgent.load(tmp_path / "agent", env=Target)
    observations = np.random.default_rng(0).uniform(-1, 1, (4, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        agent.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
    )
    assert loaded.num_timesteps == 30
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.num_timesteps == 60
    assert JEPAAgent.load(tmp_path / "agent.zip").get_env() is None


def test_a_saved_agent_is_the_one_it_was_though_defaults_have_changed_since(small, tmp_path):
    """Among them those of settings that its file is too old to hold."""
    before = {
        "model": SIGREG,
        "planning": {"doubt": 0.0, "bootstrap": "last"},
        "behaviour": {"value_expansion": None, "averaging_rate": 1.0},
    }
    for part, settings in before.items():
        small[part] |= settings
    cuts = {"episode_share": None, "cut_if_terminating": True}
    JEPAAgent(Target, **cuts, **small).save(tmp_path / "agent")
    file = load_archive(tmp_path / "agent.zip")
    saved = file.documents["agent"]["settings"]
    for name in cuts:
        del saved[name]
    for part, settings in before.items():
        for name in settings:
            del saved[part][name]
    save_archive(tmp_path / "old.zip", file.documents, file.tensors)
    loaded = JEPAAgent.load(tmp_path / "old").settings
    assert loaded == JEPAAgent.load(tmp_path / "agent").settings
    assert (loaded.episode_share, loaded.cut_if_terminating) == (None, True)
    for part, settings in before.items():
        assert {name: getattr(getattr(loaded, part), name) for name in settings} == settings


def test_where_a_folder_holds_the_file_it_says_so(small, tmp_path):
    JEPAAgent(Target, **small).save(tmp_path / "run" / "agent")
    with pytest.raises(CheckpointError, match=r"no file .*run\.zip; the folder .*run holds .*agent\.zip"):
        JEPAAgent.load(tmp_path / "run")


def test_an_agent_without_environment_cannot_learn(small, tmp_path):
    JEPAAgent(Target, **small).save(tmp_path / "agent")
    with pytest.raises(SettingsError, match="set_env"):
        JEPAAgent.load(tmp_path / "agent").learn(10)


def test_foreign_and_damaged_files_are_refused(small, tmp_path):
    (tmp_path / "foreign.zip").write_bytes(b"PK not a zip")
    with pytest.raises(CheckpointError):
        JEPAAgent.load(tmp_path / "foreign")
    make_agent("random", Target).save(tmp_path / "random")
    with pytest.raises(CheckpointError, match="does not hold a JEPA agent"):
        JEPAAgent.load(tmp_path / "random")


def test_a_loaded_agent_sees_observations_in_the_order_it_learned_them(small, tmp_path):
    parts = {"near": spaces.Box(-1, 1, (1,)), "far": spaces.Box(-9, 9, (1,))}
    swapped = spaces.Dict([(key, parts[key]) for key in ("far", "near")])
    agent = JEPAAgent(Target(observation_space=spaces.Dict(list(parts.items()))), **small).learn(40)
    agent.save(tmp_path / "agent")
    loaded, observation = JEPAAgent.load(tmp_path / "agent"), {"near": np.ones(1), "far": -np.ones(1)}
    assert list(loaded.observation_space.spaces) == ["near", "far"]
    actions = [one.predict(observation, deterministic=True)[0] for one in (agent, loaded)]
    assert np.array_equal(*actions)
    with pytest.raises(SettingsError, match="this agent was made for"):
        loaded.set_env(Target(observation_space=swapped))


def test_a_loaded_agent_learns_on_without_acting_at_random(small, tmp_path):
    JEPAAgent(Target, **small).learn(60).save(tmp_path / "agent")
    agent = JEPAAgent.load(tmp_path / "agent", env=Target)
    agent._require_training().environments.action_codec.sample = None  # random actions would fail
    agent.learn(30, reset_num_timesteps=False)
    assert agent.num_timesteps == 90


def test_files_that_lack_a_field_are_refused(small, tmp_path):
    documents, tensors = parts(JEPAAgent(Target, **small))
    del documents["agent"]["seed"]
    save_archive(tmp_path / "agent", documents, tensors)
    with pytest.raises(CheckpointError, match="does not fit"):
        JEPAAgent.load(tmp_path / "agent")
