"""Planning in the true simulator: what the same search would bring if the world model made no mistakes.

Only what follows the plan's end is still guessed, by the agent's critic, and what the actor proposes comes from the
learned model. Whoever acts so looks into the simulator, which no agent may: it is the ceiling that others are compared
with, and nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..agents.controller import ControllerState
from ..agents.objective import RewardObjective
from ..agents.policy import PlanningPolicy
from ..core.errors import SettingsError
from ..envs.states import is_mujoco
from ..world_model import Imagination, LatentState

NUMBER, OBSERVATION = "number", "observation"


class TrueSimulator:
    """MuJoCo environments that a policy may look into, and a spare one in which it tries plans out.

    Args:
        make: of the task.

    Raises:
        SettingsError: it is no task of MuJoCo.
    """

    def __init__(self, make: Callable[[], gym.Env[Any, Any]]) -> None:
        self._make, self._spare = make, make()
        if not is_mujoco(self._spare.unwrapped):
            raise SettingsError("Plans can be tried out in the true simulator of MuJoCo's tasks only.")
        self._spare.reset(seed=0)
        self._open: list[gym.Env[Any, Any]] = []

    def env(self) -> gym.Env[Any, Any]:
        """Return a fresh environment whose observations tell which it is."""
        env = self._make()
        self._open.append(env)
        return _Numbered(env, len(self._open) - 1)

    def try_out(
        self, numbers: NDArray[np.int64], actions: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """Return what would be observed, in units of the task, how much reward it would bring, and whether it goes on.

        Args:
            numbers: (B,) of environments, which stay where they are.
            actions: native (B, N, H, block, ...).

        Returns:
            The last observation of each step (B, N, H, ...), rewards summed over its block (B, N, H), and 0 (B, N, H)
            where a terminal state was reached; afterwards nothing changes any more.
        """
        import mujoco

        size = actions.shape[:3]
        observations: NDArray[Any] | None = None
        rewards, alive = np.zeros(size, np.float32), np.ones(size, np.float32)
        bare: Any = self._spare.unwrapped
        for b, n in np.ndindex(*size[:2]):
            mujoco.mj_copyData(bare.data, bare.model, self._open[numbers[b]].unwrapped.data)  # type: ignore[attr-defined]
            ended = False
            for h in range(size[2]):
                for action in actions[b, n, h]:
                    if not ended:
                        observation, reward, ended, _, _ = self._spare.step(action)
                        rewards[b, n, h] += float(reward)
                if observations is None:
                    observations = np.zeros((*size, *np.shape(observation)), np.asarray(observation).dtype)
                observations[b, n, h], alive[b, n, h] = observation, not ended
        assert observations is not None
        return observations, rewards, alive

    def close(self) -> None:
        """Close the spare environment; those of :meth:`env` are closed by whoever plays in them."""
        self._spare.close()


class SimulatorPolicy:
    """Acts as a planning policy does, but for trying its plans out in the true simulator.

    Args:
        policy: what plans; its objective is a reward, and it plans anew at every step.
        simulator: whose environments are acted in.

    Raises:
        SettingsError: the planner differentiates what it imagines, or executes several steps of a plan.
    """

    def __init__(self, policy: PlanningPolicy, simulator: TrueSimulator) -> None:
        if policy.planner.gradients or policy.controller.execute > 1:
            raise SettingsError("The true simulator is for planners without gradients that plan anew at every step.")
        self._simulator, self._learned = simulator, policy.controller.objective
        controller = copy.copy(policy.controller)
        controller.objective = self._objective
        self._policy = copy.copy(policy)
        self._policy.controller = controller
        self._numbers = np.zeros(0, np.int64)

    @property
    def planner(self) -> Any:
        """The planner that acts."""
        return self._policy.planner

    def initial_state(self, seeds: Any) -> ControllerState:
        """Return the state of environments that begin an episode, one per seed."""
        return self._policy.initial_state(seeds)

    def predict(
        self,
        observation: dict[str, Any],
        state: ControllerState | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], ControllerState]:
        """Choose actions (B, ...) for observations that :meth:`TrueSimulator.env` gives, as SB3's ``predict`` does."""
        self._numbers = np.asarray(observation[NUMBER], np.int64)[:, 0]
        return self._policy.predict(observation[OBSERVATION], state, episode_start, deterministic)

    def _objective(self, latent: LatentState) -> Callable[[Tensor], Tensor]:
        learned = self._learned(latent)
        assert isinstance(learned, RewardObjective)
        policy, numbers = self._policy, self._numbers
        model, codec, block = policy.controller.model, policy.action_codec, policy.controller.block

        def cost(actions: Tensor) -> Tensor:
            batch, count, horizon, dims = actions.shape
            flat = actions.reshape(-1, dims // block).cpu().numpy()
            native = codec.decode(flat).reshape(batch, count, horizon, block, *(codec.space.shape or ()))
            seen, rewards, alive = self._simulator.try_out(numbers, native)
            coded = policy.observation_codec(seen.reshape(-1, *seen.shape[3:]))
            latents = model.encode(torch.from_numpy(coded).to(model.device))
            imagined = Imagination(
                latents.view(batch, count, horizon, -1),
                torch.from_numpy(rewards).to(model.device),
                torch.from_numpy(alive).to(model.device),
                None,
            )
            return learned.of(imagined, actions)

        return cost


class _Numbered(gym.Wrapper[Any, Any, Any, Any]):
    """Tells beside each observation which environment it is of."""

    def __init__(self, env: gym.Env[Any, Any], number: int) -> None:
        super().__init__(env)
        self._number = np.array([number], np.int64)
        numbers = gym.spaces.Box(0, np.iinfo(np.int64).max, (1,), np.int64)
        self.observation_space = gym.spaces.Dict({OBSERVATION: env.observation_space, NUMBER: numbers})

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        return {OBSERVATION: observation, NUMBER: self._number}, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, *rest = self.env.step(action)
        return ({OBSERVATION: observation, NUMBER: self._number}, *rest)  # type: ignore[return-value]
