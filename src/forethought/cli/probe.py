"""``forethought probe``: what a world model knows of physics, read off its latents by small maps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ..core.errors import SettingsError
from ..core.settings import Range, Settings
from ..world_model import MLPProbeSettings
from .console import console, is_live, print_table
from .options import names, parse


@dataclass(frozen=True)
class ProbeOptions(Settings):
    """Read physical quantities off the latents of a trained agent's world model, or of a pretrained one.

    Linear and small nonlinear probes are fitted to some episodes and judged on others. Table, figures, plot and probes
    are written into the run's folder; the world model stays as it is.
    """

    run: Annotated[Positional[Path | None], tyro.conf.arg(metavar="RUN")] = None
    """Run folder of forethought train or pretrain."""
    quantities: str | None = None
    """Quantities by name, such as x_velocity,torso_height; by default all that the task has."""
    depths: str = "1,5,10,25"
    """Model steps ahead at which predicted latents are read."""
    history: Annotated[int, Range(ge=1, le=64)] = 3
    """Latents in a row that are read together."""
    episodes: Annotated[int, Range(ge=1, le=100_000)] = 20
    """Episodes that an agent plays, half of them held out; of a store, the least that are taken of each part."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Of the episodes, the samples and the probes."""
    mlp: MLPProbeSettings = field(default_factory=MLPProbeSettings)
    """The nonlinear probe."""
    video: Path | None = None
    """File for a film of what is imagined beside what really happened, .mp4 or .gif."""
    anchor: Annotated[int, Range(ge=1)] = 25
    """With --video: model steps after which the imagined begins anew at the truth."""


def run(arguments: Sequence[str]) -> int:
    """Probe."""
    options = parse(ProbeOptions, "probe", arguments)
    if options.run is None:
        raise SettingsError("Which run? Such as: forethought probe runs/HalfCheetah-v5-jepa-0.")
    depths = names(options.depths, "--depths")
    if not all(depth.isdecimal() for depth in depths):
        raise SettingsError(f"--depths {options.depths!r} must be whole numbers of steps, such as 1,5,10.")
    quantities = () if options.quantities is None else tuple(names(options.quantities, "--quantities"))

    import torch

    from ..evaluations.probing import ProbeSettings, probe_run
    from ..evaluations.video import VideoRecorder

    settings = ProbeSettings(
        quantities, tuple(map(int, depths)), options.history, options.episodes, options.seed, mlp=options.mlp
    )
    if options.video is not None:
        VideoRecorder(options.video, frames_per_second=1)  # refuses files that it cannot write, before all the work
    torch.set_num_threads(1)
    target = console(stderr=True)
    live = is_live(target)
    with target.status("Probing") if live else nullcontext() as status:

        def tell(doing: str) -> None:
            if status is not None:
                status.update(f"Probing: {doing}")
            else:
                print(f"Probing: {doing}.", file=sys.stderr)

        report = probe_run(options.run, settings, tell)
    for table in report.tables():
        print_table(table)
    print(f"The figures are in {report.save()}.")
    if options.video is not None:
        from ..evaluations.imagination import film_imagination

        film = film_imagination(report.world, *report.grids, options.video, options.anchor, options.seed, options.mlp)
        if film is not None:
            print(f"The film is in {film}.")
    return 0
