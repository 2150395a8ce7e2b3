"""Monitors of runs: calibrated once, kept, and filmed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from forethought.agents.surprise_files import SURPRISE_FILE
from forethought.core.errors import SettingsError
from forethought.envs import make_env
from forethought.evaluations.monitor_speed import MonitorSpeedSettings, measure_monitor
from forethought.evaluations.monitoring import calibrated_monitor, film_surprise
from forethought.evaluations.settings import TrainSettings
from forethought.evaluations.training import train
from forethought.evaluations.video import prepare_rendering

SMALL = {"model": {"latent_dims": 8, "hidden": 16}, "learning_starts": 30, "batch_size": 8, "updates_per_step": 0.5}
pytestmark = pytest.mark.filterwarnings("ignore:The latents have collapsed")


@pytest.fixture(scope="module")
def reacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an agent that has learned next to nothing."""
    folder = tmp_path_factory.mktemp("runs") / "reacher"
    train(TrainSettings("Reacher-v5", "jepa", steps=60, evaluations=1, episodes=1, agent_settings=SMALL), folder)
    return folder


def test_a_monitor_is_calibrated_once_and_kept_with_its_run(reacher: Path) -> None:
    (reacher / SURPRISE_FILE).unlink(missing_ok=True)
    first = calibrated_monitor(reacher, episodes=10, false_alarms_per_1000=10.0)
    assert first.calibration.fitted_episodes + first.calibration.held_episodes == 10
    kept = (reacher / SURPRISE_FILE).stat().st_mtime_ns
    assert calibrated_monitor(reacher, episodes=10, false_alarms_per_1000=10.0).threshold == first.threshold
    assert (reacher / SURPRISE_FILE).stat().st_mtime_ns == kept, "it was calibrated again"
    (reacher / SURPRISE_FILE).write_bytes(b"damaged")
    assert calibrated_monitor(reacher, episodes=10, false_alarms_per_1000=10.0).threshold == first.threshold
    other = calibrated_monitor(reacher, episodes=12, false_alarms_per_1000=10.0)
    assert other.calibration.held_episodes == 6


def test_a_film_shows_the_trace_under_what_happens(reacher: Path, tmp_path: Path) -> None:
    film = film_surprise(reacher, "teleport", tmp_path / "film.gif", episodes=60)
    assert film is not None
    with Image.open(film) as frames:
        assert getattr(frames, "n_frames", 1) > 20
        picture = np.asarray(frames.convert("RGB"))
    assert picture[: len(picture) // 2].std() > 10
    assert picture[-10:].mean() < 100  # the strip is dark
    kept = (reacher / SURPRISE_FILE).stat().st_mtime_ns
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it happens, though the episode is shorter than a film's beginning
        assert film_surprise(reacher, "velocity_kick", tmp_path / "kick.gif") is not None
    assert (reacher / SURPRISE_FILE).stat().st_mtime_ns == kept, "a film calibrated another monitor"
    with pytest.raises(SettingsError, match="cannot have the perturbation"):
        film_surprise(reacher, "wall_passed", tmp_path / "film.gif")


def test_watching_is_timed_beside_the_environment_alone(reacher: Path, tmp_path: Path) -> None:
    told: list[str] = []
    speed = measure_monitor(MonitorSpeedSettings(str(reacher), 60, compile=False, rounds=2, steps=60), told.append)
    assert list(speed.rows) == ["environment alone", "monitor"]
    assert told[-1] == "1 of 2 rounds are made."
    (alone, _), (added, _) = speed.rows.values()
    assert 0 < alone.value < added.value  # Reacher-v5 is stepped in some 20 us
    assert "Reacher-v5: what watching costs" in speed.table().to_markdown()
    speed.save(tmp_path / "monitor.json")
    kept = json.loads((tmp_path / "monitor.json").read_text())
    assert kept["rows"]["monitor"]["cpu_ms"]["value"] == added.value
    assert (kept["block"], kept["settings"]["rounds"]) == (1, 2)


def test_an_agent_without_a_world_model_is_never_surprised(tmp_path: Path) -> None:
    train(TrainSettings("Reacher-v5", "random", steps=5, evaluations=1, episodes=1), tmp_path / "random")
    with pytest.raises(SettingsError, match="without a world model"):
        calibrated_monitor(tmp_path / "random")


def test_films_follow_robots_that_run_away() -> None:
    env = make_env("HalfCheetah-v5", render_mode="rgb_array")
    prepare_rendering(env)
    env.reset(seed=0)
    bare: Any = env.unwrapped
    positions, robots = bare.data.qpos.copy(), []
    for place in (0.0, 500.0):
        positions[0] = place
        bare.set_state(positions, np.zeros(9))
        robots.append(np.ptp(np.asarray(env.render(), int), axis=2) > 40)  # the rest is grey and green
    env.close()
    assert robots[1].sum() > 0.5 * robots[0].sum() > 0
