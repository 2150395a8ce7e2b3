"""Jitter: another light in every image while learning, and in none otherwise."""

from __future__ import annotations

import numpy as np
import torch

from forethought.core.clip import Clip
from forethought.envs.perturbed_pixels import _GREY
from forethought.world_model import JEPA, JEPASettings, VisionSettings
from forethought.world_model.vision import jittered

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(40, 120, (6, 5, 8, 8, 3), dtype=torch.uint8, generator=GENERATOR)


def test_every_image_is_seen_in_a_light_of_its_own():
    torch.manual_seed(0)
    greys = torch.full((500, 8, 8, 3), 100, dtype=torch.uint8)
    seen = jittered(greys, 0.3)
    assert torch.allclose(seen, seen[:, :1, :1, :1].expand_as(seen), atol=1e-3)  # grey stays grey, all over the image
    light = seen[:, 0, 0, 0]
    assert 70 <= light.min() < 75
    assert 125 < light.max() <= 130
    assert light.unique().numel() == 500
    assert torch.equal(jittered(greys, 0.0), greys.float())


def test_hues_turn_and_greyness_does_not():
    torch.manual_seed(0)
    red = torch.tensor([150.0, 50.0, 50.0]).expand(300, 8, 8, 3)
    seen = jittered(red, 0.5)[:, 0, 0]
    share = seen.sum(1) / 250
    assert ((share > 0.499) & (share < 1.501)).all()
    strength = (seen / share[:, None] - 250 / 3).norm(dim=1)
    assert torch.allclose(strength, (red[0, 0, 0] - 250 / 3).norm().expand(300), rtol=0.02)
    assert (seen[:, 1] > seen[:, 0]).any()  # as far as yellow and beyond
    assert np.isclose(_GREY.sum(), 1)


def test_only_learning_is_jittered():
    vision = VisionSettings(image_size=8, patch_size=4, width=8, depth=1, heads=2, hidden=8, projector_hidden=8)
    clip = Clip(IMAGES, torch.zeros(6, 4, 2), torch.zeros(6, 4), torch.zeros(6, 4), torch.ones(6, 4))
    predictions = {}
    for jitter in (0.0, 0.3):
        torch.manual_seed(1)
        small = JEPASettings(latent_dims=4, hidden=8, directions=4, heads=False)
        model = JEPA((8, 8, 3), 2, small.replace(vision=vision.replace(jitter=jitter)))
        assert model.draws == (jitter > 0)
        model.normalizer.update(IMAGES.flatten(0, 1))
        directions = model.draw_directions(torch.Generator().manual_seed(0))
        for learning in (False, True):  # learning moves what the projection normalises by
            model.train(learning)
            predictions[jitter, learning] = [model(clip, directions).prediction.item() for _ in range(2)]
    first, second = predictions[0.3, True]
    assert first != second
    assert predictions[0.3, False][0] == predictions[0.3, False][1] == predictions[0.0, False][0]
