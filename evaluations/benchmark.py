"""Benchmarks: comparisons that are written down, so that later runs add to earlier ones.

A benchmark is a TOML file with a summary and the fields of :class:`~.compare.CompareSettings`, except that ``agents``
is a table::

    summary = "Does width pay?"
    tasks = ["HalfCheetah-v5", "Hopper-v5"]
    steps = 30_000

    [agents.wide]                    # what results call it
    agent = "jepa"                   # its registered name, if that is another
    settings.model = { hidden = 512 }

What all agents are set to alike stands in a table ``[settings]``, whose single settings an agent can have otherwise. A
setting of "none" is nothing, for which TOML has no word. What others have published about its tasks can stand beside
them; see :class:`.published.Published`. A table ``[rivals]`` names whom the first agent is to be ahead of::

    SAC = ["sac", "sac_zoo"]         # on each task the better one counts
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import SettingsError, did_you_mean
from ..core.settings import merged
from .compare import CompareSettings

FOLDER = Path(__file__).parent / "benchmarks"


def available_benchmarks() -> list[str]:
    """Return the names that :func:`read_benchmark` knows."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def benchmark_summary(name: str) -> str:
    """Return the line that explains one of :func:`available_benchmarks`."""
    return str(_parse(FOLDER / f"{name}.toml")["summary"])


def read_benchmark(name: str | os.PathLike[str]) -> CompareSettings:
    """Read a benchmark.

    Args:
        name: one of :func:`available_benchmarks`, or a file that ends in ``.toml``.

    Raises:
        SettingsError: for a name that does not exist, a file that cannot be read, and what does not fit in it.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = FOLDER / f"{name}.toml"
        if str(name) not in available_benchmarks():
            raise SettingsError(f"Unknown benchmark {str(name)!r}.{did_you_mean(str(name), available_benchmarks())}")
    document = _parse(path)
    document.pop("summary", None)
    shared, agents = document.pop("settings", {}), document.pop("agents", None)
    if not isinstance(agents, Mapping) or not all(isinstance(entry, Mapping) for entry in agents.values()):
        raise SettingsError(f"{path} needs a table [agents.NAME] for each agent.")
    for label, entry in agents.items():
        for key in entry:
            if key not in ("agent", "settings"):
                raise SettingsError(f"{path}: agents.{label} has no {key!r}.{did_you_mean(key, ('agent', 'settings'))}")
    own = {f"agents.{label}.settings": entry["settings"] for label, entry in agents.items() if "settings" in entry}
    for place, settings in {"settings": shared, **own}.items():
        if not isinstance(settings, Mapping):
            raise SettingsError(f"{path}: {place} = {settings!r} must be a table of settings by name.")
    fields: dict[str, Any] = {
        "agents": list(agents),
        "variants": {label: entry["agent"] for label, entry in agents.items() if "agent" in entry},
        "agent_settings": {
            label: _nothings(merged(shared, entry.get("settings", {})))
            for label, entry in agents.items()
            if shared or "settings" in entry
        },
    }
    try:
        asked = CompareSettings.from_dict(document | fields)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    for one in asked.published:
        for task in one.returns:
            if task not in asked.tasks:
                hint = did_you_mean(task, asked.tasks)
                raise SettingsError(f"{path}: {one.label}: {task!r} is not among the tasks compared.{hint}")
    for rival, members in asked.rivals.items():
        for name in members:
            if name not in asked.agents[1:]:
                hint = did_you_mean(str(name), asked.agents[1:])
                raise SettingsError(f"{path}: rivals.{rival}: {name!r} is no agent beside the first one.{hint}")
    return asked


def _nothings(value: Any) -> Any:
    """Return ``value`` with ``None`` for every "none" in it."""
    if isinstance(value, Mapping):
        return {name: _nothings(inner) for name, inner in value.items()}
    return None if value == "none" else value


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise SettingsError(
            f"There is no file {path}, and no benchmark of that name.{did_you_mean(path.stem, available_benchmarks())}"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} is not a benchmark that can be read: {error}") from error
