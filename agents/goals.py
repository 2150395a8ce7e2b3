"""Planning to goals: a world model, a planner, and what is to be seen in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import SettingsError
from ..core.settings import Range, Settings
from ..envs import ActionCodec, ObservationCodec
from ..planners import ActionSpec, make_planner
from ..world_model import JEPA
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
    budget: Annotated[int, Range(ge=1)] | None = 900
    """Evaluations + 2 x gradients that a plan may take."""
    horizon: Annotated[int, Range(ge=1, le=1000)] = 5
    """Planned model steps."""
    execute: Annotated[int, Range(ge=1, le=1000)] = 1
    """Model steps of a plan that are executed before planning anew."""
    form: GoalForm = "last"
    """Which distance to the goal counts: last, sum or best; see :class:`GoalObjective`."""


class GoalPolicy(PlanningPolicy):
    """Acts towards goals, each given as an observation.

    Args:
        model: a world model.
        observation_space, action_space: native, of the environment.
        settings: see :class:`GoalPlanningSettings`.
        own: settings of the planner itself.
        seed: of predictions that are begun without seeds.
        distance: latents (..., D) and goals (..., D) to distances (...), if not the squared Euclidean one.

    Raises:
        SettingsError: the model was made for other observations or actions.
    """

    def __init__(
        self,
        model: JEPA,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        settings: GoalPlanningSettings | None = None,
        own: Mapping[str, Any] | None = None,
        seed: int = 0,
        distance: Callable[[Tensor, Tensor], Tensor] | None = None,
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
        spec = ActionSpec.from_space(actions.planning_space, block=block).to(model.device)
        planner = make_planner(s.planner, spec, s.horizon, preset=s.preset, budget=s.budget, **(own or {}))
        objective = partial(GoalObjective, model, form=s.form, distance=distance)
        super().__init__(Controller(model, planner, objective, execute=s.execute), observations, actions, seed, 0.0)

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
