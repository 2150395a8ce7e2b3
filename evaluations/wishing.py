"""evaluate_wish: whether those who were asked for something bring it about, told by the simulator, not by a probe."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..agents.wish import Term, Wish
from ..core.errors import EnvironmentFault
from ..core.files import write_json
from ..core.provenance import describe_process
from ..core.quantity import Quantity
from ..envs import make_env
from ..envs.quantities import Quantities, wrapped
from ..envs.states import state_of
from ..planners import Planner
from .evaluate import Evaluation, evaluate
from .settings import command_line
from .statistics import Estimate, estimate, estimate_direction, mean, mean_direction, number
from .tables import Table

SETTLED = 0.5
"""Share of an episode, the last part, in which a wish is to be fulfilled; before, there is time to get there."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fulfilment:
    """How one quantity stood in the settled part of episodes, beside what was asked of it.

    Attributes:
        term: what was asked.
        quantity: with its unit.
        value: the mean; nothing where no episode was sound.
        missed: by how much target or bound was missed on average; nothing for the largest and smallest, too.
    """

    term: Term
    quantity: Quantity
    value: Estimate | None
    missed: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        value, missed = (None if one is None else one.to_dict() for one in (self.value, self.missed))
        return {"term": str(self.term), "unit": self.quantity.unit, "value": value, "missed": missed}


@dataclass(frozen=True, eq=False)
class WishRow:
    """What one way of acting brought.

    Attributes:
        name: of the way.
        fulfilments: what became of each quantity.
        evaluation: of the episodes.
        planning: the planner's settings, as plain data; nothing for what does not plan.
    """

    name: str
    fulfilments: Sequence[Fulfilment]
    evaluation: Evaluation
    planning: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        terms = [fulfilment.to_dict() for fulfilment in self.fulfilments]
        planning = None if self.planning is None else dict(self.planning)
        return {"name": self.name, "planning": planning, "terms": terms, "evaluation": self.evaluation.to_dict()}

    def __str__(self) -> str:
        found = [f"{one.quantity.name} {one.value or 'unknown'}" for one in self.fulfilments]
        return ", ".join([*found, f"return {self.evaluation.interval() or 'unknown'}"])


@dataclass(frozen=True, eq=False)
class WishTable:
    """What :func:`evaluate_wish` found.

    Attributes:
        task: where the episodes were played.
        wish: what was asked.
        rows: one per way of acting.
        episodes, seed: which held-out episodes.
        limits: of the actions, as they were given; nothing for none.
    """

    task: str
    wish: Wish
    rows: Sequence[WishRow]
    episodes: int
    seed: int
    limits: str = ""

    def table(self) -> Table:
        """Return the figures as text."""
        heads = []
        for one, fresh in _columns(self.rows[0]):
            heads += [f"{one.quantity}"] if fresh else []
            heads += [] if one.term.value is None else [f"missed {one.term.value:g} by"]
        within = f", within {self.limits}" if self.limits else ""
        return Table(
            ("acting", *heads, "return", "ms/decision"),
            [_cells(row) for row in self.rows],
            title=f"{self.task}: {self.wish}{within}",
            notes=(
                f"Mean over the last half of the same {self.episodes} held-out episodes (seed {self.seed}) with 95 % "
                "bootstrap intervals, of the simulator's own quantities. Nothing was trained for it.",
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        asked = {"task": self.task, "wish": str(self.wish), "limits": self.limits}
        which = {"episodes": self.episodes, "seed": self.seed}
        return {**asked, **which, "rows": [row.to_dict() for row in self.rows], "table": self.table().to_dict()}

    def save(self, folder: str | Path) -> Path:
        """Write :meth:`to_dict`, with command and versions, as JSON named after task and wish; return the file."""
        said = re.sub(r"[^\w.=<>+-]+", "_", f"{self.task}_{self.wish}{'_' if self.limits else ''}{self.limits}")
        path = Path(folder) / f"{said.replace('>=', '-from-').replace('<=', '-to-').replace('=', '-')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.to_dict() | {"command": command_line(), "process": describe_process()})
        return path


class _Watched(gym.Wrapper[Any, Any, Any, Any]):
    """Remembers the true states of each episode, by the seed of its reset."""

    def __init__(self, env: gym.Env[Any, Any], told: dict[int, list[Array]]) -> None:
        super().__init__(env)
        self._told, self._states = told, list[Array]()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        result = self.env.reset(seed=seed, options=options)
        assert seed is not None
        self._states = self._told[seed] = []
        self._look()
        return result

    def step(self, action: Any) -> Any:
        """Take a step."""
        result = self.env.step(action)
        self._look()
        return result

    def _look(self) -> None:
        state = state_of(self.env)
        if state is not None:
            self._states.append(state)


def evaluate_wish(
    acting: Mapping[str, Any],
    task: str,
    wish: Wish,
    episodes: int = 10,
    seed: int = 0,
    *,
    limits: str = "",
    env: Mapping[str, Any] | None = None,
    on_row: Callable[[WishRow], None] | None = None,
    video: Path | None = None,
    **options: Any,
) -> WishTable:
    """Let each of several ways of acting try to fulfil a wish in the same held-out episodes.

    Args:
        acting: by name, whatever has ``predict``; see :func:`~.evaluate.evaluate`.
        task: by name.
        wish: what is measured.
        episodes: number of held-out episodes.
        seed: names the set of held-out episodes.
        limits: of the actions, in words, for the table.
        env: arguments of the environment.
        on_row: called with each row as it is known.
        video: file to which the first episode of each is recorded, its name added to the stem where there are several.
        options: passed on to :func:`~.evaluate.evaluate`.

    Raises:
        UnknownNameError: a quantity that the task does not have.
        EnvironmentFault: the task has no quantities, or does not tell its state.
    """
    arguments = dict(env or {})
    measured = make_env(task, **arguments)
    try:
        quantities = Quantities(measured) if wish.quantities else None
        if quantities is not None:
            quantities.select(wish.quantities)
        rows = []
        for name, agent in acting.items():
            told: dict[int, list[Array]] = {}

            def make(render_mode: str | None = None, told: dict[int, list[Array]] = told) -> gym.Env[Any, Any]:
                return _Watched(make_env(task, render_mode, **arguments), told)

            film = video
            if video is not None and len(acting) > 1:
                film = video.with_stem(f"{video.stem}-{re.sub('[^a-z0-9_]+', '-', name.lower())}")
            found = evaluate(agent, make, episodes, seed, video=film, **options)
            row = WishRow(name, _fulfilments(wish, quantities, found, told), found, _planning(agent))
            rows.append(row)
            if on_row is not None:
                on_row(row)
    finally:
        measured.close()
    return WishTable(task, wish, rows, episodes, seed, limits)


def _planning(agent: Any) -> dict[str, Any] | None:
    """Return the settings of the planner by which an agent acts, if it does by one."""
    planner = getattr(agent, "planner", None)
    if not isinstance(planner, Planner):
        return None
    return {"planner": type(planner).__name__, "horizon": planner.horizon, **planner.settings.to_dict()}


def _fulfilments(
    wish: Wish, quantities: Quantities | None, found: Evaluation, told: Mapping[int, Sequence[Array]]
) -> list[Fulfilment]:
    """Return what became of each term about a quantity, in the episodes that were sound."""
    if quantities is None:
        return []
    settled = []
    for seed in found.seeds[~found.faulty].tolist():
        states = told[seed]
        if not states:
            raise EnvironmentFault("The environment does not tell its state, so that nothing can be measured in it.")
        settled.append(quantities.of_states(np.stack(states[int(SETTLED * len(states)) :])))
    fulfilments = []
    for term in wish.terms:
        if not term.is_quantity:
            continue
        index = quantities.index(term.name)
        angle = quantities.all[index].angle
        values = [mean_direction(part[:, index]) if angle else float(part[:, index].mean()) for part in settled]
        away = [None if term.value is None else _missed(term, part[:, index], angle) for part in settled]
        missed = [part for part in away if part is not None]
        fulfilments.append(
            Fulfilment(
                term,
                quantities.all[index],
                (estimate_direction(values) if angle else estimate([values], mean)) if values else None,
                estimate([np.array(missed)], mean) if missed else None,
            )
        )
    return fulfilments


def _missed(term: Term, values: Array, angle: bool) -> float:
    assert term.value is not None
    away = wrapped(values - term.value) if angle else values - term.value
    if term.form == "at_least":
        away = np.minimum(away, 0)
    elif term.form == "at_most":
        away = np.maximum(away, 0)
    return float(np.abs(away).mean())


def _columns(row: WishRow) -> Iterator[tuple[Fulfilment, bool]]:
    """Yield what became of each term, and whether its quantity has not been told of yet."""
    told: set[str] = set()
    for one in row.fulfilments:
        yield one, one.quantity.name not in told
        told.add(one.quantity.name)


def _cells(row: WishRow) -> tuple[str, ...]:
    cells = []
    for one, fresh in _columns(row):
        cells += [str(one.value or "unknown")] if fresh else []
        cells += [] if one.term.value is None else [str(one.missed or "unknown")]
    faults = f", {row.evaluation.faults} cut" if row.evaluation.faults else ""
    return (row.name, *cells, f"{row.evaluation.interval() or 'unknown'}{faults}", number(row.evaluation.decision_ms))
