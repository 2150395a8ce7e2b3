"""The surprise table: how well detectors tell perturbed steps from nominal ones, how soon, and at what cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .plots import COLOURS, LIGHT, Theme, new_figure, style
from .statistics import number
from .surprise_cells import SOON
from .tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATEST = 50
"""Steps after an event, up to which a plot shows who has noticed."""


@dataclass(frozen=True, eq=False)
class SurpriseTable:
    """What :func:`~.surprise.benchmark_surprise` found.

    Attributes:
        task: where.
        acting: who acted, in words.
        settings: as plain data.
        block: environment steps per model step.
        nominal: by detector: threshold, false_alarms, steps, fit_seconds, ms_per_step.
        nominal_return: mean return of fresh nominal episodes.
        random_return: of acting at random.
        cells: see :func:`~.surprise_cells.judge_cell`.
        strengths: where they were calibrated, what was found for each perturbation.
    """

    task: str
    acting: str
    settings: Mapping[str, Any]
    block: int
    nominal: Mapping[str, Mapping[str, float]]
    nominal_return: float
    random_return: float | None
    cells: Sequence[Mapping[str, Any]]
    strengths: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def detectors(self) -> list[str]:
        """Their names."""
        return list(self.nominal)

    def mean_auroc(self, detector: str) -> float | None:
        """Return a detector's mean over all cells that are no controls, or nothing where there is none."""
        values = [cell["detectors"][detector]["auroc"]["value"] for cell in self._judged() if not cell["control"]]
        return float(np.mean(values)) if values else None

    def normalised_return(self, cell: Mapping[str, Any]) -> float | None:
        """Return a cell's mean return, 1 for the same episodes without perturbation and 0 for chance."""
        earned, before, chance = cell["return"], cell["paired_nominal_return"], self.random_return
        if earned is None or before is None or chance is None or before <= chance:
            return None
        return float((earned - chance) / (before - chance))

    def tables(self) -> list[Table]:
        """Return the figures as text: what can be told apart, what is noticed when, and what detectors cost."""
        return [self._auroc_table(), self._detection_table(), self._nominal_table()]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        means = {name: self.mean_auroc(name) for name in self.detectors}
        normalised = [self.normalised_return(cell) for cell in self.cells]
        data = asdict(self)
        data["cells"] = [
            {**cell, "normalised_return": value} for cell, value in zip(self.cells, normalised, strict=True)
        ]
        return {**data, "mean_auroc": means, "tables": [table.to_dict() for table in self.tables()]}

    def auroc_plot(self, theme: Theme = LIGHT) -> Figure:
        """Return the figure of AUROC: a row for each cell, a dot for each detector."""
        cells = self._judged()
        figure = new_figure(theme, height=1.4 + 0.28 * len(cells))
        axes = figure.add_subplot()
        style(axes, theme, grid="x")
        for index, name in enumerate(self.detectors):
            values = [cell["detectors"][name]["auroc"]["value"] for cell in cells]
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(values, range(len(cells)), "o", color=colour, label=name, markersize=8 if not index else 5)
        axes.axvline(0.5, color=theme.ink, alpha=0.45, linewidth=1, linestyle=(0, (1, 3)))
        axes.set_yticks(range(len(cells)), [_named(cell) for cell in cells])
        axes.set_ylim(len(cells) - 0.5, -0.5)
        axes.set_xlabel("AUROC, perturbed against nominal steps")
        title = f"{self.task}  ·  what can be told from nominal"
        axes.set_title(title, loc="left", color=theme.ink, fontsize=11, pad=12)
        _legend(axes, theme)
        return figure

    def delay_plot(self, theme: Theme = LIGHT) -> Figure:
        """Return the figure of the share of events that were noticed within so many steps, mean over cells."""
        figure = new_figure(theme)
        axes = figure.add_subplot()
        style(axes, theme, grid="y")
        steps = np.arange(1, LATEST + 1)
        for index, name in enumerate(self.detectors):
            shares = [_noticed(cell["detectors"][name], steps) for cell in self._judged() if not cell["control"]]
            if shares := [share for share in shares if share is not None]:
                axes.plot(steps, np.mean(shares, 0), color=COLOURS[index % len(COLOURS)], label=name, linewidth=2)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("model steps after the event")
        rate = self.settings["false_alarms"]
        title = f"{self.task}  ·  share of events noticed, at {rate:g} false alarms per 1,000 steps"
        axes.set_title(title, loc="left", color=theme.ink, fontsize=11, pad=12)
        _legend(axes, theme)
        return figure

    def _judged(self) -> list[Mapping[str, Any]]:
        """Return the cells in which something happened."""
        return [cell for cell in self.cells if cell["detectors"]]

    def _auroc_table(self) -> Table:
        rows = []
        for cell in self.cells:
            value = self.normalised_return(cell)
            figures = [_interval(cell["detectors"].get(name, {}).get("auroc")) for name in self.detectors]
            rows.append((_named(cell), str(cell["events"]), "" if value is None else f"{value:.2f}", *figures))
        means = [self.mean_auroc(name) for name in self.detectors]
        rows.append(("mean without controls", "", "", *("" if mean is None else f"{mean:.3f}" for mean in means)))
        notes = [
            "AUROC with 95 % bootstrap intervals between episodes: steps against those of nominal episodes; of what "
            "happens at once the event's step alone, of what lasts all steps from its onset on. Return: 1 for the same "
            "episodes without perturbation, 0 for chance. Controls (*) are what a physical model should not notice.",
        ]
        notes += self._not_reached()
        title = f"{self.task}, {self.acting} acting: perturbed steps told from nominal ones"
        return Table(("perturbation", "events", "return", *self.detectors), rows, title=title, notes=notes)

    def _detection_table(self) -> Table:
        rows = []
        for cell in self.cells:
            figures = [_detected(cell["detectors"].get(name)) for name in self.detectors]
            rows.append((_named(cell), str(cell["counted_events"]), *figures))
        return Table(
            ("perturbation", "events", *self.detectors),
            rows,
            title="Noticed at the very next step / within 10 steps, %, and median delay in steps",
            notes=(
                f"At {self.settings['false_alarms']:g} false alarms per 1,000 steps, as calibrated on "
                f"{self.settings['calibration_episodes']} nominal episodes. A step is a model step: {self.block} "
                f"environment step{'s' if self.block > 1 else ''}. An alarm is a run of alarmed steps after 10 quiet "
                f"ones, and counts if it begins within {SOON} steps; a delay of 1 is the very next step. Of frozen "
                "sensors, only those count whose true value moved by over one standard deviation within 10 steps.",
            ),
        )

    def _nominal_table(self) -> Table:
        rows = []
        for name, facts in self.nominal.items():
            rate = 1000 * facts["false_alarms"] / facts["steps"] if facts["steps"] else math.nan
            counted = f"{facts['false_alarms']:g} in {facts['steps']:,}"
            rows.append((name, counted, f"{rate:.2f}", number(facts["ms_per_step"]), number(facts["fit_seconds"])))
        return Table(
            ("detector", "false alarms in steps", "per 1,000", "ms/step", "s to fit"),
            rows,
            title="On fresh nominal episodes",
            notes=("Milliseconds: scoring one step of one episode, on one thread.",),
        )

    def _not_reached(self) -> list[str]:
        """Say what levels of return are, and which ones a perturbation could not bring about."""
        if not self.strengths:
            return []
        notes = [
            "After the @ stands the level of return at which the strength was found, on 10 other episodes that were "
            "perturbed from their first step on, or halfway by what happens at once.",
        ]
        missing = []
        for name, found in self.strengths.items():
            shown = {(cell["strength"], cell["level"]) for cell in self.cells if cell["perturbation"] == name}
            unmet = [one for one in found if (one["strength"], one["level"]) not in shown]
            if unmet:
                levels = [f"{one['level']:g} ({one['reached']:.2f} at the nearest)" for one in unmet]
                missing.append(f"{name} {', '.join(levels)}")
        return [*notes, *([f"Levels that could not be reached: {'; '.join(missing)}."] if missing else [])]


def _named(cell: Mapping[str, Any]) -> str:
    level = "" if cell["level"] is None else f" @ {cell['level']:g}"
    return f"{cell['perturbation']}{'*' if cell['control'] else ''} {cell['strength']:.3g}{level}"


def _interval(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    bounds = "" if value["low"] is None else f" [{value['low']:.2f}, {value['high']:.2f}]"
    return f"{value['value']:.3f}{bounds}"


def _detected(found: Mapping[str, Any] | None) -> str:
    if found is None or found["detected_soon"] is None:
        return ""
    delay = "never" if found["delay_median"] is None else f"{found['delay_median']:g}"
    next_step, soon = (100 * found[key]["value"] for key in ("detected_next_step", "detected_soon"))
    return f"{next_step:.0f} / {soon:.0f}, {delay}"


def _noticed(found: Mapping[str, Any], steps: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Return the share of counted events that were noticed within each number of steps."""
    pairs = zip(found["delays"], found["counted"], strict=True)
    delays = np.array([math.inf if delay is None else delay for delay, counted in pairs if counted])
    return (delays[:, None] <= steps).mean(0) if len(delays) else None


def _legend(axes: Any, theme: Theme) -> None:
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9, bbox_to_anchor=(1.01, 1.0), loc="upper left")
