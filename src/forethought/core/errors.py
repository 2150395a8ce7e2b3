"""Errors that a user can cause, and that say what is wrong, why, and what to do.

Every exception that Forethought raises on purpose derives from :class:`ForethoughtError`; the command line
prints its message and ends with exit code 2, without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ForethoughtError(Exception):
    """A mistake that its message explains; the base of all errors raised on purpose."""


class UnknownNameError(ForethoughtError, LookupError):
    """A name that no registry, task list or run knows."""


class SettingsError(ForethoughtError, ValueError):
    """A setting that does not exist or lies out of range."""


class UnsupportedSpaceError(ForethoughtError, TypeError):
    """An observation or action space that the component cannot work with."""


class EnvironmentFault(ForethoughtError):
    """An environment that could not be built or misbehaved beyond repair."""


class DivergedError(ForethoughtError):
    """Weights, gradients, plans or latents that are of no use any more, so that going on would be in vain."""


class MissingExtraError(ForethoughtError, ImportError):
    """An optional dependency that is not installed."""


class CheckpointError(ForethoughtError):
    """A file that is damaged, foreign or of another format version."""


class FaultyEpisodeError(CheckpointError):
    """A recorded episode that cannot be read, or holds values that nothing can be learned from."""


class WriteError(ForethoughtError, OSError):
    """A file that could not be written; what stood in its place before is unchanged."""


class RunFolderError(ForethoughtError):
    """A run folder that is in use, not writable, or does not hold what is asked of it."""


class OutOfMemoryError(ForethoughtError, MemoryError):
    """Settings that need more memory than the device has."""


class LostRankError(ForethoughtError):
    """Another process of a data-parallel training that failed or is gone.

    Attributes:
        explained: whether that process itself has raised the error that says why.
    """

    def __init__(self, message: str, explained: bool = False) -> None:
        super().__init__(message)
        self.explained = explained


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the sentence that names the closest of ``known``, followed by all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    suggestion = f" Did you mean {close[0]!r}?" if close else ""
    return f"{suggestion} Known: {', '.join(known) if known else 'none'}."


def missing_extra(what: str, extra: str) -> MissingExtraError:
    """Return the error for ``what`` needing the optional dependencies named ``extra``."""
    return MissingExtraError(f"{what} needs an optional dependency: {how_to_add(extra)}")


def how_to_add(extra: str) -> str:
    """Return the command that installs the optional dependencies named ``extra``."""
    return f"pip install '.[{extra}]', in the clone of Forethought"
