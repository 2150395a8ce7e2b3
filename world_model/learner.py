"""The learner: optimiser and update rule of a world model. Every training loop uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from ..core.clip import Clip
from ..core.errors import SettingsError
from ..core.parallel import ALONE, Ranks
from ..core.seeding import derive_seed, torch_generator
from .compute import ComputeSettings
from .jepa import JEPA, Losses
from .optimization import Optimization, OptimizationSettings
from .vision import BatchNorm


class Learner:
    """Updates a world model from clips; between updates, the model is in evaluation mode.

    Where several processes learn together, an update is that of the whole batch, up to rounding and to what is dropped
    at random: losses, SIGReg and batch normalisation are taken over the clips of all, gradients are averaged, and all
    keep the same weights.

    Args:
        model: what learns.
        settings: of the optimiser.
        compute: how updates are computed.
        seed: of the regularizer's random directions.
        ranks: the processes that learn together, each from its share of every clip's batch; by default this one alone.
    """

    def __init__(
        self,
        model: JEPA,
        settings: OptimizationSettings | None = None,
        compute: ComputeSettings | None = None,
        seed: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.compute, self._ranks = model.eval(), compute or ComputeSettings(), ranks
        self.compute.warn_if_imitated(model.device)
        model.learn_among(ranks)
        self.optimization = Optimization(
            model.parameters(), settings or OptimizationSettings(), torch_generator(seed, "learner"), ranks
        )
        self._losses = self.compute.compiled(model)
        norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
        self._statistics = [buffer for norm in norms for buffer in norm.buffers()]

    def update(self, clip: Clip) -> Losses:
        """Take one optimisation step and return its losses, detached.

        Raises:
            SettingsError: for clips of other observations or actions than the model's.
        """
        self._require_fitting(clip)
        directions = self.model.draw_directions(self.optimization.generator)
        before = [statistic.clone() for statistic in self._statistics]
        self.model.train()
        with self._own_chance(), self.compute.autocast(self.model.device):
            losses: Losses = self._losses(clip, directions)
        if not self.optimization.step(losses.total) and before:
            torch._foreach_copy_(self._statistics, before)
        self.model.eval()
        if self.optimization.updates % self.model.settings.target_refresh == 0:
            self.model.refresh_target()
        return replace(losses, **losses.metrics())

    def _require_fitting(self, clip: Clip) -> None:
        found = tuple(clip.observations.shape[2:]), clip.actions.shape[-1]
        wanted = tuple(self.model.observation_shape), self.model.action_dims
        if found != wanted:
            raise SettingsError(
                f"The model takes observations of the shape {wanted[0]} and actions of width {wanted[1]}; those of the "
                f"clips have {found[0]} and {found[1]}."
            )

    @contextmanager
    def _own_chance(self) -> Iterator[None]:
        """Lend torch's global generators, on which dropout draws, a state of our own, where there are any."""
        if not self.model.draws:
            yield
            return
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            drawn = int(torch.randint(2**62, (), generator=self.optimization.generator))
            seed = derive_seed(drawn, self._ranks.rank) if self._ranks.rank else drawn  # each draws its own
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
