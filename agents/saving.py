"""What a JEPA agent writes into files, and reads back from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch

from ..core.checkpoints import Checkpoint
from ..core.errors import CheckpointError
from ..core.files import Archive
from ..core.settings import Settings, completed
from ..core.trees import flatten_tree, unflatten_tree
from ..envs.space_documents import describe_space, restore_space
from .trials import AgentState

if TYPE_CHECKING:
    from .jepa_agent import JEPAAgent
    from .online import OnlineTraining

KIND = "jepa-agent"


@dataclass(frozen=True)
class SavedAgent:
    """What a file says of the agent to be built, before its weights are restored.

    Attributes:
        spaces: native ones, of observations and actions.
        seed: of every random stream.
        settings: those of :class:`~forethought.agents.JEPAAgentSettings`, as plain data.
        recordings: the identity of those that it learned from, if any; see :mod:`.recordings`.
    """

    spaces: tuple[gym.Space[Any], gym.Space[Any]]
    seed: int
    settings: dict[str, Any]
    recordings: dict[str, Any] | None


def read_agent(archive: Archive, known: type[Settings]) -> SavedAgent:
    """Return what ``archive`` says of its agent, whose settings are ``known``.

    Raises:
        CheckpointError: it holds none, or lacks something.
    """
    document = archive.documents.get("agent")
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise CheckpointError(f"{archive.path} does not hold a JEPA agent.")
    try:
        spaces = restore_space(document["observation_space"]), restore_space(document["action_space"])
        recordings = document.get("recordings")
        if recordings is not None:
            folder = None if recordings["folder"] is None else str(recordings["folder"])
            numbers = {"rows": int(recordings["rows"]), "fingerprint": str(recordings["fingerprint"])}
            recordings = {"folder": folder, **numbers}
        return SavedAgent(spaces, int(document["seed"]), completed(known, dict(document["settings"])), recordings)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{archive.path} does not fit a JEPA agent: {error!r}.") from error


def parts(agent: JEPAAgent) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """Return the documents and tensors, by part, from which :func:`restore_parts` continues."""
    learner, learner_tensors = flatten_tree(agent.learner.optimization.state())
    behaviour, behaviour_tensors = flatten_tree(agent.behaviour.optimization.state())
    document = {
        "kind": KIND,
        "settings": agent.settings.to_dict(),
        "observation_space": describe_space(agent.observation_space),
        "action_space": describe_space(agent.action_space),
        "seed": agent.seed,
        "num_timesteps": agent.num_timesteps,
    }
    if agent.learned_from is not None:
        document["recordings"] = agent.learned_from
    proven: dict[str, dict[str, torch.Tensor]] = {}
    if agent.proven is not None:
        document["proven"] = flatten_tree([agent.proven.worst_return, agent.proven.step])[0]
        proven = agent.proven.tensors()
    return {"agent": document, "learner": learner, "behaviour_learner": behaviour}, proven | {
        "model": agent.model.state_dict(),
        "behaviour": agent.behaviour.state_dict(),
        "learner": learner_tensors,
        "behaviour_learner": behaviour_tensors,
    }


def restore_parts(
    agent: JEPAAgent, documents: Mapping[str, Any], tensors: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Continue from the output of :func:`parts`.

    Raises:
        CheckpointError: it does not fit the agent.
    """
    try:
        agent.model.load_state_dict(dict(tensors["model"]))
        agent.behaviour.load_state_dict(dict(tensors["behaviour"]))
        agent.learner.optimization.load_state(unflatten_tree(documents["learner"], dict(tensors["learner"])))
        behaviour = unflatten_tree(documents["behaviour_learner"], dict(tensors["behaviour_learner"]))
        agent.behaviour.optimization.load_state(behaviour)
        agent.num_timesteps = int(documents["agent"]["num_timesteps"])
        state = None
        if "proven" in documents["agent"]:
            worst_return, step = unflatten_tree(documents["agent"]["proven"], {})
            state = AgentState(agent)
            parts = {name: dict(tensors[name]) for name in ("proven_model", "proven_behaviour")}
            state.load(parts, float(worst_return), int(step))
        agent.prove(state)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"The file does not fit this agent: {error}.") from error


def checkpoint_of(agent: JEPAAgent, training: OnlineTraining, saved_rows: int) -> Checkpoint:
    """Return a copy of all that continues ``training``, with the rows of experience that came after ``saved_rows``."""
    documents, tensors = parts(agent)
    documents["training"], tensors["training"] = flatten_tree(training.state())
    snapshot = {group: {name: value.clone() for name, value in part.items()} for group, part in tensors.items()}
    return Checkpoint(documents, snapshot, training.segments(saved_rows))


def restore_checkpoint(agent: JEPAAgent, training: OnlineTraining, checkpoint: Checkpoint) -> bool:
    """Continue from :func:`checkpoint_of`'s output; return whether the open episodes were restored exactly.

    Raises:
        CheckpointError: it does not fit the agent.
    """
    restore_parts(agent, checkpoint.documents, checkpoint.tensors)
    try:
        state = unflatten_tree(checkpoint.documents["training"], checkpoint.tensors["training"])
        return training.load_state(state, checkpoint.segments)
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"The checkpoint does not fit this agent: {error!r}.") from error
