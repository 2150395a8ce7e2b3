"""Wishes judged: experience lived through again, probes fitted to it, and what the simulator says became of a wish."""

from __future__ import annotations

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest

from forethought.agents import Wish, quantity
from forethought.core.errors import CheckpointError, SettingsError, UnknownNameError
from forethought.core.runs import Run
from forethought.envs import make_env
from forethought.envs.quantities import Quantities
from forethought.envs.states import state_of
from forethought.evaluations import experience, wish_probes
from forethought.evaluations.action_limits import action_limits
from forethought.evaluations.experience import relived
from forethought.evaluations.settings import TrainSettings
from forethought.evaluations.training import train
from forethought.evaluations.wishing import evaluate_wish
from forethought.world_model import MLPProbeSettings

TASK = "InvertedPendulum-v5"
SMALL = {
    "model": {"latent_dims": 8, "hidden": 16},
    "behaviour": {"hidden": 16},
    "batch_size": 8,
    "learning_starts": 150,
    "planning": {"planner": "policy"},
}


def trained(folder, task=TASK, **settings):
    run = TrainSettings(task, steps=240, evaluations=2, episodes=1, agent_settings=SMALL | settings)
    train(run, folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two environments together, and a checkpoint half way."""
    return trained(tmp_path_factory.mktemp("wishes") / "run", num_envs=2)


def test_experience_is_lived_through_again_to_the_bit(run):
    episodes = relived(run)
    assert sum(len(episode.actions) for episode in episodes) == 240
    assert len(episodes) > 10
    for episode in episodes:
        assert np.array_equal(episode.states.astype(np.float32), episode.observations)  # they are the same in this task
        assert len(episode.states) == len(episode.actions) + 1
    ended = [episode.terminated for episode in episodes]
    assert sum(ended) >= len(episodes) - 2  # all but those that were running, one in each environment
    assert not any(episode.truncated for episode in episodes if episode.terminated)


def test_what_comes_out_otherwise_is_left_out(run, monkeypatch):
    whole, real = len(relived(run)), experience.episode_seed
    monkeypatch.setattr(
        experience, "episode_seed", lambda seed, environment, number: real(seed, environment, number + 1)
    )
    assert 0 < len(relived(run)) < whole  # the first in each environment is no longer found, the others are
    monkeypatch.setattr(experience, "episode_seed", lambda seed, environment, number: 3)
    with pytest.raises(SettingsError, match="can be repeated"):
        relived(run)


def test_runs_without_experience_or_states_say_so(tmp_path, run, monkeypatch):
    with Run.create(tmp_path / "empty", TrainSettings(TASK, steps=1).to_dict()):
        pass
    with pytest.raises(CheckpointError):
        relived(tmp_path / "empty")
    monkeypatch.setattr(experience, "state_of", lambda env: None)
    with pytest.raises(SettingsError, match="does not tell its state"):
        relived(run)


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(wish_probes, "SETTINGS", MLPProbeSettings(hidden=16, updates=60, looks=2))


def test_probes_are_fitted_once_and_known_by_the_model(run, quickly, monkeypatch):
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        first = wish_probes.wish_probes(run, ["hinge_angle"], told.append)
        assert told == ["repeating the agent's own episodes", "fitting a probe of hinge_angle"]
        both = wish_probes.wish_probes(run, ["hinge_velocity", "hinge_angle", "hinge_angle"], told.append)
        assert list(both) == ["hinge_velocity", "hinge_angle"]
        assert told[2:] == ["repeating the agent's own episodes", "fitting a probe of hinge_velocity"]
        assert float(both["hinge_angle"].r) == float(first["hinge_angle"].r)
        monkeypatch.setattr(wish_probes, "relived", lambda folder: pytest.fail("it was fitted already"))
        again = wish_probes.wish_probes(run, ["hinge_velocity"])
        assert float(again["hinge_velocity"].r) == float(both["hinge_velocity"].r)


def test_the_probe_of_another_model_is_fitted_anew(tmp_path, run, quickly):
    other = trained(tmp_path / "other", num_envs=1)
    (other / wish_probes.PROBES_FILE).write_bytes((run / wish_probes.PROBES_FILE).read_bytes())
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        wish_probes.wish_probes(other, ["hinge_angle"], told.append)
    assert told


def test_what_cannot_be_read_is_said(run, quickly, monkeypatch):
    with pytest.raises(UnknownNameError, match="Did you mean 'hinge_angle'"):
        wish_probes.wish_probes(run, ["hinge_angel"])
    with pytest.raises(SettingsError, match="never varied"):
        wish_probes.wish_probes(run, ["contact_force"])
    monkeypatch.setattr(wish_probes, "WELL_READ", 1.1)
    with pytest.warns(UserWarning, match="with a correlation of"):
        wish_probes.wish_probes(run, ["hinge_angle"])


class Push:
    """Always does the same."""

    def __init__(self, force):
        self.force = force

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full((len(observation), 1), self.force, np.float32), None


def test_the_simulator_tells_what_became_of_a_wish():
    wish = Wish.parse("slider_position=0.1, hinge_velocity>=0, slider_position=max, 0.1*effort")
    rows = []
    table = evaluate_wish({"rest": Push(0.0), "push": Push(1.0)}, TASK, wish, episodes=3, seed=5, on_row=rows.append)
    assert [row.name for row in rows] == ["rest", "push"]
    quantities = Quantities(make_env(TASK))
    for row, force in zip(table.rows, (0.0, 1.0), strict=True):
        values, missed, below = [], [], []
        for seed in row.evaluation.seeds.tolist():
            env = make_env(TASK)
            env.reset(seed=seed)
            states, done = [state_of(env)], False
            while not done:
                _, _, terminated, truncated, _ = env.step(np.array([force], np.float32))
                states.append(state_of(env))
                done = terminated or truncated
            last = quantities.of_states(np.stack(states[len(states) // 2 :]))
            place = last[:, quantities.index("slider_position")]
            speed = last[:, quantities.index("hinge_velocity")]
            values.append(place.mean())
            missed.append(np.abs(place - 0.1).mean())
            below.append(np.maximum(-speed, 0).mean())
        held, turning, far = row.fulfilments
        assert held.value.value == pytest.approx(np.mean(values))
        assert held.missed.value == pytest.approx(np.mean(missed))
        assert turning.missed.value == pytest.approx(np.mean(below))
        assert far.missed is None
        assert far.value == held.value
    text = table.table().to_markdown()
    assert text.splitlines()[2].count("slider_position (m)") == 1
    assert "missed 0.1 by" in text


def test_figures_of_a_wish_are_kept(tmp_path):
    table = evaluate_wish({"rest": Push(0.0)}, TASK, quantity("hinge_angle", at_least=-0.1), episodes=2, limits="0=1")
    kept = json.loads(table.save(tmp_path).read_text())
    assert (kept["wish"], kept["task"], kept["limits"], kept["episodes"]) == ("hinge_angle>=-0.1", TASK, "0=1", 2)
    assert kept["rows"][0]["terms"][0]["missed"]["value"] == table.rows[0].fulfilments[0].missed.value
    assert kept["process"]["versions"]["mujoco"]
    with pytest.raises(UnknownNameError):
        evaluate_wish({"rest": Push(0.0)}, TASK, quantity("x_velocity", target=1.0))


def test_where_no_episode_is_sound_nothing_is_known():
    table = evaluate_wish({"mad": Push(np.nan)}, TASK, quantity("hinge_angle", target=0.0), episodes=2)
    assert table.rows[0].fulfilments[0].value is None
    assert "unknown" in table.table().to_markdown()
    assert table.to_dict()["rows"][0]["terms"][0]["missed"] is None


def test_limits_are_said_by_actuators():
    cheetah = make_env("HalfCheetah-v5")
    box = action_limits(cheetah, "bthigh=0, bshin=-0.25:0.5, 2=0.125, all=0.75")
    assert box.low.tolist() == [0, -0.25, -0.125, -0.75, -0.75, -0.75]
    assert box.high.tolist() == [0, 0.5, 0.125, 0.75, 0.75, 0.75]
    with pytest.raises(UnknownNameError, match="Did you mean 'bthigh'"):
        action_limits(cheetah, "bthig=0")
    for text, said in (
        ("bthigh", "is no limit"),
        ("bthigh=0.5:1, bthigh=0.2", "leave nothing"),
        ("bfoot=2:1", "nothing"),
    ):
        with pytest.raises(SettingsError, match=said):
            action_limits(cheetah, text)
    with pytest.raises(SettingsError, match="rows of numbers"):
        action_limits(make_env("CartPole-v1"), "0=1")


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ("cheetah-hold-1", lambda v: -abs(v - 1)),
        ("cheetah-hold-2", lambda v: -abs(v - 2)),
        ("cheetah-stand-still", lambda v: -abs(v)),
        ("cheetah-backward", lambda v: -v),
    ],
)
def test_cheetahs_are_paid_for_velocities(task, wanted):
    env, usual = make_env(task), make_env("HalfCheetah-v5")
    for one in (env, usual):
        one.action_space.seed(0)
        one.reset(seed=0)
    for _ in range(5):
        action = env.action_space.sample()
        seen, paid, *_ = env.step(action)
        also_seen, _, _, _, info = usual.step(action)
        assert np.array_equal(seen, also_seen)
        assert paid == wanted(info["x_velocity"])


def test_a_dead_actuator_does_nothing():
    env = make_env("cheetah-dead-actuator")
    env.reset(seed=0)
    asked = np.array([1, 0.5, 0, 0, 0, 0], np.float32)
    one = env.step(asked)[:2]
    assert asked[0] == 1
    usual = make_env("HalfCheetah-v5")
    usual.reset(seed=0)
    other = usual.step(np.array([0, 0.5, 0, 0, 0, 0], np.float32))[:2]
    assert np.array_equal(one[0], other[0])
    assert one[1] == other[1]
    assert isinstance(env.action_space, gym.spaces.Box)
