"""Whether runs are of one agent: by all its settings, in whatever words, and beside that by what they ran on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from forethought.agents.settings import JEPAAgentSettings
from forethought.core.errors import RunFolderError
from forethought.core.runs import Run
from forethought.evaluations.compare import compare
from forethought.world_model.settings import SIGREG

from .conftest import summary_of
from .scripted import settings, states


def note_agent_settings(folder, **settings):
    with Run.open(folder) as run:
        run.note(agent_settings=settings)


def test_an_agent_whose_defaults_have_changed_is_another(scripted, monkeypatch):
    compare(settings(), scripted)
    note_agent_settings(scripted / "Task-v0/sac/seed_0", gamma=0.9, tau=0.1)
    today = {"gamma": 0.99, "tau": 0.1}
    monkeypatch.setattr(sys.modules[compare.__module__], "_built_settings", lambda run: today | run.agent_settings)
    with pytest.raises(RunFolderError) as refusal:
        compare(settings(seeds=2), scripted)
    assert "other settings, because defaults have changed since (agent_settings.gamma was 0.9, is 0.99)" in str(
        refusal.value
    )
    assert not (scripted / "Task-v0/sac/seed_1").exists()
    seen = []
    as_it_was = {"sac": {"gamma": 0.9}}
    compare(settings(agent_settings=as_it_was), scripted, lambda jobs, job: seen.append(states(jobs)))
    assert seen[-1] == {0: "skipped"}
    with pytest.raises(RunFolderError, match=r"other settings \(agent_settings.tau was 0.1, is 0.2\)"):
        compare(settings(agent_settings={"sac": {"gamma": 0.9, "tau": 0.2}}), scripted)


@pytest.mark.parametrize("noted", ["bf16", "fp32", "auto"])
def test_any_arithmetic_will_do_where_it_is_left_to_the_machine(scripted, monkeypatch, noted):
    compare(settings(), scripted)
    note_agent_settings(scripted / "Task-v0/sac/seed_0", compute={"precision": noted})
    monkeypatch.setattr(sys.modules[compare.__module__], "_built_settings", lambda run: run.agent_settings)
    seen = []

    def again(precision):
        asked = settings(agent_settings={"sac": {"compute": {"precision": precision}}})
        compare(asked, scripted, lambda jobs, job: seen.append(states(jobs)))

    again("auto")
    assert seen[-1] == {0: "skipped"}
    again(noted)
    other = "fp32" if noted != "fp32" else "bf16"
    with pytest.raises(RunFolderError, match=rf"compute.precision was '{noted}', is '{other}'"):
        again(other)


@pytest.mark.parametrize("more", [False, True])
def test_what_begins_again_or_goes_on_does_so_with_the_settings_that_were_asked_for_last(scripted, monkeypatch, more):
    compare(settings(), scripted)
    folder = scripted / "Task-v0/sac/seed_0"
    note_agent_settings(folder, gamma=0.9)
    if not more:
        with Run.open(folder) as run:
            run.set_status("interrupted")  # before there was a checkpoint
    monkeypatch.setattr(
        sys.modules[compare.__module__], "_built_settings", lambda run: {"gamma": 0.99} | run.agent_settings
    )
    steps = {"steps": 60, "evaluations": 6} if more else {}
    seen = []
    compare(
        settings(agent_settings={"sac": {"gamma": 0.9}}, **steps), scripted, lambda jobs, job: seen.append(states(jobs))
    )
    assert seen[-1] == {0: "finished"}
    assert json.loads((folder / "config.json").read_text())["agent_settings"] == {"gamma": 0.9}


def test_a_finished_run_of_an_agent_that_cannot_be_built_any_more_counts_as_it_was_asked_for(scripted, monkeypatch):
    compare(settings(), scripted)
    note_agent_settings(scripted / "Task-v0/sac/seed_0", gamma=0.9)

    def gone(run):
        raise ZeroDivisionError("of somebody's environment")

    monkeypatch.setattr(sys.modules[compare.__module__], "_built_settings", gone)
    seen = []
    compare(settings(), scripted, lambda jobs, job: seen.append(states(jobs)))
    assert seen[-1] == {0: "skipped"}
    with pytest.raises(ZeroDivisionError):
        compare(settings(seeds=2), scripted)


def test_two_settings_of_one_agent_are_two_agents(make_run, tmp_path):
    make_run.func(tmp_path / "a", "jepa", 0, agent_settings={"planning": {"horizon": 9, "budget": 1}})
    make_run.func(tmp_path / "b", "jepa", 0, agent_settings={"planning": {"horizon": 5, "budget": 1}})
    labels = [cell.label for cell in summary_of(tmp_path).tasks[0].cells]
    assert labels == ["jepa (planning.horizon=5)", "jepa (planning.horizon=9)"]


def test_settings_asked_for_and_the_same_by_default_are_one_agent(make_run, tmp_path):
    for seed, asked in enumerate(({}, {"horizon": 3})):
        with Run.open(make_run(seed=seed, agent_settings=asked)) as run:
            run.note(agent_settings={"horizon": 3})
            run.set_status("finished")
    assert [cell.label for cell in summary_of(tmp_path).tasks[0].cells] == ["jepa"]


def test_a_setting_that_a_run_is_too_old_to_know_is_what_it_was_before_it_could_be_set(make_run, tmp_path):
    before = {"planning": {"doubt": 0.0, "bootstrap": "last"}, "behaviour": {"value_expansion": None}}
    before["behaviour"]["averaging_rate"] = 1.0
    cuts = {"episode_share": None, "cut_if_terminating": True}
    whole = JEPAAgentSettings(model=SIGREG, **cuts, **before).to_dict()
    older = {name: value for name, value in whole.items() if name not in cuts}
    for part, unknown in (before | {"model": SIGREG}).items():
        older[part] = {name: value for name, value in whole[part].items() if name not in unknown}
    for seed, noted in enumerate((older, whole)):
        with Run.open(make_run("jepa", seed)) as run:
            run.note(agent_settings=noted)
            run.set_status("finished")
    assert [cell.label for cell in summary_of(tmp_path).tasks[0].cells] == ["jepa"]


def test_placebos_of_this_package_are_known_without_having_been_imported(make_run, tmp_path):
    module = "forethought.evaluations.placebos"
    whole = JEPAAgentSettings().to_dict()
    for seed, noted in enumerate(({k: v for k, v in whole.items() if k != "fading"}, whole)):
        with Run.open(make_run(f"{module}:frozen_encoder", seed)) as run:
            run.note(agent_settings=noted)
            run.set_status("finished")
    alone = """
import sys
from forethought.evaluations.results import read_run
runs = [read_run(folder) for folder in sys.argv[1:]]
assert runs[0].variant == runs[1].variant, [run.variant for run in runs]
"""
    folders = sorted(str(path.parent) for path in tmp_path.rglob("manifest.json"))
    assert len(folders) == 2
    subprocess.run([sys.executable, "-c", alone, *folders], check=True)


def test_a_run_of_an_agent_that_is_gone_from_this_package_is_read_as_it_is(make_run, tmp_path):
    with Run.open(make_run("forethought.evaluations.gone:away")) as run:
        run.note(agent_settings={"horizon": 3})
        run.set_status("finished")
    assert [cell.label for cell in summary_of(tmp_path).tasks[0].cells] == ["forethought.evaluations.gone:away"]


def test_a_setting_that_is_younger_than_a_run_and_changes_nothing_by_default_is_no_difference(make_run, tmp_path):
    whole = JEPAAgentSettings().to_dict()
    older = {**whole, "behaviour": {name: value for name, value in whole["behaviour"].items() if name != "reward"}}
    other = {**whole, "behaviour": whole["behaviour"] | {"reward": "disagreement"}}
    other["model"] = whole["model"] | {"ensemble": 5}
    for seed, noted in enumerate((older, whole, other)):
        with Run.open(make_run("jepa", seed)) as run:
            run.note(agent_settings=noted)
            run.set_status("finished")
    labels = [cell.label for cell in summary_of(tmp_path).tasks[0].cells]
    seeking, usual = sorted(labels)
    assert "behaviour.reward=disagreement" in seeking
    assert "behaviour.reward=task" in usual


def test_one_agent_asked_for_in_other_words_on_another_task_is_one_agent(make_run, tmp_path):
    for task, asked in (("A-v0", {}), ("B-v0", {"gamma": 0.9})):
        with Run.open(make_run("sac", task=task, agent_settings=asked)) as run:
            run.note(agent_settings={"gamma": 0.9})
            run.set_status("finished")
    assert not [note for note in summary_of(tmp_path).notes if "asked for with other settings" in note]


def test_other_libraries_and_processors_are_told(make_run, tmp_path):
    def note(seed, processor, status="finished", **versions):
        with Run.open(make_run(seed=seed)) as run:
            start = {**run.manifest["starts"][-1], "processor": processor}
            run.note(starts=[{**start, "versions": {"python": "3.11.7", "torch": "2.13.0", **versions}}])
            run.set_status(status)

    note(0, "AMD EPYC", gymnasium="1.4.0")
    note(1, "AMD EPYC", gymnasium="1.4.0", mujoco=None)
    note(2, None, gymnasium="1.4.0")  # of a run too old to know
    note(3, "Xeon", "failed", gymnasium="1.5.0", torch="2.11.0")
    assert not [note for note in summary_of(tmp_path).notes if "The runs were not made" in note]
    note(4, "Xeon", gymnasium="1.5.0", torch="2.11.0")
    assert [note for note in summary_of(tmp_path).notes if "The runs were not made" in note] == [
        "The runs were not made with one version of gymnasium (1.4.0, 1.5.0): tasks may differ between them.",
        "The runs were not made with one version of torch (2.11.0, 2.13.0).",
        "The runs were not made on one kind of processor (AMD EPYC; Xeon): times cannot be compared, and what "
        "compute.precision=auto stands for may differ.",
    ]


def test_other_devices_and_commits_are_told(make_run, tmp_path):
    def note(agent, seed, device, commit, modified=False):
        with Run.open(make_run(agent, seed=seed)) as run:
            run.note(starts=[{"git": {"commit": commit * 40, "modified": modified}}], device=device)
            run.set_status("finished")

    note("jepa", 0, "cpu", "a")
    note("jepa", 1, "cpu", "a")
    note("sac", 0, "cpu", "b")
    assert not [note for note in summary_of(tmp_path).notes if "made" in note]
    note("jepa", 2, "cuda", "a", modified=True)
    assert [note for note in summary_of(tmp_path).notes if "made" in note] == [
        "The runs were not made on one kind of device (cpu; cuda): times cannot be compared, and what "
        "compute.precision=auto stands for may differ.",
        "Runs of one agent were made at several commits, or with changes that were not committed: what is not a "
        "setting may differ (jepa: aaaaaaa, aaaaaaa and changes).",
    ]


def test_what_is_damaged_in_a_log_and_what_was_read_between_evaluations_are_told(make_run, tmp_path):
    log = make_run("jepa", 0, (1.0, 2.0, 3.0, 4.0)) / "metrics.jsonl"
    make_run("sac", 0, (1.0, 2.0, 3.0, 4.0))
    assert not [note for note in summary_of(tmp_path).notes if "damaged" in note or "read off" in note]
    lines = log.read_text().splitlines()
    lines[4] = lines[4].replace('"step"', '"stop"')  # of step 200
    log.write_text("\n".join(lines) + "\n")
    notes = summary_of(tmp_path).notes
    assert [note for note in notes if "damaged" in note] == [f"{log}, line 5, is damaged and was left out."]
    assert [note for note in notes if "read off" in note] == [
        "Task-v0: not judged at the very steps at which all are compared, but read off between evaluations: jepa, sac."
    ]
