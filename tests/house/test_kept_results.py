"""What is kept in ``results`` is what it says: each run its own, as it was written, and nobody's machine named."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from forethought.core.runs import Run
from forethought.evaluations.benchmark import available_benchmarks, read_benchmark
from forethought.evaluations.compare import BuiltAgents
from forethought.evaluations.jobs import compare_with_kept, folder_of

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


KEPT = [name for name in available_benchmarks() if (RESULTS / name.replace("-", "_")).is_dir()]


@pytest.mark.parametrize("name", KEPT)
def test_runs_kept_of_a_benchmark_are_what_it_asks_for_today(name: str) -> None:
    """Whoever adds seeds to them gets the same agents, with the same defaults."""
    root, built = RESULTS / name.replace("-", "_"), BuiltAgents()
    kept = {path.parent for path in root.rglob("manifest.json")}
    for asked in read_benchmark(name).runs():
        if (folder := folder_of(root, asked)) in kept:
            kept.remove(folder)
            built.check(asked)
            relation = compare_with_kept(Run.open(folder), asked, built.settings)
            assert relation.changes == {}, folder
    assert kept == set(), "what the benchmark does not ask for"


def test_most_benchmarks_have_kept_runs() -> None:
    assert len(KEPT) >= 3
