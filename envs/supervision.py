"""Supervision: what is done when an environment raises, hangs or dies."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from ..core.errors import EnvironmentFault
from ..core.settings import Range, Settings

WINDOW_STEPS = 10_000
BACK_OFF_S, LONGEST_BACK_OFF_S = 0.1, 30.0

logger = logging.getLogger("forethought.envs")


@dataclass(frozen=True)
class Supervision(Settings):
    """How patient to be with environments that fail."""

    restarts: Annotated[int, Range(ge=0)] = 3
    """How often a failed environment is built anew within 10,000 steps of all; the next failure ends the training."""
    timeout_s: Annotated[float, Range(gt=0)] = 60.0
    """Seconds that a step or reset may take in a process of its own; then that is killed, and the environment has
    failed."""


class RestartBudget:
    """Counts the restarts of a vector's environments and says when there have been too many.

    Attributes:
        steps: environment steps that the vector has taken.
        restarts: environments built anew so far.
    """

    def __init__(self, supervision: Supervision) -> None:
        self._allowed = supervision.restarts
        self.steps = self.restarts = 0
        self._recent: list[int] = []  # the steps of those within the window

    def spend(self, fault: EnvironmentFault) -> None:
        """Take one restart out of the budget, log why, and wait a little, longer each time.

        Raises:
            EnvironmentFault: ``fault``, if none is left.
        """
        recent = [step for step in self._recent if self.steps - step < WINDOW_STEPS]
        if not self._allowed:
            raise fault
        if len(recent) >= self._allowed:
            raise EnvironmentFault(
                f"{fault} Environments were built anew {len(recent)} times within the last {WINDOW_STEPS:,} steps, "
                "and supervision.restarts allows no more."
            ) from fault.__cause__
        self._recent = [*recent, self.steps]
        self.restarts += 1
        logger.warning(
            "%s The environment is built anew (restart %d of %d within %s steps).",
            fault,
            len(self._recent),
            self._allowed,
            f"{WINDOW_STEPS:,}",
            exc_info=fault.__cause__ if self.restarts == 1 else None,  # the others are told in a line
        )
        time.sleep(min(BACK_OFF_S * 2.0 ** len(recent), LONGEST_BACK_OFF_S))

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs, as plain data for JSON."""
        return {"steps": self.steps, "restarts": self.restarts, "recent": list(self._recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from :meth:`state_dict`'s output."""
        self.steps, self.restarts = int(state.get("steps", 0)), int(state.get("restarts", 0))
        self._recent = [int(step) for step in state.get("recent", ())]
