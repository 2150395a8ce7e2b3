"""``forethought probe`` from end to end: what it prints, writes and films, and how it answers mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forethought.core.runs import Run
from forethought.evaluations.nominal import nominal_episodes, world_model_of
from forethought.evaluations.pretraining import begin_training, pretrain_settings_of
from forethought.evaluations.probing import probe_states

TINY = [
    *("--updates", 4, "--checkpoints", 1, "--batch-size", 4, "--model.latent-dims", 8, "--model.directions", 8),
    *("--model.vision.patch-size", 16, "--model.vision.width", 16, "--model.vision.depth", 1),
    *("--model.transformer.depth", 1, "--model.transformer.hidden", 16, "--held-out", 0.4),
]
pytestmark = pytest.mark.filterwarnings("ignore:The latents have collapsed")


@pytest.fixture
def run(forethought, tmp_path: Path) -> Path:
    """A world model that has learned next to nothing of eight short walks through two rooms."""
    arguments = ("--policy", "expert", "--episodes", 8, "--jobs", 1, "--max-steps", 30, "--out", tmp_path / "walks")
    assert forethought("collect", "two-room", *arguments).code == 0
    assert forethought("pretrain", tmp_path / "walks", *TINY, "--out", tmp_path / "run").code == 0
    return tmp_path / "run"


FEW = ("--mlp.updates", 150, "--mlp.looks", 3, "--mlp.hidden", 32)


def test_a_pretrained_run_is_probed(forethought, run):
    outcome = forethought("probe", run, *FEW, "--depths", "2,400", "--history", 2)
    assert outcome.code == 0, outcome.err
    assert "two-room: what latents tell of the present" in outcome.out
    assert "x (map units)" in outcome.out
    assert "A step ahead is a model step of 5 environment steps. No episodes are long enough to look 400" in outcome.out
    assert f"The figures are in {run / 'probes.json'}" in outcome.out
    assert json.loads((run / "probes.json").read_text())["settings"]["depths"] == [2, 400]
    assert {"probes.json", "probes.zip", "probes.png"} <= {path.name for path in run.iterdir()}


def test_what_is_imagined_is_filmed_beside_what_happened(forethought, tmp_path):
    arguments = ("--policy", "expert", "--episodes", 12, "--jobs", 1, "--max-steps", 40, "--out", tmp_path / "walks")
    assert forethought("collect", "two-room", "--set", "observation=state", *arguments).code == 0
    model = ("--updates", 4, "--checkpoints", 1, "--held-out", 0.4, "--model.latent-dims", 8)
    assert forethought("pretrain", tmp_path / "walks", *model, "--out", tmp_path / "run").code == 0
    film = tmp_path / "film.gif"
    outcome = forethought("probe", tmp_path / "run", *FEW, "--depths", "2", "--video", film, "--anchor", 5)
    assert outcome.code == 0, outcome.err
    assert f"The film is in {film}" in outcome.out
    with Image.open(film) as picture:
        assert picture.size == (448, 246)
        frames = []
        for index in range(picture.n_frames):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB"), int))
    apart = np.array([np.abs(frame[22:, :224] - frame[22:, 224:]).max() > 100 for frame in frames])
    assert len(frames) > 10
    assert not apart[::5].any(), "where imagination begins, both sides are the truth"
    assert apart.any()


def test_what_cannot_be_read_is_not_drawn(forethought, run, tmp_path):
    outcome = forethought("probe", run, *FEW, "--depths", "2", "--video", tmp_path / "film.gif", "--anchor", 3)
    assert outcome.code == 2
    assert "No coordinate of two-room can be read off the latents" in outcome.err
    assert not (tmp_path / "film.gif").exists()
    assert (run / "probes.json").exists()


def test_what_is_judged_was_never_learned_from(run):
    world = world_model_of(run)
    training = begin_training(pretrain_settings_of(Run.open(run)))
    episodes = nominal_episodes(world)
    learned, held_out = (
        {training.store.episode(number)["states"].tobytes() for number in numbers.tolist()}
        for numbers in (training.learned, training.held_out)
    )
    assert {episode.states.tobytes() for episode in episodes.fitting} == learned
    assert {episode.states.tobytes() for episode in episodes.held_out} == held_out
    assert not learned & held_out


def test_a_store_of_too_few_episodes_is_refused(forethought, tmp_path):
    arguments = ("--policy", "expert", "--episodes", 2, "--jobs", 1, "--max-steps", 30, "--out", tmp_path / "walks")
    assert forethought("collect", "two-room", *arguments).code == 0
    assert forethought("pretrain", tmp_path / "walks", *TINY, "--out", tmp_path / "run").code == 0
    outcome = forethought("probe", tmp_path / "run")
    assert outcome.code == 2
    assert "learned from 1 episode, and at least 2 are needed" in outcome.err
    assert probe_states(tmp_path / "run") is None  # evaluation to goals goes on without


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Which run?"),
        (("nowhere",), "is not a run folder"),
        (("nowhere", "--depths", "1,soon"), "whole numbers of steps"),
        (("nowhere", "--depths", "0"), "at least 1"),
        (("nowhere", "--quantities", "x,,y"), "empty name"),
        (("nowhere", "--quantites", "x"), "did you mean --quantities"),
        (("nowhere", "--video", "film.avi"), ".mp4 or .gif"),
        (("nowhere", "--anchor", "0"), "anchor"),
    ],
)
def test_mistakes_are_answered_in_a_sentence_and_leave_nothing(forethought, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = forethought("probe", *arguments)
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_mistakes_about_a_run_are_explained(forethought, run, trained, monkeypatch):
    for arguments, said in (
        ((run, "--quantities", "z"), "two-room has no quantity 'z'. Known: x, y."),
        ((run, "--history", 30), "too short to look back over 30 latents, 5 steps apart"),
        ((trained,), "Pendulum-v1 has no physical quantities"),
    ):
        outcome = forethought("probe", *arguments)
        assert outcome.code == 2
        assert said in outcome.err
        assert not (Path(arguments[0]) / "probes.json").exists()
    (run.parent / "walks").rename(run.parent / "elsewhere")
    outcome = forethought("probe", run)
    assert outcome.code == 2
    assert "is not there" in outcome.err
