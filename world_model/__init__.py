"""World models: encode, predict, regularize and learn from clips. This room knows no environment and no planner."""

from .compute import ComputeSettings
from .heads import ContinueHead, TwoHotHead, symexp, symlog
from .health import collapse_alarm, measure_health
from .jepa import JEPA, JEPASettings, Losses
from .learner import Learner
from .networks import MLPEncoder, ResidualPredictor, RunningNormalizer
from .optimization import Optimization, OptimizationSettings
from .sigreg import SIGReg, effective_rank, unit_directions
from .state import Imagination, LatentState, Step

__all__ = [
    "JEPA",
    "JEPASettings",
    "Losses",
    "Learner",
    "Optimization",
    "OptimizationSettings",
    "ComputeSettings",
    "LatentState",
    "Step",
    "Imagination",
    "SIGReg",
    "unit_directions",
    "effective_rank",
    "MLPEncoder",
    "ResidualPredictor",
    "RunningNormalizer",
    "TwoHotHead",
    "ContinueHead",
    "symlog",
    "symexp",
    "measure_health",
    "collapse_alarm",
]
