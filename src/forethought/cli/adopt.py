"""``forethought adopt``: a released LeWorldModel becomes a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ..core.settings import Range, Settings
from .options import parse


@dataclass(frozen=True)
class AdoptOptions(Settings):
    """Take up the released weights of a LeWorldModel as a run, and measure how well it predicts recorded episodes.

    Only tensors and numbers are read from the files; nothing in them is executed or imported.
    """

    weights: Annotated[Positional[Path], tyro.conf.arg(metavar="WEIGHTS")]
    """weights.pt, or the folder that holds it; config.json must be beside it."""
    store: Annotated[Positional[Path], tyro.conf.arg(metavar="STORE")]
    """Episodes of the task that it was trained on (forethought import): actions are scaled by their statistics."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Run folder to make; by default runs/STORE-released."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Which episodes are held out."""


def run(arguments: Sequence[str]) -> int:
    """Adopt."""
    options = parse(AdoptOptions, "adopt", arguments)
    from ..evaluations.adopting import adopt

    folder = options.out or Path("runs") / f"{options.store.resolve().name}-released"
    adopted = adopt(options.weights, options.store, folder, options.seed)
    print(f"{adopted.parameters:,} parameters, all of them loaded; the run is in {adopted.folder}.")
    errors = {name: value for name, value in adopted.health.items() if "error" in name}
    print(f"On {adopted.clips} held-out clips, mean squared error of predicted latents, and of expecting no change:")
    for step in range(1, 1 + len(errors) // 2):
        predicted, unchanged = errors[f"open_loop_error_{step}"], errors[f"no_change_error_{step}"]
        print(f"  {step} steps ahead: {predicted:.4f}, {unchanged:.4f}")
    print(f"Try: forethought evaluate {shlex.quote(str(adopted.folder))}")
    return 0
