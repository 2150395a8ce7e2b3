"""Settings of a JEPA: its size and form, how it learns, and what keeps its latents from collapsing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from ..core.errors import SettingsError
from ..core.settings import Range, Settings, Width
from .networks import SIMPLEX, LatentForm
from .transformer import TransformerSettings
from .vision import VisionSettings

SIGREG = {"latent_form": "free", "target": "both", "regularize": "latent"}
"""Settings by which SIGReg keeps latents from collapsing."""
TARGET_COPY = {"latent_form": "layer", "target": "copy", "regularize": "nothing"}
"""Settings by which normalised latents and a target that follows slowly do."""
LossWeight = Annotated[float, Range(ge=0, le=1e6)]


@dataclass(frozen=True)
class JEPASettings(Settings):
    """Settings of a :class:`~forethought.world_model.JEPA`."""

    BEFORE = SIGREG

    latent_dims: Width = 64
    """Width D of the latent."""
    latent_form: Literal["auto", LatentForm] = "auto"
    """Form of every latent, encoded or predicted: free; layer, normalised over its dimensions; simplicial,
    probabilities within groups of 8. What "auto" stands for here, in target and in regularize is decided together:
    layer, copy and nothing where rewards shape the latent and both networks are plain; free, both and latent
    otherwise, or where one of the three is given."""
    hidden: Width = 256
    """Width of the hidden layers of encoder and predictor, where they are plain networks."""
    vision: VisionSettings | None = None
    """A vision transformer that encodes images; none for a plain network that encodes vectors."""
    transformer: TransformerSettings | None = None
    """A transformer that predicts from the last few steps; none for a plain network that predicts from the present."""
    context: Annotated[int, Range(ge=1, le=64)] = 1
    """Steps that were really taken, the present one included, that the prediction looks back over when acting; where
    behaviour is learned in imagination, it begins at single steps all the same."""
    unroll: Annotated[int, Range(ge=1, le=64)] = 3
    """Steps T of the clips that it learns from."""
    prediction: Literal["open_loop", "one_step"] = "open_loop"
    """What is predicted in training: the whole clip from its first latent, or each step from the encoded ones before it
    (teacher forcing)."""
    rollout_weight: LossWeight = 0.0
    """Weight of the open-loop error beside that of one step, if one step is to be predicted."""
    block: Annotated[int, Range(ge=1, le=64)] = 1
    """Environment steps per model step."""
    target: Literal["auto", "both", "stop", "copy"] = "auto"
    """Target of the prediction: the encoder with gradient, without gradient, or a copy refreshed now and then; "auto"
    as for latent_form."""
    target_refresh: Annotated[int, Range(ge=1)] = 250
    """Updates between two refreshes of the copy."""
    regularize: Literal["auto", "latent", "projector", "nothing"] = "auto"
    """What SIGReg is applied to: the latent, a learned projection of it, or nothing at all; "auto" as for
    latent_form."""
    regularizer_weight: LossWeight = 0.005
    """Where SIGReg is applied, its weight beside the prediction error (mean over dimensions)."""
    regularize_mean: bool = True
    """Whether SIGReg holds the mean at zero, too; if not, only the shape of the distribution around it."""
    directions: Width = 64
    """Random directions per SIGReg evaluation."""
    projector_dims: Width = 32
    """Width of the projection, where one is regularized."""
    heads: bool = True
    """Whether reward and continuation are predicted."""
    reward_bins: Annotated[int, Range(ge=3, le=4095)] = 65
    """Bins of the two-hot reward head; odd."""
    reward_weight: LossWeight = 0.1
    """Weight of the reward head's cross-entropy."""
    continue_weight: LossWeight = 0.1
    """Weight of the continue head's cross-entropy."""
    ensemble: Annotated[int, Range(ge=0, le=64)] = 0
    """Networks beside the predictor that learn what follows each step, and by their disagreement tell where the model
    has seen little; none by default, at least 2."""

    @property
    def plain(self) -> bool:
        """Whether encoder and predictor are plain networks."""
        return self.vision is None and self.transformer is None

    def settled(self, rewarded: bool = False) -> Self:
        """Return settings in which nothing is "auto": what keeps the latents from collapsing is decided.

        Args:
            rewarded: whether it learns the rewards of a task. Where these shape the latent, a copy of the encoder as
                the target of normalised latents did best (benchmark collapse); otherwise SIGReg alone is known to do.

        Raises:
            SettingsError: for settings of SIGReg where that leaves it out.
        """
        choices = {name: getattr(self, name) for name in SIGREG}
        undecided = [name for name, choice in choices.items() if choice == "auto"]
        shaped = rewarded and self.heads and self.reward_weight > 0
        usual = TARGET_COPY if shaped and self.plain and len(undecided) == len(SIGREG) else SIGREG
        if usual is TARGET_COPY:
            for name in ("regularizer_weight", "regularize_mean"):
                if (value := getattr(self, name)) != getattr(type(self)(), name):
                    raise SettingsError(
                        f"JEPASettings.{name} = {value!r} is of SIGReg, which is not applied by default where rewards "
                        "shape the latent: ask for regularize = 'latent', too."
                    )
        return self.replace(**{name: usual[name] for name in undecided})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward_bins % 2 == 0:
            raise SettingsError(f"JEPASettings.reward_bins = {self.reward_bins} must be odd, so that zero is a bin.")
        if self.latent_form == "simplicial" and self.latent_dims % SIMPLEX:
            raise SettingsError(
                f"JEPASettings.latent_dims = {self.latent_dims} must be a multiple of {SIMPLEX} for simplicial latents."
            )
        if self.latent_form not in ("auto", "free") and not self.plain:
            part = "vision" if self.vision else "transformer"
            raise SettingsError(
                f"JEPASettings.latent_form = {self.latent_form!r} is a form of plain networks, and does not go with "
                f"{part}."
            )
        if self.ensemble == 1:
            raise SettingsError("JEPASettings.ensemble = 1: a single network cannot disagree; 0 is for none.")
        history = self.transformer.history if self.transformer else 1
        if self.context > history:
            raise SettingsError(
                f"JEPASettings.context = {self.context} is more than the {history} steps that the predictor looks back "
                "over (transformer.history)."
            )
        if self.prediction == "one_step" and self.transformer and self.unroll > history:
            raise SettingsError(
                f"JEPASettings.unroll = {self.unroll} is more than the {history} steps that the predictor looks back "
                "over (transformer.history), which one_step predicts from in one pass."
            )
