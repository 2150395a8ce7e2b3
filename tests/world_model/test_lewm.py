"""LeWorldModel: the same numbers as an independent implementation, read from files laid out as the released ones."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from forethought.core.clip import Clip
from forethought.core.errors import CheckpointError, SettingsError
from forethought.world_model import (
    JEPA,
    LEWM,
    LEWM_SMALL,
    LatentState,
    Past,
    TransformerPredictor,
    TransformerSettings,
    VisionEncoder,
    VisionSettings,
    load_lewm,
    transformer,
    unit_directions,
)

from .lewm_reference import ReferenceLeWM

unrolled = TransformerPredictor._unrolled

SMALL = {
    "image": 32,
    "patch": 8,
    "predictor_depth": 2,
    "predictor_heads": 4,
    "head_dims": 16,
    "hidden": 64,
    "projection": 48,
}


def config_of(
    image: int = 224, patch: int = 14, action_dims: int = 10, frames: int = 3, **sizes: int
) -> dict[str, Any]:
    """Return what a release's ``config.json`` holds for the arguments of :class:`ReferenceLeWM`."""
    dims = {"input_dim": 192, "hidden_dim": sizes.get("projection", 2048), "output_dim": 192}
    norm = {"_target_": "hydra.utils.get_class", "_partial_": True, "path": "torch.nn.BatchNorm1d"}
    return {
        "_target_": "some.package.that.is.not.there.LeWM",
        "encoder": {
            "_target_": "os.system",
            "size": "tiny",
            "patch_size": patch,
            "image_size": image,
            "pretrained": False,
            "use_mask_token": False,
        },
        "predictor": {
            "num_frames": frames,
            "input_dim": 192,
            "hidden_dim": 192,
            "output_dim": 192,
            "depth": sizes.get("predictor_depth", 6),
            "heads": sizes.get("predictor_heads", 16),
            "mlp_dim": sizes.get("hidden", 2048),
            "dim_head": sizes.get("head_dims", 64),
            "dropout": 0.1,
            "emb_dropout": 0.0,
        },
        "action_encoder": {"input_dim": action_dims, "emb_dim": 192},
        "projector": {**dims, "norm_fn": norm},
        "pred_proj": {**dims, "norm_fn": norm},
    }


def randomised(reference: ReferenceLeWM) -> ReferenceLeWM:
    """Give every tensor values of its own, those included that begin as zeros and ones, and keep embeddings near 1."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in reference.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator) * (0.1 if tensor.dim() == 1 else 0.02)
            tensor.copy_(tensor + (noise.abs() if "running_var" in name else noise))
    return reference.eval()


def release(folder: Path, reference: ReferenceLeWM, config: dict[str, Any], newer: bool = False) -> Path:
    """Write ``weights.pt``, under the names of transformers 4 or of 5, and ``config.json``."""
    tensors = reference.state_dict()
    if newer:
        for old, new in (
            *((r"^encoder\.encoder\.layer\.", "encoder.layers."), (r"attention\.attention\.query", "attention.q_proj")),
            *((r"attention\.attention\.key", "attention.k_proj"), (r"attention\.attention\.value", "attention.v_proj")),
            *((r"attention\.output\.dense", "attention.o_proj"), (r"intermediate\.dense", "mlp.fc1")),
            (r"\.output\.dense", ".mlp.fc2"),
        ):
            tensors = {re.sub(old, new, name): tensor for name, tensor in tensors.items()}
    torch.save(tensors, folder / "weights.pt")
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "weights.pt"


def images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def compared(model: JEPA, reference: ReferenceLeWM, frames: Tensor, actions: Tensor) -> None:
    """Compare embeddings, predictions and rollouts, with one frame seen and with three."""
    embedded = reference.embed(frames)
    assert 0.1 < embedded.abs().mean() < 10  # so that 1e-5 is neither lax nor below rounding
    torch.testing.assert_close(model.encode(frames), embedded, rtol=0, atol=1e-5)
    steps = frames.shape[1]
    predicted, _ = model.predictor(embedded, model.predictor.action_encoder(actions[:, :steps]))
    torch.testing.assert_close(predicted, reference.predict(embedded, actions[:, :steps]), rtol=0, atol=1e-5)
    imagined = model.imagine(LatentState(embedded[:, 0]), actions.unsqueeze(1)).latents[:, 0]
    torch.testing.assert_close(imagined, reference.roll_out(embedded[:, :1], actions), rtol=0, atol=1e-5)


@pytest.mark.parametrize("newer", [False, True], ids=["transformers 4", "transformers 5"])
@torch.no_grad()
def test_released_weights_give_the_numbers_of_an_independent_implementation(newer: bool, tmp_path: Path) -> None:
    reference = randomised(ReferenceLeWM(**SMALL))
    model = load_lewm(release(tmp_path, reference, config_of(**SMALL), newer))
    generator = torch.Generator().manual_seed(2)
    compared(model, reference, images(2, 3, 32, 32, 3), torch.randn(2, 5, 10, generator=generator))


@torch.no_grad()
def test_the_encoder_is_that_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    theirs = transformers.ViTModel(
        transformers.ViTConfig(**sizes, image_size=32, patch_size=8), add_pooling_layer=False
    )
    reference = randomised(ReferenceLeWM(**SMALL))
    weights = release(tmp_path, reference, config_of(**SMALL), newer=transformers.__version__ >= "5")
    released = torch.load(weights, weights_only=True)
    theirs.load_state_dict({name: released[f"encoder.{name}"] for name in theirs.state_dict()})
    frames = images(4, 32, 32, 3)
    model = load_lewm(weights)
    read = theirs.eval()(model.normalizer(frames).permute(0, 3, 1, 2)).last_hidden_state[:, 0]
    torch.testing.assert_close(model.encode(frames), model.encoder.projector(read), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_full_model_has_the_released_size_and_numbers(tmp_path: Path) -> None:
    reference = randomised(ReferenceLeWM())
    assert len(reference.state_dict()) == 303
    model = load_lewm(release(tmp_path, reference, config_of()))
    assert sum(parameter.numel() for parameter in model.parameters()) == 18_034_478
    assert model.settings == LEWM
    compared(model, reference, images(1, 3, 224, 224, 3), torch.randn(1, 4, 10))


@torch.no_grad()
def test_a_state_looks_back_over_what_was_really_seen_in_this_episode(tmp_path: Path) -> None:
    reference = randomised(ReferenceLeWM(**SMALL))
    weights = release(tmp_path, reference, config_of(**SMALL))
    settings = load_lewm(weights).settings.replace(context=3)
    model = JEPA((32, 32, 3), 10, settings).eval()
    model.load_state_dict(load_lewm(weights).state_dict())
    frames, done = images(2, 4, 32, 32, 3), torch.randn(2, 4, 10)
    state = model.initial(2)
    for step in range(4):  # the second environment begins anew at step 2, the first has seen more than it remembers
        begun = torch.tensor([step == 0, step in (0, 2)])
        state = model.observe(state, frames[:, step], done[:, step], begun)
    plans = torch.randn(2, 5, 4, 10)
    imagined = model.imagine(state, plans).latents
    embedded = reference.embed(frames)
    for environment, seen in ((0, 3), (1, 2)):
        own = embedded[environment : environment + 1, -seen:].expand(5, -1, -1)
        before = done[environment, 4 - seen + 1 :].expand(5, -1, -1)
        expected = reference.roll_out(own, torch.cat([before, plans[environment]], 1))
        torch.testing.assert_close(imagined[environment], expected, rtol=0, atol=1e-5)
    step = state
    for index in range(4):
        step = model.step(step, plans[:, :, index]).state
        torch.testing.assert_close(step.latents, imagined[:, :, index], rtol=0, atol=1e-5)


def test_the_loss_is_the_one_step_error_with_gradient_on_both_sides_plus_sigreg_per_step() -> None:
    settings = LEWM_SMALL.replace(
        transformer=LEWM_SMALL.transformer.replace(dropout=0.0), vision=LEWM_SMALL.vision.replace(depth=1)
    )
    model = JEPA((64, 64, 3), 10, settings).train()
    ones, zeros = torch.ones(4, 3), torch.zeros(4, 3)
    clip = Clip(images(4, 4, 64, 64, 3), torch.randn(4, 3, 10), zeros, zeros, ones)
    directions = unit_directions(128, 8, torch.Generator())
    losses = model(clip, directions)
    latents = model.encode(clip.observations)
    predicted, _ = model.predictor(latents[:, :3], model.predictor.action_encoder(clip.actions))
    prediction = (predicted - latents[:, 1:]).square().mean()
    torch.testing.assert_close(losses.prediction, prediction)
    knots, spacing = torch.linspace(0, 3, 17), 3 / 16
    gaussian, angles = torch.exp(-knots.square() / 2), (latents @ directions).unsqueeze(-1) * knots  # (4, 4, 8, 17)
    distance = (angles.cos().mean(0) - gaussian).square() + angles.sin().mean(0).square()
    weights = 2 * spacing * gaussian
    weights[[0, -1]] /= 2
    statistic = (4 * (distance * weights).sum(-1)).mean()
    torch.testing.assert_close(losses.regularization, statistic)
    torch.testing.assert_close(losses.total, prediction + settings.regularizer_weight * statistic)
    with_both = torch.autograd.grad(losses.prediction, model.encoder.patch.weight)[0]
    by_hand = torch.autograd.grad(prediction, model.encoder.patch.weight)[0]
    torch.testing.assert_close(with_both, by_hand)


def test_a_rollout_loss_adds_the_open_loop_error() -> None:
    plain = LEWM_SMALL.replace(transformer=LEWM_SMALL.transformer.replace(dropout=0.0))
    model = JEPA((64, 64, 3), 10, plain).eval()
    ones, zeros = torch.ones(2, 3), torch.zeros(2, 3)
    clip = Clip(images(2, 4, 64, 64, 3), torch.randn(2, 3, 10), zeros, zeros, ones)
    directions = unit_directions(128, 8, torch.Generator())
    alone = model(clip, directions).prediction
    model.settings = plain.replace(rollout_weight=0.5)
    imagined = model.imagine(LatentState(model.encode(clip.observations[:, 0])), clip.actions.unsqueeze(1)).latents
    error = (imagined[:, 0] - model.encode(clip.observations[:, 1:])).square().mean()
    torch.testing.assert_close(model(clip, directions).prediction, alone + 0.5 * error)


def test_statistics_of_actions_normalise_each_environment_step_of_a_block() -> None:
    encoder = JEPA((64, 64, 3), 10, LEWM_SMALL).predictor.action_encoder
    actions = torch.randn(3, 10)
    before = encoder(actions)
    encoder.normalize(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(encoder(actions * torch.tensor([2.0, 1.0] * 5) + torch.tensor([1.0, 2.0] * 5)), before)
    with pytest.raises(SettingsError, match="width that divides"):
        encoder.normalize(torch.zeros(3), torch.ones(3))


def test_weights_that_do_not_fit_are_refused_by_name_and_shape(tmp_path: Path) -> None:
    reference = ReferenceLeWM(**SMALL)
    other = release(tmp_path, reference, config_of(**{**SMALL, "hidden": 32}))
    with pytest.raises(CheckpointError, match=r"layers\.0\.inner\.weight has shape \(64, 192\) instead of \(32, 192\)"):
        load_lewm(other)
    shallow = release(tmp_path, reference, config_of(**{**SMALL, "predictor_depth": 1}))
    with pytest.raises(CheckpointError, match=r"layers\.1\..* is not known"):
        load_lewm(shallow)
    tensors = reference.state_dict()
    del tensors["predictor.pos_embedding"]
    torch.save(tensors, tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(json.dumps(config_of(**SMALL)))
    with pytest.raises(CheckpointError, match=r"predictor\.positions is missing"):
        load_lewm(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.pop("predictor"), "lacks predictor.num_frames"),
        (lambda config: config["encoder"].update(size="huge"), "'huge' is not among tiny, small, base"),
        (lambda config: config["encoder"].update(size=["tiny"]), r"\['tiny'\] is not among tiny, small, base"),
        (lambda config: config["action_encoder"].update(input_dim="ten"), "input_dim = 'ten' is no number"),
        (lambda config: config["action_encoder"].update(input_dim=-3), "input_dim = -3 is no number"),
        (lambda config: config["encoder"].update(patch_size=15), "patch_size = 15 must divide"),
        (lambda config: config["predictor"].update(depth="six"), "cannot be built: .*depth"),
    ],
)
def test_a_configuration_that_describes_no_such_model_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    config = config_of()
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load_lewm(tmp_path / "weights.pt")


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    (tmp_path / "config.json").write_text(json.dumps(config_of()))
    for content in (pickle.dumps({"weight": Planted()}), b"", b"PK\x03\x04 and no more"):
        (tmp_path / "weights.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read as a dictionary of tensors"):
            load_lewm(tmp_path / "weights.pt")
    torch.save({"weight": Planted()}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_lewm(tmp_path / "weights.pt")
    torch.save([torch.zeros(1)], tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="something else"):
        load_lewm(tmp_path / "weights.pt")
    assert not (tmp_path / "executed").exists()
    (tmp_path / "config.json").write_bytes(b"\xff{")
    with pytest.raises(CheckpointError, match="configuration"):
        load_lewm(tmp_path / "weights.pt")


def test_a_model_says_what_it_encodes() -> None:
    with pytest.raises(SettingsError, match=r"images of shape \(64, 64, 3\), not observations of shape \(96, 96, 3\)"):
        JEPA((96, 96, 3), 10, LEWM_SMALL)
    with pytest.raises(SettingsError, match=r"are images.*give it vision"):
        JEPA((64, 64, 3), 10)
    with pytest.raises(SettingsError, match="looks back"):
        LEWM_SMALL.replace(context=4)
    with pytest.raises(SettingsError, match="unroll = 5 is more than the 3 steps"):
        LEWM_SMALL.replace(unroll=5)


@pytest.mark.parametrize("context", [1, 3])
def test_many_rows_are_predicted_alike_at_once_and_in_groups(context: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    predictor = TransformerPredictor(8, 2, TransformerSettings(depth=2, hidden=16)).eval()
    for layer in predictor.layers:
        torch.nn.init.normal_(layer.modulation.weight)  # so that actions matter
    past = Past(torch.randn(3, 2, 8), torch.randn(3, 2, 8), torch.tensor([0, 1, 2])) if context > 1 else None
    state, actions = LatentState(torch.randn(3, 8), past).candidates(1), torch.randn(3, 5, 4, 8)
    with torch.no_grad():
        whole, groups = predictor.unroll(state, actions), []
        monkeypatch.setattr(transformer, "ROWS_AT_ONCE", 4)  # 15 rows: groups of 4, 4, 4 and 3
        monkeypatch.setattr(
            TransformerPredictor, "_unrolled", lambda *given: groups.append(len(given[2])) or unrolled(*given)
        )
        parts = predictor.unroll(state, actions)
    assert groups == [4, 4, 4, 3]
    for one, other in zip((*whole[:2], *whole[2].tensors()), (*parts[:2], *parts[2].tensors()), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_any_number_of_images_is_encoded_alike() -> None:
    encoder = VisionEncoder(8, VisionSettings(image_size=16, patch_size=4, width=16, depth=2, heads=2)).eval()
    images = torch.randn(2, 3, 16, 16, 3)
    with torch.no_grad():
        latents = encoder(images)
        assert latents.shape == (2, 3, 8)
        torch.testing.assert_close(encoder(images[1, 2]), latents[1, 2])
        assert encoder(images[:, :0]).shape == (2, 0, 8)


def test_attention_in_half_precision_is_that_in_full_precision() -> None:
    torch.manual_seed(0)
    encoder = VisionEncoder(8, VisionSettings(image_size=16, patch_size=4, width=16, depth=2, heads=2)).eval()
    images = torch.randn(6, 16, 16, 3)
    exact = encoder(images)
    exact_gradient = torch.autograd.grad(exact.square().sum(), encoder.patch.weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(images)
    rounded_gradient = torch.autograd.grad(rounded.square().sum(), encoder.patch.weight)[0]
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05 * exact.std().item())
    difference = (rounded_gradient - exact_gradient).norm() / exact_gradient.norm()
    assert 0 < difference < 0.05
