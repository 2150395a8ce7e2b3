"""What each of two processes does, started by torchrun with a folder for what came out; test_data_parallelism reads it.

On its own it is what one process gives for the same. The last thing that it does is to fail on one rank only.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forethought.agents.pretrain import Pretraining, PretrainingSettings
from forethought.core.errors import ForethoughtError
from forethought.core.parallel import ALONE, Ranks, joined
from forethought.envs import EpisodeStore
from forethought.evaluations.pretraining import PretrainSettings, begin_training, pretrain, resume_pretraining
from forethought.world_model import LEWM_SMALL, SIGReg, unit_directions
from forethought.world_model.presets import PRESETS

UPDATES = 8
VISION = {"image_size": 8, "patch_size": 4, "width": 16, "depth": 1, "heads": 2, "hidden": 16, "projector_hidden": 16}
TRANSFORMER = {"depth": 1, "heads": 2, "head_dims": 8, "hidden": 16, "projector_hidden": 16, "dropout": 0.0}
STATE = PRESETS["state"].replace(latent_dims=8, hidden=16, directions=8)
MODELS = {
    "state": STATE,
    "everything": STATE.replace(
        heads=True, regularize="projector", projector_dims=8, regularize_mean=False, target="copy", target_refresh=3
    ),
    "images": LEWM_SMALL.replace(latent_dims=8, vision=VISION, transformer=TRANSFORMER, directions=8, block=2),
    "dropout": LEWM_SMALL.replace(
        latent_dims=8, vision=VISION, transformer={**TRANSFORMER, "dropout": 0.2}, directions=8, block=2
    ),
}


def make_store(images: bool, folder: Path | None = None) -> EpisodeStore:
    """Return episodes of uneven length, so that clips are masked, and not alike in both halves of a batch."""
    shape = (8, 8, 3) if images else (3,)
    store, rng = EpisodeStore(shape, 2, folder=folder), np.random.default_rng(0)
    for length in (9, 12, 20, 15, 7, 11):
        seen = rng.integers(0, 256, (length + 1, *shape)) if images else rng.normal(size=(length + 1, *shape))
        observations = seen.astype(np.uint8 if images else np.float32)
        actions, rewards = rng.uniform(-1, 1, (length, 2)).astype(np.float32), rng.normal(size=length)
        store.add_episode(observations, actions, rewards.astype(np.float32), length % 2 == 0, length % 2 == 1)
    return store


def measure_statistic(ranks: Ranks = ALONE) -> dict[str, torch.Tensor]:
    """Return SIGReg's statistic of this rank's share of some latents, and its gradient there."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 32, 6, generator=generator) * torch.linspace(0.3, 2, 32).view(1, -1, 1)
    valid = (torch.rand(4, 32, generator=generator) > 0.3).float()
    own = ranks.share(np.arange(32))
    sample, sigreg = latents[:, own].requires_grad_(), SIGReg()
    sigreg.ranks = ranks
    value = sigreg(sample, unit_directions(6, 16, generator), valid[:, own])
    value.backward()
    assert sample.grad is not None
    return {"value": value.detach(), "gradient": sample.grad / ranks.count}


def learn(name: str, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Return the losses of some updates, and the state that they end in."""
    settings = PretrainingSettings(model=MODELS[name], updates=UPDATES, batch_size=6)
    training = Pretraining(make_store(name in ("images", "dropout")), settings, seed=3, device="cpu", ranks=ranks)
    losses = [training.learn() for _ in range(UPDATES)]
    return {"losses": losses, "model": training.model.state_dict()}


def settings_for(store: Path, batch_size: int = 6) -> PretrainSettings:
    """Return what the runs in folders are asked for."""
    training = {"model": STATE.to_dict(), "updates": UPDATES, "batch_size": batch_size}
    return PretrainSettings(str(store), checkpoints=2, device="cpu", training=training)


def stop_at(update: int) -> Any:
    """Return ``Pretraining.learn`` with a signal to this process after that update."""
    learn = Pretraining.learn

    def learning(training: Pretraining) -> Any:
        losses = learn(training)
        if training.updates == update:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    return learning


def break_at(update: int) -> Any:
    """Return ``Pretraining.learn`` with too little memory for that update."""
    learn = Pretraining.learn

    def learning(training: Pretraining) -> Any:
        if training.updates == update - 1:
            training.store.cut = lambda starts, spec: np.zeros(2**50)  # type: ignore[method-assign, assignment]
        return learn(training)

    return learning


def run_everything(ranks: Ranks, folder: Path) -> None:
    """Save what this rank gets in ``rank0.pt`` and so on; runs are in folders beside it."""
    found: dict[str, Any] = {"statistic": measure_statistic(ranks)}
    found |= {name: learn(name, ranks) for name in MODELS}
    settings, original = settings_for(folder / "store"), Pretraining.learn
    pretrain(settings, folder / "unbroken", ranks=ranks)
    for name in ("stopped", "left"):
        if ranks.rank == 1:
            Pretraining.learn = stop_at(5)  # type: ignore[method-assign]
        result = pretrain(settings, folder / name, ranks=ranks)
        found[name] = (result.status, result.step)
        Pretraining.learn = original  # type: ignore[method-assign]
    found["resumed"] = resume_pretraining(folder / "stopped", ranks=ranks).status
    try:
        begin_training(settings_for(folder / "store", batch_size=5), ranks)
    except ForethoughtError as error:
        found["refused"] = str(error)
    torch.save(found, folder / f"rank{ranks.rank}.pt")
    if ranks.rank == 1:
        Pretraining.learn = break_at(3)  # type: ignore[method-assign]
    pretrain(settings, folder / "broken", ranks=ranks)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # so few updates leave the latents collapsed
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    try:
        with joined() as together:
            run_everything(together, place)
    except ForethoughtError as error:
        (place / f"error{os.environ['RANK']}").write_text(f"{type(error).__name__}: {error}")
