"""Two rooms: nothing passes a wall, every state can be returned to, and what it is evaluated on is pinned."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from forethought.core.errors import EnvironmentFault, SettingsError
from forethought.envs import make_env
from forethought.envs import two_room_map as rooms
from forethought.envs.experts import EXPERTS
from forethought.envs.held_out import ANY_GOAL
from forethought.envs.tasks import portable_factory
from forethought.envs.two_room import STEP, SUCCESS_DISTANCE, TwoRoomEnv
from forethought.envs.two_room_held_out import HELD_OUT
from forethought.envs.two_room_picture import AGENT, FLOOR, GOAL, WALL, draw

coordinates = st.floats(rooms.LOW, rooms.HIGH)
free_positions = st.tuples(coordinates, coordinates).filter(lambda position: rooms.is_free(*position))
directions = st.tuples(st.floats(-1, 1), st.floats(-1, 1))


def test_the_map_is_as_hard_as_published() -> None:
    assert (rooms.SIZE, rooms.BORDER, rooms.RADIUS, STEP, SUCCESS_DISTANCE) == (224, 14, 7, 5, 16)
    assert (rooms.WALL_LEFT, rooms.WALL_RIGHT, rooms.DOOR_TOP, rooms.DOOR_BOTTOM) == (107, 117, 98, 126)
    assert HELD_OUT.step_budgets == {25: 50, 50: 100, 100: 200, ANY_GOAL: 200}


def overlaps_a_wall(x: float, y: float, slack: float) -> bool:
    """Whether a disc at (x, y), smaller by ``slack``, overlaps a wall: by its distance from each, unlike the map's."""
    radius = rooms.RADIUS - slack
    if min(x, y) - radius < rooms.BORDER or max(x, y) + radius > rooms.SIZE - rooms.BORDER:
        return True
    from_side = max(rooms.WALL_LEFT - x, x - rooms.WALL_RIGHT, 0.0)
    from_end = min(max(y - rooms.DOOR_TOP, 0.0), max(rooms.DOOR_BOTTOM - y, 0.0))
    return math.hypot(from_side, from_end) < radius


@given(free_positions, directions, st.floats(0, 300))
def test_no_move_passes_a_wall_whatever_its_length(
    start: tuple[float, float], direction: tuple[float, float], length: float
) -> None:
    way = (length * direction[0], length * direction[1])
    end = rooms.travel(*start, *way)
    assert rooms.is_free(*end)
    for share in np.linspace(0, 1, 200).tolist():
        point = (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))
        assert not overlaps_a_wall(*point, slack=1e-6)


@given(free_positions, directions)
def test_a_move_ends_at_the_first_contact_or_where_it_was_to_go(
    start: tuple[float, float], direction: tuple[float, float]
) -> None:
    way = (STEP * direction[0], STEP * direction[1])
    end = rooms.travel(*start, *way)
    if end != (start[0] + way[0], start[1] + way[1]):
        length = math.hypot(*way)
        beyond = (end[0] + 1e-3 * way[0] / length, end[1] + 1e-3 * way[1] / length)
        assert overlaps_a_wall(*beyond, slack=-1e-6), f"{start} stopped at {end}, with nothing in the way"


@pytest.mark.parametrize(
    ("start", "action", "end"),
    [
        ((60, 112), (1, 0), (65, 112)),
        ((60, 60), (-0.5, 0.25), (57.5, 61.25)),
        ((98, 60), (1, 0), (100, 60)),  # the wall's left side, a radius away
        ((98, 60), (1, 1), (100, 62)),  # it stops there, and does not slide
        ((126, 60), (-1, 0), (124, 60)),
        ((98, 112), (1, 0), (103, 112)),  # through the door
        ((112, 108), (0, -1), (112, 105)),  # inside it
        ((22, 22), (-1, 0), (21, 22)),
        ((202, 202), (0, 1), (202, 203)),
    ],
)
def test_moves_are_where_they_should_be(start: Any, action: Any, end: Any) -> None:
    env = TwoRoomEnv(observation="state")
    env.reset(options={"state": start})
    observation, *_, info = env.step(np.array(action, np.float32))
    np.testing.assert_allclose(info["state"], end, atol=1e-9)
    np.testing.assert_allclose(observation, end, atol=1e-5)


def test_the_doors_edges_are_round_for_a_disc() -> None:
    x, y = rooms.travel(95.0, 104.0, 20.0, 0.0)
    assert math.hypot(rooms.WALL_LEFT - x, rooms.DOOR_TOP - y) == pytest.approx(rooms.RADIUS)


@pytest.mark.parametrize("observation", ["pixels", "state"])
def test_every_recorded_state_can_be_returned_to_bit_for_bit(observation: Any) -> None:
    env, other = TwoRoomEnv(observation), TwoRoomEnv(observation)
    rng = np.random.default_rng(0)
    _, info = env.reset(seed=0)
    for _ in range(200):
        before, action = info["state"], rng.uniform(-1, 1, 2).astype(np.float32)
        seen, *_, info = env.step(action)
        other.reset(options={"state": before})
        again, *_, info_again = other.step(action)
        assert np.array_equal(seen, again)
        assert np.array_equal(info["state"], info_again["state"])
        assert np.array_equal(env.observe(info["state"]), seen)


def test_an_episode_is_a_function_of_its_seed() -> None:
    starts = [TwoRoomEnv().reset(seed=seed)[1]["state"].tolist() for seed in (1, 1, 2)]
    assert starts[0] == starts[1] != starts[2]


def test_with_a_goal_an_episode_ends_and_is_rewarded_within_reach_of_it() -> None:
    env = make_env("two-room")
    _, info = env.reset(options={"state": (40, 40), "goal": (72, 40)})
    assert info["distance"] == 32
    assert not info["is_success"]
    outcomes = [env.step(np.array([1.0, 0.0], np.float32)) for _ in range(4)]
    assert [(reward, terminated) for _, reward, terminated, *_ in outcomes] == [(0, False)] * 3 + [(1, True)]
    assert outcomes[-1][4]["is_success"]
    assert "goal" not in env.reset(seed=0)[1]
    assert TwoRoomEnv.is_success([[0, 0], [0, 17]], [16, 0]).tolist() == [True, False]


def test_without_one_it_lasts_for_its_time_limit() -> None:
    env = make_env("two-room", observation="state")
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(150)]
    assert ends == [(False, False)] * 149 + [(False, True)]
    assert make_env("two-room", max_episode_steps=None).spec.max_episode_steps is None


def test_pictures_show_the_map_and_the_slightest_motion() -> None:
    env = make_env("two-room", render_mode="rgb_array", size=224)
    seen, _ = env.reset(options={"state": (60, 80), "goal": (160, 100)})
    where = {(80, 60): AGENT, (40, 60): FLOOR, (40, 112): WALL, (112, 112): FLOOR, (3, 3): WALL, (100, 160): FLOOR}
    assert {place: tuple(seen[place].tolist()) for place in where} == where
    rendered = env.render()
    assert rendered.shape == (224, 224, 3)
    assert tuple(rendered[100, 145].tolist()) == GOAL
    places = [np.array([50.0, y]) for y in (60.0, 60.1, 60.2)]
    assert len({draw(64, place).tobytes() for place in places}) == 3
    small = draw(64, np.array([112.0, 112.0])).astype(int)
    assert np.array_equal(small, small[::-1])
    assert np.array_equal(small, small[:, ::-1])


def test_thousands_of_rendered_steps_take_a_second() -> None:
    env = make_env("two-room", size=64)
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (1000, 2)).astype(np.float32)
    began = time.process_time()
    for action in actions:
        *_, ended, _ = env.step(action)
        if ended:
            env.reset()
    assert 1000 / (time.process_time() - began) > 2000


@pytest.mark.parametrize("observation", ["pixels", "state"])
def test_gymnasium_has_nothing_to_object_to(observation: str) -> None:
    check_env(make_env("two-room", observation=observation).unwrapped, skip_render_check=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"observation": "sound"}, "'pixels' or 'state'"),
        ({"size": 8}, "at least 32"),
        ({"render_mode": "human"}, "'rgb_array' or None"),
    ],
)
def test_wrong_settings_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        TwoRoomEnv(**arguments)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"goall": (50, 50)}, "Did you mean 'goal'"),
        ({"state": (50,)}, "two finite numbers"),
        ({"goal": (50, math.nan)}, "two finite numbers"),
        ({"state": "here"}, "not a position"),
        ({"state": (112, 60)}, "inside a wall"),
        ({"state": (5, 60)}, "inside a wall"),
        ({"goal": (107, 103)}, "inside a wall"),
    ],
)
def test_wrong_options_are_named_and_disturb_no_episode(options: dict[str, Any], said: str) -> None:
    env = TwoRoomEnv()
    _, info = env.reset(seed=0)
    with pytest.raises(SettingsError, match=said):
        env.reset(options=options)
    assert np.array_equal(env.state, info["state"])


def test_wrong_actions_are_named() -> None:
    env = TwoRoomEnv()
    with pytest.raises(EnvironmentFault, match="reset"):
        env.step(np.zeros(2))
    env.reset(seed=0)
    for action in (np.zeros(3), np.array([np.nan, 0])):
        with pytest.raises(SettingsError, match="The action"):
            env.step(action)
    with pytest.raises(SettingsError, match="rgb_array"):
        env.render()


def test_a_process_makes_it_without_torch() -> None:
    script = (
        "import pickle, sys\n"
        "factory = pickle.loads(sys.stdin.buffer.read())\n"
        "print(factory().reset(seed=0)[0].shape, 'torch' in sys.modules)\n"
    )
    factory = pickle.dumps(portable_factory("two-room"))
    finished = subprocess.run([sys.executable, "-c", script], input=factory, capture_output=True, timeout=120)
    assert finished.stdout.decode() == "(64, 64, 3) False\n", finished.stderr.decode()


class Walks:
    """Walks of the expert, with what it was shown."""

    def __init__(self, count: int) -> None:
        env = TwoRoomEnv(observation="state")
        self.states, self.actions = [], []
        for seed in range(count):
            walker = EXPERTS.get("two-room")(seed)
            _, info = env.reset(seed=seed)
            for _ in range(150):
                assert set(info) == {"state"}
                action = walker(info)
                self.states.append(info["state"])
                self.actions.append(action)
                *_, info = env.step(action)


def test_the_expert_walks_through_both_rooms_with_the_published_noise() -> None:
    walks = Walks(100)
    actions, states = np.array(walks.actions), np.array(walks.states)
    repeated = (actions[1:] == actions[:-1]).all(1).mean()
    corners = 0.5 * (np.abs(actions) == 1).all(1).mean()  # clipped on both sides, many are the same by chance
    assert 0.04 < repeated < 0.06 + corners
    # A component is m + N(0, 2), |m| <= 1, clipped to [-1, 1]: it reaches a bound in 62 to 66 % of all cases.
    assert 0.60 < (np.abs(actions) == 1).mean() < 0.67
    assert np.abs(actions).max() == 1
    left = (states[:, 0] < rooms.MIDDLE).reshape(100, 150)
    assert 0.4 < left.mean() < 0.6
    assert (left[:, 1:] != left[:, :-1]).sum() / 100 > 2


def test_it_is_a_function_of_its_seed() -> None:
    info = {"state": np.array([60.0, 60.0])}
    walks = [[EXPERTS.get("two-room")(seed)(info).tolist() for _ in range(3)] for seed in (1, 1, 2)]
    assert walks[0] == walks[1] != walks[2]


def test_what_is_held_out_is_what_is_committed() -> None:
    assert HELD_OUT.document() == HELD_OUT.file.read_text(encoding="utf-8")


@pytest.mark.parametrize("offset", [25, 50, 100, ANY_GOAL])
def test_no_start_is_at_its_goal_and_what_was_left_out_is_told(offset: int) -> None:
    pairs = HELD_OUT.pairs(offset)
    assert pairs.starts.shape == pairs.goals.shape == (200, 2)
    assert not TwoRoomEnv.is_success(pairs.starts, pairs.goals).any()
    assert all(rooms.is_free(*place) for place in np.concatenate([pairs.starts, pairs.goals]).tolist())
    assert 0 < pairs.excluded_share < 0.2
    assert pairs.step_budget == (2 * offset or 200)
    both_rooms = (pairs.starts[:, 0] < rooms.MIDDLE) != (pairs.goals[:, 0] < rooms.MIDDLE)
    assert 0.15 < both_rooms.mean() < 0.7


def test_an_offset_that_is_not_held_out_is_named() -> None:
    with pytest.raises(SettingsError, match="25, 50, 100, 0"):
        HELD_OUT.pairs(30)
