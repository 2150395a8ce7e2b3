"""Probes read what is there, in units, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from forethought.core.errors import CheckpointError, DivergedError, SettingsError, UnknownNameError
from forethought.core.files import load_archive, save_archive
from forethought.core.quantity import Quantity
from forethought.world_model import LinearProbe, MLPProbe, MLPProbeSettings, ProbeSamples, load_probes, save_probes

QUANTITIES = [
    Quantity("near", "m"),
    Quantity("far", "km"),
    Quantity("turn", "rad", angle=True),
    Quantity("noise", "N"),
    Quantity("always", "m"),
]
SMALL = MLPProbeSettings(hidden=32, updates=600)


def samples(count, seed):
    """Return latents that hold the first two quantities and the sine and cosine of the third, and nothing of the rest.

    The angle goes all the way round.
    """
    generator = torch.Generator().manual_seed(seed)
    held, noise = torch.randn(count, 6, generator=generator), torch.randn(count, generator=generator)
    turn = torch.rand(count, generator=generator) * 2 * math.pi - math.pi
    latents = torch.cat([held, turn.sin()[:, None], turn.cos()[:, None]], 1)
    mixed = latents @ torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(9)))[0]
    near, far = 3 * held[:, 0] + 5, 0.01 * held[:, 1] - 2
    return ProbeSamples(mixed * 100 + 7, torch.stack([near, far, turn, noise, torch.full((count,), 4.0)], 1))


@pytest.fixture(scope="module")
def linear():
    return LinearProbe.fit(samples(2000, 0), samples(500, 1), QUANTITIES)


@pytest.fixture(scope="module")
def network():
    return MLPProbe.fit(samples(2000, 0), samples(500, 1), QUANTITIES, SMALL)


def test_a_linear_probe_is_exact_where_latents_are_linear_in_what_they_hold(linear):
    judged = samples(500, 2)
    read = linear(judged.latents)
    torch.testing.assert_close(read[:, :3], judged.values[:, :3], atol=2e-3, rtol=1e-4)
    assert read[:, 3].std() < 0.2 * judged.values[:, 3].std()  # noise is not learned by heart
    assert (read[:, 4] == 4).all()


def test_a_network_reads_what_no_linear_map_can():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3000, 2, generator=generator)
    values = latents.prod(1, keepdim=True)
    parts = [ProbeSamples(latents[part], values[part]) for part in (slice(2000), slice(2000, 2500), slice(2500, None))]
    error = {}
    for kind, settings in ((LinearProbe, ()), (MLPProbe, (SMALL,))):
        probe = kind.fit(parts[0], parts[1], [Quantity("product", "m2")], *settings)
        error[kind.kind] = float((probe(parts[2].latents) - parts[2].values).square().mean())
    assert error["mlp"] < 0.05 < 0.9 < error["linear"]


def test_a_network_reads_angles_where_they_turn(network):
    judged = samples(500, 2)
    missed = network(judged.latents)[:, 2] - judged.values[:, 2]
    circular = torch.atan2(missed.sin(), missed.cos())
    assert circular.square().mean().sqrt() < 0.1
    assert (network(judged.latents)[:, 2].abs() <= math.pi).all()


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_probes_take_any_batch_and_pass_gradients_to_latents_alone(kind, request):
    probe = request.getfixturevalue(kind)
    latents = samples(12, 3).latents
    shaped = latents.reshape(2, 3, 2, 8).clone().requires_grad_()
    read = probe(shaped)
    assert read.shape == (2, 3, 2, 5)
    torch.testing.assert_close(read.reshape(12, 5), probe(latents))
    read[..., :3].sum().backward()
    assert shaped.grad.isfinite().all()
    assert shaped.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in probe.parameters())


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_reading_some_quantities_is_reading_all_and_choosing(kind, request):
    probe = request.getfixturevalue(kind)
    latents = samples(20, 3).latents
    some = probe.only(["turn", "near"])
    assert [quantity.name for quantity in some.quantities] == ["turn", "near"]
    torch.testing.assert_close(some(latents), probe(latents)[:, [2, 0]])
    with pytest.raises(UnknownNameError, match=r"'tern'.*'turn'.*always, far, near"):
        probe.only(["tern"])


def test_fitting_leaves_the_global_generator_alone_and_is_repeatable(network):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    again = MLPProbe.fit(samples(2000, 0), samples(500, 1), QUANTITIES, SMALL)
    assert torch.equal(torch.random.get_rng_state(), before)
    for one, other in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())


def test_more_dimensions_than_samples_are_no_obstacle():
    few, others = samples(6, 0), samples(6, 1)
    probe = LinearProbe.fit(few, others, QUANTITIES)
    assert probe(samples(50, 2).latents).isfinite().all()


def test_the_penalty_is_the_one_that_serves_other_episodes():
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(90, 40, generator=generator), torch.randn(90, 1, generator=generator)
    values = latents[:, :1] + 2 * noise
    fitting, validation = (ProbeSamples(latents[part], values[part]) for part in (slice(45), slice(45, None)))
    chosen = LinearProbe.fit(fitting, validation, [Quantity("x", "m")])
    errors = [
        float((LinearProbe.fit(fitting, validation, [Quantity("x", "m")], [penalty])(validation.latents)
               - validation.values).square().mean())
        for penalty in (1e-8, 1e-2, 1.0, 10.0)
    ]  # fmt: skip
    assert errors[0] > 1.5 * min(errors)
    assert float((chosen(validation.latents) - validation.values).square().mean()) <= min(errors) * (1 + 1e-6)


def test_saved_probes_read_the_same_and_know_how_well(linear, network, tmp_path):
    linear.r.copy_(torch.tensor([0.5, 0.6, 0.7, 0.0, math.nan]))
    path = save_probes({"linear": linear, "mlp": network}, tmp_path / "probes", {"episodes": 3})
    assert path.name == "probes.zip"
    loaded, source = load_probes(path)
    assert source == {"episodes": 3}
    latents = samples(10, 3).latents
    for name, probe in (("linear", linear), ("mlp", network)):
        assert loaded[name].quantities == tuple(QUANTITIES)
        assert not loaded[name].training
        torch.testing.assert_close(loaded[name](latents), probe(latents), rtol=0, atol=0)
    torch.testing.assert_close(loaded["linear"].r, linear.r, equal_nan=True)
    torch.testing.assert_close(loaded["linear"].only(["turn"]).r, torch.tensor([0.7]))


def test_files_that_are_no_probes_are_refused(linear, tmp_path):
    with pytest.raises(CheckpointError, match="no file"):
        load_probes(tmp_path / "none.zip")
    other = save_archive(tmp_path / "other", {"model": {"kind": "something"}}, {})
    with pytest.raises(CheckpointError, match="holds no probes"):
        load_probes(other)
    path = save_probes({"linear": linear}, tmp_path / "probes")
    archive = load_archive(path)
    document = archive.documents["probes"]
    document["probes"]["linear"]["kind"] = "quadratic"
    with pytest.raises(CheckpointError, match="unknown kind 'quadratic'"):
        load_probes(save_archive(tmp_path / "kind", {"probes": document}, archive.tensors))
    document["probes"]["linear"]["kind"] = "linear"
    document["probes"]["linear"]["latent_dims"] = 3
    with pytest.raises(CheckpointError, match="is damaged"):
        load_probes(save_archive(tmp_path / "size", {"probes": document}, archive.tensors))


def test_samples_that_cannot_be_fitted_are_refused():
    good, broken = samples(20, 0), samples(20, 0)
    broken.latents[3, 2] = math.inf
    with pytest.raises(DivergedError, match="not finite"):
        LinearProbe.fit(broken, good, QUANTITIES)
    with pytest.raises(DivergedError, match="not finite"):
        LinearProbe.fit(good, broken, QUANTITIES)
    wrong = ProbeSamples(good.latents, good.values[:, :2])
    with pytest.raises(SettingsError, match=r"5 quantities is fitted to.*not latents \(20, 8\) and values \(20, 2\)"):
        LinearProbe.fit(wrong, good, QUANTITIES)
    for judged in (
        wrong,
        ProbeSamples(good.latents[:, :7], good.values),
        ProbeSamples(good.latents[:0], good.values[:0]),
    ):
        with pytest.raises(SettingsError, match="5 quantities is judged on at least 1"):
            LinearProbe.fit(good, judged, QUANTITIES)
    with pytest.raises(SettingsError, match="at least one quantity"):
        LinearProbe(8, [])
