"""Plots: learning curves with intervals and labels beside the lines, return against CPU time, normalised scores.

Figures are built from matplotlib's objects, without pyplot, so that nothing global is touched and no window opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .cells import Cell, Curve
from .statistics import number
from .summary import Summary, TaskSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f6fde", "#e2711d", "#2a9d6f", "#b5408f", "#8a6d1f", "#5b5bd6", "#c03a3a", "#0f8aa3")
"""By the order of agents; told apart by most colour-blind readers, and legible on light and dark ground."""


@dataclass(frozen=True)
class Theme:
    """The ground a figure stands on."""

    ground: str
    ink: str
    faint: str
    band: float


LIGHT = Theme(ground="#ffffff", ink="#1d2430", faint="#d9dee6", band=0.16)
DARK = Theme(ground="#151a21", ink="#e4e8ee", faint="#333c48", band=0.24)

_LABEL_HEIGHT = 0.056
"""Of a figure's axes."""
_LABEL_LETTERS = 32
"""Of a name beside a curve."""


def colours(summary: Summary) -> dict[str, str]:
    """Return each agent's colour, the same in all figures of a summary."""
    labels = dict.fromkeys(cell.label for task in summary.tasks for cell in task.cells)
    return {label: COLOURS[index % len(COLOURS)] for index, label in enumerate(labels)}


def learning_curves(summary: Summary, task: TaskSummary, theme: Theme = LIGHT) -> Figure:
    """Return the figure of return against environment steps, with 95 % intervals over seeds.

    A solid line is the agent as it acts by default, a dashed one its bare actor; a run that is not finished is dotted.
    Crosses are what others have published, as far as the runs go.
    """
    return _curves(task, colours(summary), _Axis("steps", "environment steps", "return on held-out episodes"), theme)


def return_against_cpu(summary: Summary, task: TaskSummary, theme: Theme = LIGHT) -> Figure:
    """Return the figure of return against the CPU time that training took, evaluations not counted."""
    longest = max((cell.cpu_seconds or 0.0 for cell in task.cells), default=0.0)
    unit, seconds = next(
        (unit, size) for unit, size in (("h", 3600), ("min", 60), ("s", 1)) if longest >= 2 * size or size == 1
    )
    axis = _Axis("cpu_seconds", f"CPU time of training ({unit})", "return against CPU time", seconds)
    return _curves(task, colours(summary), axis, theme)


def memory(summary: Summary, task: TaskSummary, theme: Theme = LIGHT) -> Figure:
    """Return the figure of the memory that a run's process holds beyond the agent's experience, which has to grow."""
    axis = _Axis("steps", "environment steps", "memory beyond the experience (MB)", of="memory_mb")
    return _curves(task, colours(summary), axis, theme)


def overall_scores(summary: Summary, theme: Theme = LIGHT) -> Figure:
    """Return the figure of normalised scores over all tasks: interquartile mean and mean, with their intervals."""
    colour_of = colours(summary)
    figure = new_figure(theme, height=1.2 + 0.42 * len(summary.overall))
    for index, (name, title) in enumerate((("iqm", "interquartile mean"), ("mean", "mean"))):
        axes = figure.add_subplot(1, 2, index + 1)
        style(axes, theme, grid="x")
        for row, (label, scores) in enumerate(summary.overall.items()):
            score, colour = scores[name], colour_of[label]
            if score.low is not None and score.high is not None:
                axes.plot([score.low, score.high], [row, row], color=colour, linewidth=7, alpha=0.35, zorder=2)
            axes.plot(score.value, row, "o", color=colour, markersize=7, zorder=3)
        axes.set_yticks(
            range(len(summary.overall)), list(summary.overall) if index == 0 else [""] * len(summary.overall)
        )
        axes.set_ylim(len(summary.overall) - 0.5, -0.5)
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
        axes.set_title(f"normalised score, {title}", loc="left", color=theme.ink, fontsize=10)
    return figure


@dataclass(frozen=True, eq=False)
class Line:
    """What one kind of probe reads at several depths: ``depths`` (K,) and ``r`` (K, Q), NaN where there is none."""

    name: str
    depths: NDArray[np.int64]
    r: NDArray[np.float64]


def r_against_depth(task: str, lines: Sequence[Line], theme: Theme = LIGHT) -> Figure:
    """Return the figure of what is read off latents against how far ahead they were predicted.

    Thick lines are medians over quantities, bands the middle half of them; thin ones are single quantities, as the
    first kind of probe reads them.
    """
    figure = new_figure(theme)
    axes = figure.add_subplot()
    style(axes, theme, grid="y")
    ends: list[_End] = []
    for index, line in enumerate(lines):
        colour, known = COLOURS[index], line.r[:, np.isfinite(line.r).any(0)]
        if not known.size:
            continue
        if index == 0:
            axes.plot(line.depths, known, color=colour, linewidth=0.6, alpha=0.3)
        low, middle, high = np.nanpercentile(known, [25, 50, 75], axis=1)
        axes.fill_between(line.depths, low, high, color=colour, alpha=theme.band, linewidth=0)
        axes.plot(line.depths, middle, color=colour, linewidth=2.2, marker="o", markersize=4)
        ends.append(_End(line.name, colour, float(middle[-1])))
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.02)
    axes.set_xlim(left=0)
    _label_ends(axes, ends)
    axes.set_xlabel("model steps ahead, open loop")
    title = f"{task}  ·  r of what probes read, median and middle half of all quantities"
    axes.set_title(title, loc="left", color=theme.ink, fontsize=11, pad=12)
    return figure


def to_png(figure: Figure) -> bytes:
    """Return the figure as PNG, at twice the usual density for sharp screens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = BytesIO()
    FigureCanvasAgg(figure)  # the figure draws itself on the canvas that was attached to it last
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor())
    return buffer.getvalue()


@dataclass(frozen=True)
class _Axis:
    """Attribute ``of`` of runs drawn against attribute ``attribute``, in units of ``unit``."""

    attribute: str
    label: str
    title: str
    unit: float = 1.0
    of: str = "returns"


@dataclass(frozen=True)
class _End:
    """The end of a line, which carries its name."""

    name: str
    colour: str
    value: float


def _curves(task: TaskSummary, colour_of: dict[str, str], axis: _Axis, theme: Theme) -> Figure:
    figure = new_figure(theme)
    axes = figure.add_subplot()
    style(axes, theme, grid="y")
    ends: list[_End] = []
    judged = axis.of == "returns"
    for cell in task.cells:
        colour = colour_of[cell.label]
        curve = cell.curve(axis.attribute, axis.of)
        if curve is None:
            continue
        actor = cell.curve(axis.attribute, of="policy_returns") if judged else None
        if actor is not None:
            value = _draw(axes, actor, axis.unit, colour, theme, "--", band=False)
            ends.append(_End(f"{cell.label}, bare actor", colour, value))
        value = _draw(axes, curve, axis.unit, colour, theme, "-" if cell.finished else ":")
        ends.append(_End(_named(cell, curve), colour, value))
    if judged and task.random_return is not None:
        axes.axhline(task.random_return, color=theme.ink, alpha=0.45, linewidth=1, linestyle=(0, (1, 3)))
        ends.append(_End("acting at random", theme.ink, task.random_return))
    if judged and axis.attribute == "steps":
        ends += _published(axes, task, theme)
    if not judged:
        axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    _label_ends(axes, ends)
    axes.set_xlabel(axis.label)
    axes.set_title(f"{task.task}  ·  {axis.title}", loc="left", color=theme.ink, fontsize=11, pad=12)
    axes.xaxis.set_major_formatter(lambda value, _: _thousands(value))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 10 or value == 0 else f"{value:g}")
    return figure


def _draw(axes: Axes, curve: Curve, unit: float, colour: str, theme: Theme, style: str, band: bool = True) -> float:
    """Draw one curve and return the value at its end."""
    positions, values = curve.positions / unit, [point.value for point in curve.points]
    width, marker = (1.3 if style == "--" else 2.2), ("o" if len(values) == 1 else None)
    axes.plot(positions, values, color=colour, linewidth=width, linestyle=style, marker=marker)
    low, high = [point.low for point in curve.points], [point.high for point in curve.points]
    if band and all(value is not None for value in (*low, *high)):
        edges: dict[str, Any] = {"color": colour, "alpha": theme.band, "linewidth": 0}
        axes.fill_between(positions, np.array(low, float), np.array(high, float), **edges)
    return values[-1]


def _published(axes: Axes, task: TaskSummary, theme: Theme) -> list[_End]:
    """Draw what others have published about ``task``, as far as the runs go, and return the ends."""
    ends = []
    for one in task.published:
        if curve := one.curve(task.task, task.horizon or 0):
            faint: dict[str, Any] = {"color": theme.ink, "alpha": 0.6, "markersize": 5, "linewidth": 0.8}
            axes.plot(list(curve), list(curve.values()), "x", linestyle=(0, (1, 2)), **faint)
            ends.append(_End(one.label, theme.ink, list(curve.values())[-1]))
    return ends


def _label_ends(axes: Axes, ends: Sequence[_End]) -> None:
    """Write each line's name beside its end, moved up or down as little as keeps the names apart."""
    low, high = axes.get_ylim()
    ends = sorted(ends, key=lambda end: end.value)
    heights = np.array([(end.value - low) / (high - low) for end in ends])
    for _ in range(100):
        for index in range(len(heights) - 1):
            overlap = _LABEL_HEIGHT - (heights[index + 1] - heights[index])
            if overlap > 0:
                heights[index : index + 2] += (-overlap / 2, overlap / 2)
    for end, height in zip(ends, heights, strict=True):
        axes.annotate(end.name, (1.015, height), xycoords="axes fraction", color=end.colour, va="center", fontsize=9.5)


def _named(cell: Cell, curve: Curve) -> str:
    value = f"  {number(curve.points[-1].value)}"
    if not cell.finished:
        return f"{_shortened(cell.name)}{value}"
    seeds = len(cell.counted)
    return f"{_shortened(cell.label)}{value}  ({seeds} seed{'s' if seeds > 1 else ', no interval'})"


def _shortened(name: str) -> str:
    """Return a name that leaves room for curves beside it, by its two ends where it is long."""
    return name if len(name) <= _LABEL_LETTERS else f"{name[: _LABEL_LETTERS // 2]}…{name[-_LABEL_LETTERS // 2 + 1 :]}"


def new_figure(theme: Theme, height: float = 4.0) -> Figure:
    """Return an empty figure as wide as all others."""
    from matplotlib.figure import Figure

    return Figure(figsize=(8.4, height), dpi=160, facecolor=theme.ground, layout="constrained")


def style(axes: Axes, theme: Theme, grid: Literal["x", "y"]) -> None:
    """Give axes the look of all others, with grid lines across the axis ``grid``."""
    axes.set_facecolor(theme.ground)
    axes.grid(axis=grid, color=theme.faint, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.faint)
    axes.tick_params(colors=theme.ink, length=0, labelsize=9)
    axes.xaxis.label.set_color(theme.ink)
    axes.xaxis.label.set_fontsize(9.5)


def _thousands(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"
