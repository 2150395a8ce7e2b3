"""Recovery: back to the last good weights, once, where gradients stay non-finite; after that, a report."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.clip import Clip
from ..core.errors import DivergedError

if TYPE_CHECKING:
    from .jepa_agent import JEPAAgent

PATIENCE = 5
"""Updates in a row that are skipped before going back: one may be bad luck, but as long as the weights stay, so does
what is wrong with them. It is over before a controller gives up, at one update per step."""
SLOWDOWN = 0.1
"""Factor of the learning rates after going back."""


class Recovery:
    """Keeps the last good weights of an agent, and brings them back.

    Args:
        agent: whose world model, actor and critic are watched.

    Attributes:
        rollbacks: how often it went back, at most once.
    """

    def __init__(self, agent: JEPAAgent) -> None:
        self.agent = agent
        self.rollbacks = 0
        self._kept: dict[str, Tensor] = {}

    def keep(self) -> None:
        """Remember the weights as good ones, unless the last update was skipped."""
        if not self._skipped_in_a_row:
            self._kept = {name: weight.detach().clone() for name, weight in self._weights()}

    def check(self, clip: Clip, losses: Mapping[str, Tensor]) -> None:
        """Go back if too many updates in a row were skipped, the last one with these ``losses`` by name on ``clip``.

        Raises:
            DivergedError: the second time, naming the first tensor that is not finite.
        """
        if self._skipped_in_a_row < PATIENCE:
            return
        culprit = self._first_not_finite(clip, losses)
        if self.rollbacks:
            raise DivergedError(
                f"{PATIENCE} updates in a row had gradients that are not finite, as before at a higher learning rate. "
                f"The first tensor that is not finite is {culprit}. Nothing was learned from them; what was saved is "
                "sound."
            )
        warnings.warn(
            f"{PATIENCE} updates in a row were skipped, because {culprit} is not finite: going back to the last good "
            f"weights, with {SLOWDOWN:g} times the learning rate.",
            stacklevel=2,
        )
        self.rollbacks += 1
        with torch.no_grad():
            for name, weight in self._weights():
                weight.copy_(self._kept[name])
        for optimization in self._optimizations:
            optimization.restart(SLOWDOWN)

    def state(self) -> dict[str, Any]:
        """Return what :meth:`load_state` continues from."""
        return {"rollbacks": self.rollbacks, "kept": self._kept}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state`'s output."""
        self.rollbacks = int(state["rollbacks"])
        now = {name: weight.clone() for name, weight in self._weights()}  # for what older versions did not keep
        self._kept = now | {name: weight.to(self.agent.device) for name, weight in state["kept"].items()}

    @property
    def _optimizations(self) -> tuple[Any, Any]:
        return self.agent.learner.optimization, self.agent.behaviour.optimization

    @property
    def _skipped_in_a_row(self) -> int:
        return max(optimization.skipped_in_a_row for optimization in self._optimizations)

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all that is learned, by name; the observations' statistics are counted, and stay."""
        for name, tensor in self.agent.model.state_dict().items():
            if not name.startswith("normalizer."):
                yield f"model.{name}", tensor
        for name, tensor in self.agent.behaviour.state_dict().items():  # the unit of its values included
            yield f"behaviour.{name}", tensor

    def _first_not_finite(self, clip: Clip, losses: Mapping[str, Tensor]) -> str:
        """Name the first tensor with such an entry on the way from the data over the weights to the gradients."""
        data = [(f"the clip's {name}", tensor) for name, tensor in clip.tensors().items()]
        weights = [(f"the weight {name}", weight) for name, weight in self._weights()]
        parts = [(f"the loss {name!r}", value) for name, value in losses.items() if name != "total"]
        modules = {"model": self.agent.model, "behaviour": self.agent.behaviour}
        gradients = [
            (f"the gradient of {prefix}.{name}", parameter.grad)
            for prefix, module in modules.items()
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        ]
        for name, tensor in [*data, *weights, *parts, *gradients]:
            if wrong := int((~tensor.isfinite()).sum()):
                return f"{name} ({wrong} of {tensor.numel()} entries)"
        return "the loss, of parts that are each finite"
