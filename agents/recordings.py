"""Recordings: episodes of an :class:`EpisodeStore` that an agent learns from beside its own steps.

A fixed share of every batch is drawn from them, as half of each is in RLPD (arXiv 2302.02948): however many steps were
recorded, the agent's own count from the first on, and however long it learns, what was recorded is not forgotten.
They are only read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.clip import Clip, ClipSpec
from ..core.errors import CheckpointError, SettingsError
from ..core.files import read_json
from ..envs import ActionCodec, EpisodeStore, ObservationCodec
from ..envs.columns import read_header
from ..envs.store import SOURCE_FILE

FINGERPRINT_BYTES = 2**26
"""Most bytes of a column that are looked at, in rows spread evenly over it."""


class Recordings:
    """The episodes that are in a store now.

    Args:
        store: the folder of a store, which is opened to be read only, or a store.

    Attributes:
        store: where they are.
        rows: environment steps that are used; what is added later is not.
        folder: absolute, or ``None`` for a store in memory.
        fingerprint: of the rows, by which they are known again.
        reward_size: mean absolute reward.

    Raises:
        CheckpointError: there is no store, or it is damaged.
        SettingsError: it holds no step.
    """

    def __init__(self, store: EpisodeStore | str | os.PathLike[str]) -> None:
        if isinstance(store, EpisodeStore):
            self.store = store
        elif isinstance(store, str | os.PathLike):
            if read_header(Path(store)) is None:
                raise CheckpointError(f"{store} holds no episode store; forethought collect and import make one.")
            self.store = EpisodeStore.open(store, read_only=True)
        else:
            raise SettingsError(f"store is the folder of an episode store, or one, not {type(store).__name__}.")
        self.folder = None if self.store.folder is None else os.path.abspath(self.store.folder)
        self.rows = self.store.rows
        if not self.rows:
            raise SettingsError(f"{self} hold no step: record some first.")
        self.fingerprint = _fingerprint(self.store)
        self.reward_size = float(np.abs(self.store.arrays()["rewards"]).mean(dtype=np.float64))

    def __str__(self) -> str:
        return "The recordings" if self.folder is None else f"The recordings in {self.folder}"

    def require_spaces(self, observations: ObservationCodec, actions: ActionCodec) -> None:
        """Raise :class:`SettingsError` unless they are of these observations and actions."""
        held = self.store.observation_shape, self.store.action_dims
        wanted = observations.shape, actions.dims
        if held != wanted:
            raise SettingsError(
                f"{self} are of another environment: their observations and actions have the shapes {held[0]} and "
                f"{(held[1],)}, those of the agent's {wanted[0]} and {(wanted[1],)}."
            )
        recorded = self.store.arrays()["actions"]
        for some in np.array_split(recorded, -(-self.rows // 65_536)):
            again = actions.encode(actions.decode(some)) if actions.discrete else some.clip(-1, 1)
            if not np.array_equal(again, some):
                kind = "one-hots of the agent's choices" if actions.discrete else "within -1 and 1"
                raise SettingsError(f"{self} are of another environment: their actions are not {kind}.")

    def require_task(self, task: Any) -> None:
        """Raise :class:`SettingsError` if they are known to be of another task, where ``task`` is the name of one."""
        if self.folder is None or not isinstance(task, str) or not (path := Path(self.folder) / SOURCE_FILE).exists():
            return
        source = read_json(path)
        recorded, arguments = source.get("task"), source.get("env") or {}
        if recorded and (recorded != task or arguments):
            extra = f" with the arguments {arguments}" if arguments else ""
            raise SettingsError(
                f"{self} are of the task {recorded}{extra}, not of {task}: rewards and ends may mean something else "
                "there. If only the movements are the same, set recorded_rewards = False; if all is, give the "
                "environment as a factory."
            )

    def sample(self, batch: int, spec: ClipSpec, rng: np.random.Generator, endings: float, rewarded: bool) -> Clip:
        """Return ``batch`` clips, drawn as the agent's own are; see :meth:`EpisodeStore.sample`.

        Args:
            batch: clips.
            spec: of the clips.
            rng: where the random rows come from.
            endings: share of clips that reach a terminal state.
            rewarded: whether rewards and ends are those of the agent's task.
        """
        clip = self.store.sample(batch, spec, rng, slice(0, self.rows), endings if rewarded else 0.0)
        return clip if rewarded else replace(clip, rewarded=torch.zeros(batch))

    def identity(self) -> dict[str, Any]:
        """Return plain data by which :meth:`require_same` knows them again."""
        return {"folder": self.folder, "rows": self.rows, "fingerprint": self.fingerprint}


def identity_of(store: EpisodeStore) -> dict[str, Any]:
    """Return plain data by which :func:`seen_again` knows the episodes of a store again."""
    return {"rows": store.rows, "episodes": store.episodes, "fingerprint": _fingerprint(store)}


def seen_again(folder: str | os.PathLike[str], identity: Mapping[str, Any]) -> EpisodeStore:
    """Open a store to be read only, and show those of its episodes alone that :func:`identity_of` was told of.

    Raises:
        CheckpointError: there is none, or it does not begin with these.
    """
    store = EpisodeStore.open(folder, read_only=True)
    try:
        store.look_back(int(identity["rows"]), int(identity["episodes"]))
        same = _fingerprint(store) == identity["fingerprint"]
    except SettingsError:
        same = False
    if not same:
        raise CheckpointError(
            f"The store in {folder} does not begin with the {int(identity['rows']):,} steps that were learned from: it "
            "was changed, or is another one. Bring those back; more may follow them."
        )
    return store


def require_same(saved: dict[str, Any] | None, now: Recordings | None) -> None:
    """Raise :class:`CheckpointError` unless what a checkpoint was learning from is what is there now."""
    if saved is None and now is not None:
        raise CheckpointError("The checkpoint is of an agent that learned without recordings: leave the store out.")
    if saved is None or (now is not None and now.fingerprint == saved["fingerprint"]):
        return
    if now is None:
        raise CheckpointError(f"The checkpoint is of an agent that learned from {_described(saved)} too: give them.")
    raise CheckpointError(
        f"{now} have changed, or are others: there are {now.rows:,} steps, and the checkpoint is of an agent that "
        f"learned from {_described(saved)}. Bring those back, or train anew."
    )


def described_lack(saved: dict[str, Any]) -> str:
    """Return the message for an agent that was loaded without its recordings and is to learn."""
    return (
        f"This agent learned from {_described(saved)}, beside its own steps: call set_store(folder) to go on with "
        "them, or set_store(None) to go on without."
    )


def _described(saved: dict[str, Any]) -> str:
    where = f" in {saved['folder']}" if saved["folder"] else ""
    return f"the recordings{where} ({saved['rows']:,} steps)"


def _fingerprint(store: EpisodeStore) -> str:
    """Return a digest of what is learned from; of columns above 64 MiB, of rows spread evenly over them."""
    digest = hashlib.sha256(
        json.dumps([store.observation_shape, store.action_dims, store.rows, store.episodes]).encode()
    )
    data = store.arrays()
    for name in ("observations", "actions", "rewards", "terminated", "successors", "latest", "closed"):
        column = data[name]
        count = min(len(column), max(FINGERPRINT_BYTES // max(column[:1].nbytes, 1), 1))
        some = column if count == len(column) else column[np.linspace(0, len(column) - 1, count).astype(np.int64)]
        digest.update(np.ascontiguousarray(some).data)
    return digest.hexdigest()
