"""Simulators leave nothing in the user's folder or terminal, and draw without a display."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from forethought.core.errors import EnvironmentFault
from forethought.envs import make_env, quiet

ONE_BAD_STEP = """
import numpy as np
from forethought.envs import make_env
if __name__ == "__main__":
    env = make_env("HalfCheetah-v5")
    env.reset(seed=0)
    env.step(np.full(6, np.nan, np.float32))
"""

IN_WORKERS = """
from functools import partial
from gymnasium.vector import AsyncVectorEnv
from forethought.envs import make_env
if __name__ == "__main__":
    env = AsyncVectorEnv([partial(make_env, "HalfCheetah-v5")] * 2, context="spawn")
    env.reset(seed=0)
    env.close()
"""

DRAW = """
import sys
from forethought.envs import make_env
for name in sys.argv[1:]:
    env = make_env(name, render_mode="rgb_array")
    env.reset(seed=0)
    print(env.render().shape[2])
    env.close()
"""


def run(script: str, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a user would, in a folder of its own and without a display."""
    (folder / "script.py").write_text(script)
    inherited = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "SDL_VIDEODRIVER")}
    return subprocess.run(
        [sys.executable, "script.py", *arguments],
        cwd=folder,
        env={**inherited, "DISPLAY": "", "WAYLAND_DISPLAY": "", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("script", [ONE_BAD_STEP, IN_WORKERS], ids=["here", "in spawned workers"])
def test_mujoco_writes_nothing_to_the_folder_or_the_terminal(script: str, tmp_path: Path) -> None:
    finished = run(script, tmp_path)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["script.py"]


def test_mujoco_warnings_reach_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="forethought.mujoco"):
        make_env("HalfCheetah-v5").close()
    assert "deprecated" in caplog.text


@pytest.mark.skipif(not quiet._loads("libEGL.so.1"), reason="this machine has no EGL")
def test_images_are_drawn_without_a_display_and_without_noise(tmp_path: Path) -> None:
    finished = run(DRAW, tmp_path, "CartPole-v1", "InvertedPendulum-v5")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "3\n3\n", "")


def test_failing_egl_is_one_clear_sentence_and_spares_what_needs_no_egl(tmp_path: Path) -> None:
    broken = {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "99"}
    finished = run(DRAW, tmp_path, "CartPole-v1", "InvertedPendulum-v5", **broken)
    assert finished.stdout == "3\n"
    assert "EnvironmentFault: MuJoCo cannot draw: there is no display, and EGL does not work" in finished.stderr


def test_a_window_without_a_display_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(EnvironmentFault, match=r"needs a display.*rgb_array"):
        make_env("CartPole-v1", render_mode="human")
