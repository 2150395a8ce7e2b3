"""What scripts written for Stable-Baselines3 ask of an agent: its environments, its log, its steps."""

from __future__ import annotations

import json

import pytest
from stable_baselines3.common.logger import configure

from forethought import JEPAAgent
from forethought.core.errors import SettingsError

from .conftest import Target


def test_what_was_reached_is_logged_where_environments_tell(small, tmp_path):
    class Door(Target):
        def step(self, action):
            *told, info = super().step(action)
            return *told, info | {"is_success": self.episode % 2 == 0}

        def reset(self, **options):
            self.episode = getattr(self, "episode", 0) + 1
            return super().reset(**options)

    def learned(env):
        agent = JEPAAgent(env, **small)
        agent.set_logger(configure(str(tmp_path), ["json"]))
        agent.learn(80, log_interval=4)
        agent.logger.close()
        return [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]

    assert [row.get("rollout/success_rate") for row in learned(Door)] == [0.5, 0.5]
    assert all("rollout/success_rate" not in row for row in learned(Target))


def test_the_environments_are_named_as_sb3_does(small):
    agent = JEPAAgent(Target, num_envs=2, **small)
    assert agent.env is agent.get_env()
    assert agent.n_envs == 2


@pytest.mark.parametrize("steps", [-1, "100", None, float("nan")])
def test_what_is_no_number_of_steps_is_refused(steps, small):
    with pytest.raises(SettingsError, match=r"total_timesteps = .* must"):
        JEPAAgent(Target, **small).learn(steps)
