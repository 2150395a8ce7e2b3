"""Settings of the JEPA agent: one set of defaults for all tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from ..core.errors import SettingsError, did_you_mean
from ..core.settings import Range, Settings, field_names
from ..envs import Supervision
from ..planners import ActionSpec, Planner, make_planner, planner_class
from ..planners.base import MOST_STEPS, Size
from ..world_model import ComputeSettings, JEPASettings, OptimizationSettings, VisionSettings
from .behaviour import BehaviourSettings
from .objective import Bootstrap


@dataclass(frozen=True)
class PlanningSettings(Settings):
    """How an agent plans its actions."""

    BEFORE = {"doubt": 0.0, "bootstrap": "last"}

    planner: str = "auto"
    """Planner by name; "auto" is icem for continuous actions and categorical_cem for discrete ones."""
    horizon: Annotated[int, Range(ge=1, le=MOST_STEPS)] = 3
    """Planned model steps."""
    budget: Size | None = 64
    """Largest evaluations + 2 x gradients per decision; none for the planner's preset."""
    preset: Literal["cpu", "gpu"] = "cpu"
    """The planner's preset."""
    proposals: Annotated[int, Range(ge=0, le=10_000)] = 16
    """Plans that the actor proposes: one that follows it exactly, the others disturbed."""
    proposal_noise: Annotated[float, Range(ge=1e-3, le=1)] = 0.2
    """How much the other proposals are disturbed (standard deviation in [-1, 1]; probability of another choice)."""
    prior_weight: Annotated[float, Range(ge=0, le=1e6)] = 0.0
    """Cost of leaving the actor, near whom alone model and critic are to be trusted: rewards (of mean size) given up
    per nat by which an action is less likely than the actor's own, under the disturbance above."""
    doubt: Annotated[float, Range(ge=0, le=1e6)] = 2.0
    """Added to the price per nat of leaving the actor, for each reward by which the critic contradicts itself: by how
    much estimates of what the actor brings differ, by after how many planned steps its value takes over (standard
    deviation). A critic that does not agree with itself about one plan cannot tell which of others is better. It takes
    one more imagined plan a decision, which the budget does not count; who compares no plans has nothing to doubt."""
    bootstrap: Bootstrap = "mean"
    """Which estimate of a plan's return counts: the one that ends with the critic's value after the last step; or the
    mean of those that end with it after each, whose errors partly cancel. Each holds what leaving the actor costs until
    its end, so that the mean counts later steps less."""
    execute: Annotated[int, Range(ge=1, le=MOST_STEPS)] = 1
    """Model steps of a plan that are executed before planning anew."""
    actor: Literal["auto", "average", "copy", "latest", "proven"] = "auto"
    """Which state of the actor proposes plans, or acts alone, and is followed where they end: the latest, as it learns
    on; the copy that the critic's targets follow (behaviour.target_rate); or the average over a longer time
    (behaviour.averaging_rate); or, with the model and critic of that time, the average that did best in trials
    (trial_share), as soon as there is one. "auto" is the latest while learning; otherwise what was proven where there
    are trials, and the average where there are none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.planner == "policy" and not self.proposals:
            raise SettingsError("PlanningSettings.proposals = 0: the planner 'policy' does what is proposed.")

    @property
    def bare(self) -> bool:
        """Whether the actor acts alone."""
        return self.planner == "policy" and self.proposals <= 1

    def planner_for(self, spec: ActionSpec) -> str:
        """Return the planner's name, where it is chosen automatically that of what plans ``spec``."""
        if self.planner != "auto":
            return self.planner
        return "categorical_cem" if spec.discrete else "icem"

    def build(self, spec: ActionSpec, own: Mapping[str, Any]) -> Planner:
        """Return the planner for ``spec``; ``own`` are settings of the planner itself."""
        name = self.planner_for(spec)
        if name == "policy":  # its effort is the number of proposals, not a budget
            return make_planner(name, spec, self.horizon, proposals=max(self.proposals, 1), **own)
        return make_planner(name, spec, self.horizon, preset=self.preset, budget=self.budget, **own)


def split_changes(planner: str, changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what ``planner`` and ``changes`` are of :class:`PlanningSettings`, and of the planner itself.

    Raises:
        SettingsError: for a setting that neither has, naming the closest.
        UnknownNameError: there is no such planner.
    """
    fields = PlanningSettings().to_dict()
    own = [] if planner == "auto" else field_names(planner_class(planner).Settings)
    for name in changes:
        if name not in fields and name not in own and planner != "auto":
            known = [*own, *(name for name in fields if name != "planner")]
            raise SettingsError(f"Planning by {planner} has no setting {name!r}.{did_you_mean(name, known)}")
    shared = {"planner": planner} | {name: value for name, value in changes.items() if name in fields}
    if planner == "policy":
        shared.setdefault("proposals", 1)
    return shared, {name: value for name, value in changes.items() if name not in fields}


def _bare_actor() -> PlanningSettings:
    return PlanningSettings(planner="policy", horizon=1, budget=None, proposals=1)


@dataclass(frozen=True)
class JEPAAgentSettings(Settings):
    """Settings of a :class:`~forethought.JEPAAgent`."""

    BEFORE = {"episode_share": None, "cut_if_terminating": True}

    model: JEPASettings = field(default_factory=JEPASettings)
    """The world model; where observations are images and it has no vision, it is given one that fits them."""
    learner: OptimizationSettings = field(default_factory=OptimizationSettings)
    """How the world model is optimised."""
    behaviour: BehaviourSettings = field(default_factory=BehaviourSettings)
    """Actor and critic."""
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    """How the updates of model, actor and critic are computed."""
    planning: PlanningSettings = field(default_factory=PlanningSettings)
    """Full effort: how predict acts, and evaluation with it."""
    acting: PlanningSettings = field(default_factory=_bare_actor)
    """Cheap effort: how actions are chosen while training; the bare actor by default."""
    learning_starts: Annotated[int, Range(ge=1)] = 2500
    """Environment steps of uniformly random actions before learning starts."""
    exploration: Annotated[float, Range(ge=0, le=1)] = 0.2
    """Afterwards: standard deviation of the noise on continuous actions in [-1, 1]; for discrete ones, the share of
    uniform choices in what is drawn from the actor, or in what a searching planner chose."""
    exploration_spread: Annotated[float, Range(ge=0, le=1)] = 0.0
    """How much that differs from episode to episode: each draws its own, by up to this share less or more (1 at most).
    With 1, some are hardly disturbed, and what the actor does by itself is tried, too; where disturbances end episodes,
    most steps are those of the calm ones. 0 for all alike."""
    exploration_spell: Annotated[int, Range(ge=1)] | None = None
    """Steps, in the mean, after which exploring pauses, or goes on again (Pislar et al., arXiv 2108.11811): half of the
    time it acts undisturbed, as it does when it counts, from wherever disturbances have led; so what becomes of that is
    seen. None for no pauses."""
    episode_share: Annotated[float, Range(gt=0, le=1)] | None = 0.02
    """Largest share of all steps so far that one episode takes while learning (100 steps are always allowed): longer
    ones are cut, which is not taken for their end, and fresh ones begin. Otherwise the first few episodes, and with
    them whatever position the agent has got stuck in, are nearly all that it learns from. It holds in environments that
    the agent was given by name, as a factory or one by one; none for the environment's own limit alone."""
    cut_if_terminating: bool = False
    """Whether that also holds once an episode has reached a terminal state. Where failing ends them, nobody gets stuck
    in one, and what comes late is met in long ones alone; where reaching the goal does, one still may."""
    trial_share: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Share of the steps that are taken in trials, at most and give or take two episodes, one at a time: whole episodes
    in which the average acts by itself, undisturbed. What does as well as the best so far, twice, is kept as proven,
    and acts from then on when it counts, whatever becomes of what learns on. Only episodes that are not cut
    (episode_share) are trials, so that by default nothing is tried before one has reached a terminal state."""
    batch_size: Annotated[int, Range(ge=2, le=65_536)] = 256
    """Clips per update."""
    endings: Annotated[float, Range(ge=0, le=0.5)] = 0.05
    """Share of them drawn among the clips that reach a terminal state, mostly a recent one: such are rare, and without
    them model and critic miss the edge that must not be crossed, or forget it once it is no longer met. Where chance
    decides on the end, it is expected too often."""
    fading: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """By which share the agent's own experience is drawn more rarely with every environment step that was taken since,
    down to a tenth of the newest: it becomes less like what the actor does now. 0 for all alike. ``endings`` fade in
    their own way, and recorded episodes never."""
    recorded_share: Annotated[float, Range(gt=0, lt=1)] = 0.5
    """Share of the clips drawn from recorded episodes, where the agent was given a store; at least one is recorded,
    and one its own. ``endings`` holds in each part."""
    recorded_rewards: bool = True
    """Whether rewards and ends in the store are those of the task. If not, only encoder and predictor learn from it."""
    updates_per_step: Annotated[float, Range(gt=0, le=100)] = 1.0
    """Updates of model, critic and actor per environment step; those of the random steps are made up for once learning
    starts."""
    num_envs: Annotated[int, Range(ge=1, le=4096)] = 1
    """Environments stepped together, where the agent builds them."""
    async_envs: bool = False
    """Each of them in a process of its own: they work at the same time, and one that crashes or hangs is replaced.
    Where a step takes less than about a tenth of a millisecond, this costs more time than it saves."""
    supervision: Supervision = field(default_factory=Supervision)
    """What is done when an environment fails."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """What to do when a check finds the latents collapsed."""
    health_interval: Annotated[int, Range(ge=10)] = 500
    """Environment steps between two checks of the representation. The last few before each check, at most 128 or
    four model steps of every environment, are held out from learning until then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model.heads:
            raise SettingsError(
                "JEPAAgentSettings.model.heads = False: this agent plans by the reward that heads predict."
            )
        if self.behaviour.reward == "disagreement" and not self.model.ensemble:
            raise SettingsError(
                "JEPAAgentSettings.behaviour.reward = 'disagreement' needs networks that can disagree: "
                "model.ensemble = 5, for example."
            )

    def planning_by(self, planner: str) -> PlanningSettings:
        """Return how ``planner``, by name, plans where the agent's own planner does not.

        Its settings are the agent's own; but where that is the bare actor, which searches nothing, the effort that it
        does without (horizon, budget, proposals) is the usual one.
        """
        own, usual = self.planning, type(self)().planning
        effort = {}
        if own.bare and planner != "policy":
            without = _bare_actor()
            spared = [
                name for name in ("horizon", "budget", "proposals") if getattr(own, name) == getattr(without, name)
            ]
            effort = {name: getattr(usual, name) for name in spared}
        return own.replace(planner=planner, **effort)

    def settled(self, observation_shape: tuple[int, ...]) -> Self:
        """Return settings for observations of this shape: with vision, where they are images, and nothing "auto"."""
        model = self.model
        if len(observation_shape) > 1 and model.vision is None:
            model = model.replace(vision=VisionSettings.fitting(observation_shape))
        return self.replace(model=model.settled(rewarded=self.behaviour.reward == "task"))
