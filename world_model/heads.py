"""Heads: reward (two-hot symlog regression) and continuation, read off the predictor's features; disagreement.

Sources: DreamerV3 (arXiv 2301.04104) for symlog and two-hot targets; TD-MPC2 (arXiv 2310.16828) for their use here;
Plan2Explore (arXiv 2005.05960) for the disagreement of an ensemble of one-step predictions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .networks import EnsembleMLP


def symlog(values: Tensor) -> Tensor:
    """Return sign(x) ln(1 + |x|)."""
    return values.sign() * values.abs().log1p()


def symexp(values: Tensor) -> Tensor:
    """Return the inverse of :func:`symlog`."""
    return values.sign() * values.abs().expm1()


MeanKind = Literal["symlog", "values"]


class TwoHot(nn.Module):
    """Scalars of any scale as distributions over an odd number of bins, which are even in symlog space around zero.

    Logits of zero mean zero.

    Args:
        bins: how many.
        limit: where the outermost are, in symlog space.
        mean: what is averaged: the values' symlog, whose mean lies below that of values that differ much; or the
            values themselves.
    """

    bins: Tensor

    def __init__(self, bins: int = 65, limit: float = 10.0, mean: MeanKind = "symlog") -> None:
        super().__init__()
        if bins < 3 or bins % 2 == 0:
            raise ValueError(f"Two-hot needs an odd number of bins, at least 3, so that zero is one; not {bins}.")
        self.limit, self.mean = limit, mean
        places = torch.linspace(-limit, limit, bins)
        self.register_buffer("bins", places if mean == "symlog" else symexp(places), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """Return the values (...) that ``logits`` (..., bins) mean."""
        weighed = logits.float().softmax(-1) * self.bins
        if self.mean == "symlog":
            return symexp(weighed.sum(-1))
        half = len(self.bins) // 2  # opposite bins first, because the outermost are large, and cancel
        return (weighed[..., :half] + weighed[..., half + 1 :].flip(-1)).sum(-1)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy (...) between the distribution of ``logits`` and two-hot ``targets`` (...)."""
        log_probabilities = logits.float().log_softmax(-1)
        width = 2 * self.limit / (len(self.bins) - 1)
        position = ((symlog(targets).clamp(-self.limit, self.limit) + self.limit) / width).clamp(max=len(self.bins) - 1)
        lower = position.floor().clamp(max=len(self.bins) - 2)
        upper_share = (position - lower).unsqueeze(-1)
        index = lower.nan_to_num().long().unsqueeze(-1)  # a target that is no number still gives a loss that is none
        if self.mean == "values":
            lowest, highest = self.bins[index], self.bins[index + 1]
            upper_share = ((targets.unsqueeze(-1) - lowest) / (highest - lowest)).clamp(0, 1)
        below, above = log_probabilities.gather(-1, index), log_probabilities.gather(-1, index + 1)
        return -((1 - upper_share) * below + upper_share * above).squeeze(-1)


class TwoHotHead(nn.Module):
    """Predicts a scalar of any scale as :class:`TwoHot` distributions; its first guess is zero."""

    def __init__(self, features: int, bins: int = 65, limit: float = 10.0) -> None:
        super().__init__()
        self.coding = TwoHot(bins, limit)
        self.logits = nn.Linear(features, bins)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return predicted values (...), from ``features`` (..., F)."""
        values: Tensor = self.coding(self.logits(features))
        return values

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy (...) between the predicted distribution and two-hot ``targets`` (...)."""
        return self.coding.loss(self.logits(features), targets)


class ContinueHead(nn.Module):
    """Predicts the probability that the episode goes on, that is, that the step was not terminal."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.logits = nn.Linear(features, 1)
        nn.init.zeros_(self.logits.weight)
        nn.init.constant_(self.logits.bias, 3.0)  # most steps are not terminal

    def forward(self, features: Tensor) -> Tensor:
        """Return probabilities (...) from ``features`` (..., F)."""
        return self.logits(features).float().squeeze(-1).sigmoid()

    def loss(self, features: Tensor, terminated: Tensor) -> Tensor:
        """Return the binary cross-entropy (...) against ``terminated`` (...), 1 where the episode ended."""
        return F.binary_cross_entropy_with_logits(
            self.logits(features).float().squeeze(-1), 1 - terminated, reduction="none"
        )


class DisagreementHead(nn.Module):
    """Tells by how much networks that learned the same steps disagree on the next latent: where few were like it, much.

    Each begins with other weights. They read latents without gradient, so that they leave the model as it is.

    Args:
        latent_dims, action_dims: D and A.
        hidden: width of their hidden layers.
        members: networks.
    """

    def __init__(self, latent_dims: int, action_dims: int, hidden: int, members: int) -> None:
        super().__init__()
        self.changes = EnsembleMLP(latent_dims + action_dims, [hidden, hidden], latent_dims, members)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Return the variance (...) between members of what follows ``latents`` (..., D) and ``actions`` (..., A).

        It is the mean over latent dimensions.
        """
        return self.changes(torch.cat([latents, actions], -1)).var(0, correction=0).mean(-1)

    def loss(self, latents: Tensor, actions: Tensor, after: Tensor) -> Tensor:
        """Return the squared error (...) against the latents ``after`` (..., D), the mean over members."""
        latents, after = latents.detach(), after.detach()
        found = self.changes(torch.cat([latents, actions], -1))
        return (found - (after - latents)).square().mean(-1).mean(0)
