"""Two processes that learn together learn what one would: its statistic, losses and weights, run and resumption."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from forethought.core.errors import SettingsError
from forethought.core.parallel import ALONE, joined
from forethought.core.runs import Run
from forethought.evaluations.pretraining import load_pretrained, pretrain, resume_pretraining

from . import learn_together as script

pytestmark = pytest.mark.filterwarnings("ignore:The latents have collapsed")  # so few updates do not unfold them
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")

WITHOUT_GRADIENT: dict[str, tuple[str, ...]] = {
    "state": (),
    "everything": ("projector.3.bias",),
    "images": ("r.norm.bias", "r.projector.inner.bias", "running_mean", "qkv.bias"),
}
"""What is added to keys, or before a mean is taken away, has a gradient of 0: AdamW makes steps of its rounding."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two processes left, and a store."""
    folder = tmp_path_factory.mktemp("together")
    script.make_store(False, folder / "store").flush()
    done = subprocess.run([*TORCHRUN, script.__file__, str(folder)], capture_output=True, text=True)
    assert (folder / "rank1.pt").exists(), done.stderr
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What each of the two processes got."""
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_pretrained(folder)[0].state_dict()


def losses(folder: Path) -> list[dict[str, Any]]:
    rows = Run.open(folder).read_metrics()
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def test_the_statistic_and_its_gradient_are_those_of_the_whole_batch(ranks: list[dict[str, Any]]) -> None:
    whole = script.measure_statistic()
    for rank in ranks:
        torch.testing.assert_close(rank["statistic"]["value"], whole["value"], rtol=1e-5, atol=0)
    parts = torch.cat([rank["statistic"]["gradient"] for rank in ranks], 1)
    assert whole["gradient"].abs().max() > 1e-2
    torch.testing.assert_close(parts, whole["gradient"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["state", "everything", "images"])
def test_two_learn_what_one_learns(ranks: list[dict[str, Any]], name: str) -> None:
    alone = script.learn(name)
    for ours, theirs in zip(ranks[0][name]["losses"], alone["losses"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for key, weight in alone["model"].items():
        if not key.endswith(WITHOUT_GRADIENT[name]):
            torch.testing.assert_close(ranks[0][name]["model"][key], weight, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", list(script.MODELS))
def test_all_have_the_same_losses_and_weights(ranks: list[dict[str, Any]], name: str) -> None:
    first, second = (rank[name] for rank in ranks)
    assert first["losses"] == second["losses"]
    assert all(torch.equal(first["model"][key], second["model"][key]) for key in first["model"])


def test_each_drops_activations_of_its_own(ranks: list[dict[str, Any]]) -> None:
    alone = script.learn("dropout")
    assert float(alone["losses"][0]["prediction"]) == pytest.approx(
        float(ranks[0]["dropout"]["losses"][0]["prediction"]), rel=0.1
    )
    assert alone["losses"] != ranks[0]["dropout"]["losses"]


def test_one_signal_stops_all_and_they_end_as_if_it_had_not(folder: Path, ranks: list[dict[str, Any]]) -> None:
    assert [rank["stopped"] for rank in ranks] == [("interrupted", 5)] * 2
    assert [rank["resumed"] for rank in ranks] == ["finished"] * 2
    ours, theirs = weights(folder / "stopped"), weights(folder / "unbroken")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert losses(folder / "stopped") == losses(folder / "unbroken")
    assert [row["step"] for row in losses(folder / "unbroken") if "health/sigreg" in row] == [4, 8], "only one writes"


def test_one_goes_on_where_two_stopped(folder: Path, ranks: list[dict[str, Any]], tmp_path: Path) -> None:
    run = Run.open(folder / "left")
    assert run.manifest["reason"] == "SIGTERM at update 5"
    assert run.manifest["ranks"] == 2
    assert resume_pretraining(folder / "left").status == "finished"
    assert Run.open(folder / "left").manifest["ranks"] == 1
    pretrain(script.settings_for(folder / "store"), tmp_path / "alone")
    ours, theirs = weights(folder / "left"), weights(tmp_path / "alone")
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-5, msg=key)


def test_an_error_on_one_ends_all_and_one_tells(folder: Path, ranks: list[dict[str, Any]]) -> None:
    told = (folder / "error1").read_text()
    assert told.startswith("OutOfMemoryError: There is not enough memory for an update: lower batch_size")
    assert (folder / "error0").read_text() == f"LostRankError: Rank 1 of 2 failed: {told}"
    run = Run.open(folder / "broken")
    assert run.status == "failed"
    assert "Rank 1 of 2 failed: OutOfMemoryError" in run.manifest["reason"]


def test_a_batch_that_does_not_divide_is_refused(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "5 clips does not divide among 2 processes: set batch_size to a multiple of 2" in rank["refused"]


def test_the_command_is_the_same_and_one_process_speaks(folder: Path, tmp_path: Path) -> None:
    command = [*TORCHRUN, "-m", "forethought", "pretrain", str(folder / "store"), "--model.hidden", "8"]
    command += ["--updates", "100000", "--checkpoints", "10000", "--batch-size", "4", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not list((tmp_path / "run" / "checkpoints").glob("step_*.zip")) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    status = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert (status["status"], status["ranks"]) == ("interrupted", 2), err
    assert out.count("Stopped at update") == out.count("--resume") == 1


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (None, "1"):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if size:
            monkeypatch.setenv("WORLD_SIZE", size)
        with joined() as ranks:
            assert ranks is ALONE
    assert ALONE.total(batch := torch.ones(3)) is batch
    assert copy.deepcopy(ALONE) is ALONE, "a copied model learns on among the same"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match=r"WORLD_SIZE = 2 .* do not find each other.*torchrun"), joined():
        pass
