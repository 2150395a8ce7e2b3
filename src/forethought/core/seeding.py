"""Seeds: every random stream is derived from integers and names, and none is global.

``derive_seed(run_seed, "exploration", env_index, episode)`` is the same number on every machine and version,
and changing any part gives an unrelated one.
"""

from __future__ import annotations

import hashlib
import operator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) from a run seed followed by the names and indices of the stream.

    Integers of any kind (Python's, NumPy's) count by their value; a float is a ``TypeError``.
    """
    text = "\x1f".join(repr(part if isinstance(part, str) else operator.index(part)) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def drawn_seed(seed: int | None) -> int:
    """Return ``seed``, or one that nobody can foretell for ``None``."""
    return int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else operator.index(seed)


def numpy_generator(*parts: int | str) -> np.random.Generator:
    """Return a NumPy generator seeded by :func:`derive_seed`."""
    return np.random.Generator(np.random.PCG64(derive_seed(*parts)))


def torch_generator(*parts: int | str) -> torch.Generator:
    """Return a CPU torch generator seeded by :func:`derive_seed`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(*parts))
