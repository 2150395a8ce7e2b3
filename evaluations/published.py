"""Published: figures of others, shown beside runs of ours, marked as what they are, and never averaged with ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import SettingsError
from ..core.settings import Settings
from .cells import Cell
from .settings import Steps
from .statistics import number
from .tables import Table


@dataclass(frozen=True)
class Published(Settings):
    """Mean returns of one agent on the way, as somebody else has published them.

    A benchmark holds them as::

        [[published]]
        agent = "CrossQ"
        source = "curve files of the SimbaV2 repository, 10 seeds"
        steps = [50_000, 100_000]
        returns."Hopper-v4" = [1_421, 2_764]
    """

    agent: str
    """What it is called."""
    source: str
    """Where the figures stand, how many seeds they are of, and what has to be known before comparing with them."""
    steps: tuple[Steps, ...]
    """Environment steps after which it was judged."""
    returns: dict[str, Sequence[float]]
    """By task, its mean return after each of ``steps``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        name = f"published {self.agent}"
        if list(self.steps) != sorted(set(self.steps)) or not self.steps:
            raise SettingsError(f"{name}: steps = {list(self.steps)} must rise from one to the next.")
        for task, values in self.returns.items():
            if not isinstance(values, Sequence) or len(values) != len(self.steps):
                raise SettingsError(f"{name}: {task} needs a return for each of the {len(self.steps)} steps.")
            if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
                raise SettingsError(f"{name}: the returns on {task} must be finite numbers, not {values!r}.")

    @property
    def label(self) -> str:
        """How tables and plots call it."""
        return f"{self.agent}, published"

    def curve(self, task: str, until: float) -> Mapping[int, float]:
        """Return its returns on ``task`` by step, up to the step ``until``; empty where none is known."""
        pairs = zip(self.steps, self.returns.get(task, ()), strict=False)
        return {step: float(value) for step, value in pairs if step <= until}


def beside_published(task: str, cells: Sequence[Cell], published: Sequence[Published], until: float) -> Table | None:
    """Return what is published about ``task`` up to the step ``until``, below what ``cells`` reach at these steps.

    ``None`` where nothing is.
    """
    curves = [(one, curve) for one in published if (curve := one.curve(task, until))]
    if not curves:
        return None
    steps = sorted({step for _, curve in curves for step in curve})
    ours = [[cell.name, *(str(cell.at(step) or "") for step in steps)] for cell in cells]
    theirs = [[one.label, *(number(curve[step]) if step in curve else "" for step in steps)] for one, curve in curves]
    sources = " ".join(f"{one.agent}: {one.source}." for one, _ in curves)
    note = (
        "Above, mean return over seeds at these steps, read off each run's curve, with 95 % bootstrap intervals; "
        f"below, what others have published, measured by them and on episodes of their own. {sources}"
    )
    columns = ["agent", *(f"{step:,} steps" for step in steps)]
    return Table(columns, [*ours, *theirs], f"{task}: beside published figures", [note])
