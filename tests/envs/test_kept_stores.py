"""A store comes back from segments and folders as it was, whatever happened meanwhile, and states with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.core.clip import ClipSpec
from forethought.core.errors import CheckpointError, SettingsError, WriteError
from forethought.envs import EpisodeStore

from .filled import RUNNING, TERMINATED, fill, recorded, scripts, transition


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
