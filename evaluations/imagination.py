"""Imagination, drawn: what a world model expects, beside what really happened.

The model is told the truth every ``anchor`` steps, and predicts from there open loop, under the actions really taken.
A probe reads the simulator's state off each predicted latent, and the simulator draws it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..core.errors import SettingsError
from ..core.seeding import numpy_generator
from ..envs.scenes import Scene, scene_of
from ..world_model import JEPA, MLPProbe, MLPProbeSettings, Probe, ProbeSamples
from .latent_grid import LatentGrid, Rows, imagined
from .nominal import WorldModel
from .probe_fitting import validation_episodes
from .probe_scores import score
from .video import MAX_SECONDS, MAX_SIDE, VideoRecorder, prepare_rendering

READABLE = 0.5
"""Least r at which a coordinate is believed; what is read worse stays as it was at the anchor."""
FITTED, JUDGED = 8000, 2000
_CAPTION = 22
"""Height in pixels."""


def film_imagination(
    world: WorldModel,
    fitting: LatentGrid,
    held_out: LatentGrid,
    path: str | Path,
    anchor: int = 25,
    seed: int = 0,
    mlp: MLPProbeSettings | None = None,
) -> Path | None:
    """Write a film of the first held-out episode: left what happened, right what was imagined of it.

    Args:
        world: the world model.
        fitting: episodes that the probe of the state is fitted to.
        held_out: others, that it is judged on, and the first of which is filmed.
        path: file to write, ``.mp4`` or ``.gif``; at most 20 seconds.
        anchor: model steps after which imagination begins anew at the truth.
        seed: of the probe.
        mlp: its settings.

    Returns:
        The file, or nothing after a warning where nothing could be drawn.

    Raises:
        SettingsError: another suffix, or a task that is not known, or no state that can be read.
        MissingExtraError: MP4 without the extra that writes it.
        EnvironmentFault: an environment that cannot be drawn in a given state.
    """
    env = world.make_env("rgb_array")
    try:
        prepare_rendering(env)
        scene = scene_of(env)
        per_second = float(env.metadata.get("render_fps") or 30) / world.model.settings.block
        recorder = VideoRecorder(path, per_second, max_side=2 * MAX_SIDE)
        probe = fit_scene(world.model, scene, fitting, held_out, anchor, seed, mlp)
        known = (probe.r >= READABLE).numpy()
        if not known.any():
            best = probe.r.nan_to_num(-1).max().item()
            raise SettingsError(
                f"No coordinate of {world.task} can be read off the latents of {world.folder}: the best has r = "
                f"{best:.2f}, and {READABLE} is needed to draw it."
            )
        last = min(int(held_out.left[0]), round(MAX_SECONDS * per_second))
        for truth, imagination, step in _frames(
            world.model, scene, probe, known, held_out, last, anchor, 1 / per_second
        ):
            recorder.capture(_Pair(scene, truth, imagination, f"imagined {step} ahead" if step else "as observed"))
        return recorder.close()
    finally:
        env.close()


def fit_scene(
    model: JEPA,
    scene: Scene,
    fitting: LatentGrid,
    held_out: LatentGrid,
    anchor: int,
    seed: int = 0,
    mlp: MLPProbeSettings | None = None,
) -> Probe:
    """Return a probe of a scene's coordinates for latents as they are observed, and predicted up to ``anchor`` ahead.

    Its r is measured on the held-out episodes, over all these depths alike.
    """
    chosen = np.isin(fitting.episode, validation_episodes(fitting, seed))
    parts = []
    for name, grid, among, count in (
        ("fitting", fitting, ~chosen, FITTED),
        ("validation", fitting, chosen, JUDGED),
        ("held out", held_out, np.ones(len(held_out), bool), JUDGED),
    ):
        parts.append(_samples(model, scene, grid, among, count, anchor, numpy_generator(seed, "scene", name)))
    probe = MLPProbe.fit(parts[0][0], parts[1][0], scene.coordinates, mlp, seed)
    judged, episodes = parts[2]
    with torch.no_grad():
        read = probe(judged.latents).numpy()
    scores = score(read, judged.values.numpy(), episodes, scene.coordinates, seed)
    # What never varies is read exactly.
    r = [1.0 if scored.constant else np.nan if scored.r is None else scored.r.value for scored in scores]
    probe.r.copy_(torch.tensor(r))
    return probe


def _samples(
    model: JEPA,
    scene: Scene,
    grid: LatentGrid,
    among: NDArray[np.bool_],
    count: int,
    anchor: int,
    rng: np.random.Generator,
) -> tuple[ProbeSamples, Rows]:
    """Return latents of all depths below ``anchor`` with the coordinates then, and the episodes they are of."""
    latents, rows = [], []
    depths = np.arange(anchor)
    for depth, share in zip(depths, np.diff(np.linspace(0, count, anchor + 1).round()), strict=True):
        usable = np.flatnonzero(among & (grid.left >= depth))
        drawn = np.sort(rng.choice(usable, min(int(share), len(usable)), replace=False))
        latents.append(imagined(model, grid, drawn, int(depth))[:, -1] if depth else grid.latents[drawn])
        rows.append(drawn + depth)
    chosen = np.concatenate(rows)
    values = torch.from_numpy(scene.read(grid.states[chosen]))
    return ProbeSamples(torch.cat(latents), values), grid.episode[chosen]


def _frames(
    model: JEPA,
    scene: Scene,
    probe: Probe,
    known: NDArray[np.bool_],
    grid: LatentGrid,
    last: int,
    anchor: int,
    seconds: float,
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], int]]:
    """Yield the true state, the imagined one, and how many steps ahead of the truth that is, along an episode."""
    for begin in range(0, last + 1, anchor):
        steps = min(anchor - 1, last - begin)
        state = grid.states[begin]
        yield state, state, 0
        if not steps:
            continue
        with torch.no_grad():
            read = probe(imagined(model, grid, np.array([begin]), steps)[0]).double().numpy()
        for step in range(1, steps + 1):
            state = scene.state(read[step - 1], known, state, seconds)
            yield grid.states[begin + step], state, step


class _Pair:
    """Two states side by side, each under a caption; drawn when it is asked for."""

    def __init__(self, scene: Scene, truth: Any, imagination: Any, caption: str) -> None:
        self._scene, self._states, self._captions = scene, (truth, imagination), ("what happened", caption)

    def render(self) -> NDArray[np.uint8]:
        pictures = [Image.fromarray(self._scene.draw(state)) for state in self._states]
        width, height = pictures[0].size
        frame = Image.new("RGB", (2 * width, height + _CAPTION), (21, 26, 33))
        pen, font = ImageDraw.Draw(frame), ImageFont.load_default(size=13)
        for index, (picture, caption) in enumerate(zip(pictures, self._captions, strict=True)):
            frame.paste(picture, (index * width, _CAPTION))
            pen.text((index * width + 6, 3), caption, fill=(228, 232, 238), font=font)
        return np.asarray(frame)
