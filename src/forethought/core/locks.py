"""Locks: one process at a time writes to a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

from .errors import RunFolderError, WriteError


class FolderLock:
    """The operating system's lock on ``folder/.lock``, which ends with the process, however that ends.

    The holder's pid and host stand in the file, for the message; where a file system has no locks, they decide.

    Raises:
        RunFolderError: where another process (or another part of this one) holds it, or the folder is read-only.
        WriteError: where there is no room to note who holds it.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / ".lock"
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunFolderError(f"{folder} is not writable: {error.strerror}.") from error
        holder = os.read(self._file, 1000).decode(errors="replace").strip()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = False
        except OSError as error:
            taken = error.errno in (errno.EWOULDBLOCK, errno.EACCES) or _may_live(holder)
        if taken:
            os.close(self._file)
            raise RunFolderError(
                f"{folder} is in use by {holder or 'another process'}: wait for it, stop it, or choose another "
                f"folder. If that process is gone, delete {path}."
            )
        try:
            self._write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        except OSError as error:
            os.close(self._file)
            raise WriteError(f"{path} could not be written: {error.strerror}.") from error

    def release(self) -> None:
        """Give the lock back."""
        self._write("")
        os.close(self._file)

    def _write(self, text: str) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode(), 0)


def _may_live(holder: str) -> bool:
    """Whether the process that a lock file names may still run; on another host, nobody can say that it does not."""
    if not holder:
        return False
    _, pid, _, host = holder.split(maxsplit=3)
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
