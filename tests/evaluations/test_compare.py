"""A comparison: a folder and a process per run, nothing done twice, a crash costs only itself, Ctrl-C loses nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import threading
from functools import partial

import pytest
from rich.console import Console

from forethought.cli.main import main
from forethought.core.errors import RunFolderError, SettingsError, UnknownNameError, UnsupportedSpaceError, WriteError
from forethought.core.runs import Run
from forethought.evaluations.compare import BuiltAgents, CompareSettings, compare
from forethought.evaluations.jobs import Job, folder_of
from forethought.evaluations.planner_table import evaluate_planners
from forethought.evaluations.settings import TrainSettings
from forethought.evaluations.training import resume, train
from forethought.evaluations.views import ComparisonView

from .conftest import reproducible
from .scripted import settings, states

SMALL = {
    "learning_starts": 20,
    "batch_size": 8,
    "model": {"latent_dims": 4, "hidden": 8, "directions": 4, "unroll": 3},
    "behaviour": {"hidden": 8},
}


def test_every_run_has_its_folder_process_and_log(scripted):
    asked = settings(tasks=("A-v0", "mod:B-v0"), agents=("jepa", "sac"))
    summary = compare(asked, scripted)
    assert {str(path.parent.relative_to(scripted)) for path in scripted.rglob("config.json")} == {
        "A-v0/jepa/seed_0",
        "A-v0/sac/seed_0",
        "mod_B-v0/jepa/seed_0",
        "mod_B-v0/sac/seed_0",
    }
    assert all((path.parent / "log.txt").read_text() == "begun\n" for path in scripted.rglob("config.json"))
    assert [cell.scores.tolist() for cell in summary.tasks[0].cells] == [[20.0], [20.0]]
    assert json.loads((scripted / "comparison.json").read_text())["agents"] == ["jepa", "sac"]


def test_finished_runs_are_skipped_and_more_seeds_add_theirs(scripted):
    compare(settings(), scripted)
    before = (scripted / "Task-v0/sac/seed_0/manifest.json").read_text()
    seen = []
    compare(settings(seeds=2), scripted, lambda jobs, job: seen.append(states(jobs)))
    assert seen[-1] == {0: "skipped", 1: "finished"}
    assert (scripted / "Task-v0/sac/seed_0/manifest.json").read_text() == before


def test_variants_of_one_agent_have_names_and_folders_of_their_own(scripted):
    variants = {"plain": "jepa", "spoilt": "module:jepa"}
    summary = compare(settings(agents=("sac", *variants), variants=variants), scripted)
    assert [cell.label for cell in summary.tasks[0].cells] == ["sac", "plain", "spoilt"]
    config = json.loads((scripted / "Task-v0/spoilt/seed_0/config.json").read_text())
    assert (config["agent"], config["label"]) == ("module:jepa", "spoilt")
    with pytest.raises(SettingsError, match="variants names 'plain', which is not among the agents"):
        settings(variants=variants)


@pytest.mark.filterwarnings("ignore:.*config.json was changed")
def test_a_run_from_before_a_setting_was_added_counts_as_having_its_default(scripted):
    compare(settings(), scripted)
    path = scripted / "Task-v0/sac/seed_0/config.json"
    config = json.loads(path.read_text())
    del config["label"]
    path.write_text(json.dumps(config))
    seen = []
    compare(settings(), scripted, lambda jobs, job: seen.append(states(jobs)))
    assert seen[-1] == {0: "skipped"}


def test_a_crashed_run_costs_only_itself_and_is_reported_with_its_log(scripted):
    seen = []
    summary = compare(
        settings(["crash", "good", "kill"], seeds=3), scripted, lambda jobs, job: seen.append(states(jobs))
    )
    assert seen[-1] == {0: "failed", 1: "finished", 2: "failed"}
    assert summary.tasks[0].cells[0].scores.tolist() == [20.0]
    notes = " ".join(summary.notes)
    assert "seed 0: failed (ValueError: wrong turn; see" in notes
    assert "seed 2: failed (killed by SIGKILL; see" in notes
    assert "log.txt" in notes


def test_a_run_whose_end_cannot_be_noted_costs_only_itself(scripted, monkeypatch):
    def full(run, *arguments):
        raise WriteError("no room.")

    monkeypatch.setattr("forethought.core.runs.Run.set_status", full)  # here; the runs are processes of their own
    seen = []
    compare(settings(["kill", "good"], seeds=2), scripted, lambda jobs, job: seen.append(states(jobs)))
    assert seen[-1] == {0: "failed", 1: "finished"}


def test_a_run_that_left_no_checkpoint_begins_again_and_what_it_left_is_kept_aside(scripted):
    asked = settings(["good", "kill once"], seeds=2)
    assert compare(asked, scripted).tasks[0].cells[0].scores.tolist() == [20.0]
    assert compare(asked, scripted).tasks[0].cells[0].scores.tolist() == [20.0, 20.0]
    assert (scripted / "Task-v0/sac/.seed_1.abandoned_1/log.txt").exists()


def test_no_more_runs_than_jobs_at_the_same_time(scripted):
    busy = []
    compare(
        settings(seeds=4, jobs=2),
        scripted,
        lambda jobs, job: busy.append(sum(job.state == "running" for job in jobs)),
    )
    assert max(busy) == 2


def test_ctrl_c_lets_the_runs_save_and_a_second_call_goes_on(scripted):
    seen = []

    def look(all_jobs, job):
        seen.append(states(all_jobs))
        if any(one.step for one in all_jobs) and not stopped:
            stopped.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = []
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        compare(settings(["slow", "slow"], seeds=2, jobs=1), scripted, look)
    assert seen[-1] == {0: "interrupted", 1: "waiting"}
    assert Run.open(scripted / "Task-v0/sac/seed_0").status == "interrupted"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_that_cannot_begin_costs_only_itself(scripted):
    scripted.mkdir()
    (scripted / "A-v0").write_text("where a folder should be")
    seen = []
    summary = compare(
        settings(tasks=("A-v0", "B-v0")), scripted, lambda jobs, job: seen.append([j.state for j in jobs])
    )
    assert seen[-1] == ["failed", "finished"]
    assert [cell.scores.tolist() for task in summary.tasks for cell in task.cells] == [[20.0]]
    assert any("sac on A-v0, seed 0, could not begin" in note for note in summary.notes)


def test_an_extension_that_cannot_begin_is_told_of(scripted, monkeypatch):
    def full(job):
        if job.settings.seed == 0:
            raise OSError("the disk is full")

    compare(settings(steps=20, evaluations=2), scripted)
    monkeypatch.setattr(Job, "make_way", full)
    summary = compare(settings(seeds=2), scripted)
    assert "sac on Task-v0, seed 0, could not begin: the disk is full" in summary.notes


def test_published_figures_that_were_corrected_are_replaced(scripted):
    usual = {"agent": "X", "source": "a file", "steps": [10]}
    wrong, right = ({**usual, "returns": {"Task-v0": [value]}} for value in (1, 2))
    for one in (wrong, right, right):
        summary = compare(settings(published=(one,)), scripted)
    assert [other.returns for other in summary.tasks[0].published] == [{"Task-v0": [2]}]
    assert len(json.loads((scripted / "comparison.json").read_text())["published"]) == 1


def test_a_command_whose_runs_failed_does_not_end_as_if_nothing_had_happened(scripted, capsys):
    command = f"compare --tasks Task-v0 --agents sac --seeds 2 --steps 30 --out {scripted}".split()
    for fate, code in (("crash", 1), ("good", 0)):
        assert main([*command, "--set", f"sac.1={fate}"]) == code
        shutil.rmtree(scripted)
    assert "no claim" not in capsys.readouterr().out


def test_other_settings_in_the_same_folder_are_refused_and_named(scripted):
    compare(settings(), scripted)
    with pytest.raises(RunFolderError, match="steps was 30, is 60"):
        compare(settings(steps=60), scripted)


def test_a_longer_run_that_is_judged_at_the_same_steps_will_do(scripted):
    compare(settings(), scripted)
    seen = []
    summary = compare(settings(steps=20, evaluations=2), scripted, lambda jobs, job: seen.append(states(jobs)))
    assert seen[-1] == {0: "skipped"}
    assert summary.tasks[0].horizon == 30
    assert json.loads((scripted / "Task-v0/sac/seed_0/config.json").read_text())["steps"] == 30
    with pytest.raises(RunFolderError, match="evaluations was 3, is 1; steps was 30, is 15"):
        compare(settings(steps=15, evaluations=1), scripted)


def test_a_finished_run_goes_on_when_more_is_asked_of_it(scripted):
    """The script begins anew, as an agent without checkpoints does; what is asked of it is what counts here."""
    compare(settings(steps=20, evaluations=2), scripted)
    seen = []
    compare(settings(), scripted, lambda jobs, job: seen.append(states(jobs)))
    assert seen[-1] == {0: "finished"}
    assert json.loads((scripted / "Task-v0/sac/seed_0/config.json").read_text())["steps"] == 30
    before = Run.open(scripted / "Task-v0/sac/.seed_0.abandoned_1")
    assert (before.status, before.config["steps"]) == ("finished", 20), "as it was"
    assert (before.folder / "log.txt").exists()


@pytest.mark.filterwarnings("ignore:.*goes on with other settings")
def test_a_run_that_went_on_equals_one_that_was_asked_for_the_whole_at_once(tmp_path, monkeypatch):
    quick = partial(evaluate_planners, budget=20)
    monkeypatch.setattr("forethought.evaluations.training.evaluate_planners", quick)

    def asked(steps):
        return TrainSettings(
            "Pendulum-v1",
            steps=steps,
            evaluations=steps // 60,
            episodes=1,
            planners_at=(60,),
            planners=("cem",),
            agent_settings=SMALL,
        )

    train(asked(180), tmp_path / "whole")
    train(asked(60), tmp_path / "part")
    job = Job(asked(180), tmp_path / "part")
    job.prepare(BuiltAgents().settings)
    assert job.state == "waiting"
    assert Run.open(tmp_path / "part").status == "finished", "finding out changes nothing"
    starts = Run.open(tmp_path / "part").manifest["starts"]
    job.make_way()
    assert Run.open(tmp_path / "part").status == "interrupted"
    assert Run.open(tmp_path / "part").manifest["starts"] == starts, "asking for more is not going on"
    assert resume(tmp_path / "part").step == 180
    assert Run.open(tmp_path / "part").manifest["resume"] == "exact"
    rows = [
        [reproducible(row) for row in Run.open(tmp_path / name).read_metrics() if "evaluation/returns" in row]
        for name in ("whole", "part")
    ]
    assert list(rows[0][0]["planners"]) == ["policy", "cem"]
    for row in (row for run in rows for row in run):
        for record in row.get("planners", {}).values():
            del record["decision_ms"]
    assert len(rows[0]) == 3
    assert rows[0] == rows[1]


def test_what_is_refused_leaves_all_runs_as_they_were(scripted):
    compare(settings(agents=("jepa", "sac"), steps=20, evaluations=2), scripted)
    before = {path: path.read_bytes() for path in scripted.rglob("*.json*")}
    with pytest.raises(RunFolderError, match="other settings"):
        compare(settings(agents=("jepa", "sac"), agent_settings={"sac": {"gamma": 0.9}}), scripted)
    assert {path: path.read_bytes() for path in scripted.rglob("*.json*")} == before


def test_agents_that_come_later_are_compared_with_the_one_that_was_first(scripted):
    compare(settings(agents=("jepa", "sac")), scripted)
    summary = compare(settings(agents=("crossq", "sac")), scripted)
    assert [cell.label for cell in summary.tasks[0].cells] == ["jepa", "sac", "crossq"]


def test_a_part_of_the_steps_keeps_where_it_is_judged():
    whole = CompareSettings(("A-v0",), steps=100, evaluations=10, planners_at=(20, 50, 100), simulator_at=(50, 100))
    part = whole.up_to(50)
    assert (part.steps, part.evaluations, part.planners_at, part.simulator_at) == (50, 5, (20, 50), (50,))
    assert part.runs()[0].is_beginning_of(whole.runs()[0])
    assert not whole.runs()[0].is_beginning_of(part.runs()[0])
    assert not part.replace(episodes=3).runs()[0].is_beginning_of(whole.runs()[0])
    chosen = whole.replace(planners=("cem",))
    assert [chosen.up_to(steps).runs()[0].planners for steps in (10, 20)] == [(), ("cem",)]
    assert chosen.up_to(10).runs()[0].is_beginning_of(chosen.runs()[0])
    odd = whole.replace(
        evaluations=3, planners_at=(), simulator_at=()
    )  # after 34, 67 and 100 steps, of which only the last is even
    assert odd.up_to(100) == odd
    for steps in (55, 110):
        with pytest.raises(SettingsError, match="judged every 10 steps, up to 100"):
            whole.up_to(steps)
    with pytest.raises(SettingsError, match="tasks have steps of their own"):
        whole.replace(task_steps={"A-v0": 50}).up_to(50)


def test_a_run_that_another_process_works_on_is_refused(scripted):
    asked = TrainSettings("Task-v0", "sac", steps=30)
    run = Run.create(folder_of(scripted, asked), asked.to_dict())
    try:
        with pytest.raises(RunFolderError, match="in use"):
            Job(asked, run.folder).prepare(BuiltAgents().settings)
    finally:
        run.release()


def test_a_comparison_works_outside_the_main_thread(scripted):
    found = []
    thread = threading.Thread(target=lambda: found.append(compare(settings(), scripted)))
    thread.start()
    thread.join(60)
    assert found[0].tasks[0].cells[0].scores.tolist() == [20.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, "tasks"),
        ({"agents": ("sac", "sac")}, "agents"),
        ({"seeds": 0}, "seeds"),
        ({"agent_settings": {"ppo": {}}}, "'ppo'"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, message):
    with pytest.raises(SettingsError, match=message):
        settings(**changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"agents": ("jepa", "sca")}, UnknownNameError),
        ({"tasks": ("CartPol-v1",)}, UnknownNameError),
        ({"tasks": ("CartPole-v1",), "agents": ("random", "sac")}, UnsupportedSpaceError),
        ({"tasks": ("CartPole-v1",), "agents": ("dqn",), "agent_settings": {"dqn": {"gama": 1}}}, SettingsError),
    ],
)
def test_what_cannot_work_is_refused_before_any_run_is_begun(tmp_path, changes, error):
    with pytest.raises(error):
        compare(CompareSettings(**{"tasks": ("Pendulum-v1",), "agents": ("random",), **changes}), tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_real_agents_are_compared_end_to_end(tmp_path):
    asked = CompareSettings(
        ("CartPole-v1",), ("random",), seeds=1, steps=30, evaluations=2, episodes=2, jobs=1, video=False
    )
    summary = compare(asked, tmp_path)
    cell = summary.tasks[0].cells[0]
    assert [len(run.steps) for run in cell.counted] == [2]
    assert cell.scores[0] > 0


def test_the_view_draws_one_picture_on_a_terminal_and_plain_lines_elsewhere():
    job = Job(TrainSettings("Task-v0", "sac", steps=100), folder=None)
    job.state, job.step, job.last_return = "running", 50, -12.34
    for live in (True, False):
        console = Console(file=io.StringIO(), width=100, force_terminal=live)
        with ComparisonView(console, live) as view:
            view([job], job)
            job.state, job.reason = "failed", "[boom]"
            view([job], job)
        text = console.file.getvalue()
        assert "Task-v0  sac  seed 0" in text
        assert "-12.3" in text
        assert ("1 of 1 runs done" in text) == live
        if not live:
            assert "failed: [boom]" in text
            assert "\x1b" not in text
        job.state, job.reason = "running", ""
