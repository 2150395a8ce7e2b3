"""Scenes: states told by coordinates that probes can read, and drawn."""

import mujoco
import numpy as np
import pytest

from forethought.core.errors import EnvironmentFault
from forethought.envs import make_env
from forethought.envs.scenes import scene_of
from forethought.envs.states import state_of

TASKS = ["HalfCheetah-v5", "Swimmer-v5", "Ant-v5", "Humanoid-v5", "Reacher-v5", "InvertedPendulum-v5"]


@pytest.fixture
def scene(request):
    try:
        env = make_env(request.param, render_mode="rgb_array")
    except EnvironmentFault as fault:
        pytest.skip(str(fault))
    yield scene_of(env), env
    env.close()


@pytest.mark.parametrize("scene", TASKS, indirect=True)
def test_a_state_follows_from_its_coordinates(scene):
    scene, env = scene
    model = env.unwrapped.model
    env.action_space.seed(0)
    env.reset(seed=1)
    before = state_of(env)
    for _ in range(4):
        env.step(env.action_space.sample())
    now = state_of(env)
    if model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE:  # turned beyond what any Euler angle bears
        now[3:7] = np.array([0.5, -0.5, 0.7, -0.1]) / np.linalg.norm([0.5, -0.5, 0.7, -0.1])
    [coordinates] = scene.read(now[None])
    assert len(coordinates) == len(scene.coordinates)
    told = scene.state(coordinates, np.ones(len(coordinates), bool), before, seconds=0.1)
    bodies = []
    for state in (now, told):
        data = mujoco.MjData(model)
        data.qpos[:] = state[: model.nq]
        mujoco.mj_forward(model, data)
        bodies.append(data.xpos[1:] - data.xpos[1])
    np.testing.assert_allclose(bodies[1], bodies[0], atol=1e-9)  # the pose is the same wherever the robot is


def test_a_robot_is_followed_by_its_velocity_and_what_is_not_known_stays():
    scene = scene_of(make_env("HalfCheetah-v5", render_mode="rgb_array"))
    before, now = np.zeros(18), np.zeros(18)
    before[0], now[0], now[9], now[1], now[4] = 7.0, 100.0, 3.0, 0.2, -0.4
    names = [quantity.name for quantity in scene.coordinates]
    known = np.array([name != "rootz" for name in names])
    told = scene.state(scene.read(now[None])[0], known, before, seconds=0.05)
    assert told[[0, 1, 4]] == pytest.approx([7.15, 0.0, -0.4])
    assert scene.coordinates[names.index("bshin")].angle


@pytest.mark.parametrize("scene", ["HalfCheetah-v5"], indirect=True)
def test_a_mujoco_state_is_drawn(scene):
    scene, env = scene
    env.unwrapped.mujoco_renderer.width = env.unwrapped.mujoco_renderer.height = 64
    state = np.zeros(18)
    pictures = [scene.draw(state)]
    state[4] = 1.0
    pictures.append(scene.draw(state))
    assert pictures[0].shape == (64, 64, 3)
    assert not np.array_equal(*pictures)


def test_two_room_is_drawn_wherever_the_agent_is_imagined():
    env = make_env("two-room", render_mode="rgb_array")
    env.reset(seed=0, options={"state": [40.0, 60.0]})
    scene = scene_of(env)
    np.testing.assert_array_equal(scene.draw(np.array([40.0, 60.0])), env.render())
    assert scene.draw(np.array([-50.0, 112.0])).shape == (224, 224, 3)  # beyond the map
    told = scene.state(np.array([1.0, 2.0]), np.array([True, False]), np.array([8.0, 9.0]), 0.1)
    assert told.tolist() == [1.0, 9.0]


def test_environments_that_cannot_be_drawn_anywhere_say_so():
    with pytest.raises(EnvironmentFault, match="CartPole-v1 cannot be drawn in a given state"):
        scene_of(make_env("CartPole-v1"))
    with pytest.raises(EnvironmentFault, match="render mode 'rgb_array', not None"):
        scene_of(make_env("Hopper-v5"))
