"""The cost of learning: per environment step, beside another agent, in turns."""

from __future__ import annotations

import json
import multiprocessing
import time

import numpy as np
import pytest

from forethought.core.errors import SettingsError, UnknownNameError
from forethought.envs import EpisodeStore
from forethought.evaluations.environment_speed import EnvironmentSpeedSettings, environment_table, measure_environments
from forethought.evaluations.loading_speed import LoadingSpeedSettings, measure_loading
from forethought.evaluations.planning_speed import PlanningSpeedSettings, measure_planning
from forethought.evaluations.speed import SpeedSettings, measure_speed


class Learner:
    """Works for a given time per step, in portions of a given number of steps."""

    def __init__(self, name, cost_ms, portion, log):
        self.name, self.cost_ms, self.portion, self.log, self.num_timesteps = name, cost_ms, portion, log, 0

    def learn(self, steps, reset_num_timesteps=True):
        steps = -(-steps // self.portion) * self.portion
        self.log.append((self.name, steps))
        until = time.process_time() + steps * self.cost_ms / 1000
        while time.process_time() < until:
            pass
        self.num_timesteps = steps if reset_num_timesteps else self.num_timesteps + steps


@pytest.fixture
def log(monkeypatch):
    costs, log = {"jepa": (0.2, 1), "sac": (0.1, 1), "ppo": (0.05, 16)}, []

    def make(name, task, **settings):
        log.append((name, settings.get("compute")))
        return Learner(name, *costs[name], log)

    monkeypatch.setattr("forethought.agents.make_agent", make)
    return log


def test_agents_take_turns_after_all_are_ready(log):
    measure_speed(SpeedSettings("Pendulum-v1", variants=False, rounds=2, steps=5))
    made, learned = log[:4], log[4:]
    assert made == [("jepa", None), ("jepa", 200), ("sac", None), ("sac", 200)]
    assert learned == [("jepa", 5), ("sac", 5)] * 2


def test_costs_are_per_step_and_measured_against_the_last_agent(log):
    table = measure_speed(SpeedSettings("Pendulum-v1", ("jepa", "ppo", "sac"), variants=False, rounds=3, steps=20))
    jepa, ppo, sac = table.rows
    assert [row.name for row in table.rows] == ["jepa", "ppo", "sac"]
    for row, cost in ((jepa, 0.2), (ppo, 0.05), (sac, 0.1)):
        assert row.cpu_ms.value == pytest.approx(cost, rel=0.5)
        assert row.cpu_ms.low <= row.cpu_ms.value <= row.cpu_ms.high
        assert row.wall_ms.value >= 0.9 * row.cpu_ms.value
    assert sac.ratio is None
    assert jepa.ratio.value > 1 > ppo.ratio.value


def test_an_agent_whose_updates_can_be_computed_otherwise_is_shown_so_too(log, monkeypatch):
    monkeypatch.setattr("forethought.world_model.bf16_helps", lambda device: True)
    table = measure_speed(SpeedSettings("Pendulum-v1", rounds=2, steps=1))
    assert "Not in bf16" not in table.table().to_markdown()
    assert [row.name for row in table.rows] == ["jepa", "jepa, bf16", "jepa, compiled", "jepa, bf16, compiled", "sac"]
    assert [entry for entry in log if entry[0] == "jepa" and not isinstance(entry[1], int)] == [
        ("jepa", None),
        ("jepa", {"precision": "bf16"}),
        ("jepa", {"compile": True}),
        ("jepa", {"precision": "bf16", "compile": True}),
    ]


def test_bf16_is_left_out_where_the_processor_has_no_units_for_it(log, monkeypatch):
    monkeypatch.setattr("forethought.world_model.bf16_helps", lambda device: False)
    table = measure_speed(SpeedSettings("Pendulum-v1", rounds=2, steps=1))
    assert [row.name for row in table.rows] == ["jepa", "jepa, compiled", "sac"]
    assert "Not in bf16" in table.table().to_markdown()


def test_the_file_says_what_the_figures_depend_on(log, tmp_path):
    settings = SpeedSettings("Pendulum-v1", variants=False, rounds=2, steps=1)
    measure_speed(settings).save(tmp_path / "speed.json")
    known = json.loads((tmp_path / "speed.json").read_text())
    assert known["settings"] == settings.to_dict()
    assert {"command", "process", "rows"} <= known.keys()
    assert known["process"]["threads"] == {"torch": 1}


def test_real_agents_are_measured():
    table = measure_speed(SpeedSettings("Pendulum-v1", ("random", "ppo"), rounds=2, steps=1))
    assert [row.name for row in table.rows] == ["random", "ppo"]
    assert "| random |" in table.table().to_markdown()


def test_agents_that_do_not_exist_or_are_named_twice_are_refused():
    with pytest.raises(SettingsError, match="none twice"):
        SpeedSettings("Pendulum-v1", ("sac", "sac"))
    with pytest.raises(UnknownNameError, match="'jepa'"):
        measure_speed(SpeedSettings("Pendulum-v1", ("jeppa",)))


def test_environments_are_measured_beside_gymnasiums():
    settings = EnvironmentSpeedSettings("CartPole-v1", num_envs=2, rounds=2, steps=3)
    rows = measure_environments(settings)
    assert len(rows) == 4
    assert rows[0].ratio.value == 1
    assert all(row.wall_us.value > 0 and row.cpu_us.value > 0 for row in rows)
    assert "supervised, checked and coded" in environment_table(settings, rows).to_markdown()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("units", [True, False])
def test_plans_are_timed_beside_a_plain_search_that_predicts_the_same(tmp_path, monkeypatch, units):
    monkeypatch.setattr("forethought.evaluations.planning_speed.bf16_helps", lambda device: units)
    plans = []
    settings = PlanningSpeedSettings("lewm-small", (1, 10_000), (1, 2), iterations=1, rounds=1)
    table = measure_planning(settings, plans.append)
    assert len(plans) == len(table.rows) == 2 * (5 if units else 3)  # nothing has 10,000 cores
    assert {(row.threads, row.environments) for row in table.rows} == {(1, 1), (1, 2)}
    assert table.difference < 1e-4
    assert 0.9 < table.cost_ratio < 1.1 if units else table.cost_ratio is None
    assert any("bf16" in row.name for row in table.rows) is units
    plain, ours = table.rows[:2]
    assert (plain.name, plain.ratio, ours.ratio) == ("plain", 1.0, plain.seconds / ours.seconds)
    assert [row.ratio for row in table.rows if "preset" in row.name] == [None] * (4 if units else 2)  # another search
    table.save(tmp_path / "planning.json")
    assert len(json.loads((tmp_path / "planning.json").read_text())["rows"]) == len(table.rows)
    notes = " ".join(table.table().notes)
    assert "of which 1 iterations were made" in notes
    assert ("Not in bf16" in notes) is not units


def test_loading_is_timed_beside_learning(tmp_path):
    store, rng = EpisodeStore(3, 1, folder=tmp_path / "store"), np.random.default_rng(0)
    for _ in range(30):
        seen = rng.normal(size=(40, 3)).astype(np.float32)
        store.add_episode(seen, seen[1:, :1].clip(-1, 1), np.zeros(39, np.float32), False, True)
    store.flush()
    rounds = []
    speed = measure_loading(LoadingSpeedSettings(str(tmp_path / "store"), rounds=3), rounds.append)
    assert rounds == [0, 1, 2, 3]
    assert speed.loaded.value > 0
    assert speed.consumed.value > 0
    assert "Mean over 3 rounds" in " ".join(speed.table().notes)
    speed.save(tmp_path / "loading.json")
    assert json.loads((tmp_path / "loading.json").read_text())["batch"] == 128
