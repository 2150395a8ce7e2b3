"""Odd folders, missing devices, little memory, a reader that left: the commands work, or say in a sentence why not."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from forethought import JEPAAgent, evaluate
from forethought.agents.online import OnlineTraining
from forethought.core.errors import OutOfMemoryError
from forethought.core.runs import Run

NOBODY = 65534
changed = pytest.mark.filterwarnings("default:.*goes on", "ignore:.*was changed after the run was created")
HINT = re.compile(r"^Try: forethought (.+)$", re.MULTILINE)


@pytest.mark.parametrize("name", ["a run with spaces", "Läufe/長い道/🚲", "r" * 200, "link"])
def test_a_run_may_live_in_a_folder_of_any_name_and_behind_a_link(forethought, tmp_path, name):
    folder = tmp_path / name
    if name == "link":
        (tmp_path / "far away").mkdir()
        folder.symlink_to(tmp_path / "far away")
    short = ["--agent", "random", "--steps", 20, "--evaluations", 1, "--episodes", 1]
    outcome = forethought("train", "CartPole-v1", *short, "--out", folder)
    assert outcome.code == 0, outcome
    assert forethought(*shlex.split(HINT.search(outcome.out)[1]), "--episodes", 1).code == 0


def test_a_name_that_no_folder_can_have_is_refused_before_training(forethought, tmp_path, quick):
    outcome = forethought("train", "Pendulum-v1", "--out", tmp_path / ("r" * 300), *quick)
    assert outcome.is_one_sentence_about("Could not make the run folder", "too long"), outcome
    outcome = forethought("train", "Pendulum-v1", "--out", tmp_path / "caf\udce9", *quick)
    assert outcome.is_one_sentence_about("caf\\udce9' is no Unicode text"), outcome
    assert not list(tmp_path.iterdir())


@contextmanager
def as_nobody():
    """Give up root's right to write everywhere, if these are tests run by root."""
    if os.getuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def read_only(trained):
    """A copy of a finished run that may be read by all and written by nobody."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(shutil.copytree(trained, Path(place) / "run"))
        Path(place).chmod(0o755)
        paths = [root, *root.rglob("*")]
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield root
        for path in paths:
            path.chmod(0o755)


def test_what_cannot_be_written_is_refused_at_the_start_and_what_need_not_be_is_read(forethought, read_only, quick):
    with as_nobody():
        refused = forethought("train", "Pendulum-v1", "--out", read_only / "new", *quick)
        resumed = forethought("train", "--resume", read_only)
        evaluated = forethought("evaluate", read_only, "--episodes", 1)
    assert refused.is_one_sentence_about("Could not make the run folder", "Permission denied"), refused
    assert resumed.is_one_sentence_about("finished"), resumed
    assert evaluated.code == 0, evaluated


def test_an_unfinished_run_that_became_read_only_is_not_gone_on_with(forethought, read_only):
    manifest = json.loads((read_only / "manifest.json").read_text())
    (read_only / "manifest.json").chmod(0o644)
    (read_only / "manifest.json").write_text(json.dumps({**manifest, "status": "interrupted"}))
    with as_nobody():
        outcome = forethought("train", "--resume", read_only)
    assert outcome.is_one_sentence_about("not writable"), outcome


@pytest.mark.parametrize("agent", ["jepa", "sac", "ppo"])
def test_a_gpu_that_is_not_there_is_refused_at_the_start(forethought, tmp_path, monkeypatch, agent):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = forethought("train", "Pendulum-v1", "--agent", agent, "--device", "cuda", "--out", tmp_path / "run")
    assert outcome.is_one_sentence_about("device='cuda'", "try 'auto'"), outcome
    assert not (tmp_path / "run").exists()


def test_without_a_gpu_auto_computes_on_the_cpu_and_the_manifest_says_so(trained):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert Run.open(trained).manifest["device"] == device


@changed
def test_going_on_without_the_gpu_that_was_there_is_told(forethought, trained, tmp_path):
    folder = _stopped(trained, tmp_path, device="cuda:7")
    outcome = forethought("train", "--resume", folder)
    assert outcome.code == 0, outcome
    assert "was on cuda:7" in outcome.err


def _stopped(trained, tmp_path, **manifest):
    """Return a copy of a run that looks as if it had been killed after its last checkpoint."""
    folder = shutil.copytree(trained, tmp_path / "run")
    with Run.open(folder) as run:
        run.note(**manifest)
        run.set_status("interrupted")
    return folder


TOO_MUCH = 10**15
"""Numbers for which no computer has the memory, nor the addresses."""


def test_too_little_memory_for_networks_or_plans_names_the_settings_to_lower(monkeypatch):
    agent = JEPAAgent("Pendulum-v1")
    monkeypatch.setattr(agent.planning_policy.controller, "act", lambda *_: torch.empty(TOO_MUCH))
    with pytest.raises(OutOfMemoryError, match=r"planning an action: lower planning\.budget or the number of envir"):
        evaluate(agent, "Pendulum-v1", episodes=1)
    monkeypatch.setattr(JEPAAgent, "Model", lambda *_: torch.empty(TOO_MUCH))
    with pytest.raises(
        OutOfMemoryError, match=r"the world model, actor and critic: lower model\.hidden or behaviour\.h"
    ):
        JEPAAgent("Pendulum-v1")


@changed
def test_too_little_memory_for_an_update_names_the_setting_to_lower_and_spares_the_checkpoint(
    forethought, tmp_path, quick, monkeypatch
):
    folder = tmp_path / "run"
    options = [*quick, "--evaluations", 3, "--batch-size", 16]
    with monkeypatch.context() as patch:
        patch.setattr("forethought.world_model.Learner.update", lambda *_: np.empty(TOO_MUCH))
        outcome = forethought("train", "CartPole-v1", "--out", folder, *options)
    assert outcome.code == 2
    assert "not enough memory for an update: lower batch_size, which is 16, or model.hidden" in outcome.err
    assert "Traceback" not in outcome.err
    assert Run.open(folder).latest_checkpoint().documents["agent"]["num_timesteps"] == 20
    config = json.loads((folder / "config.json").read_text())
    config["agent_settings"]["batch_size"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    outcome = forethought("train", "--resume", folder)
    assert outcome.code == 0, outcome
    assert "agent_settings.batch_size was 16, is 8" in outcome.err
    assert Run.open(folder).manifest["resume"] == "inexact"


@pytest.mark.parametrize(
    ("where", "setting"),
    [("world_model.Learner.update", "batch_size"), ("agents.controller.Controller.act", "acting.budget or num_envs")],
)
def test_too_little_memory_on_a_gpu_is_one_sentence_too(forethought, tmp_path, quick, monkeypatch, where, setting):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(f"forethought.{where}", exhausted)
    outcome = forethought("train", "CartPole-v1", "--out", tmp_path / "run", *quick)
    assert outcome.code == 2
    assert f"lower {setting}" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("setting", [f"batch_size={TOO_MUCH}", f"buffer_size={TOO_MUCH}"])
def test_a_baseline_that_needs_too_much_memory_names_the_setting_too(forethought, tmp_path, setting):
    short = ["--steps", 30, "--evaluations", 1, "--episodes", 1, "--set", "learning_starts=10", "--set", setting]
    outcome = forethought("train", "Pendulum-v1", "--agent", "sac", *short, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert f"lower {setting.partition('=')[0]}" in outcome.err
    assert "Traceback" not in outcome.err


@changed
def test_a_configuration_edited_into_another_run_is_refused_with_what_differs(forethought, trained, tmp_path):
    folder = _stopped(trained, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "seed": 5, "steps": 70}))
    outcome = forethought("train", "--resume", folder)
    assert outcome.code == 2
    assert "another run (seed was 0, is 5; steps was 60, is 70)" in outcome.err


@changed
def test_a_network_that_does_not_fit_the_checkpoint_is_refused_with_what_differs(forethought, trained, tmp_path):
    folder = _stopped(trained, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["agent_settings"]["model"]["hidden"] = 24
    (folder / "config.json").write_text(json.dumps(config))
    outcome = forethought("train", "--resume", folder)
    assert outcome.code == 2
    assert "agent_settings.model.hidden was 16, is 24" in outcome.err
    assert "does not fit this agent" in outcome.err


@changed
def test_more_steps_may_be_asked_of_a_run_that_is_gone_on_with(forethought, trained, tmp_path):
    folder = _stopped(trained, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "steps": 70}))
    outcome = forethought("train", "--resume", folder)
    assert outcome.code == 0, outcome
    assert "steps was 60, is 70" in outcome.err
    assert Run.open(folder).manifest["resume"] == "exact"
    assert Run.open(folder).latest_checkpoint().documents["agent"]["num_timesteps"] == 70


def test_a_second_ctrl_c_ends_at_once_and_spares_the_last_checkpoint(forethought, tmp_path, quick, monkeypatch):
    learn = OnlineTraining.learn

    def struck(training, updates):
        if training.steps == 50:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second signal was not handled at once")
        learn(training, updates)

    monkeypatch.setattr(OnlineTraining, "learn", struck)
    outcome = forethought("train", "CartPole-v1", "--out", tmp_path / "run", *quick, "--evaluations", 3)
    assert outcome.code == 130
    assert "everything is saved" not in outcome.out
    run = Run.open(tmp_path / "run")
    assert run.status == "interrupted"
    assert run.latest_checkpoint().documents["agent"]["num_timesteps"] == 40


def test_a_clock_that_runs_backwards_and_a_host_with_a_new_name_disturb_nothing(
    forethought, tmp_path, monkeypatch, quick
):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: 4e9 - real())
    monkeypatch.setattr(socket, "gethostname", lambda: f"host-{time.monotonic_ns()}")
    folder = tmp_path / "run"
    assert forethought("train", "CartPole-v1", "--out", folder, *quick, "--evaluations", 3).code == 0
    rows = Run.open(folder).read_metrics()
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    wall = [row["time/wall_seconds"] for row in rows if "time/wall_seconds" in row]
    assert wall == sorted(wall)
    assert wall[0] > 0


def test_training_goes_on_when_nobody_reads_its_progress(tmp_path):
    short = ["--agent", "random", "--steps", "20", "--evaluations", "1", "--episodes", "1"]
    command = [sys.executable, "-m", "forethought", "train", "CartPole-v1", *short, "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()
    assert Run.open(tmp_path / "run").status == "finished"
