"""Time to goal: how many steps lie between two observations, where straight lines mislead."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from forethought.agents.time_to_goal import TimeToGoalSettings, _rows, learn_time_to_goal
from forethought.core.errors import CheckpointError, SettingsError
from forethought.envs import EpisodeStore
from forethought.envs.transition import Transition
from forethought.world_model import Quasimetric, QuasimetricSettings

SMALL = TimeToGoalSettings(QuasimetricSettings(hidden=64, embedding=16), updates=600, batch_size=128, longest=60)
LENGTH = 40
"""Steps from one end of the corridor to the other."""


def place(step):
    """Return positions (..., 2) in a corridor bent like a horseshoe, whose ends are close to each other."""
    angle = np.asarray(step) / LENGTH * 1.8 * np.pi
    return np.stack([np.cos(angle), np.sin(angle)], -1).astype(np.float32)


def record(rng, episodes=60, steps=50):
    """Return a store of walks to and fro in the corridor, one step at a time."""
    store = EpisodeStore(2, 1)
    for _ in range(episodes):
        at = [int(rng.integers(LENGTH + 1))]
        way = rng.choice([-1, 1])
        for _ in range(steps):
            way = -way if rng.random() < 0.05 else way
            at.append(int(np.clip(at[-1] + way, 0, LENGTH)))
        zeros = np.zeros(steps, np.float32)
        store.add_episode(place(at), zeros[:, None], zeros, False, True)
    return store


@pytest.fixture(scope="module")
def store():
    return record(np.random.default_rng(0))


def sees(dims=2, block=2):
    """Return a world model whose latents are what it sees."""
    settings = SimpleNamespace(block=block)
    device = torch.device("cpu")
    return SimpleNamespace(
        observation_shape=(dims,), latent_dims=dims, settings=settings, device=device, encode=lambda seen: seen
    )


@pytest.fixture(scope="module")
def learned(store):
    measures = []
    quasimetric = learn_time_to_goal(sees(), store, settings=SMALL, on_update=lambda _, now: measures.append(now))
    return quasimetric, measures


def test_the_ends_of_a_bent_corridor_are_far_from_each_other(learned):
    quasimetric, measures = learned
    ends, middle = torch.from_numpy(place([0, LENGTH])), torch.from_numpy(place([LENGTH // 2]))
    with torch.no_grad():
        around, half = quasimetric(ends[0], ends[1]), quasimetric(ends, middle)
    assert around > 1.5 * half.max()  # though the straight line to the middle is the longer one by far
    assert 0.6 * LENGTH < around < 1.4 * LENGTH
    assert np.mean([now["too_long"] for now in measures[-100:]]) < 2 * SMALL.quasimetric.slack


def test_the_axioms_hold_whatever_was_learned():
    torch.manual_seed(0)
    quasimetric = Quasimetric(4, 10.0)
    a, b, c = torch.randn(3, 500, 4)
    with torch.no_grad():
        direct, detour = quasimetric(a, c), quasimetric(a, b) + quasimetric(b, c)
        assert (direct >= 0).all()
        assert (direct <= detour + 1e-4).all()
        near, far = a[:, None] + 1e-3 * torch.linspace(0, 1, 11)[:, None] * torch.randn(500, 1, 4), slice(1, None)
        hops = quasimetric(near[:, :-1], near[:, far])
        assert (quasimetric(near[:, 0], near[:, -1]) <= 1.0001 * hops.sum(1)).all(), "many small steps are a short cut"
        assert quasimetric(a, a).abs().max() == 0
        assert (quasimetric(a, b) - quasimetric(b, a)).abs().max() > 1e-3  # there may be one-way streets


def test_the_same_seed_learns_the_same_and_leaves_the_global_generators_alone(store):
    settings = SMALL.replace(updates=3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (learn_time_to_goal(sees(), store, settings=settings, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.log_scale, other.log_scale)


def test_pairs_are_of_one_episode_even_where_episodes_alternate():
    store, never, always = EpisodeStore(1, 1, num_envs=2), np.zeros(2, bool), np.ones(2, bool)
    store.begin(np.array([[0.0], [100.0]], np.float32))
    for step in range(1, 6):
        now = np.array([[step], [100 + step]], np.float32)
        led = Transition(now, np.zeros(2, np.float32), never, never, always, now, never, [{}, {}])
        store.append(np.zeros((2, 1), np.float32), led)
    rows, left = _rows(store, None, 100, 0)
    seen = store.arrays()["observations"][rows, 0]
    for index, more in enumerate(left):
        assert seen[index + more] == seen[index] + more
    assert sorted(left) == sorted([*range(5), *range(5)])


def test_only_the_episodes_that_are_given_are_learned_from(store):
    episodes = np.array([3, 17])
    rows, _ = _rows(store, episodes, 10**9, 0)
    assert set(store.arrays()["episode_of_row"][rows]) == {3, 17}
    few, _ = _rows(store, None, 70, 0)
    assert len(few) == 100  # whole episodes of 50


def test_what_does_not_fit_is_named(store):
    with pytest.raises(SettingsError, match=r"observations of the shape \(3,\).* are \(2,\)"):
        learn_time_to_goal(sees(dims=3), store)
    with pytest.raises(SettingsError, match="No two observations"):
        learn_time_to_goal(sees(), record(np.random.default_rng(0), 3, 1))


def test_it_travels_by_file(learned, tmp_path):
    quasimetric, _ = learned
    again, source = Quasimetric.load(quasimetric.save(tmp_path / "time", {"store": "walks"}))
    a, b = torch.randn(2, 7, 2)
    assert torch.equal(again(a, b), quasimetric(a, b))
    assert source == {"store": "walks"}
    assert (again.longest, again.settings) == (quasimetric.longest, quasimetric.settings)
    (tmp_path / "time.zip").write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError):
        Quasimetric.load(tmp_path / "time.zip")
