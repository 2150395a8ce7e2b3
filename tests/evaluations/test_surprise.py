"""The surprise benchmark tells who notices what and when, and goes on where it was broken off."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from forethought.agents.surprise import SurpriseMonitor
from forethought.cli import main
from forethought.core.errors import RunFolderError, SettingsError, UnknownNameError
from forethought.core.files import read_json, write_json
from forethought.envs.perturbations import PERTURBATIONS
from forethought.envs.recording import RecordedEpisode
from forethought.evaluations import surprise as module
from forethought.evaluations.collect import CollectSettings, collect
from forethought.evaluations.pretraining import PretrainSettings, pretrain
from forethought.evaluations.settings import TrainSettings
from forethought.evaluations.strengths import LEVELS, calibrate_strengths, levels_by_strength, search_strengths
from forethought.evaluations.subject import Subject, Watched, load_subject
from forethought.evaluations.surprise import benchmark_surprise
from forethought.evaluations.surprise_cells import CellPlan, judge_cell
from forethought.evaluations.surprise_settings import DETECTORS, SurpriseSettings
from forethought.evaluations.training import train

SMALL = {"model": {"latent_dims": 8, "hidden": 16}, "learning_starts": 30, "batch_size": 8, "updates_per_step": 0.5}
QUICK = SurpriseSettings(
    perturbations=("teleport", "sensor_frozen", "mass"),
    detectors=("latent", "nearest", "successive"),
    episodes=3,
    fit_episodes=4,
    calibration_episodes=2,
    fresh_episodes=3,
    steps=40,
    false_alarms=50.0,
)
pytestmark = pytest.mark.filterwarnings("ignore:The latents have collapsed")


@pytest.fixture(scope="module")
def reacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an agent that has learned next to nothing."""
    folder = tmp_path_factory.mktemp("runs") / "reacher"
    train(TrainSettings("Reacher-v5", "jepa", steps=60, evaluations=1, episodes=1, agent_settings=SMALL), folder)
    return folder


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a world model that learned from walks of an expert and of chance."""
    folder = tmp_path_factory.mktemp("walks")
    for policy in ("expert", "random"):
        collect(CollectSettings("two-room", policy, 4, jobs=1, max_steps=40, env={"size": 32}), folder / "store")
    vision = {"image_size": 32, "patch_size": 16, "width": 16, "depth": 1, "heads": 2, "hidden": 16}
    transformer = {"depth": 1, "heads": 2, "head_dims": 8, "hidden": 16, "projector_hidden": 16}
    small = {"latent_dims": 8, "vision": {**vision, "projector_hidden": 16}, "transformer": transformer}
    training = {"model": {**small, "directions": 8}, "updates": 4, "batch_size": 4}
    pretrain(PretrainSettings(str(folder / "store"), checkpoints=1, training=training), folder / "run")
    return folder / "run"


def test_the_command_judges_shows_and_keeps_what_it_found(
    reacher: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["--perturbations", "teleport,mass", "--detectors", "latent,nearest", "--steps", "40"]
    few = ["--episodes", "3", "--fit-episodes", "4", "--calibration-episodes", "2", "--fresh-episodes", "2"]
    command = ["surprise", str(reacher), *asked, *few, "--false-alarms", "50"]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "judged mass, 2 of 2 cells" in told.err
    assert all(part in told.out for part in ("teleport 3", "mass 2", "mean without controls", "per 1,000", "ms/step"))
    found = json.loads((reacher / "surprise.json").read_text())
    assert found["process"]["versions"]["forethought"]
    assert found["settings"]["seed"] == 0
    assert set(found["mean_auroc"]) == {"latent", "nearest"}
    assert [cell["perturbation"] for cell in found["cells"]] == ["teleport", "mass"]
    for cell in found["cells"]:
        assert cell["episodes"] == cell["events"] == 3
        for judged in cell["detectors"].values():
            assert 0 <= judged["auroc"]["low"] <= judged["auroc"]["value"] <= judged["auroc"]["high"] <= 1
            assert judged["detected_next_step"]["value"] <= judged["detected_soon"]["value"]
    assert found["nominal"]["latent"]["steps"] == 3 * 40  # fresh ones are at least as many as episodes
    assert found["nominal"]["nearest"]["ms_per_step"] > 0
    assert (reacher / "surprise_auroc.png").stat().st_size > 10_000
    assert (reacher / "surprise_delay.png").stat().st_size > 10_000
    # what is known is not found again
    monkeypatch.setattr(module, "judge_cell", lambda *_: pytest.fail("a known cell was judged again"))
    assert main(command) == 0
    assert json.loads((reacher / "surprise.json").read_text())["cells"] == found["cells"]


def test_our_own_monitor_is_among_the_detectors_and_says_what_it_says_elsewhere(reacher: Path) -> None:
    subject = load_subject(reacher)
    assert subject.model is not None
    episodes = [watched.episode for watched in subject.watch(*subject.seeds("fit", 0, range(8))) if watched]
    detector, monitor = DETECTORS["monitor"](subject, 0), SurpriseMonitor(subject.model)
    detector.fit(episodes)
    monitor.calibrate(episodes, 100.0)  # the rate has no influence on scores
    [scores], [scored] = detector.scores(episodes[:1]), monitor.score(episodes[:1])
    np.testing.assert_array_equal(scores, scored.score)
    assert len(scores) == len(episodes[0].actions)


@pytest.mark.filterwarnings("ignore:What surprise.json held was measured by other settings")
def test_it_goes_on_where_it_was_broken_off_and_any_number_of_processes_finds_the_same(
    reacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = QUICK.replace(seed=1)
    judged: list[str] = []
    judge = module.judge_cell

    def fails_at_the_last(plan: CellPlan, *rest: Any) -> Any:
        judged.append(plan.name)
        if plan.name == "mass" and judged.count("mass") == 1:
            raise KeyboardInterrupt
        return judge(plan, *rest)

    monkeypatch.setattr(module, "judge_cell", fails_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        benchmark_surprise(reacher, settings)
    told: list[str] = []
    whole = benchmark_surprise(reacher, settings, lambda progress: told.append(progress.doing))
    assert judged == ["teleport", "sensor_frozen", "mass", "mass"]
    assert told[0] == "fitting detectors"
    (reacher / "surprise" / "mass-2.json").unlink()
    monkeypatch.undo()
    parallel = benchmark_surprise(reacher, settings.replace(jobs=2))
    assert parallel.cells == whole.cells
    frozen = whole.cells[1]
    assert frozen["counted_events"] == sum(frozen["detectors"]["latent"]["counted"]) <= frozen["events"]


def test_what_was_measured_by_other_settings_is_set_aside(tmp_path: Path) -> None:
    path, settings = tmp_path / "surprise.json", QUICK.to_dict()
    module._set_aside(path, settings)
    write_json(path, {"settings": settings, "cells": 1})
    module._set_aside(path, settings | {"jobs": 7})  # by which nothing is measured otherwise
    assert path.exists()
    for number in (1, 2):
        with pytest.warns(UserWarning, match=rf"in surprise_{number}\.json now"):
            module._set_aside(path, settings | {"seed": 9})
        assert not path.exists()
        assert read_json(tmp_path / f"surprise_{number}.json")["cells"] == number
        write_json(path, {"settings": settings, "cells": number + 1})


def test_a_pretrained_run_is_watched_in_episodes_of_whoever_recorded_its_store(walks: Path) -> None:
    subject = load_subject(walks)
    assert subject.acting == "expert and random"
    assert [weight for _, weight in subject.policies] == [4, 4]
    assert subject.block == 5
    table = benchmark_surprise(
        walks,
        QUICK.replace(
            perturbations=("teleport", "camera", "wall_passed"), calibration_episodes=8, fit_episodes=25, steps=60
        ),
    )
    camera = table.cells[1]
    assert camera["control"]
    assert camera["detectors"]["successive"]["auroc"]["value"] < 1
    assert table.normalised_return(camera) is None  # there is nothing to earn
    text = "\n".join(part.to_markdown() for part in table.tables())
    assert "camera* 0.05" in text
    assert "5 environment steps" in text
    with pytest.raises(SettingsError, match="there is no return to fall"):
        calibrate_strengths(subject, "actuator_dead", None, episodes=2, steps=10)


def test_the_episodes_of_a_cell_are_nominal_until_a_drawn_onset_and_come_with_the_truth(reacher: Path) -> None:
    subject = load_subject(reacher)
    worlds, acting = subject.seeds("fresh", 0, range(4))
    nominal = list(subject.watch(worlds, acting, 40))
    onsets = {world: module._onset(world, 40, 1) for world in worlds}
    assert len(set(onsets.values())) > 1
    assert all(1 <= onset < 30 for onset in onsets.values())
    kind = PERTURBATIONS.get("gravity_tilted")
    tilted = list(subject.watch(worlds, acting, 40, lambda env: kind(env, 90.0, onsets.__getitem__)))
    again = list(subject.watch(worlds, acting, 40))  # in the very environments that were perturbed
    for world, one, other, third in zip(worlds, nominal, tilted, again, strict=True):
        assert one is not None
        assert other is not None
        assert third is not None
        assert other.event == onsets[world]
        before = slice(0, onsets[world] + 1)
        np.testing.assert_array_equal(one.episode.observations[before], other.episode.observations[before])
        assert not np.array_equal(one.episode.observations, other.episode.observations)
        np.testing.assert_array_equal(one.episode.observations, third.episode.observations)
        assert other.truth.tolist() == [step >= onsets[world] for step in range(40)]
    onset = [module._onset(world, 12, 5) for world in range(200)]  # too short to leave 10 model steps
    assert set(onset) == set(range(12))


class Planted:
    """Scores that are known: 1 at given steps, 0 elsewhere."""

    name = "planted"

    def __init__(self, rows: list[list[int]], steps: int) -> None:
        self._rows, self._steps = rows, steps

    def fit(self, episodes: Any) -> None:
        """Nothing."""

    def scores(self, episodes: Any) -> list[np.ndarray]:
        rows = [np.zeros(self._steps) for _ in self._rows]
        for row, steps in zip(rows, self._rows, strict=True):
            row[steps] = 1.0
        return rows[: len(episodes)]


def episode(steps: int) -> RecordedEpisode:
    return RecordedEpisode(np.zeros((steps + 1, 1)), np.zeros((steps, 1)), np.ones(steps), False, True, None)


def test_a_cell_counts_alarms_that_begin_in_time_and_only_where_something_happened() -> None:
    def watched(event: int | None, moved: bool | None = None) -> Watched:
        truth = np.arange(60) >= (60 if event is None else event)
        return Watched(episode(60), truth, event, moved)

    # events at environment steps 21 and 20 are both in model step 10 of 30, of two steps each
    played = [watched(21), watched(20), watched(20, moved=False), watched(None), None, watched(20)]
    # an alarm at the event; one that had begun before; (not counted); one that comes too late
    detector = Planted([[10], [5, 10], [10], [22]], 30)
    nominal = {"planted": [np.zeros(30), np.zeros(30)]}
    returns = [60.0, 60.0, 60.0, 60.0, 60.0, None]
    kind = PERTURBATIONS.get("sensor_frozen")
    plan = CellPlan("sensor_frozen", 1.0)
    cell = judge_cell(plan, kind, [detector], played, returns, nominal, {"planted": 0.5}, 2)
    assert (cell["episodes"], cell["left_out"], cell["events"], cell["counted_events"]) == (4, 2, 3, 2)
    found = cell["detectors"]["planted"]
    assert found["delays"] == [1, None, 1]
    assert found["counted"] == [True, True, False]
    assert found["detected_next_step"]["value"] == found["detected_soon"]["value"] == 0.5
    assert found["delay_median"] is None
    # 20 perturbed model steps each, of which one is alarmed, among nominal ones that never are
    assert found["auroc"]["value"] == pytest.approx(0.5 + 0.5 * 3 / 60)
    at_once = PERTURBATIONS.get("teleport")
    cell = judge_cell(plan, at_once, [detector], played, returns, nominal, {"planted": 0.5}, 2)
    assert cell["detectors"]["planted"]["auroc"]["value"] == 1.0  # all three were surprising at the event itself
    nothing = judge_cell(plan, kind, [detector], [watched(None)], [60.0], nominal, {"planted": 0.5}, 2)
    assert nothing["detectors"] == {}


def test_strengths_are_found_where_a_falling_return_crosses_the_levels() -> None:
    asked: list[float] = []

    def measure(strength: float) -> float:
        asked.append(strength)
        return 1.0 - strength / 10

    found = search_strengths(measure, 0.0, 10.0, trials=12)
    assert [one.level for one in found] == list(LEVELS)
    for one in found:
        assert one.strength == pytest.approx(10 * (1 - one.level), abs=0.02)
        assert one.reached == pytest.approx(one.level, abs=0.002)
    assert len(asked) == len(set(asked)), "a strength was measured twice"
    falling = search_strengths(lambda strength: strength, 1.0, 0.0, (0.5,))
    assert falling[0].strength == pytest.approx(0.5, abs=0.01)
    weak = search_strengths(lambda strength: 1.0 - strength / 100, 0.0, 10.0)
    assert [one.strength is None for one in weak] == [False, False, False, True, True]
    assert weak[-1].reached == pytest.approx(0.9)
    steep = search_strengths(lambda strength: 1.0 - 5 * strength, 0.0, 10.0)  # a hundredth of the range is too strong
    assert all(one.reached == pytest.approx(one.level, abs=0.01) for one in steep)
    step = search_strengths(lambda strength: 0.0, 0.0, 1.0, (0.5,))  # none is mild enough
    assert step[0].strength == pytest.approx(0.0, abs=0.001)
    counted = search_strengths(lambda strength: [1.0, 0.8, 0.6, 0.1][int(strength)], 0, 3, whole=True)
    assert {one.strength for one in counted} == {1.0, 2.0}
    assert levels_by_strength(counted) == {1.0: 0.75, 2.0: 0.5}


def test_strengths_are_calibrated_on_paired_episodes(reacher: Path) -> None:
    subject = load_subject(reacher, policy="random")
    with pytest.raises(SettingsError, match="there is no return to fall"):  # chance earns what chance earns
        calibrate_strengths(subject, "mass", None, episodes=2, steps=20)

    class Still:
        """Does nothing, which in this task is far better than chance."""

        def begin(self, env: Any, seeds: Any) -> None:
            """Nothing."""

        def act(self, observations: Any, infos: Any, running: Any) -> np.ndarray:
            return np.zeros((len(running), 2), np.float32)

    still = Subject(subject.folder, subject.task, {}, None, [(Still(), 1.0)], "nobody", "")
    found = calibrate_strengths(still, "action_noise", None, (0.9, 0.5), episodes=3, steps=20, trials=5)
    strengths = [one.strength for one in found]
    assert all(strength is not None for strength in strengths)
    assert 0 < strengths[0] < strengths[1] < 3  # type: ignore[operator]
    assert all(abs(one.reached - one.level) < 0.15 for one in found)


def test_where_the_simulation_breaks_down_strengths_count_what_chance_earns(reacher: Path) -> None:
    earned = {1: 10.0, 2: 20.0, 3: 30.0}

    class Staged:
        """Earns by the seed, chance nothing; perturbed, only the last episode stays sound."""

        task, acting, make = "Reacher-v5", "nobody", load_subject(reacher).make

        def seeds(self, *role: Any) -> tuple[list[int], list[int]]:
            return [*earned], [*earned]

        def watch(self, worlds: Any, acting: Any, steps: Any, perturb: Any = None, random: bool = False) -> Any:
            for world in worlds:
                rewards = np.array([0.0 if random else earned[world]])
                episode = SimpleNamespace(rewards=rewards, actions=rewards)
                yield None if perturb and world < 3 else SimpleNamespace(episode=episode)

    [found] = calibrate_strengths(Staged(), "actuator_dead", None, (0.9,), steps=20)  # type: ignore[arg-type]
    assert found.reached == pytest.approx(30 / 60)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"perturbations": ("telport",)}, UnknownNameError, "Did you mean 'teleport'"),
        ({"perturbations": ("wall_passed",)}, SettingsError, "no wall between two rooms. It can have: action_factor"),
        ({"perturbations": ("actuator_dead",), "strengths": "7"}, SettingsError, r"a whole number in \[0, 2\]"),
        ({"strengths": "strong"}, SettingsError, "neither 'standard' nor 'calibrated', nor numbers"),
        ({"detectors": ("latnt",)}, UnknownNameError, "Did you mean 'latent'"),
        ({"detectors": ()}, SettingsError, "At least one detector"),
        (
            {"false_alarms": 1.0},
            SettingsError,
            r"2 episodes of at most 40 model steps are too few to calibrate 1 false .* 1,000 steps are needed",
        ),
        ({"fit_episodes": 1, "steps": 10}, SettingsError, "too few to fit .* are needed, which are about"),
        ({"policy": "nobody"}, SettingsError, "neither 'random' nor 'expert'"),
    ],
)
def test_what_cannot_be_is_refused(reacher: Path, changes: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        benchmark_surprise(reacher, QUICK.replace(**changes))


def test_runs_that_cannot_be_judged_are_refused(tmp_path: Path, walks: Path) -> None:
    with pytest.raises(RunFolderError, match="not a run folder"):
        benchmark_surprise(tmp_path, QUICK)
    train(TrainSettings("Reacher-v5", "random", steps=5, evaluations=1, episodes=1), tmp_path / "random")
    with pytest.raises(SettingsError, match="without a world model"):
        benchmark_surprise(tmp_path / "random", QUICK)
    only = QUICK.replace(detectors=("nearest",), perturbations=("mass",))
    assert benchmark_surprise(tmp_path / "random", only).detectors == ["nearest"]  # baselines need no model
    store = walks.parent / "store"
    store.rename(walks.parent / "elsewhere")
    try:
        with pytest.raises(SettingsError, match="say who acts: --policy expert"):
            load_subject(walks)
        assert load_subject(walks, policy="expert").acting == "expert"
    finally:
        (walks.parent / "elsewhere").rename(store)
