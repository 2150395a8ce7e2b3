"""Quantities: named after what is there, in units, and what physics says they are."""

import math

import mujoco
import numpy as np
import pytest

from forethought.core.errors import EnvironmentFault, SettingsError, UnknownNameError
from forethought.envs import make_env
from forethought.envs.quantities import Quantities, Quantity, wrapped
from forethought.envs.states import start_from, state_of

SOME = {
    "HalfCheetah-v5": ["x_velocity", "torso_height", "torso_angle", "bthigh_angle", "ffoot_velocity"],
    "Hopper-v5": ["x_velocity", "torso_height", "torso_angle", "thigh_angle", "foot_velocity", "foot_contact_force"],
    "Walker2d-v5": ["x_velocity", "torso_height", "foot_left_angle", "foot_left_contact_force"],
    "Ant-v5": ["x_velocity", "y_velocity", "torso_height", "torso_yaw", "hip_1_angle", "left_ankle_contact_force"],
    "Humanoid-v5": ["x_velocity", "torso_height", "torso_tilt", "right_knee_angle", "left_foot_height"],
    "HumanoidStandup-v5": ["torso_height", "torso_pitch", "right_knee_velocity", "com_z"],
    "Swimmer-v5": ["x_velocity", "y_velocity", "torso_angle", "motor1_rot_angle", "com_x_velocity"],
    "Reacher-v5": ["joint0_angle", "joint1_velocity", "fingertip_x", "target_y", "fingertip_to_target"],
    "Pusher-v5": ["r_elbow_flex_angle", "tips_arm_x", "object_y", "object_to_goal"],
    "InvertedPendulum-v5": ["slider_position", "hinge_angle", "hinge_velocity"],
    "InvertedDoublePendulum-v5": ["slider_velocity", "hinge2_angle", "tip_height"],
    "reacher-goals": ["joint0_angle", "joint1_velocity", "fingertip_y"],
    "two-room": ["x", "y"],
}
LOCOMOTORS = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "Swimmer-v5"]
SECOND = 1e-6


def visited(name, count=20):
    """Return an environment, and states that random actions lead it through."""
    env = make_env(name)
    env.reset(seed=0)
    env.action_space.seed(0)
    states = []
    while len(states) < count:
        *_, terminated, _, _ = env.step(env.action_space.sample())
        states.append(state_of(env))
        if terminated:
            env.reset()
    return env, np.array(states)


@pytest.mark.parametrize("name", SOME)
def test_every_task_has_its_quantities(name):
    env, states = visited(name)
    quantities = Quantities(env)
    quantities.select([*SOME[name], *([] if name == "two-room" else ["kinetic_energy", "potential_energy", "com_x"])])
    assert len(set(quantities.names)) == len(quantities.names)
    assert all(quantity.unit for quantity in quantities.all)
    values = quantities.of_states(states)
    assert values.shape == (len(states), len(quantities.all))
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(quantities.read(env), quantities.of_states(state_of(env)[None])[0])
    turning = [index for index, quantity in enumerate(quantities.all) if quantity.angle]
    assert (np.abs(values[:, turning]) <= math.pi).all()


@pytest.mark.parametrize("name", LOCOMOTORS)
def test_velocities_are_how_fast_places_change(name):
    env, states = visited(name)
    model, quantities = env.unwrapped.model, Quantities(env)
    later = states.copy()
    for state in later:
        positions, velocities = state[: model.nq], state[model.nq :]
        mujoco.mj_integratePos(model, positions, velocities, SECOND)
    before, after = quantities.of_states(states), quantities.of_states(later)
    names = quantities.names
    pairs = {
        "x_velocity": "x_position",
        "com_x_velocity": "com_x",
        "com_y_velocity": "com_y",
        "com_z_velocity": "com_z",
        "y_velocity": "y_position",
        "z_velocity": "torso_height",
        "torso_angular_velocity": "torso_angle",
        "thigh_velocity": "thigh_angle",
    }
    seen = 0
    for velocity, place in pairs.items():
        if velocity in names and place in names:
            v, p = names.index(velocity), names.index(place)
            moved = after[:, p] - before[:, p]
            moved = wrapped(moved) if quantities.all[p].angle else moved
            np.testing.assert_allclose(moved / SECOND, before[:, v], rtol=1e-3, atol=1e-3)
            seen += 1
    assert seen >= 4


def test_the_forward_velocity_is_that_of_the_torso():
    for name in ("HalfCheetah-v5", "Hopper-v5", "Ant-v5"):
        env, states = visited(name)
        quantities = Quantities(env)
        measured = quantities.of_states(states)[:, quantities.index("x_velocity")]
        np.testing.assert_allclose(measured, states[:, env.unwrapped.model.nq], atol=1e-9)


def test_heights_are_above_the_ground():
    env = make_env("HalfCheetah-v5")
    env.reset(seed=0)
    start_from(env, np.zeros(18))
    quantities = Quantities(env)
    assert quantities.read(env)[quantities.index("torso_height")] == pytest.approx(0.7)  # as the model places it


def test_angles_turn_and_come_back():
    env = make_env("HalfCheetah-v5")
    env.reset(seed=0)
    quantities, states = Quantities(env), np.zeros((2, 18))
    states[:, 2] = 3.5, -0.5 - 4 * math.pi
    values = quantities.of_states(states)[:, quantities.index("torso_angle")]
    np.testing.assert_allclose(values, [3.5 - 2 * math.pi, -0.5])
    np.testing.assert_allclose(wrapped([math.pi, -math.pi, 7.0]), [math.pi, math.pi, 7.0 - 2 * math.pi])


def test_energies_are_those_of_moving_and_of_lying_high():
    env = make_env("Hopper-v5")
    env.reset(seed=0)
    quantities, model = Quantities(env), env.unwrapped.model
    still, higher, moving = np.zeros((3, 12))
    for state in (still, higher, moving):
        state[1] = 2.0
    higher[1], moving[6:8] = 2.5, (3.0, -4.0)
    values = quantities.of_states([still, higher, moving])
    mass = model.body_mass.sum()
    kinetic, potential = quantities.index("kinetic_energy"), quantities.index("potential_energy")
    assert values[1, potential] - values[0, potential] == pytest.approx(mass * 9.81 * 0.5)
    # The motors' armature weighs on joints, and none on the root that moves here.
    assert values[:, kinetic] == pytest.approx([0, 0, mass * 25 / 2])


def test_contact_forces_are_what_gravity_leaves_to_be_explained():
    env, states = visited("HalfCheetah-v5", 60)
    quantities, model = Quantities(env), env.unwrapped.model
    data, checked = mujoco.MjData(model), 0
    for state, values in zip(states, quantities.of_states(states), strict=True):
        data.qpos[:], data.qvel[:] = np.split(state, 2)
        mujoco.mj_forward(model, data)
        pushed = np.array([data.qfrc_constraint[0], 0.0, data.qfrc_constraint[1]])  # no joint limit acts on the root
        assert values[quantities.index("contact_force")] == pytest.approx(np.linalg.norm(pushed), abs=1e-6)
        checked += np.linalg.norm(pushed) > 1
        on_the_feet = [values[quantities.index(f"{foot}_contact_force")] for foot in ("bfoot", "ffoot")]
        if data.ncon == 0:
            assert on_the_feet == [0.0, 0.0]
    assert checked > 10


def test_reading_disturbs_nothing_and_follows_changes_of_the_model():
    env, _ = visited("Hopper-v5")
    untouched = env.unwrapped.data.qacc_warmstart.copy(), state_of(env)
    quantities = Quantities(env)
    before = quantities.read(env)
    np.testing.assert_array_equal(env.unwrapped.data.qacc_warmstart, untouched[0])
    np.testing.assert_array_equal(state_of(env), untouched[1])
    env.unwrapped.model.opt.gravity[2] *= -1
    index = quantities.index("potential_energy")
    assert quantities.read(env)[index] == pytest.approx(-before[index])


def test_the_distance_to_a_target_is_told():
    env, states = visited("Reacher-v5")
    quantities = Quantities(env)
    values = dict(zip(quantities.names, quantities.of_states(states[-1:])[0], strict=True))
    expected = math.hypot(values["fingertip_x"] - values["target_x"], values["fingertip_y"] - values["target_y"])
    assert values["fingertip_to_target"] == pytest.approx(expected)


def test_two_room_tells_where_the_agent_is():
    env = make_env("two-room")
    env.reset(seed=1)
    assert Quantities(env).all == (Quantity("x", "map units"), Quantity("y", "map units"))
    np.testing.assert_array_equal(Quantities(env).read(env), env.unwrapped.state)


def test_mistakes_are_explained():
    with pytest.raises(EnvironmentFault, match="CartPole-v1 has no physical quantities"):
        Quantities(make_env("CartPole-v1"))
    quantities = Quantities(make_env("Hopper-v5"))
    with pytest.raises(UnknownNameError, match=r"Hopper-v5 has no quantity 'x_velocty'.*'x_velocity'.*torso_height"):
        quantities.index("x_velocty")
    with pytest.raises(SettingsError, match=r"shape \(N, 12\), not \(3, 18\)"):
        quantities.of_states(np.zeros((3, 18)))
    broken = np.zeros((3, 12))
    broken[1, 4] = np.nan
    with pytest.raises(EnvironmentFault, match="1 of 3 states"):
        quantities.of_states(broken)
    with pytest.raises(EnvironmentFault, match="does not tell its state"):
        quantities.read(make_env("MountainCar-v0"))


def test_ones_own_environments_name_theirs_by_units_or_objects():
    env = make_env("CartPole-v1")
    bare = env.unwrapped
    bare.measure = lambda states: states[:, :2]
    for named in ({"place": "m", "speed": "m/s"}, [Quantity("place", "m"), Quantity("speed", "m/s")]):
        bare.quantities = named
        assert list(map(str, Quantities(env).all)) == ["place (m)", "speed (m/s)"]
    for wrong in (("place", "speed"), 2):
        bare.quantities = wrong
        with pytest.raises(SettingsError, match=r"quantities must give units by name, such as \{'distance': 'm'\}"):
            Quantities(env)
