"""Environments are found by name, and a wrong name is answered with the right one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from forethought.core.errors import EnvironmentFault, SettingsError, UnknownNameError
from forethought.envs import TASKS, ActionCodec, ObservationCodec, available_tasks, make_env, register_task

MUJOCO = ["Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum"]
MUJOCO += ["Pusher", "Reacher", "Swimmer", "Walker2d"]
CLASSIC = ["Acrobot-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]


@pytest.mark.parametrize("name", [*(f"{name}-v5" for name in MUJOCO), *CLASSIC])
def test_every_task_is_listed_with_a_line_and_can_be_made_and_coded(name: str) -> None:
    assert name in available_tasks()
    assert TASKS.summary(name).endswith(".")
    assert len(TASKS.summary(name)) <= 100
    env = make_env(name)
    assert ObservationCodec(env.observation_space).single(env.reset(seed=0)[0]).ndim == 1
    assert ActionCodec(env.action_space).dims >= 1
    env.close()


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("Hoper-v5", "Hopper-v5"),
        ("hopper", "Hopper-v5"),
        ("Hopper-v77", "Hopper-v5"),
        ("half_cheetah", "HalfCheetah-v5"),
        ("PENDULUM-V1", "Pendulum-v1"),
        ("gymnasium:Acrobat-v1", "Acrobot-v1"),
        ("Taxy-v4", "Taxi-v4"),
        ("Walker 2d!", "Walker2d-v5"),
        ("json:Taxy-v4", "json:Taxi-v4"),  # that module may be what registers it
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Did you mean '{right}'"):
        make_env(wrong)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("NoSuchSpace/Pong-v5", r"nothing registers ids of NoSuchSpace/.*my_module:NoSuchSpace/Pong-v5"),
        ("MlpPolicy", "no policy is asked for"),
    ],
)
def test_where_no_name_is_near_it_says_why(name: str, told: str) -> None:
    with pytest.raises(UnknownNameError, match=told) as caught:
        make_env(name)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "  ", ":", "no_such_module_here:Thing-v0", "zzzzqqqq"])
def test_a_hopeless_name_is_still_a_user_error(name: str) -> None:
    with pytest.raises(UnknownNameError):
        make_env(name)


def test_settings_reach_the_environment_and_wrong_ones_are_reported() -> None:
    assert make_env("Hopper-v5", exclude_current_positions_from_observation=False).observation_space.shape == (12,)
    with pytest.raises(EnvironmentFault, match=r"Hopper-v5 could not be built: .*no_such_setting"):
        make_env("Hopper-v5", no_such_setting=1)


def test_an_environment_that_needs_something_missing_says_what() -> None:
    with pytest.raises(EnvironmentFault, match="HalfCheetah-v2 could not be built"):
        make_env("HalfCheetah-v2")


def test_a_registered_task_is_made_by_name_and_no_name_is_taken_twice(
    scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))

    @register_task("Scripted")
    def scripted_task(render_mode: str | None = None, longest: int = 2) -> gym.Env[Any, Any]:
        """Follow a script."""
        return scripted(longest)

    assert make_env("Scripted", longest=7).unwrapped.longest == 7
    assert TASKS.summary("Scripted") == "Follow a script."
    for taken in ("Scripted", "Pendulum-v1", "Taxi-v4"):
        with pytest.raises(SettingsError, match="already"):
            register_task(taken)(lambda render_mode=None: scripted())


def test_a_module_in_the_current_folder_brings_its_environment(tmp_path: Path) -> None:
    (tmp_path / "my_tasks.py").write_text(
        "import gymnasium\ngymnasium.register('Mine-v0', entry_point='gymnasium.envs.classic_control:PendulumEnv')\n"
    )
    (tmp_path / "broken.py").write_text("import a_package_that_is_missing\n")
    # As the installed command does, which does not have the current folder on its path; importing loads no torch.
    script = (
        "import sys; sys.path[:] = [entry for entry in sys.path if entry]\n"
        "from forethought.envs import make_env\n"
        "print(make_env('my_tasks:Mine-v0').spec.id, 'torch' in sys.modules)\n"
        "make_env('broken:Mine-v0')"
    )
    finished = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert finished.stdout == "Mine-v0 False\n", finished.stderr
    assert "EnvironmentFault: broken:Mine-v0 could not be built: ModuleNotFoundError" in finished.stderr


def test_an_environment_that_draws_nothing_need_not_know_render_mode() -> None:
    class Blind(gym.Env[Any, Any]):
        """Has no constructor."""

        observation_space = action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    gym.register("Blind-v0", Blind)
    try:
        assert make_env("Blind-v0").render_mode is None
    finally:
        del gym.registry["Blind-v0"]
