"""One generic registry: named things, found by adding a file, extended by entry points.

A registry belongs to a room (a package). The first look-up imports every public module of that room, so a
file dropped into the folder registers itself with a decorator and no other file is touched. Third parties
register through the entry-point group ``forethought.<kind>s``.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Generic, TypeVar

from .errors import SettingsError, UnknownNameError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one ``kind`` of thing ("planner", "agent", ...) and what they stand for.

    Args:
        kind: the singular noun used in messages and in the entry-point group.
        room: the dotted package whose modules register themselves, or ``None``.
    """

    def __init__(self, kind: str, room: str | None = None) -> None:
        self.kind = kind
        self._room = room
        self._entries: dict[str, tuple[T, str]] = {}
        self._discovered = room is None

    def register(self, name: str, summary: str = "") -> Callable[[T], T]:
        """Return a decorator that enters its argument under ``name``.

        The summary, one line, is what ``forethought list`` prints; by default the docstring's first line.
        """
        if not name or name != name.strip():
            raise SettingsError(f"A {self.kind} needs a name without surrounding blanks, not {name!r}.")

        def enter(entry: T) -> T:
            known = self._entries.get(name)
            if known is not None and known[0] is not entry and not _reloaded(known[0], entry):
                raise SettingsError(f"The {self.kind} {name!r} is registered already, as {known[0]!r}.")
            first_line = (getattr(entry, "__doc__", None) or "").strip().splitlines()
            self._entries[name] = (entry, summary or (first_line[0] if first_line else ""))
            return entry

        return enter

    def get(self, name: str) -> T:
        """Return the entry called ``name``; raise :class:`UnknownNameError` naming the closest one.

        ``module:name`` imports a module first, from the current folder too, that registers the name.
        """
        module, colon, registered = str(name).rpartition(":")
        if colon:
            import_registrations(module, name)
            name = registered
        if colon and name not in self and hasattr(sys.modules.get(module), name):
            raise UnknownNameError(
                f"{module} has {name}, and does not register it: put @register_{self.kind} above it."
            )
        if name not in self:
            here = f" There is a {name}.py here, which {name}:{name} imports first." if _is_here(str(name)) else ""
            raise UnknownNameError(f"Unknown {self.kind} {name!r}.{here}{did_you_mean(str(name), self._entries)}")
        return self._entries[name][0]

    def summary(self, name: str) -> str:
        """Return the one-line description of ``name``."""
        self.get(name)
        return self._entries[name.rpartition(":")[2]][1]

    def names(self) -> list[str]:
        """Return all names in alphabetical order."""
        self._discover()
        return sorted(self._entries)

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield ``(name, entry)`` in alphabetical order."""
        for name in self.names():
            yield name, self._entries[name][0]

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if name not in self._entries:  # what is registered is found without importing the rest of the room
            self._discover()
        return name in self._entries

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True  # first, because the modules imported below may look names up themselves
        assert self._room is not None
        try:
            room = importlib.import_module(self._room)
            for module in pkgutil.iter_modules(room.__path__):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{self._room}.{module.name}")
        except BaseException:
            self._discovered = False  # half a room must not pass for all of it at the next look-up
            raise
        for point in metadata.entry_points(group=f"forethought.{self.kind}s"):
            try:
                self.register(point.name)(point.load())
            except Exception as error:  # another package's fault costs that package's entry only
                warnings.warn(f"The {self.kind} {point.name!r} ({point.value}) was left out: {error}", stacklevel=2)


def import_registrations(module: str, name: str) -> None:
    """Import the module that registers ``name``, from the current folder too, unless it is installed elsewhere.

    Raises:
        UnknownNameError: where there is no such module.
    """
    if not module or module.startswith("."):
        raise UnknownNameError(f"{name!r} needs the name of a module before its colon, such as my_module:my_name.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that nothing installed is hidden
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, and something that it needs does not
        raise UnknownNameError(
            f"{name!r}: there is no module {module!r}. Install it, or run from the folder that holds {module}.py."
        ) from error
    here, found = Path(f"{module.replace('.', '/')}.py"), getattr(imported, "__file__", None)
    if here.is_file() and not (found and here.samefile(found)):
        warnings.warn(
            f"{module} is {found or 'built in'}, and hides {here} of this folder: call that otherwise.", stacklevel=3
        )


def _is_here(module: str) -> bool:
    return module.isidentifier() and Path(f"{module}.py").is_file()


def _reloaded(old: object, new: object) -> bool:
    """Whether ``new`` is ``old`` defined again, as happens when a notebook cell runs twice."""
    name = getattr(old, "__qualname__", None)
    same_module = getattr(old, "__module__", None) == getattr(new, "__module__", None)
    return name is not None and name == getattr(new, "__qualname__", None) and same_module
