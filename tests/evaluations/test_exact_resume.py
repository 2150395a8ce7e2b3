"""A run that was stopped anywhere and resumed ends equal to the unbroken one, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from contextlib import nullcontext
from dataclasses import dataclass, field

import cloudpickle
import gymnasium as gym
import pytest
import torch

from forethought import JEPAAgent
from forethought.agents.behaviour import BehaviourSettings
from forethought.agents.online import OnlineTraining
from forethought.agents.settings import JEPAAgentSettings
from forethought.core.errors import CheckpointError, RunFolderError
from forethought.core.runs import Run
from forethought.core.settings import completed, without_unknown
from forethought.core.trees import unflatten_tree
from forethought.envs import EpisodeStore
from forethought.evaluations import TrainSettings, resume, train
from forethought.evaluations.collect import CollectSettings, collect
from forethought.evaluations.going_on import _altered, _spelled_out, settings_to_go_on_with
from forethought.evaluations.pretraining import PretrainSettings, pretrain
from forethought.planners import available_planners, planner_class
from forethought.planners.check import example_specs
from forethought.world_model import VisionSettings
from forethought.world_model.settings import SIGREG, TARGET_COPY

from .conftest import reproducible

SMALL = {
    "model": {"latent_dims": 8, "hidden": 16, "directions": 8},
    "behaviour": {"hidden": 16},
    "planning": {"planner": "policy", "horizon": 1, "budget": None, "proposals": 1},
    "learning_starts": 20,
    "batch_size": 8,
    "updates_per_step": 0.5,
    "health_interval": 25,
}
CASES = [
    (task, planner, environments)
    for task, discrete in (("Pendulum-v1", False), ("CartPole-v1", True))
    for planner in available_planners()
    if any(planner_class(planner).supports(spec) for spec in example_specs() if spec.discrete == discrete)
    for environments in (1, 3)
]


def asked(task: str, planner: str, environments: int, in_processes: bool = False) -> TrainSettings:
    acting = {"planner": planner, "horizon": 2, "budget": None if planner == "policy" else 20, "proposals": 2}
    chosen = SMALL | {"acting": acting, "num_envs": environments, "async_envs": in_processes}
    return TrainSettings(task, steps=90, evaluations=2, episodes=1, agent_settings=chosen)


def everything(folder):
    """Return what a run leaves that does not tell the time."""
    run = Run.open(folder)
    checkpoint = run.latest_checkpoint()
    documents = {name: document for name, document in checkpoint.documents.items() if name != "run"}
    metrics = [reproducible(row) for row in run.read_metrics()]
    return documents, {**checkpoint.tensors, "experience": experience(checkpoint)}, metrics


def experience(checkpoint):
    """Return the whole store, however it was cut into segments."""
    parts = [segment.tensors for segment in checkpoint.segments]
    observation_dims, action_dims = (parts[0][name].shape[1] for name in ("observations", "actions"))
    standing = unflatten_tree(checkpoint.documents["training"], checkpoint.tensors["training"])["store"]
    store = EpisodeStore(observation_dims, action_dims, len(standing["now"]))
    store.restore(
        [{n: t.numpy() for n, t in part.items()} for part in parts], {n: t.numpy() for n, t in standing.items()}
    )
    return {name: torch.from_numpy(array) for name, array in store.arrays().items()}


def assert_same(ours, theirs):
    assert ours[0] == theirs[0]
    assert ours[2] == theirs[2]
    for group, tensors in theirs[1].items():
        assert ours[1][group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert ours[1][group][name].numpy().tobytes() == tensor.numpy().tobytes(), f"{group}/{name}"


@pytest.mark.parametrize(("task", "planner", "environments"), CASES)
def test_a_run_stopped_between_any_two_steps_ends_like_the_unbroken_one(
    tmp_path, monkeypatch, task, planner, environments
):
    check_that_stopping_changes_nothing(asked(task, planner, environments), tmp_path, monkeypatch)


@dataclass(frozen=True)
class LaterSettings(JEPAAgentSettings):
    """Those of a version with other defaults."""

    exploration: float = 0.9
    behaviour: BehaviourSettings = field(default_factory=lambda: BehaviourSettings(smoothing=0.7))


def stopped_half_way(settings, folder, monkeypatch):
    learn = OnlineTraining.learn

    def stopping(training, updates):
        learn(training, updates)
        if training.steps == 50:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(OnlineTraining, "learn", stopping)
        assert train(settings, folder).status == "interrupted"


def test_so_does_one_whose_defaults_have_changed_since(tmp_path, monkeypatch):
    train(asked("Pendulum-v1", "policy", 1), tmp_path / "whole")
    stopped_half_way(asked("Pendulum-v1", "policy", 1), tmp_path / "run", monkeypatch)
    monkeypatch.setattr(JEPAAgent, "Settings", LaterSettings)
    assert resume(tmp_path / "run").status == "finished"
    assert Run.open(tmp_path / "run").manifest["resume"] == "exact"
    assert_same(everything(tmp_path / "run"), everything(tmp_path / "whole"))


def test_settings_younger_than_its_checkpoint_are_what_they_were_before_they_could_be_set(tmp_path, monkeypatch):
    asked_for = asked("Pendulum-v1", "policy", 1)
    stopped_half_way(asked_for, tmp_path / "run", monkeypatch)
    had = JEPAAgentSettings(**asked_for.agent_settings).to_dict()
    del had["planning"]["doubt"], had["planning"]["bootstrap"], had["behaviour"]["value_expansion"]
    run = Run.open(tmp_path / "run")
    checkpoint = run.latest_checkpoint()
    checkpoint.documents["agent"]["settings"] = had
    found = settings_to_go_on_with(run, checkpoint, asked_for).agent_settings
    assert (found["planning"]["doubt"], found["planning"]["bootstrap"]) == (0.0, "last")
    assert found["behaviour"]["value_expansion"] is None


@pytest.mark.filterwarnings("ignore:.*config.json was changed")
def test_what_its_settings_were_changed_to_holds_and_what_was_taken_out_of_them_has_its_default(tmp_path, monkeypatch):
    settings = asked("Pendulum-v1", "policy", 1)
    chosen = settings.agent_settings | {"exploration": 0.4, "endings": 0.1}
    stopped_half_way(settings.replace(agent_settings=chosen), tmp_path / "run", monkeypatch)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    del config["agent_settings"]["exploration"]
    config["agent_settings"] |= {"endings": 0.2}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(JEPAAgent, "Settings", LaterSettings)
    with pytest.warns(UserWarning, match="endings was 0.1, is 0.2; agent_settings.exploration was 0.4, is 0.9"):
        resume(tmp_path / "run")
    noted = Run.open(tmp_path / "run").manifest
    assert noted["resume"] == "inexact"
    assert noted["agent_settings"]["behaviour"]["smoothing"] == BehaviourSettings().smoothing, "as it was, of itself"


def test_what_a_run_comes_from_is_not_held_while_it_learns(tmp_path, monkeypatch):
    held = []

    def load(run, load=Run.latest_checkpoint):
        checkpoint = load(run)
        held.append(weakref.ref(checkpoint))
        return checkpoint

    def learn(training, updates, learn=OnlineTraining.learn):
        alive.append(held[0]() is not None)
        learn(training, updates)

    alive: list[bool] = []
    stopped_half_way(asked("Pendulum-v1", "policy", 1), tmp_path / "run", monkeypatch)
    monkeypatch.setattr(Run, "latest_checkpoint", load)
    monkeypatch.setattr(OnlineTraining, "learn", learn)
    resume(tmp_path / "run")
    assert alive
    assert not any(alive)


@pytest.mark.parametrize(
    ("had", "before", "now", "goes_on"),
    [
        ({"a": 1, "b": 2}, {}, {}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}, {"a": 3}, {"a": 3, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}, {}, {"b": 2}),
        ({"a": {"c": 1, "d": 2}, "b": 2}, {"a": {"c": 1}}, {}, {"a": {"d": 2}, "b": 2}),
        ({"a": {"c": 1, "d": 2}}, {"a": {"c": 1}}, {"a": {"c": 1, "d": 5}}, {"a": {"c": 1, "d": 5}}),
        ({"a": {"c": 1, "d": 2}}, {"a": None}, {"a": None}, {"a": {"c": 1, "d": 2}}),
        ({"a": {"c": 1, "d": 2}}, {}, {"a": None}, {"a": None}),
        ({"planning": {"planner": "mppi", "horizon": 3}}, {"planner": "mppi"}, {}, {"planning": {"horizon": 3}}),
        ({"planning": {"planner": "mppi"}}, {"planner": "mppi"}, {"planner": "cem"}, {"planning": {"planner": "cem"}}),
    ],
)
def test_only_what_is_asked_for_otherwise_than_before_is_changed(had, before, now, goes_on):
    words = (_spelled_out(one, JEPAAgentSettings) for one in (before, now))
    assert _altered(had, *words) == goes_on


def test_settings_that_there_are_no_more_are_left_out_at_any_depth():
    noted = JEPAAgentSettings(model={"vision": VisionSettings(image_size=32, patch_size=8)}).to_dict()
    later = {**noted, "gone": 1, "model": {**noted["model"], "gone": 2}}
    later["model"]["vision"] = {**noted["model"]["vision"], "gone": 3}
    assert without_unknown(JEPAAgentSettings, later) == noted


def test_settings_younger_than_a_file_are_what_they_were_before_they_could_be_set():
    noted = JEPAAgentSettings().settled((3,)).to_dict()
    for name in SIGREG:
        del noted["model"][name]
    assert completed(JEPAAgentSettings, noted)["model"] == noted["model"] | SIGREG
    known = noted | {"model": noted["model"] | TARGET_COPY}
    assert completed(JEPAAgentSettings, known) == known


@pytest.mark.filterwarnings("ignore:.*config.json was changed")
def test_the_same_settings_in_other_words_are_no_change(tmp_path, monkeypatch):
    settings = asked("Pendulum-v1", "policy", 1)
    train(settings, tmp_path / "whole")
    stopped_half_way(settings, tmp_path / "run", monkeypatch)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["agent_settings"]["exploration"] = JEPAAgentSettings().exploration
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    resume(tmp_path / "run")
    assert Run.open(tmp_path / "run").manifest["resume"] == "exact"
    assert_same(everything(tmp_path / "run"), everything(tmp_path / "whole"))


@pytest.fixture
def going_on(tmp_path):
    """What a run is asked for that goes on from a world model, and in whose mix recorded episodes stay."""
    collect(CollectSettings("Pendulum-v1", episodes=4, max_steps=40, jobs=1), tmp_path / "store")
    small = {"model": {"latent_dims": 8, "hidden": 16, "directions": 8}, "updates": 4, "batch_size": 4}
    pretrain(PretrainSettings(str(tmp_path / "store"), checkpoints=1, training=small), tmp_path / "pretrained")
    changes = {
        name: value for name, value in asked("Pendulum-v1", "policy", 2).agent_settings.items() if name != "model"
    }
    paths = {"world_model": str(tmp_path / "pretrained"), "store": str(tmp_path / "store")}
    return TrainSettings("Pendulum-v1", steps=90, evaluations=2, episodes=1, agent_settings=changes, **paths)


@pytest.mark.filterwarnings("ignore:The latents have collapsed")
def test_so_does_one_with_recorded_episodes_without_the_world_model_that_it_went_on_from(
    tmp_path, monkeypatch, going_on
):
    begin = OnlineTraining.begin

    def forget(training):
        begin(training)
        if (tmp_path / "run").exists():
            shutil.rmtree(tmp_path / "pretrained", ignore_errors=True)

    monkeypatch.setattr(OnlineTraining, "begin", forget)
    before = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    check_that_stopping_changes_nothing(going_on, tmp_path, monkeypatch)
    assert not (tmp_path / "pretrained").exists()
    assert {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()} == before
    assert Run.open(tmp_path / "run").manifest["built_anew"] == ["continue_head", "reward_head"]


@pytest.mark.filterwarnings("ignore:The latents have collapsed", "ignore:.*config.json was changed")
def test_a_run_goes_on_with_the_very_episodes_that_it_learned_from_wherever_they_are(tmp_path, monkeypatch, going_on):
    monkeypatch.chdir(tmp_path)  # and is told of them by relative paths
    stopped_half_way(going_on.replace(world_model="pretrained", store="store"), tmp_path / "run", monkeypatch)
    monkeypatch.chdir("/")
    (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="store holds no episode store"):
        resume(tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    shutil.copytree(tmp_path / "moved", tmp_path / "more")
    collect(CollectSettings("Pendulum-v1", episodes=1, max_steps=40, jobs=1), tmp_path / "more")
    for changes, error, said in (
        ({"store": str(tmp_path / "more")}, CheckpointError, "have changed, or are others: there are 200 steps"),
        ({"store": ""}, CheckpointError, "give them"),
        ({"world_model": ""}, RunFolderError, "another run"),
    ):
        moved = {"store": str(tmp_path / "moved")}
        (tmp_path / "run" / "config.json").write_text(json.dumps(config | moved | changes))
        with (
            pytest.raises(error, match=said),
            pytest.warns(UserWarning, match="goes on with other settings")
            if (error is CheckpointError)
            else nullcontext(),
        ):
            resume(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | moved))
    with pytest.warns(UserWarning, match="goes on with other settings: store was"):
        assert resume(tmp_path / "run").status == "finished"
    assert Run.open(tmp_path / "run").manifest["resume"] == "exact"


def test_so_does_one_whose_environments_run_and_crash_in_processes_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("forethought.envs.supervision.BACK_OFF_S", 0.0)
    monkeypatch.setitem(gym.registry, "Crashing-v0", gym.envs.registration.EnvSpec("Crashing-v0", Crashing))
    monkeypatch.setattr(Crashing, "trainer", os.getpid())
    settings = asked("Crashing-v0", "policy", 3, in_processes=True)
    check_that_stopping_changes_nothing(settings, tmp_path, monkeypatch)
    assert [row["env/restarts"] for row in everything(tmp_path / "run")[2] if "env/restarts" in row][-1] == 3


class Crashing(gym.wrappers.TimeLimit):
    """Pendulum-v1 in episodes of 10 steps, of which some crash, though never in the trainer."""

    trainer = 0

    def __init__(self, render_mode=None):
        super().__init__(gym.make("Pendulum-v1").unwrapped, 10)

    def reset(self, *, seed=None, options=None):
        self.crashes = seed % 4 == 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if self.crashes and self._elapsed_steps == 3 and os.getpid() != self.trainer:
            os._exit(1)
        return super().step(action)


cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests


def check_that_stopping_changes_nothing(settings, tmp_path, monkeypatch):
    train(settings, tmp_path / "unbroken")
    learn, stops = OnlineTraining.learn, [27, 71]  # while the first updates are made up for, and in mid-episode

    def stopped(training, updates):
        learn(training, updates)
        if stops and training.steps >= stops[0]:
            stops.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(OnlineTraining, "learn", stopped)
    assert train(settings, tmp_path / "run").status == "interrupted"
    assert resume(tmp_path / "run").status == "interrupted"
    assert resume(tmp_path / "run").status == "finished"
    assert Run.open(tmp_path / "run").manifest["resume"] == "exact"
    assert_same(everything(tmp_path / "run"), everything(tmp_path / "unbroken"))


KILLED = """
import json, os, signal, sys
from forethought.agents.online import OnlineTraining
from forethought.evaluations import TrainSettings, train

learn = OnlineTraining.learn

def killed(training, updates):
    learn(training, updates)
    if training.steps == 71:
        os.kill(os.getpid(), signal.SIGKILL)

OnlineTraining.learn = killed
train(TrainSettings.from_dict(json.loads(sys.argv[1])), sys.argv[2])
"""


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint_and_ends_like_the_unbroken_one(tmp_path):
    settings = asked("CartPole-v1", "policy", 1)
    train(settings, tmp_path / "unbroken")
    arguments = [json.dumps(settings.to_dict()), str(tmp_path / "run")]
    process = subprocess.run([sys.executable, "-c", KILLED, *arguments], timeout=120, check=False)
    assert process.returncode == -signal.SIGKILL
    assert resume(tmp_path / "run").status == "finished"
    assert_same(everything(tmp_path / "run"), everything(tmp_path / "unbroken"))
