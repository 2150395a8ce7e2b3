"""Released weights become a run that plans, with the statistics of the recorded actions and nothing else changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forethought.core.errors import CheckpointError, RunFolderError, SettingsError
from forethought.envs import EpisodeStore
from forethought.evaluations.adopting import adopt
from forethought.evaluations.pretraining import load_pretrained
from forethought.world_model import load_lewm

from ..world_model.lewm_reference import ReferenceLeWM
from ..world_model.test_lewm import SMALL, config_of, randomised, release


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    return release(folder, randomised(ReferenceLeWM(**SMALL)), config_of(**SMALL))


def recorded(folder, size=32, dims=2):
    """Return the folder of a store of random images, whose actions have the deviations 0.5, 0.25 and so on."""
    store, rng = EpisodeStore((size, size, 3), dims, folder=folder), np.random.default_rng(0)
    for _ in range(8):
        seen = rng.integers(0, 256, (31, size, size, 3), dtype=np.uint8)
        actions = 0.1 + rng.choice([-1, 1], (30, dims)) * 0.5 ** np.arange(1, dims + 1)
        store.add_episode(seen, actions.astype(np.float32), np.zeros(30, np.float32), False, True)
    store.flush()
    return folder


def test_a_release_becomes_a_run(weights, tmp_path, forethought):
    store = recorded(tmp_path / "store")
    outcome = forethought("adopt", weights.parent, store, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "parameters, all of them loaded" in outcome.out
    assert "3 steps ahead" in outcome.out
    released, (model, source) = load_lewm(weights), load_pretrained(tmp_path / "run")
    encoder = model.predictor.action_encoder
    torch.testing.assert_close(encoder.mean, torch.full((10,), 0.1), atol=0.05, rtol=0)
    torch.testing.assert_close(encoder.deviation, torch.tensor([0.5, 0.25] * 5), atol=0.02, rtol=0)
    for name, tensor in released.state_dict().items():
        assert name.endswith(("action_encoder.mean", "action_encoder.deviation")) or torch.equal(
            tensor, model.state_dict()[name]
        )
    assert source == {}
    learned = forethought("time-to-goal", tmp_path / "run", "--updates", 2, "--batch-size", 8)
    assert learned.code == 0, learned.err


def test_what_does_not_fit_is_named_and_leaves_nothing(weights, tmp_path):
    with pytest.raises(SettingsError, match=r"images of shape \(32, 32, 3\), not observations of shape \(16, 16, 3\)"):
        adopt(weights, recorded(tmp_path / "small", size=16), tmp_path / "run")
    with pytest.raises(SettingsError, match="blocks of 10 action dimensions, and 5 steps of the store have 15"):
        adopt(weights, recorded(tmp_path / "wide", dims=3), tmp_path / "run")
    with pytest.raises(CheckpointError):
        adopt(tmp_path, tmp_path / "small", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    store = recorded(tmp_path / "store")
    adopt(weights, store, tmp_path / "run")
    with pytest.raises(RunFolderError, match="holds a run already"):
        adopt(weights, store, tmp_path / "run")
