"""A file in LeWorldModel's layout, and what a store holds of it, for the tests of importing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forethought.envs import EpisodeStore

h5py = pytest.importorskip("h5py", reason="needs the extra hdf5")
hdf5plugin = pytest.importorskip("hdf5plugin", reason="needs the extra hdf5")

LENGTHS = (5, 3, 7, 4)


class File:
    """A file as stable-worldmodel records it: the last action of an episode is NaN, and so is its first reward."""

    def __init__(self, path: Path, lengths: tuple[int, ...] = LENGTHS, **columns: Any) -> None:
        self.path, self.lengths, rows = path, np.array(lengths), sum(lengths)
        self.offsets = np.cumsum(self.lengths) - self.lengths
        rng = np.random.default_rng(len(lengths))
        action = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
        action[self.offsets + self.lengths - 1] = np.nan
        reward = rng.normal(size=rows)
        reward[self.offsets] = np.nan
        terminated = np.zeros(rows, bool)
        terminated[self.offsets[1:] - 1] = True  # all episodes but the last
        self.columns = {
            "pixels": rng.integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8),
            "action": action,
            "reward": reward,
            "terminated": terminated,
            "proprio": rng.normal(size=(rows, 4)),
            "pos_agent": rng.normal(size=(rows, 2)),
            "ep_len": self.lengths.astype(np.int32),
            "ep_offset": self.offsets,
            "step_idx": np.concatenate([np.arange(length) for length in lengths]),
            "note": np.full(rows, b"text"),
            **columns,
        }
        self.write()

    def write(self) -> None:
        with h5py.File(self.path, "w") as file:
            for name, values in self.columns.items():
                if values is not None:
                    how = hdf5plugin.Blosc() if name == "pixels" else {}
                    file.create_dataset(name, data=values, chunks=True, **how)

    def of(self, name: str, episode: int) -> np.ndarray:
        return self.columns[name][self.offsets[episode] :][: self.lengths[episode]]


def stored(folder: Path) -> list[dict[str, np.ndarray]]:
    store = EpisodeStore.open(folder)
    return [store.episode(index) for index in range(store.episodes)]
