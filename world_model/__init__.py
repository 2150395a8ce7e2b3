"""World models: encode, predict, regularize and learn from clips. This room knows no environment and no planner."""

from .compute import ComputeSettings, Precision, bf16_helps
from .heads import ContinueHead, DisagreementHead, MeanKind, TwoHot, TwoHotHead, symexp, symlog
from .health import collapse_alarm, measure_health
from .jepa import JEPA, Losses
from .learner import Learner
from .lewm import LEWM, LEWM_SMALL, load_lewm
from .networks import EnsembleMLP, MLPEncoder, ResidualPredictor, RunningNormalizer
from .optimization import Optimization, OptimizationSettings
from .presets import preset_for
from .probe import LinearProbe, MLPProbe, MLPProbeSettings, Probe, ProbeSamples, load_probes, save_probes
from .quasimetric import Quasimetric, QuasimetricSettings
from .saving import load_model, save_model
from .settings import JEPASettings
from .sigreg import SIGReg, effective_rank, unit_directions
from .state import Imagination, LatentState, Past, Step
from .transformer import ActionEncoder, TransformerPredictor, TransformerSettings
from .vision import VisionEncoder, VisionSettings

__all__ = [
    "JEPA",
    "JEPASettings",
    "Losses",
    "Learner",
    "LEWM",
    "LEWM_SMALL",
    "load_lewm",
    "load_model",
    "save_model",
    "preset_for",
    "Probe",
    "LinearProbe",
    "MLPProbe",
    "MLPProbeSettings",
    "ProbeSamples",
    "save_probes",
    "load_probes",
    "Quasimetric",
    "QuasimetricSettings",
    "Optimization",
    "OptimizationSettings",
    "ComputeSettings",
    "Precision",
    "bf16_helps",
    "LatentState",
    "Past",
    "Step",
    "Imagination",
    "SIGReg",
    "unit_directions",
    "effective_rank",
    "EnsembleMLP",
    "MLPEncoder",
    "ResidualPredictor",
    "RunningNormalizer",
    "VisionEncoder",
    "VisionSettings",
    "TransformerPredictor",
    "ActionEncoder",
    "TransformerSettings",
    "MeanKind",
    "TwoHot",
    "TwoHotHead",
    "ContinueHead",
    "DisagreementHead",
    "symlog",
    "symexp",
    "measure_health",
    "collapse_alarm",
]
