"""Probes for wishes: what reads quantities off latents wherever a plan may lead, not only where the agent ends up.

They are fitted to all that the world model learned from: an agent's own experience from its first random step on, or
the store of a pretrained one. Not one new step is taken. A probe that knows a trained agent's episodes alone reads in
the latents of a robot that stands still that it moves.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..core.errors import SettingsError
from ..core.seeding import numpy_generator
from ..envs.quantities import Quantities
from ..envs.recording import RecordedEpisode
from ..world_model import MLPProbe, MLPProbeSettings, Probe, ProbeSamples, load_probes, save_probes
from .experience import relived
from .latent_grid import LatentGrid
from .nominal import NominalEpisodes, WorldModel, nominal_episodes, world_model_of
from .probe_fitting import validation_episodes
from .probe_scores import score

PROBES_FILE = "wish_probes.zip"
WELL_READ = 0.8
"""Correlation with the truth, on episodes that were held out, below which whoever plans by a probe is warned."""
FITTED, HELD_OUT = 20_000, 5_000
"""Observations that a probe is fitted to, and judged on, at most."""
HELD_OUT_SHARE = 0.2
"""Of an agent's episodes."""
LEAST_EPISODES = 3
"""To fit to, to choose by, and to judge with."""
SETTINGS = MLPProbeSettings(updates=3000)


def wish_probes(
    folder: str | os.PathLike[str], names: Sequence[str], on_progress: Callable[[str], None] | None = None
) -> dict[str, Probe]:
    """Return probes that read quantities off the latents of a run's world model, wherever that has been, by name.

    A quantity's probe is fitted when it is first asked for, and written into the run's folder, where later calls find
    it.

    Args:
        folder: of the run.
        names: of the quantities.
        on_progress: told what is being done.

    Raises:
        RunFolderError, CheckpointError: no such run, no experience in it, or a damaged file.
        UnknownNameError: a quantity that the task does not have; it names the closest, and all there are.
        EnvironmentFault: the task has no quantities.
        SettingsError: too few episodes; or a quantity that never varied.

    Warns:
        UserWarning: a quantity is read with a correlation below 0.8.
    """
    world = world_model_of(folder)
    env = world.make_env()
    try:
        quantities = Quantities(env)
    finally:
        env.close()
    asked = [known.name for known in quantities.select(dict.fromkeys(names))]  # a misspelt one fails before any work
    path = world.folder / PROBES_FILE
    probes = _saved(path, world)
    if missing := [name for name in asked if name not in probes]:
        probes |= _fitted(world, quantities, missing, on_progress or (lambda text: None))
        save_probes(probes, path, {"model": world.fingerprint})
    for name in asked:
        _require_readable(name, float(probes[name].r))
    return {name: probes[name].to(world.model.device) for name in asked}


def _require_readable(name: str, r: float) -> None:
    if math.isnan(r):
        raise SettingsError(
            f"{name} cannot be read off these latents: it, or what is read for it, never varied in the episodes that "
            "were held out to judge by."
        )
    if r < WELL_READ:
        warnings.warn(
            f"{name} is read off these latents with a correlation of {r:.2f} only: plans by it may miss.", stacklevel=3
        )


def _saved(path: Path, world: WorldModel) -> dict[str, Probe]:
    """Return the probes that were fitted to this model before."""
    if not path.exists():
        return {}
    probes, source = load_probes(path)
    return probes if source.get("model") == world.fingerprint else {}


def _fitted(
    world: WorldModel, quantities: Quantities, names: Sequence[str], tell: Callable[[str], None]
) -> dict[str, Probe]:
    """Return a probe for each quantity, a network of its own, so that those hard to read cost the others nothing."""
    episodes = _episodes(world, tell)
    fitting, held = (LatentGrid.of(part, world.model) for part in (episodes.fitting, episodes.held_out))
    rows = fitting.sample(FITTED, numpy_generator(0, "wish probe", "fitting"))
    judged = held.sample(HELD_OUT, numpy_generator(0, "wish probe", "held out"))
    choosing = torch.from_numpy(np.isin(fitting.episode[rows], validation_episodes(fitting, 0)))
    indices = [quantities.index(name) for name in names]
    latents = fitting.latents[rows]
    values, true = (quantities.of_states(states)[:, indices] for states in (fitting.states[rows], held.states[judged]))
    probes: dict[str, Probe] = {}
    for column, name in enumerate(names):
        tell(f"fitting a probe of {name}")
        known, wanted = quantities.select([name]), torch.from_numpy(values[:, [column]])
        probe = MLPProbe.fit(
            ProbeSamples(latents[~choosing], wanted[~choosing]),
            ProbeSamples(latents[choosing], wanted[choosing]),
            known,
            SETTINGS,
        )
        with torch.no_grad():
            read = probe(held.latents[judged]).numpy()
        [scored] = score(read, true[:, [column]], held.episode[judged], known)
        probe.r.fill_(math.nan if scored.r is None else scored.r.value)
        probes[name] = probe
    return probes


def _episodes(world: WorldModel, tell: Callable[[str], None]) -> NominalEpisodes:
    """Return what a world model learned from, some of it held out.

    Raises:
        SettingsError: too few episodes, or without true states.
    """
    if world.store is not None:
        tell("taking episodes from the store")
        episodes = nominal_episodes(world, frames=(FITTED, HELD_OUT))
        if any(episode.states is None for part in (episodes.fitting, episodes.held_out) for episode in part):
            raise SettingsError(f"The episodes of {world.store} hold no true states, so that there is nothing to read.")
        if len(episodes.fitting) < 2 or not episodes.held_out:
            raise SettingsError(
                f"{world.folder} learned from {len(episodes.fitting)} episodes and held out {len(episodes.held_out)}: "
                "two are needed at least to fit a probe to and to choose by, and one to judge it by."
            )
        return episodes
    tell("repeating the agent's own episodes")
    lived = relived(world.folder)
    if len(lived) < LEAST_EPISODES:
        raise SettingsError(
            f"{world.folder} learned from {len(lived)} episodes that can be repeated, and {LEAST_EPISODES} are "
            "needed at least, to fit a probe to, to choose and to judge it by."
        )
    order = numpy_generator(0, "wish probe", "episodes").permutation(len(lived)).tolist()
    held = max(1, round(HELD_OUT_SHARE * len(lived)))
    parts: list[list[RecordedEpisode]] = [[lived[number] for number in part] for part in (order[held:], order[:held])]
    return NominalEpisodes(*parts)
