"""The store keeps everything once, and its clips never cross an episode's end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.core.clip import Clip, ClipSpec
from forethought.core.errors import CheckpointError, EnvironmentFault, SettingsError, WriteError
from forethought.envs import EpisodeStore, Transition

RUNNING, TERMINATED, TRUNCATED, CUT = range(4)


def transition(after: Any, **changes: Any) -> Transition:
    """A plain step in every environment that led to ``after`` (B, 2)."""
    after = np.asarray(after, np.float32)
    no, yes, zero = np.zeros(len(after), bool), np.ones(len(after), bool), np.zeros(len(after), np.float32)
    plain = Transition(after, zero, no, no, yes, after, no, [{} for _ in after])
    return dataclasses.replace(plain, **changes)


def fill(store: EpisodeStore, script: list[list[int]], after_step: Callable[[], None] = lambda: None) -> None:
    """Step all environments together; ``script[t][b]`` says what happens to b. Observations are (episode, time).

    Actions are the environment and the time, rewards the time, so that every number tells where it belongs.
    """
    batch = store.num_envs
    episode, time, episodes = np.arange(batch), np.zeros(batch), batch
    store.begin(np.stack([episode, time], axis=1))
    for events in script:
        what = np.array(events)
        actions = np.stack([episode, time], axis=1)
        rewards = np.where(what == CUT, 0, time + 1).astype(np.float32)
        after = np.stack([episode, time + 1], axis=1).astype(np.float32)
        started = what != RUNNING
        for index in np.flatnonzero(started):
            episode[index], episodes = episodes, episodes + 1
        time = np.where(started, 0, time + 1)
        observations = np.stack([episode, time], axis=1).astype(np.float32)
        store.append(
            actions,
            transition(
                after,
                rewards=rewards,
                terminated=what == TERMINATED,
                truncated=what == TRUNCATED,
                valid=what != CUT,
                observations=observations,
                started=started,
            ),
        )
        after_step()


scripts = st.integers(1, 3).flatmap(
    lambda batch: st.lists(
        st.lists(
            st.sampled_from([RUNNING, RUNNING, RUNNING, TERMINATED, TRUNCATED, CUT]), min_size=batch, max_size=batch
        ),
        min_size=1,
        max_size=25,
    )
)


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


@settings(derandomize=True, database=None, deadline=None, max_examples=25)
@given(scripts, scripts, st.sets(st.integers(0, 24)))
def test_a_store_restored_from_segments_goes_on_exactly(
    script: list[list[int]], more: list[list[int]], cuts: set[int]
) -> None:
    store, restored = (EpisodeStore(2, 2, num_envs=len(script[0])) for _ in range(2))
    segments: list[dict[str, Any]] = []
    steps = iter(range(len(script)))

    def cut() -> None:
        if next(steps, 0) in cuts:
            segments.append(store.segment(sum(len(segment["rewards"]) for segment in segments)))

    fill(store, script, cut)
    cuts.add(0)
    cut()
    restored.restore(segments, store.standing())
    for name, values in store.arrays().items():
        np.testing.assert_array_equal(restored.arrays()[name], values, err_msg=name)
    for one in (store, restored):
        batch = one.num_envs
        for events in more:
            ended = np.array([(events * batch)[index] == TERMINATED for index in range(batch)])
            one.append(np.ones((batch, 2)), transition(np.ones((batch, 2)), terminated=ended, started=ended))
    for name, values in store.arrays().items():
        np.testing.assert_array_equal(restored.arrays()[name], values, err_msg=name)


@pytest.mark.parametrize(
    "damage",
    ["lacking", "lengths", "type", "dimensions", "negative", "skipped", "latest", "unfinished", "open_episode"],
)
def test_segments_that_do_not_fit_each_other_are_refused(damage: str) -> None:
    store = EpisodeStore(2, 2)
    fill(store, [[RUNNING], [TERMINATED], [RUNNING]])
    segment, standing = store.segment(), store.standing()
    if damage == "lacking":
        del segment["latest"]
    elif damage == "lengths":
        segment["rewards"] = segment["rewards"][:2]
    elif damage == "type":
        segment["actions"] = segment["actions"].astype(np.float64)
    elif damage == "dimensions":
        segment["observations"] = np.zeros((3, 5), np.float32)
    elif damage in ("negative", "skipped"):
        segment["episode_of_row"][:] = -1 if damage == "negative" else [0, 0, 2]
    elif damage == "latest":
        segment["latest"] = segment["latest"][:1]
    else:
        standing[damage][0] = 1000
    with pytest.raises(CheckpointError, match=r"lacks latest|does not fit|inconsistent"):
        EpisodeStore(2, 2).restore([segment], standing)


def test_only_an_empty_store_is_restored() -> None:
    store = EpisodeStore(2, 2)
    fill(store, [[RUNNING]])
    with pytest.raises(SettingsError, match="has 1 rows"):
        store.restore([store.segment()], store.standing())


def test_a_store_grows_without_losing_anything(tmp_path: Path) -> None:
    stores = [EpisodeStore(2, 2, num_envs=2), EpisodeStore(2, 2, num_envs=2, folder=tmp_path / "store")]
    for store in stores:
        fill(store, [[RUNNING, TERMINATED if step % 7 == 0 else RUNNING] for step in range(3000)])
    assert stores[0].rows == 6000
    for name, values in stores[0].arrays().items():
        np.testing.assert_array_equal(stores[1].arrays()[name], values, err_msg=name)
    clips = [store.sample(64, ClipSpec(4), np.random.default_rng(0)) for store in stores]
    assert torch.equal(clips[0].observations, clips[1].observations)


def test_a_folder_is_taken_up_as_of_its_last_flush(tmp_path: Path) -> None:
    store = EpisodeStore(2, 2, num_envs=2, folder=tmp_path)
    fill(store, [[RUNNING, TERMINATED], [RUNNING, RUNNING]])
    store.flush()
    before = [store.episode(index) for index in range(store.episodes)]
    for step in range(2, 5):  # goes on, and is never flushed again
        store.append(np.zeros((2, 2)), transition([[0, step + 1], [2, step]], truncated=np.array([step == 4, False])))
    opened = EpisodeStore.open(tmp_path)
    assert (opened.rows, opened.episodes) == (4, 3)
    assert opened.arrays()["closed"].tolist() == [False, True, False]
    for index, episode in enumerate(before):
        for name in episode:
            np.testing.assert_array_equal(opened.episode(index)[name], episode[name])
    opened.begin(np.zeros((1, 2)))
    opened.append(np.zeros((1, 2)), transition([[9, 1]]))
    assert opened.arrays()["episode_of_row"].tolist() == [0, 1, 0, 2, 3]


def test_an_episode_after_a_crash_is_open_whatever_had_the_number_before(tmp_path: Path) -> None:
    store = EpisodeStore(2, 2, folder=tmp_path)
    fill(store, [[RUNNING]])
    store.flush()
    fill(store, [[TERMINATED], [TERMINATED]])
    opened = EpisodeStore.open(tmp_path)
    opened.begin(np.zeros((1, 2)))
    opened.append(np.zeros((1, 2)), transition([[9, 1]]))
    assert opened.arrays()["closed"].tolist() == [True, False]


def test_what_float32_cannot_hold_is_never_stored() -> None:
    store, usual = EpisodeStore(2, 1), recorded(4)
    usual.pop("states")
    for name in ("observations", "rewards"):
        large = {**usual, name: usual[name].astype(np.float64)}
        large[name][2] = 1e300
        with pytest.raises(EnvironmentFault, match=f"Non-finite {name}"):
            store.add_episode(**large, terminated=False, truncated=True)
    assert store.rows == 0


def test_a_damaged_or_foreign_folder_is_refused(tmp_path: Path) -> None:
    store = EpisodeStore(2, 2, folder=tmp_path)
    fill(store, [[RUNNING]] * 2000)
    store.flush()
    with pytest.raises(CheckpointError, match=r"'observation_shape': \[2\]"):
        EpisodeStore(3, 2, folder=tmp_path)
    header = json.loads((tmp_path / "store.json").read_text())
    wrong = [{"format": 1}, {"rows": -1}, {"observation_shape": []}, {"observation_dtype": "object"}]
    wrong += [{"state_dims": -1}, {"state_dims": None}]
    for text in ("{", "[]", *(json.dumps({**header, **change}) for change in wrong)):
        (tmp_path / "store.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"damaged|format"):
            EpisodeStore.open(tmp_path)
    (tmp_path / "store.json").write_text(json.dumps(header))
    (tmp_path / "rewards.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"rewards.bin is damaged.*8,000 bytes"):
        EpisodeStore.open(tmp_path)
    with pytest.raises(CheckpointError, match="holds no episode store"):
        EpisodeStore.open(tmp_path / "elsewhere")


def recorded(steps: int, seed: int = 0) -> dict[str, Any]:
    """An episode with states, for a store of observations (2,), actions (1,) and states (3,)."""
    rng = np.random.default_rng(seed)
    shapes = {"observations": (steps + 1, 2), "actions": (steps, 1), "rewards": (steps,), "states": (steps + 1, 3)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("in_folder", [False, True])
def test_states_are_kept_beside_what_was_observed_and_never_learned_from(tmp_path: Path, in_folder: bool) -> None:
    store = EpisodeStore(2, 1, folder=tmp_path if in_folder else None, state_dims=3)
    episodes = [recorded(steps, steps) for steps in (1, 5, 3)]
    for episode in episodes:
        store.add_episode(**episode, terminated=False, truncated=True)
    store.flush()
    stores = [store, store.moved_to(4), *([EpisodeStore.open(tmp_path)] if in_folder else [])]
    for same in stores:
        for index, episode in enumerate(episodes):
            np.testing.assert_array_equal(same.episode(index)["states"], episode["states"])
    clip = store.sample(3, ClipSpec(2), np.random.default_rng(0))
    assert set(clip.tensors()) == {"observations", "actions", "rewards", "terminated", "valid"}


def test_a_store_with_states_takes_whole_episodes_with_them_alone() -> None:
    with_states, without = EpisodeStore(2, 1, state_dims=3), EpisodeStore(2, 1)
    whole = recorded(4)
    states = whole.pop("states")
    said = r"needs observations, actions, rewards, states of shapes .*\(5, [03]\)"
    for store, shown in ((with_states, None), (with_states, states[1:]), (without, states)):
        with pytest.raises(SettingsError, match=said):
            store.add_episode(**whole, terminated=False, truncated=True, states=shown)
    with_states.begin(np.zeros((1, 2)))
    with pytest.raises(SettingsError, match="whole episodes"):
        with_states.append(np.zeros((1, 1)), transition([[0, 1]]))


def test_a_store_that_is_opened_to_be_read_stays_as_it_is(tmp_path: Path) -> None:
    store = EpisodeStore(2, 1, folder=tmp_path)
    store.begin(np.zeros((1, 2)))
    store.append(np.zeros((1, 1)), transition([[0, 1]]))
    store.flush()
    store.append(np.zeros((1, 1)), transition([[0, 2]]))  # not flushed: whoever opens it has to cut the link to it
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    opened = EpisodeStore.open(tmp_path, read_only=True)
    np.testing.assert_array_equal(opened.episode(0)["observations"], [[0, 0], [0, 1]])
    opened.sample(8, ClipSpec(2), np.random.default_rng(0))
    opened.flush()
    with pytest.raises(SettingsError, match="read only"):
        opened.add_episode(np.zeros((2, 2)), np.zeros((1, 1)), np.zeros(1), terminated=False, truncated=True)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before
    EpisodeStore(2, 1, folder=tmp_path / "empty").flush()
    assert EpisodeStore.open(tmp_path / "empty", read_only=True).rows == 0


def test_what_a_full_disk_refuses_leaves_the_store_as_it_was(tmp_path: Path, full_disk: Any) -> None:
    store = EpisodeStore(2, 1, folder=tmp_path, state_dims=3)
    store.add_episode(**recorded(4), terminated=False, truncated=True)
    sizes = [path.stat().st_size for path in tmp_path.glob("*.bin")]
    long = recorded(max(sizes) // 8)
    with full_disk(max(sizes)), pytest.raises(WriteError, match=r"Could not write .*\.bin"):
        store.add_episode(**long, terminated=False, truncated=True)
    rows, episodes = store.rows, store.episodes
    store.flush()
    opened = EpisodeStore.open(tmp_path)
    assert (opened.rows, opened.episodes) == (rows, episodes)
    assert opened.episode(0)["actions"].shape == (4, 1)
    opened.add_episode(**recorded(7), terminated=False, truncated=True)
    assert opened.episode(episodes)["observations"].shape == (8, 2)


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
