"""The store keeps everything once, and its clips never cross an episode's end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.core.clip import Clip, ClipSpec
from forethought.core.errors import EnvironmentFault, SettingsError
from forethought.envs import EpisodeStore
from forethought.envs.clips import draw_rows

from .filled import CUT, RUNNING, TERMINATED, TRUNCATED, fill, recorded, scripts, transition


def check_clip(store: EpisodeStore, clip: Clip, spec: ClipSpec, rows: range) -> set[int]:
    """Assert everything that a clip promises, from the stored arrays alone; return the rows that clips start at."""
    stored = store.arrays()
    ends = {index: store.episode(index) for index in range(store.episodes)}
    row_at = {(int(e), int(t)): row for row, (e, t) in enumerate(stored["actions"])}
    starts = set()
    for observations, actions, rewards, terminated, valid in zip(
        *(getattr(clip, name).numpy() for name in ("observations", "actions", "rewards", "terminated", "valid")),
        strict=True,
    ):
        assert valid[0] == 1.0
        assert (np.diff(valid) <= 0).all(), "valid steps come first"
        name, time = observations[0].astype(int)
        starts.add(row_at[name, time])
        here = {step: row for (episode, step), row in row_at.items() if episode == name and row in rows}
        closed = ends[int(stored["episode_of_row"][row_at[name, time]])]["closed"] and max(here) == max(
            step for episode, step in row_at if episode == name
        )
        for step in range(spec.length):
            block = [time + step * spec.block + offset for offset in range(spec.block)]
            taken = [moment for moment in block if moment in here]
            whole = bool(taken) and block[0] in here and (len(taken) == spec.block or closed)
            assert valid[step] == whole
            if not whole:
                assert not actions[step].any()
                assert not rewards[step]
                assert not terminated[step]
                continue
            np.testing.assert_array_equal(observations[step], [name, block[0]])
            np.testing.assert_array_equal(observations[step + 1], [name, taken[-1] + 1])
            expected = np.zeros((spec.block, 2))
            expected[: len(taken)] = [[name, moment] for moment in taken]
            np.testing.assert_array_equal(actions[step], expected.ravel())
            assert rewards[step] == sum(moment + 1 for moment in taken)
            assert terminated[step] == stored["terminated"][here[taken[-1]]]
    return starts


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(scripts, st.integers(1, 4), st.integers(1, 3), st.integers(0, 30), st.integers(1, 75), st.sampled_from([0, 0.5]))
def test_clips_hold_what_was_stored_and_never_cross_an_end(
    script: list[list[int]], length: int, block: int, first: int, count: int, endings: float
) -> None:
    store = EpisodeStore(2, 2, num_envs=len(script[0]))
    fill(store, script)
    spec, rows = ClipSpec(length, block), range(store.rows)[first : first + count]
    try:
        clip = store.sample(40, spec, np.random.default_rng(0), slice(first, first + count), endings)
    except SettingsError:
        assert not len(rows) or block > 1
        return
    assert clip.observations.shape == (40, length + 1, 2)
    assert clip.actions.shape == (40, length, 2 * block)
    assert all(
        getattr(clip, name).dtype == torch.float32 for name in ("observations", "rewards", "valid", "terminated")
    )
    assert check_clip(store, clip, spec, rows) <= set(rows)


@settings(derandomize=True, database=None, deadline=None, max_examples=25)
@given(scripts, st.integers(1, 3))
def test_every_stored_row_whose_block_is_complete_is_drawn(script: list[list[int]], block: int) -> None:
    store = EpisodeStore(2, 2, num_envs=len(script[0]))
    fill(store, script)
    complete = set()
    for index in range(store.episodes):
        rows = np.flatnonzero(store.arrays()["episode_of_row"] == index).tolist()
        complete |= set(rows if store.episode(index)["closed"] else rows[: len(rows) - block + 1])
    if complete:
        first = store.sample(4000, ClipSpec(1, block), np.random.default_rng(1)).observations[:, 0].numpy()
        drawn = {tuple(observation) for observation in np.unique(first, axis=0)}
        assert drawn == {tuple(observation) for observation in store.arrays()["observations"][sorted(complete)]}


def test_starts_are_uniform_among_the_rows() -> None:
    store = EpisodeStore(2, 2)
    fill(store, [[RUNNING], [TERMINATED], [RUNNING], [RUNNING], [RUNNING]])
    clip = store.sample(50_000, ClipSpec(1), np.random.default_rng(0))
    _, counts = np.unique(clip.actions[:, 0].numpy(), axis=0, return_counts=True)
    np.testing.assert_allclose(counts, 10_000, rtol=0.05)


@pytest.mark.parametrize("fading", [1e-9, 0.01, 0.5, 0.95])
@pytest.mark.parametrize(("first", "last"), [(0, 1), (7, 10), (100, 1000)])
def test_what_fades_is_drawn_the_more_rarely_the_older_it_is_down_to_a_tenth(
    fading: float, first: int, last: int
) -> None:
    rows = draw_rows(np.random.default_rng(0), 400_000, first, last, fading)
    weights = np.maximum((1 - fading) ** np.arange(last - first)[::-1], 0.1)
    weights[: -int(np.ceil(np.log(0.1) / np.log1p(-fading)))] = 0.1
    expected = 400_000 * weights / weights.sum()
    counts = np.bincount(rows - first, minlength=last - first)
    assert len(counts) == last - first
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 1).all()


def test_a_store_fades_only_if_it_is_asked_to() -> None:
    store = EpisodeStore(2, 2)
    fill(store, [[RUNNING]] * 500)

    def mean_step(**asked: float) -> float:
        clip = store.sample(4000, ClipSpec(3, 2), np.random.default_rng(0), slice(100, 500), **asked)
        return float(clip.observations[:, 0, 1].mean())

    assert mean_step() == mean_step(fading=0.0) == pytest.approx(300, abs=10)
    steps = np.arange(100, 500)
    faded = np.average(steps, weights=np.maximum(0.98 ** (499.0 - steps), 0.1))
    assert mean_step(fading=0.02) == pytest.approx(faded, abs=10)
    assert faded > 370


@pytest.mark.parametrize("block", [1, 2])
def test_a_share_of_the_clips_can_be_made_to_reach_a_terminal_state(block: int) -> None:
    store = EpisodeStore(2, 2, num_envs=3)
    rows: list[list[int]] = [[RUNNING, RUNNING, RUNNING] for _ in range(200)]
    rows[5][0] = rows[9][2] = rows[10][2] = TRUNCATED
    rows[77][1], rows[80][0] = TERMINATED, CUT
    fill(store, rows)
    clip = store.sample(4000, ClipSpec(4, block), np.random.default_rng(0), endings=0.25)
    reached = clip.terminated.numpy().any(1)
    assert reached[:1000].all()
    assert reached[1000:].mean() < 0.05
    steps_before = 77 - clip.observations[:1000, 0, 1].numpy()
    _, counts = np.unique(steps_before, return_counts=True)
    np.testing.assert_allclose(counts, 1000 / (4 * block), rtol=0.25)
    for other in (store.moved_to(1), _restored(store)):  # who appends next has nothing to do with what is there
        again = other.sample(4000, ClipSpec(4, block), np.random.default_rng(0), endings=0.25)
        assert torch.equal(again.observations, clip.observations)


def _restored(store: EpisodeStore) -> EpisodeStore:
    again = EpisodeStore(2, 2, num_envs=store.num_envs)
    again.restore([store.segment()], store.standing())
    return again


def test_recent_ends_are_met_more_often_than_old_ones_and_none_never() -> None:
    store = EpisodeStore(2, 2)
    fill(store, [[RUNNING], [TERMINATED]] * 100)
    clip = store.sample(8000, ClipSpec(1), np.random.default_rng(0), endings=0.5)
    episodes = clip.observations[:4000, 0, 0].numpy().astype(int)
    counts = np.bincount(episodes, minlength=100)
    assert len(counts) == 100
    assert counts[-12:].sum() == pytest.approx(4000 * 0.12 ** (1 / 3), rel=0.1)
    assert counts[-50:].sum() == pytest.approx(4000 * 0.5 ** (1 / 3), rel=0.1)
    assert counts.min() > 0


def test_without_terminal_states_all_clips_are_drawn_alike() -> None:
    store = EpisodeStore(2, 2)
    fill(store, [[RUNNING]] * 20 + [[TRUNCATED]])
    plain, asked = (store.sample(9, ClipSpec(3), np.random.default_rng(0), endings=share) for share in (0.0, 0.5))
    assert torch.equal(plain.observations, asked.observations)


def test_sampling_depends_on_the_generator_alone() -> None:
    store = EpisodeStore(2, 2)
    fill(store, [[RUNNING]] * 20)
    clips = [store.sample(8, ClipSpec(3), np.random.default_rng(seed)).actions for seed in (4, 4, 5)]
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])


def test_a_running_episode_is_sampled_up_to_its_latest_observation() -> None:
    store = EpisodeStore(2, 2)
    fill(store, [[RUNNING], [RUNNING]])
    clip = store.sample(32, ClipSpec(3), np.random.default_rng(0))
    assert check_clip(store, clip, ClipSpec(3), range(2)) == {0, 1}
    fill_more = transition([[0, 3]], rewards=np.array([3], np.float32))
    store.append(np.array([[0, 2]]), fill_more)
    clip = store.sample(32, ClipSpec(3), np.random.default_rng(0))
    assert check_clip(store, clip, ClipSpec(3), range(3)) == {0, 1, 2}
    assert not store.episode(0)["closed"]


def test_blocks_are_refused_while_none_is_complete_and_found_however_rare() -> None:
    store = EpisodeStore(2, 2, num_envs=3)
    fill(store, [[RUNNING] * 3] * 3)
    with pytest.raises(SettingsError, match="No block of 4 steps is complete in rows 0 to 9"):
        store.sample(5, ClipSpec(1, block=4), np.random.default_rng(0))
    rare = EpisodeStore(2, 2, num_envs=300)
    fill(rare, [[RUNNING] * 300, [CUT] + [RUNNING] * 299])
    clip = rare.sample(5, ClipSpec(1, block=3), np.random.default_rng(0))
    assert check_clip(rare, clip, ClipSpec(1, block=3), range(rare.rows)) == {0}


def test_impossible_samples_are_refused_with_numbers() -> None:
    store = EpisodeStore(2, 2)
    with pytest.raises(SettingsError, match="rows 0 to 0 of 0"):
        store.sample(1, ClipSpec(1), np.random.default_rng(0))
    fill(store, [[RUNNING]] * 4)
    for rows in (slice(4, None), slice(2, 2), slice(0, 4, 2)):
        with pytest.raises(SettingsError, match="No clip can start"):
            store.sample(1, ClipSpec(1), np.random.default_rng(0), rows)


@pytest.mark.filterwarnings("ignore:Actions reach 2")
def test_recorded_episodes_are_stored_like_lived_ones() -> None:
    lived, recorded = EpisodeStore(2, 2), EpisodeStore(2, 2)
    fill(lived, [[RUNNING], [TERMINATED], [RUNNING], [RUNNING], [TRUNCATED]])
    for index in range(2):
        parts = lived.episode(index)
        recorded.add_episode(
            parts["observations"], parts["actions"], parts["rewards"], bool(index == 0), truncated=bool(index)
        )
    for name in ("observations", "actions", "rewards", "terminated", "successors", "latest", "closed"):
        np.testing.assert_array_equal(recorded.arrays()[name], lived.arrays()[name], err_msg=name)


def test_actions_that_look_native_are_told_of() -> None:
    store = EpisodeStore(2, 2)
    with pytest.warns(UserWarning, match=r"Actions reach 2: agents know those in \[-1, 1\]"):
        store.add_episode(np.zeros((2, 2)), np.full((1, 2), -2.0), np.zeros(1), terminated=False, truncated=True)
    assert store.rows == 1


def test_nothing_misshapen_or_non_finite_is_stored() -> None:
    store = EpisodeStore(2, 2)
    good = np.zeros((2, 2)), np.zeros((1, 2)), np.zeros(1)
    for position in range(3):
        bad = [part.copy() for part in good]
        bad[position].flat[0] = np.nan
        with pytest.raises(EnvironmentFault, match="never stored"):
            store.add_episode(*bad, terminated=True, truncated=False)
    with pytest.raises(SettingsError, match="shapes"):
        store.add_episode(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(1), True, False)
    with pytest.raises(SettingsError, match="needs a step at least"):
        store.add_episode(np.zeros((1, 2)), np.zeros((0, 2)), np.zeros(0), terminated=False, truncated=True)
    with pytest.raises(SettingsError, match="one bool each"):
        store.add_episode(*good, terminated=np.zeros(1, bool), truncated=False)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="begin first"):
        store.append(np.zeros((1, 2)), transition([[0, 1]]))
    with pytest.raises(EnvironmentFault, match="never stored"):
        store.begin(np.array([[np.inf, 0]]))
    store.begin(np.zeros((1, 2)))
    for changes in ({"next_observations": np.array([[np.nan, 0]])}, {"rewards": np.array([np.inf])}):
        with pytest.raises(EnvironmentFault, match="never stored"):
            store.append(np.zeros((1, 2)), transition([[0, 1]], **changes))
    with pytest.raises(EnvironmentFault, match="never stored"):
        store.append(np.full((1, 2), np.nan), transition([[0, 1]]))
    assert (store.rows, store.episodes) == (0, 0)
    with pytest.raises(SettingsError, match="at least one"):
        EpisodeStore(0, 1)
    with pytest.raises(SettingsError, match="no episode 0"):
        store.episode(0)


def test_beginning_again_ends_the_open_episode_there_only() -> None:
    store = EpisodeStore(2, 2, num_envs=2)
    fill(store, [[RUNNING, RUNNING]])
    store.begin(np.zeros((2, 2)), np.array([True, False]))
    store.append(np.zeros((2, 2)), transition([[0, 1], [0, 2]]))
    assert store.arrays()["closed"].tolist() == [True, False, False]
    assert store.arrays()["episode_of_row"].tolist() == [0, 1, 2, 1]


def test_what_float32_cannot_hold_is_never_stored() -> None:
    store, usual = EpisodeStore(2, 1), recorded(4)
    usual.pop("states")
    for name in ("observations", "rewards"):
        large = {**usual, name: usual[name].astype(np.float64)}
        large[name][2] = 1e300
        with pytest.raises(EnvironmentFault, match=f"Non-finite {name}"):
            store.add_episode(**large, terminated=False, truncated=True)
    assert store.rows == 0


@settings(max_examples=60, deadline=None)
@given(scripts, st.integers(1, 3), st.integers(1, 3))
def test_starts_are_the_rows_from_which_every_step_was_taken(script: list[list[int]], length: int, block: int) -> None:
    store, spec = EpisodeStore(2, 2, len(script[0])), ClipSpec(length, block)
    fill(store, script)
    starts = store.starts(spec)
    rows = np.arange(store.rows)
    whole = store.cut(rows, ClipSpec(length * block)).valid.numpy().all(1) if len(rows) else np.zeros(0, bool)
    np.testing.assert_array_equal(starts, rows[whole])
    of_row = store.arrays()["episode_of_row"]
    some = np.arange(0, store.episodes, 2)
    np.testing.assert_array_equal(store.starts(spec, some), starts[np.isin(of_row[starts], some)])
    if len(starts):
        clip = store.cut(starts[::-1], spec)
        np.testing.assert_array_equal(clip.observations[:, 0], store.arrays()["observations"][starts[::-1]])
