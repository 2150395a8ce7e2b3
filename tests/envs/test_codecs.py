"""Spaces are coded into flat vectors and back, exactly inside their bounds, or refused with advice."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.core.errors import EnvironmentFault, UnsupportedSpaceError
from forethought.envs import ActionCodec, ObservationCodec

INFINITE = float("inf")


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    """Finite boxes of every numeric type, down to a point and up to the type's whole range."""
    dtype = np.dtype(
        draw(st.sampled_from(["float16", "float32", "float64", "uint8", "int8", "int32", "int64", "uint64"]))
    )
    if dtype.kind == "f":
        width = dtype.itemsize * 8
        number = st.floats(allow_nan=False, allow_infinity=False, width=width)
    else:
        number = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    dims = draw(st.integers(1, 3))
    ends = [sorted((draw(number), draw(number))) for _ in range(dims)]
    low, high = (np.array(side, dtype) for side in zip(*ends, strict=True))
    return spaces.Box(low, high, dtype=dtype.type)


@settings(derandomize=True, database=None, deadline=None)
@given(boxes(), st.lists(st.floats(-1.5, 1.5, width=32), min_size=3, max_size=3))
def test_a_decoded_action_is_always_inside_its_box_and_exact_at_the_ends(box: spaces.Box, values: list[float]) -> None:
    codec = ActionCodec(box)
    actions = np.array([values[: codec.dims], [-1.0] * codec.dims, [1.0] * codec.dims], np.float32)
    native = codec.decode(actions)
    assert all(box.contains(action) for action in native)
    np.testing.assert_array_equal(native[1], box.low)
    np.testing.assert_array_equal(native[2], box.high)
    again = codec.encode(native)
    assert again.dtype == np.float32
    assert np.abs(again).max() <= 1.0


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.uint8])
def test_the_whole_range_of_an_integer_type_is_reached_and_not_overrun(dtype: Any) -> None:
    box = spaces.Box(np.iinfo(dtype).min, np.iinfo(dtype).max, (1,), dtype)
    native = ActionCodec(box).decode(np.array([[-1.0], [0.0], [1.0]], np.float32))
    assert [int(native[0, 0]), int(native[2, 0])] == [np.iinfo(dtype).min, np.iinfo(dtype).max]
    assert native[0] < native[1] < native[2]


def test_a_dimension_without_room_keeps_its_value_exactly() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 100)
    native = ActionCodec(spaces.Box(values, values, dtype=np.float64)).decode(np.full((1, 100), 0.3, np.float32))
    np.testing.assert_array_equal(native[0], values)


@pytest.mark.parametrize(
    ("low", "high"), [([-2.0, 0.0], [6.0, 1e-8]), ([-1e6, 5.0], [1e6, 5.0]), ([-1e308, -1.0], [1e308, 1e-3])]
)
def test_encoding_undoes_decoding_and_fixed_dimensions_encode_to_zero(low: list[float], high: list[float]) -> None:
    codec = ActionCodec(spaces.Box(np.array(low), np.array(high), dtype=np.float64))
    actions = np.linspace(-1, 1, 22, dtype=np.float32).reshape(11, 2)
    expected = np.where(np.array(low) == np.array(high), 0.0, actions)
    np.testing.assert_allclose(codec.encode(codec.decode(actions)), expected, atol=1e-6)


def test_every_value_of_an_integer_box_can_be_chosen() -> None:
    codec = ActionCodec(spaces.Box(-3, 4, (1,), np.int32))
    chosen = codec.decode(np.linspace(-1, 1, 200, dtype=np.float32)[:, None])
    assert sorted(set(chosen[:, 0].tolist())) == list(range(-3, 5))


@pytest.mark.parametrize(
    ("space", "planning_space", "dims"),
    [
        (spaces.Discrete(3, start=5), spaces.Discrete(3), 3),
        (spaces.MultiDiscrete([2, 4]), spaces.MultiDiscrete([2, 4]), 6),
        (spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, 1], [0, -5]]), spaces.MultiDiscrete([2, 3, 4, 2]), 11),
        (spaces.MultiBinary(3), spaces.MultiDiscrete([2, 2, 2]), 6),
        (spaces.Box(-2.0, 6.0, (2, 3)), spaces.Box(-1.0, 1.0, (6,)), 6),
    ],
)
def test_actions_survive_the_way_out_and_back(space: gym.Space[Any], planning_space: gym.Space[Any], dims: int) -> None:
    codec = ActionCodec(space)
    assert (codec.planning_space, codec.dims) == (planning_space, dims)
    assert codec.discrete is not isinstance(space, spaces.Box)
    actions = codec.sample(np.random.default_rng(0), 64)
    native = codec.decode(actions)
    assert actions.shape == (64, dims)
    assert all(space.contains(action if action.shape else action[()]) for action in native)
    np.testing.assert_allclose(codec.encode(native), actions, atol=1e-6)


def test_sampling_reaches_every_choice_and_depends_on_the_generator_alone() -> None:
    codec = ActionCodec(spaces.MultiDiscrete([2, 3]))
    sample = codec.sample(np.random.default_rng(1), 200)
    np.testing.assert_array_equal(sample, codec.sample(np.random.default_rng(1), 200))
    assert {tuple(row) for row in codec.decode(sample).tolist()} == {(a, b) for a in range(2) for b in range(3)}


def test_observations_become_one_float32_vector_in_key_order() -> None:
    space = spaces.Dict(
        {
            "speed": spaces.Box(-INFINITE, INFINITE, (2, 2), np.float64),
            "gear": spaces.Discrete(3, start=1),
            "lamps": spaces.MultiBinary(2),
        }
    )
    codec = ObservationCodec(space)
    batch = {"speed": np.arange(8.0).reshape(2, 2, 2), "gear": np.array([1, 3]), "lamps": np.array([[0, 1], [1, 1]])}
    keys = list(space.spaces)
    parts = {
        "speed": [[0, 1, 2, 3], [4, 5, 6, 7]],
        "gear": [[1, 0, 0], [0, 0, 1]],
        "lamps": [[1, 0, 0, 1], [0, 1, 0, 1]],
    }
    expected = np.concatenate([np.array(parts[key], np.float32) for key in keys], axis=1)
    np.testing.assert_array_equal(codec(batch), expected)
    assert codec(batch).dtype == np.float32
    assert codec.shape == (11,)
    single = {key: values[1] for key, values in batch.items()}
    np.testing.assert_array_equal(codec.single(single), expected[1])
    assert codec.is_batch(batch)
    assert not codec.is_batch(single)


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((4, 6, 3), lambda image: image),
        ((3, 4, 6), lambda image: np.moveaxis(image, 0, -1)),
        ((4, 6, 1), lambda image: image.repeat(3, -1)),
        ((4, 6), lambda image: np.stack([image] * 3, -1)),
    ],
)
def test_images_stay_images_with_three_channels_last(shape: tuple[int, ...], seen: Any) -> None:
    space = spaces.Box(0, 255, shape, np.uint8, seed=0)
    codec, images = ObservationCodec(space), np.stack([space.sample(), space.sample()])
    assert (codec.shape, codec.dtype) == ((4, 6, 3), np.uint8)
    coded = codec(images)
    assert coded.dtype == np.uint8
    for image, one in zip(images, coded, strict=True):
        np.testing.assert_array_equal(one, seen(image))
        np.testing.assert_array_equal(codec.single(image), one)
    assert codec.is_batch(images)
    assert not codec.is_batch(images[0])
    before = coded.copy()
    images[:] = 0
    np.testing.assert_array_equal(coded, before)
    with pytest.raises(EnvironmentFault, match="dtype float64, and the space says uint8"):
        codec.single(np.zeros(shape))


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (3,)), spaces.Discrete(4, start=-2), spaces.MultiDiscrete([2, 3])])
def test_single_observations_are_told_from_batches(space: gym.Space[Any]) -> None:
    codec = ObservationCodec(space)
    one = space.sample()
    batch = np.stack([one, one])
    assert not codec.is_batch(one)
    assert codec.is_batch(batch)
    np.testing.assert_array_equal(codec(batch)[1], codec.single(one))


def test_coded_observations_never_share_memory_with_the_environment() -> None:
    codec, observation = ObservationCodec(spaces.Box(-1, 1, (3,), np.float32)), np.zeros(3, np.float32)
    coded = codec.single(observation)
    observation[:] = 1.0
    assert not coded.any()


def test_what_float32_cannot_hold_becomes_infinite_without_a_warning() -> None:
    codec = ObservationCodec(spaces.Box(-INFINITE, INFINITE, (1,), np.float64))
    assert np.isinf(codec(np.array([[1e300]]))).all()


@pytest.mark.parametrize(
    ("space", "observation", "message"),
    [
        (spaces.Box(-1, 1, (3,)), np.zeros(5), r"shape \(5,\), and the space says \(3,\)"),
        (spaces.Discrete(3), 3, "outside its space"),
        (spaces.Discrete(3, start=2), 1, "outside its space"),
        (spaces.Dict({"speed": spaces.Box(-1, 1, (1,))}), {"pace": np.zeros(1)}, "lacks 'speed'"),
        (spaces.Box(-1, 1, (3,)), None, "shape"),
        (spaces.Box(-1, 1, (1,)), ["near"], "dtype <U4, which does not hold real numbers"),
        (spaces.Box(-1, 1, (1,)), [1j], "dtype complex128"),
        (spaces.Box(-1, 1, (1,)), np.array([None]), "dtype object"),
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.float32), "dtype float32"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused(space: gym.Space[Any], observation: Any, message: str) -> None:
    with pytest.raises(EnvironmentFault, match=message):
        ObservationCodec(space).single(observation)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-INFINITE, INFINITE, (2,)), "infinite bounds.*TransformAction"),
        (spaces.Box(-INFINITE, 1.0, (2,)), "infinite bounds"),
        (spaces.Box(0.0, INFINITE, (2,)), "infinite bounds"),
        (spaces.Box(-1.0, 1.0, (0,)), "no dimensions"),
        (spaces.Dict({"arm": spaces.Box(-1, 1, (1,))}), "is Dict.*TransformAction"),
        (spaces.Tuple([spaces.Discrete(2)]), "is Tuple.*TransformAction"),
        (spaces.Text(3), "is Text"),
    ],
)
def test_impossible_action_spaces_are_refused_with_advice(space: gym.Space[Any], message: str) -> None:
    with pytest.raises(UnsupportedSpaceError, match=message):
        ActionCodec(space)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 255, (4, 64, 64, 3), np.uint8), "shape.*4, 64, 64, 3.*not stacked"),
        (spaces.Box(0, 255, (64, 64, 4), np.uint8), "1 or 3 channels"),
        (spaces.Box(0, 1, (64, 64, 3), np.float32), "not scaled to floats"),
        (spaces.Dict({"eye": spaces.Box(0, 255, (8, 8, 3), np.uint8)}), "'eye' holds images.*FilterObservation"),
        (spaces.Box(-1, 1, (0,)), "empty"),
        (spaces.Dict({}), "empty"),
        (spaces.Tuple([spaces.Discrete(2)]), "Tuple.*FlattenObservation"),
        (spaces.Dict({"arm": spaces.Dict({"x": spaces.Discrete(2)})}), "'arm' is Dict.*FlattenObservation"),
        (spaces.Text(3), "Text.*TransformObservation"),
        (spaces.Graph(spaces.Box(-1, 1, (1,)), None), "Graph"),
    ],
)
def test_impossible_observation_spaces_are_refused_with_advice(space: gym.Space[Any], message: str) -> None:
    with pytest.raises(UnsupportedSpaceError, match=message):
        ObservationCodec(space)


def test_the_advised_wrappers_work(scripted: Any) -> None:
    env = scripted()
    env.action_space = spaces.Dict({"b": spaces.Box(-1, 1, (1,)), "a": spaces.Box(0, 2, (1,))})
    flat = gym.wrappers.TransformAction(
        env, lambda action: spaces.unflatten(env.action_space, action), spaces.flatten_space(env.action_space)
    )
    assert ActionCodec(flat.action_space).dims == 2
    env.action_space = spaces.Box(-INFINITE, INFINITE, (1,))
    bounded = gym.wrappers.TransformAction(env, lambda action: action, spaces.Box(-2.0, 2.0, (1,)))
    assert ActionCodec(bounded.action_space).decode(np.ones((1, 1))) == 2.0
