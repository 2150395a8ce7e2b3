"""The networks of a JEPA agent, as they are before anything is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..world_model import JEPA
from .behaviour import Behaviour

if TYPE_CHECKING:
    from .jepa_agent import JEPAAgent


def make_networks(agent: JEPAAgent) -> tuple[JEPA, Behaviour]:
    """Return a world model and a behaviour on the agent's device, always with the same weights."""
    s, spec = agent.settings, agent.spec
    # Weights are initialised from torch's global generator: fork it, so that neither side disturbs the other.
    with torch.random.fork_rng(devices=[]):  # the host's generator only
        torch.default_generator.manual_seed(agent.stream("weights"))
        model = agent.Model(agent.observation_codec.shape, spec.dims, s.model).to(agent.device)
        behaviour = Behaviour(
            s.model.latent_dims, spec.dims, spec.groups, s.behaviour, s.compute, agent.stream("behaviour")
        ).to(agent.device)
    return model, behaviour
