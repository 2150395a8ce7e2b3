"""What encoders see of images: lightness alone, so that light and hues make no difference, and from the same place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forethought.core.errors import SettingsError
from forethought.envs import make_env, perturb
from forethought.world_model import VisionSettings
from forethought.world_model.vision import image_normalizer

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(60, 190, (300, 16, 16, 3), dtype=torch.uint8, generator=GENERATOR)  # no colour is cut off


def seen(normalize):
    normalizer = image_normalizer(VisionSettings(image_size=16, normalize=normalize))
    normalizer.update(IMAGES)
    return normalizer


@pytest.mark.parametrize("control", ["brightness", "colour"])
def test_light_and_hues_make_no_difference_to_lightness_and_do_to_colours(control):
    other = torch.from_numpy(perturb(make_env("two-room"), control).observe(IMAGES[0].numpy()))
    for normalize, same in (("lightness", True), ("mean_image", False)):
        normalizer = seen(normalize)
        difference = normalizer(IMAGES[0]) - normalizer(other)
        assert (difference.abs().mean() < 0.05) == same  # but for rounding, of a spread of 1


@pytest.mark.parametrize("normalize", ["lightness", "mean_image", "imagenet"])
def test_images_look_the_same_where_learning_is_in_half_precision(normalize):
    normalizer = seen(normalize)
    with torch.autocast("cpu", torch.bfloat16):
        learned_from = normalizer(IMAGES[:4])
    assert torch.equal(learned_from, normalizer(IMAGES[:4]))


def test_lightness_is_measured_from_the_mean_image_in_units_of_its_spread():
    normalizer = seen("lightness")
    values = normalizer(IMAGES)
    assert values.shape == IMAGES.shape
    assert torch.allclose(values.mean(0), torch.zeros(16, 16, 3), atol=0.02)
    assert float(values.square().mean()) == pytest.approx(1, abs=0.01)
    assert torch.equal(values[..., 0], values[..., 2])
    assert torch.allclose(normalizer(IMAGES[:4].view(2, 2, 16, 16, 3)).flatten(0, 1), values[:4])


def walls_and_a_thing(places):
    """Pictures of a fixed room, grey on black, with something light at each of ``places`` (B, 2)."""
    room = torch.zeros(len(places), 32, 32, 3, dtype=torch.uint8)
    room[:, 6:26, 6:26], room[:, 14:18, 6:20] = 100, 0
    for image, (row, column) in zip(room, places.tolist(), strict=True):
        image[row : row + 2, column : column + 2] = 220
    return room


@pytest.mark.parametrize("normalize", ["lightness", "mean_image"])
@pytest.mark.parametrize("learning", [False, True])
def test_a_camera_that_was_pushed_makes_no_difference_where_it_is_steadied_but_to_learning(normalize, learning):
    places = torch.randint(8, 13, (200, 2), generator=torch.Generator().manual_seed(1))
    images = walls_and_a_thing(places)
    plain, steady = (
        image_normalizer(VisionSettings(image_size=32, patch_size=16, normalize=normalize, steady=wanted))
        for wanted in (False, True)
    )
    for normalizer in (plain, steady):
        normalizer.update(images)
        normalizer.train(learning)
    assert torch.equal(steady(images), plain(images))  # they are in place
    for down, right in ((0, 4), (3, -2), (-4, -4)):
        pushed = images.roll((down, right), (1, 2))  # what is at the edge is black
        assert not torch.allclose(plain(pushed), plain(images))
        assert torch.equal(steady(pushed), (plain(pushed) if learning else plain(images)))
    assert torch.equal(steady(images.view(2, 100, 32, 32, 3)).flatten(0, 1), plain(images))
    assert torch.equal(steady(pushed[0]), plain(pushed[0] if learning else images[0]))
    other = 220 - images  # nor does it look like the mean image anywhere else
    assert torch.equal(steady(other), plain(other))


def test_in_two_rooms_the_control_of_the_camera_is_not_seen_at_all():
    env = make_env("two-room")
    images = np.stack([env.reset(seed=seed)[0] for seed in range(40)])
    pushed = np.stack([perturb(env, "camera").observe(image) for image in images])
    normalizer = image_normalizer(VisionSettings(normalize="lightness", steady=True)).eval()
    normalizer.update(torch.from_numpy(images))
    assert (pushed != images).any((1, 2, 3)).all()
    difference = normalizer(torch.from_numpy(pushed)) - normalizer(torch.from_numpy(images))
    assert difference.abs().max() < 1e-4  # means are taken in another order


def test_without_a_mean_image_nothing_can_be_out_of_place():
    with pytest.raises(SettingsError, match="needs a mean image"):
        VisionSettings(normalize="imagenet", steady=True)


def test_what_rounding_makes_of_an_image_is_nothing_and_what_is_more_is_something():
    normalizer = image_normalizer(VisionSettings(image_size=16, normalize="lightness"))
    plain = torch.full((3, 16, 16, 3), 100, dtype=torch.uint8)
    plain[0, 4, 4] = 90
    normalizer.update(plain)
    image = plain[1].clone()
    image[8, 8], image[9, 9] = 101, 103
    values = normalizer(image)
    assert not values[8, 8].any()
    assert (values[9, 9] > 0).all()


def test_a_black_image_is_a_finite_one():
    assert seen("lightness")(torch.zeros(1, 16, 16, 3, dtype=torch.uint8)).isfinite().all()
