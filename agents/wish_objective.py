"""WishObjective: what imagined futures cost, measured by a wish and by probes that read quantities off latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.errors import SettingsError
from ..world_model import JEPA, Imagination, LatentState, Probe
from .wish import Term, Wish

ENDED = 10.0
"""What each step costs that an episode has already ended before, as the model expects: as much as missing a target by
three times what is usual. Whoever has fallen fulfils no wish."""

Readings = Callable[[Imagination, Tensor], Tensor]
"""Of what is imagined for actions (B, N, H, A), returns costs (B, N)."""


@dataclass(frozen=True)
class WishObjective:
    """What a wish costs, as the mean over planned steps.

    Attributes:
        model: a world model.
        state: where the B environments are.
        wish: what is asked.
        probe: reads the wish's quantities, or ``None`` where it names none.
        returns: minus the return, for a wish that asks for reward.
        deviation: latents (..., D) and actions (..., A) to the cost (...) of taking them there, or ``None``.

    Raises:
        SettingsError: the probe does not read what is asked, or is of another model.
    """

    model: JEPA
    state: LatentState
    wish: Wish
    probe: Probe | None
    returns: Readings | None = None
    deviation: Callable[[Tensor, Tensor], Tensor] | None = None
    _scale: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.wish.quantities and self.probe is None:
            raise SettingsError(f"The wish {self.wish} needs probes that read {', '.join(self.wish.quantities)}.")
        if self.wish.needs_reward and self.returns is None:
            raise SettingsError(f"The wish {self.wish} asks for reward, which this world model does not predict.")
        object.__setattr__(self, "_scale", torch.ones(0) if self.probe is None else usual_spread(self.probe))

    def __call__(self, actions: Tensor) -> Tensor:
        """Return costs (B, N), lower is better, of ``actions`` (B, N, H, A)."""
        imagined = self.model.imagine(self.state, actions)
        steps = self._costs(imagined, actions)
        if imagined.continues is not None:
            lasts = imagined.continues.cumprod(2)
            steps = lasts * steps + (1 - lasts) * ENDED
        if self.deviation is not None:
            now = self.state.latents[:, None, None].expand(-1, actions.shape[1], 1, -1)
            steps = steps + self.deviation(torch.cat([now, imagined.latents[:, :, :-1]], 2), actions)
        cost = steps.mean(2)
        for term in self.wish.terms:
            if term.form == "reward":
                assert self.returns is not None
                cost = cost + term.weight * self.returns(imagined, actions) / actions.shape[2]
        return cost

    def _costs(self, imagined: Imagination, actions: Tensor) -> Tensor:
        """Return what each planned step costs (B, N, H), rewards apart."""
        total = actions.new_zeros(actions.shape[:3])
        read = None if self.probe is None else self.probe(imagined.latents.float())
        for term in self.wish.terms:
            if term.form == "effort":
                total = total + term.weight * actions.square().mean(-1)
            elif term.is_quantity:
                assert read is not None
                assert self.probe is not None
                index = self.probe.index(term.name)
                angle = self.probe.quantities[index].angle
                total = total + term.weight * _missed(term, read[..., index], self._scale[index], angle)
        return total


def usual_spread(probe: Probe) -> Tensor:
    """Return (Q,) the standard deviation of each quantity where the probe was fitted; of an angle that of its point.

    Raises:
        SettingsError: one is constant.
    """
    spreads = []
    for index, known in enumerate(probe.quantities):
        spread = probe.spread_of(index)
        if not float(spread) > 0:
            raise SettingsError(f"{known.name} never varied where the probe was fitted, so no plan can change it.")
        spreads.append(spread)
    return torch.stack(spreads)


def _missed(term: Term, read: Tensor, scale: Tensor, angle: bool) -> Tensor:
    """Return what a term costs (...) at readings (...)."""
    if term.form in ("maximize", "minimize"):
        return (-read if term.form == "maximize" else read) / scale
    assert term.value is not None
    away = read - term.value
    if angle:
        away = torch.atan2(away.sin(), away.cos())
    if term.form == "at_least":
        away = away.clamp(max=0)
    elif term.form == "at_most":
        away = away.clamp(min=0)
    return (away / scale).square()
