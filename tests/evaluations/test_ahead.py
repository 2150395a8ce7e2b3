"""Whether an agent is ahead of its rivals follows from a rule, and not where anything that it needs is lacking."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest

from forethought.core.errors import CheckpointError, RunFolderError, SettingsError, UnknownNameError
from forethought.core.runs import Run
from forethought.evaluations.benchmark import read_benchmark
from forethought.evaluations.compare import COMPARISON_FILE, CompareSettings, compare, summarise_folders
from forethought.evaluations.report import report
from forethought.evaluations.results import read_run

from .conftest import write_run
from .scripted import settings

SEEDS = (0, 1, 2)
RIVALS = {"SAC": ("sac", "sac_zoo"), "TD3": ("td3",)}


@pytest.fixture
def make_runs(tmp_path):
    """Write three seeds of an agent; what a comparison there has noted are the rivals."""
    (tmp_path / COMPARISON_FILE).write_text(
        json.dumps({"agents": ["jepa", "sac"], "rivals": RIVALS, "anchors": {"A-v0": 10, "B-v0": 100}})
    )

    def write(agent, task, *returns):
        for seed, value in zip(SEEDS, returns, strict=False):
            write_run(tmp_path, agent, seed, (value,) * 4, task=task, random=0.0)

    return write


def standings(root, **changes):
    return {one.rival: one for one in summarise_folders([root], **changes).standings}


def test_of_several_agents_the_better_one_counts_on_each_task(make_runs, tmp_path):
    make_runs("jepa", "A-v0", 5, 6, 7)
    make_runs("sac", "A-v0", 3, 3, 3)
    make_runs("sac_zoo", "A-v0", 1, 9, 0)  # a higher mean, by one seed
    make_runs("jepa", "B-v0", 50, 60, 70)
    make_runs("sac", "B-v0", 20, 20, 20)
    make_runs("sac_zoo", "B-v0", 10, 0, 0)
    found = standings(tmp_path)
    assert list(found) == ["SAC"]  # of TD3 there is no run
    sac = found["SAC"]
    assert {task: agent for task, (agent, _) in sac.leads.items()} == {"A-v0": "sac_zoo", "B-v0": "sac"}
    assert [lead.value for _, lead in sac.leads.values()] == pytest.approx([8 / 3, 40])
    assert sac.overall.value == pytest.approx((8 / 3 / 10 + 40 / 100) / 2)


def test_ahead_takes_every_task_and_an_interval_above_nothing(make_runs, tmp_path):
    def verdict(*rival):
        make_runs("td3", "B-v0", *rival)
        return standings(tmp_path)["TD3"]

    make_runs("jepa", "A-v0", 5, 6, 7)
    make_runs("td3", "A-v0", 1, 2, 2)
    make_runs("jepa", "B-v0", 50, 60, 70)
    ahead = verdict(40, 40, 40)
    assert (ahead.ahead, ahead.verdict) == (True, "yes")
    for seed in SEEDS:
        write_again(tmp_path, "td3", seed, 62.0)
    behind = standings(tmp_path)["TD3"]
    assert behind.leads["B-v0"][1].value == pytest.approx(-2)
    assert behind.overall.low > 0  # the other task would make up for it
    assert (behind.ahead, behind.verdict) == (False, "no")
    for task, values in {"A-v0": (4, 5.9, 8), "B-v0": (10, 59, 100)}.items():
        for seed, value in enumerate(values):
            write_again(tmp_path, "td3", seed, value, task)
    unsure = standings(tmp_path)["TD3"]
    assert all(lead.value > 0 for _, lead in unsure.leads.values())
    assert unsure.overall.low < 0
    assert unsure.ahead is False


def write_again(root, agent, seed, value, task="B-v0"):
    with Run.open(root / task / agent / f"seed_{seed}") as run:
        for step in (100, 200, 300, 400):
            run.log({"evaluation/returns": [value, value], "time/cpu_seconds": 1.0}, step)


def test_where_anything_is_lacking_nothing_is_claimed(make_runs, tmp_path):
    def lacking():
        one = standings(tmp_path)["SAC"]
        assert one.ahead is None
        assert one.overall is None or one.overall.low is None
        assert one.verdict == f"not known: {one.lacking or 'a single seed'}"
        return one.verdict.removeprefix("not known: ")

    make_runs("jepa", "A-v0", 5)
    make_runs("sac", "A-v0", 3)
    assert lacking() == "no sac_zoo on A-v0"
    make_runs("sac_zoo", "A-v0", 2)
    assert lacking() == "a single seed"
    write_run(tmp_path, "sac", 1, (3,) * 4, task="A-v0")
    assert lacking() == "other seeds of sac on A-v0"
    write_run(tmp_path, "jepa", 1, (6,) * 4, task="A-v0")
    write_run(tmp_path, "sac_zoo", 1, (2,) * 4, task="A-v0", status="running")
    assert lacking() == "unfinished runs of sac_zoo on A-v0; other seeds of sac_zoo on A-v0"
    with Run.open(tmp_path / "A-v0/sac_zoo/seed_1") as run:
        run.set_status("finished")
    assert standings(tmp_path)["SAC"].ahead is True
    for agent in ("jepa", "sac", "sac_zoo"):
        write_run(tmp_path, agent, 2, (9,) * 4, task="A-v0", status="failed")
    assert lacking() == "; ".join(f"unfinished runs of {agent} on A-v0" for agent in ("jepa", "sac", "sac_zoo"))
    for agent in ("jepa", "sac", "sac_zoo"):
        shutil.rmtree(tmp_path / "A-v0" / agent / "seed_2")
    for agent in ("jepa", "sac", "sac_zoo"):
        make_runs(agent, "B-v0", 1, 2, 3)
    assert lacking() == "other seeds on some tasks than on others"
    assert set(standings(tmp_path)["SAC"].leads) == {"A-v0", "B-v0"}  # which is told all the same


def test_a_task_without_an_anchor_above_chance_gives_no_mean(make_runs, tmp_path):
    for task in ("A-v0", "C-v0"):
        make_runs("jepa", task, 5, 6)
        make_runs("td3", task, 3, 3)
    found = standings(tmp_path, anchors={"A-v0": -1.0})["TD3"]
    lacking = "no anchor of A-v0 above acting at random; no anchor of C-v0 above acting at random"
    assert (found.ahead, found.lacking) == (None, lacking)
    assert standings(tmp_path, tasks=["A-v0"])["TD3"].ahead is True


def test_nobody_is_a_rival_of_itself(make_runs, tmp_path):
    make_runs("sac", "A-v0", 5, 6)
    make_runs("sac_zoo", "A-v0", 5, 6)
    make_runs("td3", "A-v0", 3, 3)
    assert list(standings(tmp_path)) == ["TD3"]
    assert list(standings(tmp_path, first="td3")) == ["SAC"]


def test_reports_show_the_verdict(make_runs, tmp_path):
    for task in ("A-v0", "B-v0"):
        make_runs("jepa", task, 5, 6, 7)
        make_runs("sac", task, 3, 3, 3)
        make_runs("sac_zoo", task, 2, 2, 2)
    written = report(tmp_path)
    (line,) = [line for line in written.markdown.read_text().splitlines() if line.startswith("| SAC ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "3"
    assert cells[2].endswith("over sac")
    assert cells[-1] == "yes"
    assert "Whether jepa is ahead" in written.html.read_text()
    assert json.loads(written.results.read_text())["ahead"]["SAC"]["leads"]["A-v0"]["agent"] == "sac"


def test_only_some_tasks_in_the_order_that_is_asked_for(make_runs, tmp_path):
    for task in ("A-v0", "B-v0", "C-v0"):
        make_runs("jepa", task, 5, 6)
    summary = summarise_folders([tmp_path], tasks=["C-v0", "A-v0", "C-v0"])
    assert [task.task for task in summary.tasks] == ["C-v0", "A-v0"]
    assert [len(task.cells[0].runs) for task in summary.tasks] == [2, 2]
    with pytest.raises(UnknownNameError, match=r"no run of a task 'A-v1'.*'A-v0'"):
        summarise_folders([tmp_path], tasks=["A-v1"])


def test_a_run_that_goes_on_counts_for_what_it_did_until_then(tmp_path):
    asked = partial(write_run, tmp_path, evaluations=4, planners_at=(100, 400), simulator_at=(400,))
    asked("jepa", 0, (1.0, 2.0, 3.0, 40.0), status="interrupted", reason="more is asked of it")
    asked("jepa", 1, (1.0, 2.0, 3.0, 4.0))
    asked("jepa", 2, (1.0, 2.0), status="running")
    (cell,) = summarise_folders([tmp_path], steps=300).tasks[0].cells
    assert cell.scores.tolist() == [2.0, 2.0]
    assert [run.status for run in cell.runs] == ["finished", "finished", "running"]
    whole = cell.runs[0].settings
    assert (whole.steps, whole.milestones, whole.planners_at, whole.simulator_at) == (300, [100, 200, 300], (100,), ())
    assert "This is what was seen after 300 steps at most." in summarise_folders([tmp_path], steps=300).notes
    (cell,) = summarise_folders([tmp_path]).tasks[0].cells
    assert cell.scores.tolist() == [3.0]
    with pytest.raises(
        RunFolderError, match=r"No run was evaluated after 250 steps; they were after 100, 200, 300, 400"
    ):
        summarise_folders([tmp_path], steps=250)


def test_what_planners_and_checks_found_later_is_left_out(tmp_path):
    with Run.open(write_run(tmp_path, returns=(1.0, 2.0, None, 4.0), policy=1.0, memory_mb=(5.0, 2.0))) as run:
        run.log({"health/spread_mean": 1.0}, 150)
        run.log({"health/spread_mean": 2.0}, 350)
        planners = {"policy": {"returns": [1.0, 1.0], "decision_ms": 1.0}}
        judged = {"evaluation/returns": [3.0, 3.0], "evaluation/policy_returns": [1.0, 1.0]}
        run.log({**judged, "planners": planners, "time/cpu_seconds": 9.0}, 400)
    (cell,) = summarise_folders([tmp_path], steps=200).tasks[0].cells
    (run,) = cell.runs
    assert run.health["spread_mean"].tolist() == [1.0]
    assert run.swapped == {}
    assert len(run.policy_returns) == len(run.memory_mb) == len(run.cpu_seconds) == 2
    assert (run.faults, read_run(run.folder).faults) == (0, 2)


def test_films_and_tables_made_later_are_no_part_of_what_was_seen(tmp_path):
    folder = write_run(tmp_path)
    (folder / "videos").mkdir()
    (folder / "videos" / "step_400.gif").write_bytes(b"GIF89a")
    table = {"columns": ["planner"], "rows": [["icem"]], "title": "", "notes": []}
    (folder / "planners.json").write_text(json.dumps({"table": table}))
    whole = report(tmp_path).markdown.read_text(), report(tmp_path).html.read_text()
    part = report(tmp_path, steps=300).markdown.read_text(), report(tmp_path, steps=300).html.read_text()
    assert "Swapping the planner" in whole[0]
    assert "image/gif" in whole[1]
    assert "Swapping the planner" not in part[0]
    assert "image/gif" not in part[1]


def test_what_a_comparison_has_noted_of_rivals_is_kept_and_added_to(scripted):
    compare(settings(rivals={"SAC": ("sac",)}), scripted)
    compare(settings(agents=("sac", "td3"), rivals={"TD3": ("td3",)}), scripted)
    assert json.loads((scripted / COMPARISON_FILE).read_text())["rivals"] == {"SAC": ["sac"], "TD3": ["td3"]}


@pytest.mark.parametrize("rivals", ['{"SAC": 3}', "[]"])
def test_damaged_rivals_are_named(tmp_path, rivals):
    write_run(tmp_path)
    (tmp_path / COMPARISON_FILE).write_text(f'{{"rivals": {rivals}}}')
    with pytest.raises(CheckpointError, match=COMPARISON_FILE):
        summarise_folders([tmp_path])


def test_rivals_of_a_benchmark_are_agents_of_it(tmp_path):
    def read(rivals):
        path = tmp_path / "own.toml"
        path.write_text(f'tasks = ["Pendulum-v1"]\n[rivals]\n{rivals}\n[agents.jepa]\n[agents.sac]\n')
        return read_benchmark(path)

    assert read('SAC = ["sac"]').rivals == {"SAC": ["sac"]}
    assert read('SAC = ["sac"]').part(agents=["jepa"]).rivals == {"SAC": ["sac"]}, "which is then not known"
    for wrong in ('SAC = ["scac"]', 'itself = ["jepa"]'):
        with pytest.raises(SettingsError, match=r"rivals\.\w+: '(scac|jepa)' is no agent beside the first one\."):
            read(wrong)
    with pytest.raises(SettingsError, match=r"rivals\.SAC = 'sac' must be a list of agents"):
        read('SAC = "sac"')
    with pytest.raises(SettingsError, match="must be a list of agents"):
        CompareSettings(tasks=("Pendulum-v1",), rivals={"SAC": ()})


def test_the_rivals_of_the_mujoco_benchmarks_are_the_better_sac_and_td3():
    for name in ("mujoco-v4", "mujoco-v5"):
        rivals = read_benchmark(name).rivals
        assert (rivals["SAC"], rivals["TD3"]) == (["sac", "sac_zoo"], ["td3"])
