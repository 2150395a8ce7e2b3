"""WishObjective: what imagined futures cost, measured by a wish and by probes that read quantities off latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import SettingsError, UnknownNameError, did_you_mean
from ..world_model import JEPA, Imagination, LatentState, Probe
from .objective import Deviation, latents_before
from .wish import Term, Wish

ENDED = 10.0
"""What each step costs that an episode has already ended before, as the model expects: as much as missing a target by
some ten times what is usual. Whoever has fallen fulfils no wish."""

ROUNDING = 0.1
"""How near to a target, in usual spreads, what is missed begins to count less than in proportion."""

Returns = Callable[[Imagination, Tensor], Tensor]
"""Of what is imagined for actions (B, N, H, A), returns costs (B, N)."""


@dataclass(frozen=True)
class WishObjective:
    """What a wish costs, as the mean over planned steps.

    Attributes:
        model: a world model.
        state: where the B environments are.
        wish: what is asked.
        probes: read the wish's quantities, by name.
        returns: minus the return, for a wish that asks for reward.
        disagreement: whether ``returns`` are made of that of the model's ensemble.
        deviation: what it costs to leave the actor, or ``None`` for nothing.

    Raises:
        SettingsError: a quantity that no probe reads, or a reward that is asked for and not predicted.
    """

    model: JEPA
    state: LatentState
    wish: Wish
    probes: Mapping[str, Probe]
    returns: Returns | None = None
    deviation: Deviation | None = None
    disagreement: bool = False

    def __post_init__(self) -> None:
        if missing := [name for name in self.wish.quantities if name not in self.probes]:
            raise SettingsError(f"The wish {self.wish} needs probes that read {' and '.join(missing)}.")
        if self.wish.needs_reward and self.returns is None:
            raise SettingsError(f"The wish {self.wish} asks for reward, which this world model does not predict.")

    def __call__(self, actions: Tensor) -> Tensor:
        """Return costs (B, N), lower is better, of ``actions`` (B, N, H, A)."""
        imagined = self.model.imagine(self.state, actions, self.disagreement)
        steps = self._costs(imagined, actions)
        if imagined.continues is not None:
            lasts = imagined.continues.cumprod(2)
            steps = lasts * steps + (1 - lasts) * ENDED
        if self.deviation is not None:
            steps = steps + self.deviation(latents_before(self.state, imagined), actions)
        cost = steps.mean(2)
        for term in self.wish.terms:
            if term.form == "reward":
                assert self.returns is not None
                cost = cost + term.weight * self.returns(imagined, actions) / actions.shape[2]
        return cost

    def _costs(self, imagined: Imagination, actions: Tensor) -> Tensor:
        """Return what each planned step costs (B, N, H), rewards apart."""
        total, latents = actions.new_zeros(actions.shape[:3]), imagined.latents.float()
        for term in self.wish.terms:
            if term.form == "effort":
                total = total + term.weight * actions.square().mean(-1)
            elif term.is_quantity:
                total = total + term.weight * _missed(term, self.probes[term.name], latents)
        return total


def probes_by_name(probes: Probe | Mapping[str, Probe], wish: Wish) -> dict[str, Probe]:
    """Return a probe of its own for each quantity of a wish.

    Raises:
        UnknownNameError: a quantity that ``probes`` do not read.
        SettingsError: one that never varied where its probe was fitted, so that nothing is known of it.
    """
    found = {}
    for name in wish.quantities:
        if isinstance(probes, Probe):
            found[name] = probes.only([name])
        elif name in probes:
            found[name] = probes[name].only([name])
        else:
            how = (
                f" wish_probes(RUN, {list(wish.quantities)}) of forethought.evaluations fits them."
                if not probes
                else ""
            )
            raise UnknownNameError(f"No probe reads {name!r}.{how or did_you_mean(name, list(probes))}")
        if not float(found[name].usual_spread) > 0:
            raise SettingsError(f"{name} never varied where its probe was fitted, so no plan can be judged by it.")
    return found


def _missed(term: Term, probe: Probe, latents: Tensor) -> Tensor:
    """Return what a term costs (...) in latents (..., D), as a probe of one quantity reads it."""
    read, scale = probe(latents)[..., 0], probe.usual_spread
    if term.form in ("maximize", "minimize"):
        return (-read if term.form == "maximize" else read) / scale
    assert term.value is not None
    away = read - term.value
    if probe.quantities[0].angle:
        away = torch.atan2(away.sin(), away.cos())
    if term.form == "at_least":
        away = away.clamp(max=0)
    elif term.form == "at_most":
        away = away.clamp(min=0)
    return (away / scale).hypot(away.new_tensor(ROUNDING)) - ROUNDING
