"""A world model learns from a store in a run folder, and goes on from wherever it was stopped as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forethought.core.errors import CheckpointError, RunFolderError, SettingsError, UnknownNameError, WriteError
from forethought.core.runs import Run
from forethought.envs import EpisodeStore
from forethought.evaluations import pretraining as module
from forethought.evaluations.collect import CollectSettings, collect
from forethought.evaluations.nominal import nominal_episodes, world_model_of
from forethought.evaluations.pretraining import (
    PretrainSettings,
    default_training,
    load_pretrained,
    pretrain,
    resume_pretraining,
)
from forethought.evaluations.settings import Progress
from forethought.world_model import JEPA, JEPASettings, load_model, save_model

VISION = {"patch_size": 16, "width": 16, "depth": 1, "heads": 2, "hidden": 16, "projector_hidden": 16}
TRANSFORMER = {"depth": 1, "heads": 2, "head_dims": 8, "hidden": 16, "projector_hidden": 16}
pytestmark = pytest.mark.filterwarnings("ignore:The latents have collapsed")  # so few updates do not unfold them
MODEL = {"latent_dims": 8, "vision": VISION, "transformer": TRANSFORMER, "directions": 8}
TRAINING = {"model": MODEL, "updates": 12, "batch_size": 4}


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of eight walks through two rooms."""
    folder = tmp_path_factory.mktemp("walks")
    collect(CollectSettings("two-room", "expert", 8, jobs=1, max_steps=40), folder)
    return folder


@pytest.fixture
def settings(walks: Path) -> PretrainSettings:
    return PretrainSettings(str(walks), checkpoints=3, training=TRAINING)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_pretrained(folder)[0].state_dict()


def losses(folder: Path) -> list[dict[str, Any]]:
    rows = Run.open(folder).read_metrics()
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def same(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return all(torch.equal(ours[name], theirs[name]) for name in ours) and losses(one) == losses(other)


def stop_after(update: int) -> Any:
    sent: list[int] = []

    def stop(progress: Progress) -> None:
        if progress.step >= update and not sent:
            sent.append(progress.step)
            os.kill(os.getpid(), signal.SIGINT)

    return stop


def test_recordings_are_only_read(tmp_path: Path, settings: PretrainSettings) -> None:
    files = sorted(path for path in Path(settings.store).rglob("*") if path.is_file())
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in files]
    pretrain(settings, tmp_path / "run")
    assert files == sorted(path for path in Path(settings.store).rglob("*") if path.is_file())
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in files] == before


@pytest.mark.parametrize("update", [1, 5, 8])
def test_an_interrupted_run_ends_as_the_unbroken_one(
    tmp_path: Path, settings: PretrainSettings, update: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROGRESS_EVERY_S", 1e-6)
    monkeypatch.setattr(module, "LOG_EVERY", 2)
    told: list[Progress] = []
    result = pretrain(settings, tmp_path / "unbroken", told.append)
    assert (result.status, result.step) == ("finished", 12)
    assert {progress.unit for progress in told} == {"update"}
    stopped = pretrain(settings, tmp_path / "stopped", stop_after(update))
    assert stopped.status == "interrupted"
    assert stopped.step < 12
    assert "SIGINT at update" in Run.open(tmp_path / "stopped").manifest["reason"]
    torch.manual_seed(5)
    assert resume_pretraining(tmp_path / "stopped").status == "finished"
    assert same(tmp_path / "unbroken", tmp_path / "stopped")
    with pytest.raises(RunFolderError, match="is finished"):
        resume_pretraining(tmp_path / "stopped")


def test_a_store_that_grows_meanwhile_is_learned_from_and_judged_with_as_it_was(
    tmp_path: Path, settings: PretrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROGRESS_EVERY_S", 1e-6)
    pretrain(settings, tmp_path / "unbroken")
    growing = settings.replace(store=str(shutil.copytree(settings.store, tmp_path / "walks")))
    pretrain(growing, tmp_path / "stopped", stop_after(5))
    before = nominal_episodes(world_model_of(tmp_path / "unbroken"))
    collect(CollectSettings("two-room", "expert", 12, jobs=1, max_steps=40), tmp_path / "walks")
    assert EpisodeStore.open(growing.store, read_only=True).episodes == 20
    resume_pretraining(tmp_path / "stopped")
    assert same(tmp_path / "unbroken", tmp_path / "stopped")
    after = nominal_episodes(world_model_of(tmp_path / "stopped"))
    for one, other in ((before.fitting, after.fitting), (before.held_out, after.held_out)):
        assert [episode.actions.tobytes() for episode in one] == [episode.actions.tobytes() for episode in other]


def test_a_store_that_is_another_than_before_is_refused(tmp_path: Path, settings: PretrainSettings) -> None:
    changed = settings.replace(store=str(tmp_path / "walks"))
    collect(CollectSettings("two-room", "expert", 8, jobs=1, max_steps=40), tmp_path / "walks")
    pretrain(changed, tmp_path / "run")
    shutil.rmtree(tmp_path / "walks")
    with pytest.raises(RunFolderError, match="is not there"):
        nominal_episodes(world_model_of(tmp_path / "run"))
    for seed, episodes in ((1, 9), (0, 4)):  # others, and too few
        collect(CollectSettings("two-room", "expert", episodes, seed=seed, jobs=1, max_steps=40), tmp_path / "walks")
        with pytest.raises(CheckpointError, match=r"does not begin with the .* steps that were learned from"):
            nominal_episodes(world_model_of(tmp_path / "run"))
        shutil.rmtree(tmp_path / "walks")


def test_a_run_tells_what_it_learned_from_and_how_well(tmp_path: Path, settings: PretrainSettings) -> None:
    pretrain(settings, tmp_path / "run")
    model, source = load_pretrained(tmp_path / "run")
    assert source["task"] == "two-room"
    assert model.settings.latent_dims == 8
    assert not model.training
    rows = losses(tmp_path / "run")
    assert [row["step"] for row in rows if "health/open_loop_error_1" in row] == [4, 8, 12]
    assert [row["step"] for row in rows if "train/prediction" in row] == [4, 8, 12]
    assert rows[-2]["train/learning_rate"] == pytest.approx(0, abs=1e-6)
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    config = Run.open(tmp_path / "run").config
    assert config["training"]["model"]["vision"]["width"] == 16
    assert config["training"]["model"]["transformer"]["history"] == 3


def test_a_run_with_another_seed_is_another(tmp_path: Path, settings: PretrainSettings) -> None:
    for seed in (0, 1):
        pretrain(settings.replace(seed=seed), tmp_path / str(seed))
    assert not same(tmp_path / "0", tmp_path / "1")


def test_a_full_disk_stops_the_run_which_goes_on_from_its_last_checkpoint(
    tmp_path: Path, settings: PretrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(settings, tmp_path / "unbroken")
    real, saved = module.save_model, []

    def full(*arguments: Any) -> Path:
        saved.append(arguments)
        if len(saved) == 2:
            raise WriteError("no room.")
        return real(*arguments)

    monkeypatch.setattr(module, "save_model", full)
    with pytest.raises(WriteError, match=r"Update 8 could not be saved.*--resume"):
        pretrain(settings, tmp_path / "run")
    assert Run.open(tmp_path / "run").status == "failed"
    resume_pretraining(tmp_path / "run")
    assert same(tmp_path / "unbroken", tmp_path / "run")


def test_episodes_shorter_than_a_clip_are_left_out_and_counted(tmp_path: Path, settings: PretrainSettings) -> None:
    store = EpisodeStore(3, 2, folder=tmp_path / "store")
    rng = np.random.default_rng(0)
    for length in (2, 9, 9, 1, 9, 9):
        actions = rng.uniform(-1, 1, (length, 2))
        store.add_episode(rng.normal(size=(length + 1, 3)), actions, np.zeros(length), False, True)
    store.flush()
    state = {"model": {"latent_dims": 4, "hidden": 8, "directions": 4}, "updates": 3, "batch_size": 4}
    with pytest.warns(UserWarning, match="2 of 6 episodes are too short for a clip"):
        pretrain(settings.replace(store=str(tmp_path / "store"), training=state), tmp_path / "run")
    assert Run.open(tmp_path / "run").manifest["episodes_too_short"] == 2
    assert load_pretrained(tmp_path / "run")[1] == {}


def test_what_does_not_fit_leaves_nothing_behind(tmp_path: Path, settings: PretrainSettings) -> None:
    wrong = [
        (settings.replace(store=str(tmp_path)), CheckpointError, "holds no episode store"),
        (settings.replace(model="lewm-smal"), UnknownNameError, "Did you mean 'lewm-small'"),
        (settings.replace(model="lewm"), SettingsError, r"takes images of the shape \(224, 224, 3\)"),
        (settings.replace(model="state"), SettingsError, "takes vectors"),
        (settings.replace(training={"updats": 3}), SettingsError, "updats"),
        (settings.replace(training={"model": {"unroll": 60}}), SettingsError, "unroll = 60"),
        (settings.replace(training={**TRAINING, "model": {**MODEL, "block": 14}}), SettingsError, "8 are shorter"),
    ]
    for asked, error, said in wrong:
        with pytest.raises(error, match=said):
            pretrain(asked, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(RunFolderError, match="is not a run folder"):
        load_pretrained(tmp_path)


def test_presets_fit_the_observations(tmp_path: Path, walks: Path) -> None:
    assert default_training(walks).model.vision is not None
    EpisodeStore((96, 96, 3), 1, folder=tmp_path / "images").flush()
    vision = default_training(tmp_path / "images").model.vision
    assert vision is not None
    assert vision.image_shape == (96, 96, 3)
    EpisodeStore(5, 1, folder=tmp_path / "vectors").flush()
    assert default_training(tmp_path / "vectors").model.vision is None
    assert not default_training(tmp_path / "vectors").model.heads


def test_a_saved_model_predicts_as_before_and_a_foreign_file_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = JEPA(3, 2, JEPASettings(latent_dims=4, hidden=8)).eval()
    model.normalizer.update(torch.randn(50, 3) * 4 + 1)
    path = save_model(model, tmp_path / "model", {"task": "a"})
    assert path.name == "model.zip"
    loaded, source = load_model(path)
    observations = torch.randn(5, 3)
    assert torch.equal(loaded.encode(observations), model.encode(observations))
    assert source == {"task": "a"}
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError):
        load_model(path)
    from forethought.core.files import save_archive

    save_archive(tmp_path / "other.zip", {"agent": {"kind": "jepa-agent"}}, {})
    with pytest.raises(CheckpointError, match="holds no world model"):
        load_model(tmp_path / "other.zip")
    config = {**model.config(), "action_dims": 3}
    document = {"kind": "forethought.world-model", "config": config, "source": {}}
    save_archive(tmp_path / "odd.zip", {"model": json.loads(json.dumps(document))}, {"model": model.state_dict()})
    with pytest.raises(CheckpointError, match=r"odd.zip"):
        load_model(tmp_path / "odd.zip")
