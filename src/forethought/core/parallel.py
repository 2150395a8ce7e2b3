"""Data parallelism: several processes (ranks) learn one model, each from its own share of every batch.

Every rank holds the whole model. Whatever a loss takes over the batch (sums, counts, statistics), it takes over the
shares of all ranks by :meth:`Ranks.total`, so that each rank has the loss of the whole batch. A backward pass then
descends the sum of these equal losses: the gradient of a total is the total of the gradients, and the mean of all
ranks' gradients is that of the whole batch, up to rounding. With one process, nothing is summed and nothing changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from .errors import LostRankError, SettingsError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_FAILURE = "forethought/failure"


class Ranks:
    """The processes that learn together, seen from one of them; :func:`joined` returns them.

    What sums, copies or compares is collective: every rank calls it, in the same order.

    Args:
        rank: the number of this process, from 0.
        count: how many there are.
        store: where a rank leaves word why it failed.
    """

    def __init__(self, rank: int = 0, count: int = 1, store: Store | None = None) -> None:
        self.rank, self.count, self._store = rank, count, store

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a copy of a model learns among the same ranks

    @property
    def own_gpus(self) -> bool:
        """Whether this machine has a GPU for every rank on it, which each rank then computes on."""
        return self.count == 1 or int(os.environ.get("LOCAL_WORLD_SIZE", self.count)) <= torch.cuda.device_count()

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Return this rank's part of ``rows``, whose number is a multiple of the ranks'."""
        size = len(rows) // self.count
        return rows[self.rank * size : (self.rank + 1) * size]

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over the ranks, through which gradients flow."""
        return _Total.apply(values, self) if self.count > 1 else values  # type: ignore[no-untyped-call]

    def sums(self, *tensors: Tensor) -> Sequence[Tensor]:
        """Return the sum of each tensor over the ranks, without gradient, in one exchange."""
        if self.count == 1:
            return tensors
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        with self._loss_explained():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks."""
        if self.count > 1 and (own := list(tensors)):
            for tensor, total in zip(own, self.sums(*own), strict=True):
                torch.div(total, self.count, out=tensor)

    def largest(self, value: int) -> int:
        """Return the largest ``value`` of all ranks."""
        if self.count == 1:
            return value
        values = torch.tensor([value])
        with self._loss_explained():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def wait(self) -> None:
        """Return when all ranks have come here."""
        self.largest(0)

    def agree(self, *values: int) -> bool:
        """Return whether all ranks gave the same values."""
        return all(self.largest(value) == -self.largest(-value) for value in values)

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of rank 0."""
        for tensor in tensors if self.count > 1 else ():
            with self._loss_explained():
                dist.broadcast(tensor, 0)

    @contextmanager
    def _loss_explained(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise self.lost() from error

    def lost(self) -> LostRankError:
        """Return the error for an exchange that failed, with the word that the rank to blame has left."""
        try:
            if self._store is not None and self._store.check([_FAILURE]):
                return LostRankError(self._store.get(_FAILURE).decode(), explained=True)
        except RuntimeError:  # as in :meth:`leave_word`
            pass
        return LostRankError(
            f"Another process that learned along with rank {self.rank} of {self.count} is gone. What was saved before "
            "is intact: go on with --resume."
        )

    def leave_word(self, error: BaseException) -> bool:
        """Leave word why this rank failed, unless another has before, and return whether it is the first to fail."""
        word = f"Rank {self.rank} of {self.count} failed: {type(error).__name__}: {error}"
        try:
            return self._store is None or self._store.compare_set(_FAILURE, "", word).decode() == word
        except RuntimeError:  # the store has gone with the rank that kept it
            return False


ALONE = Ranks()
"""One process that learns by itself."""


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that a launcher such as torchrun has started, if it has; they leave together.

    Each takes the GPU of its number on its machine, where there are any. Where several ranks raise an error, or one
    does and the others miss it, one rank alone raises the error itself, and the others a :class:`LostRankError` that
    is ``explained``.

    Raises:
        SettingsError: the environment variables by which the launcher tells a process its place are not right.
        LostRankError: another process has failed, or is gone.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    ranks, failed = _join(), True
    try:
        yield ranks
        ranks.wait()  # because a launcher may end all when the first one ends
        failed = False
    except SystemExit:
        raise
    except BaseException as error:
        if ranks.leave_word(error) or not isinstance(error, Exception) or getattr(error, "explained", False):
            raise
        raise ranks.lost() from error
    finally:
        if not (failed and torch.cuda.is_available()):  # NCCL would wait for a rank that is gone
            dist.destroy_process_group()


def _join() -> Ranks:
    from torch.distributed.rendezvous import rendezvous

    on_gpu = torch.cuda.is_available()
    try:
        local = int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")))
        if on_gpu and local < torch.cuda.device_count():
            torch.cuda.set_device(local)
        store, rank, count = next(rendezvous("env://"))
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=count)
    except (ValueError, RuntimeError) as error:
        raise SettingsError(
            f"WORLD_SIZE = {os.environ['WORLD_SIZE']} says that several processes learn together, and they do not find "
            f"each other: {error}. Start them with torchrun, or unset WORLD_SIZE."
        ) from error
    return Ranks(rank, count, store)


class _Total(torch.autograd.Function):
    """The sum over the ranks, of values and of gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        (total,) = ranks.sums(values)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        (total,) = ctx.ranks.sums(outer[0])
        return total, None
