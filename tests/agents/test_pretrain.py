"""Pretraining: a model learns from a store, the same whoever else draws random numbers, and resumes to the bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from forethought.agents.pretrain import Pretraining, PretrainingSettings
from forethought.core.errors import DivergedError, SettingsError
from forethought.envs import EpisodeStore
from forethought.world_model import LEWM_SMALL

VISION = {"image_size": 8, "patch_size": 4, "width": 16, "depth": 1, "heads": 2, "hidden": 16, "projector_hidden": 16}
TRANSFORMER = {"depth": 1, "heads": 2, "head_dims": 8, "hidden": 16, "projector_hidden": 16, "dropout": 0.2}
MODEL = LEWM_SMALL.replace(latent_dims=8, vision=VISION, transformer=TRANSFORMER, directions=8, block=2).to_dict()
SMALL = {"model": MODEL, "updates": 12, "batch_size": 4, "learner": {"learning_rate": 1e-3}}


def recorded(lengths: tuple[int, ...] = (9, 12, 3, 20, 15), shape: tuple[int, ...] = (8, 8, 3)) -> EpisodeStore:
    """Return a store of episodes of these lengths, of random images or vectors, whose first action is their number."""
    store, rng = EpisodeStore(shape, 2), np.random.default_rng(0)
    for number, length in enumerate(lengths):
        image = rng.integers(0, 256, (length + 1, *shape)).astype(np.uint8 if len(shape) == 3 else np.float32)
        actions = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
        actions[:, 0] = number / 10
        store.add_episode(image, actions, np.zeros(length, np.float32), False, True)
    return store


def pretraining(store: EpisodeStore | None = None, seed: int = 0, **changes: object) -> Pretraining:
    return Pretraining(store or recorded(), PretrainingSettings.from_dict({**SMALL, **changes}), seed)


def weights(training: Pretraining) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in training.model.state_dict().values()]


def same(one: Pretraining, other: Pretraining) -> bool:
    return all(torch.equal(*pair) for pair in zip(weights(one), weights(other), strict=True))


@pytest.mark.filterwarnings("ignore:Updates in bf16 are slow here")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_checkpoint_continues_bit_for_bit_whoever_draws_random_numbers(precision: str) -> None:
    compute = {"precision": precision}
    unbroken, stopped = pretraining(compute=compute), pretraining(compute=compute)
    for _ in range(12):
        unbroken.learn()
    for _ in range(5):
        torch.rand(3)
        stopped.learn()
    checkpoint = stopped.checkpoint()
    for _ in range(2):
        stopped.learn()  # what was saved must not change with it
    resumed = pretraining(compute=compute)
    resumed.restore(checkpoint)
    assert resumed.updates == 5
    torch.manual_seed(7)
    state = torch.get_rng_state()
    for _ in range(7):
        resumed.learn()
        resumed.health()  # looking changes nothing
    assert torch.equal(torch.get_rng_state(), state), "the user's generator is not touched"
    assert same(resumed, unbroken)
    assert not same(resumed, pretraining(seed=1))


def test_held_out_episodes_are_never_learned_from() -> None:
    training = pretraining(held_out=0.3)
    cut = training.store.cut
    learned, judged = set(), set()

    def note(seen: set[float]):
        def noting(starts, spec):
            clip = cut(starts, spec)
            seen.update(clip.actions[..., 0].flatten().tolist())
            return clip

        return noting

    training.store.cut = note(learned)  # type: ignore[method-assign]
    for _ in range(12):
        training.learn()
    training.store.cut = note(judged)  # type: ignore[method-assign]
    training.health()
    assert learned
    assert judged
    assert not learned & judged
    assert len(learned | judged) == 4, "all but the one that is too short for a clip"
    assert training.short == 1


def test_an_epoch_goes_once_through_all_clips_in_an_order_of_its_own() -> None:
    training = pretraining(batch_size=5)
    batches = len(training._starts) // 5
    epochs = [np.concatenate([training._batch(epoch * batches + i) for i in range(batches)]) for epoch in range(2)]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == batches * 5
    assert not np.array_equal(*epochs)
    np.testing.assert_array_equal(training._batch(0), epochs[0][:5])


def test_the_learning_rate_rises_and_falls_along_a_cosine() -> None:
    settings = PretrainingSettings(updates=100, warm_up=0.1)
    pace = [settings.pace(update) for update in range(100)]
    assert pace[:10] == pytest.approx([(update + 1) / 10 for update in range(10)])
    assert pace[10] == 1.0
    assert pace[55] == pytest.approx(0.5)
    assert pace[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    training = pretraining()
    rates = []
    for _ in range(12):
        training.learn()
        rates.append(training.learner.optimization._optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3 * training.settings.pace(update) for update in range(12)])


def test_actions_are_encoded_by_their_statistics_where_it_learns() -> None:
    training = pretraining(held_out=0.3)
    rows = training.store.arrays()
    learned = np.isin(rows["episode_of_row"], rows["episode_of_row"][training._starts])
    encoder = training.model.predictor.action_encoder
    np.testing.assert_allclose(encoder.mean, np.tile(rows["actions"][learned].mean(0), 2), rtol=1e-5)
    np.testing.assert_allclose(encoder.deviation, np.tile(rows["actions"][learned].std(0), 2), rtol=1e-5)


def test_vectors_are_learned_from_too() -> None:
    training = pretraining(recorded(shape=(3,)), model={"latent_dims": 4, "hidden": 8, "directions": 8, "heads": False})
    before = weights(training)
    first = float(training.learn()["prediction"])
    assert math.isfinite(first)
    assert not all(torch.equal(*pair) for pair in zip(before, weights(training), strict=True))
    assert training.model.normalizer.count > 0


def test_too_little_experience_is_refused_with_the_numbers() -> None:
    with pytest.raises(SettingsError, match=r"clips of 3 x 2 steps: .*of 3 episodes, 2 are shorter"):
        pretraining(recorded((5, 9, 2)))
    with pytest.raises(SettingsError, match=r"0 to learn from and 0 held out, with held_out = 0\.05; of 0 episodes"):
        pretraining(EpisodeStore((8, 8, 3), 2))


def test_a_loss_that_is_not_finite_stops_it() -> None:
    training = pretraining()
    with torch.no_grad():
        training.model.predictor.norm.weight.fill_(math.nan)
    with pytest.raises(DivergedError, match="Update 1 had a loss"):
        training.learn()
