"""Seeds depend on their parts and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from forethought.core.seeding import derive_seed, numpy_generator, torch_generator

GOLDEN = (4246866556266386882, 1172414688810310029)


def test_seeds_are_the_same_on_every_machine_and_version() -> None:
    assert derive_seed(0) == GOLDEN[0]
    assert derive_seed(3, "exploration", 1, 20) == GOLDEN[1]


def test_every_part_matters_and_streams_do_not_collide() -> None:
    parts = [(run, name, index) for run in range(10) for name in ("data", "noise", "1") for index in range(100)]
    seeds = {derive_seed(*part) for part in parts}
    assert len(seeds) == len(parts)
    assert derive_seed(1, "1") != derive_seed("1", 1) != derive_seed(1, 1)
    assert derive_seed("a\x1f'b'") != derive_seed("a", "b")
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_numpy_integers_count_by_their_value() -> None:
    assert derive_seed(np.int64(3), np.uint8(1)) == derive_seed(3, 1)


def test_a_float_is_no_seed() -> None:
    with pytest.raises(TypeError):
        derive_seed(1.0)  # type: ignore[arg-type]


def test_generators_repeat_and_leave_the_global_ones_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    assert (numpy_generator(1, "a").random(3) == numpy_generator(1, "a").random(3)).all()
    assert torch.equal(torch.rand(3, generator=torch_generator(1)), torch.rand(3, generator=torch_generator(1)))
    assert not torch.equal(torch.rand(3, generator=torch_generator(1)), torch.rand(3, generator=torch_generator(2)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]
