"""LeWorldModel: its settings, for :class:`JEPA`, and a reader of its released weights.

A release is a state dictionary and a ``config.json``. The configuration names classes that its own loader would import;
here only its numbers are read. Of the weights only tensors are read, so nothing in either file is ever executed.

Source: LeWorldModel (arXiv 2603.19312) and the layout of its released files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import CheckpointError, SettingsError
from .jepa import JEPA
from .settings import JEPASettings
from .transformer import TransformerSettings
from .vision import VisionSettings

LEWM = JEPASettings(
    latent_dims=192,
    vision=VisionSettings(
        image_size=224,
        patch_size=14,
        width=192,
        depth=12,
        heads=3,
        hidden=768,
        projector_hidden=2048,
        normalize="imagenet",
    ),
    transformer=TransformerSettings(
        history=3, depth=6, heads=16, head_dims=64, hidden=2048, projector_hidden=2048, dropout=0.1
    ),
    unroll=3,
    block=5,
    prediction="one_step",
    regularizer_weight=0.09,
    directions=1024,
    heads=False,
).settled()
"""The model of the paper, as it was released: 18 million parameters, for images of 224 pixels."""
LEWM_SMALL = LEWM.replace(
    latent_dims=128,
    vision=VisionSettings(),
    transformer=TransformerSettings(),
    regularizer_weight=0.01,
    directions=256,
)
"""The same design for images of 64 pixels on a processor without a GPU: 2 million parameters. Its
regularizer weighs a ninth of the paper's: latents that need not fill all of their dimensions stay smoother."""

_WIDTHS = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
"""Width, depth and heads of the encoder by the name of its size; its hidden layers are four times as wide."""
_QKV = {"q": "query", "k": "key", "v": "value"}
_NAMES: list[tuple[str, Any]] = [  # of transformers 5, brought to those of transformers 4
    (r"^encoder\.layers\.", "encoder.encoder.layer."),
    (r"\.attention\.(q|k|v)_proj\.", lambda match: f".attention.attention.{_QKV[match[1]]}."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"^(encoder\..*)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"^(encoder\..*)\.mlp\.fc2\.", r"\1.output.dense."),
]
_OURS: list[tuple[str, Any]] = [
    (r"^encoder\.embeddings\.cls_token$", "encoder.class_token"),
    (r"^encoder\.embeddings\.position_embeddings$", "encoder.positions"),
    (r"^encoder\.embeddings\.patch_embeddings\.projection\.", "encoder.patch."),
    (r"^encoder\.layernorm\.", "encoder.norm."),
    (r"^encoder\.encoder\.layer\.", "encoder.layers."),
    (r"\.layernorm_before\.", ".norm_attention."),
    (r"\.layernorm_after\.", ".norm_hidden."),
    (r"\.attention\.attention\.qkv\.", ".qkv."),
    (r"\.attention\.output\.dense\.", ".out."),
    (r"\.intermediate\.dense\.", ".inner."),
    (r"\.output\.dense\.", ".outer."),
    (r"^projector\.net\.", "encoder.projector."),
    (r"^pred_proj\.net\.", "predictor.projector."),
    (r"^(.*projector)\.0\.", r"\1.inner."),
    (r"^(.*projector)\.1\.", r"\1.norm."),
    (r"^(.*projector)\.3\.", r"\1.outer."),
    (r"^predictor\.pos_embedding$", "predictor.positions"),
    (r"^predictor\.transformer\.", "predictor."),
    (r"\.attn\.norm\.", ".norm_attention."),
    (r"\.attn\.to_qkv\.", ".qkv."),
    (r"\.attn\.to_out\.0\.", ".out."),
    (r"\.mlp\.net\.0\.", ".norm_hidden."),
    (r"\.mlp\.net\.1\.", ".inner."),
    (r"\.mlp\.net\.4\.", ".outer."),
    (r"\.adaLN_modulation\.1\.", ".modulation."),
    (r"^action_encoder\.patch_embed\.", "predictor.action_encoder.reduce."),
    (r"^action_encoder\.embed\.0\.", "predictor.action_encoder.inner."),
    (r"^action_encoder\.embed\.2\.", "predictor.action_encoder.outer."),
]
_FLATTENED = ("encoder.patch.weight", "predictor.action_encoder.reduce.weight")
"""Convolutions whose kernels do not overlap, which are linear layers here."""
_STATISTICS = ("predictor.action_encoder.mean", "predictor.action_encoder.deviation")
"""Of the actions; a release does not hold them."""


def load_lewm(weights: str | Path, config: str | Path | None = None) -> JEPA:
    """Return a released LeWorldModel, in evaluation mode.

    A release lacks the statistics of its actions: set them with ``model.predictor.action_encoder.normalize(mean,
    deviation)`` before acting, from the data that it was trained on.

    Args:
        weights: ``weights.pt``, a dictionary of tensors under the names of transformers 4 or 5.
        config: ``config.json``; by default the one beside the weights.

    Raises:
        CheckpointError: a file is missing, damaged or of another kind, or the weights do not fit the configuration;
            then with the names and shapes of the tensors that do not.
    """
    weights = Path(weights)
    settings, action_dims = read_config(Path(config) if config is not None else weights.with_name("config.json"))
    assert settings.vision is not None
    with torch.random.fork_rng(devices=[]):  # weights that are overwritten at once take nothing from the user's stream
        model = JEPA(settings.vision.image_shape, action_dims, settings)
    _fill(model, _ours(_read_weights(weights)), weights)
    return model.eval()


def read_config(path: Path) -> tuple[JEPASettings, int]:
    """Return the settings that a released ``config.json`` describes, and the width A of a model step's actions."""
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as the configuration of a LeWorldModel: {error}") from error

    def value(*names: str) -> Any:
        found = tree
        for name in names:
            if not isinstance(found, Mapping) or name not in found:
                raise CheckpointError(f"{path} is no configuration of a LeWorldModel: it lacks {'.'.join(names)}.")
            found = found[name]
        return found

    size = value("encoder", "size")
    if not isinstance(size, str) or size not in _WIDTHS:
        raise CheckpointError(f"{path}: encoder.size = {size!r} is not among {', '.join(_WIDTHS)}.")
    action_dims = value("action_encoder", "input_dim")
    if type(action_dims) is not int or action_dims < 1:
        raise CheckpointError(f"{path}: action_encoder.input_dim = {action_dims!r} is no number of dimensions.")
    width, depth, heads = _WIDTHS[size]
    try:
        settings = LEWM.replace(
            latent_dims=value("projector", "output_dim"),
            vision=VisionSettings(
                image_size=value("encoder", "image_size"),
                patch_size=value("encoder", "patch_size"),
                width=width,
                depth=depth,
                heads=heads,
                hidden=4 * width,
                projector_hidden=value("projector", "hidden_dim"),
                normalize="imagenet",
            ),
            transformer=TransformerSettings(
                history=value("predictor", "num_frames"),
                depth=value("predictor", "depth"),
                heads=value("predictor", "heads"),
                head_dims=value("predictor", "dim_head"),
                hidden=value("predictor", "mlp_dim"),
                projector_hidden=value("pred_proj", "hidden_dim"),
                dropout=value("predictor", "dropout"),
            ),
            unroll=value("predictor", "num_frames"),
        )
    except SettingsError as error:
        raise CheckpointError(f"{path} describes a model that cannot be built: {error}") from error
    return settings, action_dims


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind, as the file may hold anything
        raise CheckpointError(f"{path} cannot be read as a dictionary of tensors: {error}") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{path} holds something else than a dictionary of tensors.")
    return dict(tensors)


def _ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a release under our names, the projections of the encoder's attention joined."""
    renamed = {_renamed(name, _NAMES): tensor for name, tensor in tensors.items()}
    for name in [name for name in renamed if ".attention.attention.query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in _QKV.values()]
        if all(part in renamed for part in parts):
            joined = torch.cat([renamed.pop(part) for part in parts])
            renamed[name.replace(".query.", ".qkv.")] = joined
    ours = {_renamed(name, _OURS): tensor for name, tensor in renamed.items()}
    return {name: tensor.flatten(1) if name in _FLATTENED else tensor for name, tensor in ours.items()}


def _renamed(name: str, table: list[tuple[str, Any]]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def _fill(model: JEPA, tensors: dict[str, Tensor], path: Path) -> None:
    """Load ``tensors`` into ``model``, which must all fit and be all that it needs."""
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in _STATISTICS}
    wrong = [f"{name} is missing" for name in expected if name not in tensors]
    wrong += [f"{name} is not known" for name in tensors if name not in expected]
    wrong += [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if wrong:
        shown = "; ".join(wrong[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise CheckpointError(f"{path} does not fit its configuration: {shown}.")
    model.load_state_dict(tensors, strict=False)
