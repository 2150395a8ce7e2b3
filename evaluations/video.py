"""Moving pictures of an episode: MP4 where imageio-ffmpeg is installed, else a GIF small enough to send around."""

from __future__ import annotations

import importlib.util
import os
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from PIL import Image

from ..core.errors import SettingsError, missing_extra
from ..core.files import write_atomically

MAX_FPS = 25
MAX_SIDE = 320
"""Longest side in pixels."""
MAX_SECONDS = 20
"""What an episode shows after this is left out, because without a GPU drawing it takes longer than living it."""
MAX_GIF_BYTES = 5_000_000

_GIF_COLOURS = 128
_FREE_CAMERA = -1
_FOLLOWING = "track"
"""What cameras that follow a robot are called in Gymnasium's models."""


class Renders(Protocol):
    """Shows something, as environments do."""

    def render(self) -> Any:
        """Return a picture (height, width, 3), or a list of them."""
        ...


class VideoRecorder:
    """Records what an environment made with ``render_mode="rgb_array"`` shows.

    An environment that cannot be rendered costs one warning, never the episode.

    Args:
        path: file to write. The suffix ``.mp4`` or ``.gif`` decides the format; without one it is MP4 if the extra
            ``video`` is installed, else GIF.
        frames_per_second: at which the environment produces frames; at most 25 of them per second, and the first
            20 seconds, are kept.
        max_side: longest side in pixels, to which larger frames are shrunk.

    Raises:
        MissingExtraError: MP4 is asked for and imageio-ffmpeg is not installed.
        SettingsError: another suffix.
    """

    def __init__(self, path: str | Path, frames_per_second: float, max_side: int = MAX_SIDE) -> None:
        path = Path(path)
        if not path.suffix:
            path = path.with_suffix(".mp4" if _has_ffmpeg() else ".gif")
        if path.suffix not in (".mp4", ".gif"):
            raise SettingsError(f"A video is written as .mp4 or .gif, not {path.suffix!r} ({path}).")
        if path.suffix == ".mp4" and not _has_ffmpeg():
            raise missing_extra("Writing MP4", "video")
        self.path = path
        self._max_side = max_side
        self._stride = max(1, int(np.ceil(frames_per_second / MAX_FPS)))
        self._fps = frames_per_second / self._stride
        self._last_step = round(MAX_SECONDS * frames_per_second)
        self._steps = 0
        self._encoder: _Encoder | None = None
        self._failed = False

    def capture(self, env: Renders) -> None:
        """Add what ``env`` shows now, if this step's frame is one to keep."""
        due = self._steps % self._stride == 0 and self._steps < self._last_step
        self._steps += 1
        if self._failed or not due:
            return
        try:
            picture = Image.fromarray(np.asarray(env.render(), dtype=np.uint8)).convert("RGB")
            frame = _fit(picture, self._max_side)
            if self._encoder is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._encoder = _GIF(self._fps) if self.path.suffix == ".gif" else _MP4(self.path, self._fps)
            self._encoder.add(frame)
        except Exception as error:  # rendering fails in as many ways as there are drivers
            self._fail(error)

    def close(self) -> Path | None:
        """Write the file and return its path; ``None`` where nothing could be rendered."""
        if self._failed or self._encoder is None:
            return None
        try:
            self._encoder.finish(self.path)
        except Exception as error:  # a full disk or a broken encoder must not cost the evaluation either
            self._fail(error)
            return None
        return self.path

    def _fail(self, error: Exception) -> None:
        self._failed = True
        warnings.warn(
            f"No video: rendering failed ({type(error).__name__}: {error}). The episode itself is not affected; "
            "`forethought doctor` tells what rendering needs.",
            stacklevel=3,
        )


def prepare_rendering(env: gym.Env[Any, Any]) -> None:
    """Let MuJoCo follow the robot, where its model has a camera for that, and draw small pictures with small shadows.

    Small ones are four times as fast without a GPU. Call it before the first frame; anything but a MuJoCo environment
    is left alone.
    """
    renderer, model = getattr(env.unwrapped, "mujoco_renderer", None), getattr(env.unwrapped, "model", None)
    if renderer is None or model is None:
        return
    scale = min(1.0, MAX_SIDE / max(renderer.width, renderer.height))
    renderer.width, renderer.height = int(renderer.width * scale), int(renderer.height * scale)
    model.vis.quality.shadowsize = min(model.vis.quality.shadowsize, 1024)
    cameras = [model.camera(index).name for index in range(model.ncam)]
    if renderer.camera_id == _FREE_CAMERA and _FOLLOWING in cameras:  # the free one may stay where the robot started
        renderer.camera_id = cameras.index(_FOLLOWING)


class _Encoder(Protocol):
    def add(self, frame: Image.Image) -> None: ...

    def finish(self, path: Path) -> None: ...


class _MP4:
    """Streams H.264 frames into a temporary file that takes its name when it is complete."""

    def __init__(self, path: Path, fps: float) -> None:
        import imageio.v2 as imageio

        self._partial = path.with_name(f".{path.stem}.partial.mp4")
        self._writer = imageio.get_writer(self._partial, fps=fps, codec="libx264", macro_block_size=2)

    def add(self, frame: Image.Image) -> None:
        self._writer.append_data(np.asarray(frame))

    def finish(self, path: Path) -> None:
        self._writer.close()
        os.replace(self._partial, path)


class _GIF:
    """Collects frames; thins and shrinks them in turn until the file is small enough, keeping real time."""

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._size = (0, 0)
        self._packed: list[bytes] = []  # a long episode's raw frames would take hundreds of megabytes

    def add(self, frame: Image.Image) -> None:
        self._size = frame.size
        self._packed.append(zlib.compress(frame.tobytes(), 1))

    def finish(self, path: Path) -> None:
        palette = self._palette()
        # One palette for all frames, without dithering: neighbouring frames then differ only where something moved,
        # and only that part is stored.
        frames = [
            self._frame(index).quantize(palette=palette, dither=Image.Dither.NONE) for index in range(len(self._packed))
        ]
        fps, thin = self._fps, True
        while len(data := _encode_gif(frames, fps)) > MAX_GIF_BYTES and len(frames) > 1:
            if thin:
                frames, fps = frames[::2], fps / 2
            else:
                smaller = (max(1, frames[0].width * 3 // 4), max(1, frames[0].height * 3 // 4))
                frames = [frame.resize(smaller, Image.Resampling.NEAREST) for frame in frames]
            thin = not thin
        write_atomically(path, data)

    def _frame(self, index: int) -> Image.Image:
        return Image.frombytes("RGB", self._size, zlib.decompress(self._packed[index]))

    def _palette(self) -> Image.Image:
        """Return a picture whose palette suits frames from all over the episode."""
        chosen = np.unique(np.linspace(0, len(self._packed) - 1, 8).astype(int))
        montage = np.concatenate([np.asarray(self._frame(index)) for index in chosen])
        return Image.fromarray(montage).quantize(_GIF_COLOURS)


def _encode_gif(frames: list[Image.Image], fps: float) -> bytes:
    buffer = BytesIO()
    milliseconds = max(20, round(1000 / fps / 10) * 10)  # GIF counts hundredths; players distrust anything below two
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, optimize=False
    )
    return buffer.getvalue()


def _fit(frame: Image.Image, max_side: int) -> Image.Image:
    """Shrink to at most ``max_side``, with the even sides that video codecs need."""
    scale = min(1.0, max_side / max(frame.size))
    width, height = (max(2, int(side * scale) // 2 * 2) for side in frame.size)
    return frame if frame.size == (width, height) else frame.resize((width, height), Image.Resampling.LANCZOS)


def _has_ffmpeg() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("imageio", "imageio_ffmpeg"))
