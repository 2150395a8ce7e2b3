"""A run folder belongs to one process, survives its death, and says what it ran on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forethought.core import locks, provenance
from forethought.core.checkpoints import Checkpoint
from forethought.core.errors import RunFolderError, WriteError
from forethought.core.runs import Run, holds_run

CHECKPOINT = Checkpoint({"agent": {}}, {"model": {"weight": torch.arange(4.0)}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run that logged and saved at steps 100 and 200, in a folder whose name is not plain."""
    folder = tmp_path / "mein Lauf ü"
    with Run.create(folder, {"agent": "jepa", "seed": 3}) as run:
        for step in (100, 200):
            run.log({"loss": 1 / step}, step)
            run.save_checkpoint(step, CHECKPOINT)
    return folder


def test_a_run_remembers_what_was_asked_and_what_it_ran_on(folder: Path) -> None:
    run = Run.open(folder)
    assert run.config == {"agent": "jepa", "seed": 3}
    assert run.status == "finished"
    (start,) = run.manifest["starts"]
    assert start["versions"]["torch"] == torch.__version__
    assert start["threads"]["torch"] == torch.get_num_threads()
    assert start["pid"] == os.getpid()
    assert run.manifest["kind"] == "train"


def test_the_git_state_is_recorded_in_a_checkout_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "src" / "forethought" / "core" / "provenance.py"
    monkeypatch.setattr(provenance, "__file__", str(module))
    assert provenance.describe_process()["git"] is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert provenance.describe_process()["git"]["modified"] is False
    module.parent.mkdir(parents=True)
    module.touch()
    state = provenance.describe_process()["git"]
    assert state["modified"] is True
    assert len(state["commit"]) == 40


def test_metrics_come_back_with_numbers_made_plain(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", {}) as run:
        run.log({"loss": np.float32(0.5), "n": torch.tensor(2), "bad": float("nan"), "list": [1, np.inf]}, step=7)
    assert Run.open(tmp_path / "run").read_metrics() == [
        {"step": 7, "loss": 0.5, "n": 2, "bad": None, "list": [1, None]}
    ]


def test_on_a_full_disk_logged_lines_wait_whole_for_room(folder: Path, full_disk) -> None:
    before = (folder / "metrics.jsonl").read_bytes()
    with Run.open(folder) as run:
        with full_disk(len(before) + 5):
            with pytest.warns(UserWarning, match=r"metrics\.jsonl \(\d+ bytes\).*waits"):
                run.log({"loss": 3.0}, 300)
            run.log({"loss": 4.0}, 400)  # one warning is enough
            with pytest.raises(WriteError):
                run.save_checkpoint(400, CHECKPOINT)
        assert (folder / "metrics.jsonl").read_bytes() == before
        run.save_checkpoint(400, CHECKPOINT)
        assert [line["step"] for line in run.read_metrics()] == [100, 200, 300, 400]


@pytest.mark.parametrize("line", [b'{"step": NaN}', b'{"step": 1, "step": 2}', b"[" * 100_000, b"7", b"{}", b"\xff"])
def test_a_line_of_the_log_that_is_no_sound_json_is_left_out_with_a_warning(folder: Path, line: bytes) -> None:
    log = folder / "metrics.jsonl"
    log.write_bytes(line + b"\n" + log.read_bytes())
    with pytest.warns(UserWarning, match="line 1, is damaged"):
        assert [line["step"] for line in Run.open(folder).read_metrics()] == [100, 200]


def test_rewinding_forgets_the_metrics_after_a_step(folder: Path) -> None:
    with Run.open(folder) as run:
        run.rewind_metrics(100)
        assert [line["step"] for line in run.read_metrics()] == [100]


def test_a_metrics_line_cut_short_by_a_crash_is_dropped_when_the_run_goes_on(folder: Path) -> None:
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 300, "lo')
    assert [line["step"] for line in Run.open(folder).read_metrics()] == [100, 200]
    with Run.open(folder) as run:
        run.log({}, 250)
        assert [line["step"] for line in run.read_metrics()] == [100, 200, 250]


def test_a_run_whose_beginning_was_cut_off_can_be_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise WriteError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Run, "note", full)
        with pytest.raises(WriteError, match="full"):
            Run.create(tmp_path / "run", {})
    assert not holds_run(tmp_path / "run")
    Run.create(tmp_path / "run", {"again": True}).release()
    assert Run.open(tmp_path / "run").config == {"again": True}


def test_what_a_run_has_logged_is_not_taken_for_that_of_another(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(RunFolderError, match="holds a run already"):
        Run.create(folder, {})


def test_a_run_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(RunFolderError, match="holds a run already"):
        Run.create(folder, {})
    assert Run.open(folder).config["seed"] == 3


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="not a run folder"):
        Run.open(tmp_path)
    with pytest.raises(RunFolderError, match="not a run folder"):
        Run.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"status": "done", "starts": [], "digests": {}}',
        '{"status": [], "starts": [], "digests": {}}',
        '{"status": "running", "starts": [{"versions": 5}], "digests": {}}',
        '{"status": "running", "starts": [], "digests": []}',
    ],
)
def test_a_damaged_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(RunFolderError):
        Run.open(folder)


def test_a_configuration_edited_by_hand_is_noticed(folder: Path) -> None:
    (folder / "config.json").write_text('{"agent": "jepa", "seed": 4}')
    with pytest.warns(UserWarning, match="changed after the run was created"):
        Run.open(folder)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="Could not make"):
        Run.create(tmp_path / "file" / "run", {})


def test_a_missing_checkpoint_folder_is_reported_at_the_start(folder: Path) -> None:
    (folder / "checkpoints").rename(folder / "elsewhere")
    with pytest.raises(RunFolderError, match="missing or not writable"), Run.open(folder):
        pass
    (folder / "elsewhere").rename(folder / "checkpoints")
    with Run.open(folder):
        pass  # the refusal gave the lock back


def test_a_second_writer_is_refused_and_told_who_holds_the_folder(folder: Path) -> None:
    with Run.open(folder):
        with pytest.raises(RunFolderError, match=f"in use by pid {os.getpid()}"), Run.open(folder):
            pass
        with pytest.raises(RunFolderError, match="in use"):
            Run.create(folder, {})
        assert Run.open(folder).read_metrics(), "reading needs no lock"
    with Run.open(folder):
        pass


HOLD_THE_LOCK = """
import sys
from forethought.core.runs import Run
with Run.open(sys.argv[1]):
    print(1, flush=True)
    input()
"""


def test_another_process_is_refused_and_the_lock_of_a_killed_one_is_free(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"1\n"
        with pytest.raises(RunFolderError, match=f"in use by pid {holder.pid}"), Run.open(folder):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert Run.open(folder).status == "running", "nobody was left to say otherwise"
    with Run.open(folder):
        pass
    assert Run.open(folder).status == "finished"


def test_where_the_file_system_has_no_locks_the_recorded_process_decides(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    with Run.open(folder), pytest.raises(RunFolderError, match="in use"), Run.open(folder):
        pass
    (folder / ".lock").write_text("pid 1 on another-host\n")
    with pytest.raises(RunFolderError, match="another-host"), Run.open(folder):
        pass
    ended = subprocess.Popen(["true"])
    ended.wait()
    (folder / ".lock").write_text(f"pid {ended.pid} on {locks.socket.gethostname()}\n")
    with Run.open(folder):
        pass


def test_writing_needs_the_lock(folder: Path) -> None:
    run = Run.open(folder)
    for write in (
        lambda: run.log({}, 1),
        lambda: run.set_status("failed"),
        lambda: run.save_checkpoint(1, CHECKPOINT),
        lambda: run.rewind_metrics(0),
    ):
        with pytest.raises(RunFolderError, match="with run"):
            write()


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "finished"), (KeyboardInterrupt(), "interrupted"), (ValueError("no"), "failed")],
)
def test_the_way_a_run_ended_is_recorded(tmp_path: Path, error: BaseException | None, status: str) -> None:
    def work() -> None:
        with Run.create(tmp_path / "run", {}):
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    assert Run.open(tmp_path / "run").status == status


def test_a_status_set_by_the_program_stays(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", {}) as run:
        run.set_status("interrupted", reason="Ctrl-C at step 10")
        run.note(resume="inexact")
    manifest = Run.open(tmp_path / "run").manifest
    assert manifest["status"] == "interrupted"
    assert manifest["reason"] == "Ctrl-C at step 10"
    assert manifest["resume"] == "inexact"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"versions": {"torch": "1.0.0"}}, r"torch was 1\.0\.0 and is"),
        ({"threads": {"torch": 77}}, "number of torch's threads was 77 and is"),
        ({"processor": "abacus"}, "processor was abacus and is"),
    ],
)
def test_going_on_under_other_conditions_warns_and_is_recorded(
    folder: Path, change: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "_processor", lambda: "slide rule")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["starts"][0] |= change
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match=told), Run.open(folder) as run:
        assert len(run.manifest["starts"]) == 2


def test_a_run_that_did_not_note_its_processor_goes_on_without_a_warning(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["starts"][0]["processor"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with Run.open(folder) as run:
        assert len(run.manifest["starts"]) == 2


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("model name\t: EPYC\nflags\t\t: fpu avx avx2 sse2\n\nmodel name: other\n", "EPYC (avx2)"),
        ("processor: 0\nmodel name: EPYC\nflags: avx2 avx512f avx512_bf16\n", "EPYC (avx512_bf16)"),
        ("model name: Cortex\n", "Cortex"),
    ],
)
def test_processors_of_one_name_are_told_apart_by_their_instructions(
    told: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(provenance, "Path", lambda path: tmp_path / Path(path).name)
    assert provenance._processor() == expected
