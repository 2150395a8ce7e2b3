"""``forethought surprise``: who notices impossible events, how surely and how soon."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional

from ..core.errors import SettingsError
from ..core.settings import Range, Settings
from .console import console, duration, is_live, print_table
from .options import names, parse

if TYPE_CHECKING:
    from ..evaluations.surprise import Progress


@dataclass(frozen=True)
class SurpriseOptions(Settings):
    """Perturb the task of a run at a known step, and measure who notices: its world model, and baselines.

    What is known is kept in the run's folder, cell by cell: the same command goes on where it was broken off.
    """

    run: Annotated[Positional[Path | None], tyro.conf.arg(metavar="RUN")] = None
    """Run folder of forethought train or pretrain."""
    perturbations: str | None = None
    """By name, such as teleport,actuator_dead; by default all that the task can have."""
    strengths: str = "standard"
    """standard: one for each; calibrated: those at which the normalised return falls to 0.99, 0.95, 0.90, 0.75 and
    0.50; or numbers, such as 1,3."""
    detectors: str | None = None
    """By name, such as monitor,pedm; by default all of monitor, latent, pedm, pedm-nearest, nearest, mean-kernel and
    successive."""
    episodes: Annotated[int, Range(ge=1, le=100_000)] = 100
    """Episodes per perturbation and strength."""
    fit_episodes: Annotated[int, Range(ge=1, le=100_000)] = 50
    """Nominal episodes that detectors are fitted to."""
    calibration_episodes: Annotated[int, Range(ge=1, le=100_000)] = 100
    """Nominal episodes on which thresholds are calibrated."""
    fresh_episodes: Annotated[int, Range(ge=1, le=100_000)] | None = None
    """Nominal episodes on which false alarms are counted; by default enough for 30 expected ones."""
    steps: Annotated[int, Range(ge=1)] | None = None
    """Environment steps after which every episode is cut, beside the task's own limit."""
    false_alarms: Annotated[float, Range(gt=0, le=100)] = 1.0
    """False alarms per 1,000 steps that thresholds are calibrated to."""
    planner: bool = False
    """Let an agent act by its planner, not by its bare actor."""
    policy: str | None = None
    """Who acts in place of the agent, or of the store's policies: random, expert, or another run's folder."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Of all episodes and of the detectors."""
    jobs: Annotated[int, Range(ge=1, le=1024)] = 1
    """Processes that play and judge."""
    video: Path | None = None
    """File, .mp4 or .gif, for a film of the first perturbation, with the trace of a calibrated monitor under it."""


def run(arguments: Sequence[str]) -> int:
    """Measure."""
    options = parse(SurpriseOptions, "surprise", arguments)
    if options.run is None:
        raise SettingsError("Which run? Such as: forethought surprise runs/HalfCheetah-v5-jepa-0.")
    from ..core.files import write_atomically
    from ..evaluations.plots import to_png
    from ..evaluations.surprise import RESULT_FILE, benchmark_surprise
    from ..evaluations.surprise_settings import SurpriseSettings

    asked: dict[str, Any] = {name: getattr(options, name) for name in _SHARED}
    for name in ("perturbations", "detectors"):
        if (text := getattr(options, name)) is not None:
            asked[name] = tuple(names(text, f"--{name}"))
    settings = SurpriseSettings(**asked, acting="planner" if options.planner else "actor")
    screen = console(stderr=True)
    status = screen.status("Beginning") if is_live(screen) else nullcontext()
    began = time.perf_counter()
    with status as shown:

        def tell(progress: Progress) -> None:
            cells = f", {progress.done} of {progress.cells} cells" if progress.cells else ""
            line = f"{progress.doing}{cells} ({duration(time.perf_counter() - began)})"
            if shown is not None:
                shown.update(line)
            else:
                print(line, file=sys.stderr)

        table = benchmark_surprise(options.run, settings, tell)
    for part in table.tables():
        print_table(part)
    if not table.cells:
        print(
            f"None of these perturbations lowers the return, so nothing is judged; {options.run / RESULT_FILE} tells."
        )
        return 0
    for name, figure in (("auroc", table.auroc_plot()), ("delay", table.delay_plot())):
        write_atomically(options.run / f"surprise_{name}.png", to_png(figure))
    print(f"Everything is in {options.run / RESULT_FILE}, plots beside it.")
    if options.video is not None:
        from ..evaluations.monitoring import film_surprise

        first = table.cells[0]
        who: dict[str, Any] = {"seed": settings.seed, "acting": settings.acting, "policy": settings.policy}
        film = film_surprise(options.run, first["perturbation"], options.video, first["strength"], **who)
        if film is not None:
            print(f"The film of {first['perturbation']} is in {film}.")
    return 0


_SHARED = (
    *("strengths", "episodes", "fit_episodes", "calibration_episodes", "fresh_episodes"),
    *("steps", "false_alarms", "policy", "seed", "jobs"),
)
