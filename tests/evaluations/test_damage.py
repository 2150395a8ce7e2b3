"""Whatever happens to any file of a run: a refusal that names it, the last sound checkpoint, or no harm at all."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import warnings
from pathlib import Path

import pytest
import torch

from forethought.agents.online import OnlineTraining
from forethought.core.errors import ForethoughtError, WriteError
from forethought.core.runs import Run
from forethought.evaluations import TrainSettings, load_trained, resume, train
from forethought.evaluations.results import read_results

SMALL = {
    "model": {"latent_dims": 8, "hidden": 16, "directions": 8},
    "behaviour": {"hidden": 16},
    "planning": {"planner": "policy", "horizon": 1, "budget": None, "proposals": 1},
    "acting": {"planner": "policy"},
    "learning_starts": 20,
    "batch_size": 8,
    "updates_per_step": 0.2,
}
ASKED = TrainSettings("CartPole-v1", steps=60, evaluations=3, episodes=1, agent_settings=SMALL)
FILES = (
    "config.json",
    "manifest.json",
    "metrics.jsonl",
    "agent.zip",
    ".lock",
    "checkpoints/LATEST",
    "checkpoints/step_000000040.zip",
    "checkpoints/step_000000020.zip",
    "checkpoints/rows_000000000_000000020.safetensors",
    "checkpoints/rows_000000020_000000040.safetensors",
    "tensorboard/*/events.*",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of a whole run, and of the same one interrupted at step 40."""
    root = tmp_path_factory.mktemp("runs")

    def stop(progress):
        if progress.step == 40 and progress.activity == "evaluating":
            os.kill(os.getpid(), signal.SIGINT)

    train(ASKED, root / "whole")
    train(ASKED, root / "stopped", stop)
    return root


@pytest.fixture
def run(runs, tmp_path):
    """A copy of the interrupted run."""
    return shutil.copytree(runs / "stopped", tmp_path / "run")


def weights(folder):
    tensors = Run.open(folder).latest_checkpoint().tensors
    return {f"{group}/{name}": tensor for group in ("model", "behaviour") for name, tensor in tensors[group].items()}


def assert_ends_like_the_whole_run(folder, runs):
    ours, theirs = weights(folder), weights(runs / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def flip(path):
    data = bytearray(path.read_bytes() or b"\0")
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swell(path):
    os.truncate(path, 2**30)


class Marker:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def plant(path):
    path.write_bytes(pickle.dumps(Marker()))


def odd(path):
    path.write_text('{"step": NaN, "step": ' + "[" * 100_000)


def test_every_file_of_a_run_is_damaged_below(runs):
    files = {path for path in (runs / "stopped").rglob("*") if path.is_file()}
    assert files == {path for pattern in FILES for path in (runs / "stopped").glob(pattern)}


@pytest.mark.parametrize("damage", [flip, truncate, swell, plant, odd, os.remove], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("pattern", FILES)
def test_a_damaged_file_is_named_skipped_or_harmless(run, runs, monkeypatch, pattern, damage):
    monkeypatch.chdir(run.parent)
    [path] = run.glob(pattern)
    damage(path)
    told: list[str] = []

    def survives(use):
        try:
            use()
        except ForethoughtError as error:
            told.append(str(error))
            return False
        return True

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        survives(lambda: read_results([run.parent]))
        survives(lambda: load_trained(run))
        resumed = survives(lambda: resume(run))
    told += [str(warning.message) for warning in caught]
    assert not Path("executed").exists()
    assert all(path.name in message or "holds no run" in message for message in told), told
    if resumed:
        assert_ends_like_the_whole_run(run, runs)
    else:
        assert told


def test_wherever_a_byte_of_the_settings_is_flipped_they_are_named_or_told_of_as_changed(run, monkeypatch):
    monkeypatch.setattr("forethought.evaluations.training._Session.go", lambda session: None)
    config, manifest = run / "config.json", run / "manifest.json"
    sound, status = config.read_bytes(), manifest.read_bytes()
    for place in range(0, len(sound), 5):
        config.write_bytes(sound[:place] + bytes([sound[place] ^ 0x10]) + sound[place + 1 :])
        manifest.write_bytes(status)
        told: list[str] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for use in (load_trained, resume):
                try:
                    use(run)
                except ForethoughtError as error:
                    told.append(str(error))
        told += [str(warning.message) for warning in caught]
        assert told, place
        assert all("config.json" in message or "goes on with other settings" in message for message in told), told


def test_of_a_damaged_newest_checkpoint_the_one_before_goes_on_to_the_same_end(run, runs):
    truncate(run / "checkpoints" / "rows_000000020_000000040.safetensors")
    with pytest.warns(UserWarning, match=r"rows_000000020_000000040.*Using step_000000020\.zip instead"):
        assert resume(run).status == "finished"
    assert_ends_like_the_whole_run(run, runs)


def test_a_run_without_a_sound_checkpoint_is_refused_and_left_as_it_is(run):
    first = run / "checkpoints" / "rows_000000000_000000020.safetensors"
    flip(first)
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    with pytest.raises(ForethoughtError, match=r"no valid checkpoint.*000000000_000000020\.safetensors is damaged"):
        resume(run)
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before


@pytest.fixture
def when(monkeypatch):
    """Return a function that calls an action once training has taken so many steps."""
    actions, learn = {}, OnlineTraining.learn

    def learn_and_act(training, updates):
        learn(training, updates)
        actions.pop(training.steps, lambda: None)()

    monkeypatch.setattr(OnlineTraining, "learn", learn_and_act)
    return lambda step, action: actions.update({step: action})


LESS_THAN_AN_AGENT = 30_000


def test_a_milestone_that_finds_the_disk_full_costs_a_warning_and_nothing_else(tmp_path, runs, full_disk, when):
    folder, disk = tmp_path / "run", full_disk(LESS_THAN_AN_AGENT)
    when(35, disk.__enter__)
    when(45, lambda: disk.__exit__(None, None, None))
    with pytest.warns(
        UserWarning, match=rf"Could not write {folder / 'agent.zip'} \([\d,]+ bytes\).*goes on"
    ) as caught:
        assert train(ASKED, folder).status == "finished"
    assert len(caught) == 1
    assert_ends_like_the_whole_run(folder, runs)


def test_a_failed_write_is_tried_once_more(tmp_path, runs, monkeypatch):
    save, failures = Run.save_checkpoint, [OSError(5, "Input/output error")]

    def flaky(*arguments):
        if failures:
            raise WriteError("once") from failures.pop()
        return save(*arguments)

    monkeypatch.setattr(Run, "save_checkpoint", flaky)
    assert train(ASKED, tmp_path / "run").status == "finished"
    assert_ends_like_the_whole_run(tmp_path / "run", runs)


def test_the_third_full_disk_in_a_row_stops_the_training_which_goes_on_from_its_last_checkpoint(
    tmp_path, full_disk, when
):
    folder, asked = tmp_path / "run", ASKED.replace(steps=100, evaluations=5)
    train(asked, tmp_path / "whole")
    disk = full_disk(LESS_THAN_AN_AGENT)
    when(30, disk.__enter__)
    try:
        with (
            pytest.warns(UserWarning, match="goes on"),
            pytest.raises(WriteError, match=r"agent\.zip \([\d,]+ bytes\).*Step 80 could not be saved.*--resume"),
        ):
            train(asked, folder)
    finally:
        disk.__exit__(None, None, None)
    assert Run.open(folder).status == "failed"
    assert Run.open(folder).latest_checkpoint().documents["agent"]["num_timesteps"] == 20
    assert resume(folder).status == "finished"
    ours, theirs = weights(folder), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
