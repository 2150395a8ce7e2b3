"""probe_run: what a run's world model knows of physics, as far as small maps can read it off frozen latents.

A linear and a small nonlinear probe are fitted to the latents of some episodes and judged on others: off the present
latent, off a short history of latents, and off latents predicted some steps ahead, open loop, under the actions really
taken. The same probes read the raw observation and the latents of an untrained encoder, for comparison.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from ..core.errors import RunFolderError, SettingsError, UnknownNameError, did_you_mean
from ..core.quantity import Quantity
from ..core.settings import Range, Settings
from ..envs.quantities import Quantities
from ..world_model import LinearProbe, MLPProbeSettings, Probe, load_probes
from .latent_grid import LatentGrid
from .nominal import NominalEpisodes, WorldModel, nominal_episodes, world_model_of
from .probe_fitting import Part, Probing
from .probe_report import LATENT, PROBES_FILE, ProbeReport

LEAST_FITTING = 2
Told = Callable[[str], None]


@dataclass(frozen=True)
class ProbeSettings(Settings):
    """What is probed, and how well it is measured."""

    quantities: tuple[str, ...] = ()
    """Names of the quantities; all that the task has by default."""
    depths: tuple[int, ...] = (1, 5, 10, 25)
    """Model steps ahead at which predicted latents are read."""
    history: Annotated[int, Range(ge=1, le=64)] = 3
    """Latents in a row that are read together."""
    episodes: Annotated[int, Range(ge=1, le=100_000)] = 20
    """Episodes that an agent plays, half of them held out; of a store, the least taken of each part."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Of the episodes, the samples and the probes."""
    fitted: Annotated[int, Range(ge=2)] = 5000
    """Observations that a probe is fitted to, at most."""
    held_out: Annotated[int, Range(ge=2)] = 2000
    """Observations of other episodes that it is judged on, at most."""
    mlp: MLPProbeSettings = field(default_factory=MLPProbeSettings)
    """The nonlinear probe."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(depth < 1 for depth in self.depths) or len(set(self.depths)) < len(self.depths):
            raise SettingsError(f"ProbeSettings.depths = {self.depths} must be different numbers of steps, at least 1.")


def probe_run(
    folder: str | os.PathLike[str], settings: ProbeSettings | None = None, on_progress: Told | None = None
) -> ProbeReport:
    """Probe the world model of an agent's run, or of a pretrained one; the run stays as it is.

    Args:
        folder: of the run.
        settings: see :class:`ProbeSettings`.
        on_progress: told what is being done.

    Returns:
        What was found. ``save`` writes it, and the probes of the present latent, into the run's folder.

    Raises:
        RunFolderError, CheckpointError: no such run, no model or store, or a damaged file.
        UnknownNameError: a quantity that the task does not have; it names the closest, and all there are.
        EnvironmentFault: the task has no quantities, or its environment fails.
        SettingsError: too few episodes, without true states, or of other shapes than the model's.
        DivergedError: latents that are not finite.
    """
    s, tell = settings or ProbeSettings(), on_progress or (lambda text: None)
    world = world_model_of(folder)
    measured = None if world.task is None else _Measured.of(world, s.quantities)
    tell("taking episodes from the store" if world.store else f"playing {s.episodes} episodes")
    episodes = nominal_episodes(world, s.episodes, s.seed, (s.fitted, s.held_out))
    if any(episode.states is None for episode in (*episodes.fitting, *episodes.held_out)):
        raise SettingsError(f"The episodes of {folder} hold no true states, so that there is nothing to read.")
    if len(episodes.fitting) < LEAST_FITTING:
        raise SettingsError(
            f"{folder} learned from {len(episodes.fitting)} episode, and at least {LEAST_FITTING} are needed, to fit "
            "probes to and to choose between them: learn from a store with more."
        )
    if measured is None:
        measured = _Measured.states(episodes, s.quantities)
    tell("encoding, and measuring quantities")
    parts, counts = _parts(world, episodes, measured), (s.fitted, s.held_out)
    probing = Probing(world.model, measured.quantities, *parts, counts, s.history, s.mlp, s.seed)
    if not probing.enough:
        raise SettingsError(
            f"The episodes of {folder} are too short to look back over {s.history} latents, "
            f"{world.model.settings.block} steps apart: lower the history, or take longer episodes."
        )
    tell("reading the present")
    readings = [*probing.read_now(), probing.read_mean()]
    growth, too_deep = [], []
    for depth in sorted(s.depths):
        tell(f"reading what is predicted {depth} ahead")
        ahead = probing.read_ahead(depth)
        if ahead is None:
            too_deep.append(depth)
            continue
        readings += ahead[0]
        growth.append(ahead[1])
    tell("following latents")
    grids = probing.fitting.grid, probing.held_out.grid
    return ProbeReport(
        world, s.to_dict(), measured.quantities, probing.probes, readings, growth, probing.motion(), grids, too_deep
    )


def probe_states(folder: str | os.PathLike[str]) -> list[float | None] | None:
    """Return r of a linear probe for each dimension of the true state, on episodes that the model never learned from.

    Args:
        folder: of a run that was pretrained.

    Returns:
        r, ``None`` for a dimension that does not vary; nothing where the store is gone, or holds too little or no true
        states.

    Raises:
        RunFolderError: no such run, or one without a model.
        CheckpointError: a damaged file.
    """
    world, s = world_model_of(folder), ProbeSettings()
    if world.store is None or not os.path.isdir(world.store):
        return None
    episodes = nominal_episodes(world, seed=s.seed, frames=(s.fitted, s.held_out))
    if any(episode.states is None for episode in episodes.held_out):
        return None
    measured = _Measured.states(episodes)
    parts, counts = _parts(world, episodes, measured), (s.fitted, s.held_out)
    probing = Probing(world.model, measured.quantities, *parts, counts, history=1)
    if not probing.enough:
        return None
    [reading] = probing.read_now((LinearProbe.kind,), (LATENT,))
    return [None if scored.r is None else scored.r.value for scored in reading.scores]


def load_run_probes(folder: str | os.PathLike[str]) -> dict[str, Probe]:
    """Return the probes of a run's present latents, "linear" and "mlp".

    Raises:
        RunFolderError: nothing was probed yet, or the world model has learned on since.
        CheckpointError: a damaged file.
    """
    world, path = world_model_of(folder), Path(folder) / PROBES_FILE
    command = f"forethought probe {folder}"
    if not path.exists():
        raise RunFolderError(f"{folder} has no probes yet; fit them: {command}")
    probes, source = load_probes(path)
    if source.get("model") != world.fingerprint:
        raise RunFolderError(f"The world model of {folder} has changed since it was probed; probe it again: {command}")
    return probes


@dataclass(frozen=True)
class _Measured:
    """Quantities, and how they are measured in true states (N, S) as values (N, Q)."""

    quantities: tuple[Quantity, ...]
    measure: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    @classmethod
    def of(cls, world: WorldModel, names: Sequence[str]) -> _Measured:
        """Return those of these ``names``, or all, of a world model's task."""
        env = world.make_env()
        try:
            all_of_them = Quantities(env)
        finally:
            env.close()
        indices = [all_of_them.index(name) for name in dict.fromkeys(names or all_of_them.names)]
        chosen = tuple(all_of_them.all[index] for index in indices)
        return cls(chosen, lambda states: all_of_them.of_states(states)[:, indices])

    @classmethod
    def states(cls, episodes: NominalEpisodes, names: Sequence[str] = ()) -> _Measured:
        """Return the bare dimensions of the state, for recordings of whatever task."""
        states = episodes.fitting[0].states
        assert states is not None
        known = [f"state_{index}" for index in range(states.shape[1])]
        for name in names:
            if name not in known:
                raise UnknownNameError(f"These recordings have no quantity {name!r}.{did_you_mean(name, known)}")
        indices = [known.index(name) for name in dict.fromkeys(names or known)]
        return cls(tuple(Quantity(known[index], "no unit") for index in indices), lambda states: states[:, indices])


def _parts(world: WorldModel, episodes: NominalEpisodes, measured: _Measured) -> tuple[Part, Part]:
    grids = [LatentGrid.of(part, world.model) for part in (episodes.fitting, episodes.held_out)]
    fitting, held_out = (Part(grid, measured.measure(grid.states)) for grid in grids)
    return fitting, held_out
