"""A checkpoint is complete or not there, gives back exactly its own rows, and no row is written twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from forethought.core.checkpoints import Checkpoint, CheckpointFolder, Segment
from forethought.core.errors import CheckpointError, WriteError
from forethought.core.files import load_archive, save_archive

NEWEST, OLDER = "step_000000200.zip", "step_000000100.zip"
SEGMENTS = "rows_000000000_000000100.safetensors", "rows_000000100_000000200.safetensors"


def save(folder: CheckpointFolder, step: int, size: int = 4) -> Path:
    """Save the checkpoint of a run that collects one row per step, which holds its own number."""
    first = folder.rows
    rows = [Segment(first, step, {"number": torch.arange(first, step)})] if step > first else []
    tensors = {"model": {"weight": torch.full((size,), float(step))}}
    return folder.save(step, Checkpoint({"agent": {"step": step}}, tensors, rows))


def assert_is(checkpoint: Checkpoint, step: int) -> None:
    assert checkpoint.documents == {"agent": {"step": step}}
    assert (checkpoint.tensors["model"]["weight"] == step).all()
    assert torch.cat([segment.tensors["number"] for segment in checkpoint.segments]).tolist() == list(range(step))


def flip_last_byte_of(path: Path, content: torch.Tensor) -> None:
    whole = bytearray(path.read_bytes())
    data = content.numpy().tobytes()
    whole[whole.index(data) + len(data) - 1] ^= 1
    path.write_bytes(whole)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints at steps 100 and 200, by a process that has ended."""
    writer = CheckpointFolder(tmp_path)
    for step in (100, 200):
        save(writer, step)
    return tmp_path


def test_each_row_is_written_once_and_only_by_the_first_checkpoint_that_has_it(folder: Path) -> None:
    def standing(name: str) -> tuple[int, ...]:
        stat = (folder / name).stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns  # not when it was last read

    before = {name: standing(name) for name in SEGMENTS}
    reader = CheckpointFolder(folder)
    assert_is(reader.load_latest(), 200)
    save(reader, 300)
    assert_is(CheckpointFolder(folder).load_latest(), 300)
    for name, then in before.items():
        assert standing(name) == then, f"{name} was touched"
    assert {path.name for path in folder.glob("rows_*")} == {*SEGMENTS, "rows_000000200_000000300.safetensors"}


def test_a_checkpoint_gives_back_its_own_rows_whatever_came_later(folder: Path) -> None:
    (folder / "LATEST").write_text(OLDER)
    assert_is(CheckpointFolder(folder).load_latest(), 100)


def test_a_checkpoint_without_new_rows_writes_no_segment(folder: Path) -> None:
    writer = CheckpointFolder(folder)
    writer.load_latest()
    writer.save(201, Checkpoint({}, {}))
    assert {path.name for path in folder.glob("rows_*")} == set(SEGMENTS)
    assert writer.rows == 200


def test_the_last_two_checkpoints_are_kept_and_latest_names_the_newest(folder: Path) -> None:
    writer = CheckpointFolder(folder)
    writer.load_latest()
    assert save(writer, 300) == folder / "step_000000300.zip"
    assert [path.name for path in writer.paths()] == ["step_000000300.zip", NEWEST]
    assert (folder / "LATEST").read_text() == "step_000000300.zip\n"


def test_a_folder_copied_elsewhere_goes_on(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = folder.rename(tmp_path_factory.mktemp("an other") / "place ü")
    assert_is(CheckpointFolder(moved).load_latest(), 200)


@pytest.mark.parametrize("damage", ["flip", "truncate", "lengthen", "empty", "delete"])
@pytest.mark.parametrize("name", [NEWEST, SEGMENTS[1]])
def test_a_damaged_checkpoint_is_skipped_with_a_warning_that_names_the_file(
    folder: Path, name: str, damage: str
) -> None:
    path = folder / name
    if damage == "flip":
        flip_last_byte_of(path, torch.full((4,), 200.0) if name == NEWEST else torch.arange(100, 200))
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "lengthen":
        path.write_bytes(path.read_bytes() + b"x")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    if (name, damage) == (NEWEST, "delete"):
        checkpoint = CheckpointFolder(folder).load_latest()
    elif (name, damage) == (NEWEST, "lengthen"):  # zip tolerates what stands behind it, and the content is whole
        assert_is(CheckpointFolder(folder).load_latest(), 200)
        return
    else:
        with pytest.warns(UserWarning, match=rf"{name} .*Using {OLDER} instead|no file .*{name}.*Using {OLDER}"):
            checkpoint = CheckpointFolder(folder).load_latest()
    assert_is(checkpoint, 100)


def test_no_valid_checkpoint_is_an_error_that_names_each(folder: Path, tmp_path: Path) -> None:
    (folder / NEWEST).write_bytes(b"")
    flip_last_byte_of(folder / SEGMENTS[0], torch.arange(100))
    with pytest.raises(CheckpointError, match=rf"{NEWEST} is empty.*{SEGMENTS[0]} is damaged.*recorded [0-9a-f]{{64}}"):
        CheckpointFolder(folder).load_latest()
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        CheckpointFolder(tmp_path / "nowhere").load_latest()


@pytest.mark.parametrize("content", ["", "../../etc/passwd", "step_9.zip", "\0"])
def test_a_latest_file_that_names_nothing_sensible_is_overruled_by_the_files(folder: Path, content: str) -> None:
    (folder / "LATEST").write_text(content)
    assert_is(CheckpointFolder(folder).load_latest(), 200)


def test_going_on_from_an_earlier_checkpoint_removes_the_abandoned_future(folder: Path) -> None:
    (folder / SEGMENTS[1]).write_bytes(b"")
    writer = CheckpointFolder(folder)
    with pytest.warns(UserWarning, match=f"Using {OLDER}"):
        writer.load_latest()
    save(writer, 300)  # the damaged one was of an earlier step, and is no second line of defence
    assert [path.name for path in writer.paths()] == ["step_000000300.zip", OLDER]
    assert {path.name for path in folder.glob("rows_*")} == {SEGMENTS[0], "rows_000000100_000000300.safetensors"}
    assert_is(CheckpointFolder(folder).load_latest(), 300)


def test_a_segment_that_no_checkpoint_came_to_name_is_removed(folder: Path) -> None:
    orphans = [folder / f"rows_000000200_{last:09d}.safetensors" for last in (250, 300)]
    for orphan in orphans:
        orphan.write_bytes(b"of a process that was killed before its checkpoint was complete")
    writer = CheckpointFolder(folder)
    writer.load_latest()
    save(writer, 300)
    assert not orphans[0].exists()
    assert_is(CheckpointFolder(folder).load_latest(), 300)


@pytest.mark.parametrize("limit", [100, 2_000], ids=["segment", "archive"])
def test_a_full_disk_keeps_the_previous_checkpoint_and_takes_no_room(folder: Path, full_disk, limit: int) -> None:
    writer = CheckpointFolder(folder)
    writer.load_latest()
    before = sorted(os.listdir(folder))
    with full_disk(limit), pytest.raises(WriteError, match=r"bytes\)"):
        save(writer, 300, size=10_000)
    assert sorted(os.listdir(folder)) == before
    assert_is(CheckpointFolder(folder).load_latest(), 200)
    save(writer, 300)  # what could not be written is written now
    assert_is(CheckpointFolder(folder).load_latest(), 300)


def forge(folder: Path, **change: object) -> None:
    """Rewrite the newest checkpoint, digests and all, with another description of its last segment."""
    archive = load_archive(folder / NEWEST)
    archive.documents["segments"][-1] |= change
    save_archive(folder / NEWEST, archive.documents, archive.tensors)


@pytest.mark.parametrize(
    "change",
    [
        {"first": 50},
        {"first": "../../etc/passwd"},
        {"last": "200/../../x"},
        {"last": 10**30},
        {"size": 10**18},
        {"size": None},
        {"sha256": "0" * 64},
        {"name": "/etc/passwd"},
    ],
    ids=str,
)
def test_a_forged_list_of_segments_leads_nowhere(folder: Path, change: dict[str, object]) -> None:
    forge(folder, **change)
    with pytest.warns(UserWarning, match=f"Using {OLDER} instead"):
        assert_is(CheckpointFolder(folder).load_latest(), 100)


KILL_WHILE_SAVING = """
import os, random, signal, sys, time, warnings
from pathlib import Path
import torch
from forethought.core.checkpoints import Checkpoint, Segment
from forethought.core.runs import Run

warnings.simplefilter("error")
folder, noise, acknowledged = Path(sys.argv[1]), random.Random(0), 0
Run.create(folder, {}).release()
for attempt in range(50):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with Run.open(folder) as run:
            if acknowledged:
                run.latest_checkpoint()
            step = acknowledged
            while True:
                step += 1
                rows = Segment(run.saved_rows, step, {"number": torch.arange(run.saved_rows, step)})
                tensors = {"model": {"weight": torch.full((20_000,), float(step))}}
                run.save_checkpoint(step, Checkpoint({"agent": {"step": step}}, tensors, [rows]))
                os.write(writer, step.to_bytes(8, "little"))
    os.close(writer)
    acknowledged = int.from_bytes(os.read(reader, 8), "little")  # it is saving now
    time.sleep(noise.uniform(0, 0.015))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while data := os.read(reader, 8):
        acknowledged = int.from_bytes(data, "little")
    os.close(reader)
    checkpoint = Run.open(folder).latest_checkpoint()
    step = checkpoint.documents["agent"]["step"]
    assert step in (acknowledged, acknowledged + 1), (step, acknowledged)
    assert (checkpoint.tensors["model"]["weight"] == step).all()
    rows = torch.cat([segment.tensors["number"] for segment in checkpoint.segments])
    assert rows.tolist() == list(range(step)), rows
    assert (folder / "checkpoints" / (folder / "checkpoints" / "LATEST").read_text().strip()).exists()
    acknowledged = step
with Run.open(folder) as run:
    run.latest_checkpoint()
    run.save_checkpoint(step, Checkpoint({"agent": {"step": step}}, {}))
    left = {path.name for path in (folder / "checkpoints").iterdir()}
    assert not [name for name in left if name.endswith(".tmp")], left
    assert len([name for name in left if name.startswith("rows_")]) == len(run.latest_checkpoint().segments), left
"""


def test_killing_the_process_while_it_saves_never_costs_a_finished_checkpoint(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", KILL_WHILE_SAVING, str(tmp_path / "run")], capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
