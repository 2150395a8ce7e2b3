"""Planner: the base class, the settings that all planners share, and the registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from ..core.errors import SettingsError, UnsupportedSpaceError, did_you_mean
from ..core.registry import Registry
from ..core.settings import Range, Settings, check_names, check_value, field_names, whole_range
from .noise import draw_noise
from .search import Objective, Search
from .spec import ActionSpec
from .state import Plan, PlanState, Seeds, as_seeds

PlannerType = TypeVar("PlannerType", bound="type[Planner]")

MOST_CANDIDATES, MOST_STEPS = 1_000_000, 1000
Size = Annotated[int, Range(ge=1, le=MOST_CANDIDATES)]
"""A number of candidates, or of whatever multiplies them."""

_REGISTRY: Registry[type[Planner]] = Registry("planner", room="forethought.planners")


class PlannerSettings(Settings):
    """Base of the settings of a planner: a frozen dataclass whose defaults are the ``cpu`` preset.

    Attributes:
        presets: for each preset, the settings in which it differs from the defaults.
        sizes: the settings that a budget is fitted with, where there are such: the first as large as it allows, then
            the next.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {"cpu": {}, "gpu": {}}
    sizes: ClassVar[tuple[str, ...]] = ("samples", "iterations")

    @property
    def budget(self) -> int:
        """Candidates evaluated per problem and plan: warm start, proposals and final evaluation included."""
        raise NotImplementedError

    @property
    def gradients(self) -> int:
        """How many of them are differentiated as well."""
        return 0

    @property
    def effort(self) -> int:
        """The number at which planners are compared: budget + 2 x gradients, a backward pass costing two forward."""
        return self.budget + 2 * self.gradients

    @property
    def max_proposals(self) -> int:
        """The most proposals that a plan takes."""
        raise NotImplementedError

    def proportions(self, effort: int) -> dict[str, Any]:
        """Return the settings that a sensible use of ``effort`` has, apart from the one that fills it."""
        return {}

    def fit(self, effort: int, fixed: Collection[str] = ()) -> Self:
        """Return the settings scaled to use ``effort``, but never more.

        Args:
            effort: the largest budget + 2 x gradients.
            fixed: names of settings that must stay as they are.

        Raises:
            SettingsError: no choice of the others fits; says how much is needed.
        """
        wanted = {name: value for name, value in self.proportions(effort).items() if name not in fixed}
        fitted = self.replace(**wanted)
        for name in self.sizes:
            if name in field_names(type(self)) and name not in fixed:
                fitted = fitted._largest(name, effort)
        if fitted.effort > effort:
            raise SettingsError(
                f"{type(self).__name__} cannot plan with budget {effort}: with the other settings as they are, "
                f"budget + 2 x gradients is at least {fitted.effort}."
            )
        return fitted

    def _largest(self, name: str, effort: int) -> Self:
        """Return the settings with the largest ``name`` that fits, or the smallest possible if none does."""
        low, high = whole_range(type(self), name)
        high = max(low, min(high, effort))
        while low < high:
            middle = (low + high + 1) // 2
            if self.replace(**{name: middle}).effort <= effort:
                low = middle
            else:
                high = middle - 1
        return self.replace(**{name: low})


@dataclass(frozen=True)
class PopulationSettings(PlannerSettings):
    """Settings of planners that evaluate a population of candidates again and again, and at last its centre."""

    samples: Size = 64
    """Candidates per iteration, the centre among them."""
    iterations: Size = 5
    """How often the population is drawn anew."""

    @property
    def budget(self) -> int:
        """All iterations, and the last centre."""
        return self.samples * self.iterations + 1

    @property
    def max_proposals(self) -> int:
        """All samples of the first iteration but the warm start."""
        return self.samples - 1

    def proportions(self, effort: int) -> dict[str, Any]:
        """Ten times as many samples as iterations: 300 x 30 at 9,000, 60 x 5 at 300."""
        return {"iterations": max(1, round((effort / 10) ** 0.5))}


class Planner(ABC):
    """Searches action sequences of low cost for B problems at once, by one method.

    A planner is a pure function of objective, state and proposals: it holds nothing but its settings, draws from no
    global generator, and never waits for the device. Subclasses name their ``Settings`` and write :meth:`search`;
    everything promised of all planners is kept here and in :class:`Search`.

    Args:
        spec: the actions of a planned step.
        horizon: planned steps H.
        settings: an instance of the class's ``Settings``; its defaults if left out.
    """

    Settings: ClassVar[type[PlannerSettings]]
    searches: ClassVar[bool] = True
    """Whether it evaluates the warm start, and so is never worse; otherwise it only compares proposals."""

    def __init__(self, spec: ActionSpec, horizon: int, settings: PlannerSettings | None = None) -> None:
        check_value("horizon", horizon, Annotated[int, Range(ge=1, le=MOST_STEPS)])
        if not self.supports(spec):
            kind = "categorical" if spec.discrete else "continuous"
            raise UnsupportedSpaceError(
                f"{type(self).__name__} does not plan {kind} actions. "
                f"These planners do: {', '.join(available_planners(spec))}."
            )
        self.spec = spec
        self.horizon = horizon
        self.settings: Any = settings if settings is not None else self.Settings()
        if self.settings.effort > MOST_CANDIDATES:
            sizes = ", ".join(name for name in self.settings.sizes if hasattr(self.settings, name))
            raise SettingsError(
                f"{type(self.settings).__name__}: a plan would take {self.settings.effort:,} candidates, and "
                f"{MOST_CANDIDATES:,} are the most. Lower {sizes}, or give a budget."
            )

    @classmethod
    def supports(cls, spec: ActionSpec) -> bool:
        """Whether it can plan the actions of ``spec``; continuous ones, unless a subclass says otherwise."""
        return not spec.discrete

    @property
    def carried(self) -> int:
        """How many elites K are carried from one plan to the next."""
        return 0

    @property
    def budget(self) -> int:
        """Candidates evaluated per problem and plan, warm start, proposals and final evaluation included."""
        return int(self.settings.budget)

    @property
    def gradients(self) -> int:
        """How many of them are differentiated."""
        return int(self.settings.gradients)

    @property
    def compares(self) -> bool:
        """Whether it chooses between plans at all, by what they cost."""
        return self.searches or self.max_proposals > 1

    @property
    def max_proposals(self) -> int:
        """The most proposals per problem that :meth:`plan` takes."""
        return int(self.settings.max_proposals)

    def initial_state(self, seeds: Seeds) -> PlanState:
        """Return the state of problems that have not been planned yet.

        Args:
            seeds: one integer for one problem, or (B,) for B of them.
        """
        seeds = as_seeds(seeds)
        rest = self.spec.rest
        elites = rest.new_full((len(seeds), self.carried, self.horizon, self.spec.dims), torch.nan)
        actions = rest.expand(len(seeds), self.horizon, -1).clone()
        return PlanState(actions, elites, rest, seeds, (0,) * len(seeds))

    def plan(
        self, objective: Objective, state: PlanState, proposals: Tensor | None = None, trace: bool = False
    ) -> Plan:
        """Search for the action sequences of lowest cost.

        Args:
            objective: maps candidates (B, N, H, A) to costs (B, N).
            state: from :meth:`initial_state`, or the last plan's, shifted by the steps executed since.
            proposals: (B, P, H, A) further candidates, evaluated first, as the nearest valid actions; P is at most
                :attr:`max_proposals`.
            trace: record how the search goes.

        Returns:
            The plan, never worse than the best proposal or, where the planner :attr:`searches`, the warm start.

        Raises:
            SettingsError: a state or proposals of another shape than this planner's.
            ObjectiveError: costs of the wrong shape, or not differentiable where the planner needs gradients.
        """
        self._check(state, proposals)
        with torch.no_grad():
            search = Search(self.spec, objective, state, proposals, trace)
            elites = self.search(search)
            return search.finish(elites)

    @abstractmethod
    def search(self, search: Search) -> Tensor | None:
        """Evaluate candidates through ``search``; return the elites (B, K, H, A), in units, to carry on, if any."""

    def noise(self, state: PlanState, count: int, colour: float = 0.0) -> Tensor:
        """Return this plan's ``count`` noise sequences (B, count, H, A); for categories, (B, count, H, G)."""
        width = len(self.spec.groups) or self.spec.dims
        return draw_noise(state.seeds, state.ticks, (count, self.horizon, width), self.spec.device, colour)

    def _check(self, state: PlanState, proposals: Tensor | None) -> None:
        if not isinstance(state, PlanState):
            raise SettingsError(
                f"The state is {type(state).__name__}, and has to come from this planner's initial_state or last plan."
            )
        batch, size = len(state), (self.horizon, self.spec.dims)
        if state.actions.shape != (batch, *size) or state.elites.shape != (batch, self.carried, *size):
            raise SettingsError(
                f"The state belongs to another planner: its warm start has shape {tuple(state.actions.shape)} and its "
                f"elites {tuple(state.elites.shape)}, where this planner has (H, A) = {size} and carries "
                f"{self.carried} elites. Begin with this planner's initial_state."
            )
        if proposals is None:
            return
        if proposals.dim() != 4 or proposals.shape[0] != batch or proposals.shape[2:] != size:
            raise SettingsError(
                f"proposals must have shape (B, P, H, A) = ({batch}, P, {size[0]}, {size[1]}), "
                f"not {tuple(proposals.shape)}."
            )
        if proposals.shape[1] > self.max_proposals:
            raise SettingsError(
                f"{proposals.shape[1]} proposals do not fit: {type(self).__name__} with these settings takes at most "
                f"{self.max_proposals}."
            )


def register_planner(name: str, summary: str = "") -> Callable[[PlannerType], PlannerType]:
    """Return a class decorator that makes a :class:`Planner` available under ``name``."""

    def enter(planner: PlannerType) -> PlannerType:
        _REGISTRY.register(name, summary)(planner)
        return planner

    return enter


def available_planners(spec: ActionSpec | None = None) -> list[str]:
    """Return the names of all planners, or of those that can plan the actions of ``spec``."""
    return [name for name, planner in _REGISTRY.items() if spec is None or planner.supports(spec)]


def planner_class(name: str) -> type[Planner]:
    """Return the class registered under ``name``; an unknown one fails naming the closest."""
    return _REGISTRY.get(name)


def planner_summary(name: str) -> str:
    """Return one line on the planner ``name``."""
    return _REGISTRY.summary(name)


def make_planner(
    name: str,
    spec: ActionSpec,
    horizon: int,
    *,
    preset: str = "cpu",
    budget: int | None = None,
    **settings: Any,
) -> Planner:
    """Build a planner by name.

    Args:
        name: one of :func:`available_planners`.
        spec: the actions of a planned step.
        horizon: planned steps H.
        preset: the settings to start from: ``"cpu"`` or ``"gpu"``.
        budget: the most that a plan may cost, in candidates evaluated + 2 x candidates differentiated; the preset is
            scaled to use it.
        **settings: single settings, which override preset and budget.

    Raises:
        UnknownNameError: no planner of that name.
        SettingsError: an unknown preset or setting, one out of range, or a budget that is too small.
        UnsupportedSpaceError: the planner does not plan such actions.
    """
    if not isinstance(spec, ActionSpec):
        raise SettingsError(f"Planners plan for an ActionSpec, not {type(spec).__name__}: see ActionSpec.from_space.")
    planner = planner_class(name)
    presets = planner.Settings.presets
    if check_value("preset", preset, str) not in presets:
        raise SettingsError(f"Unknown preset {preset!r} of the planner {name!r}.{did_you_mean(preset, presets)}")
    check_names(planner.Settings, settings)
    chosen = planner.Settings.from_dict({**presets[preset], **settings})
    if budget is not None:
        chosen = chosen.fit(check_value("budget", budget, Size), fixed=frozenset(settings))
    return planner(spec, horizon, chosen)
