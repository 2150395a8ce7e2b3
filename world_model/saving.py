"""World models as files: one zip of safetensors and JSON, in which nothing can execute code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.errors import CheckpointError, SettingsError
from ..core.files import damage_reported, load_archive, save_archive
from .jepa import JEPA

KIND = "forethought.world-model"
MODEL_FILE = "model.zip"
"""The world model in the folder of the run that learned it."""


def save_model(model: JEPA, path: str | os.PathLike[str], source: Mapping[str, Any] | None = None) -> Path:
    """Write a world model, with the statistics of its observations and actions.

    Args:
        model: what is saved.
        path: the file, which is replaced at once; ``.zip`` is added where it is missing.
        source: what it was learned from, as plain JSON data, for whoever loads it.

    Returns:
        The file.

    Raises:
        WriteError: it could not be written; what stood in its place is unchanged.
        SettingsError: a part of the model is not what its settings would build.
    """
    if model.replaced:
        raise SettingsError(
            f"The {' and '.join(model.replaced)} of this world model cannot be built from settings, as a file is read: "
            "keep its state_dict() instead, and build it anew."
        )
    document = {"kind": KIND, "config": model.config(), "source": dict(source or {})}
    return save_archive(Path(path), {"model": document}, {"model": model.state_dict()})


def load_model(path: str | os.PathLike[str]) -> tuple[JEPA, dict[str, Any]]:
    """Return the world model that :func:`save_model` wrote, on the CPU, ready to predict, and its source.

    Raises:
        CheckpointError: the file holds none, or is damaged.
    """
    path = Path(path)
    archive = load_archive(path)
    document = archive.documents.get("model")
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise CheckpointError(f"{path} holds no world model.")
    with damage_reported(path):
        with torch.random.fork_rng(devices=[]):  # weights that are overwritten take nothing from the user's stream
            model = JEPA.from_config(document["config"])
        model.load_state_dict(archive.tensors["model"])
        source = dict(document["source"])
    return model.eval(), source
