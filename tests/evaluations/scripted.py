"""Comparisons whose training processes are a script, with a fate that the settings decide."""

from __future__ import annotations

from forethought.evaluations.compare import CompareSettings

WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from forethought.core.runs import Run

settings, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
fate = settings["agent_settings"].get(str(settings["seed"]), "good")
run = Run.open(folder).__enter__() if (folder / "config.json").exists() else Run.create(folder, settings)
signal.signal(signal.SIGTERM, lambda *_: (run.set_status("interrupted"), run.release(), os._exit(130)))
print("begun", flush=True)
if fate == "crash":
    run.set_status("failed", "ValueError: wrong turn")
    sys.exit("ValueError: wrong turn")
if fate == "kill" or fate == "kill once" and not list(folder.parent.glob(".*abandoned*")):
    os.kill(os.getpid(), signal.SIGKILL)
for step in (10, 20, 30):
    run.log({"evaluation/returns": [step, step], "evaluation/return_mean": step, "time/cpu_seconds": 1}, step)
    time.sleep(30 if fate == "slow" else 0)
run.set_status("finished")
run.release()
"""


def settings(fates=(), **changes):
    fates = {"sac": {str(seed): fate for seed, fate in enumerate(fates)}} if fates else {}
    asked = {"tasks": ("Task-v0",), "agents": ("sac",), "seeds": 1, "steps": 30, "evaluations": 3, "jobs": 2}
    return CompareSettings(**{**asked, "agent_settings": fates, **changes})


def states(seen):
    return {job.settings.seed: job.state for job in seen}
