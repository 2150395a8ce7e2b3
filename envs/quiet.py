"""MuJoCo without litter: its warnings go to our logger, and it renders where there is no display.

Left alone, MuJoCo writes each warning to the terminal and to ``MUJOCO_LOG.TXT`` in the current folder, and asks for
a window system that servers do not have. Both settings belong to the process, so everything here that makes an
environment calls :func:`quiet_mujoco` first, in whichever process it runs.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import cache

from ..core.errors import EnvironmentFault

logger = logging.getLogger("forethought.mujoco")


@cache
def quiet_mujoco() -> None:
    """Send MuJoCo's warnings to the logger ``forethought.mujoco`` (level INFO) instead of terminal and file.

    A handler that the user installed stays in place. Without MuJoCo there is nothing to do.
    """
    try:
        import mujoco
    except ImportError:
        return
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_log_warning)


def _log_warning(message: object) -> None:
    logger.info("%s", message.decode(errors="replace") if isinstance(message, bytes) else message)


def headless() -> bool:
    """Whether this is a Linux process without a display, where only EGL or OSMesa can draw."""
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform.startswith("linux") and not any(os.environ.get(name) for name in displays)


def prepare_rendering(render_mode: str | None) -> None:
    """Make MuJoCo draw through EGL if images are wanted and there is no display.

    ``MUJOCO_GL`` is left alone where the user has set it. It is set only after MuJoCo is imported and an EGL context
    has been seen to work: Gymnasium reads it when the first frame is drawn, while an import of MuJoCo under a
    ``MUJOCO_GL`` that does not work fails, here and in every child process.

    Raises:
        EnvironmentFault: if a window is asked for without a display, or EGL does not work.
    """
    if render_mode is None or not headless():
        return
    if render_mode == "human":
        raise EnvironmentFault(
            "render_mode='human' needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set: use "
            "render_mode='rgb_array' for images and videos, which works without one."
        )
    if "MUJOCO_GL" not in os.environ:
        _try_egl()
        os.environ["MUJOCO_GL"] = "egl"


@cache
def _try_egl() -> None:
    quiet_mujoco()
    try:
        from mujoco.egl import GLContext

        GLContext(1, 1).free()
    except Exception as error:  # the bindings raise whatever the missing library makes of it
        raise EnvironmentFault(
            "MuJoCo cannot draw here: there is no display, and EGL does not work "
            f"({type(error).__name__}: {error}). Install EGL (Debian and Ubuntu: apt install libegl1), or go on "
            "without rendering."
        ) from error
