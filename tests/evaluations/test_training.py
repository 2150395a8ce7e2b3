"""Training: judged on the same episodes all the way, stopped and resumed without a trace, unchanged by its judge."""

from __future__ import annotations

import json
import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest

from forethought.core.errors import (
    CheckpointError,
    RunFolderError,
    SettingsError,
    UnknownNameError,
)
from forethought.core.files import load_archive
from forethought.core.runs import Run
from forethought.evaluations import clock as clocks
from forethought.evaluations import training, worker
from forethought.evaluations.milestones import Interruption
from forethought.evaluations.settings import TrainSettings
from forethought.evaluations.training import load_trained, resume, train

from .conftest import reproducible
from .stubbed import evaluations, settings

pytestmark = pytest.mark.usefixtures("countdown_task")


def test_an_agent_is_evaluated_at_every_tenth_on_the_same_episodes(tmp_path, stub):
    result = train(settings(), tmp_path / "run")
    rows = evaluations(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(10, 101, 10))
    assert len({tuple(row["evaluation/lengths"]) for row in rows}) == 1
    returns = [row["evaluation/return_mean"] for row in rows]
    assert returns == sorted(returns)
    assert (result.status, result.step, result.return_mean) == ("finished", 100, returns[-1])
    assert Run.open(tmp_path / "run").status == "finished"


@pytest.mark.parametrize(("steps", "count", "expected"), [(7, 3, [3, 5, 7]), (2, 10, [1, 2]), (5, 1, [5])])
def test_milestones_are_even_and_end_with_the_run(steps, count, expected):
    assert settings(steps=steps, evaluations=count).milestones == expected


def test_a_run_holds_what_its_reports_need(tmp_path, stub):
    train(settings(), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert TrainSettings.from_dict(run.config) == settings()
    rows = run.read_metrics()
    assert len(rows[0]["reference/random_returns"]) == 3
    assert any(row.get("train/loss") == pytest.approx(0.1) and row["step"] == 10 for row in rows)
    assert {"time/cpu_seconds", "time/wall_seconds", "evaluation/decision_ms"} <= evaluations(tmp_path / "run")[
        0
    ].keys()
    assert (tmp_path / "run" / "agent.zip").read_text() == str(sum(range(101)))


def test_agents_that_can_resume_are_checkpointed_between_calls_of_learn(tmp_path, stub):
    train(settings(evaluations=4), tmp_path / "run")
    assert stub.made[0].calls == [(25, True), (25, False), (25, False), (25, False)]
    assert [path.stem for path in Run.open(tmp_path / "run").checkpoints()] == ["step_000000100", "step_000000075"]


def test_other_agents_learn_in_one_call_and_are_evaluated_on_the_way(tmp_path, stub):
    stub.options["resumable"] = False
    train(settings(evaluations=4), tmp_path / "run")
    assert stub.made[0].calls == [(100, True)]
    assert [row["step"] for row in evaluations(tmp_path / "run")] == [25, 50, 75, 100]
    assert not Run.open(tmp_path / "run").checkpoints()


def test_the_bare_actor_stands_beside_an_agent_that_plans(tmp_path, stub, constant_agent):
    stub.planning_with = lambda self, name, **rest: constant_agent((-1.0, 0.0))
    train(settings(evaluations=1), tmp_path / "run")
    row = evaluations(tmp_path / "run")[0]
    assert row["evaluation/policy_return_mean"] < row["evaluation/return_mean"]
    assert len(row["evaluation/policy_returns"]) == 3
    del stub.planning_with


def test_planners_are_swapped_where_that_is_asked_for(tmp_path, stub, constant_agent, monkeypatch):
    def planning_with(self, name, **rest):
        view = constant_agent((-1.0 if name == "policy" else 0.0, 0.0))
        view.planner = SimpleNamespace(budget=5, gradients=0)
        return view

    monkeypatch.setattr(stub, "planning_with", planning_with, raising=False)
    train(settings(evaluations=4, planners_at=[50]), tmp_path / "run")
    rows = evaluations(tmp_path / "run")
    assert ["planners" in row for row in rows] == [False, True, False, False]
    swapped = rows[1]["planners"]
    assert {"policy", "cem", "mppi"} <= swapped.keys()
    assert swapped["policy"]["returns"] == rows[1]["evaluation/policy_returns"]
    assert np.mean(swapped["cem"]["returns"]) > np.mean(swapped["policy"]["returns"])
    assert swapped["cem"]["budget"] == 5
    assert not any("simulator" in name for name in swapped)


def test_planners_can_be_chosen_and_are_seen_to_before_anything_is_learned(tmp_path, stub, constant_agent, monkeypatch):
    def planning_with(self, name, force=0.0, **rest):
        if name == "cme":
            raise UnknownNameError("planner", name, ["cem"])
        view = constant_agent((force, 0.0))
        view.planner = SimpleNamespace(budget=5, gradients=0)
        return view

    monkeypatch.setattr(stub, "planning_with", planning_with, raising=False)
    with pytest.raises(UnknownNameError, match="cme"):
        train(settings(planners_at=[50], planners=["cem", "cme"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(settings(evaluations=4, planners_at=[50], planners=["cem", "cem+force=-1"]), tmp_path / "run")
    swapped = evaluations(tmp_path / "run")[1]["planners"]
    assert list(swapped) == ["policy", "cem", "cem+force=-1"]
    assert np.mean(swapped["cem"]["returns"]) > np.mean(swapped["cem+force=-1"]["returns"])


def test_the_usual_planner_also_looks_into_the_simulator_where_that_is_asked_for(tmp_path, stub, monkeypatch):
    asked = []

    def evaluate_planners(agent, task, simulator, **rest):
        asked.append(simulator)
        return SimpleNamespace(rows=[])

    monkeypatch.setattr(stub, "planning_with", lambda *_, **__: pytest.fail("not by that"), raising=False)
    monkeypatch.setattr(training, "acts_bare", lambda agent: True)
    monkeypatch.setattr(training, "evaluate_planners", evaluate_planners)
    monkeypatch.setattr(training, "TrueSimulator", lambda make: SimpleNamespace(close=lambda: None))
    train(settings(evaluations=2, planners_at=[50, 100], simulator_at=[100]), tmp_path / "run")
    assert asked == [False, ("icem", "categorical_cem")]


def test_what_has_no_simulator_is_refused_before_anything_is_learned(tmp_path, stub, monkeypatch):
    asked = settings(task="Pendulum-v1", evaluations=1, planners_at=[100], simulator_at=[100])
    train(asked, tmp_path / "cannot plan")  # nor is it asked to
    monkeypatch.setattr(stub, "planning_with", lambda *_, **__: None, raising=False)
    with pytest.raises(SettingsError, match="MuJoCo's tasks only"):
        train(asked, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_simulator_is_looked_into_where_planners_are_judged():
    with pytest.raises(SettingsError, match=r"simulator_at = 100 is not one of the steps at which planners are judged"):
        settings(evaluations=2, planners_at=[50], simulator_at=[100])


def test_planners_that_never_judge_are_refused():
    with pytest.raises(SettingsError, match=r"planners = \('icem',\) are never asked: name the steps .*planners_at"):
        settings(planners=["icem"])


def test_planners_are_swapped_at_evaluations_only():
    with pytest.raises(SettingsError, match=r"planners_at = 30 is not .* after 25, 50, 75, 100 steps"):
        settings(evaluations=4, planners_at=[30])


def test_an_agent_that_acts_by_its_actor_is_evaluated_once(tmp_path, stub, monkeypatch):
    def planning_with(self, name, **rest):
        raise AssertionError("there is nothing to swap")

    monkeypatch.setattr(stub, "planning_with", planning_with, raising=False)
    monkeypatch.setattr(training, "acts_bare", lambda agent: True)
    train(settings(evaluations=1), tmp_path / "run")
    [row] = evaluations(tmp_path / "run")
    assert row["evaluation/policy_returns"] == row["evaluation/returns"]


def test_episodes_cut_as_faulty_are_gaps_not_numbers(tmp_path, stub, monkeypatch):
    monkeypatch.setattr(
        stub, "predict", lambda self, observation, **rest: ([[float("nan"), 0.0]] * len(observation), None)
    )
    train(settings(evaluations=1), tmp_path / "run")
    row = evaluations(tmp_path / "run")[0]
    assert row["evaluation/returns"] == [None, None, None]
    assert row["evaluation/return_mean"] is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_resume_ends_like_the_unbroken_run(tmp_path, stub, number):
    train(settings(), tmp_path / "unbroken")
    stub.options["on_step"] = lambda agent: os.kill(os.getpid(), number) if agent.num_timesteps == 37 else None
    result = train(settings(), tmp_path / "run")
    assert (result.status, result.step, result.resumable) == ("interrupted", 37, True)
    assert Run.open(tmp_path / "run").manifest["reason"] == f"{number.name} at step 37"
    stub.options.clear()
    assert resume(tmp_path / "run").status == "finished"
    assert (tmp_path / "run" / "agent.zip").read_text() == (tmp_path / "unbroken" / "agent.zip").read_text()
    untimed = [
        [reproducible(row) for row in rows]
        for rows in (evaluations(tmp_path / "run"), evaluations(tmp_path / "unbroken"))
    ]
    assert untimed[0] == untimed[1]
    assert Run.open(tmp_path / "run").manifest["resume"] == "exact"


@pytest.fixture
def struck_at_57(tmp_path, stub):
    """The folder of a run that failed seven steps after a milestone; its agent is sound again."""

    def die(agent):
        if agent.num_timesteps == 57:
            raise RuntimeError("struck by lightning")

    stub.options["on_step"] = die
    with pytest.raises(RuntimeError, match="lightning"):
        train(settings(), tmp_path / "run")
    stub.options.clear()
    return tmp_path / "run"


def test_what_was_logged_after_the_checkpoint_of_a_killed_run_is_logged_once(struck_at_57):
    assert Run.open(struck_at_57).manifest["reason"] == "RuntimeError: struck by lightning"
    resume(struck_at_57)
    assert [row["step"] for row in evaluations(struck_at_57)] == list(range(10, 101, 10))


def test_a_killed_run_leaves_the_agent_of_its_last_milestone(struck_at_57):
    assert (struck_at_57 / "agent.zip").read_text() == str(sum(range(51)))


def test_measuring_the_random_reference_is_not_training_time(tmp_path, stub, monkeypatch):
    now, real = [0.0], training.evaluate

    def slow(agent, *arguments, **rest):
        now[0] += 100.0
        return real(agent, *arguments, **rest)

    monkeypatch.setattr(clocks, "_now", lambda: (now[0], now[0]))
    monkeypatch.setattr(training, "evaluate", slow)
    train(settings(), tmp_path / "run")
    assert {(row["time/cpu_seconds"], row["time/wall_seconds"]) for row in evaluations(tmp_path / "run")} == {(0, 0)}


def test_ctrl_c_while_the_random_reference_is_measured_can_be_resumed_with_nothing_missing(tmp_path, stub, monkeypatch):
    real = training.evaluate

    def interrupted(agent, *arguments, **rest):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal was not handled at once")

    monkeypatch.setattr(training, "evaluate", interrupted)
    result = train(settings(), tmp_path / "run")
    assert (result.status, result.step, result.resumable) == ("interrupted", 1, True)
    monkeypatch.setattr(training, "evaluate", real)
    resume(tmp_path / "run")
    references = [row for row in Run.open(tmp_path / "run").read_metrics() if "reference/random_returns" in row]
    assert [row["step"] for row in references] == [0]
    assert len(evaluations(tmp_path / "run")) == 10


@pytest.mark.filterwarnings(
    "ignore:.*goes on with other settings", "ignore:.*config.json was changed", "ignore:.*other conditions"
)
def test_a_run_that_was_not_resumed_exactly_never_claims_to_be_again(tmp_path, stub):
    stops = [37, 57]
    stub.options["on_step"] = lambda agent: agent.num_timesteps in stops and os.kill(os.getpid(), signal.SIGINT)
    train(settings(), tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    (tmp_path / "run/config.json").write_text(json.dumps({**config, "threads": 2}))
    found = []
    for _ in range(2):
        resume(tmp_path / "run")
        found.append((Run.open(tmp_path / "run").status, Run.open(tmp_path / "run").manifest["resume"]))
    assert found == [("interrupted", "inexact"), ("finished", "inexact")]


def test_training_time_goes_on_counting_after_a_resume(tmp_path, stub):
    def work(agent):
        time.sleep(0.002)
        if agent.num_timesteps == 50:
            os.kill(os.getpid(), signal.SIGINT)

    stub.options["on_step"] = work
    train(settings(evaluations=2), tmp_path / "run")
    resume(tmp_path / "run")
    first, second = (row["time/wall_seconds"] for row in evaluations(tmp_path / "run"))
    assert second >= first + 0.1 >= 0.2


def test_ctrl_c_during_an_evaluation_breaks_it_off_and_saves(tmp_path, stub, monkeypatch):
    real = training.evaluate

    def interrupted(agent, *arguments, **rest):
        if getattr(agent, "num_timesteps", 0) == 20:
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the signal was not handled at once")
        return real(agent, *arguments, **rest)

    monkeypatch.setattr(training, "evaluate", interrupted)
    result = train(settings(), tmp_path / "run")
    assert (result.status, result.step) == ("interrupted", 20)
    monkeypatch.setattr(training, "evaluate", real)
    resume(tmp_path / "run")
    assert [row["step"] for row in evaluations(tmp_path / "run")] == list(range(10, 101, 10))


def test_a_second_ctrl_c_stops_at_once():
    interruption = Interruption()
    with interruption.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_signals_are_handled_as_before_afterwards(tmp_path, stub):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(settings(evaluations=1), tmp_path / "run")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_progress_tells_steps_pace_return_and_losses(tmp_path, stub):
    stub.options["on_step"] = lambda agent: time.sleep(0.001)
    seen = []
    train(settings(evaluations=2), tmp_path / "run", seen.append)
    assert [(one.step, one.activity) for one in seen if one.activity == "evaluating"] == [
        (50, "evaluating"),
        (100, "evaluating"),
    ]
    last = seen[-1]
    assert 0 < last.steps_per_second < 1000
    assert last.losses == {"loss": pytest.approx(0.01)}
    assert last.last_return == evaluations(tmp_path / "run")[-1]["evaluation/return_mean"]
    assert last.seconds_left == 0


def test_nothing_is_left_behind_by_a_misspelt_name(tmp_path):
    for wrong in ({"agent": "jeap"}, {"task": "Pendulm-v1", "agent": "random"}):
        with pytest.raises(UnknownNameError):
            train(settings(**wrong), tmp_path / "run")
    with pytest.raises(SettingsError):
        train(settings(agent="random", agent_settings={"speed": 3}), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_run_is_neither_overwritten_nor_finished_twice(tmp_path, stub):
    train(settings(evaluations=1), tmp_path / "run")
    with pytest.raises(RunFolderError, match="holds a run"):
        train(settings(), tmp_path / "run")
    with pytest.raises(RunFolderError, match="finished"):
        resume(tmp_path / "run")


def test_resuming_what_cannot_be_resumed_says_why(tmp_path, stub):
    stub.options["on_step"] = lambda agent: os.kill(os.getpid(), signal.SIGINT)
    stub.options["resumable"] = False
    assert not train(settings(), tmp_path / "run").resumable
    with pytest.raises(RunFolderError, match="cannot save its experience"):
        resume(tmp_path / "run")


def test_a_run_killed_before_its_first_checkpoint_says_that_there_is_none(tmp_path, stub):
    Run.create(tmp_path / "run", settings().to_dict()).release()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        resume(tmp_path / "run")


def test_a_worker_trains_and_goes_on_from_a_checkpoint(tmp_path, stub, capsys):
    arguments = [json.dumps(settings().to_dict()), str(tmp_path / "run")]
    stub.options["on_step"] = lambda agent: os.kill(os.getpid(), signal.SIGTERM) if agent.num_timesteps == 37 else None
    assert worker.main(arguments) == worker.INTERRUPTED
    stub.options.clear()
    assert worker.main(arguments) == worker.FINISHED
    assert sum(steps for steps, _ in stub.made[1].calls) == 100 - 37
    assert worker.main(arguments) == worker.REFUSED
    assert "is finished" in capsys.readouterr().err


def test_evaluating_often_learns_the_same_as_evaluating_once(tmp_path):
    weights = []
    for count in (1, 4):
        chosen = TrainSettings("CartPole-v1", "dqn", steps=240, seed=1, evaluations=count, episodes=2)
        train(chosen, tmp_path / str(count))
        weights.append(load_archive(tmp_path / str(count) / "agent.zip").tensors["model"])
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_a_trained_agent_is_loaded_from_its_run(tmp_path):
    train(TrainSettings("CartPole-v1", "random", steps=20, evaluations=1, episodes=1), tmp_path / "run")
    agent, chosen = load_trained(tmp_path / "run")
    assert (chosen.task, agent.num_timesteps) == ("CartPole-v1", 20)
    (tmp_path / "run" / "agent.zip").unlink()
    with pytest.raises(RunFolderError, match=r"agent\.zip"):
        load_trained(tmp_path / "run")


def test_the_config_is_plain_json(tmp_path, stub):
    train(settings(evaluations=1, agent_settings={"depth": 2}), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["agent_settings"] == {"depth": 2}
    assert stub.made[0].settings["depth"] == 2
    manifest = Run.open(tmp_path / "run").manifest
    assert manifest["agent_settings"]["depth"] == 2, "with defaults, as the agent knows them"
    assert manifest["command"].startswith("python ")
