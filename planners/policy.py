"""No search: do what was proposed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .base import Planner, PlannerSettings, Size, register_planner
from .search import Search
from .spec import ActionSpec


@dataclass(frozen=True)
class PolicySettings(PlannerSettings):
    """Settings of :class:`Policy`."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"cpu": {}, "gpu": {}}
    sizes: ClassVar[tuple[str, ...]] = ()

    proposals: Size = 1
    """The most proposals that are compared; with 1 it is the bare policy that proposes."""

    @property
    def budget(self) -> int:
        """All proposals."""
        return self.proposals

    @property
    def max_proposals(self) -> int:
        """All of them."""
        return self.proposals


@register_planner("policy")
class Policy(Planner):
    """No search: the best proposal, or the warm start where there is none.

    With one proposal it acts as the policy that proposes, whatever its cost: the baseline that tells what planning
    adds to a policy.
    """

    Settings = PolicySettings
    searches = False
    settings: PolicySettings

    @classmethod
    def supports(cls, spec: ActionSpec) -> bool:
        """All actions."""
        return True

    def search(self, search: Search) -> None:
        """Evaluate the proposals."""
        search.score(search.given[:, 1:] if search.proposals else search.given)
