"""Importing goes on where it was stopped, repeats nothing, and mixes nothing."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from forethought.core.errors import (
    RunFolderError,
    SettingsError,
    WriteError,
)
from forethought.core.locks import FolderLock
from forethought.evaluations import importing as module
from forethought.evaluations.collect import Collected, CollectSettings, collect
from forethought.evaluations.importing import ImportSettings, import_episodes

from .imported import File, h5py, stored


def test_importing_again_goes_on_and_repeats_nothing(file, bring, tmp_path):
    assert bring(episodes=1).added == 1
    assert bring(episodes=2).added == 2
    told: list[Collected] = []
    assert bring(on_progress=told.append).episodes == 4
    assert [(progress.added, progress.asked) for progress in told] == [(1, 1)]
    assert bring().added == 0
    import_episodes(ImportSettings(str(file.path)), tmp_path / "once")
    for one, other in zip(stored(tmp_path / "out"), stored(tmp_path / "once"), strict=True):
        np.testing.assert_array_equal(one["observations"], other["observations"])


def test_another_source_is_added_behind_and_both_go_on(file, bring, tmp_path):
    other = File(tmp_path / "more.h5", (4, 6))
    bring(episodes=2)
    assert bring(other.path, episodes=1).episodes == 3
    assert bring().episodes == 5
    assert bring(other.path).episodes == 6
    lengths = [len(episode["actions"]) for episode in stored(tmp_path / "out")]
    assert lengths == [4, 2, 3, 6, 3, 5]
    assert bring().asked == bring(other.path).asked == 0


def test_what_the_store_holds_counts_and_not_what_was_written_about_it(file, bring, tmp_path):
    bring(episodes=1)
    kept = {name: (tmp_path / "out" / name).read_bytes() for name in ("source.json", "store.json")}
    bring(episodes=2)
    (tmp_path / "out" / "store.json").write_bytes(kept["store.json"])  # a kill after the first of the two files
    assert bring(episodes=1).episodes == 2
    bring()
    expected = [file.of("pixels", number) for number in range(4)]
    for episode, pixels in zip(stored(tmp_path / "out"), expected, strict=True):
        np.testing.assert_array_equal(episode["observations"], pixels)


def test_a_signal_ends_it_after_an_episode(file, bring, tmp_path):
    def stop(progress: Collected) -> None:
        if progress.added == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    told = bring(on_progress=stop)
    assert (told.interrupted, told.added) == ("SIGTERM", 2)
    assert len(stored(tmp_path / "out")) == 2
    assert bring().episodes == 4


def test_a_full_disk_ends_it_and_what_was_imported_stays(tmp_path, full_disk, monkeypatch):
    monkeypatch.setattr(module, "FLUSH_EVERY_S", 0.0)
    long = File(tmp_path / "long.h5", (150,) * 12)
    settings = ImportSettings(str(long.path))
    import_episodes(settings.replace(episodes=7), tmp_path / "out")
    size = (tmp_path / "out" / "observations.bin").stat().st_size
    with full_disk(size + 1000), pytest.raises(WriteError, match=r"Could not write .*observations.bin"):
        import_episodes(settings, tmp_path / "out")
    kept = len(stored(tmp_path / "out"))
    assert 7 <= kept < 12
    import_episodes(settings, tmp_path / "out")
    for number, episode in enumerate(stored(tmp_path / "out")):
        np.testing.assert_array_equal(episode["observations"], long.of("pixels", number))


def test_what_the_disk_cannot_hold_is_not_begun(tmp_path):
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:  # never written, so that it takes no room
        file.create_dataset("pixels", (10**9, 64, 64, 3), np.uint8, chunks=(1, 64, 64, 3))
        file.create_dataset("action", (10**9, 2), np.float32, chunks=(1000, 2))
        file["ep_len"], file["ep_offset"] = [10**9], [0]
    with pytest.raises(WriteError, match=r"take 12,296\.0 GB.*--episodes"):
        import_episodes(ImportSettings(str(path)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"states": ("pos_agent",)}, r"imported with states \[\], not \['pos_agent'\]"),
        ({"observations": ("proprio",)}, r"observations \['pixels'\], not \['proprio'\]"),
        ({"size": 16}, r"of the sizes \(\(8, 8, 3\), 2, 0\), not \(\(16, 16, 3\), 2, 0\)"),
        ({"action_bounds": (-2, 2)}, "imported with actions"),
    ],
)
def test_a_store_takes_episodes_of_its_own_kind_alone(bring, changes, said):
    bring(episodes=1)
    with pytest.raises(SettingsError, match=said):
        bring(**changes)


def test_a_source_that_has_changed_is_not_gone_on_with(file, bring):
    bring(episodes=2)
    File(file.path, (6, 3, 7, 4))
    with pytest.raises(SettingsError, match="has changed since"):
        bring()


def test_collected_and_imported_episodes_are_not_mixed(bring, tmp_path):
    walks = CollectSettings("two-room", "random", 1, jobs=1, max_steps=2, env={"size": 32})
    bring(episodes=1)
    with pytest.raises(SettingsError, match="episodes that were imported"):
        collect(walks, tmp_path / "out")
    collect(walks, tmp_path / "collected")
    with pytest.raises(SettingsError, match="episodes that were collected"):
        import_episodes(ImportSettings(str(tmp_path / "walks.h5")), tmp_path / "collected")


def test_a_folder_in_use_is_refused(bring, tmp_path):
    (tmp_path / "out").mkdir()
    lock = FolderLock(tmp_path / "out")
    with pytest.raises(RunFolderError, match="in use"):
        bring()
    lock.release()
