"""ActionSpec: what a planner must know of the actions, and nothing else of the environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import SettingsError, UnsupportedSpaceError
from .one_hots import OneHots

if TYPE_CHECKING:
    import gymnasium


class ActionSpec:
    """The actions of one planned step, as a flat vector of A numbers.

    A planned step is one step of the model and may hold a ``block`` of environment steps, laid out one after the
    other. Categorical actions are concatenated one-hots.

    Planners search in *units*: 0 is the middle of each dimension's range and -1 and 1 are its sides, so that
    settings such as a standard deviation of 0.5 mean the same for every box, tiny or huge.

    Args:
        low: (A,) lower bounds; ``-inf`` where there is none.
        high: (A,) upper bounds; ``inf`` where there is none.
        scale: (A,) the actions' spread: half the range where both sides are finite. Where one is not, it says how
            large actions usually are.
        groups: sizes of the one-hots that make up a planned step; empty for continuous actions.
        block: environment steps per planned step.
        space: the space of one environment step, kept for :meth:`decode`.
    """

    def __init__(
        self,
        low: Tensor,
        high: Tensor,
        scale: Tensor,
        groups: tuple[int, ...] = (),
        block: int = 1,
        space: gymnasium.Space[Any] | None = None,
    ) -> None:
        self.low, self.high, self.scale = low, high, scale
        self.groups, self.block, self.space = groups, block, space
        finite = low.isfinite() & high.isfinite()
        self.bounded = bool(finite.all())
        # Halves first, because the range of a huge box overflows.
        self._center = torch.where(finite, low / 2 + high / 2, torch.zeros_like(low).clamp(low, high))
        moves = scale > 0
        self._divisor = torch.where(moves, scale, 1.0)
        self._unit_low = torch.where(moves, (low - self._center) / self._divisor, -1.0)
        self._unit_high = torch.where(moves, (high - self._center) / self._divisor, 1.0)
        self._in_units_already = bool(groups) or bool(((low == -1) & (high == 1)).all())
        self._one_hots = OneHots(groups, low.device) if groups else None

    @classmethod
    def from_space(
        cls,
        space: gymnasium.Space[Any],
        block: int = 1,
        scale: float | Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> ActionSpec:
        """Build the specification of a Gymnasium action space.

        Args:
            space: ``Box`` of floats, ``Discrete``, ``MultiDiscrete`` or ``MultiBinary``.
            block: environment steps per planned step, at least 1.
            scale: the usual size of an action, one number or one per dimension of ``space``; needed, and used,
                only for the dimensions that are not bounded on both sides.
            device: where planning happens.

        Raises:
            UnsupportedSpaceError: another space, one without any dimension, or an unbounded one without ``scale``.
            SettingsError: ``block`` below 1, or a ``scale`` that is not positive or of another size.
        """
        from gymnasium import spaces

        if isinstance(block, bool) or not isinstance(block, int) or block < 1:
            raise SettingsError(f"block = {block!r} must be a whole number of environment steps, at least 1.")
        if isinstance(space, spaces.Box):
            if not np.issubdtype(space.dtype, np.floating):
                raise UnsupportedSpaceError(
                    f"A Box of {space.dtype} actions cannot be planned in: use Box with a floating type for "
                    "quantities, or MultiDiscrete for choices."
                )
            low, high, spread = _box(space, scale)
            groups: tuple[int, ...] = ()
        elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            groups = _categories(space)
            low = np.zeros(sum(groups), np.float32)
            high = np.ones_like(low)
            spread = high / 2
        else:
            raise UnsupportedSpaceError(
                f"Actions of the space {type(space).__name__} cannot be planned: it must be Box, Discrete, "
                "MultiDiscrete or MultiBinary. Flatten others with a wrapper."
            )
        if not low.size:
            raise UnsupportedSpaceError(f"The action space {space} has no dimension: there is nothing to plan.")
        sides = [torch.as_tensor(np.tile(side, block), device=device) for side in (low, high, spread)]
        return cls(sides[0], sides[1], sides[2], groups * block, block, space)

    @property
    def dims(self) -> int:
        """Length A of a planned step's action."""
        return self.low.shape[0]

    @property
    def discrete(self) -> bool:
        """Whether the actions are one-hots."""
        return bool(self.groups)

    @property
    def one_hots(self) -> OneHots:
        """The one-hots of discrete actions."""
        assert self._one_hots is not None, "continuous actions have no one-hots"
        return self._one_hots

    @property
    def device(self) -> torch.device:
        """Where plans are made."""
        return self.low.device

    @property
    def rest(self) -> Tensor:
        """(A,) the action a plan starts from where nothing better is known: mid-range, or first categories."""
        zeros = torch.zeros_like(self.low)
        return self.project(zeros) if self.discrete else self.to_actions(zeros)

    def project(self, actions: Tensor) -> Tensor:
        """Return the nearest valid actions (..., A): clamped to the bounds, or the largest entry of each group."""
        if self.discrete:
            return self.one_hots.encode(self.one_hots.choices(actions))
        return torch.clamp(actions, self.low, self.high)

    def to_units(self, actions: Tensor) -> Tensor:
        """Express actions (..., A) in units: 0 in mid-range, -1 and 1 at the bounds."""
        return actions if self._in_units_already else (actions - self._center) / self._divisor

    def to_actions(self, units: Tensor) -> Tensor:
        """Return the actions (..., A) of units that :meth:`clip` has bounded; never outside the bounds.

        Gradients pass everywhere, bounds included: what the clamp there takes back is rounding alone.
        """
        if self._in_units_already:
            return units
        actions = torch.addcmul(self._center, self.scale, units)
        bounded = torch.clamp(actions.detach(), self.low, self.high)
        return bounded + (actions - actions.detach()) if actions.requires_grad else bounded

    def clip(self, units: Tensor) -> Tensor:
        """Clamp units (..., A) to the bounds."""
        return units.clamp(-1.0, 1.0) if self.bounded else torch.clamp(units, self._unit_low, self._unit_high)

    def within(self, low: Tensor, high: Tensor) -> ActionSpec:
        """Return the specification of quantities that are to stay between ``low`` and ``high`` (A,), too.

        What is left of each dimension's range is searched as if it were all of it.

        Raises:
            SettingsError: nothing is left of a dimension, or the actions are choices.
        """
        if self.discrete:
            raise SettingsError("Limits are for actions that are quantities, not for choices.")
        low, high = torch.maximum(self.low, low), torch.minimum(self.high, high)
        if (empty := low > high).any():
            raise SettingsError(f"Nothing is left of dimension {int(empty.long().argmax())} within these limits.")
        finite = low.isfinite() & high.isfinite()
        scale = torch.where(finite, high / 2 - low / 2, self.scale)
        return ActionSpec(low, high, scale, block=self.block, space=self.space)

    def decode(self, actions: Tensor) -> Tensor:
        """Return what the environment takes: (..., *shape), or (..., block, *shape) for a block above 1.

        Categories become integers that respect the space's ``start``; quantities have the type of its bounds, and are
        inside them even where float32 cannot hold these exactly.
        """
        from gymnasium import spaces

        lead = actions.shape[:-1] + ((self.block,) if self.block > 1 else ())
        if not self.discrete:
            if self.space is None:
                return actions.reshape(*lead, self.dims // self.block)
            assert isinstance(self.space, spaces.Box)
            low, high = (torch.as_tensor(side, device=actions.device) for side in (self.space.low, self.space.high))
            return actions.reshape(*lead, *self.space.shape).to(low.dtype).clamp(low, high)
        choices = self.one_hots.choices(actions)
        shape = (choices.shape[-1] // self.block,) if self.space is None else self.space.shape or ()
        choices = choices.reshape(*lead, *shape)
        if isinstance(self.space, spaces.Discrete | spaces.MultiDiscrete):
            choices = choices + torch.as_tensor(np.asarray(self.space.start), device=actions.device)
        return choices

    def to(self, device: torch.device | str) -> ActionSpec:
        """Return the specification for planning on ``device``."""
        low, high, scale = (side.to(device) for side in (self.low, self.high, self.scale))
        return ActionSpec(low, high, scale, self.groups, self.block, self.space)


def _box(
    space: gymnasium.spaces.Box, scale: float | Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return low, high and spread (dims,) in float32."""
    low, high = (np.asarray(side, np.float64).ravel() for side in (space.low, space.high))
    if not (low <= high).all():
        raise UnsupportedSpaceError(f"The action space {space} has bounds that are not low <= high.")
    with np.errstate(over="ignore"):  # what float32 cannot hold is as good as unbounded
        low, high = low.astype(np.float32), high.astype(np.float32)
    unbounded = ~(np.isfinite(low) & np.isfinite(high))
    spread = high / 2 - low / 2
    if unbounded.any():
        if scale is None:
            raise UnsupportedSpaceError(
                f"The action space {space} is not bounded on every side, so the planner cannot know how large "
                "actions are: pass scale=(usual size of each action), or bound it with a wrapper."
            )
        given = np.asarray(scale, np.float32)
        if given.shape not in ((), (1,), low.shape) or not (np.isfinite(given) & (given > 0)).all():
            raise SettingsError(
                f"scale = {scale!r} must be positive and finite: one number, or one for each of {low.size} dimensions."
            )
        spread = np.where(unbounded, np.broadcast_to(given, low.shape), spread)
    return low, high, spread.astype(np.float32)


def _categories(
    space: gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete | gymnasium.spaces.MultiBinary,
) -> tuple[int, ...]:
    """Return the number of categories of each choice made in one environment step."""
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(int(n) for n in np.asarray(space.nvec).ravel())
    return (2,) * int(np.prod(space.shape))
