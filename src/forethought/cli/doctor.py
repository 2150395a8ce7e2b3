"""``forethought doctor``: what works on this machine, what is missing, and whether an environment is sound."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional

from ..core.errors import ForethoughtError, how_to_add
from ..core.provenance import describe_process
from ..core.settings import Range, Settings
from ..core.words import counted
from .console import print_entries
from .options import parse

EXTRAS = {
    "contrib": ("sb3_contrib", "the baselines tqc and crossq"),
    "hdf5": ("hdf5plugin", "importing HDF5 files in LeWorldModel's layout"),
    "minari": ("minari", "importing Minari datasets"),
    "lance": ("lance", "importing Lance tables"),
    "video": ("imageio_ffmpeg", "MP4 videos; without it they are GIFs"),
    "test": ("pytest", "running the tests"),
}
"""For each extra of the package: a module that it installs, and what it is for."""


@dataclass(frozen=True)
class DoctorOptions(Settings):
    """Tell what works on this machine; with an environment, whether an agent can learn in it."""

    env: Positional[str | None] = None
    """Task by name, any Gymnasium id, or module:Name-v0."""
    steps: Annotated[int, Range(ge=1)] = 500
    """Random steps to take in it."""


def run(arguments: Sequence[str]) -> int:
    """Report; end with 1 if something that was looked at is not as it should be."""
    options = parse(DoctorOptions, "doctor", arguments)
    if options.env is not None:
        return _examine(options.env, options.steps)
    process = describe_process()
    versions = [(name, version or "not installed") for name, version in process["versions"].items()]
    print_entries("Versions", [*versions, ("platform", process["platform"])])
    print_entries("\nComputing", _devices(process))
    works, sentence = _rendering()
    print_entries("\nRendering", [("works" if works else "fails", sentence)])
    print_entries("\nExtras", [(extra, _extra(extra)) for extra in EXTRAS])
    return 0 if works else 1


def _devices(process: dict[str, Any]) -> list[tuple[str, str]]:
    import torch

    from ..world_model import bf16_helps

    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    fast = [kind for kind in ("cpu", *(["cuda"] if cuda else [])) if bf16_helps(torch.device(kind))]
    return [
        ("devices", ", ".join(["cpu", *cuda])),
        ("cores", str(process["cores"])),
        ("threads", f"{torch.get_num_threads()} of torch; trainings use 1 unless --threads says otherwise"),
        ("bf16", f"has units: {', '.join(fast)}" if fast else "has no units here, and is many times slower than fp32"),
    ]


def _rendering() -> tuple[bool, str]:
    from ..envs import make_env

    try:
        env = make_env("InvertedPendulum-v5", render_mode="rgb_array")
        try:
            env.reset(seed=0)
            frame: Any = env.render()
        finally:
            env.close()
    except ForethoughtError as error:
        return False, str(error)
    except Exception as error:  # drawing fails in as many ways as there are drivers
        return False, f"{type(error).__name__}: {error}"
    backend = os.environ.get("MUJOCO_GL", "the window system")
    return True, f"MuJoCo drew {frame.shape[1]} x {frame.shape[0]} pixels by {backend}."


def _extra(name: str) -> str:
    module, purpose = EXTRAS[name]
    if importlib.util.find_spec(module) is not None:
        return f"installed: {purpose}."
    return f"missing: {purpose}. Add it with: {how_to_add(name)}."


def _examine(env: str, steps: int) -> int:
    from ..envs import check_environment

    checks = check_environment(env, steps)
    entries = []
    for check in checks:
        entries.append((f"{'ok  ' if check.ok else 'FAIL'} {check.name}", check.detail))
        entries += [("note", note) for note in check.notes]
    print_entries(env, entries)
    faults, noted = sum(not check.ok for check in checks), sum(map(len, (check.notes for check in checks)))
    outcome = f"{faults} of {len(checks)} checks failed" if faults else f"All {len(checks)} checks passed"
    print(f"\n{outcome}; {counted(noted, 'note')} to look at." if noted else f"\n{outcome}.")
    return 1 if faults else 0
