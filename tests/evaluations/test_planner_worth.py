"""What planners add to the bare actor: of one agent as it learns, and over all runs of several tasks and agents."""

import json

import numpy as np
import pytest

from forethought.agents.settings import JEPAAgentSettings
from forethought.core.errors import SettingsError
from forethought.core.runs import Run
from forethought.evaluations.compare import summarise_folders
from forethought.evaluations.evaluate import Evaluation
from forethought.evaluations.planner_table import PlannerRow, PlannerTable
from forethought.evaluations.report import report
from forethought.evaluations.results import read_run

from .conftest import summary_of


def swapped(**means):
    return {"planners": {name: {"returns": [m - 1, m + 1], "decision_ms": 2.0} for name, m in means.items()}}


def test_what_each_planner_adds_is_told_by_steps_over_seeds(make_run, tmp_path):
    for seed in (0, 1):
        with Run.open(make_run("jepa", seed)) as run:
            run.log({"evaluation/returns": [1.0, 1.0]} | swapped(policy=10.0, cem=12.0 + 2 * seed, icem=9.0), 500)
            run.log({"evaluation/returns": [1.0, 1.0]} | swapped(policy=20.0, cem=20.0, icem=25.0), 600)
            run.set_status("finished")
    [_, table] = summary_of(tmp_path).tasks[0].tables()
    assert list(table.columns) == ["planner", "gain at 500 steps", "gain at 600 steps", "ms/decision"]
    assert table.rows[0] == ["cem", "3.00 [2.00, 4.00]", "0.000 [0.000, 0.000]", "2.00"]
    assert table.rows[1][2] == "5.00 [5.00, 5.00]"
    assert "which returned 10.0 at 500, 20.0 at 600 steps" in table.notes[0]
    make_run("jepa", 2)  # in which planners were not judged: nothing is averaged over the others alone
    assert len(summary_of(tmp_path).tasks[0].tables()) == 1


def test_what_plans_promised_and_the_ceiling_are_told_where_they_are_known(make_run, tmp_path):
    def known(promised, correlation):
        promises = {"promised": promised, "kept": 50.0, "correlation": correlation, "decisions": 10}
        return {"returns": [12.0, 14.0], "decision_ms": 2.0, "budget": 124, "gradients": 88, "promises": promises}

    for seed in (0, 1):
        with Run.open(make_run("jepa", seed)) as run:
            judged = swapped(policy=10.0, icem=11.0)
            run.log({"evaluation/returns": [1.0, 1.0]} | judged, 500)
            judged["planners"] |= {"hybrid": known(60.0 + 20 * seed, [0.5, None][seed]), "random": known(1.0, 0.25)}
            judged["planners"] |= swapped(**{"icem, in the true simulator": 16.0})["planners"]
            run.log({"evaluation/returns": [1.0, 1.0]} | judged, 600)
            run.set_status("finished")
    [_, table] = summary_of(tmp_path).tasks[0].tables()
    assert list(table.columns)[3:] == ["evaluations", "ms/decision", "promised", "kept", "r"]
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["hybrid"] == ["", "3.00 [3.00, 3.00]", "124 + 88", "2.00", "70.0", "50.0", ""]  # r of one run only
    assert rows["random"][-1] == "0.250"
    assert rows["icem"] == ["1.00 [1.00, 1.00]", "1.00 [1.00, 1.00]", "", "2.00", "", "", ""]
    assert rows["icem, in the true simulator"][:2] == ["", "6.00 [6.00, 6.00]"]
    assert "Promised at that step is the discounted return" in table.notes[0]


def test_what_plans_promised_is_told_of_each_step(make_run, tmp_path):
    def judge(run, step, promised):
        promises = {"promised": promised, "kept": 50.0, "correlation": 0.5, "decisions": 10}
        plan = {"returns": [12.0, 14.0], "decision_ms": 2.0, "promises": promises}
        judged = swapped(policy=10.0, icem=11.0)
        run.log({"evaluation/returns": [1.0, 1.0], "planners": judged["planners"] | {"cem": plan}}, step)

    runs = [Run.open(make_run("jepa", seed)) for seed in (0, 1)]
    for number, step in enumerate((500, 600)):
        for seed, folder in enumerate(runs):
            with folder as run:
                judge(run, step, 60.0 + 10 * seed + number)
                run.set_status("finished")
        tables = [table for table in summary_of(tmp_path).tasks[0].tables() if "promised" in table.title]
        assert len(tables) == number  # of a single step the table before it tells
    assert list(tables[0].columns) == ["steps", "planner", "ms/decision", "promised", "kept", "r"]
    assert tables[0].rows == [
        ["500", "cem", "2.00", "65.0", "50.0", "0.500"],
        ["600", "cem", "2.00", "66.0", "50.0", "0.500"],
    ]


def judge(folder, seed=0, task=None, steps=None, faulty=(), budget=64, horizon=None, **means):
    """Write what ``forethought evaluate RUN --planners`` leaves in a run's folder."""
    cut = np.isin(np.arange(3), faulty)

    def evaluation(mean):
        returns = np.where(cut, 1e6, [mean - 1, mean, mean + 1])
        none = np.zeros(3, np.int64)
        return Evaluation(returns, none, none > 0, cut, none, [0, 0, 0], [returns[:1]] * 3, 2.0, 6.0)

    rows = [PlannerRow(name, evaluation(mean), budget=budget) for name, mean in means.items()]
    rows.append(PlannerRow("not for these actions", None))
    table = PlannerTable(task or read_run(folder).settings.task, rows, 3, seed, budget, horizon, steps)
    table.save(folder / "planners.json")


def test_planners_judged_after_training_count_at_the_last_step(make_run, tmp_path):
    for seed in (0, 1):
        judge(make_run("jepa", seed), policy=10.0, icem=12.0 + seed)
    [_, table] = summary_of(tmp_path).tasks[0].tables()
    assert list(table.columns) == ["planner", "gain at 400 steps", "evaluations", "ms/decision"]
    assert table.rows == [["icem", "2.50 [2.00, 3.00]", "64", "2.00"]]


def test_planners_judged_before_more_was_learned_count_where_they_were_judged(make_run, tmp_path):
    judge(make_run("jepa", 0), steps=300, policy=10.0, icem=12.0)
    assert read_run(tmp_path / "Task-v0/jepa/seed_0").swapped.keys() == {300}


def test_planners_judged_while_learning_come_before_those_judged_after_it(make_run):
    folder = make_run("jepa", 0)
    with Run.open(folder) as run:
        run.log({"evaluation/returns": [1.0, 1.0]} | swapped(policy=10.0, cem=12.0), 400)
        run.set_status("finished")
    judge(folder, policy=0.0, icem=9.0)
    assert read_run(folder).swapped[400].keys() == {"policy", "cem"}


@pytest.mark.parametrize("other", [{"seed": 1}, {"task": "Another-v0"}])
def test_planners_judged_elsewhere_do_not_count(make_run, other):
    folder = make_run("jepa", 0)
    judge(folder, **other, policy=10.0, icem=12.0)
    assert not read_run(folder).swapped


def test_cut_episodes_do_not_count(make_run, tmp_path):
    for agent in ("jepa", "other"):
        judge(make_run(agent, 0, [100.0] * 3), faulty=(0,), policy=10.0, icem=12.0)
    assert summary_of(tmp_path).planners.scores["icem"].gain.value == pytest.approx(0.02)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"task": "Task-v0", "seed": 0, "rows": [{"planner": "icem", "evaluation": 3}]}']
)
def test_a_foreign_planner_file_does_not_spoil_the_run(make_run, content):
    folder = make_run("jepa", 0)
    (folder / "planners.json").write_text(content)
    assert not read_run(folder).swapped


def test_over_all_runs_planners_compare_by_task_and_run(make_run, tmp_path):
    for task, scale in (("A-v0", 1.0), ("B-v0", 100.0)):
        for agent, easy in (("jepa", 0.0), ("stop", 5.0)):
            for seed in (0, 1):
                folder = make_run(agent, seed, [50 * scale] * 3, task, policy=40.0, random=-10 * scale)
                means = {"policy": easy, "random": easy - 9, "icem": easy + 1, "mppi": easy + 2 + 2 * seed}
                judge(folder, **{name: scale * mean for name, mean in means.items()})
    make_run("jepa", 2, [50.0] * 3, "A-v0", policy=40.0, random=-10.0)
    summary = summary_of(tmp_path, anchors={"A-v0": 90.0, "B-v0": 9000.0})
    scores = summary.planners.scores
    assert list(scores) == ["random", "icem", "mppi"]
    assert scores["icem"].lead is None  # the yardstick is the first that searches
    assert scores["mppi"].gain.value == pytest.approx(0.03)
    assert {task: gain.value for task, gain in scores["mppi"].gains.items()} == pytest.approx(
        {"A-v0": 0.03, "B-v0": 0.03}
    )
    lead = scores["mppi"].lead
    assert lead.value == pytest.approx(0.02)
    assert 0.01 <= lead.low < lead.value < lead.high <= 0.03
    assert lead.n == 8
    table = summary.tables()[-1]
    assert list(table.columns) == ["planner", "gain", "gain on A-v0", "gain on B-v0", "lead over icem"]
    assert "Runs judged: 4 of 5 on A-v0, 4 of 4 on B-v0." in table.notes[0]
    assert json.loads(json.dumps(summary.to_dict()))["planners"]["planners"]["mppi"]["lead"]["n"] == 8


def test_planners_by_which_only_some_were_judged_are_named_and_not_averaged(make_run, tmp_path):
    judge(make_run("jepa", 0), policy=1.0, icem=2.0, cem=3.0)
    judge(make_run("stop", 0), policy=1.0, icem=2.0)
    overall = summary_of(tmp_path).planners
    assert list(overall.scores) == ["icem"]
    assert "Not all were judged alike by cem." in overall.table().notes[0]
    judge(tmp_path / "Task-v0/jepa/seed_0", policy=1.0, cem=3.0)
    assert summary_of(tmp_path).planners is None  # the two have none in common


@pytest.mark.parametrize("other", [{"budget": 300}, {"horizon": 5}])
def test_runs_judged_with_other_efforts_are_not_averaged(make_run, tmp_path, other):
    for agent, seed in (("jepa", 0), ("jepa", 1), ("stop", 0)):
        judge(make_run(agent, seed), policy=1.0, icem=2.0, cem=3.0)
    assert list(summary_of(tmp_path).planners.scores) == ["icem", "cem"]
    judge(tmp_path / "Task-v0/jepa/seed_1", policy=1.0, icem=12.0, **other)
    summary = summary_of(tmp_path)
    assert summary.planners is None
    evaluations = "" if "budget" in other else "64"
    rows = summary.tasks[0].tables()[-2].rows
    assert rows == [[name, "not comparable", told, "2.00"] for name, told in (("icem", evaluations), ("cem", "64"))]


def test_nor_are_runs_whose_agents_plan_by_other_settings(make_run, tmp_path):
    def noted(seed, **planning):
        folder = make_run("jepa", seed)
        judge(folder, policy=1.0, icem=2.0)
        with Run.open(folder) as run:
            run.note(agent_settings=JEPAAgentSettings(planning={"horizon": 3, **planning}).to_dict())
            run.set_status("finished")

    noted(0, planner="icem")
    noted(1, planner="mppi")
    assert list(summary_of(tmp_path).planners.scores) == ["icem"]
    noted(2, planner="icem", doubt=0.5)
    assert summary_of(tmp_path).planners is None


def test_unfinished_runs_do_not_count_for_planners_either(make_run, tmp_path):
    for agent in ("jepa", "stop"):
        judge(make_run(agent, 0), policy=1.0, icem=2.0)
    judge(make_run("broken", 0, status="failed"), policy=60.0, icem=2.0)
    overall = summary_of(tmp_path).planners
    assert overall.judged == {"Task-v0": (2, 2)}
    assert overall.scores["icem"].gain.value > 0


def test_a_planner_that_judged_no_run_at_a_step_has_nothing_there(make_run, tmp_path):
    with Run.open(make_run("jepa", 0)) as run:
        run.log({"evaluation/returns": [1.0, 1.0]} | swapped(policy=10.0, cem=12.0), 500)
        run.log({"evaluation/returns": [1.0, 1.0]} | swapped(policy=10.0, icem=12.0), 600)
        run.set_status("finished")
    [_, table] = summary_of(tmp_path).tasks[0].tables()
    assert table.rows == [["icem", "", "2.00 [2.00, 2.00]", "2.00"], ["cem", "2.00 [2.00, 2.00]", "", ""]]


def test_one_agent_on_one_task_is_told_by_its_own_table_alone(make_run, tmp_path):
    judge(make_run("jepa", 0), policy=1.0, icem=2.0)
    make_run("sac", 0)
    assert summary_of(tmp_path).planners is None


def test_what_counts_as_one_can_be_set_for_a_report(make_run, tmp_path):
    for task in ("A-v0", "B-v0"):
        judge(make_run("jepa", 0, [10.0] * 3, task), policy=1.0, icem=3.0)
    written = report(tmp_path, anchors={"A-v0": 20.0, "B-v0": 40.0})
    assert json.loads(written.results.read_text())["planners"]["planners"]["icem"]["gain"]["value"] == pytest.approx(
        (0.1 + 0.05) / 2
    )
    for kind in (written.html, written.markdown):
        assert "Planners over all runs" in kind.read_text()
    with pytest.raises(SettingsError, match="C-v0"):
        summarise_folders([tmp_path], anchors={"C-v0": 1.0})
    with pytest.raises(SettingsError, match="finite"):
        summarise_folders([tmp_path], anchors={"A-v0": float("nan")})


def test_over_all_runs_planners_count_at_the_last_three_evaluations_if_they_were_judged_alike_there(make_run, tmp_path):
    def judged(task, names_at):
        with Run.open(make_run("jepa", 0, [50.0] * 2, task, policy=40.0, random=-10.0)) as run:
            for step, means in names_at.items():
                run.log({"evaluation/returns": [50.0, 50.0]} | (swapped(**means) if means else {}), step)
            run.set_status("finished")

    often = {"policy": 0.0, "icem": 1.0}
    judged("A-v0", {300: often, 400: often | {"icem": 5.0}, 500: often | {"icem": 30.0}, 600: often})
    judged("B-v0", {300: often, 400: often, 500: None, 600: often | {"icem": 3.0}})
    judged("C-v0", {300: often, 400: often | {"mppi": 1.0}, 500: {"policy": 0.0}, 600: often | {"icem": 7.0}})
    gains = summary_of(tmp_path, anchors=dict.fromkeys(("A-v0", "B-v0", "C-v0"), 90.0)).planners.scores["icem"].gains
    assert {task: gain.value for task, gain in gains.items()} == pytest.approx(
        {"A-v0": (5 + 30 + 1) / 3 / 100, "B-v0": (1 + 3) / 2 / 100, "C-v0": 7 / 100}
    )
