"""The trace of surprise, drawn under a picture: score, threshold and alarms of the last steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHOWN_STEPS = 200
_BACKGROUND, _LINE, _LIMIT, _ALARM, _TEXT = (
    (24, 24, 28),
    (120, 190, 255),
    (255, 170, 60),
    (150, 30, 40),
    (230, 230, 230),
)
_LEAST_HEIGHT = 40
_HEADROOM = 2.0
"""The highest score shown, in thresholds; what is higher stands at the top."""


def draw_trace(picture: NDArray[np.uint8], trace: Sequence[tuple[float, bool]], threshold: float) -> NDArray[np.uint8]:
    """Return ``picture`` (height, width, 3) with a strip under it, a fifth as high but 40 pixels at least, even.

    Args:
        picture: what the environment shows.
        trace: of at most 200 steps, the newest last: the score, NaN where there is none, and whether it is alarmed.
        threshold: drawn as a dashed line; alarmed steps stand on a red ground.
    """
    from PIL import Image, ImageDraw

    width = picture.shape[1]
    height = max(_LEAST_HEIGHT, picture.shape[0] // 5) // 2 * 2
    strip = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(strip)
    across = (width - 1) / (SHOWN_STEPS - 1)
    top = _HEADROOM * max(threshold, 1e-6)

    def place(step: int, score: float) -> tuple[float, float]:
        share = min(max(score / top, 0.0), 1.0)
        return step * across, (height - 1) * (1 - share)

    for step, (_, alarmed) in enumerate(trace):
        if alarmed:
            draw.rectangle((place(step, 0)[0] - across / 2, 0, place(step, 0)[0] + across / 2, height), fill=_ALARM)
    limit = place(0, threshold)[1]
    for begin in range(0, width, 8):
        draw.line((begin, limit, begin + 3, limit), fill=_LIMIT)
    points: list[tuple[float, float]] = []
    for step, (score, _) in enumerate([*trace, (float("nan"), False)]):
        if score == score:
            points.append(place(step, score))
        elif points:
            draw.line(points * (1 if len(points) > 1 else 2), fill=_LINE)
            points = []
    known = [score for score, _ in trace if score == score]
    now = f"{known[-1]:.1f}" if known else "-"
    draw.text((3, 1), f"surprise {now} (alarm {threshold:.1f})", fill=_TEXT)
    under: NDArray[Any] = np.asarray(strip)
    return np.concatenate([picture, under])
