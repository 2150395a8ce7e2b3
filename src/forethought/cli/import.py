"""``forethought import``: fill a store with recorded episodes of others, to learn a world model from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional, Suppress, UseAppendAction

from ..core.errors import SettingsError
from ..core.settings import field_names
from ..core.words import counted
from ..evaluations.importing import ImportSettings
from .collect import CollectProgress
from .main import stopped_by
from .options import assignment, file_name, parse

if TYPE_CHECKING:
    from ..evaluations.collect import Collected


@dataclass(frozen=True)
class ImportOptions(ImportSettings):
    """Fill a store with recorded episodes of others, to learn a world model from. Importing again adds what is missing.

    HDF5 files need pip install '.[hdf5]' in the clone of Forethought, Minari datasets '.[minari]', Lance tables
    '.[lance]'.
    """

    source: Annotated[Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """HDF5 file in LeWorldModel's layout, Minari dataset (folder or id), or Lance table of stable-worldmodel."""
    env: Suppress[dict[str, Any]] = field(default_factory=dict)
    set: Annotated[UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """An argument of the task's environment as NAME=VALUE, such as size=224; may be repeated."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the store; by default data/SOURCE, without folders and suffix."""


def run(arguments: Sequence[str]) -> int:
    """Import."""
    options = parse(ImportOptions, "import", arguments)
    if not options.source.strip():
        raise SettingsError("What? Such as: forethought import tworoom.h5 --size 64.")
    if options.set and not options.task:
        raise SettingsError("--set is for the environment of a task: name it, by --task.")
    shared = {name: getattr(options, name) for name in field_names(ImportSettings)}
    settings = ImportSettings(**shared | {"env": dict(map(assignment, options.set))})
    folder = options.out or _default_folder(settings.source)
    from ..evaluations.importing import import_episodes

    with CollectProgress("Importing") as progress:
        imported = import_episodes(settings, folder, progress)
    return _conclude(imported, settings)


def _default_folder(source: str) -> Path:
    path = Path(source).expanduser()
    return Path("data") / file_name(path.resolve().stem if path.exists() else source)


def _conclude(imported: Collected, settings: ImportSettings) -> int:
    folder = shlex.quote(str(imported.folder))
    if imported.left_out:
        episodes = "1 episode was" if imported.left_out == 1 else f"{imported.left_out:,} episodes were"
        print(f"{episodes} left out, having no step, or being faulty.")
    if not imported.asked:
        print(f"{folder} holds all of it already: {counted(imported.episodes, 'episode')}, {imported.rows:,} steps.")
        return 0
    ended = "Stopped" if imported.interrupted else "Finished"
    print(
        f"{ended}: {counted(imported.added, 'episode')} added to {folder}, which holds {imported.episodes:,} now, "
        f"{imported.rows:,} steps."
    )
    if imported.interrupted:
        missing = imported.asked - imported.added
        print("Go on with the same command" + (f" and --episodes {missing}." if settings.episodes else "."))
        return stopped_by(imported.interrupted)
    print(f"Try: forethought pretrain {folder}")
    return 0
