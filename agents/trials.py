"""Trials: whole episodes in which one state of an agent acts undisturbed, so that the best is known, and kept.

Where failing ends episodes, an actor that learns on comes and goes: what balances now may fall a thousand steps later,
and be back soon after. What it is worth while exploring does not tell, because disturbances end those episodes. So now
and then an episode belongs to a trial: a candidate, the agent as it was when the trial began, does in it what it would
do when it counts, and what happens is learned from. A candidate that does as well as the best so far, or better, is
tried again, and takes its place if that holds.

Source: the policy checkpoints of TD7 (arXiv 2306.02451), which are judged by their worst episode, too. There every
episode is one of a candidate's, disturbed, and learning waits for its end.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .networks import make_networks

if TYPE_CHECKING:
    from ..envs import Transition
    from .controller import ControllerState
    from .jepa_agent import JEPAAgent

EPISODES = 2
"""Episodes that a candidate is tried in before it counts as proven, by the lower of its returns."""


class AgentState:
    """World model, actor and critic of an agent as they were at one time, from which policies can be made.

    Args:
        agent: whose they are. What else policies ask of an agent is asked of it.

    Attributes:
        worst_return: the lowest return of the episodes that it was proven in; minus infinity if in none.
        step: at which of the agent's steps it was as it is here.
    """

    def __init__(self, agent: JEPAAgent) -> None:
        self.model, self.behaviour = make_networks(agent)
        self.settings, self.spec, self.seed = agent.settings, agent.spec, agent.seed
        self.observation_codec, self.action_codec = agent.observation_codec, agent.action_codec
        self.worst_return, self.step = -math.inf, 0

    def take(self, other: JEPAAgent | AgentState, step: int) -> None:
        """Become what ``other`` is now."""
        self.step = step
        self.model.load_state_dict(other.model.state_dict())
        self.behaviour.load_state_dict(other.behaviour.state_dict())

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return all weights and statistics by part."""
        return {"proven_model": self.model.state_dict(), "proven_behaviour": self.behaviour.state_dict()}

    def load(self, tensors: dict[str, dict[str, Tensor]], worst_return: float, step: int) -> None:
        """Become what :meth:`tensors` was of."""
        self.model.load_state_dict(tensors["proven_model"])
        self.behaviour.load_state_dict(tensors["proven_behaviour"])
        self.worst_return, self.step = worst_return, step


class Trials:
    """The trials of one agent's training, one at a time.

    Args:
        agent: whose states are tried.

    Attributes:
        steps: how many were taken in trials.
    """

    def __init__(self, agent: JEPAAgent) -> None:
        from .policy import trial_policy

        self.agent = agent
        self.candidate = AgentState(agent)
        self.policy = trial_policy(self.candidate)
        self.control: ControllerState | None = None
        self.row: int | None = None  # of the environment that it is tried in
        self.steps = self.begun = 0
        self.collected = 0.0
        self.returns: list[float] = []  # of this candidate

    def act(self, actions: Tensor, observations: Tensor, started: NDArray[np.bool_], taken: int, whole: bool) -> Tensor:
        """Return ``actions`` (B, a) with the candidate's own in the environment that it is tried in.

        Args:
            actions: of the agent as it explores.
            observations: (B, O).
            started: (B,) where an episode begins; a trial may begin there.
            taken: steps that were taken in all.
            whole: whether episodes last as long as the environment lets them; others tell too little.
        """
        due = bool(self.returns) or self.steps <= self.agent.settings.trial_share * taken  # what was begun is finished
        if self.row is None and whole and started.any() and due:
            self.row, self.collected = int(started.argmax()), 0.0
            if not self.returns:
                self.candidate.take(self.agent, self.agent.num_timesteps)
            self.control = self.policy.initial_state(np.array([self.agent.stream("trials", self.begun)]))
            self.begun += 1
        if self.row is None:
            return actions
        assert self.control is not None
        here = slice(self.row, self.row + 1)
        chosen, self.control = self.policy.controller.act(self.control, observations[here], started[here])
        return torch.cat([actions[: self.row], chosen.to(actions), actions[self.row + 1 :]])

    def note(self, transition: Transition) -> None:
        """Take in what came of the actions, and decide where an episode has ended."""
        if (row := self.row) is None:
            return
        if not transition.valid[row]:
            self.abandon()  # the environment failed, and says nothing of the candidate
            return
        self.steps += 1
        self.collected += float(transition.rewards[row])
        if transition.terminated[row] or transition.truncated[row]:
            self.row = self.control = None
            self._judge(self.collected)

    def abandon(self) -> None:
        """Break the episode of a trial off, if there is one; what the candidate returned before still counts."""
        self.row = self.control = None

    def forget(self) -> None:
        """Break off, and let go of what this candidate returned: it was in other environments."""
        self.abandon()
        self.returns = []

    def _judge(self, collected: float) -> None:
        proven = self.agent.proven
        if proven is not None and collected < proven.worst_return:
            self.returns = []
            return
        self.returns.append(collected)
        if len(self.returns) == EPISODES:
            self.candidate.worst_return = min(self.returns)
            self.agent.prove(self.candidate)
            self.returns = []

    def metrics(self) -> dict[str, float]:
        """Return figures for the log, by name."""
        proven = self.agent.proven
        figures: dict[str, float] = {"trials/steps": self.steps}
        if proven is not None and math.isfinite(proven.worst_return):
            figures |= {"trials/worst_return": proven.worst_return, "trials/proven_at": proven.step}
        return figures

    def state(self) -> dict[str, Any]:
        """Return what :meth:`load_state` continues from."""
        return {
            "row": self.row,
            "control": None if self.control is None else self.control.to_tree(),
            "counters": [self.steps, self.begun, self.candidate.step],
            "collected": self.collected,
            "returns": list(self.returns),
            "candidate": self.candidate.tensors(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`'s output."""
        self.steps, self.begun, step = (int(count) for count in state["counters"])
        self.row, self.collected, self.returns = state["row"], float(state["collected"]), list(state["returns"])
        self.candidate.load(state["candidate"], -math.inf, step)
        control = state["control"]
        self.control = None if control is None else self.policy.controller.restore_state(control)
