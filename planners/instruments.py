"""What planners are checked with: a cost of known shape, a witness of calls, and a guard against waiting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..core.errors import ForethoughtError
from .base import Planner
from .search import Objective
from .spec import ActionSpec


class BrokenPromise(ForethoughtError, AssertionError):
    """A planner that does not do what every planner promises."""


@dataclass(frozen=True, eq=False)
class Bowl:
    """A cost with another minimum for every problem, whose rows do not depend on how many there are.

    Args:
        spec: the actions.
        targets: (B, H, A) the minima, in units.
        weights: (B, H, A) how fast the cost rises.
    """

    spec: ActionSpec
    targets: Tensor
    weights: Tensor

    @classmethod
    def make(cls, planner: Planner, problems: int) -> Bowl:
        """Return the cost of ``problems`` problems."""
        generator = torch.Generator().manual_seed(17)
        size = (problems, planner.horizon, planner.spec.dims)
        targets = torch.rand(size, generator=generator) * 1.6 - 0.8
        weights = torch.rand(size, generator=generator) + 0.5
        return cls(planner.spec, targets.to(planner.spec.device), weights.to(planner.spec.device))

    def __call__(self, actions: Tensor) -> Tensor:
        """Return the costs (B, N) of the candidates (B, N, H, A)."""
        distance = self.spec.to_units(actions) - self.targets[:, None]
        return (self.weights[:, None] * distance.square()).flatten(2).sum(2) - 1.0

    def beyond_the_bounds(self) -> Bowl:
        """Return the cost whose minima lie outside, and that one action of each plan decides all but alone."""
        weights = self.weights.clone()
        weights[:, 0, 0] = 1000.0
        return Bowl(self.spec, 4 * self.targets, weights)

    def select(self, index: list[int]) -> Bowl:
        """Return the cost of the problems at ``index``."""
        return Bowl(self.spec, self.targets[index], self.weights[index])


class Watched:
    """An objective that keeps what it was asked and what it answered."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self.actions: list[Tensor] = []
        self.costs: list[Tensor] = []
        self.differentiated = 0

    def __call__(self, actions: Tensor) -> Tensor:
        """Return the objective's costs (B, N)."""
        self.actions.append(actions.detach())
        self.differentiated += actions.shape[1] if actions.requires_grad else 0
        costs = self._objective(actions)
        self.costs.append(costs.detach())
        return costs

    @property
    def evaluated(self) -> int:
        """Candidates per problem."""
        return sum(actions.shape[1] for actions in self.actions)


class _NoReads(TorchFunctionMode):
    """Raises where values are handed to Python or NumPy, of which dispatch is not told."""

    _READS = (Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__, Tensor.__dlpack__, Tensor.__repr__)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function unless it reads values back."""
        if func in self._READS or (func is Tensor.to and "cpu" in [*args[1:], *(kwargs or {}).values()]):
            raise BrokenPromise(f"{func.__name__} makes the host wait for values that the device computes")
        return func(*args, **(kwargs or {}))


class NoHostSync(TorchDispatchMode):
    """Raises where the host would wait for the device, or read what is on it; on any device, the host included."""

    _READS = (
        "_local_scalar_dense",
        "is_nonzero",
        "equal",
        "nonzero",
        "argwhere",
        "masked_select",
        "_unique",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reads = _NoReads()

    def __enter__(self) -> Any:
        """Watch from now on."""
        self._reads.__enter__()  # type: ignore[no-untyped-call]
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: object) -> None:
        """Watch no longer."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._reads.__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation unless it reads values back."""
        name = func.overloadpacket.__name__
        if name in self._READS:
            raise BrokenPromise(f"aten.{name} makes the host wait for values that the device computes")
        if name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        ):
            raise BrokenPromise("indexing by a mask makes the host wait for the number of its entries")
        result = func(*args, **(kwargs or {}))
        if name in ("_to_copy", "copy_") and isinstance(result, Tensor) and result.device.type == "cpu":
            sources = [value for value in args if isinstance(value, Tensor)]
            if any(source.device.type != "cpu" for source in sources):
                raise BrokenPromise("a copy from the device to the host makes the host wait")
        return result
