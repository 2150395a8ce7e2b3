"""``forethought evaluate --objective`` from end to end, and how it answers mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forethought.cli import main
from forethought.evaluations import wish_probes
from forethought.world_model import MLPProbeSettings

pytestmark = pytest.mark.filterwarnings("ignore:.*with a correlation of", "ignore:The latents have collapsed")


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(wish_probes, "SETTINGS", MLPProbeSettings(hidden=16, updates=60, looks=2))


@pytest.fixture(scope="module")
def balanced(tmp_path_factory) -> Path:
    """A run in a task that has quantities, too short to have learned anything."""
    folder = tmp_path_factory.mktemp("balanced") / "run"
    small = ["--model.latent-dims", "8", "--model.hidden", "16", "--behaviour.hidden", "16", "--batch-size", "8"]
    steps = ["--steps", "80", "--learning-starts", "60", "--evaluations", "1", "--episodes", "1"]
    assert (
        main(["train", "InvertedPendulum-v5", "--out", str(folder), "--planning.planner", "policy", *small, *steps])
        == 0
    )
    return folder


def test_a_wish_is_tried_and_its_figures_kept(forethought, balanced):
    wish = "hinge_angle=0.0, 0.1*effort"
    outcome = forethought(
        *("evaluate", balanced, "--objective", wish, "--limits", "slide=0.5", "--episodes", 2),
        *("--planners", "icem,mppi", "--budget", 40, "--horizon", 4),
    )
    assert outcome.code == 0, outcome.err
    for part in ("hinge_angle (rad)", "missed 0 by", "icem", "mppi", "bare actor, not asked", "within slide=0.5"):
        assert part in outcome.out
    [file] = (balanced / "wishes").iterdir()
    assert f"Kept in {file}" in outcome.out
    kept = json.loads(file.read_text())
    assert [row["name"] for row in kept["rows"]] == ["icem", "mppi", "bare actor, not asked"]
    assert kept["rows"][0]["evaluation"]["lengths"]


def test_a_pretrained_model_fulfils_wishes_too(forethought, tmp_path):
    arguments = ("--policy", "expert", "--episodes", 8, "--jobs", 1, "--max-steps", 30, "--out", tmp_path / "walks")
    assert forethought("collect", "two-room", "--set", "observation=state", *arguments).code == 0
    model = ("--updates", 4, "--checkpoints", 1, "--held-out", 0.4, "--model.latent-dims", 8)
    assert forethought("pretrain", tmp_path / "walks", *model, "--out", tmp_path / "run").code == 0
    outcome = forethought(
        *("evaluate", tmp_path / "run", "--objective", "x>=100", "--episodes", 2, "--planners", "cem", "--budget", 40)
    )
    assert outcome.code == 0, outcome.err
    assert "missed 100 by" in outcome.out
    assert "random" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--objective", "hinge_angle"), ("what is hinge_angle to be",)),
        (("--objective", "hinge_angel=1"), ("hinge_angel", "hinge_angle")),
        (("--objective", "hinge_angle=1", "--limits", "sldie=1"), ("no actuator", "slide")),
        (("--objective", "hinge_angle=1", "--form", "best"), ("--form", "--objective")),
        (("--objective", "hinge_angle=1", "--budget", "few"), ("--budget",)),
        (("--objective", "hinge_angle=1", "--render", "human"), ("--render", "--video")),
        (("--limits", "slide=1"), ("--limits", "--objective")),
    ],
)
def test_mistakes_get_one_sentence(forethought, balanced, arguments, parts):
    assert forethought("evaluate", balanced, *arguments).is_one_sentence_about(*parts)


def test_an_agent_without_a_model_does_what_it_does(forethought, tmp_path):
    steps = ("--steps", 20, "--evaluations", 1, "--episodes", 1)
    assert forethought("train", "InvertedPendulum-v5", "--agent", "random", "--out", tmp_path / "run", *steps).code == 0
    outcome = forethought("evaluate", tmp_path / "run", "--objective", "hinge_angle=0", "--episodes", 2)
    assert outcome.code == 0, outcome.err
    assert "random, not asked" in outcome.out
    refused = forethought("evaluate", tmp_path / "run", "--objective", "hinge_angle=0", "--planners", "icem")
    assert refused.is_one_sentence_about("--planners", "no world model")


def test_a_file_has_no_experience_to_read(forethought, balanced):
    outcome = forethought("evaluate", balanced / "agent.zip", "--objective", "hinge_angle=1", "--task", "Hopper-v5")
    assert outcome.is_one_sentence_about("agent.zip", "not a run folder")
