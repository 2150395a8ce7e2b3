"""Agents go on from pretrained world models and recorded episodes, which they leave as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from forethought import JEPAAgent
from forethought.agents.pretrain import Pretraining, PretrainingSettings
from forethought.agents.pretrained import pretrained_model
from forethought.core.errors import CheckpointError, SettingsError
from forethought.core.runs import Run
from forethought.envs import EpisodeStore
from forethought.world_model import JEPA, JEPASettings, load_model, save_model

from .conftest import SMALL, Target, same
from .test_pretrain import MODEL as IMAGE_MODEL

STATE = {"latent_dims": 8, "hidden": 16, "directions": 8, "heads": False, "regularizer_weight": 0.07}
AGENT = {name: value for name, value in SMALL.items() if name != "model"}
MARK = 7.0
"""What recorded observations begin with, and none of the agent's own does."""
pytestmark = pytest.mark.filterwarnings("ignore:The latents have collapsed")


def fill(store: EpisodeStore, episodes: int = 6, reward: float = -0.5) -> EpisodeStore:
    """Add marked episodes of 12 steps, of which every other one ends in a terminal state."""
    rng = np.random.default_rng(0)
    for number in range(episodes):
        if len(store.observation_shape) == 3:
            observations = rng.integers(0, 256, (13, *store.observation_shape), dtype=np.uint8)
        else:
            observations = rng.uniform(-1, 1, (13, *store.observation_shape)).astype(np.float32)
            observations[:, 0] = MARK
        actions = rng.uniform(-1, 1, (12, store.action_dims)).astype(np.float32)
        store.add_episode(observations, actions, np.full(12, reward, np.float32), number % 2 == 0, number % 2 == 1)
    store.flush()
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(EpisodeStore(2, 2, folder=tmp_path / "store"))
    return tmp_path / "store"


def pretrained(store: EpisodeStore, model: dict[str, Any]) -> JEPA:
    training = Pretraining(store, PretrainingSettings.from_dict({"model": model, "updates": 5, "batch_size": 4}))
    for _ in range(5):
        training.learn()
    return training.model


@pytest.fixture
def model(folder: Path) -> JEPA:
    return pretrained(EpisodeStore.open(folder), STATE)


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["model", "file", "run"])
def test_everything_is_taken_over_and_missing_heads_begin_at_zero(model, tmp_path, kind):
    save_model(model, tmp_path / "model.zip")
    source = {"model": model, "file": tmp_path / "model.zip", "run": tmp_path}[kind]
    agent = JEPAAgent(Target, world_model=source, **AGENT)
    taken = agent.model.state_dict()
    assert all(torch.equal(taken[name], weight) for name, weight in model.state_dict().items())
    assert agent.built_anew == ["continue_head", "reward_head"]
    assert not taken["reward_head.logits.weight"].any()
    assert agent.settings.model == model.settings.replace(heads=True)
    assert float(agent.model.normalizer.count) > 0
    again = JEPAAgent(Target, world_model=agent.model, **AGENT)
    assert not again.built_anew
    assert same(again, agent)


def test_the_model_that_was_given_stays_as_it_is(model, folder):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    agent = JEPAAgent(Target, world_model=model, store=folder, **AGENT).learn(30)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert not torch.equal(agent.model.state_dict()["encoder.layers.0.weight"], before["encoder.layers.0.weight"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"latent_dims": 16}, "model.latent_dims = 16 contradicts .* has 8"),
        ({"block": 2}, "model.block = 2"),
        ({"latent_form": "layer"}, "model.latent_form = 'layer'"),
        (JEPASettings(), "model.latent_dims = 64"),
        ({"vision": {}}, "model.vision"),
        ({"latent_dim": 8}, "has no setting 'latent_dim'"),
        ({"heads": False}, "heads = False"),
        (5, "JEPASettings needs a mapping"),
    ],
)
def test_settings_that_contradict_the_model_are_named(model, changes, named):
    with pytest.raises(SettingsError, match=named):
        JEPAAgent(Target, world_model=model, model=changes, **AGENT)


def test_what_is_left_to_be_decided_was_decided_by_the_model(model):
    auto = {"latent_form": "auto", "target": "auto", "regularize": "auto"}
    whole = model.settings.replace(heads=True, **auto)
    for changes in (auto, whole, whole.to_dict()):
        assert JEPAAgent(Target, world_model=model, model=changes, **AGENT).settings.model.regularize == "latent"


def test_how_it_learns_on_may_be_changed(model):
    changes = {"unroll": 2, "regularizer_weight": 0.2, "reward_bins": 33, "reward_weight": 1.0}
    agent = JEPAAgent(Target, world_model=model, model=changes, **AGENT)
    assert agent.settings.model == model.settings.replace(heads=True, **changes)
    with pytest.raises(SettingsError, match="reward_bins"):  # which its heads now have
        JEPAAgent(Target, world_model=agent.model, model={"reward_bins": 65}, **AGENT)


@pytest.mark.parametrize(("share", "count"), [(0.5, 4), (0.25, 2), (0.01, 1), (0.99, 7)])
def test_the_stated_share_of_every_batch_is_recorded_and_the_files_stay_as_they_are(model, folder, share, count):
    before = files(folder)
    agent = JEPAAgent(Target, world_model=model, store=folder, recorded_share=share, endings=0.25, **AGENT)
    update, counts = agent.learner.update, []

    def counting(clip):
        counts.append((clip.observations[:, 0, 0] == MARK).sum().item())
        return update(clip)

    agent.learner.update = counting
    agent.learn(60)
    assert counts == [count] * 60
    assert agent._training.store.rows == 60
    assert not (agent._training.store.arrays()["observations"][:, 0] == MARK).any()
    assert all(weight.isfinite().all() for weight in agent.model.state_dict().values())
    assert files(folder) == before


def test_rewards_are_measured_by_the_mean_of_what_is_learned_from(model, folder):
    agent = JEPAAgent(Target, world_model=model, store=folder, recorded_share=0.25, **AGENT).learn(20)
    own = np.abs(agent._training.store.arrays()["rewards"]).mean()
    assert float(agent.behaviour.reward_scale) == pytest.approx(0.75 * own + 0.25 * 0.5, rel=1e-4)


def test_images_and_blocks_of_actions_are_gone_on_with():
    def make():
        return Target(observation_space=spaces.Box(0, 255, (8, 8, 3), np.uint8))

    store = fill(EpisodeStore((8, 8, 3), 2))
    model = pretrained(store, IMAGE_MODEL)
    agent = JEPAAgent(make, world_model=model, store=store, **AGENT)
    assert agent.spec.block == 2
    assert torch.equal(agent.model.predictor.action_encoder.mean, model.predictor.action_encoder.mean)
    agent.learn(40)
    assert agent.learner.optimization.updates == 40
    assert not agent.learner.optimization.skipped
    assert all(weight.isfinite().all() for weight in agent.model.state_dict().values())
    assert torch.equal(agent.model.predictor.action_encoder.mean, model.predictor.action_encoder.mean)
    with pytest.raises(SettingsError, match=r"transformer.depth = 2 contradicts"):
        JEPAAgent(make, world_model=model, model={"transformer": {"depth": 2, "dropout": 0.0}}, **AGENT)
    JEPAAgent(make, world_model=model, model={"transformer": {"dropout": 0.0}}, **AGENT)
    fixed = IMAGE_MODEL | {"vision": IMAGE_MODEL["vision"] | {"normalize": "imagenet"}, "heads": True}
    fresh = JEPAAgent(make, store=store, model=fixed, **AGENT)  # whose normaliser counts nothing
    assert fresh.model.predictor.action_encoder.mean.abs().max() > 0


@pytest.mark.parametrize("rewarded", [True, False])
def test_rewards_of_another_task_are_not_learned_from_if_told_so(model, rewarded):
    cheap, dear = (fill(EpisodeStore(2, 2), reward=reward) for reward in (0.0, 1000.0))
    agents = [
        JEPAAgent(Target, world_model=model, store=store, recorded_rewards=rewarded, **AGENT).learn(40)
        for store in (cheap, dear)
    ]
    assert same(*agents) is not rewarded
    without = JEPAAgent(Target, world_model=model, **AGENT).learn(40)
    assert not same(agents[0], without)


def test_a_store_of_another_task_is_refused_unless_its_rewards_are_left_out(tmp_path):
    fill(EpisodeStore(3, 1, folder=tmp_path))
    (tmp_path / "source.json").write_text(json.dumps({"task": "Swimmer-v5", "env": {}}))
    with pytest.raises(SettingsError, match=r"of the task Swimmer-v5, not of Pendulum-v1.*recorded_rewards = False"):
        JEPAAgent("Pendulum-v1", store=tmp_path, **SMALL)
    agent = JEPAAgent("Pendulum-v1", store=tmp_path, recorded_rewards=False, **SMALL)
    assert agent.recordings.rows == 72
    (tmp_path / "source.json").write_text(json.dumps({"task": "Pendulum-v1", "env": {"g": 9.0}}))
    with pytest.raises(SettingsError, match="with the arguments"):
        JEPAAgent("Pendulum-v1", store=tmp_path, **SMALL)
    (tmp_path / "source.json").write_text(json.dumps({"task": "Pendulum-v1", "env": {}}))
    JEPAAgent("Pendulum-v1", store=tmp_path, **SMALL)


def test_an_agent_that_has_seen_nothing_takes_the_statistics_of_the_recordings(folder):
    agent = JEPAAgent(Target, store=folder, **SMALL)
    assert float(agent.model.normalizer.mean[0]) == MARK
    assert float(agent.model.normalizer.count) == 72
    agent.learn(30)
    assert float(agent.model.normalizer.count) > 72


def test_an_unfinished_run_is_gone_on_from_with_a_warning(model, tmp_path, recwarn):
    with Run.create(tmp_path / "run", {}, kind="pretrain") as run:
        save_model(model, run.folder / "model.zip")
        run.set_status("interrupted")
    with pytest.warns(UserWarning, match="run is interrupted: the world model is what was saved of it last"):
        pretrained_model(tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        run.set_status("finished")
    recwarn.clear()
    pretrained_model(tmp_path / "run")
    assert not recwarn


def test_what_does_not_fit_the_environment_is_refused(model, folder, tmp_path):
    wide = spaces.Box(-1, 1, (3,), np.float32)
    for make, said in (
        (
            lambda: Target(observation_space=wide),
            r"observations of the shape \(2,\).*environment have the shape \(3,\)",
        ),
        (lambda: Target(wide), "blocks of 1 actions of 2 dimensions; those of the environment have 3"),
        (lambda: Target(observation_space=spaces.Box(0, 255, (8, 8, 3), np.uint8)), r"\(8, 8, 3\)"),
    ):
        with pytest.raises(SettingsError, match=said):
            JEPAAgent(make, world_model=model, **AGENT)
        with pytest.raises(SettingsError, match="of another environment: their observations and actions have the shap"):
            JEPAAgent(make, store=folder, **SMALL)
    with pytest.raises(SettingsError, match="not one-hots"):
        JEPAAgent(lambda: Target(spaces.Discrete(2)), store=folder, **SMALL)
    with pytest.raises(CheckpointError, match=r"holds no world model \(model.zip\)"):
        JEPAAgent(Target, world_model=folder, **AGENT)
    with pytest.raises(CheckpointError, match=r"There is no folder .*nothing of a pretraining run"):
        JEPAAgent(Target, world_model=tmp_path / "nothing", **AGENT)
    with pytest.raises(CheckpointError, match="holds no episode store"):
        JEPAAgent(Target, store=tmp_path / "nothing", **SMALL)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(SettingsError, match="hold no step"):
        JEPAAgent(Target, store=EpisodeStore(2, 2), **SMALL)
    for wrong in ({"world_model": 3}, {"store": 3}):
        with pytest.raises(SettingsError, match="not int"):
            JEPAAgent(Target, **wrong, **AGENT)


def test_parts_that_are_not_built_from_settings_are_refused(model):
    model.encoder = torch.nn.Linear(2, 8)
    with pytest.raises(SettingsError, match="not what its settings say"):
        JEPAAgent(Target, world_model=model, **AGENT)
    alike = JEPA(model.observation_shape, model.action_dims, model.settings, predictor=model.predictor)
    with pytest.raises(SettingsError, match=r"of its own making \(predictor\)"):  # though all names and shapes agree
        JEPAAgent(Target, world_model=alike, **AGENT)


@pytest.mark.parametrize("rewarded", [True, False])
def test_a_checkpoint_continues_bit_for_bit(model, folder, rewarded):
    def make() -> JEPAAgent:
        return JEPAAgent(Target, world_model=model, store=folder, recorded_rewards=rewarded, **AGENT)

    unbroken, stopped = make(), make()
    unbroken.learn(33).learn(40, reset_num_timesteps=False)
    checkpoint = stopped.learn(33).checkpoint()
    plain = JEPAAgent(Target, store=folder, recorded_rewards=rewarded, model=stopped.settings.model, **AGENT)
    for resumed in (make(), plain):  # the pretrained model is not needed any more
        assert resumed.restore(checkpoint)
        assert same(resumed.learn(40, reset_num_timesteps=False), unbroken)


def test_a_checkpoint_goes_on_with_the_same_recordings_alone(model, folder, tmp_path):
    checkpoint = JEPAAgent(Target, world_model=model, store=folder, **AGENT).learn(30).checkpoint()
    with pytest.raises(CheckpointError, match=r"learned from the recordings in .*store \(72 steps\) too: give them"):
        JEPAAgent(Target, world_model=model, **AGENT).restore(checkpoint)
    shutil.copytree(folder, tmp_path / "copy")
    assert JEPAAgent(Target, world_model=model, store=tmp_path / "copy", **AGENT).restore(checkpoint)
    actions = np.memmap(tmp_path / "copy" / "actions.bin", np.float32, "r+")
    actions[5] += 0.01
    actions.flush()
    fill(EpisodeStore.open(folder), 1)
    for changed, rows in ((tmp_path / "copy", 72), (folder, 84)):
        with pytest.raises(CheckpointError, match=f"have changed, or are others: there are {rows} steps"):
            JEPAAgent(Target, world_model=model, store=changed, **AGENT).restore(checkpoint)
    without = JEPAAgent(Target, world_model=model, **AGENT).learn(30).checkpoint()
    with pytest.raises(CheckpointError, match="leave the store out"):
        JEPAAgent(Target, world_model=model, store=folder, **AGENT).restore(without)


def test_a_saved_agent_acts_alone_and_learns_on_with_its_recordings_or_explicitly_without(model, folder, tmp_path):
    save_model(model, tmp_path / "model.zip")
    agent = JEPAAgent(Target, world_model=tmp_path, store=folder, **AGENT).learn(30)
    agent.save(tmp_path / "agent")
    recordings = fill(EpisodeStore(2, 2))
    shutil.rmtree(folder)
    (tmp_path / "model.zip").unlink()
    loaded = JEPAAgent.load(tmp_path / "agent", Target)
    observation = np.zeros(2, np.float32)
    assert np.array_equal(loaded.predict(observation)[0], agent.predict(observation)[0])
    with pytest.raises(SettingsError, match=r"store \(72 steps\), beside its own steps: call set_store"):
        loaded.learn(30)
    loaded.save(tmp_path / "again")
    with pytest.raises(SettingsError, match="call set_store"):
        JEPAAgent.load(tmp_path / "again", Target).learn(30)
    loaded.set_store(None)
    loaded.learn(10)
    assert loaded.recordings is None
    assert JEPAAgent.load(tmp_path / "again", Target, store=recordings).learn(10).recordings.rows == 72
    assert load_model(save_model(agent.model, tmp_path / "extracted"))[0].settings.heads


def test_what_is_recorded_later_is_not_learned_from(folder):
    store = EpisodeStore.open(folder)
    agent = JEPAAgent(Target, store=store, **SMALL)
    observations = np.full((13, 2), 2 * MARK, np.float32)
    store.add_episode(observations, np.zeros((12, 2)), np.zeros(12), False, True)
    clip = agent.recordings.sample(2000, agent.model.clip_spec, np.random.default_rng(0), 0.2, True)
    assert (clip.observations[..., 0] == MARK).all()
