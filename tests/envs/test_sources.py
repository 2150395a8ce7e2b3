"""Minari datasets and Lance tables are read as they were written, and say what is wrong with them."""

from __future__ import annotations

import io
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from forethought.core.errors import CheckpointError, FaultyEpisodeError, MissingExtraError, SettingsError
from forethought.envs.source_reader import SourceReader
from forethought.envs.sources import Source, open_source

CIRCLE = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
"""The space of the actions that stable-worldmodel's tables hold."""


def reader_of(source: Source, space: gym.Space[Any] | None = None, **settings: Any) -> SourceReader:
    given = {"observations": (), "states": (), "size": None, **settings}
    return SourceReader(source, action_space=space or source.action_space or CIRCLE, **given)


OBSERVED = gym.spaces.Dict(
    {
        "where": gym.spaces.Box(-np.inf, np.inf, (2,), np.float64),
        "inner": gym.spaces.Dict({"turn": gym.spaces.Discrete(4)}),
        "image": gym.spaces.Box(0, 255, (6, 6, 3), np.uint8),
        "words": gym.spaces.Text(5),
    }
)
DONE = gym.spaces.Discrete(3, start=-1)
STEPS = 4


@pytest.fixture
def walks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Minari dataset of two walks, which sum their actions up: one to its goal, and one that is cut."""
    minari = pytest.importorskip("minari", reason="needs the extra minari")
    pytest.importorskip("h5py", reason="needs the extra minari")
    from minari.data_collector.episode_buffer import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    walks = []
    for reached, actions in ((True, [1, -1, 1, 1]), (False, [0, 0, 0, -1])):
        at = np.cumsum([0, *actions])
        observed = {
            "where": [np.array([place, 0.5]) for place in at],
            "inner": {"turn": [step % 4 for step in range(STEPS + 1)]},
            "image": [np.full((6, 6, 3), step, np.uint8) for step in range(STEPS + 1)],
            "words": ["go"] * (STEPS + 1),
        }
        ends = {"terminations": [False] * 3 + [reached], "truncations": [False] * 3 + [not reached]}
        infos = {"truth": {"at": at[:, None]}, "per_step": np.zeros(STEPS), "note": ["none"] * (STEPS + 1)}
        rewards = at[1:].astype(float).tolist()
        walks.append(EpisodeBuffer(observations=observed, actions=actions, rewards=rewards, infos=infos, **ends))
    env = gym.make("CartPole-v1")
    with warnings.catch_warnings(action="ignore"):  # what a dataset for others ought to say
        spaces = {"action_space": DONE, "observation_space": OBSERVED}
        minari.create_dataset_from_buffers("walks/short-v0", walks, env, **spaces)
    env.close()
    return tmp_path / "minari" / "walks" / "short-v0"


def test_minari_tells_spaces_task_and_columns(walks):
    source = open_source("walks/short-v0")
    assert source.kind == "minari"
    assert source.path == walks / "data"
    assert source.lengths.tolist() == [5, 5]
    assert source.task == "CartPole-v1"
    assert source.action_space == DONE
    assert set(source.columns) == {"where", "inner/turn", "image", "infos/truth/at"}
    for place in (walks, walks / "data", walks / "data" / "main_data.hdf5"):
        assert open_source(place).path == walks / "data"


def test_minari_episodes_arrive_with_what_was_done_and_what_came_of_it(walks):
    source = open_source(walks)
    reader = reader_of(source, observations=("where", "inner/turn"), states=("infos/truth/at", "where"))
    assert (reader.observation_shape, reader.state_dims) == ((6,), 3)
    reached, cut = reader.read(0), reader.read(1)
    at = [0, 1, 0, 1, 2]
    np.testing.assert_array_equal(reached.observations[:, :2], np.transpose([at, [0.5] * 5]))
    np.testing.assert_array_equal(reached.observations[:, 2:], np.eye(4)[[0, 1, 2, 3, 0]])
    np.testing.assert_array_equal(reached.actions, np.eye(3)[[2, 0, 2, 2]])
    np.testing.assert_array_equal(reached.rewards, at[1:])
    np.testing.assert_array_equal(reached.states, np.transpose([at, at, [0.5] * 5]))
    assert [(episode.terminated, episode.truncated) for episode in (reached, cut)] == [(True, False), (False, True)]


def test_minari_images_are_chosen_alone(walks):
    source = open_source(walks)
    with pytest.raises(SettingsError, match="Images are understood alone, and image is one"):
        reader_of(source)
    episode = reader_of(source, observations=("image",), size=3).read(1)
    np.testing.assert_array_equal(episode.observations, np.full((5, 3, 3, 3), 0) + np.arange(5)[:, None, None, None])


def test_minari_never_builds_the_environment_that_a_dataset_names(walks):
    path = walks / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["observation_space"]
    path.write_text(json.dumps(metadata))
    with pytest.raises(CheckpointError, match="does not say its spaces"):
        open_source(walks)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: (data / "metadata.json").write_text("{"), "metadata.json is damaged"),
        (lambda data: (data / "main_data.hdf5").write_bytes(b""), "is damaged"),
        (lambda data: (data / "main_data.hdf5").unlink(), "cannot be read by Minari"),
    ],
)
def test_minari_datasets_that_are_damaged_are_told(walks, spoil, said):
    spoil(walks / "data")
    with pytest.raises(CheckpointError, match=said):
        open_source(walks)


def test_a_damaged_minari_episode_is_named(walks):
    h5py = pytest.importorskip("h5py")
    with h5py.File(walks / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/observations/where"]
        file["episode_1/observations/where"] = np.zeros((3, 2))
    reader = reader_of(open_source(walks), observations=("where",))
    reader.read(0)
    with pytest.raises(FaultyEpisodeError, match=r"Episode 1 of .* cannot be read: where has 3 rows for 4 steps"):
        reader.read(1)
    with h5py.File(walks / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        file["episode_0/rewards"] = np.zeros(2)
    with pytest.raises(FaultyEpisodeError, match="has 4 actions and 2 rewards for 4 steps"):
        reader_of(open_source(walks), observations=("where",)).read(0)


def test_a_minari_dataset_that_was_not_fetched_names_the_command():
    with pytest.raises(SettingsError, match="minari download D4RL/door/human-v2"):
        open_source("D4RL/door/human-v2")


ROWS = 4


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of three episodes of four rows, as stable-worldmodel writes it."""
    pytest.importorskip("lance", reason="needs the extra lance")
    path = tmp_path / "data.lance"
    for episode in range(3):
        write_rows(path, episode, colour=40 * episode + 20)
    return path


def write_rows(path: Path, episode: int, colour: int = 0, images: list[bytes] | None = None, **columns: Any) -> None:
    """Append an episode to a table."""
    import lance
    import pyarrow as pa

    def numbers(values: Any) -> Any:
        values = np.asarray(values, np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[-1])

    index = np.full(ROWS, episode, np.int32)
    action = np.full((ROWS, 2), 0.25 * (episode + 1))
    action[-1] = np.nan
    given = {
        "episode_idx": pa.array(index),
        "step_idx": pa.array(np.arange(ROWS, dtype=np.int32)),
        "pixels": pa.array(images or [jpeg(colour + row) for row in range(ROWS)], pa.binary()),
        "action": numbers(action),
        "reward": numbers([[np.nan], [1], [2], [3]]),
        "terminated": numbers([[0], [0], [0], [episode % 2]]),
        "agent_pos": numbers(np.arange(2 * ROWS).reshape(ROWS, 2) + episode),
        "count": pa.array(np.arange(ROWS, dtype=np.int64)),
        "name": pa.array(["text"] * ROWS),
        **columns,
    }
    mode = "append" if path.exists() else "create"
    lance.write_dataset(
        pa.table({name: values for name, values in given.items() if values is not None}), path, mode=mode
    )


def jpeg(colour: int, size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), colour, np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_a_table_tells_its_episodes_and_columns(table):
    source = open_source(table)
    assert (source.kind, source.lengths.tolist()) == ("lance", [4, 4, 4])
    assert set(source.columns) == {"pixels", "action", "reward", "terminated", "agent_pos", "count"}
    assert source.default_observations == ("pixels",)
    assert source.column("pixels").shape == (16, 16, 3)
    assert source.action_range() == (0.25, 0.75)


def test_a_table_gives_images_numbers_and_endings(table):
    reader = reader_of(open_source(table), states=("agent_pos", "count"), size=8)
    for number in range(3):
        episode = reader.read(number)
        shades = 40 * number + 20 + np.arange(4)
        np.testing.assert_array_equal(episode.observations, np.full((4, 8, 8, 3), 0) + shades[:, None, None, None])
        np.testing.assert_array_equal(episode.actions, np.full((3, 2), 0.25 * (number + 1)))
        np.testing.assert_array_equal(episode.rewards, [1, 2, 3])
        np.testing.assert_array_equal(episode.states[:, 0], 2 * np.arange(4) + number)
        np.testing.assert_array_equal(episode.states[:, 2], np.arange(4))
        assert episode.terminated == (number == 1)
    vectors = reader_of(open_source(table), observations=("agent_pos", "count")).read(0)
    np.testing.assert_array_equal(vectors.observations, [[0, 1, 0], [2, 3, 1], [4, 5, 2], [6, 7, 3]])


def test_a_database_with_one_table_is_as_good_as_the_table(table):
    shutil.copytree(table, table.parent / "data_episodes.lance")  # constants of the episodes
    assert open_source(table.parent).path == table
    shutil.copytree(table, table.parent / "other.lance")
    with pytest.raises(SettingsError, match=r"holds several: choose one of .*data.lance, .*other.lance"):
        open_source(table.parent)


def test_images_that_cannot_be_decoded_or_change_their_size_are_named(table):
    write_rows(table, 3, images=[*(jpeg(1) for _ in range(ROWS - 1)), b"no image"])
    write_rows(table, 4, images=[jpeg(1, size=20)] * ROWS)
    reader = reader_of(open_source(table))
    with pytest.raises(FaultyEpisodeError, match=r"Episode 3 of .* cannot be read"):
        reader.read(3)
    with pytest.raises(FaultyEpisodeError, match=r"Episode 4 of .*images of shape \(20, 20, 3\) among others"):
        reader.read(4)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"action": None}, "has no column 'action'"),
        ({"episode_idx": None}, "has no column episode_idx"),
    ],
)
def test_tables_of_another_layout_are_told(tmp_path, columns, said):
    pytest.importorskip("lance", reason="needs the extra lance")
    write_rows(tmp_path / "other.lance", 0, **columns)
    with pytest.raises(CheckpointError, match=said):
        open_source(tmp_path / "other.lance")


def test_episodes_that_come_back_are_told(table):
    write_rows(table, 1)
    with pytest.raises(CheckpointError, match="is not in order"):
        open_source(table)


def test_a_truncated_table_is_told(table):
    for part in (table / "data").iterdir():
        part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"data\.lance is damaged"):
        open_source(table)


@pytest.mark.parametrize(
    ("library", "extra", "make"),
    [
        ("h5py", "hdf5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n")),
        ("hdf5plugin", "hdf5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n")),
        ("lance", "lance", lambda path: (path / "_versions").mkdir(parents=True)),
        ("minari", "minari", lambda path: (path.mkdir(), (path / "metadata.json").write_text("{}"))),
    ],
)
def test_a_missing_library_is_named_with_its_install_line(tmp_path, monkeypatch, library, extra, make):
    monkeypatch.setitem(sys.modules, library, None)
    make(tmp_path / "source")
    with pytest.raises(MissingExtraError, match=rf"pip install '.\[{extra}\]'"):
        open_source(tmp_path / "source")
