"""adopt: a released LeWorldModel becomes a run, which plans and is measured like one that was pretrained here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..agents.pretrain import Pretraining
from ..agents.recordings import identity_of
from ..core.errors import RunFolderError, SettingsError
from ..core.runs import Run
from ..world_model import load_lewm, save_model
from .collect import read_source
from .pretraining import KIND, MODEL_FILE, PretrainSettings, begin_training
from .stage import limited_threads


@dataclass(frozen=True)
class Adopted:
    """A released model that was taken up.

    Attributes:
        folder: of the run.
        parameters: how many the model has.
        health: how it does on held-out clips of the store; see :func:`~forethought.world_model.measure_health`.
        clips: how many clips that were.
    """

    folder: Path
    parameters: int
    health: dict[str, float]
    clips: int


def adopt(
    weights: str | os.PathLike[str], store: str | os.PathLike[str], folder: str | os.PathLike[str], seed: int = 0
) -> Adopted:
    """Take up released weights with the statistics of recorded actions, which a release lacks, and measure the model.

    Args:
        weights: ``weights.pt``, or the folder that holds it, with ``config.json`` beside it.
        store: episodes of the task that the weights were trained on; see :mod:`.importing`.
        folder: of the run to make.
        seed: which episodes of the store are held out.

    Raises:
        CheckpointError: no or damaged weights, or no store.
        SettingsError: the store's observations or actions are not those of the model.
        RunFolderError: the folder holds a run already.
    """
    weights = Path(weights)
    released = load_lewm(weights / "weights.pt" if weights.is_dir() else weights)
    model = released.config()
    settings = PretrainSettings(str(store), "", seed, training={"model": model["settings"]})
    with limited_threads(1):
        training = begin_training(settings)
        _require_same(training, released.action_dims)
        encoder = training.model.predictor.action_encoder
        statistics = {name: getattr(encoder, name).clone() for name in ("mean", "deviation")}
        training.model.load_state_dict(released.state_dict())
        for name, values in statistics.items():
            getattr(encoder, name).copy_(values)
        training.model.eval()
        health = training.health()
        try:
            source = read_source(store)
        except RunFolderError:
            source = {}
        config = {**settings.to_dict(), "training": training.settings.to_dict()}
        with Run.create(folder, config, KIND) as run:
            run.note(released=str(weights.resolve()), learned_from=identity_of(training.store))
            run.log({f"health/{name}": value for name, value in health.items()}, 0)
            save_model(training.model.cpu(), run.folder / MODEL_FILE, source)
    parameters = sum(parameter.numel() for parameter in released.parameters())
    return Adopted(Path(folder), parameters, health, training.held_out_clips)


def _require_same(training: Pretraining, action_dims: int) -> None:
    block = training.settings.model.block
    if training.model.action_dims != action_dims:
        raise SettingsError(
            f"The released model takes blocks of {action_dims} action dimensions, and {block} steps of the store have "
            f"{training.model.action_dims}."
        )
