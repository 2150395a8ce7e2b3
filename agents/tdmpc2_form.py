"""The JEPA agent in TD-MPC2's form, for comparisons in which nothing but that form differs.

Its latents are simplicial, a copy of the encoder that follows now and then gives the targets of the prediction, nothing
is regularized, and it plans by MPPI. Encoder, predictor, heads, actor, critic and their learning are those of the JEPA
agent, so that this is not TD-MPC2 itself.

Source: TD-MPC2 (arXiv 2310.16828) for simplicial latents and planning by MPPI.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import gymnasium as gym

from ..world_model import JEPASettings
from .jepa_agent import JEPAAgent
from .registry import register_agent
from .settings import JEPAAgentSettings, PlanningSettings


def _model() -> JEPASettings:
    return JEPASettings(latent_form="simplicial", regularize="nothing", target="copy")


def _planning() -> PlanningSettings:
    return PlanningSettings(planner="mppi")


@dataclass(frozen=True)
class TDMPC2FormSettings(JEPAAgentSettings):
    """Settings of a :class:`TDMPC2FormAgent`: those of the JEPA agent, with other defaults of model and planning."""

    model: JEPASettings = field(default_factory=_model)
    """The world model; where observations are images and it has no vision, it is given one that fits them."""
    planning: PlanningSettings = field(default_factory=_planning)
    """Full effort: how predict acts, and evaluation with it."""


@register_agent("tdmpc2_form")
class TDMPC2FormAgent(JEPAAgent):
    """The JEPA agent in TD-MPC2's form: simplicial latents, a copy that gives targets, MPPI; continuous actions."""

    Settings = TDMPC2FormSettings
    acts_in = (gym.spaces.Box,)  # of what MPPI plans
