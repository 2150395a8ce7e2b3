"""The commands do what they say, can be stopped and continued, and read well wherever they print."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios

import pytest

from forethought.cli.train import read_options
from forethought.core.runs import Run

COMMAND = [sys.executable, "-m", "forethought"]
HINT = re.compile(r"^Go on with: forethought (.+)$", re.MULTILINE)


def test_version_and_help_answer(forethought):
    assert forethought("--version").out.startswith("forethought ")
    text = forethought("--help").out
    assert all(name in text for name in ("train", "evaluate", "compare", "report", "list", "doctor"))
    assert forethought().code == 2


def test_list_explains_each_name_in_a_line(forethought):
    outcome = forethought("list")
    assert outcome.code == 0
    lines = [line.split(maxsplit=1) for line in outcome.out.splitlines() if line.startswith("  ")]
    assert {"icem", "mppi", "policy", "jepa", "sac", "InvertedPendulum-v5", "collapse"} <= {name for name, _ in lines}
    assert all(len(sentence) > 20 for _, sentence in lines)


def test_list_marks_agents_whose_extra_is_missing(forethought, monkeypatch):
    from importlib.util import find_spec

    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "sb3_contrib" else find_spec(name))
    lines = {line.split()[0]: line for line in forethought("list", "agents").out.splitlines() if line}
    assert "pip install '.[contrib]'" in lines["tqc"]
    assert "pip install" not in lines["sac"]


def test_doctor_reports_versions_devices_rendering_and_extras(forethought):
    outcome = forethought("doctor")
    assert all(word in outcome.out for word in ("torch", "mujoco", "cpu", "Rendering", "contrib", "video"))


def test_doctor_examines_an_environment(forethought):
    outcome = forethought("doctor", "CartPole-v1", "--steps", 50)
    assert outcome.code == 0
    assert "exact resume" in outcome.out
    assert "FAIL" not in outcome.out


def test_every_setting_of_the_agent_is_an_option(forethought):
    text = forethought("train", "--help").out
    assert all(option in text for option in ("--model.latent-dims", "--behaviour.discount", "--planning.planner"))


@pytest.mark.parametrize(
    ("options", "planner", "proposals"),
    [
        (["--planner", "policy"], "policy", 1),
        (["--planner", "policy", "--planning.proposals", "8"], "policy", 8),
        (["--planner=policy", "--planning.proposals=16"], "policy", 16),
        (["--planner", "cem", "--planning.planner", "mppi"], "cem", 16),
        (["--planning.planner", "policy"], "policy", 16),
    ],
)
def test_the_planner_called_policy_is_the_actor_alone(options, planner, proposals):
    planning = read_options(["Pendulum-v1", *options]).agent_settings()["planning"]
    assert (planning["planner"], planning["proposals"]) == (planner, proposals)


@pytest.mark.parametrize(
    "options",
    [
        ["--episode-share", "none", "--behaviour.value-expansion", "none"],
        ["--episode-share=none", "--behaviour.value_expansion=None"],
        ["--episode-share", "None", "--behaviour.value-expansion", "NONE"],
    ],
)
def test_what_is_none_may_be_written_as_messages_and_benchmarks_write_it(options):
    settings = read_options(["Pendulum-v1", *options]).agent_settings()
    assert settings["episode_share"] is None
    assert settings["behaviour"]["value_expansion"] is None


def test_options_reach_the_run_and_its_config(trained):
    config = Run.open(trained).config
    assert (config["task"], config["agent"], config["steps"]) == ("Pendulum-v1", "jepa", 60)
    assert config["agent_settings"]["model"]["latent_dims"] == 8
    assert config["agent_settings"]["planning"]["budget"] == 20


def test_environments_run_in_processes_of_their_own_if_asked_to(forethought, tmp_path, quick):
    options = ["--num-envs", "2", "--async-envs", "--supervision.timeout-s", "30", "--supervision.restarts", "1"]
    outcome = forethought("train", "Pendulum-v1", "--out", tmp_path / "run", *quick, *options)
    assert outcome.code == 0, outcome
    run = Run.open(tmp_path / "run")
    assert run.config["agent_settings"]["supervision"] == {"restarts": 1, "timeout_s": 30.0}
    assert run.config["agent_settings"]["async_envs"] is True
    assert run.read_metrics()[-1]["env/restarts"] == 0


def test_a_baseline_takes_its_settings_by_name(forethought, tmp_path):
    folder = tmp_path / "a run"
    arguments = ["--agent", "sac", "--set", "learning_rate=1e-3", "--set", "learning-starts=20", "--out", folder]
    outcome = forethought("train", "Pendulum-v1", "--steps", 30, "--evaluations", 1, "--episodes", 1, *arguments)
    assert outcome.code == 0, outcome.err
    assert Run.open(folder).config["agent_settings"] == {"learning_rate": 1e-3, "learning_starts": 20}
    assert shlex.quote(str(folder)) in outcome.out


def test_without_a_terminal_training_prints_plain_lines(forethought, tmp_path, quick):
    outcome = forethought("train", "Pendulum-v1", "--out", tmp_path / "run", *quick)
    assert outcome.code == 0
    assert "step 60/60" in outcome.err
    assert "return" in outcome.err
    assert "\x1b" not in outcome.err + outcome.out


@pytest.mark.filterwarnings("default:learning starts")
def test_training_that_ends_before_learning_starts_says_so(forethought, tmp_path, quick):
    outcome = forethought("train", "Pendulum-v1", "--out", tmp_path / "run", *quick, "--learning-starts", 90)
    assert outcome.code == 0
    assert "learning starts after 90 steps, so these 60 gather experience" in outcome.err


def test_evaluate_plays_the_agent_as_it_acts_by_itself(forethought, trained, tmp_path):
    film = tmp_path / "film.gif"
    outcome = forethought("evaluate", trained, "--episodes", 1, "--video", film)
    assert outcome.code == 0, outcome.err
    assert "return" in outcome.out
    assert film.read_bytes().startswith(b"GIF8")


def test_evaluate_swaps_planners_and_keeps_the_table_with_the_run(forethought, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    outcome = forethought("evaluate", folder, "--planners", "policy,random,icem", "--budget", 20, "--episodes", 2)
    assert outcome.code == 0, outcome.err
    names = [line.split("|")[1].strip() for line in outcome.out.splitlines() if line.startswith("|")]
    assert names[2:] == ["policy", "random", "icem"]
    kept = json.loads((folder / "planners.json").read_text())
    assert [row["planner"] for row in kept["rows"]] == ["policy", "random", "icem"]


def test_an_agent_file_alone_gives_the_same_returns_as_its_run(forethought, trained):
    whole = forethought("evaluate", trained, "--episodes", 2, "--seed", 3)
    alone = forethought("evaluate", trained / "agent.zip", "--task", "Pendulum-v1", "--episodes", 2, "--seed", 3)
    assert whole.out.split(",")[0] == alone.out.split(",")[0]


def test_report_writes_a_page_about_a_run(forethought, trained, tmp_path):
    outcome = forethought("report", trained, "--out", tmp_path / "report")
    assert outcome.code == 0, outcome.err
    assert "Pendulum-v1" in (tmp_path / "report" / "report.html").read_text()


def test_a_report_tells_the_leads_of_an_agent_that_there_is(forethought, trained, tmp_path):
    refused = forethought("report", trained, "--first", "jepaa", "--out", tmp_path / "report")
    assert refused.is_one_sentence_about("'jepaa'", "'jepa'"), refused
    assert not list(tmp_path.iterdir())
    assert forethought("report", trained, "--first", "jepa", "--out", tmp_path / "report").code == 0


def test_a_report_may_be_about_some_tasks_and_some_of_the_steps(forethought, trained, tmp_path):
    part = ("--tasks", "Pendulum-v1", "--out", tmp_path / "report")
    longer = tmp_path / "longer"
    shutil.copytree(trained, longer)
    with Run.open(longer) as run:
        (last,) = {row["step"] for row in run.read_metrics() if "evaluation/returns" in row}
        run.log({"evaluation/returns": [-1.0, -2.0], "time/cpu_seconds": 1e6}, 2 * last)
    for asked, horizon in (([], 2 * last), (["--steps", last], last)):
        assert forethought("report", longer, *asked, *part).code == 0
        (task,) = json.loads((tmp_path / "report" / "results.json").read_text())["tasks"].values()
        assert task["horizon"] == horizon
    assert forethought("report", longer, "--steps", 0, *part).is_one_sentence_about("after 0 steps")
    assert forethought("report", longer, "--steps", 1, *part).is_one_sentence_about("after 1 steps")
    assert forethought("report", trained, "--tasks", "Pendulum-v2").is_one_sentence_about("'Pendulum-v1'")


def _start(*arguments: object) -> subprocess.Popen[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _stop(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """Send a signal once the training steps, and return the exit code and what was printed."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step "):
            process.send_signal(number)
            break
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    return process.returncode, out


def test_ctrl_c_and_sigterm_save_and_tell_how_to_resume(tmp_path, quick):
    folder = tmp_path / "a run"
    code, out = _stop(_start("train", "Pendulum-v1", "--out", folder, *quick, "--steps", 100_000), signal.SIGINT)
    assert code == 130
    stopped_at = Run.open(folder).latest_checkpoint().documents["agent"]["num_timesteps"]
    hint = HINT.search(out)
    assert hint, out
    code, out = _stop(_start(*shlex.split(hint[1])), signal.SIGTERM)
    assert code == 143
    assert HINT.search(out)
    run = Run.open(folder)
    assert run.latest_checkpoint().documents["agent"]["num_timesteps"] > stopped_at
    assert run.status == "interrupted"
    assert run.manifest["resume"] == "exact"


@pytest.mark.parametrize(("signal", "code"), [((), 130), (("SIGTERM",), 143)])
def test_a_stopped_comparison_says_how_to_go_on(forethought, monkeypatch, tmp_path, signal, code):
    def stopped(*_):
        raise KeyboardInterrupt(*signal)

    monkeypatch.setattr("forethought.cli.compare.compare", stopped)
    outcome = forethought("compare", "--tasks", "Pendulum-v1", "--out", tmp_path / "runs")
    assert outcome.code == code
    assert "The same command goes on" in outcome.out


def test_a_comparison_runs_and_prints_its_tables(forethought, tmp_path):
    short = ["--steps", 40, "--evaluations", 1, "--episodes", 1, "--seeds", 1, "--out", tmp_path / "runs"]
    outcome = forethought("compare", "--tasks", "CartPole-v1", "--agents", "random", *short)
    assert outcome.code == 0, outcome.err
    assert "**CartPole-v1 at 40 steps**" in outcome.out
    assert "a single seed" in outcome.out


def test_a_part_of_a_benchmark_runs(forethought, tmp_path):
    path, out = tmp_path / "mine.toml", tmp_path / "runs"
    path.write_text(
        'tasks = ["Pendulum-v1", "CartPole-v1"]\nsteps = 30\nepisodes = 1\nevaluations = 1\nvideo = false\n'
        "[agents.jepa]\n[agents.sac]\n[agents.dice]\nagent = 'random'\n"
    )
    part = ["--tasks", "CartPole-v1", "--agents", "dice", "--seeds", "2", "--jobs", "1"]
    outcome = forethought("compare", "--benchmark", path, *part, "--out", out)
    assert outcome.code == 0, outcome.err
    made = {str(run.parent.relative_to(out)) for run in out.rglob("config.json")}
    assert made == {"CartPole-v1/dice/seed_0", "CartPole-v1/dice/seed_1"}


def test_a_reader_that_stops_reading_is_no_error():
    with _start("list") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def _on_a_terminal(arguments: list[object], columns: int, **environment: str) -> str:
    """Run a command on a terminal of that width, and return what it shows; it must succeed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # how Linux says that the other end was closed
        pass
    os.close(ours)
    assert process.wait(30) == 0, shown.decode()
    return shown.decode()


ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
COLOURS = re.compile(r"\x1b\[(?:\d+;)*(?:3|4|9)\d[;m]")


def test_forty_columns_are_enough(trained):
    shown = _on_a_terminal(["list"], 40)
    assert max(len(line) for line in shown.splitlines()) <= 40
    table = ESCAPES.sub("", _on_a_terminal(["evaluate", trained, "--planners", "cem", "--episodes", 1], 40))
    assert re.search(r"gain over policy: -?\d", table)
    assert "…" not in table


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"CI": "true"}])
def test_a_dumb_terminal_or_a_log_gets_lines_that_stay(tmp_path, quick, environment):
    shown = _on_a_terminal(["train", "Pendulum-v1", "--out", tmp_path / "run", *quick], 80, **environment)
    assert "step 60/60" in shown
    assert "\x1b[2K" not in shown, "it redraws"


def test_a_terminal_gets_a_display_that_redraws_itself(tmp_path, quick):
    shown = _on_a_terminal(["train", "Pendulum-v1", "--out", tmp_path / "run", *quick], 80)
    assert "\x1b[2K" in shown
    assert "steps/s" in shown


@pytest.mark.parametrize(
    "command", [["train", "--help"], ["evaluate", "{run}", "--planners", "cem", "--episodes", "1"]]
)
def test_no_color_is_respected(trained, command):
    arguments = [argument.format(run=trained) for argument in command]
    assert not COLOURS.search(_on_a_terminal(arguments, 80, NO_COLOR="1"))


@pytest.mark.filterwarnings("default:.*config.json was changed")
def test_settings_that_were_edited_are_told_of_once(forethought, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "edited")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "episodes": 3}))
    outcome = forethought("evaluate", run, "--episodes", "1")
    assert outcome.code == 0
    assert outcome.err.count("was changed after the run was created") == 1
