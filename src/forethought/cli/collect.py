"""``forethought collect``: record episodes of a task, to learn a world model from."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional, Suppress, UseAppendAction

from ..core.errors import SettingsError
from ..core.settings import field_names
from ..core.words import counted
from ..evaluations.collect import CollectSettings
from .console import console, duration, is_live
from .main import stopped_by
from .options import assignment, file_name, parse
from .progress import SECONDS_BETWEEN_LINES

if TYPE_CHECKING:
    from ..evaluations.collect import Collected


@dataclass(frozen=True)
class CollectOptions(CollectSettings):
    """Record episodes of a task into a store, to learn a world model from. Recording again adds others."""

    task: Annotated[Positional[str], tyro.conf.arg(metavar="TASK")]
    """Task by name (forethought list tasks), any Gymnasium id, or module:Name-v0."""
    env: Suppress[dict[str, Any]] = field(default_factory=dict)
    set: Annotated[UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """An argument of the environment as NAME=VALUE, such as size=224; may be repeated."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the store; by default data/TASK."""


def run(arguments: Sequence[str]) -> int:
    """Record."""
    options = parse(CollectOptions, "collect", arguments)
    if not options.task.strip():
        raise SettingsError("Which task? Such as: forethought collect two-room --policy expert.")
    shared = {name: getattr(options, name) for name in field_names(CollectSettings)}
    settings = CollectSettings(**shared | {"env": dict(map(assignment, options.set))})
    folder = options.out or Path("data") / file_name(settings.task)
    from ..evaluations.collect import collect

    with CollectProgress() as progress:
        collected = collect(settings, folder, progress)
    return _conclude(collected)


class CollectProgress:
    """Shows on standard error how many episodes there are: in one line that changes, or now and then in a new one."""

    def __init__(self, doing: str = "Recording") -> None:
        self._console = console(stderr=True)
        live = is_live(self._console)
        self._status = self._console.status(doing) if live else nullcontext()
        self._printed = time.monotonic()

    def __enter__(self) -> CollectProgress:
        self._shown = self._status.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._status.__exit__(*reason)

    def __call__(self, collected: Collected) -> None:
        """Show how it stands."""
        pace = collected.added / collected.seconds
        left = duration((collected.asked - collected.added) / pace) if pace else "unknown"
        line = f"{collected.added:,}/{collected.asked:,} episodes · {pace:.1f} episodes/s · {left} left"
        if self._shown is not None:
            self._shown.update(line)
        elif time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            self._console.print(line, soft_wrap=True)


def _conclude(collected: Collected) -> int:
    folder = shlex.quote(str(collected.folder))
    if collected.left_out:
        episodes = "1 episode was" if collected.left_out == 1 else f"{collected.left_out:,} episodes were"
        print(f"{episodes} left out, because something in them was not finite.")
    ended = "Stopped" if collected.interrupted else "Finished"
    print(
        f"{ended}: {counted(collected.added, 'episode')} added to {folder}, which holds {collected.episodes:,} now, "
        f"{collected.rows:,} steps."
    )
    if collected.interrupted:
        missing = collected.asked - collected.added
        print(f"Go on with the same command and --episodes {missing}.")
        return stopped_by(collected.interrupted)
    print(f"Try: forethought pretrain {folder}")
    return 0
