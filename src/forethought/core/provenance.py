"""Provenance: what a result may depend on besides its configuration, and what this process holds."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("forethought", "torch", "numpy", "gymnasium", "mujoco", "stable-baselines3")


def describe_process() -> dict[str, Any]:
    """Return time, process, versions, threads and git state, as plain JSON data."""
    torch = sys.modules.get("torch")  # not imported for this
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        "cores": os.cpu_count(),
        "threads": {"torch": torch.get_num_threads() if torch else None},
        "git": _git_state(),
    }


def list_changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return a phrase for each version or thread count that differs between two descriptions and is known in both."""
    return [
        f"{name} was {before[part][name]} and is {value}"
        for part in ("versions", "threads")
        for name, value in after[part].items()
        if None not in (value, before.get(part, {}).get(name)) and value != before[part][name]
    ]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Return commit and cleanliness of the checkout that this code runs from, or None where it is installed."""
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(checkout), *command], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "modified": bool(changes)}


def resident_bytes() -> int:
    """Return the memory that this process holds; where the system does not tell, the most that it ever held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource  # of Unix only, as are the systems without /proc that reach this line

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
