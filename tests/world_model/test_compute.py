"""Updates may be compiled and in bf16; where compiling fails, learning goes on without it."""

from __future__ import annotations

import functools

import pytest
import torch

from forethought.core.clip import Clip
from forethought.world_model import JEPA, ComputeSettings, JEPASettings, Learner, bf16_helps

pytestmark = pytest.mark.filterwarnings("ignore:.*autograd.function.Function:DeprecationWarning")  # torch's own


def learn(compute: ComputeSettings, updates: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = JEPA(3, 2, JEPASettings(latent_dims=8, hidden=16, directions=8))
    learner = Learner(model, compute=compute, seed=1)
    draw = torch.Generator().manual_seed(2)
    for _ in range(updates):
        learner.update(
            Clip(
                observations=torch.randn(16, 4, 3, generator=draw),
                actions=torch.rand(16, 3, 2, generator=draw),
                rewards=torch.randn(16, 3, generator=draw),
                terminated=torch.zeros(16, 3),
                valid=torch.ones(16, 3),
            )
        )
    return model.state_dict()


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_compiled_updates_are_the_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    compiled = learn(ComputeSettings(compile=True))
    assert graphs
    assert distance(compiled, learn(ComputeSettings())) < 1e-6


def test_where_compiling_fails_one_warning_is_given_and_learning_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        raise RuntimeError("no working C++ compiler found")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    with pytest.warns(UserWarning, match="Nothing is compiled, because torch.compile failed: .*no working C") as warned:
        learned = learn(ComputeSettings(compile=True))
    assert len(warned) == 1
    assert distance(learned, learn(ComputeSettings())) == 0


@pytest.mark.filterwarnings("ignore:Updates in bf16 are slow here")
def test_bf16_updates_stay_close_to_those_in_fp32() -> None:
    exact, rounded = learn(ComputeSettings()), learn(ComputeSettings(precision="bf16"))
    assert 0 < distance(exact, rounded) < 0.01
    assert all(value.dtype == exact[name].dtype for name, value in rounded.items())


@pytest.mark.parametrize(("units", "as_if"), [(True, "bf16"), (False, "fp32")])
def test_the_arithmetic_can_be_left_to_the_machine(units, as_if, monkeypatch):
    monkeypatch.setattr("forethought.world_model.compute.bf16_helps", lambda device: units)
    assert distance(learn(ComputeSettings(precision="auto")), learn(ComputeSettings(precision=as_if))) == 0


@pytest.mark.parametrize("units", [True, False])
def test_a_warning_tells_where_bf16_is_imitated(units, monkeypatch):
    monkeypatch.setattr("forethought.world_model.compute.bf16_helps", lambda device: units)
    for precision in ("fp32", "auto"):
        learn(ComputeSettings(precision=precision), updates=1)  # warnings are errors here
    if units:
        learn(ComputeSettings(precision="bf16"), updates=1)
        return
    with pytest.warns(
        UserWarning, match=r"slow here, because the cpu .* no units for it: compute.precision = 'auto'"
    ) as told:
        learn(ComputeSettings(precision="bf16"), updates=2)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("known", "helps"),
    [((), False), (("_is_amx_tile_supported",), True), (("_is_avx512_bf16_supported",), True)],
)
def test_processors_have_units_for_bf16_if_they_know_its_instructions(known, helps, monkeypatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in known, raising=False)
    assert bf16_helps(torch.device("cpu")) is helps
