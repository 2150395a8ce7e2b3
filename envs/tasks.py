"""Environments by name: the task registry and :func:`make_env`."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from ..core.errors import EnvironmentFault, ForethoughtError, SettingsError, UnknownNameError
from ..core.registry import Registry, import_registrations
from .quiet import quiet_mujoco, require_display, require_drawing

EnvFactory = Callable[..., "gym.Env[Any, Any]"]

TASKS: Registry[EnvFactory] = Registry("task", __package__)

_GYMNASIUM_TASKS = {
    "Acrobot-v1": "Swing a two-link arm above a line by torque on its middle joint; 3 actions, 500 steps.",
    "CartPole-v1": "Keep a pole upright on a cart that is pushed left or right; 2 actions, 500 steps.",
    "MountainCar-v0": "Rock a weak car out of a valley, with 3 actions and -1 a step; 200 steps.",
    "MountainCarContinuous-v0": "Rock a weak car out of a valley with little force; 1 action dimension, 999 steps.",
    "Pendulum-v1": "Swing a pendulum up and hold it with little torque; 1 action dimension, 200 steps.",
    "Ant-v5": "Run forward on four legs; 8 torques, 1,000 steps, ends if it falls.",
    "HalfCheetah-v5": "Run forward on two legs in a plane; 6 torques, 1,000 steps, never ends early.",
    "Hopper-v5": "Hop forward on one leg in a plane; 3 torques, 1,000 steps, ends if it falls.",
    "Humanoid-v5": "Walk forward on two legs; 17 torques, 1,000 steps, ends if it falls.",
    "HumanoidStandup-v5": "Stand up from lying; 17 torques, 1,000 steps, never ends early.",
    "InvertedDoublePendulum-v5": "Balance two poles on each other on a cart; 1 force, 1,000 steps, ends if they fall.",
    "InvertedPendulum-v5": "Balance a pole on a cart; 1 force, 1,000 steps, ends if it falls.",
    "Pusher-v5": "Push a cylinder to a goal with a 7-joint arm; 7 torques, 100 steps.",
    "Reacher-v5": "Reach a target in the plane with a 2-joint arm; 2 torques, 50 steps.",
    "Swimmer-v5": "Swim forward with three links; 2 torques, 1,000 steps, never ends early.",
    "Walker2d-v5": "Walk forward on two legs in a plane; 6 torques, 1,000 steps, ends if it falls.",
}


def register_task(name: str, summary: str = "") -> Callable[[EnvFactory], EnvFactory]:
    """Return a decorator that makes ``factory(render_mode=None, **kwargs) -> gym.Env`` available under ``name``.

    Args:
        name: what users type; not an id that Gymnasium knows already.
        summary: one line for ``forethought list``; by default the first line of the factory's docstring.

    Raises:
        SettingsError: if the name is taken.
    """
    if name in gym.registry:
        raise SettingsError(f"{name!r} is a Gymnasium id already; choose another name for the task.")
    return TASKS.register(name, summary)


def available_tasks() -> list[str]:
    """Return the names of the registered tasks; any other Gymnasium id works in :func:`make_env` too."""
    return TASKS.names()


def make_env(name: str, render_mode: str | None = None, **kwargs: Any) -> gym.Env[Any, Any]:
    """Make one environment.

    Args:
        name: a task of :func:`available_tasks`, any Gymnasium id, or ``module:Name-v0``, where the module, installed
            or in the current folder, registers the id when it is imported.
        render_mode: "rgb_array" for images, also without a display; "human" for a window; ``None`` for neither.
        **kwargs: passed on to the environment.

    Raises:
        UnknownNameError: naming the nearest valid name.
        EnvironmentFault: if the environment cannot be built or drawn.
    """
    if not isinstance(name, str):
        raise SettingsError(f"An environment's name is a string, not {name!r}.")
    quiet_mujoco()
    require_display(render_mode)
    # Gymnasium's ids come first because finding our own registrations imports the whole room, torch included, which
    # worker processes can do without. No name is in both: see register_task.
    known_to_gymnasium = name in gym.registry or ":" in name
    factory = TASKS.get(name) if not known_to_gymnasium and name in TASKS else functools.partial(_from_gymnasium, name)
    try:
        env = factory(render_mode=render_mode, **kwargs)
        require_drawing(env, render_mode)
    except ForethoughtError:
        raise
    except gym.error.UnregisteredEnv as error:
        raise _unknown(name) from error
    except Exception as error:
        raise EnvironmentFault(f"{name} could not be built: {type(error).__name__}: {error}") from error
    return env


def portable_factory(name: str) -> EnvFactory:
    """Return :func:`make_env` for ``name``, to be called in another process too, where nobody has registered it."""
    spec = gym.registry.get(name)
    task = TASKS.get(name) if spec is None and ":" not in name and name in TASKS else None
    return functools.partial(_make_registered, name, spec, task)


def _make_registered(name: str, spec: Any, task: EnvFactory | None, **kwargs: Any) -> gym.Env[Any, Any]:
    if spec is not None:
        gym.registry.setdefault(name, spec)
    if task is not None and name not in TASKS:
        TASKS.register(name)(task)
    return make_env(name, **kwargs)


def _from_gymnasium(name: str, **kwargs: Any) -> gym.Env[Any, Any]:
    module, _, environment = name.rpartition(":")
    if module:
        import_registrations(module, name)
    elif not environment.strip() or (environment not in gym.registry and not _well_formed(environment)):
        raise _unknown(name)
    if kwargs.get("render_mode") is None:
        kwargs.pop("render_mode", None)  # an environment that draws nothing need not know the word
    # The passive checker only warns, during the first step; `forethought doctor` runs the thorough one.
    kwargs.setdefault("disable_env_checker", True)
    return gym.make(environment, **kwargs)


def _well_formed(name: str) -> bool:
    try:
        gym.envs.registration.parse_env_id(name)
    except gym.error.Error:
        return False
    return True


def _unknown(name: str) -> UnknownNameError:
    module, colon, environment = name.rpartition(":")
    space, slash, _ = environment.rpartition("/")
    known = {**dict.fromkeys(TASKS.names()), **dict.fromkeys(gym.registry)}  # tasks first: preferred where equally near
    known = {candidate: None for candidate in known if candidate.rpartition("/")[0] == space}
    if slash and not known:
        raise UnknownNameError(
            f"Unknown task {name!r}: nothing registers ids of {space}/ here. Install what does, and name its module "
            f"first, as in my_module:{environment}."
        )
    if environment.endswith("Policy"):
        raise UnknownNameError(f"Unknown task {name!r}: no policy is asked for here, and the environment comes first.")
    folded = {candidate.lower(): candidate for candidate in reversed(known)}
    close = difflib.get_close_matches(environment.lower(), list(reversed(folded)), n=1, cutoff=0.5)
    nearest = ""
    if close:
        found = folded[close[0]]
        nearest = f" Did you mean {found if found in TASKS else f'{module}{colon}{found}'!r}?"
    return UnknownNameError(
        f"Unknown task {name!r}.{nearest} Tasks: {', '.join(TASKS.names())}; any other Gymnasium id and "
        "'module:Name-v0' work too."
    )


for _name, _summary in _GYMNASIUM_TASKS.items():
    TASKS.register(_name, _summary)(functools.partial(_from_gymnasium, _name))
