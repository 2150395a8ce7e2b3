"""Categorical actions: G choices of differing sizes, laid out as concatenated one-hots."""

from __future__ import annotations

import torch
from torch import Tensor

from .noise import normal_to_uniform


class OneHots:
    """Moves between vectors of concatenated groups (..., A) and choices (..., G).

    Computation happens in a rectangle (..., G, C), C being the size of the largest group, so that nothing loops over
    groups.

    Args:
        sizes: number of categories in each of the G groups.
        device: where the vectors live.
    """

    def __init__(self, sizes: tuple[int, ...], device: torch.device) -> None:
        self._categories = max(sizes)
        self._last = torch.tensor(sizes) - 1
        filled = torch.arange(self._categories) <= self._last[:, None]
        self._numbers = torch.arange(self._categories, device=device)
        self._shape = (len(sizes), self._categories)
        self._all_equal = bool(filled.all())
        self._last = self._last.to(device)
        self._empty = ~filled.to(device)
        self._in_rectangle = filled.flatten().nonzero()[:, 0].to(device)
        self._in_vector = (filled.flatten().cumsum(0) - 1).to(device)
        self.uniform = self._vector((1 / filled.sum(1, keepdim=True)).expand(self._shape).to(device))
        """(A,) equal probabilities of the categories in each group."""

    def encode(self, choices: Tensor) -> Tensor:
        """Return the one-hots (..., A) of the categories (..., G) chosen in each group."""
        return self._vector((choices[..., None] == self._numbers).to(self.uniform.dtype))

    def choices(self, vectors: Tensor) -> Tensor:
        """Return the category (..., G) of the largest entry in each group of ``vectors`` (..., A)."""
        return self._rectangle(vectors, fill=-torch.inf).argmax(-1)

    def sample(self, probabilities: Tensor, noise: Tensor) -> Tensor:
        """Return random one-hots.

        Args:
            probabilities: (..., A), summing to 1 in each group.
            noise: (..., G) standard normal, one number for each choice.

        Returns:
            (..., A), the leading dimensions being those of both arguments broadcast.
        """
        cumulative = self._rectangle(probabilities, fill=0.0).cumsum(-1)
        choices = (normal_to_uniform(noise)[..., None] >= cumulative).sum(-1)
        # Rounding may leave a group's sum just below 1, and a uniform number above it.
        return self.encode(torch.minimum(choices, self._last))

    def _rectangle(self, vectors: Tensor, fill: float) -> Tensor:
        if self._all_equal:
            return vectors.reshape(*vectors.shape[:-1], *self._shape)
        rectangle = vectors[..., self._in_vector].reshape(*vectors.shape[:-1], *self._shape)
        return rectangle.masked_fill(self._empty, fill)

    def _vector(self, rectangle: Tensor) -> Tensor:
        flat = rectangle.flatten(-2)
        return flat if self._all_equal else flat[..., self._in_rectangle]
