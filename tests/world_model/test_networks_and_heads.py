"""Normaliser, predictor and heads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from forethought.world_model import (
    ContinueHead,
    ResidualPredictor,
    RunningNormalizer,
    TwoHot,
    TwoHotHead,
    symexp,
    symlog,
)
from forethought.world_model.networks import SIMPLEX, LatentNorm
from forethought.world_model.vision import MeanImageNormalizer, VisionSettings, image_normalizer


def test_statistics_gathered_in_pieces_are_those_of_the_whole():
    data = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.1]) + 7
    normalizer = RunningNormalizer(3)
    for piece in data.split(37):
        normalizer.update(piece)
    whole = (data - data.mean(0)) / data.std(0, unbiased=False)
    torch.testing.assert_close(normalizer(data), whole, rtol=1e-3, atol=1e-3)


def test_a_dimension_that_never_varies_becomes_zero_and_harmless():
    normalizer = RunningNormalizer(2)
    normalizer.update(torch.stack([torch.randn(100), torch.full((100,), 3.0)], 1))
    assert torch.equal(normalizer(torch.tensor([[0.0, 3.0]]))[:, 1], torch.zeros(1))
    assert normalizer(torch.tensor([[0.0, 1e6]]))[0, 1] == normalizer.limit


def test_before_any_data_observations_pass_as_they_are():
    assert torch.equal(RunningNormalizer(2)(torch.tensor([[0.5, -2.0]])), torch.tensor([[0.5, -2.0]]))


def test_statistics_travel_with_the_state_dict():
    first, second = RunningNormalizer(2), RunningNormalizer(2)
    first.update(torch.randn(50, 2) + 4)
    second.load_state_dict(first.state_dict())
    probe = torch.randn(5, 2)
    assert torch.equal(first(probe), second(probe))


def scene(places):
    """Return pictures (B, 16, 16, 3) of a red dot before a wall that never moves."""
    images = torch.full((len(places), 16, 16, 3), 230, dtype=torch.uint8)
    images[:, :, 8] = 40
    for image, (row, column) in zip(images, places, strict=True):
        image[row, column] = torch.tensor([200, 0, 0], dtype=torch.uint8)
    return images


def test_pictures_are_seen_as_what_sets_them_apart():
    generator = torch.Generator().manual_seed(0)
    images = scene(torch.randint(0, 8, (1000, 2), generator=generator).tolist())
    normalizer = MeanImageNormalizer((16, 16, 3))
    for some in images.split(300):
        normalizer.update(some)
    seen = normalizer(images)
    torch.testing.assert_close(seen.square().mean((0, 1, 2)), torch.ones(3), rtol=1e-4, atol=0)
    assert seen[:, :, 8:].abs().max() < 1e-4  # the wall, and the half where the dot never was
    for image, picture in zip(images[:5], seen[:5], strict=True):
        dot = (image != scene([(9, 9)])[0]).any(-1)
        dot[9, 9] = False
        assert picture.abs().amax(-1).argmax() == dot.flatten().nonzero()[0]


def test_pictures_that_never_differ_are_nothing_and_what_changes_then_is_bounded():
    normalizer = MeanImageNormalizer((16, 16, 3))
    before = normalizer(scene([(1, 1)]))
    assert 0 <= before.min() <= before.max() <= 1  # before any statistics
    normalizer.update(scene([(1, 1)] * 10))
    assert normalizer(scene([(1, 1)])).abs().max() < 1e-4
    assert normalizer(scene([(2, 2)])).abs().max() == normalizer.limit


def test_statistics_of_pictures_travel_with_the_state_dict():
    first, second = (image_normalizer(VisionSettings(image_size=16)) for _ in range(2))
    first.update(scene([(1, 1), (5, 3), (2, 2)]))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(scene([(5, 3)])), second(scene([(5, 3)])))
    assert not image_normalizer(VisionSettings(image_size=16, normalize="imagenet")).state_dict()


@pytest.mark.parametrize("form", ["free", "layer", "simplicial"])
def test_latents_keep_their_form_when_they_move_and_stay_where_nothing_changes(form):
    norm, generator = LatentNorm(form), torch.Generator().manual_seed(0)
    latents = norm(torch.randn(5, 16, generator=generator))
    torch.testing.assert_close(norm.move(latents, torch.zeros(5, 16)), latents, rtol=1e-4, atol=1e-5)
    moved = norm.move(latents, torch.randn(5, 16, generator=generator))
    assert (moved - latents).abs().mean() > 0.01
    if form == "layer":
        torch.testing.assert_close(moved.mean(1), torch.zeros(5), rtol=0, atol=1e-5)
        torch.testing.assert_close(moved.std(1, unbiased=False), torch.ones(5), rtol=1e-4, atol=0)
    if form == "simplicial":
        assert (moved > 0).all()
        torch.testing.assert_close(moved.unflatten(1, (2, SIMPLEX)).sum(2), torch.ones(5, 2))


def test_symexp_undoes_symlog():
    values = torch.tensor([-1e4, -1.0, -1e-3, 0.0, 0.5, 20.0, 2e4])
    torch.testing.assert_close(symexp(symlog(values)), values, rtol=1e-4, atol=1e-6)


def test_a_fresh_two_hot_head_predicts_zero():
    torch.testing.assert_close(TwoHotHead(8)(torch.randn(4, 8)), torch.zeros(4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("target", [-300.0, -0.7, 0.0, 0.02, 1.0, 5000.0])
def test_a_two_hot_head_learns_a_value_of_any_scale(target):
    torch.manual_seed(0)
    head, features = TwoHotHead(4), torch.randn(1, 4)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        head.loss(features, torch.tensor([target])).mean().backward()
        optimizer.step()
    assert head(features).item() == pytest.approx(target, rel=0.05, abs=0.02)


@pytest.mark.parametrize("mean", ["symlog", "values"])
@pytest.mark.parametrize("target", [-3e4, -40.0, -0.3, 0.0, 1.0, 86.5, 2e4])
def test_two_hot_targets_mean_what_they_are_made_of(mean, target):
    """At logits of zero the gradient of the cross-entropy is what bins have by chance, less what the target gives."""
    coding, logits = TwoHot(65, mean=mean), torch.zeros(1, 65, requires_grad=True)
    (slope,) = torch.autograd.grad(coding.loss(logits, torch.tensor([target])).sum(), logits)
    two_hot = 1 / 65 - slope
    assert (two_hot > 1e-6).sum() <= 2
    assert two_hot.sum().item() == pytest.approx(1)
    most = math.expm1(10)
    expected = max(-most, min(most, target))
    assert coding(two_hot.clamp(min=1e-30).log()).item() == pytest.approx(expected, rel=2e-3, abs=2e-2)


@pytest.mark.parametrize(("mean", "expected"), [("symlog", math.expm1(math.log1p(100) / 2)), ("values", 50.0)])
def test_a_distributions_mean_is_of_symlogs_or_of_the_values_themselves(mean, expected):
    coding, half = TwoHot(65, mean=mean), torch.tensor([0.0, 100.0])
    logits = torch.zeros(1, 65, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(1_000):
        optimizer.zero_grad()
        coding.loss(logits.expand(2, 65), half).mean().backward()
        optimizer.step()
    assert coding(logits).item() == pytest.approx(expected, rel=0.02)


def test_two_hot_targets_beyond_the_bins_stay_finite():
    targets = torch.tensor([1e30, -1e30, 0.0])
    assert TwoHotHead(4).loss(torch.randn(3, 4), targets).isfinite().all()
    assert TwoHot(mean="values").loss(torch.randn(3, 65), targets).isfinite().all()
    assert TwoHot(mean="values").loss(torch.randn(1, 65), torch.tensor([math.nan])).isnan().all()


def test_an_even_number_of_bins_is_refused():
    with pytest.raises(ValueError, match="odd number of bins"):
        TwoHotHead(4, bins=64)


def test_the_continue_head_is_trained_towards_the_truth():
    torch.manual_seed(0)
    head, features = ContinueHead(2), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    optimizer = torch.optim.Adam(head.parameters(), lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        head.loss(features, torch.tensor([0.0, 1.0])).mean().backward()
        optimizer.step()
    continues = head(features)
    assert continues[0] > 0.95
    assert continues[1] < 0.05


def test_an_untrained_predictor_predicts_that_nothing_changes():
    predictor = ResidualPredictor(5, 2, 16)
    latents = torch.randn(3, 5)
    after, features = predictor(latents, predictor.action_encoder(torch.randn(3, 2)))
    assert torch.equal(after, latents)
    assert features.shape == (3, 16)
    assert np.isfinite(features.detach().numpy()).all()
