"""Surprise monitors as files: one zip of safetensors and JSON, tied to the world model that it was calibrated for."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..core.errors import CheckpointError
from ..core.files import damage_reported, load_archive, save_archive
from ..world_model import JEPA
from ..world_model.error_model import ErrorModel
from ..world_model.sigreg import SlidingSIGReg
from ..world_model.surprise import AlarmThreshold, Tails, Whitening
from .surprise_calibration import Calibration, Reference, SurpriseSettings
from .surprise_channels import CHANNELS, Usual

KIND = "forethought.surprise-monitor"
SURPRISE_FILE = "surprise.zip"
"""The monitor in the folder of the run whose world model it watches with."""


def fingerprint(model: JEPA) -> str:
    """Return the SHA-256 of what a model is and knows, by which it is known again."""
    digest = hashlib.sha256(json.dumps(model.config(), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_reference(reference: Reference, settings: SurpriseSettings, model: JEPA, path: str | os.PathLike[str]) -> Path:
    """Write what a monitor for ``model`` compares steps with, and its settings; return the file."""
    usual, tails = reference.usual, reference.tails
    document = {
        "kind": KIND,
        "model": fingerprint(model),
        "settings": settings.to_dict(),
        "error_dims": usual.errors.error_dims,
        "calibration": asdict(reference.calibration),
    }
    tensors = {
        "errors": usual.errors.state_dict(),
        "latents": {"mean": usual.latents.mean, "projection": usual.latents.projection},
        "distribution": {"directions": usual.distribution.directions},
        "tails": {"knots": tails.knots, "base": tails.base, "rise": tails.rise, "slope": tails.slope},
    }
    return save_archive(Path(path), {"surprise": document}, tensors)


def load_reference(path: str | os.PathLike[str], model: JEPA) -> tuple[Reference, SurpriseSettings]:
    """Return what :func:`save_reference` wrote, where the model is.

    Raises:
        CheckpointError: the file holds no monitor, or is damaged; or it is one for another model.
    """
    path = Path(path)
    archive = load_archive(path)
    document = archive.documents.get("surprise")
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise CheckpointError(f"{path} holds no surprise monitor.")
    if document.get("model") != fingerprint(model):
        raise CheckpointError(
            f"{path} holds the monitor of another world model, or of this one before it learned on: what is usual of "
            "this one is not known. Calibrate a new one."
        )
    with damage_reported(path):
        settings = SurpriseSettings.from_dict(document["settings"])
        tensors = {
            part: {name: tensor.to(model.device) for name, tensor in group.items()}
            for part, group in archive.tensors.items()
        }
        errors = ErrorModel(model.latent_dims, model.action_dims, int(document["error_dims"]), settings.errors)
        errors.to(model.device).load_state_dict(tensors["errors"])
        sliding = SlidingSIGReg(tensors["distribution"]["directions"], settings.latent_window)
        errors.requires_grad_(False).eval()
        usual = Usual(errors, Whitening(**tensors["latents"]), sliding, settings.window)
        return Reference(_calibration(document["calibration"]), usual, Tails(**tensors["tails"])), settings


def _calibration(tree: dict[str, Any]) -> Calibration:
    channels = tuple(map(str, tree["channels"]))
    if not set(channels) <= set(CHANNELS):
        raise ValueError(f"unknown channels: {channels}")
    return Calibration(**{**tree, "threshold": AlarmThreshold(**tree["threshold"]), "channels": channels})
