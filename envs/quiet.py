"""Simulators without litter: their messages go to our logger, and they draw where there is no display.

Left alone, MuJoCo writes each warning to the terminal and to ``MUJOCO_LOG.TXT`` in the current folder, and asks for
a window system that servers do not have. Both are settings of the process, so everything here that makes an
environment calls :func:`quiet_mujoco` first, in whichever process it runs.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from functools import cache
from typing import Any

import gymnasium as gym

from ..core.errors import EnvironmentFault

logger = logging.getLogger("forethought.mujoco")

_IMAGE_MODES = ("rgb_array", "depth_array", "rgbd_tuple")


@cache
def quiet_mujoco() -> None:
    """Send MuJoCo's warnings to the logger ``forethought.mujoco`` (level INFO), and choose EGL if there is no display.

    A warning handler or a ``MUJOCO_GL`` that the user has set stays. Without MuJoCo there is nothing to do.
    """
    if headless():
        # Before MuJoCo is imported, which is when its own renderer is chosen, and only where EGL can be loaded, because
        # otherwise that import would fail. Child processes inherit it.
        if "MUJOCO_GL" not in os.environ and _loads("libEGL.so.1"):
            os.environ["MUJOCO_GL"] = "egl"
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # likewise for pygame, which draws the classic tasks
    try:
        import mujoco
    except ImportError:
        return
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_log_warning)


def headless() -> bool:
    """Whether this is a Linux process without a display."""
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform.startswith("linux") and not any(os.environ.get(name) for name in displays)


def require_display(render_mode: str | None) -> None:
    """Raise :class:`EnvironmentFault` if a window is asked for and there is no display to open it on."""
    if render_mode == "human" and headless():
        raise EnvironmentFault(
            "render_mode='human' needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set. "
            "render_mode='rgb_array' gives images and videos without one."
        )


def require_drawing(env: gym.Env[Any, Any], render_mode: str | None) -> None:
    """Raise :class:`EnvironmentFault` if ``env`` is to give images by MuJoCo, without a display, and EGL does not work.

    Asked before the first frame, because the bindings themselves fail with unrelated attribute errors.
    """
    module = sys.modules.get("gymnasium.envs.mujoco.mujoco_env")
    if module is None or not isinstance(env.unwrapped, module.MujocoEnv):
        return
    if render_mode in _IMAGE_MODES and headless() and os.environ.get("MUJOCO_GL", "egl") == "egl":
        failure = _egl_failure()
        if failure:
            raise EnvironmentFault(
                f"MuJoCo cannot draw: there is no display, and EGL does not work ({failure}). Install it (Debian and "
                "Ubuntu: apt install libegl1 libgl1), or go on without rendering."
            )


@cache
def _egl_failure() -> str:
    """Return why EGL does not work, or nothing if it does."""
    try:
        from mujoco.egl import GLContext

        GLContext(1, 1).free()
    except Exception as error:  # whatever the bindings make of a missing library
        return f"{type(error).__name__}: {error}"
    return ""


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _log_warning(message: object) -> None:
    logger.info("%s", message.decode(errors="replace") if isinstance(message, bytes) else message)
