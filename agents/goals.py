"""Planning to goals: a world model, a planner, and what is to be seen in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import SettingsError
from ..core.settings import Range, Settings
from ..envs import ActionCodec, ObservationCodec
from ..planners import ActionSpec, make_planner
from ..world_model import JEPA, ActionEncoder, Precision
from .controller import Controller, ControllerState
from .objective import GoalForm, GoalObjective
from .policy import PlanningPolicy


@dataclass(frozen=True)
class GoalPlanningSettings(Settings):
    """How plans to a goal are searched and executed."""

    planner: str = "cem"
    """Planner by name."""
    preset: str = "cpu"
    """Preset of the planner's settings."""
    budget: Annotated[int, Range(ge=1)] | None = 300
    """Evaluations + 2 x gradients that a plan may take."""
    horizon: Annotated[int, Range(ge=1, le=1000)] = 5
    """Planned model steps."""
    execute: Annotated[int, Range(ge=1, le=1000)] = 1
    """Model steps of a plan that are executed before planning anew."""
    form: GoalForm = "sum"
    """Which distance to the goal counts: last, sum or best; see :class:`GoalObjective`. Whoever plans anew before a
    plan has ended should hurry: with the last one alone, arriving can be put off again and again."""
    distance: Literal["latent", "time"] = "latent"
    """What is between latents: their squared Euclidean distance, or the steps that were learned to lie between them."""
    precision: Precision = "fp32"
    """Arithmetic of the world model's predictions; bf16 is faster where the machine has units for it, and auto takes it
    there."""
    bounded: bool = True
    """Whether plans stay within the action space. Otherwise only what is executed is clipped to it, candidates are
    spread as the recorded actions are, and the model is asked of actions that it has never seen."""


GOAL_PRESETS = {
    "closed-loop": GoalPlanningSettings(),
    "lewm-paper": GoalPlanningSettings(preset="lewm-paper", budget=None, execute=5, form="last", bounded=False),
}
"""By a name that can take a planner's place. closed-loop is the default: plans are made anew after every block, and
begin with what is left of the last one. lewm-paper is how LeWorldModel plans (arXiv 2603.19312): 9,000 candidates,
without bounds, the mean returned, and five blocks executed without looking."""


class GoalPolicy(PlanningPolicy):
    """Acts towards goals, each given as an observation.

    Args:
        model: a world model.
        observation_space, action_space: native, of the environment.
        settings: see :class:`GoalPlanningSettings`.
        own: settings of the planner itself.
        seed: of predictions that are begun without seeds.
        time_to_goal: latents (..., D) and goals (..., D) to steps (...), which ``distance="time"`` needs; a
            :class:`~forethought.world_model.Quasimetric` is such.

    Raises:
        SettingsError: the model was made for other observations or actions, or the time to goal is missing.
    """

    def __init__(
        self,
        model: JEPA,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        settings: GoalPlanningSettings | None = None,
        own: Mapping[str, Any] | None = None,
        seed: int = 0,
        time_to_goal: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        s = self.settings = settings or GoalPlanningSettings()
        observations, actions = ObservationCodec(observation_space), ActionCodec(action_space)
        block = model.settings.block
        if (observations.shape, actions.dims * block) != (tuple(model.observation_shape), model.action_dims):
            raise SettingsError(
                f"The world model takes observations of the shape {tuple(model.observation_shape)} and blocks of "
                f"{model.action_dims} action dimensions, and the environment has {observations.shape} and "
                f"{actions.dims * block}."
            )
        if s.distance == "time" and time_to_goal is None:
            raise SettingsError('distance="time" needs the time to goal, which "forethought time-to-goal RUN" learns.')
        possible = ActionSpec.from_space(actions.planning_space, block=block).to(model.device)
        spec = possible if s.bounded else _unbounded(possible, model)
        planner = make_planner(s.planner, spec, s.horizon, preset=s.preset, budget=s.budget, **(own or {}))
        distance = time_to_goal if s.distance == "time" else None
        objective = partial(GoalObjective, model, form=s.form, distance=distance, precision=s.precision)
        controller = Controller(model, planner, objective, execute=s.execute, possible=None if s.bounded else possible)
        super().__init__(controller, observations, actions, seed, 0.0)

    def initial_state(self, seeds: Sequence[int] | NDArray[np.int64], goals: Any | None = None) -> ControllerState:
        """Return the state of environments that begin an episode.

        Args:
            seeds: one for each of B environments.
            goals: a batch of B native observations of what is to be reached.

        Raises:
            SettingsError: without goals, or with more or fewer than seeds.
            EnvironmentFault: goals that are no observations of the environment.
        """
        if goals is None:
            raise SettingsError("Planning to goals needs them: initial_state(seeds, goals), with an observation each.")
        seen = self.observation_codec(goals)
        if len(seen) != len(seeds):
            raise SettingsError(f"There are {len(seeds)} seeds and {len(seen)} goals.")
        model = self.controller.model
        with torch.no_grad():
            latents = model.encode(torch.from_numpy(seen).to(model.device)).float()
        return self.controller.initial_state([int(seed) for seed in seeds], latents)


def _unbounded(spec: ActionSpec, model: JEPA) -> ActionSpec:
    """Return ``spec`` without its bounds, with the spread of the actions that the model has learned from.

    Raises:
        SettingsError: the actions are choices, or the model does not know their spread.
    """
    encoder = model.predictor.action_encoder
    if spec.discrete or not isinstance(encoder, ActionEncoder):
        raise SettingsError("Plans without bounds are for continuous actions, and models with a transformer predictor.")
    nowhere = torch.full_like(spec.low, torch.inf)
    return ActionSpec(-nowhere, nowhere, encoder.deviation, block=spec.block, space=spec.space)
