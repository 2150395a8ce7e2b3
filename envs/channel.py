"""Channel: messages between the trainer and the process of one environment.

A message is one byte for its kind, four for its length, and its payload. This is the one place where anything is
unpickled: what passes between two processes of one user, who runs the code anyway. Files are never read so. An outcome,
the one message that is sent at every step, is packed by hand: pickling all of it would take as long as a simple step.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import select
import struct
from collections import ChainMap
from collections.abc import Callable
from types import CodeType
from typing import Any

import cloudpickle
import numpy as np

from .codecs import ObservationCodec
from .single import Outcome

BUILD, BUILT, RESET, STEP, OUTCOME, FAULT, CLOSE = range(7)

_HEADER = struct.Struct("<BI")
_OUTCOME = struct.Struct("<d??")  # reward, terminated, truncated; the observation follows
_AT_ONCE = 1 << 16  # what a pipe holds


class Channel:
    """One end of a connection by two pipes, which wake the other side up quicker than a socket does.

    Args:
        reading, writing: file descriptors, owned by the channel from now on.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._received = b""
        self._poll = select.poll()
        self._poll.register(reading, select.POLLIN)

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Send a message.

        Raises:
            OSError: the other side is gone.
        """
        message = _HEADER.pack(kind, len(payload)) + payload
        while (written := os.write(self._writing, message)) < len(message):
            message = message[written:]

    def receive(self, timeout_s: float | None = None) -> tuple[int, bytes]:
        """Wait for the next message; return its kind and payload.

        Args:
            timeout_s: longest wait; ``None`` for ever.

        Raises:
            EOFError: the other side is gone.
            TimeoutError: no message in time.
        """
        if self._reading < 0:
            raise EOFError
        while True:
            received = self._received
            if len(received) >= _HEADER.size:
                kind, size = _HEADER.unpack_from(received)
                end = _HEADER.size + size
                if len(received) >= end:
                    self._received = received[end:]
                    return kind, received[_HEADER.size : end]
            if timeout_s is not None and not self._poll.poll(1000.0 * timeout_s):
                raise TimeoutError
            chunk = os.read(self._reading, _AT_ONCE)
            if not chunk:
                raise EOFError
            self._received = received + chunk if received else chunk

    def close(self) -> None:
        """Close both pipes; afterwards the other side counts as gone."""
        os.close(self._reading)
        os.close(self._writing)
        self._reading = self._writing = -1  # the numbers may soon belong to other files


def _in_its_file(make: Callable[..., CodeType], arguments: tuple[Any, ...], file: str) -> CodeType:
    return make(*arguments).replace(co_filename=file)


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    make, arguments = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return _in_its_file, (make, arguments, code.co_filename)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Keeps of code the file that it is from, which errors name; cloudpickle leaves it out from 3.1.3 on."""

    dispatch_table = ChainMap({CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)


def pack(value: Any) -> bytes:
    """Return any value as bytes, functions and classes from a script or a notebook included.

    Raises:
        Exception: of any kind, where that is impossible.
    """
    packed = io.BytesIO()
    _Pickler(packed).dump(value)
    return packed.getvalue()


def unpack(payload: bytes) -> Any:
    """Undo :func:`pack`; raises whatever an import of what is missing here raises."""
    return pickle.loads(payload)  # noqa: S301


def pack_outcome(outcome: Outcome) -> bytes:
    """Return an outcome as bytes; what in its info cannot be pickled is left out."""
    observation, reward, terminated, truncated, info = outcome
    packed = _OUTCOME.pack(reward, terminated, truncated) + observation.tobytes()
    return packed + _pack_info(info) if info else packed


def unpack_outcome(payload: bytes, codec: ObservationCodec) -> Outcome:
    """Undo :func:`pack_outcome`, for observations coded by ``codec``."""
    reward, terminated, truncated = _OUTCOME.unpack_from(payload)
    observation = np.frombuffer(payload, codec.dtype, math.prod(codec.shape), _OUTCOME.size).reshape(codec.shape)
    end = _OUTCOME.size + observation.nbytes
    return Outcome(observation, reward, terminated, truncated, unpack(payload[end:]) if len(payload) > end else {})


def _pack_info(info: dict[str, Any]) -> bytes:
    try:
        return pickle.dumps(info, pickle.HIGHEST_PROTOCOL)
    except Exception:
        return pickle.dumps({key: value for key, value in info.items() if _can_be_pickled(value)})


def _can_be_pickled(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True
