"""Spaces as JSON documents, so that a saved agent knows what it observes and does without its environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..core.errors import CheckpointError, UnsupportedSpaceError


def describe_space(space: gym.Space[Any]) -> dict[str, Any]:
    """Return plain data from which :func:`restore_space` builds an equal space.

    Raises:
        UnsupportedSpaceError: for other spaces than Box, Discrete, MultiDiscrete, MultiBinary and Dicts of them.
    """
    if isinstance(space, spaces.Box):
        bounds = {side: [_number(value) for value in getattr(space, side).ravel()] for side in ("low", "high")}
        return {"kind": "Box", "shape": list(space.shape), "dtype": space.dtype.name, **bounds}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        start = np.asarray(space.start)
        return {
            "kind": "MultiDiscrete",
            "nvec": space.nvec.tolist(),
            "start": start.tolist(),
            "dtype": space.dtype.name,
        }
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "n": list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {"kind": "Dict", "spaces": {key: describe_space(part) for key, part in space.spaces.items()}}
    raise UnsupportedSpaceError(f"A space of type {type(space).__name__} cannot be written to a file.")


def restore_space(document: Mapping[str, Any]) -> gym.Space[Any]:
    """Return the space that :func:`describe_space` described; raise :class:`CheckpointError` for anything else."""
    try:
        kind = document["kind"]
        if kind == "Box":
            shape, dtype = tuple(document["shape"]), np.dtype(document["dtype"])
            low, high = (_array(document[side], shape, dtype) for side in ("low", "high"))
            return spaces.Box(low, high, dtype=dtype.type)
        if kind == "Discrete":
            return spaces.Discrete(int(document["n"]), start=int(document["start"]))
        if kind == "MultiDiscrete":
            dtype = np.dtype(document["dtype"])
            return spaces.MultiDiscrete(np.array(document["nvec"]), dtype=dtype.type, start=np.array(document["start"]))
        if kind == "MultiBinary":
            return spaces.MultiBinary(document["n"])
        if kind == "Dict":
            parts = [(key, restore_space(part)) for key, part in document["spaces"].items()]
            return spaces.Dict(parts)  # of a dict, Gymnasium would sort the keys
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise CheckpointError(f"The file describes a space wrongly: {error}.") from error
    raise CheckpointError(f"The file describes a space of the unknown kind {kind!r}.")


def _number(value: Any) -> int | float | str:
    """Return a bound as JSON holds it: infinities, which JSON lacks, by name."""
    plain = value.item()
    return plain if isinstance(plain, int) or np.isfinite(plain) else str(plain)


def _array(values: list[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    plain = [float(value) if isinstance(value, str) else value for value in values]
    return np.array(plain, dtype=dtype).reshape(shape)
