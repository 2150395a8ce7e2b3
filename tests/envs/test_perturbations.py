"""Perturbations leave an episode alone until their onset, tell the truth about it, and are gone after a reset."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from forethought.core.errors import SettingsError, UnknownNameError
from forethought.envs import make_env
from forethought.envs import two_room_map as rooms
from forethought.envs.experts import ExpertPolicy, RandomPolicy
from forethought.envs.perturbations import PERTURBATIONS, NominalScale, Perturbation, perturb, perturbations_for
from forethought.envs.recording import Recorder

MUJOCO = ("HalfCheetah-v5", "Hopper-v5", "Ant-v5", "Pusher-v5", "Reacher-v5")
STATE, PIXELS = {"observation": "state"}, {"observation": "pixels", "size": 32}
ONSET, STEPS = 6, 14
_SCALES: dict[tuple[str, ...], NominalScale] = {}


def made(task: str) -> gym.Env[Any, Any]:
    """Return an environment; the two rooms are told apart as "two-room:state" and "two-room:pixels"."""
    name, _, kind = task.partition(":")
    return make_env(name, **{"": {}, "state": STATE, "pixels": PIXELS}[kind])


def scale_of(task: str) -> NominalScale:
    if (task,) not in _SCALES:
        recorder = Recorder(lambda: made(task), longest=30)
        episodes = recorder.record(RandomPolicy(), [1, 2], [3, 4])
        _SCALES[(task,)] = NominalScale.of(made(task), [episode for episode in episodes if episode is not None])
    return _SCALES[(task,)]


def actions_of(env: gym.Env[Any, Any], task: str) -> np.ndarray:
    """Return actions that are alike in all episodes; in the two rooms they lead into the wall."""
    rng = np.random.default_rng(0)
    space = env.action_space
    assert isinstance(space, gym.spaces.Box)
    actions = rng.uniform(space.low, space.high, (STEPS, *space.shape)).astype(space.dtype)
    if task.startswith("two-room"):
        actions[:, 0] = np.abs(actions[:, 0]) + 0.5
    return actions.clip(space.low, space.high)


def played(env: gym.Env[Any, Any], task: str, seed: int = 5) -> list[tuple[Any, float, bool]]:
    """Return what an episode of the same actions shows."""
    options = {"state": (55.0, 60.0)} if task.startswith("two-room") else None
    observation, info = env.reset(seed=seed, options=options)
    seen = [(np.array(observation), 0.0, info.get("perturbed", False))]
    for action in actions_of(env, task):
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append((np.array(observation), float(reward), info.get("perturbed", False)))
        if terminated or truncated:
            break
    return seen


def cells() -> list[tuple[str, str]]:
    tasks = [*MUJOCO, "two-room:state", "two-room:pixels"]
    untouched = ("Pusher-v5", "surface_friction")  # within these steps, the arm touches nothing
    found = [(task, name) for task in tasks for name in perturbations_for(made(task))]
    return [cell for cell in found if cell != untouched]


def same(one: list[Any], other: list[Any], until: int | None = None) -> bool:
    return all(
        np.array_equal(first[0], second[0]) and first[1] == second[1]
        for first, second in zip(one[:until], other[:until], strict=True)
    )


@pytest.mark.parametrize(("task", "name"), cells())
def test_nothing_differs_before_the_onset_something_does_after_it_and_reset_puts_it_back(task: str, name: str) -> None:
    bare = made(task)
    nominal = played(bare, task)
    many = 60 if task == "Ant-v5" and PERTURBATIONS.get(name).counts and "sensor" in name else None
    env = perturb(made(task), name, many, onset=ONSET, scale=scale_of(task))  # most of an ant's contacts feel nothing
    before = physics(env)
    perturbed = played(env, task)
    assert same(nominal, perturbed, ONSET + 1), "it differs before its onset"
    length = min(len(nominal), len(perturbed))
    assert not same(nominal[:length], perturbed[:length]), "it changes nothing"
    if name != "wall_passed":
        assert env.event == ONSET
    assert [flag for *_, flag in perturbed[1:]] == env.truth
    again = played(env, task)
    assert same(perturbed, again), "the same seed gives another event"
    env.reset(seed=5)
    after = physics(env)
    assert all(np.array_equal(before[key], after[key]) for key in before), "reset does not put the physics back"
    # with an onset after the end, nothing is perturbed at all, in the very environment that was
    late = PERTURBATIONS.get(name)(env.env, onset=STEPS, scale=scale_of(task))
    assert same(nominal, played(late, task))
    assert late.event is None


def physics(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return all arrays of MuJoCo's model and options, copied; what else a perturbation may change, too."""
    bare: Any = env.unwrapped
    if not hasattr(bare, "model"):
        return {"wall": bare.wall_is_solid}
    kept = {"frame_skip": np.array(bare.frame_skip), "force": bare.data.xfrc_applied.copy()}
    for owner in (bare.model, bare.model.opt):
        for key in dir(owner):
            value = getattr(owner, key, None) if not key.startswith("_") else None
            if isinstance(value, np.ndarray | int | float):
                kept[key] = np.array(value)
    return kept


def test_every_mujoco_task_and_two_room_have_those_that_they_can_have() -> None:
    names = set(PERTURBATIONS.names())
    pixels = {"object_vanished", "colour", "brightness", "camera"}
    two_room_only = {"wall_passed", "object_vanished"}
    cheetah = set(perturbations_for(made("HalfCheetah-v5")))
    assert cheetah == names - pixels - two_room_only
    assert cheetah - set(perturbations_for(made("InvertedPendulum-v5"))) == {"surface_friction"}
    assert "gravity_flipped" not in perturbations_for(made("Pusher-v5"))
    assert "gravity_flipped" not in perturbations_for(made("Reacher-v5"))
    assert {"gravity_tilted", "teleport", "velocity_kick"} <= set(perturbations_for(made("Swimmer-v5")))
    rooms_seen = set(perturbations_for(made("two-room:pixels")))
    assert {"teleport", "wall_passed", "camera", "sensor_frozen", "actuator_dead", "clock_rate"} <= rooms_seen
    assert not {"velocity_kick", "mass", "sensor_noisy", "observation_offset"} & rooms_seen
    assert set(perturbations_for(make_env("CartPole-v1"))) == {
        name for name in cheetah if "obs" in name or "sen" in name
    }


@pytest.mark.parametrize(
    ("task", "name", "said"),
    [
        ("two-room:state", "velocity_kick", "no velocities that could be set. It can have: action_factor, "),
        ("HalfCheetah-v5", "wall_passed", "HalfCheetah-v5 cannot have the perturbation 'wall_passed': it has no wall"),
        ("Pusher-v5", "gravity_flipped", "gravity moves nothing there. It can have: .*teleport"),
        ("two-room:state", "object_vanished", "how its observations would look without"),
        ("Hopper-v5", "colour", "not images in colour"),
    ],
)
def test_what_a_task_cannot_have_is_refused_with_what_it_can_have(task: str, name: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        perturb(made(task), name)


@pytest.mark.parametrize(
    ("name", "how", "error", "said"),
    [
        ("telport", {}, UnknownNameError, "Did you mean 'teleport'"),
        ("teleport", {}, SettingsError, "nominal standard deviations: give scale"),
        ("mass", {"strength": -1.0}, SettingsError, r"'mass': it must be a number in \[0.01, 100\] \(factor"),
        ("mass", {"strength": float("nan")}, SettingsError, "strength = nan"),
        ("actuator_dead", {"strength": 4}, SettingsError, r"a whole number in \[0, 3\]"),
        ("actuator_delayed", {"strength": 1.5}, SettingsError, "a whole number"),
        ("mass", {"onset": -1}, SettingsError, "onset = -1"),
        ("mass", {"horizon": 0}, SettingsError, "horizon = 0"),
        ("mass", {"duration": 0}, SettingsError, "duration = 0"),
    ],
)
def test_bad_arguments_are_refused(name: str, how: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        perturb(made("Hopper-v5"), name, **how)


def test_an_onset_is_drawn_uniformly_over_the_episode_from_the_seed_alone() -> None:
    env = perturb(made("Reacher-v5"), "mass")  # of 50 steps
    weaker = perturb(made("Reacher-v5"), "action_noise", 0.1)

    def onsets(of: Perturbation) -> list[int]:
        drawn = []
        for seed in range(300):
            of.reset(seed=seed)
            drawn.append(of.onset)
        return drawn

    first = onsets(env)
    assert first == onsets(env) == onsets(weaker)
    assert set(range(50)) - set(first) == set() or len(set(first)) > 45
    assert min(first) == 0
    assert max(first) == 49
    assert abs(np.mean(first) - 24.5) < 3
    env = perturb(made("Reacher-v5"), "mass", onset=lambda seed: seed + 2)
    env.reset(seed=7)
    assert env.onset == 9


def test_a_perturbation_that_lasts_some_steps_ends_and_leaves_the_world_as_it_was() -> None:
    env = perturb(made("HalfCheetah-v5"), "gravity_flipped", onset=2, duration=3)
    before = physics(env)
    env.reset(seed=0)
    told = []
    for _ in range(8):
        told.append(env.step(np.zeros(6, np.float32))[4]["perturbed"])
        if len(told) == 3:
            assert env.unwrapped.model.opt.gravity[2] == pytest.approx(9.81)  # type: ignore[attr-defined]
    assert told == [False, False, True, True, True, False, False, False]
    after = physics(env)
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert sum(told_once("teleport")) == 1


def test_of_perturbations_in_each_other_each_is_told() -> None:
    env = perturb(perturb(made("HalfCheetah-v5"), "gravity_flipped", onset=1), "actuator_dead", onset=2)
    env.reset(seed=0)
    told = [env.step(env.action_space.low)[4]["perturbed"] for _ in range(4)]
    assert told == [False, True, True, True]
    assert env.truth == [False, False, True, True]
    with pytest.raises(SettingsError, match=r"make_env\('Hopper-v5'\)"):
        perturb("Hopper-v5", "gravity_flipped")  # type: ignore[arg-type]


def told_once(name: str) -> list[bool]:
    env = perturb(made("HalfCheetah-v5"), name, onset=2, scale=scale_of("HalfCheetah-v5"))
    env.reset(seed=0)
    for _ in range(6):
        env.step(np.zeros(6, np.float32))
    return env.truth


def test_a_teleport_displaces_every_coordinate_by_its_deviations_and_keeps_the_rewards_sane() -> None:
    scale = scale_of("HalfCheetah-v5")
    assert scale.positions is not None
    nominal = made("HalfCheetah-v5")
    env = perturb(made("HalfCheetah-v5"), "teleport", 1.0, onset=0, scale=scale)
    nominal.reset(seed=3)
    env.reset(seed=3)
    start = env.unwrapped.data.qpos.copy()  # type: ignore[attr-defined]
    env.begin()
    moved = env.unwrapped.data.qpos - start  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.abs(moved), scale.positions, rtol=1e-9)
    free = perturb(made("Ant-v5"), "teleport", 2.0, onset=0, scale=scale_of("Ant-v5"))
    free.reset(seed=3)
    free.begin()
    assert np.linalg.norm(free.unwrapped.data.qpos[3:7]) == pytest.approx(1.0)  # type: ignore[attr-defined]
    low, high = free.unwrapped.model.jnt_range[1:].T  # type: ignore[attr-defined]
    joints = free.unwrapped.data.qpos[7:]  # type: ignore[attr-defined]
    assert ((low <= joints) & (joints <= high)).all()
    far = perturb(made("HalfCheetah-v5"), "teleport", 10.0, onset=0, scale=scale)
    far.reset(seed=3)
    assert abs(far.step(np.zeros(6, np.float32))[1]) < 20  # the way of a teleport is not run, and not rewarded


def test_in_the_two_rooms_a_teleport_ends_in_a_free_place_however_far_it_is() -> None:
    scale = NominalScale(None, np.array([60.0, 60.0]), None)
    for strength in (0.5, 1.0, 3.0):
        env = perturb(made("two-room:state"), "teleport", strength, onset=0, scale=scale)
        for seed in range(40):
            env.reset(seed=seed)
            start = env.unwrapped.state  # type: ignore[attr-defined]
            env.begin()
            end = env.unwrapped.state  # type: ignore[attr-defined]
            assert rooms.is_free(*end.tolist())
            assert np.abs(end - start).max() > 20


def test_a_passed_wall_is_an_event_only_from_where_it_should_have_stopped_the_agent() -> None:
    env = perturb(made("two-room:pixels"), "wall_passed", onset=2)
    right = np.array([1.0, 0.0], np.float32)
    for _ in range(2):
        env.reset(seed=0, options={"state": (70.0, 50.0)})
        path = [(env.step(right)[4], env.unwrapped.state[0]) for _ in range(14)]  # type: ignore[attr-defined]
        told = [info["perturbed"] for info, _ in path]
        assert [x for _, x in path] == [75.0 + 5 * step for step in range(14)]  # straight through, 100 to 124
        assert told == [False] * 6 + [True] * 5 + [False] * 3
    env.reset(seed=0, options={"state": (70.0, 112.0)})  # through the door, nothing is impossible
    assert not any(env.step(right)[4]["perturbed"] for _ in range(12))
    env.reset(seed=0, options={"state": (190.0, 50.0)})
    for _ in range(6):
        env.step(right)
    assert env.unwrapped.state[0] == rooms.HIGH  # type: ignore[attr-defined]


def test_actuators_do_what_is_said() -> None:
    sent: list[np.ndarray] = []

    class Spy(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            sent.append(np.array(action))
            return self.env.step(action)

    def actions(name: str, strength: float | None = None) -> tuple[Perturbation, np.ndarray]:
        sent.clear()
        env = perturb(Spy(made("Hopper-v5")), name, strength, onset=2)
        env.reset(seed=1)
        for step in range(5):
            env.step(np.float32([0.1, 0.2, 0.3]) * (step + 1))
        return env, np.array(sent)

    given = np.float32([0.1, 0.2, 0.3]) * np.arange(1, 6, dtype=np.float32)[:, None]
    env, dead = actions("actuator_dead", 2)
    which = env.actuators  # type: ignore[attr-defined]
    assert len(which) == 2
    assert (dead[2:, which] == 0).all()
    other = np.setdiff1d(np.arange(3), which)
    np.testing.assert_array_equal(dead[:, other], given[:, other].clip(-1, 1))
    env, flipped = actions("actuator_flipped")
    which = env.actuators  # type: ignore[attr-defined]
    np.testing.assert_allclose(flipped[2:, which], -given[2:, which].clip(-1, 1), rtol=1e-6)
    _, late = actions("actuator_delayed", 2)
    np.testing.assert_allclose(late, given[[0, 1, 1, 1, 2]], rtol=1e-6)
    _, offset = actions("action_offset", 0.5)
    np.testing.assert_allclose(offset[2:], (given[2:] + 0.5).clip(-1, 1), rtol=1e-6)
    assert all((np.abs(actions(name, 1.0)[1]) <= 1).all() for name in ("action_noise", "action_factor"))


def test_sensors_show_what_is_said_and_know_whether_the_truth_moved_on() -> None:
    task = "HalfCheetah-v5"
    nominal = np.array([shown for shown, *_ in played(made(task), task)])
    frozen = perturb(made(task), "sensor_frozen", 2, onset=ONSET)
    shown = np.array([shown for shown, *_ in played(frozen, task)])
    which = frozen.sensors  # type: ignore[attr-defined]
    assert len(which) == 2
    np.testing.assert_array_equal(shown[ONSET + 1 :, which], np.tile(nominal[ONSET, which], (STEPS - ONSET, 1)))
    others = np.setdiff1d(np.arange(17), which)
    np.testing.assert_array_equal(shown[:, others], nominal[:, others])  # the actions are given, so the world is alike
    way = np.abs(nominal[ONSET + 1 :, which] - nominal[ONSET, which]).max()
    for factor, moved in ((0.9, True), (1.1, False)):
        scale = NominalScale(np.full(17, factor * way), None, None)
        assert frozen.moved(scale, STEPS) is moved  # type: ignore[attr-defined]
    exchanged = perturb(made(task), "sensor_permuted", 3, onset=ONSET)
    shown = np.array([shown for shown, *_ in played(exchanged, task)])
    which = exchanged.sensors  # type: ignore[attr-defined]
    np.testing.assert_array_equal(shown[-1, which], nominal[-1, np.roll(which, 1)])
    pixels = perturb(made("two-room:pixels"), "sensor_frozen", onset=ONSET)
    pictures = [shown for shown, *_ in played(pixels, "two-room:pixels")]
    assert all(np.array_equal(picture, pictures[ONSET]) for picture in pictures[ONSET:])
    assert pixels.moved(NominalScale(None, np.array([3.0, 300.0]), None), STEPS)  # type: ignore[attr-defined]
    assert not pixels.moved(NominalScale(None, np.array([300.0, 300.0]), None), STEPS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("turn", [60.0, 200.0])
def test_turned_colours_are_as_bright_as_before_even_where_there_is_no_such_colour(turn: float) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    turned = perturb(make_env("two-room"), "colour", turn).observe(colours)
    grey = np.array([0.299, 0.587, 0.114])
    assert np.abs(turned @ grey - colours @ grey).max() <= 0.5
    assert np.abs(turned.astype(float) - colours).mean() > 10


@pytest.mark.parametrize("name", ["colour", "brightness", "camera"])
def test_controls_change_the_picture_alone(name: str) -> None:
    env, nominal = perturb(made("two-room:pixels"), name, onset=0), made("two-room:pixels")
    played(env, "two-room")
    played(nominal, "two-room")
    np.testing.assert_array_equal(env.unwrapped.state, nominal.unwrapped.state)  # type: ignore[attr-defined]
    assert env.control
    assert sum(PERTURBATIONS.get(other).control for other in PERTURBATIONS.names()) == 3


def test_what_vanishes_leaves_the_empty_map_behind() -> None:
    env = perturb(made("two-room:pixels"), "object_vanished", onset=0)
    pictures = [shown for shown, *_ in played(env, "two-room:pixels")][1:]
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)
    reddest = pictures[0].astype(int) @ [1, -1, 0]
    assert reddest.max() < 10  # nothing there has the agent's colour


def test_clock_rate_and_force_are_in_the_units_that_they_state() -> None:
    env = perturb(made("Hopper-v5"), "clock_rate", 2.0, onset=1)
    env.reset(seed=0)
    bare: Any = env.unwrapped
    times = [bare.data.time]
    for _ in range(3):
        env.step(np.zeros(3, np.float32))
        times.append(bare.data.time)
    np.testing.assert_allclose(np.diff(times) / bare.model.opt.timestep, [4, 8, 8])
    pushed = perturb(made("Hopper-v5"), "force", 0.5, onset=0)
    pushed.reset(seed=0)
    pushed.step(np.zeros(3, np.float32))
    bare = pushed.unwrapped
    assert bare.data.xfrc_applied.sum() == pytest.approx(-0.5 * 9.81 * mujoco.mj_getTotalmass(bare.model))


def test_an_experts_walk_meets_the_wall_now_and_then() -> None:
    walls = [perturb(make_env("two-room", size=32), "wall_passed", onset=0) for _ in range(6)]
    recorder = Recorder(iter(walls).__next__)
    recorder.record(ExpertPolicy("two-room"), list(range(6)), list(range(6)))
    assert sum(wall.event is not None for wall in walls) >= 3


def test_strengths_are_searched_for_within_what_is_allowed() -> None:
    for task in ("HalfCheetah-v5", "two-room:pixels"):
        env = made(task)
        for name in perturbations_for(env):
            kind = PERTURBATIONS.get(name)
            assert kind.checked(kind.standard, env) == kind.standard
            mildest, strongest = kind.search(env)
            assert kind.checked(strongest, env) == strongest
            assert mildest != strongest or name == "wall_passed"
