"""Results are read back as they were logged; what cannot be believed is said, and claims are refused or widened."""

from __future__ import annotations

import json

import numpy as np
import pytest

from forethought.core.errors import CheckpointError, RunFolderError, UnknownNameError
from forethought.core.runs import Run
from forethought.evaluations.compare import COMPARISON_FILE, summarise_folders
from forethought.evaluations.published import Published
from forethought.evaluations.results import read_results, read_run
from forethought.evaluations.statistics import mean
from forethought.evaluations.tables import Table

from .conftest import summary_of, write_run


def test_a_run_is_read_as_it_was_logged(make_run):
    run = read_run(make_run(seed=3, returns=(1.0, 5.0), policy=0.5, random=-7.0))
    assert (run.settings.agent, run.settings.seed, run.status) == ("jepa", 3, "finished")
    assert run.steps.tolist() == [100, 200]
    assert run.returns.tolist() == [1.0, 5.0]
    assert run.policy_returns.tolist() == [0.5, 0.5]
    assert run.cpu_seconds.tolist() == [10.0, 20.0]
    assert run.random_return == -7.0


def test_an_evaluation_that_was_logged_twice_counts_once(make_run):
    folder = make_run(returns=(1.0, 2.0))
    with Run.open(folder) as run:
        run.log({"evaluation/returns": [9.0, 9.0]}, 200)
    assert read_run(folder).returns.tolist() == [1.0, 9.0]


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="holds no run"):
        read_results([tmp_path])
    with pytest.raises(RunFolderError, match="no folder"):
        read_results([tmp_path / "nowhere"])


def test_foreign_and_damaged_runs_are_left_out_with_a_note(make_run, tmp_path):
    make_run()
    Run.create(tmp_path / "foreign", {"something": "else"}).release()
    (tmp_path / "damaged").mkdir()
    for name in ("config.json", "manifest.json"):
        (tmp_path / "damaged" / name).write_text("{")
    runs, notes = read_results([tmp_path])
    assert len(runs) == 1
    assert len(notes) == 2
    assert all(note.startswith("Left out:") for note in notes)


@pytest.mark.parametrize("returns", [5, "many", [[1.0], 2.0], [{}], {"a": 1}, None])
def test_a_run_whose_returns_are_no_numbers_is_left_out_with_a_note(make_run, tmp_path, returns):
    make_run(seed=0)
    with Run.open(make_run(seed=1)) as run:
        run.log({"evaluation/returns": returns}, 500)
    runs, notes = read_results([tmp_path])
    assert [run.settings.seed for run in runs] == [0]
    assert "Left out" in notes[0]
    assert "metrics.jsonl" in notes[0]


def test_the_same_seed_twice_counts_once(make_run, tmp_path):
    make_run(returns=(1.0,), status="failed")
    make_run.func(tmp_path / "again", returns=(5.0, 5.0, 5.0))
    runs, notes = read_results([tmp_path])
    assert [run.returns.tolist() for run in runs] == [[5.0, 5.0, 5.0]]
    assert "is there twice" in notes[0]


def test_abandoned_runs_behind_a_dot_do_not_count(make_run, tmp_path):
    folder = make_run()
    folder.rename(folder.with_name(".seed_0.abandoned_1"))
    with pytest.raises(RunFolderError):
        read_results([tmp_path])


def test_the_score_is_the_mean_of_the_last_three_evaluations_over_seeds(make_run, tmp_path):
    for seed, shift in enumerate((0.0, 1.0, 5.0)):
        make_run(seed=seed, returns=(0.0, 1.0 + shift, 2.0 + shift, 3.0 + shift))
    cell = summary_of(tmp_path).tasks[0].cells[0]
    assert cell.scores.tolist() == [2.0, 3.0, 7.0]
    assert cell.score(mean).value == pytest.approx(4.0)
    assert cell.score().low >= 2.0
    assert [point.value for point in cell.curve().points] == pytest.approx([0.0, 3.0, 4.0, 5.0])


def test_a_single_seed_is_marked_and_has_no_interval(make_run, tmp_path):
    make_run()
    summary = summary_of(tmp_path)
    assert not summary.tasks[0].cells[0].score().has_interval
    assert any("a single seed" in note for note in summary.notes)
    assert "no interval" in summary.to_markdown()


def test_an_unfinished_seed_does_not_count_and_is_named(make_run, tmp_path):
    for seed in (0, 1):
        make_run(seed=seed)
    make_run(seed=2, returns=(50.0,), status="failed", reason="RuntimeError: boom")
    summary = summary_of(tmp_path)
    cell = summary.tasks[0].cells[0]
    assert cell.scores.tolist() == [3.0, 3.0]
    assert "2 of 3" in summary.to_markdown()
    assert any("seed 2: failed after its evaluation at step 100 (RuntimeError: boom)" in note for note in summary.notes)


def test_an_agent_without_a_finished_run_gets_no_claim_and_does_not_shorten_the_others(make_run, tmp_path):
    for seed in (0, 1):
        make_run("sac", seed)
    make_run("jepa", 0, returns=(50.0,), status="running")
    task = summary_of(tmp_path).tasks[0]
    jepa, sac = task.cells
    assert (jepa.label, jepa.scores, jepa.refusal) == ("jepa", None, "no run is finished")
    assert sac.scores.tolist() == [3.0, 3.0]
    assert task.horizon == 400
    assert "no claim" in task.table().to_markdown()


def test_evaluations_without_a_sound_episode_refuse_the_claim(make_run, tmp_path):
    make_run(seed=0)
    make_run(seed=1, returns=(1.0, 2.0, 3.0, None))
    summary = summary_of(tmp_path)
    assert summary.tasks[0].cells[0].scores is None
    assert any("no claim, because seed 1" in note for note in summary.notes)
    assert any("2 held-out episodes were cut" in note for note in summary.notes)
    json.dumps(summary.to_dict(), allow_nan=False)


def test_runs_of_different_length_are_compared_where_all_have_been(make_run, tmp_path):
    make_run("jepa", returns=(1.0, 2.0))
    make_run("sac", returns=(1.0, 2.0, 8.0, 9.0), steps=800)
    summary = summary_of(tmp_path)
    assert summary.tasks[0].horizon == 200
    assert [cell.scores.tolist() for cell in summary.tasks[0].cells] == [[1.5], [1.5]]
    assert any("differ in length" in note for note in summary.notes)


def test_other_held_out_episodes_and_other_seeds_are_told(make_run, tmp_path):
    make_run("jepa", 0)
    make_run("sac", 1, evaluation_seed=5)
    notes = " ".join(summary_of(tmp_path).notes)
    assert "not judged on the same held-out episodes" in notes
    assert "did not run the same seeds (jepa: 0; sac: 1)" in notes


def test_agents_stand_in_the_order_of_the_comparison_the_random_one_last(make_run, tmp_path):
    for agent in ("random", "ppo", "sac", "jepa"):
        make_run(agent)
    assert [cell.label for cell in summary_of(tmp_path).tasks[0].cells] == ["jepa", "ppo", "sac", "random"]
    assert [cell.label for cell in summary_of(tmp_path, ["sac"]).tasks[0].cells] == ["sac", "jepa", "ppo", "random"]


def test_the_first_agent_is_compared_with_each_other_one(make_run, tmp_path):
    for seed in (0, 1):
        make_run("jepa", seed, returns=(5.0, 5.0, 5.0))
        make_run("sac", seed, returns=(1.0, 1.0, 1.0))
    table = summary_of(tmp_path).tasks[0].table()
    assert list(table.columns[-2:]) == ["P(jepa is better)", "lead of jepa"]
    assert [list(row[-2:]) for row in table.rows] == [["", ""], ["1.00 [1.00, 1.00]", "4.00 [4.00, 4.00]"]]


def test_the_lead_is_paired_by_seed_and_by_nothing_else(make_run, tmp_path):
    for task, scale in (("A-v0", 1.0), ("B-v0", 100.0)):
        for seed, easy in ((0, 0.0), (1, 4.0)):  # all agents find seed 1 easier: no part of the difference
            make_run("jepa", seed, [(6 + easy) * scale] * 3, task, random=0.0)
            make_run("sac", seed, [(4 + easy) * scale] * 3, task, random=0.0)
            make_run("ppo", seed + 1, [1 * scale] * 3, task, random=0.0)
    summary = summary_of(tmp_path, anchors={"A-v0": 10.0, "B-v0": 1000.0})
    lead = summary.overall["sac"]["lead"]
    assert (lead.value, lead.low, lead.high) == pytest.approx((0.2, 0.2, 0.2))
    assert "lead" not in summary.overall["jepa"]
    assert "lead" not in summary.overall["ppo"]  # of which other seeds ran
    assert [row[-1] for row in summary.tables()[-1].rows] == ["", "", "0.200 [0.200, 0.200]"]
    assert [row[-1] for row in summary.tasks[1].table().rows] == ["", "", "200.0 [200.0, 200.0]"]


def test_agents_are_compared_after_the_same_computing_time_as_far_as_all_their_runs_say(make_run, tmp_path):
    for seed in (0, 1):
        make_run("jepa", seed, returns=(0.0, 100.0, 200.0), cpu=1200.0)  # measured after 1,200, 2,400, 3,600 s
    make_run("sac", 0, returns=(0.0, 10.0, 20.0), cpu=450.0)
    make_run("sac", 1, returns=(0.0, 10.0, 20.0), cpu=900.0)
    table = summary_of(tmp_path).tasks[0].cost_table()
    assert list(table.columns) == ["agent", "0.25 CPU-hours", "0.5 CPU-hours", "1 CPU-hours", "300 steps"]
    assert table.rows[0] == ["jepa", "", "50.0 [50.0, 50.0]", "200.0 [200.0, 200.0]", "200.0 [200.0, 200.0]"]
    assert table.rows[1] == ["sac", "5.00 [0.000, 10.0]", "", "", "20.0 [20.0, 20.0]"]
    make_run("quick", 0, cpu=1.0, task="Another-v0")
    assert summary_of(tmp_path).tasks[0].cost_table() is None


@pytest.mark.parametrize("planners", [5, {"cem": 1}, {"cem": {"returns": ["a"], "decision_ms": 1}}, {"cem": {}}])
def test_planners_that_were_not_judged_by_us_are_reported_as_damage(make_run, tmp_path, planners):
    with Run.open(make_run("jepa", 0)) as run:
        run.log({"evaluation/returns": [1.0, 1.0], "planners": planners}, 500)
    make_run("jepa", 1)
    _, notes = read_results([tmp_path])
    assert "metrics.jsonl" in notes[0]


def test_scores_over_tasks_are_normalised_between_random_and_the_best(make_run, tmp_path):
    for task, scale in (("A-v0", 1.0), ("B-v0", 100.0)):
        for seed in (0, 1):
            make_run("jepa", seed, [10 * scale] * 3, task, random=0.0)
            make_run("sac", seed, [5 * scale] * 3, task, random=0.0)
    overall = summary_of(tmp_path).overall
    assert {label: scores["mean"].value for label, scores in overall.items()} == {"jepa": 1.0, "sac": 0.5}
    assert overall["sac"]["iqm"].n == 4


def test_what_is_set_for_a_task_counts_as_one_whatever_the_agents_reach(make_run, tmp_path):
    make_run("jepa", 0, [10.0] * 3, "A-v0", random=0.0)
    make_run("jepa", 0, [30.0] * 3, "B-v0", random=-10.0)
    summary = summary_of(tmp_path, anchors={"A-v0": 40.0, "B-v0": 10.0})  # a single agent will do, too
    assert summary.overall["jepa"]["mean"].value == pytest.approx((0.25 + 2.0) / 2)
    assert "or what was set: 40 on A-v0, 10 on B-v0." in summary.tables()[-1].notes[0]
    assert summary_of(tmp_path, anchors={"A-v0": 40.0}).overall == {}  # on B-v0 it would be compared with itself


def test_what_planning_adds_is_normalised_like_the_scores(make_run, tmp_path):
    for task, scale in (("A-v0", 1.0), ("B-v0", 100.0)):
        for seed, policy in ((0, 8.0), (1, 11.0)):
            make_run("jepa", seed, [10 * scale] * 3, task, policy=policy * scale, random=0.0)
            make_run("sac", seed, [5 * scale] * 3, task, random=0.0)
    summary = summary_of(tmp_path)
    assert summary.overall["jepa"]["planning"].value == pytest.approx((0.2 - 0.1) / 2)
    assert "planning" not in summary.overall["sac"]
    assert summary.tables()[-1].columns[3] == "gain of planning (mean)"
    assert [row[3] == "" for row in summary.tables()[-1].rows] == [False, True]
    assert summary.tasks[1].cells[0].to_dict()["planning_gains"] == pytest.approx([200.0, -100.0])


def test_one_name_for_agents_of_other_settings_on_other_tasks_is_told_of(make_run, tmp_path):
    for task, hidden in (("A-v0", 64), ("B-v0", 512)):
        make_run("jepa", 0, [10.0] * 3, task, agent_settings={"hidden": hidden})
        make_run("sac", 0, [5.0] * 3, task)
    [note] = [note for note in summary_of(tmp_path).notes if "taken for one agent" in note]
    assert note.startswith("jepa was asked for with other settings")


def test_no_normalised_score_where_random_is_not_beaten(make_run, tmp_path):
    for task in ("A-v0", "B-v0"):
        make_run("jepa", 0, (1.0, 1.0, 1.0), task, random=2.0)
    assert summary_of(tmp_path).overall == {}


def test_return_against_cpu_time_covers_what_all_seeds_spent(make_run, tmp_path):
    make_run(seed=0, cpu=10.0)
    make_run(seed=1, cpu=20.0)
    curve = summary_of(tmp_path).tasks[0].cells[0].curve("cpu_seconds")
    assert (curve.positions[0], curve.positions[-1]) == (20.0, 40.0)
    assert np.isclose(curve.points[-1].value, (4.0 + 2.0) / 2)


def test_anchors_and_order_are_those_that_the_comparison_has_noted(make_run, tmp_path):
    for task in ("A-v0", "B-v0"):
        for seed in (0, 1):
            make_run("jepa", seed, (4.0, 5.0), task=task, random=0.0)
            make_run("sac", seed, (1.0, 2.0), task=task, random=0.0)
    (tmp_path / COMPARISON_FILE).write_text('{"agents": ["sac", "jepa"], "anchors": {"A-v0": 40, "B-v0": 10.0}}')
    summary = summarise_folders([tmp_path])
    assert [task.anchor for task in summary.tasks] == [40.0, 10.0]
    assert list(summary.overall) == ["sac", "jepa"]
    assert summary.overall["sac"]["mean"].value == pytest.approx((1.5 / 40 + 1.5 / 10) / 2)


def test_any_agent_may_be_the_one_whose_leads_are_told(make_run, tmp_path):
    for seed in (0, 1):
        make_run("jepa", seed, (4.0, 5.0), random=0.0)
        make_run("sac", seed, (1.0, 2.0), random=0.0)
    (tmp_path / COMPARISON_FILE).write_text('{"agents": ["jepa", "sac"]}')
    lead = summarise_folders([tmp_path], first="sac").tasks[0].table()
    assert lead.columns[-1] == "lead of sac"
    assert [row[-1] for row in lead.rows] == ["", "-3.00 [-3.00, -3.00]"]
    with pytest.raises(UnknownNameError, match=r"no run of an agent 'scac'.*'sac'"):
        summarise_folders([tmp_path], first="scac")


def test_runs_that_are_not_finished_are_marked_in_every_table(make_run, tmp_path):
    make_run("jepa", 0, (4.0, 5.0), status="running", cpu=900.0)
    make_run("sac", 0, (1.0, 2.0), cpu=900.0)
    (task,) = summary_of(tmp_path, published=[Published("X", "a file", (200,), {"Task-v0": (3.0,)})]).tasks
    for table in task.tables()[1:]:
        assert [row[0] for row in table.rows][:2] == ["jepa (unfinished)", "sac"], table.title


def test_height_and_computing_time_are_those_at_the_step_at_which_agents_are_compared(make_run, tmp_path):
    make_run("jepa", 0, (1.0, 2.0))
    make_run("sac", 0, (1.0, 2.0, 50.0, 60.0), steps=800)
    (task,) = summary_of(tmp_path).tasks
    assert task.horizon == 200
    assert [(cell.height, cell.cpu_seconds) for cell in task.cells] == [(1.5, 20.0), (1.5, 20.0)]


def test_leads_over_all_tasks_are_those_of_one_agent(make_run, tmp_path):
    for seed in (0, 1):
        for task, agents in (("A-v0", ("jepa", "sac")), ("B-v0", ("ppo", "sac"))):
            for agent in agents:
                make_run(agent, seed, (1.0, 2.0) if agent == "sac" else (5.0, 6.0), task=task)
    summary = summary_of(tmp_path, order=["jepa", "ppo", "sac"], anchors={"A-v0": 10.0, "B-v0": 10.0})
    assert [task.cells[0].label for task in summary.tasks] == ["jepa", "ppo"]
    assert "lead" not in summary.overall["sac"], "nobody is ahead of it on both"


def test_what_was_known_beforehand_tells_agents_apart(make_run, tmp_path):
    make_run("jepa", 0, (1.0, 2.0))
    make_run("jepa", 1, (5.0, 6.0), store="data/x")
    make_run("jepa", 2, (5.0, 6.0), world_model="runs/y")
    (task,) = summary_of(tmp_path).tasks
    assert len(task.cells) == 3
    assert any("store=x" in cell.label for cell in task.cells)


def test_seeds_that_begin_with_their_own_world_models_are_one_agent_by_its_name(make_run, tmp_path):
    for seed in (0, 1):
        make_run("jepa", seed, (1.0, 2.0), label="pretrained", world_model=f"runs/model-{seed}")
    (task,) = summary_of(tmp_path).tasks
    assert [len(cell.runs) for cell in task.cells] == [2]


def test_planners_that_were_judged_on_other_numbers_of_episodes_are_not_compared(make_run, tmp_path):
    for seed, episodes in ((0, 2), (1, 3)):
        folder = make_run("jepa", seed, (1.0, 2.0))
        with Run.open(folder) as run:
            planners = {name: {"returns": [1.0] * episodes, "decision_ms": 1.0} for name in ("policy", "icem")}
            run.log({"evaluation/returns": [2.0, 2.0], "planners": planners, "time/cpu_seconds": 9.0}, 200)
    (worth,) = [table for table in summary_of(tmp_path).tables() if "planners" in table.title]
    assert worth.rows[0][:2] == ["icem", "not comparable"]


def test_comparisons_are_found_at_any_depth_and_differences_between_them_are_told(make_run, tmp_path):
    for part, anchor in (("one", 40.0), ("two", 50.0)):
        write_run(tmp_path / part, "jepa" if part == "one" else "sac")
        (tmp_path / part / COMPARISON_FILE).write_text(json.dumps({"anchors": {"Task-v0": anchor}}))
    summary = summarise_folders([tmp_path])
    assert summary.tasks[0].anchor == 40
    assert "Task-v0: comparisons differ in the anchor; 40 counts, not 50." in summary.notes


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"agents": 5}',
        '{"anchors": {"A-v0": "high"}}',
        '{"anchors": 3}',
        '{"published": [{"agent": "MR.Q", "source": "", "steps": [1, 2], "returns": {"A-v0": [3]}}]}',
    ],
)
def test_damage_to_what_a_comparison_has_noted_is_named(make_run, tmp_path, text):
    make_run()
    (tmp_path / COMPARISON_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=COMPARISON_FILE):
        summarise_folders([tmp_path])


def test_a_table_is_one_in_markdown_however_narrow_its_columns():
    lines = Table(("planner", "r"), [("policy", "")]).to_markdown().splitlines()
    assert lines == ["| planner |  r |", "| ------- | -: |", "| policy  |    |"]
