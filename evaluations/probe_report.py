"""What probing a world model brought: figures with intervals, as a table, as JSON and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files import write_atomically, write_json
from ..core.provenance import describe_process
from ..core.quantity import Quantity
from ..world_model import Probe, save_probes
from .latent_grid import LatentGrid
from .nominal import WorldModel
from .plots import Line, r_against_depth, to_png
from .probe_scores import Score
from .settings import command_line
from .statistics import Estimate, number
from .tables import Table

LATENT, HISTORY, AHEAD = "latent", "history", "ahead"
OBSERVATION, UNTRAINED, MEAN = "observation", "untrained", "mean"
KINDS = ("linear", "mlp")
REPORT_FILE, PROBES_FILE, PLOT_FILE = "probes.json", "probes.zip", "probes.png"


_OTHERS = (HISTORY, OBSERVATION, UNTRAINED)


@dataclass(frozen=True, eq=False)
class Reading:
    """How well all quantities were read in one way.

    Attributes:
        source: off what: the present latent, a history of latents, latents predicted some steps ahead, the raw
            observation, the latent of an untrained encoder, or nothing (the mean).
        depth: model steps ahead, for predicted latents.
        kind: of the probe, "linear" or "mlp"; nothing for the mean.
        scores: one for each quantity.
        fitted, held_out: samples that the probe was fitted to, and judged on.
        by_present: whether predicted latents were read by the probe of the present latent, as planners do.
    """

    source: str
    depth: int | None
    kind: str | None
    scores: Sequence[Score]
    fitted: int
    held_out: int
    by_present: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        plain = {name: getattr(self, name) for name in ("source", "depth", "kind", "by_present", "fitted", "held_out")}
        return {**plain, "scores": [scored.to_dict() for scored in self.scores]}


@dataclass(frozen=True)
class Growth:
    """How wrong latents are that were predicted open loop.

    Attributes:
        depth: model steps ahead.
        relative: root mean square error, in units of that of predicting no change.
        error, no_change: both root mean squares, per latent dimension.
    """

    depth: int
    relative: Estimate
    error: float
    no_change: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {**vars(self), "relative": _plain(self.relative)}


@dataclass(frozen=True)
class Motion:
    """How points, such as latents, move along held-out episodes.

    Attributes:
        source: which points.
        straightness: mean cosine between successive displacements.
        goal_rank: Spearman's correlation of the distance to a later point with the time to it.
    """

    source: str
    straightness: Estimate | None
    goal_rank: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        measured = {name: _plain(getattr(self, name)) for name in ("straightness", "goal_rank")}
        return {"source": self.source, **measured}


@dataclass(frozen=True, eq=False)
class ProbeReport:
    """Everything that was found.

    Attributes:
        world: the world model.
        settings: what was asked for, as plain data.
        quantities: what was read.
        probes: those of the present latent, by kind, each with its r.
        readings: how well quantities were read, in all ways.
        growth: of the prediction's error.
        motion: of latents, raw observations and an untrained encoder's latents.
        grids: the episodes that were fitted to, and those held out.
        too_deep: depths for which no episode was long enough.
    """

    world: WorldModel
    settings: dict[str, Any]
    quantities: Sequence[Quantity]
    probes: dict[str, Probe]
    readings: Sequence[Reading]
    growth: Sequence[Growth]
    motion: Sequence[Motion]
    grids: tuple[LatentGrid, LatentGrid]
    too_deep: Sequence[int] = ()

    def find(self, source: str, kind: str | None, depth: int | None = None, by_present: bool = False) -> Reading:
        """Return one of the readings."""
        wanted = source, kind, depth, by_present
        return next(r for r in self.readings if (r.source, r.kind, r.depth, r.by_present) == wanted)

    @property
    def depths(self) -> list[int]:
        """Depths at which predicted latents were read."""
        return [growth.depth for growth in self.growth]

    @property
    def episodes(self) -> tuple[int, int]:
        """How many episodes were fitted to, and held out."""
        fitting, held_out = (int(grid.episode[-1]) + 1 for grid in self.grids)
        return fitting, held_out

    @property
    def _name(self) -> str:
        return self.world.task or self.world.folder.name

    def tables(self) -> list[Table]:
        """Return what is read now, what is read ahead, and how latents move, as text."""
        return [self._now(), *([self._ahead()] if self.depths else []), self._motion()]

    def _now(self) -> Table:
        linear, mlp, mean = self.find(LATENT, "linear"), self.find(LATENT, "mlp"), self.find(MEAN, None)
        others = [[self.find(source, kind) for kind in KINDS] for source in _OTHERS]
        rows = []
        for index, quantity in enumerate(self.quantities):
            cells = [str(quantity)]
            for reading, r in ((linear, _interval), (mlp, _r)):
                scored = reading.scores[index]
                cells += [r(scored), _share(scored.r2), _error(scored.rmse)]
            cells += [" / ".join(_r(reading.scores[index]) for reading in readings) for readings in others]
            rows.append([*cells, _error(mean.scores[index].rmse)])
        fitted, held = self.episodes
        return Table(
            ("quantity", *("linear r", "R2", "error"), *("MLP r", "R2", "error"), *_OTHERS, "the mean's error"),
            rows,
            title=f"{self._name}: what latents tell of the present",
            notes=(
                f"Probes were fitted to {linear.fitted:,} observations of {fitted} episodes and judged on "
                f"{linear.held_out:,} of {held} others; intervals are 95 % bootstrap intervals between episodes. "
                "Errors are root mean squares in the quantity's unit. r of an angle is that of points on the unit "
                f"circle. History is {self.settings['history']} latents in a row; where there are two figures, they "
                "are r of a linear probe and of a small network."
                + " Forces are those while no motor pushes."
                * any(q.unit == "N" for q in self.quantities),
            ),
        )

    def _ahead(self) -> Table:
        rows = []
        for index, quantity in enumerate(self.quantities):
            cells = [str(quantity), _r(self.find(LATENT, "linear").scores[index])]
            for depth in self.depths:
                found = [self.find(AHEAD, kind, depth) for kind in KINDS]
                found.append(self.find(AHEAD, "linear", depth, by_present=True))
                cells.append(" / ".join(_r(reading.scores[index]) for reading in found))
            rows.append(cells)
        wrong = ["prediction error / no change", "", *(str(growth.relative) for growth in self.growth)]
        block, deep = self.world.model.settings.block, ", ".join(map(str, self.too_deep))
        return Table(
            ("quantity", "now", *(f"{depth} ahead" for depth in self.depths)),
            [*rows, wrong],
            title=f"{self._name}: what predicted latents tell of the future, open loop (r)",
            notes=(
                "Three figures: of a linear probe and of a small network fitted to predicted latents, and of the "
                "linear probe of the present, by which plans are read."
                + f" A step ahead is a model step of {block} environment steps." * (block > 1)
                + f" No episodes are long enough to look {deep} ahead." * bool(deep),
            ),
        )

    def _motion(self) -> Table:
        shown = {LATENT: "latents", OBSERVATION: "observations", UNTRAINED: "latents of an untrained encoder"}
        rows = []
        for moved in self.motion:
            measured = (moved.straightness, moved.goal_rank)
            rows.append([shown[moved.source], *("none" if value is None else str(value) for value in measured)])
        return Table(
            ("paths of", "straightness", "distance ranks time to goal"),
            rows,
            title=f"{self._name}: how latents move",
            notes=(
                "Straightness is the mean cosine between successive displacements. Ranks are compared by Spearman's "
                "correlation, of the distance to a later point of the same episode with the time to it.",
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold; what is not known is null."""
        return {
            "task": self.world.task,
            "model": self.world.fingerprint,
            "settings": self.settings,
            "episodes": {"fitting": self.episodes[0], "held_out": self.episodes[1]},
            "quantities": [vars(quantity) for quantity in self.quantities],
            "readings": [reading.to_dict() for reading in self.readings],
            "growth": [growth.to_dict() for growth in self.growth],
            "motion": [moved.to_dict() for moved in self.motion],
            "too_deep": list(self.too_deep),
        }

    def save(self) -> Path:
        """Write figures, probes and the plot of r against depth into the run's folder; return the file of figures.

        Raises:
            WriteError: there is no room, or no right to write.
        """
        folder = self.world.folder
        source = {"model": self.world.fingerprint, "task": self.world.task, "settings": self.settings}
        save_probes(self.probes, folder / PROBES_FILE, source)
        if self.depths:
            write_atomically(folder / PLOT_FILE, to_png(self.plot()))
        made = {"command": command_line(), "process": describe_process()}
        write_json(folder / REPORT_FILE, {**made, **self.to_dict()})
        return folder / REPORT_FILE

    def plot(self) -> Any:
        """Return the figure of r against how far ahead latents were predicted, 0 being the present."""
        ways = {
            "linear, fitted to predicted latents": ("linear", False),
            "network, fitted to predicted latents": ("mlp", False),
            "linear, of the present": ("linear", True),
        }
        lines = []
        for name, (kind, by_present) in ways.items():
            readings = [self.find(LATENT, kind), *(self.find(AHEAD, kind, depth, by_present) for depth in self.depths)]
            r = np.array([[np.nan if s.r is None else s.r.value for s in reading.scores] for reading in readings])
            lines.append(Line(name, np.array([0, *self.depths]), r))
        return r_against_depth(self._name, lines)


def _plain(value: Estimate | None) -> dict[str, Any] | None:
    if value is None or not np.isfinite(value.value):
        return None
    return value.to_dict()


def _r(scored: Score) -> str:
    if scored.constant:
        return "constant"
    return "none" if scored.r is None else f"{scored.r.value:.3f}"


def _interval(scored: Score) -> str:
    if scored.r is None or scored.r.low is None or scored.r.high is None:
        return _r(scored)
    return f"{_r(scored)} [{scored.r.low:.3f}, {scored.r.high:.3f}]"


def _share(value: Estimate | None) -> str:
    return "" if value is None else f"{value.value:.3f}"


def _error(value: Estimate) -> str:
    return number(value.value) if abs(value.value) >= 1 or value.value == 0 else f"{value.value:.3g}"
