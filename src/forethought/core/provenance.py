"""Provenance: what a result may depend on besides its configuration, and what this process holds."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "avx", "sse2")
LIBRARIES = ("forethought", "torch", "numpy", "gymnasium", "mujoco", "stable-baselines3", "sb3-contrib")


def describe_process() -> dict[str, Any]:
    """Return time, process, versions, threads and git state, as plain JSON data."""
    torch = sys.modules.get("torch")  # not imported for this
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "processor": _processor(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        "cores": os.cpu_count(),
        "threads": {"torch": torch.get_num_threads() if torch else None},
        "git": _git_state(),
    }


def list_changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return a phrase for each version, thread count or processor that differs and is known in both descriptions."""
    then, now = (
        {
            **one.get("versions", {}),
            **{f"number of {library}'s threads": count for library, count in one.get("threads", {}).items()},
            "processor": one.get("processor"),
        }
        for one in (before, after)
    )
    return [
        f"{name} was {then[name]} and is {value}"
        for name, value in now.items()
        if None not in (value, then.get(name)) and value != then[name]
    ]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str | None:
    """Return the processor's name, and the widest instructions that it has for numbers, as far as the system tells.

    Virtual machines call processors alike that differ in these, and so in speed and rounding.
    """
    told: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip(), value.strip())
    name = told.get("model name") or platform.processor()  # "processor" is what everyone's first core is called: 0
    known = told.get("flags", "").split()
    widest = next((f" ({one})" for one in INSTRUCTIONS if one in known), "")
    return f"{name}{widest}" if name else None


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
