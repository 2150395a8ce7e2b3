"""The commands that record and learn from recordings: they go on, add to what is there, and say what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TINY = [
    *("--updates", 6, "--checkpoints", 2, "--batch-size", 4, "--model.latent-dims", 8, "--model.directions", 8),
    *("--model.vision.patch-size", 16, "--model.vision.width", 16, "--model.vision.depth", 1),
    *("--model.transformer.depth", 1, "--model.transformer.hidden", 16),
]


@pytest.fixture
def walks(forethought, tmp_path: Path) -> Path:
    """A store of four short walks."""
    arguments = ("--policy", "expert", "--episodes", 4, "--jobs", 1, "--max-steps", 30, "--out", tmp_path / "walks")
    outcome = forethought("collect", "two-room", *arguments)
    assert outcome.code == 0
    assert "Finished: 4 episodes added to" in outcome.out
    assert f"Try: forethought pretrain {tmp_path / 'walks'}" in outcome.out
    return tmp_path / "walks"


def test_recording_again_adds_to_what_is_there(forethought, walks):
    more = ("--policy", "random", "--episodes", 2, "--jobs", 1, "--max-steps", 5, "--out", walks)
    assert "2 episodes added to" in (out := forethought("collect", "two-room", *more).out)
    assert "which holds 6 now, 130 steps" in out


@pytest.mark.filterwarnings("ignore:The latents have collapsed")
def test_a_world_model_is_learned_and_a_finished_run_is_left_alone(forethought, walks, tmp_path):
    outcome = forethought("pretrain", walks, *TINY, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "Finished 6 updates" in outcome.out
    assert f"Try: forethought evaluate {tmp_path / 'run'}\n" in outcome.out
    assert "update 6/6" in outcome.err
    again = forethought("pretrain", walks, *TINY, "--out", tmp_path / "run")
    assert again.code == 2
    assert "holds a run already" in again.err
    assert "is finished" in forethought("pretrain", "--resume", tmp_path / "run").err
    assert "leave out the others" in forethought("pretrain", "--resume", tmp_path / "run", "--updates", 9).err


@pytest.mark.filterwarnings("ignore:The latents have collapsed")
def test_a_world_model_without_goals_is_for_an_agent(forethought, tmp_path):
    store, run = tmp_path / "swings", tmp_path / "run"
    forethought("collect", "Pendulum-v1", "--episodes", 3, "--jobs", 1, "--max-steps", 30, "--out", store)
    outcome = forethought("pretrain", store, "--updates", 2, "--batch-size", 8, "--model.hidden", 8, "--out", run)
    going_on = f"forethought train Pendulum-v1 --world-model {run}"
    assert f"Try: {going_on} --store {store}\n" in outcome.out, outcome.err
    assert f"let an agent take this one up: {going_on}." in forethought("evaluate", run).err
    assert "is a run of forethought pretrain, not of" in forethought("train", "--resume", run).err


@pytest.fixture
def run(forethought, walks, tmp_path: Path) -> Path:
    """A world model that has learned next to nothing."""
    assert forethought("pretrain", walks, *TINY, "--out", tmp_path / "run").code == 0
    return tmp_path / "run"


def cells(printed: str) -> list[list[str]]:
    """Return the rows of the table in what was printed."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line[:1] == "|"][2:]


@pytest.mark.filterwarnings("ignore:The latents have collapsed")
def test_plans_to_goals_are_compared_and_mistakes_named(forethought, run):
    few = ("--episodes", 3, "--budget", "20,30", "--offsets", "25,0")
    goals = forethought("evaluate", run, *few, "--planners", "cem,icem", "--horizon", 2)
    assert goals.code == 0, goals.err
    rows, acting = cells(goals.out), ["nothing", "chance", "cem", "cem", "icem", "icem"]
    assert [(row[0], row[2]) for row in rows] == [
        (name, after) for after in ("25 steps", "other episodes") for name in acting
    ]
    assert [row[4] for row in rows[:4]] == ["", "", "20", "29"]
    assert "start was at the goal: 34 (25 steps), 24 (other episodes)" in goals.out
    assert re.search(r"reads the true state off held-out latents with r = -?[01]\.\d{4}, -?[01]\.\d{4}\.", goals.out)
    saved = json.loads((run / "goals.json").read_text())
    assert [row["name"] for row in saved["rows"]] == 2 * acting
    assert len(saved["rows"][0]["results"][0]["reached"]) == 3
    for arguments, said in (
        (("--offsets", "26"), "two-room has no goals after 26 steps; it has them after 25, 50, 100, 0"),
        (("--offsets", "far"), "is not a whole number"),
        (("--budget", "-5"), "is not a whole number"),
        (("--planners", "cme"), "Did you mean 'cem'"),
        (("--distance", "tme"), "distance"),
        (("--distance", "time"), "knows no time to goal yet; learn it: forethought time-to-goal"),
        (("--task", "Pendulum-v1"), "Unknown goal task"),
        (("--render", "human"), "not for world models"),
    ):
        refused = forethought("evaluate", run, *arguments)
        assert refused.code == 2
        assert said in refused.err


@pytest.mark.filterwarnings("ignore:The latents have collapsed")
def test_an_agent_goes_on_from_a_world_model_and_recorded_episodes(forethought, run, walks, tmp_path):
    agent = ("--world-model", run, "--steps", 30, "--learning-starts", 20, "--batch-size", 4)
    brief = ("--evaluations", 1, "--episodes", 1, "--planning.budget", 20, "--planning.proposals", 2)
    outcome = forethought("train", "two-room", "--store", walks, *agent, *brief, "--out", tmp_path / "agent")
    assert outcome.code == 0, outcome.err
    assert "The pretrained world model had no continue_head and no reward_head: built anew." in outcome.out
    config = json.loads((tmp_path / "agent" / "config.json").read_text())
    assert config["agent_settings"]["model"]["latent_dims"] == 8
    assert config["agent_settings"]["model"]["heads"]
    for arguments, parts in (
        (("Pendulum-v1", *agent), ("(64, 64, 3)", "(3,)")),
        (("two-room", *agent, "--model.latent-dims", 16), ("model.latent_dims = 16 contradicts",)),
        (("two-room", *agent, "--agent", "sac"), ("unrecognized options",)),
        (("two-room", "--agent", "sac", "--world-model", run), ("'sac' learns without world_model",)),
        (("two-room", "--store", tmp_path), ("holds no episode store",)),
        (("two-room", "--world-model", walks), ("holds no world model",)),
        (("--resume", tmp_path / "agent", "--store", walks), ("leave out --store",)),
    ):
        refused = forethought("train", *arguments, *(() if "--resume" in arguments else ("--out", tmp_path / "other")))
        assert refused.is_one_sentence_about(*parts), refused
    assert not (tmp_path / "other").exists()


@pytest.mark.filterwarnings("ignore:The latents have collapsed")
def test_the_time_to_goal_is_learned_for_a_run_and_several_runs_are_judged_together(forethought, run, walks, tmp_path):
    other = tmp_path / "other"
    assert forethought("pretrain", walks, *TINY, "--seed", 1, "--out", other).code == 0
    for folder in (run, other):
        learned = forethought("time-to-goal", folder, "--updates", 3, "--batch-size", 8)
        assert learned.code == 0, learned.err
        assert f"Try: forethought evaluate {folder} --distance time" in learned.out
    few = ("--episodes", 2, "--budget", 20, "--horizon", 2, "--distance", "latent,time")
    goals = forethought("evaluate", run, other, *few, "--offsets", 25)
    assert goals.code == 0, goals.err
    assert [row[:2] for row in cells(goals.out)[2:]] == [["cem", "latent, sum"], ["cem", "time, sum"]]
    assert "by 2 world models" in goals.out
    assert "The film is in" not in goals.out
    assert [len(row["results"]) for row in json.loads((run / "goals.json").read_text())["rows"]] == [1, 1, 2, 2]
    filmed = ("--protocol", "lewm", "--offsets", 5, "--video", tmp_path / "goal.gif")
    theirs = forethought("evaluate", run, *few[:6], *filmed)
    assert f"The film is in {tmp_path / 'goal.gif'}." in theirs.out
    with Image.open(tmp_path / "goal.gif") as film:
        assert film.n_frames >= 2  # the start, and where the first step led
    assert theirs.code == 0, theirs.err
    assert "2 starts and goals from the very episodes that were learned from" in theirs.out
    (run / "model.zip").write_bytes((other / "model.zip").read_bytes())
    assert "has changed since" in forethought("evaluate", run, *few).err


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A file of three walks in LeWorldModel's layout."""
    h5py = pytest.importorskip("h5py", reason="needs the extra hdf5")
    pytest.importorskip("hdf5plugin", reason="needs the extra hdf5")
    rng, rows = np.random.default_rng(0), 3 * 30
    path = tmp_path / "others.h5"
    with h5py.File(path, "w") as file:
        file["pixels"] = rng.integers(0, 256, (rows, 48, 48, 3), dtype=np.uint8)
        file["action"] = rng.uniform(-1, 1, (rows, 2))
        file["ep_len"], file["ep_offset"] = [30] * 3, [0, 30, 60]
    return path


@pytest.mark.filterwarnings("ignore:The latents have collapsed")
def test_what_others_recorded_is_learned_from_with_one_more_command(forethought, others, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = forethought("import", others, "--size", 32, "--episodes", 2)
    assert (first.code, first.err) == (0, "")
    assert "Finished: 2 episodes added to data/others, which holds 2 now, 58 steps." in first.out
    assert "Try: forethought pretrain data/others" in first.out
    assert "1 episode added" in forethought("import", others, "--size", 32).out
    assert "holds all of it already: 3 episodes, 87 steps" in forethought("import", others, "--size", 32).out
    outcome = forethought("pretrain", "data/others", *TINY, "--model.unroll", 2, "--out", "run")
    assert outcome.code == 0, outcome.err
    assert "does not know its task" in forethought("evaluate", "run").err


def test_options_for_goals_are_refused_for_agents(forethought, trained):
    outcome = forethought("evaluate", trained, "--offsets", 25)
    assert outcome.code == 2
    assert "--offsets is for world models that plan to goals" in outcome.err
    assert "One run at a time" in forethought("evaluate", trained, trained).err
    assert "'10,20' is not a whole number" in forethought("evaluate", trained, "--budget", "10,20").err


def test_help_shows_the_defaults_of_what_fits_the_store(forethought, walks):
    shown = forethought("pretrain", walks, "--help").out
    assert re.search(r"--model\.vision\.patch-size INT\s", shown)
    assert forethought("pretrain", "--help").code == forethought("collect", "--help").code == 0
    for option in ("--model", "--preset"):
        assert "takes images of the shape (224, 224, 3)" in forethought("pretrain", walks, option, "lewm").err
        assert "Did you mean 'lewm-small'" in forethought("pretrain", walks, f"{option}=lewm-smal").err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("collect",), "TASK"),
        (("collect", "two-rom"), "Did you mean 'two-room'"),
        (("collect", "two-room", "--episodes", "0"), "episodes"),
        (("collect", "Hopper-v5", "--policy", "expert"), "has no expert"),
        (("collect", "two-room", "--set", "size"), "NAME=VALUE"),
        (("collect", "two-room", "--set", "size=9"), "at least 32 pixels"),
        (("collect", "two-room", "--polcy", "expert"), "did you mean --policy"),
        (("import",), "SOURCE"),
        (("import", ""), "What? Such as"),
        (("import", "nowhere.h5"), "There is no nowhere.h5"),
        (("import", "D4RL/door/human-v2"), "minari download D4RL/door/human-v2"),
        (("import", "nowhere.h5", "--set", "size=64"), "by --task"),
        (("import", "nowhere.h5", "--sise", "64"), "did you mean --size"),
        (("import", "nowhere.h5", "--action-bounds", "-1"), "forethought import --help"),
        (("pretrain",), "Which store?"),
        (("time-to-goal",), "Which run?"),
        (("time-to-goal", "nowhere"), "is not a run folder"),
        (("evaluate",), "Which run?"),
        (("adopt", "nowhere", "nowhere"), "cannot be read"),
        (("speed", "loading"), "Which store?"),
        (("speed", "monitor"), "Which run?"),
        (("speed", "loading", "nowhere"), "no episode store"),
        (("speed", "planning", "--model", "lewmm"), "--model"),
        (("pretrain", "nowhere"), "Which store?"),
        (("pretrain", "--preset", "lewn", "nowhere"), "Did you mean 'lewm'"),
        (("pretrain", "--resume", "nowhere"), "is not a run folder"),
    ],
)
def test_mistakes_are_answered_in_a_sentence_and_leave_nothing(
    forethought, arguments, said, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    outcome = forethought(*arguments)
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_store_and_a_preset_that_do_not_fit_are_named(forethought, walks):
    outcome = forethought("pretrain", walks, "--preset", "lewm")
    assert outcome.code == 2
    assert "takes images of the shape (224, 224, 3), and the observations are (64, 64, 3)" in outcome.err
