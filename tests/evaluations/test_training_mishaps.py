"""What a training does where something beside it fails, and where more or less is asked of it than it has taken."""

from __future__ import annotations

import json

import pytest
from stable_baselines3.common.logger import KVWriter

from forethought import make_agent
from forethought.agents.registry import agents
from forethought.core.errors import (
    EnvironmentFault,
    RunFolderError,
    SettingsError,
)
from forethought.core.runs import Run
from forethought.evaluations import training
from forethought.evaluations.settings import TrainSettings
from forethought.evaluations.training import load_trained, resume, train

from .stubbed import TASK, evaluations, settings

pytestmark = pytest.mark.usefixtures("countdown_task")


def test_what_was_learned_outlives_an_environment_that_fails_where_it_is_judged(tmp_path, stub, monkeypatch):
    real, broken = training.evaluate, [True]

    def fails(agent, *arguments, **rest):
        if broken and getattr(agent, "num_timesteps", 0) == 20:
            raise EnvironmentFault("the gearbox broke")
        return real(agent, *arguments, **rest)

    monkeypatch.setattr(training, "evaluate", fails)
    with pytest.raises(EnvironmentFault, match="gearbox"):
        train(settings(), tmp_path / "run")
    assert Run.open(tmp_path / "run").status == "failed"
    broken.clear()
    assert resume(tmp_path / "run").status == "finished"
    assert [row["step"] for row in evaluations(tmp_path / "run")] == list(range(10, 101, 10))
    assert sum(steps for steps, _ in stub.made[-1].calls) == 100 - 20


@pytest.mark.parametrize("lacking", ["save", "num_timesteps"])
def test_an_agent_that_lacks_something_is_refused_before_it_learns(tmp_path, stub, monkeypatch, lacking):
    class Bare:
        def __init__(self, env, seed=0, verbose=0, tensorboard_log=None, device="auto", gain=1.0):
            self.num_timesteps = 0

        def learn(self, total_timesteps, callback=None, **rest):
            raise AssertionError

        predict = save = load = learn

    if lacking == "save":
        Bare.save = property()  # raises AttributeError, as what is not there does
    else:
        Bare.__init__ = lambda self, env, gain=1.0, **rest: None
    monkeypatch.setitem(agents._entries, "bare", (Bare, ""))
    with pytest.raises(SettingsError, match=f"'bare' lacks {lacking}; forethought.agents.registry says"):
        train(settings(agent="bare"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:.*config.json was changed", "ignore:.*goes on with other settings")
def test_a_finished_run_goes_on_where_more_is_asked_of_it(tmp_path, stub):
    folder = tmp_path / "run"
    train(settings(), folder)
    config = json.loads((folder / "config.json").read_text())
    for steps in (100, 90):
        (folder / "config.json").write_text(json.dumps(config | {"steps": steps}))
        with pytest.raises(RunFolderError, match=r"all of its 100 steps\. To let it learn for longer, raise 'steps'"):
            resume(folder)
    (folder / "config.json").write_text(json.dumps(config | {"steps": 150}))
    assert resume(folder).step == 150
    assert (Run.open(folder).status, evaluations(folder)[-1]["step"]) == ("finished", 150)


@pytest.mark.parametrize(("steps", "updates"), [(50, 0), (64, 1), (100, 1)])
def test_an_algorithm_of_whole_rollouts_takes_no_more_steps_than_the_others(tmp_path, steps, updates):
    made = TrainSettings("CartPole-v1", "ppo", steps=steps, evaluations=2, episodes=1)
    made = made.replace(agent_settings={"n_steps": 64, "batch_size": 64, "n_epochs": 1})
    told = []
    assert train(made, tmp_path / "run", told.append).step == steps
    assert [row["step"] for row in evaluations(tmp_path / "run")] == [steps // 2, steps]
    assert load_trained(tmp_path / "run")[0].model._n_updates == updates
    assert all(report.seconds_left is None or report.seconds_left >= 0 for report in told)


def test_a_film_that_cannot_be_drawn_costs_one_warning_and_no_evaluation(tmp_path, stub, monkeypatch, countdown):
    def broken(env):
        raise RuntimeError("EGL is not there")

    train(settings(), tmp_path / "plain")
    monkeypatch.setattr(countdown, "render", broken)
    with pytest.warns(UserWarning, match="No video: .*EGL is not there") as caught:
        assert train(settings(video=True), tmp_path / "run").status == "finished"
    assert len(caught) == 1
    assert not list((tmp_path / "run").rglob("final*"))
    returns = [[row["evaluation/returns"] for row in evaluations(tmp_path / name)] for name in ("run", "plain")]
    assert returns[0] == returns[1]


def test_where_nothing_can_be_drawn_a_film_is_told_to_be_missing_in_one_warning(tmp_path, monkeypatch, countdown):
    monkeypatch.setattr(countdown, "metadata", {"render_modes": ["ansi"]})
    with pytest.warns(UserWarning, match=r"No video: .* draws no images; its render modes are \['ansi'\]") as caught:
        training.evaluate(make_agent("random", TASK), TASK, 1, video=tmp_path / "film.gif")
    assert len(caught) == 1


def test_a_tensorboard_whose_disk_is_full_is_given_up_with_one_warning(tmp_path, stub):
    class TensorBoard(KVWriter):
        def write(self, *_):
            raise OSError(28, "No space left on device")

    stub.options["formats"] = [TensorBoard()]
    with pytest.warns(UserWarning, match="No more TensorBoard: .*No space left") as caught:
        assert train(settings(), tmp_path / "run").status == "finished"
    assert len(caught) == 1
    assert len(evaluations(tmp_path / "run")) == 10
