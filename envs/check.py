"""check_environment: what ``forethought doctor ENV`` tells about an environment before anybody trains on it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env

from ..core.errors import ForethoughtError, UnknownNameError
from ..core.seeding import numpy_generator
from ..core.words import counted
from .codecs import ActionCodec, ObservationCodec
from .environments import Environments
from .environments import logger as environments_logger
from .making import make_environments
from .supervision import Supervision
from .tasks import make_env

Factory = Callable[[], "gym.Env[Any, Any]"]
_SEED = 20_250
_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_NO_MATTER = "Box observation space", "we recommend using a symmetric and normalized space"
"""In warnings that are none here: the model keeps statistics of observations, and plans in normalised actions."""


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        ok: whether it is as it should be.
        detail: one sentence with the numbers, or with what is wrong.
        notes: what was warned of meanwhile; no fault for our agents, but perhaps one for somebody.
    """

    name: str
    ok: bool
    detail: str
    notes: tuple[str, ...] = ()


def check_environment(env: str | Factory, steps: int = 500) -> list[Check]:
    """Look at an environment from all sides; whatever it does becomes a finding, never an exception.

    Whether it can be built, its spaces are understood and Gymnasium's checker is content; whether values stay finite
    over random steps, equal seeds give equal episodes, and an open episode can be resumed exactly; and, for a name,
    whether it can be drawn.

    Args:
        env: a task name or id, or a factory.
        steps: random steps to take.

    Returns:
        The findings in order; each note stands in the first that it came up in. Where it cannot be built, or its spaces
        are not understood, that is the last.

    Raises:
        UnknownNameError: for an unknown id.
    """
    factory: Factory = (lambda: make_env(env)) if isinstance(env, str) else env
    checks = [_run("building", _build, factory)]
    if checks[-1].ok:
        checks.append(_run("spaces", _spaces, factory))
    if checks[-1].ok:
        checks += [
            _run("Gymnasium's checker", _gymnasium, factory),
            _run("finite values", _finite, factory, steps),
            _run("seeding", _seeding, factory),
            _run("exact resume", _resume, factory),
        ]
        if isinstance(env, str):
            checks.append(_run("rendering", _rendering, env))
    said: set[str] = set()
    for index, check in enumerate(checks):
        checks[index] = replace(check, notes=tuple(note for note in check.notes if note not in said))
        said.update(check.notes)
    return checks


def _one(factory: Factory, seed: int) -> Environments:
    """Return one environment whose first failure is a finding."""
    return make_environments(factory, seed=seed, supervision=Supervision(restarts=0))


class _Wrong(Exception):
    """A finding that is not as it should be."""


def _run(name: str, check: Callable[..., str], *args: Any) -> Check:
    with warnings.catch_warnings(record=True) as caught, _unlogged():
        warnings.simplefilter("always")
        try:
            ok, detail = True, check(*args)
        except UnknownNameError:
            raise
        except (_Wrong, ForethoughtError) as error:
            ok, detail = False, str(error)
        except Exception as error:  # environments, and Gymnasium's assertions about them, may raise anything
            ok, detail = False, f"{type(error).__name__}: {error}".removesuffix(": ")
    notes = dict.fromkeys(_COLOUR.sub("", str(warning.message)).removeprefix("WARN: ") for warning in caught)
    return Check(name, ok, detail, tuple(note for note in notes if not any(part in note for part in _NO_MATTER)))


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep quiet about what becomes a finding."""
    before, environments_logger.disabled = environments_logger.disabled, True
    try:
        yield
    finally:
        environments_logger.disabled = before


def _build(factory: Factory) -> str:
    env = factory()
    env.close()
    kind = type(env.unwrapped)
    return f"{kind.__module__}.{kind.__qualname__}"


def _spaces(factory: Factory) -> str:
    env = factory()
    env.close()
    observations, actions = ObservationCodec(env.observation_space), ActionCodec(env.action_space)
    kind = "one-hot" if actions.discrete else "in [-1, 1]"
    shape = observations.shape
    seen = f"{shape[0]} observation dimensions" if len(shape) == 1 else f"images of {shape[0]} x {shape[1]} pixels"
    if len(shape) > 1 and shape[0] != shape[1]:
        raise _Wrong(f"{seen}, and agents see square ones: gymnasium.wrappers.ResizeObservation makes them so.")
    return f"{seen}, {actions.dims} action dimensions {kind}."


def _gymnasium(factory: Factory) -> str:
    env = factory()
    try:
        check_env(env.unwrapped, skip_render_check=True)
    finally:
        env.close()
    return "passed."


def _finite(factory: Factory, steps: int) -> str:
    environments, rng, ends = _one(factory, _SEED), numpy_generator(_SEED, "actions"), 0
    try:
        environments.reset()
        for step in range(steps):
            transition = environments.step(environments.action_codec.sample(rng, 1))
            if environments.faults:
                raise _Wrong(f"{transition.infos[0].get('fault', 'non-finite first observation')} at step {step + 1}.")
            ends += int(transition.terminated[0] or transition.truncated[0])
    finally:
        environments.close()
    if not ends and not _is_limited(factory):
        warnings.warn(
            "No episode ended, and none has a limit, so that held-out ones may take 10,000 steps each: "
            "gymnasium.register takes max_episode_steps, and gymnasium.wrappers.TimeLimit does the same.",
            stacklevel=1,
        )
    return f"{steps} random steps, {counted(ends, 'episode')} ended."


def _is_limited(factory: Factory) -> bool:
    env = factory()
    env.close()
    return env.spec is not None and env.spec.max_episode_steps is not None


def _seeding(factory: Factory, steps: int = 20) -> str:
    def episode(seed: int) -> list[Any]:
        environments = _one(factory, seed)
        rng = numpy_generator(_SEED, "actions")
        try:
            seen = [environments.reset()]
            for _ in range(steps):
                transition = environments.step(environments.action_codec.sample(rng, 1))
                seen += [transition.next_observations, transition.rewards]
        finally:
            environments.close()
        return seen

    first, again, other = episode(_SEED), episode(_SEED), episode(_SEED + 1)
    if not all(map(np.array_equal, first, again)):
        raise _Wrong("reset twice with the same seed and given the same actions, it does different things.")
    varied = not all(map(np.array_equal, first, other))
    return "equal seeds give equal episodes" + (", others differ." if varied else "; the seed changes nothing.")


def _resume(factory: Factory, steps: int = 50) -> str:
    unbroken, resumed = _one(factory, _SEED), _one(factory, _SEED)
    rng = numpy_generator(_SEED, "actions")
    actions = [unbroken.action_codec.sample(rng, 1) for _ in range(steps)]
    try:
        unbroken.reset()
        for action in actions[: steps // 2]:
            unbroken.step(action)
        exact = resumed.load_state_dict(unbroken.state_dict())
        for action in actions[steps // 2 :] if exact else []:
            one, two = unbroken.step(action), resumed.step(action)
            exact &= np.array_equal(one.next_observations, two.next_observations)
            exact &= np.array_equal(one.rewards, two.rewards)
    finally:
        unbroken.close()
        resumed.close()
    if not exact:
        raise _Wrong("repeating an episode's actions leads elsewhere, so a resumed run starts a fresh episode instead.")
    return "repeating an episode's actions leads to the same place, bit for bit."


def _rendering(name: str) -> str:
    plain = make_env(name)
    plain.close()
    if "rgb_array" not in plain.metadata.get("render_modes", []):
        return "it offers no images, which only films need."
    env = make_env(name, render_mode="rgb_array")
    try:
        env.reset(seed=_SEED)
        frame = env.render()
    finally:
        env.close()
    if not isinstance(frame, np.ndarray) or frame.ndim != 3:
        raise _Wrong(f"render() returned {type(frame).__name__} instead of an image.")
    return f"{frame.shape[1]} x {frame.shape[0]} pixels."
