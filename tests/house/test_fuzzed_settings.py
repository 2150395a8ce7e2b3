"""Whatever stands in a setting, it works or one error names it; and settings survive JSON and the command line."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
import types
import typing
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forethought import JEPAAgent
from forethought.agents import JEPAAgentSettings, PlanningSettings
from forethought.agents.pretrain import Pretraining, PretrainingSettings
from forethought.cli.train import read_options
from forethought.core.errors import ForethoughtError, SettingsError, UnknownNameError
from forethought.core.settings import Range, Settings
from forethought.envs import EpisodeStore
from forethought.evaluations import CompareSettings, TrainSettings, train
from forethought.evaluations.jobs import folder_of
from forethought.planners import ActionSpec, available_planners, make_planner, planner_class
from forethought.planners.instruments import Bowl
from forethought.world_model import LEWM_SMALL, TransformerSettings, VisionSettings

HUGE, TINY = 2**70, 1e-300
WILD = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        10**9,
        HUGE,
        10**5000,
        -0.5,
        TINY,
        1e300,
        float("nan"),
        float("inf"),
        "",
        "käse\0☃",
        [],
        [1],
        {},
    ]
)


def repeatably(examples: int) -> settings:
    return settings(
        derandomize=True, database=None, deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck)
    )


def sound(hint: Any) -> st.SearchStrategy[Any]:
    """Return small values that a field of this type takes, the ends of its range among them where they are small."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        [span] = [note for note in options[1:] if isinstance(note, Range)]
        low = span.ge if span.ge is not None else span.gt
        if typing.get_origin(options[0]) is None and options[0] is int:
            return st.integers(int(low), int(min(low + 8, span.le or HUGE)))
        high = min(4.0, *(end for end in (span.le, span.lt) if end is not None), 4.0)
        return st.floats(low, high, exclude_min=span.gt is not None, exclude_max=span.lt == high)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([sound(option) for option in options])
    if origin is Literal:
        return st.sampled_from(options)
    return {bool: st.booleans(), types.NoneType: st.none(), str: st.text(max_size=8)}.get(hint, st.nothing())


def beyond(hint: Any) -> st.SearchStrategy[Any]:
    """Return what lies just outside of a field's range."""
    notes = [note for note in typing.get_args(hint) if isinstance(note, Range)]
    ends = [(note.ge, -1) for note in notes] + [(note.le, 1) for note in notes]
    outside = [end + (step if isinstance(end, int) else step * 1e-3) for end, step in ends if end is not None]
    return st.sampled_from(outside) if outside else st.nothing()


def hints(cls: type[Settings]) -> dict[str, Any]:
    types_ = typing.get_type_hints(cls, include_extras=True)
    return {field.name: types_[field.name] for field in dataclasses.fields(cls)}


def is_settings(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)


def trees(cls: type[Settings], values: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Return mappings of a few fields of ``cls``, nested settings as mappings of a few of theirs."""
    fields = {}
    for name, hint in hints(cls).items():
        fields[name] = trees(hint, values) | values(str) if is_settings(hint) else values(hint)
    return st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: fields[name] for name in names})
    )


def anything(hint: Any) -> st.SearchStrategy[Any]:
    return st.one_of(sound(hint), sound(hint), sound(hint), beyond(hint), WILD)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes``, nested mappings merged."""
    both = {name for name in base if isinstance(base[name], dict) and isinstance(changes.get(name), dict)}
    return base | changes | {name: merged(base[name], changes[name]) for name in both}


def check_refusal(error: ForethoughtError, *given_: dict[str, Any]) -> None:
    """See to it that the message names one of the settings that were given, at any depth."""
    names = {name for one in given_ for name in one}
    names |= {name for one in given_ for value in one.values() if isinstance(value, dict) for name in value}
    told = isinstance(error, UnknownNameError)  # which names what it does not know, and what it does
    assert told or any(name in str(error) or repr(name) in str(error) for name in names), (error, given_)


SMALL: dict[str, Any] = {
    "model": {"latent_dims": 8, "hidden": 8, "directions": 4},
    "behaviour": {"hidden": 8},
    "planning": {"budget": 20, "proposals": 2},
    "acting": {"horizon": 2},
    "learning_starts": 4,
    "batch_size": 4,
    "health_interval": 10,
}


@pytest.fixture(autouse=True)
def _nothing_is_compiled(monkeypatch):
    """Compiling takes a minute, and has tests of its own."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


class Line(gym.Env):
    """Episodes of five steps on a line."""

    observation_space = spaces.Box(-1, 1, (2,))

    def __init__(self, action_space):
        self.action_space, self.render_mode = action_space, None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.time += 1
        seen = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return seen, float(np.sum(action)), self.time == 5, False, {}


@pytest.mark.filterwarnings("ignore:The latents have collapsed")
@repeatably(50)
@given(
    trees(JEPAAgentSettings, anything),
    st.sampled_from(["", *available_planners()]),
    st.sampled_from([spaces.Box(-1, 1, (1,)), spaces.Discrete(2)]),
    st.dictionaries(st.text(max_size=3), WILD, max_size=1),
)
def test_any_settings_of_the_agent_learn_and_act_or_are_refused_by_name(changes, planner, space, unknown):
    if planner:
        changes = merged({"planning": {"planner": planner}}, changes)
    changes = {**changes, **unknown}
    try:
        agent = JEPAAgent(lambda: Line(space), **merged(SMALL, changes))
        agent.learn(min(agent.settings.learning_starts, 30) + 10)
        action, _ = agent.predict(Line(space).reset(seed=0)[0])
    except ForethoughtError as error:
        check_refusal(error, changes)
    else:
        assert space.contains(action)
        assert all(weight.isfinite().all() for weight in agent.model.parameters())


@pytest.mark.parametrize("name", available_planners())
@repeatably(25)
@given(st.data())
def test_any_settings_of_a_planner_plan_or_are_refused_by_name(name, data):
    space = spaces.Discrete(2) if name == "categorical_cem" else spaces.Box(-1, 1, (1,))
    own = data.draw(trees(planner_class(name).Settings, anything))
    common = {name: data.draw(st.none() | anything(kind)) for name, kind in hints(PlanningSettings).items()}
    common = {name: common[name] for name in ("horizon", "budget", "preset") if common[name] is not None}
    try:
        planner = make_planner(name, ActionSpec.from_space(space), **{"horizon": 2} | common | own)
        plan = planner.plan(Bowl.make(planner, 1), planner.initial_state(0))
    except ForethoughtError as error:
        check_refusal(error, common, own)
    else:
        assert plan.actions.isfinite().all()
        assert not plan.failed.any()


TINY_VISION = {
    "image_size": 16,
    "patch_size": 8,
    "width": 8,
    "depth": 1,
    "heads": 2,
    "hidden": 8,
    "projector_hidden": 8,
}
TINY_TRANSFORMER = {"history": 3, "depth": 1, "heads": 2, "head_dims": 4, "hidden": 8, "projector_hidden": 8}


@functools.cache
def pictures() -> EpisodeStore:
    """Return a store of a few episodes of noise."""
    store, rng = EpisodeStore((16, 16, 3), 1), np.random.default_rng(0)
    for _ in range(4):
        seen = rng.integers(0, 256, (25, 16, 16, 3), dtype=np.uint8)
        store.add_episode(seen, rng.uniform(-1, 1, (24, 1)).astype(np.float32), np.zeros(24, np.float32), False, True)
    return store


@repeatably(50)
@given(
    trees(VisionSettings, anything),
    trees(TransformerSettings, anything),
    trees(PretrainingSettings, anything).map(lambda tree: {name: tree[name] for name in tree if name != "model"}),
)
def test_any_settings_of_a_pretraining_learn_or_are_refused_by_name(vision, transformer, others):
    model = {"vision": TINY_VISION | vision, "transformer": TINY_TRANSFORMER | transformer}
    tiny = LEWM_SMALL.replace(latent_dims=8, directions=4, block=2).to_dict() | model
    try:
        training = Pretraining(pictures(), PretrainingSettings.from_dict({"batch_size": 4, "model": tiny} | others))
        for _ in range(2):
            training.learn()
        health = training.health()
    except ForethoughtError as error:
        check_refusal(error, vision, transformer, others)
    else:
        assert all(np.isfinite(value) for value in health.values())


@repeatably(60)
@given(trees(TrainSettings, anything), st.dictionaries(st.text(max_size=3), WILD, max_size=1))
def test_any_settings_of_a_training_train_or_are_refused_by_name(changes, unknown):
    base = {"task": "CartPole-v1", "agent": "random", "steps": 2, "evaluations": 1, "episodes": 1}
    with tempfile.TemporaryDirectory() as folder:
        try:
            asked = TrainSettings.from_dict(base | changes | unknown)
            result = train(asked, Path(folder) / "run")
        except ForethoughtError as error:
            check_refusal(error, base, changes, unknown)
        else:
            assert result.status == "finished"


@repeatably(60)
@given(trees(CompareSettings, anything), st.dictionaries(st.text(max_size=3), WILD, max_size=1))
def test_any_settings_of_a_comparison_make_runs_in_its_folder_or_are_refused_by_name(changes, unknown):
    base = {"tasks": ["CartPole-v1"], "agents": ["jepa", "käse"], "variants": {"käse": "jepa"}}
    try:
        runs = CompareSettings.from_dict(base | changes | unknown).runs()
    except SettingsError as error:
        check_refusal(error, base, changes, unknown)
    else:
        assert runs
        root = Path("runs").resolve()
        assert all(folder_of(root, run).resolve().parents[2] == root for run in runs)


def made(cls: type[Settings]) -> st.SearchStrategy[Any]:
    """Return sound settings, of which most fields differ from their defaults."""

    def build(values: dict[str, Any]) -> Any:
        with suppress(SettingsError):  # where fields do not fit each other
            return cls.from_dict(values)

    fields = {name: made(hint) if is_settings(hint) else sound(hint) for name, hint in hints(cls).items()}
    fields = {name: values for name, values in fields.items() if not values.is_empty}
    return st.fixed_dictionaries({}, optional=fields).map(build).filter(lambda built: built is not None)


WITHOUT_OPTION = ("model.vision", "model.transformer")
"""Groups of settings that are none by default: for images the agent chooses them, and Python gives them."""


def as_options(data: dict[str, Any], prefix: str = "") -> list[str]:
    """Return plain settings as they would be written on the command line."""
    written = []
    for name, value in data.items():
        option = f"{prefix}{name}".replace("_", "-")
        if option in WITHOUT_OPTION:
            assert value is None
        elif isinstance(value, dict):
            written += as_options(value, f"{option}.")
        elif isinstance(value, bool):
            written.append(f"--{option}" if value else f"--{prefix}no-{name}".replace("_", "-"))
        elif isinstance(value, list):
            written += [f"--{option}", *map(str, value)]
        else:
            written.append(f"--{option}={value}")
    return written


@repeatably(6)
@given(made(JEPAAgentSettings), made(TrainSettings))
def test_settings_are_the_same_after_json_and_after_the_command_line(own, training):
    training = training.replace(agent="jepa", task="Pendulum-v1", world_model="", agent_settings=own.to_dict())
    assert TrainSettings.from_dict(json.loads(json.dumps(training.to_dict(), allow_nan=False))) == training
    assert JEPAAgentSettings.from_dict(json.loads(json.dumps(own.to_dict(), allow_nan=False))) == own
    shared = {name: value for name, value in training.to_dict().items() if name not in ("agent_settings", "task")}
    options = read_options(["Pendulum-v1", *as_options(shared), *as_options(own.to_dict())])
    assert options.settings == own
    assert options.agent_settings() == own.to_dict()
    assert {name: options.training.to_dict()[name] for name in shared} == shared
