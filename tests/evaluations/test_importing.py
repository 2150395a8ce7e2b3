"""Files in LeWorldModel's layout fill a store: whole episodes, once each, and nothing that is not sound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forethought.core.errors import (
    CheckpointError,
    FaultyEpisodeError,
    SettingsError,
    UnsupportedSpaceError,
)
from forethought.evaluations.importing import ImportSettings, import_episodes

from .imported import LENGTHS, File, h5py, stored


def test_every_episode_arrives_with_what_was_done_and_what_came_of_it(file, bring, tmp_path):
    told = bring(states=("pos_agent", "proprio"))
    assert (told.added, told.left_out, told.rows) == (4, 0, 15)
    for number, episode in enumerate(stored(tmp_path / "out")):
        np.testing.assert_array_equal(episode["observations"], file.of("pixels", number))
        np.testing.assert_array_equal(episode["actions"], file.of("action", number)[:-1])
        np.testing.assert_array_equal(episode["rewards"], file.of("reward", number)[1:].astype(np.float32))
        np.testing.assert_array_equal(
            episode["states"], np.hstack([file.of("pos_agent", number), file.of("proprio", number)])
        )
        assert not episode["terminated"][:-1].any()
        assert episode["terminated"][-1] == episode["closed"] == (number < 3)


def test_vectors_are_put_together_and_rewards_and_endings_may_be_missing(file, bring, tmp_path):
    file.columns |= {"reward": None, "terminated": None}
    file.write()
    bring(observations=("proprio", "pos_agent"))
    for number, episode in enumerate(stored(tmp_path / "out")):
        seen = np.hstack([file.of("proprio", number), file.of("pos_agent", number)]).astype(np.float32)
        np.testing.assert_array_equal(episode["observations"], seen)
        assert not episode["rewards"].any()
        assert not episode["terminated"].any()


def test_episodes_are_found_by_their_numbers_too(file, bring, tmp_path):
    bring()
    index = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    other = File(tmp_path / "numbered.h5", ep_len=None, ep_offset=None, episode_idx=index)
    import_episodes(ImportSettings(str(other.path)), tmp_path / "other")
    for one, two in zip(stored(tmp_path / "out"), stored(tmp_path / "other"), strict=True):
        np.testing.assert_array_equal(one["observations"], two["observations"])
    mixed = File(tmp_path / "mixed.h5", ep_len=None, ep_offset=None, ep_idx=np.roll(index, 1))
    with pytest.raises(CheckpointError, match="is not in order"):
        bring(mixed.path)


@pytest.mark.parametrize(
    "recorded",
    [
        lambda pixels: np.moveaxis(pixels, -1, 1),
        lambda pixels: (pixels / 255.0).astype(np.float32),
        lambda pixels: pixels.astype(np.float64),
        lambda pixels: np.moveaxis(pixels, -1, 1).astype(np.int64),
    ],
    ids=["channels first", "from 0 to 1", "floats to 255", "integers, channels first"],
)
def test_images_are_the_same_however_they_were_recorded(file, bring, tmp_path, recorded):
    pixels = file.columns["pixels"]
    file.columns["pixels"] = recorded(pixels)
    file.write()
    bring()
    np.testing.assert_array_equal(stored(tmp_path / "out")[0]["observations"], pixels[:5])


def test_grey_images_get_three_equal_channels(file, bring, tmp_path):
    grey = file.columns["pixels"][..., 0]
    for shaped in (grey, grey[..., None]):
        file.columns["pixels"] = shaped
        file.write()
        import_episodes(ImportSettings(str(file.path)), tmp_path / str(shaped.ndim))
        seen = stored(tmp_path / str(shaped.ndim))[1]["observations"]
        np.testing.assert_array_equal(seen, np.repeat(grey[5:8, ..., None], 3, axis=-1))


def test_images_are_brought_to_size_by_averaging_areas(file, bring, tmp_path):
    file.columns["pixels"] = np.zeros((sum(LENGTHS), 24, 24, 3), np.uint8)
    file.columns["pixels"][:, ::3, ::3] = [90, 180, 9]  # one pixel of nine
    file.write()
    bring(size=8)
    expected = np.broadcast_to([10, 20, 1], (4, 8, 8, 3))
    np.testing.assert_array_equal(stored(tmp_path / "out")[3]["observations"], expected)


@pytest.mark.parametrize(
    ("pixels", "error", "said"),
    [
        (lambda pixels: pixels[..., [0, 1, 2, 0]], UnsupportedSpaceError, r"shape \(8, 8, 4\) are not understood"),
        (lambda pixels: pixels.astype(np.float32) - 128, FaultyEpisodeError, "image values from -128"),
        (lambda pixels: pixels.astype(np.int32) + 200, FaultyEpisodeError, r"to 4\d\d, where those of the first"),
    ],
    ids=["transparency", "centred", "too bright"],
)
def test_images_that_are_not_understood_are_refused(file, bring, pixels, error, said):
    file.columns["pixels"] = pixels(file.columns["pixels"])
    file.write()
    with pytest.raises(error, match=said):
        bring()


def test_a_range_that_changes_on_the_way_is_told(file, bring):
    file.columns["pixels"] = file.columns["pixels"] / 255.0
    file.columns["pixels"][9] *= 255
    file.write()
    with pytest.raises(FaultyEpisodeError, match=r"Episode 2 of .*lie in 0 to 1\."):
        bring()


@pytest.mark.parametrize(
    ("column", "row", "said"),
    [("action", 9, "Episode 2 of .*row 1: the action"), ("reward", 7, "Episode 1 of .*step 1: the reward")],
)
def test_what_is_not_finite_is_named_and_what_came_before_stays(file, bring, tmp_path, column, row, said):
    file.columns[column][row] = np.nan
    file.write()
    with pytest.raises(FaultyEpisodeError, match=said + r" is not finite\. .*--leave-out-faulty"):
        bring()
    before = len(stored(tmp_path / "out"))
    assert before == (2 if column == "action" else 1)
    told = bring(leave_out_faulty=True)
    assert (told.added, told.left_out, told.episodes) == (3 - before, 1, 3)
    assert bring(leave_out_faulty=True).asked == 0


def test_vectors_and_states_that_are_not_finite_are_refused(file, bring):
    file.columns["proprio"][6, 2] = np.inf
    file.write()
    with pytest.raises(FaultyEpisodeError, match=r"Episode 1 of .*row 1: the observation is not finite"):
        bring(observations=("proprio",))
    with pytest.raises(FaultyEpisodeError, match=r"Episode 1 of .*row 1: the state is not finite"):
        import_episodes(ImportSettings(str(file.path), states=("proprio",)), file.path.parent / "other")


def test_actions_beyond_their_bounds_are_refused_before_anything_is_imported(file, bring, tmp_path):
    file.columns["action"] *= 3
    file.write()
    with pytest.raises(SettingsError, match=r"reach from -2\.\d+ to 2\.\d+, beyond their bounds -1 and 1"):
        bring()
    assert not (tmp_path / "out").exists()
    bring(action_bounds=(-4, 4))
    np.testing.assert_allclose(stored(tmp_path / "out")[0]["actions"], file.of("action", 0)[:-1] / 4, rtol=1e-6)
    import_episodes(ImportSettings(str(file.path), clip_actions=True), tmp_path / "clipped")
    np.testing.assert_allclose(
        stored(tmp_path / "clipped")[0]["actions"], np.clip(file.of("action", 0)[:-1], -1, 1), rtol=1e-6
    )


def test_choices_become_one_hots(file, bring, tmp_path):
    file.columns["action"] = np.arange(19) % 3
    file.write()
    with pytest.raises(SettingsError, match="--action-choices"):
        bring()
    with pytest.raises(SettingsError, match=r"Episode 0 of .*row 2: the action \[2\] is not one of Discrete\(2\)"):
        import_episodes(ImportSettings(str(file.path), action_choices=2), tmp_path / "two")
    bring(action_choices=3)
    np.testing.assert_array_equal(stored(tmp_path / "out")[0]["actions"], np.eye(3)[[0, 1, 2, 0]])


def test_a_task_gives_the_bounds_of_its_actions_and_is_remembered(file, bring, tmp_path):
    file.columns |= {"action": file.columns["action"][:, :1] * 2, "observation": file.columns["pos_agent"]}
    file.write()
    with pytest.raises(SettingsError, match=r"Pendulum-v1 shows observations of the shape \(3,\), .*\(2,\)"):
        bring(observations=("observation",), task="Pendulum-v1")
    file.columns["observation"] = file.columns["proprio"][:, :3]
    file.write()
    bring(observations=("observation",), task="Pendulum-v1", env={"g": 9.0})
    np.testing.assert_allclose(stored(tmp_path / "out")[0]["actions"], file.of("action", 0)[:-1] / 2, rtol=1e-6)
    source = json.loads((tmp_path / "out" / "source.json").read_text())
    assert (source["task"], source["env"]) == ("Pendulum-v1", {"g": 9.0})
    with pytest.raises(SettingsError, match=r"have shape \(1,\), which Box.*\(6,\)"):
        import_episodes(ImportSettings(str(file.path), task="HalfCheetah-v5"), tmp_path / "other")


def test_episodes_without_a_step_are_left_out_and_counted(tmp_path):
    source = File(tmp_path / "short.h5", (3, 1, 4, 1))
    told = import_episodes(ImportSettings(str(source.path)), tmp_path / "out")
    assert (told.added, told.left_out, told.rows) == (2, 1, 5)
    with pytest.raises(SettingsError, match="no episode of two observations"):
        import_episodes(ImportSettings(str(File(tmp_path / "none.h5", (1, 1)).path)), tmp_path / "none")


def test_only_some_rows_of_a_long_episode_are_read_at_a_time(tmp_path, monkeypatch):
    source = File(tmp_path / "long.h5", (200,))
    read: list[int] = []
    from forethought.envs.source_hdf5 import HDF5Source

    real = HDF5Source._slice
    monkeypatch.setattr(
        HDF5Source, "_slice", lambda self, *given: (read.append(given[2] - given[1]), real(self, *given))[1]
    )
    import_episodes(ImportSettings(str(source.path), clip_actions=True), tmp_path / "out")
    assert sorted(read)[-2:] == [199, 199]  # actions and rewards
    assert sorted(read)[-3] == 64
    np.testing.assert_array_equal(stored(tmp_path / "out")[0]["observations"], source.of("pixels", 0))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"observations": ("proprioo",)}, r"Did you mean 'proprio'"),
        ({"observations": ("pixels", "proprio")}, "Images are understood alone, and pixels is one"),
        ({"observations": ("proprio",), "size": 32}, "--size is for images"),
        ({"states": ("note",)}, "has no column 'note'"),
        ({"action_bounds": (1, -1)}, "must lie below"),
        ({"action_bounds": (-1, 1), "action_choices": 2}, "not both"),
    ],
)
def test_settings_that_do_not_fit_leave_nothing_behind(bring, tmp_path, settings, said):
    with pytest.raises(SettingsError, match=said):
        bring(**settings)
    assert not (tmp_path / "out").exists()


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def _locked(path: Path) -> Any:
    code = f"import h5py, time; file = h5py.File({str(path)!r}, 'a'); print(flush=True); time.sleep(60)"
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    writer.stdout.readline()
    return writer


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (_truncated, CheckpointError, "is truncated"),
        (_locked, CheckpointError, "is locked: another process is writing it"),
        (lambda path: path.write_bytes(b"no file of theirs"), CheckpointError, "does not begin as an HDF5 file does"),
        (lambda path: path.unlink(), SettingsError, "There is no .*walks.h5"),
    ],
    ids=["truncated", "locked", "something else", "gone"],
)
def test_a_file_that_cannot_be_opened_is_told(file, bring, spoil, error, said):
    writer = spoil(file.path)
    try:
        with pytest.raises(error, match=said):
            bring()
    finally:
        if isinstance(writer, subprocess.Popen):
            writer.kill()
            writer.communicate()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"action": None}, r"has no column 'action'.*pos_agent \(2,\) float64"),
        ({"ep_len": None}, "says where no episode begins"),
        ({"ep_len": np.array([5, 3])}, "do not fit each other"),
        ({"action": np.zeros((10, 2), np.float32)}, "19 rows, and only 10 actions"),
    ],
)
def test_files_of_another_layout_are_told(tmp_path, columns, said):
    other = File(tmp_path / "other.h5", **columns)
    with pytest.raises(CheckpointError, match=said):
        import_episodes(ImportSettings(str(other.path)), tmp_path / "out")


def test_a_damaged_episode_is_named(file, bring):
    file.columns["pixels"][:] = 7  # what cannot be compressed has no checks either
    file.write()
    with h5py.File(file.path) as opened:
        chunk = opened["pixels"].id.get_chunk_info(opened["pixels"].id.get_num_chunks() - 1)
    with open(file.path, "r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * chunk.size)
    with pytest.raises(FaultyEpisodeError, match=r"Episode \d of .*walks.h5 cannot be read"):
        bring()


def test_folders_and_packed_files_are_understood(file, tmp_path):
    folder = tmp_path / "download"
    folder.mkdir()
    with pytest.raises(SettingsError, match="holds nothing that can be imported"):
        import_episodes(ImportSettings(str(folder)), tmp_path / "out")
    file.path.rename(folder / "walks.h5")
    import_episodes(ImportSettings(str(folder)), tmp_path / "out")
    (folder / "others.hdf5").write_bytes(b"")
    with pytest.raises(SettingsError, match=r"holds several: choose one of .*others.hdf5"):
        import_episodes(ImportSettings(str(folder)), tmp_path / "out")
    (tmp_path / "walks.h5.zst").write_bytes(b"")
    with pytest.raises(SettingsError, match="is packed; unpack it first"):
        import_episodes(ImportSettings(str(tmp_path / "walks.h5.zst")), tmp_path / "out")
    with pytest.raises(SettingsError, match="is a store already"):
        import_episodes(ImportSettings(str(tmp_path / "out")), tmp_path / "other")
    with pytest.raises(SettingsError, match="no HDF5 file"):
        import_episodes(ImportSettings(__file__), tmp_path / "other")
