"""Recordings are added to, never repeated, and keep what they have whatever ends them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from forethought.core.errors import EnvironmentFault, RunFolderError, SettingsError, UnknownNameError, WriteError
from forethought.core.locks import FolderLock
from forethought.envs import EpisodeStore
from forethought.evaluations import collect as module
from forethought.evaluations.collect import CollectSettings, collect, read_source
from forethought.evaluations.settings import TrainSettings
from forethought.evaluations.training import train

WALKS = CollectSettings("two-room", "expert", 5, jobs=1, max_steps=6, env={"size": 32})


def episodes(folder: Path) -> list[dict[str, np.ndarray]]:
    store = EpisodeStore.open(folder)
    return [store.episode(index) for index in range(store.episodes)]


def same(one: Path, other: Path) -> bool:
    pairs = list(zip(episodes(one), episodes(other), strict=True))
    return all(np.array_equal(first[name], second[name]) for first, second in pairs for name in first)


def test_it_is_the_same_in_one_go_or_in_several_and_by_any_number_of_processes(tmp_path: Path) -> None:
    collect(WALKS, tmp_path / "once")
    for count in (2, 3):
        told = collect(WALKS.replace(episodes=count), tmp_path / "twice")
        assert (told.added, told.left_out, told.interrupted) == (count, 0, None)
    collect(WALKS.replace(jobs=2), tmp_path / "processes")
    assert told.episodes == 5
    assert told.rows == 30
    assert same(tmp_path / "once", tmp_path / "twice")
    assert same(tmp_path / "once", tmp_path / "processes")
    starts = [tuple(episode["states"][0]) for episode in episodes(tmp_path / "once")]
    assert len(set(starts)) == 5
    parts = read_source(tmp_path / "twice")["parts"]
    assert [(part["first_episode"], part["episodes"], part["policy"]) for part in parts] == [
        (0, 2, "expert"),
        (2, 3, "expert"),
    ]


def test_another_seed_records_others(tmp_path: Path) -> None:
    collect(WALKS, tmp_path / "one")
    collect(WALKS.replace(seed=1), tmp_path / "other")
    assert not same(tmp_path / "one", tmp_path / "other")


def test_progress_is_told_of_every_episode(tmp_path: Path) -> None:
    told = []
    collect(WALKS, tmp_path / "store", told.append)
    assert [progress.added for progress in told] == [1, 2, 3, 4, 5]
    assert told[-1].asked == 5


def test_a_trained_agent_records_too(tmp_path: Path) -> None:
    train(TrainSettings("Pendulum-v1", "random", steps=5, evaluations=1, episodes=1), tmp_path / "run")
    settings = CollectSettings("Pendulum-v1", str(tmp_path / "run"), 3, jobs=1, max_steps=4)
    assert collect(settings, tmp_path / "store").rows == 12
    assert episodes(tmp_path / "store")[0]["states"].shape == (5, 2)
    with pytest.raises(SettingsError, match="cannot act there"):
        collect(settings.replace(task="MountainCarContinuous-v0"), tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"task": "two-rom"}, UnknownNameError, "Did you mean 'two-room'"),
        ({"task": "Pendulum-v1", "env": {}}, UnknownNameError, "Pendulum-v1 has no expert"),
        ({"policy": "nobody"}, SettingsError, "neither 'random' nor 'expert'"),
        ({"env": {"sise": 32}}, EnvironmentFault, "sise"),
    ],
)
def test_what_is_misspelt_leaves_nothing_behind(tmp_path: Path, changes: dict, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        collect(WALKS.replace(**changes), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_store_takes_episodes_of_its_own_task_alone(tmp_path: Path) -> None:
    collect(WALKS, tmp_path)
    with pytest.raises(SettingsError, match=r"holds episodes of two-room with the arguments \{'size': 32\}"):
        collect(WALKS.replace(env={}), tmp_path)
    with pytest.raises(SettingsError, match="not of Pendulum-v1"):
        collect(CollectSettings("Pendulum-v1", jobs=1), tmp_path)
    assert EpisodeStore.open(tmp_path).episodes == 5
    hopper = CollectSettings("Hopper-v5", "random", 1, jobs=1, max_steps=3, env={"healthy_z_range": (0.6, 9.0)})
    for _ in range(2):  # though JSON makes a list of it
        collect(hopper, tmp_path / "hopper")


def test_a_folder_that_is_something_else_is_refused(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(RunFolderError, match="in use"):
        collect(WALKS, tmp_path)
    lock.release()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunFolderError, match="folder of a run"):
        collect(WALKS, tmp_path)
    store = EpisodeStore(2, 1, folder=tmp_path / "store")
    store.add_episode(np.zeros((2, 2)), np.zeros((1, 1)), np.zeros(1), False, True)
    store.flush()
    with pytest.raises(RunFolderError, match=r"has no source.json"):
        collect(WALKS, tmp_path / "store")


def test_a_signal_ends_it_and_what_was_recorded_stays(tmp_path: Path) -> None:
    def stop(progress: module.Collected) -> None:
        if progress.added == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    told = collect(WALKS.replace(episodes=100), tmp_path / "store", stop)
    assert told.interrupted == "SIGTERM"
    assert 2 <= told.added < 100
    assert EpisodeStore.open(tmp_path / "store").episodes == told.added
    collect(WALKS.replace(episodes=100 - told.added), tmp_path / "store")
    collect(WALKS.replace(episodes=100), tmp_path / "once")
    assert same(tmp_path / "store", tmp_path / "once")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_it_as_well(tmp_path: Path, number: signal.Signals) -> None:
    process = playing(tmp_path)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, (out, err)
    assert "died" not in err
    assert EpisodeStore.open(tmp_path / "store").episodes > 0


def test_players_end_with_whom_they_play_for(tmp_path: Path) -> None:
    process = playing(tmp_path)
    players = children(process.pid)
    assert players
    process.kill()
    process.communicate(timeout=60)
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in players) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in players if Path(f"/proc/{pid}").exists()]


def playing(folder: Path) -> subprocess.Popen[str]:
    """Return a command with two players in a process group of its own, once it has recorded something."""
    command = [sys.executable, "-m", "forethought", "collect", "two-room", "--policy", "random", "--episodes", "100000"]
    process = subprocess.Popen(
        [*command, "--jobs", "2", "--out", str(folder / "store")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError, ValueError):
            if json.loads((folder / "store" / "store.json").read_text())["episodes"]:
                return process
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate())


def children(parent: int) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children")
    if not listed.exists():
        pytest.skip("this system does not tell which processes a process has begun")
    return [int(pid) for pid in listed.read_text().split()]


def test_a_full_disk_ends_it_and_what_was_recorded_stays(
    tmp_path: Path, full_disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_EVERY_S", 0.0)
    settings = WALKS.replace(max_steps=150, episodes=50)
    collect(settings.replace(episodes=7), tmp_path)
    size = (tmp_path / "observations.bin").stat().st_size
    with full_disk(size + 1000), pytest.raises(WriteError, match=r"Could not write .*observations.bin"):
        collect(settings, tmp_path)
    kept = len(episodes(tmp_path))
    assert kept >= 7
    assert read_source(tmp_path)["drawn"] >= kept
    assert collect(settings.replace(episodes=1), tmp_path).episodes == kept + 1


def test_a_kill_between_two_files_repeats_no_episode(tmp_path: Path) -> None:
    collect(WALKS.replace(episodes=2), tmp_path)
    older = (tmp_path / "store.json").read_bytes()
    collect(WALKS.replace(episodes=1), tmp_path)
    (tmp_path / "store.json").write_bytes(older)  # what was played is written first
    assert collect(WALKS.replace(episodes=2), tmp_path).episodes == 4
    collect(WALKS, tmp_path / "whole")
    expected = [episodes(tmp_path / "whole")[number]["states"] for number in (0, 1, 3, 4)]
    for episode, states in zip(episodes(tmp_path), expected, strict=True):
        np.testing.assert_array_equal(episode["states"], states)


def test_what_was_played_is_written_before_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write, flush = module.write_json, EpisodeStore.flush
    monkeypatch.setattr(module, "write_json", lambda *given: (written.append("played"), write(*given)))
    monkeypatch.setattr(EpisodeStore, "flush", lambda store: (written.append("stored"), flush(store)))
    collect(WALKS.replace(episodes=1), tmp_path)
    assert written[-2:] == ["played", "stored"]


def test_episodes_that_are_not_finite_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module._play

    def with_faults(settings: CollectSettings, numbers: range):
        played = zip(numbers, real(settings, numbers), strict=True)
        return [None if number % 3 == 1 else episode for number, episode in played]

    collect(WALKS.replace(episodes=9), tmp_path / "whole")
    monkeypatch.setattr(module, "_play", with_faults)
    for count in (2, 4):
        told = collect(WALKS.replace(episodes=count), tmp_path / "store")
    assert (told.episodes, told.left_out) == (6, 2)
    expected = [episode for number, episode in enumerate(episodes(tmp_path / "whole")) if number % 3 != 1]
    for one, other in zip(episodes(tmp_path / "store"), expected, strict=True):
        np.testing.assert_array_equal(one["states"], other["states"])
    monkeypatch.setattr(module, "_play", lambda settings, numbers: [None] * len(numbers))
    with pytest.raises(EnvironmentFault, match="only 0 had no values"):
        collect(WALKS, tmp_path / "none")


def test_a_store_that_is_gone_is_told_from_one_of_unknown_origin(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"There is no folder .*gone, seen from"):
        read_source(tmp_path / "gone")
    with pytest.raises(RunFolderError, match="does not say what task"):
        read_source(tmp_path)
