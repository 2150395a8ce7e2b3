"""Stores filled by a script, so that every number tells where it belongs, for the tests of stores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from forethought.envs import EpisodeStore, Transition

RUNNING, TERMINATED, TRUNCATED, CUT = range(4)


def transition(after: Any, **changes: Any) -> Transition:
    """A plain step in every environment that led to ``after`` (B, 2)."""
    after = np.asarray(after, np.float32)
    no, yes, zero = np.zeros(len(after), bool), np.ones(len(after), bool), np.zeros(len(after), np.float32)
    plain = Transition(after, zero, no, no, yes, after, no, [{} for _ in after])
    return dataclasses.replace(plain, **changes)


def fill(store: EpisodeStore, script: list[list[int]], after_step: Callable[[], None] = lambda: None) -> None:
    """Step all environments together; ``script[t][b]`` says what happens to b. Observations are (episode, time).

    Actions are the environment and the time, rewards the time, so that every number tells where it belongs.
    """
    batch = store.num_envs
    episode, time, episodes = np.arange(batch), np.zeros(batch), batch
    store.begin(np.stack([episode, time], axis=1))
    for events in script:
        what = np.array(events)
        actions = np.stack([episode, time], axis=1)
        rewards = np.where(what == CUT, 0, time + 1).astype(np.float32)
        after = np.stack([episode, time + 1], axis=1).astype(np.float32)
        started = what != RUNNING
        for index in np.flatnonzero(started):
            episode[index], episodes = episodes, episodes + 1
        time = np.where(started, 0, time + 1)
        observations = np.stack([episode, time], axis=1).astype(np.float32)
        store.append(
            actions,
            transition(
                after,
                rewards=rewards,
                terminated=what == TERMINATED,
                truncated=what == TRUNCATED,
                valid=what != CUT,
                observations=observations,
                started=started,
            ),
        )
        after_step()


scripts = st.integers(1, 3).flatmap(
    lambda batch: st.lists(
        st.lists(
            st.sampled_from([RUNNING, RUNNING, RUNNING, TERMINATED, TRUNCATED, CUT]), min_size=batch, max_size=batch
        ),
        min_size=1,
        max_size=25,
    )
)


def recorded(steps: int, seed: int = 0) -> dict[str, Any]:
    """An episode with states, for a store of observations (2,), actions (1,) and states (3,)."""
    rng = np.random.default_rng(seed)
    shapes = {"observations": (steps + 1, 2), "actions": (steps, 1), "rewards": (steps,), "states": (steps + 1, 3)}
    return {name: rng.uniform(-1, 1, shape) for name, shape in shapes.items()}
