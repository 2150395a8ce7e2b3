"""What is kept in ``results`` is what it says: each run its own, as it was written, and nobody's machine named."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from forethought.evaluations.benchmark import available_benchmarks, read_benchmark
from forethought.evaluations.compare import _built_settings
from forethought.evaluations.jobs import Job, folder_of
from forethought.evaluations.settings import TrainSettings

RESULTS = Path(__file__).parents[2] / "results"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_no_two_runs_have_the_same_log() -> None:
    logs: dict[str, list[Path]] = {}
    for path in RESULTS.rglob("metrics.jsonl"):
        logs.setdefault(_digest(path), []).append(path)
    assert len(logs) > 50
    assert [paths for paths in logs.values() if len(paths) > 1] == []


def test_settings_are_those_that_the_runs_were_begun_with() -> None:
    manifests = {path: json.loads(path.read_text()) for path in RESULTS.rglob("manifest.json")}
    for path, manifest in manifests.items():
        assert manifest["digests"]["config.json"] == _digest(path.with_name("config.json")), path
        assert manifest["status"] == "finished", path


def test_no_folder_of_a_private_machine_is_named() -> None:
    private = re.compile(r"(?<![\w.-])/(root|work|home|tmp|mnt)/")
    named = [path for path in RESULTS.rglob("*.json*") if private.search(path.read_text())]
    assert named == []


@pytest.mark.parametrize("name", available_benchmarks())
def test_runs_kept_of_a_benchmark_are_what_it_asks_for_today(name: str) -> None:
    """Whoever adds seeds to them gets the same agents, with the same defaults."""
    built: dict[tuple[str, str], dict[str, Any]] = {}

    def settings_today(run: TrainSettings) -> dict[str, Any]:
        key = run.task, run.name
        if key not in built:
            built[key] = _built_settings(run)
        return built[key]

    for run in read_benchmark(name).runs():
        Job(run, folder_of(RESULTS / name.replace("-", "_"), run)).prepare(settings_today)
