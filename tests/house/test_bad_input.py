"""Every mistake that a user can make ends in one clear sentence and exit code 2, without a traceback or a loss."""

from __future__ import annotations

import pickle
import re
import shutil
import sys
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from forethought.core.runs import Run

VECTOR = Box(-1.0, 1.0, (2,), np.float32)


class SpacesOnly(gym.Env):
    """Mostly asked for its spaces only; ``broken`` is what it gets wrong at the third step of every n-th episode."""

    def __init__(self, observation_space=VECTOR, action_space=VECTOR, broken=None, every=2, render_mode=None):
        self.observation_space, self.action_space, self.broken = observation_space, action_space, broken
        self.episode, self.every = 0, every

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        assert np.isfinite(action).all()
        wrong = self.time == 3 and self.episode % self.every == 0
        observation = np.full(2, np.nan if wrong and self.broken == "observation" else self.time, np.float32)
        reward = float("inf") if wrong and self.broken == "reward" else 1.0
        return observation, reward, False, self.time >= 6, {}


@pytest.fixture
def task():
    """Return a function that makes a Gymnasium id for :class:`SpacesOnly` with the given arguments."""
    made = []

    def make(**kwargs) -> str:
        name = f"Bad{len(made)}-v0"
        gym.register(name, entry_point=SpacesOnly, kwargs=kwargs)
        made.append(name)
        return name

    yield make
    for name in made:
        del gym.registry[name]


MISTAKES = {
    "train InvertedPendlum-v5": ["unknown task 'InvertedPendlum-v5'", "'InvertedPendulum-v5'"],
    "train no_such_module:Env-v0": ["no module 'no_such_module'"],
    "train Pendulum-v1 --agent scac": ["unknown agent 'scac'", "'sac'"],
    "train Pendulum-v1 --planner icm": ["unknown planner 'icm'", "'icem'"],
    "train Pendulum-v1 --agent sac --set learning_rat=1": ["'learning_rate'"],
    "train Pendulum-v1 --agent sac --set learning_rate=-1": ["learning_rate", "range"],
    "train Pendulum-v1 --agent sac --set gamma": ["name=value"],
    "train Pendulum-v1 --agent sac --set learning_starts=abc": ["learning_starts", "'abc'"],
    "train Pendulum-v1 --agent :sac": ["':sac'", "name of a module before its colon"],
    "train Pendulum-v1 --planner .planners:mine": ["'.planners:mine'", "name of a module before its colon"],
    "train Pendulum-v1 --model.latent-dims 0": ["--model.latent-dims = 0", "[1, 8192]"],
    "train Pendulum-v1 --behaviour.discount 2": ["--behaviour.discount = 2", "range"],
    "train Pendulum-v1 --steps 0": ["--steps = 0", "[1, 1e+12]"],
    "train Pendulum-v1 --acting.horizon 3 --planning.horizon 0": ["planningsettings.horizon = 0", "range"],
    "compare --tasks Pendulum-v1 --agents jepa --seeds=0": ["--seeds = 0", "range"],
    "train Pendulum-v1 --device gpu9": ["unknown device 'gpu9'"],
    "train Pendulum-v1 --planning.budget 1": ["budget 1", "at least"],
    "train CartPole-v1 --planner cem": ["does not plan categorical actions", "categorical_cem"],
    "train CartPole-v1 --agent sac": ["sac acts in box", "dqn"],
    "train Pendulum-v1 --agent dqn": ["dqn acts in discrete", "sac"],
    "train": ["which task?"],
    "train --resume nowhere": ["nowhere is not a run folder"],
    "train --resume nowhere --steps 7": ["leave out --steps"],
    "train --resume nowhere --planner cem --model.latent-dims 7": ["leave out --planner, --model.latent-dims"],
    "train --resume nowhere --planner policy": ["leave out --planner."],
    "train --resume nowhere --agent sac --set gamma=0.9": ["leave out --agent, --set"],
    "evaluate nowhere --task Pendulum-v1": ["nowhere"],
    "train Pendulum-v1 --recorded-share 0.3": ["--recorded-share", "--store names them"],
    "evaluate agent.zip": ["there is no agent.zip"],
    "train Pendulum-v1 --agent sac --learning-starts 9": ["--learning-starts", "sac", "--set name=value"],
    "compare --tasks Pendulum-v1 --agents jepa,scac": ["unknown agent 'scac'", "'sac'"],
    "report nowhere": ["nowhere"],
    "compare --agents jepa scac --tasks Pendulum-v1": ["unknown agent 'scac'", "'sac'"],
    "compare --agents jepa --tasks Pendlum-v1": ["unknown task 'Pendlum-v1'", "'Pendulum-v1'"],
    "compare": ["which tasks?"],
    "compare --tasks Pendulum-v1 --set jepa.planning=cem --set jepa.planning.planner=icem": ["part of planning"],
    "compare --benchmark colapse": ["unknown benchmark 'colapse'", "'collapse'"],
    "compare --benchmark collapse --episodes 3": ["has its own --episodes"],
    "compare --benchmark collapse --steps 10000": ["steps = 10,000", "judged every 3,000 steps", "30,000"],
    "compare --benchmark mujoco-short --steps 10000": ["tasks have steps of their own"],
    "compare --benchmark collapse --agents layer_cop": ["no agent 'layer_cop'", "'layer_copy'"],
    "doctor Pendlum-v1": ["unknown task 'Pendlum-v1'", "'Pendulum-v1'"],
    "trian": ["'trian'", "'train'"],
    "train Pendulum-v1 --model.latnt-dims 3": ["--model.latnt-dims", "did you mean --model.latent-dims?"],
    "train Pendulum-v1 --model.target none": ["'--model.target'", "'copy'", "train --help"],
    "train Pendulum-v1 --steps many": ["--steps", "'many'"],
    "train Pendulum-v1 --seed": ["'--seed'"],
    "train Pendulum-v1 Ant-v5": ["ant-v5"],
    "evaluate": ["which run"],
    "evaluate nowhere --planners cem --budget ²": ["--budget"],
    "probe .": [". is not a run folder"],
    "surprise .": [". is not a run folder"],
    "time-to-goal .": [". is not a run folder"],
    "probe . --depths ²": ["whole numbers of steps"],
    "evaluate nowhere --objective effort --simulator": ["--simulator does not go with --objective"],
    "speed --environments 3 --out x.json": ["--out is for agents"],
    "evaluate runs/x --planer cem": ["--planer", "did you mean --planners?"],
    "compare --tasks Pendulum-v1 --sed 3": ["--sed", "did you mean --seeds?"],
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_refused_in_one_sentence_and_leaves_nothing_behind(forethought, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    outcome = forethought(*command.split())
    assert outcome.is_one_sentence_about(*MISTAKES[command]), outcome
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spaces", "part"),
    [
        ({"action_space": Box(-np.inf, np.inf, (2,))}, "infinite"),
        ({"action_space": Dict(a=VECTOR)}, "Dict"),
        ({"action_space": Tuple([VECTOR, Discrete(2)])}, "Tuple"),
        ({"action_space": Box(-1, 1, (0,))}, "no dimensions"),
        ({"observation_space": Box(0, 255, (4, 64, 64, 3), np.uint8)}, "image"),
    ],
    ids=["infinite actions", "Dict actions", "Tuple actions", "zero-size actions", "stacked images"],
)
@pytest.mark.parametrize("agent", ["jepa", "sac"])
def test_spaces_that_no_agent_can_use_are_refused(forethought, task, tmp_path, spaces, part, agent):
    outcome = forethought("train", task(**spaces), "--agent", agent, "--out", tmp_path / "run")
    assert outcome.is_one_sentence_about(part), outcome
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("hidden", "extra", "arguments"),
    [
        ("sb3_contrib", "contrib", ["train", "Pendulum-v1", "--agent", "tqc"]),
        ("imageio_ffmpeg", "video", ["evaluate", "{run}", "--video", "film.mp4", "--episodes", "1"]),
    ],
)
def test_a_missing_extra_is_named_with_its_install_line(forethought, trained, monkeypatch, hidden, extra, arguments):
    monkeypatch.setitem(sys.modules, hidden, None)
    monkeypatch.setattr("importlib.util.find_spec", _find_spec_without(hidden))
    outcome = forethought(*(argument.format(run=trained) for argument in arguments))
    assert outcome.is_one_sentence_about(f"pip install '.[{extra}]'"), outcome


def _find_spec_without(hidden):
    from importlib.util import find_spec

    return lambda name, *args: None if name == hidden else find_spec(name, *args)


class Marker:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def _damaged(path: Path, marker: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def _truncated(path: Path, marker: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _empty(path: Path, marker: Path) -> None:
    path.write_bytes(b"")


def _renamed_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Marker(marker)))


def _sb3_like_zip(path: Path, marker: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", pickle.dumps(Marker(marker)))
        archive.writestr("policy.pth", pickle.dumps(Marker(marker)))


@pytest.mark.parametrize("spoil", [_damaged, _truncated, _empty, _renamed_pickle, _sb3_like_zip])
def test_a_file_that_is_no_sound_agent_is_refused_without_executing_anything(forethought, trained, tmp_path, spoil):
    agent, marker = shutil.copy(trained / "agent.zip", tmp_path / "agent.zip"), tmp_path / "executed"
    spoil(agent, marker)
    outcome = forethought("evaluate", agent, "--task", "Pendulum-v1")
    assert outcome.is_one_sentence_about("agent.zip"), outcome
    assert not marker.exists()


def test_an_agents_file_alone_does_not_say_where_to_act(forethought, trained):
    assert forethought("evaluate", trained / "agent.zip").is_one_sentence_about("agent.zip", "say where: --task")


def test_an_agent_is_not_sent_where_it_cannot_act(forethought, trained):
    outcome = forethought("evaluate", trained, "--task", "CartPole-v1", "--planners", "cem")
    assert outcome.is_one_sentence_about("made for", "cannot act there"), outcome
    assert forethought("evaluate", trained, "--task", "CartPole-v1").is_one_sentence_about("made for")


def test_a_run_in_use_is_left_alone(forethought, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    run = Run.open(folder)
    with run:
        run.set_status("interrupted")
        outcome = forethought("train", "--resume", folder)
        assert outcome.is_one_sentence_about("in use"), outcome
    outcome = forethought("train", "Pendulum-v1", "--out", folder)
    assert outcome.is_one_sentence_about("holds a run already"), outcome


def options_of(agent, quick):
    """Return the options of a training of ``agent`` that takes seconds."""
    sac = ["--steps", "60", "--evaluations", "1", "--episodes", "1", "--set", "learning_starts=50"]
    return quick if agent == "jepa" else ["--agent", agent, *sac]


@pytest.mark.parametrize("broken", ["observation", "reward"])
@pytest.mark.parametrize("agent", ["jepa", "sac"])
def test_episodes_with_non_finite_values_are_cut_counted_and_reported(
    forethought, task, tmp_path, caplog, quick, agent, broken
):
    outcome = forethought("train", task(broken=broken), "--out", tmp_path / "run", *options_of(agent, quick))
    assert outcome.code == 0, outcome
    assert f"non-finite {broken}" in caplog.text
    assert re.search(r"^\d+ episodes were cut because of non-finite values", outcome.out)


@pytest.mark.parametrize("agent", ["jepa", "sac"])
def test_a_training_of_which_every_episode_is_cut_says_so(forethought, task, tmp_path, quick, agent):
    name = task(broken="observation", every=1)
    starts = ["--learning-starts", "10"] if agent == "jepa" else ["--set", "learning_starts=10"]
    few = [*options_of(agent, quick), "--steps", "20", *starts]
    outcome = forethought("train", name, "--out", tmp_path / "run", *few)
    assert outcome.code == 0, outcome
    cut = re.match(r"(\d+) episodes were cut because of non-finite values", outcome.out)
    assert cut, outcome
    assert int(cut[1]) >= 20 // 3, "of each episode two steps are sound, and the third may count as one"
    assert "return unknown because every held-out episode was cut" in outcome.out


@pytest.mark.parametrize("agent", ["jepa", "sac"])
def test_a_training_of_which_more_than_ten_episodes_in_a_row_are_cut_ends(forethought, task, tmp_path, quick, agent):
    name = task(broken="observation", every=1)
    outcome = forethought("train", name, "--out", tmp_path / "run", *options_of(agent, quick))
    assert (outcome.code, outcome.out) == (2, ""), outcome
    assert re.match(rf"forethought: {name}.*11 episodes in a row had to be cut", outcome.err.splitlines()[-1])
