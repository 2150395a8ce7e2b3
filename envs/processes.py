"""Environments in processes of their own: they work at the same time, and none can take the trainer down with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ..core.errors import EnvironmentFault, ForethoughtError, SettingsError
from .channel import BUILD, CLOSE, FAULT, RESET, STEP, Channel, pack, unpack, unpack_outcome
from .codecs import ObservationCodec
from .nursery import REPLY, REQUEST
from .single import Outcome
from .worker import SEED, STEP_HEAD

NURSERY = "forethought.envs.nursery"
BUILD_TIMEOUT_S = 120.0
GRACE_S = 2.0
"""How long a worker may take to close its environment."""


class WorkerTraceback(Exception):
    """What an environment raised in its process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Nursery:
    """The process of which workers are forked, in the order in which they are asked for; see :mod:`.nursery`."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                # The same modules are found, in the same order: -P keeps the current folder out, unless it is listed.
                [sys.executable, "-P", "-m", NURSERY, str(theirs.fileno())],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                    "OMP_NUM_THREADS": "1",  # of each worker: they are many already, and forks of threads are unsafe
                    "OPENBLAS_NUM_THREADS": "1",
                },
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C does not reach it and its workers, not even before they can ignore it
            )
        ours.settimeout(BUILD_TIMEOUT_S)
        self._socket, self._serial = ours, 0
        weakref.finalize(self, _close_nursery, process, ours, os.getpid())

    def fork(self, pipes: Sequence[int]) -> int:
        """Return the pid of a new worker that holds ``pipes``."""
        return self._ask(pipes, 0, 0.0)

    def end(self, worker: int, grace_s: float) -> int:
        """Let a worker end, kill it after ``grace_s`` seconds, and return its exit code."""
        return self._ask((), worker, grace_s)

    def _ask(self, pipes: Sequence[int], worker: int, grace_s: float) -> int:
        self._serial += 1
        socket.send_fds(self._socket, [REQUEST.pack(self._serial, worker, grace_s)], pipes)
        while True:
            reply = self._socket.recv(REPLY.size)
            if not reply:
                raise ConnectionResetError("the process of which workers are forked has died.")
            serial, number = REPLY.unpack(reply)
            if serial == self._serial:  # another is the answer to a request that was interrupted
                return int(number)


class WorkerEnvironment:
    """An environment in a process of its own, which ends with this one, however that ends.

    Nothing of this process is copied into that one, no thread and no GPU context; the factory travels by cloudpickle.
    Call :meth:`wait_until_built` before anything else: so several can be built at once.

    Args:
        nursery: forks the process.
        factory: builds the environment, there.
        timeout_s: how long a reset or a step may take.

    Raises:
        SettingsError: the factory cannot be pickled.
    """

    def __init__(self, nursery: Nursery, factory: Callable[[], Any], timeout_s: float) -> None:
        try:
            self._factory = pack(factory)
        except Exception as error:
            raise SettingsError(
                "async_envs sends the environment's factory to other processes, and this one cannot be pickled: "
                f"{type(error).__name__}: {error}. Let it make what it needs when it is called."
            ) from error
        self._nursery, self._timeout_s = nursery, timeout_s
        self._resetting_with: int | None = None  # what it was not told to do, and does because an episode has ended
        self._start()

    def wait_until_built(self) -> None:
        """Learn the environment's name and spaces.

        Raises:
            ForethoughtError: as the factory raised it.
            EnvironmentFault: it failed otherwise.
        """
        self.name, self.observation_space, self.action_space = unpack(self._receive())
        self._codec = ObservationCodec(self.observation_space)

    def ask_reset(self, seed: int) -> None:
        """Tell the worker to reset, unless it does so already."""
        if seed == self._resetting_with:
            self._deadline = time.monotonic() + self._timeout_s
        else:
            self._command(RESET, SEED.pack(seed))

    def ask_step(self, action: Any, next_seed: int, last: bool = False) -> None:
        """Tell the worker to step; where the episode ends, it goes on at once with the reset."""
        self._command(STEP, STEP_HEAD.pack(next_seed, last) + action.tobytes())
        self._next_seed = next_seed

    def answer(self) -> Outcome:
        """Wait for the worker's answer.

        Raises:
            EnvironmentFault: the environment raised; or the worker died, or took longer than ``timeout_s``.
        """
        self._resetting_with = None
        outcome = unpack_outcome(self._receive(), self._codec)
        if outcome.terminated or outcome.truncated:
            self._resetting_with = self._next_seed
        return outcome

    def rebuild(self) -> None:
        """Kill the worker, and build the environment in a new one."""
        self._end(kill=True)
        self._start()
        self.wait_until_built()

    def close(self) -> None:
        """Let the worker close the environment, and end it."""
        self._close()

    def _start(self) -> None:
        commands, commanding = os.pipe()
        answering, answers = os.pipe()
        lifeline, held = os.pipe()  # held by this process alone: the worker ends when it closes
        theirs = commands, answers, lifeline
        try:
            self.pid = self._nursery.fork(theirs)
        except BaseException as error:
            for end in (commanding, answering, held):
                os.close(end)
            if isinstance(error, OSError):
                raise EnvironmentFault(f"no worker can be started: {error}") from error
            raise
        finally:
            for end in theirs:
                os.close(end)
        self._channel = Channel(answering, commanding)
        # Without a reference to this object, so that it can be collected, and with it the process.
        self._close = weakref.finalize(self, _close_worker, self._nursery, self.pid, self._channel, held, os.getpid())
        self._resetting_with = None
        self._send(BUILD, self._factory, BUILD_TIMEOUT_S)

    def _command(self, kind: int, payload: bytes) -> None:
        while self._waiting or self._resetting_with is not None:  # an answer that nobody took, after an interruption
            with suppress(ForethoughtError):
                self.answer()
        self._send(kind, payload, self._timeout_s)

    def _send(self, kind: int, payload: bytes, timeout_s: float) -> None:
        self._waiting, self._deadline, self._allowed_s = True, time.monotonic() + timeout_s, timeout_s
        try:  # noqa: SIM105 - contextlib.suppress costs as much as the rest
            self._channel.send(kind, payload)
        except OSError:  # the worker is dead, which the answer will say
            pass

    def _receive(self) -> bytes:
        try:
            kind, payload = self._channel.receive(max(self._deadline - time.monotonic(), 0.0))
        except (EOFError, OSError) as failure:
            self._waiting, late = False, isinstance(failure, TimeoutError)
            code = self._end(kill=late)
            how = f"did not answer within {self._allowed_s:g} s, and was killed" if late else f"died, {_how(code)}"
            raise EnvironmentFault(f"its worker (pid {self.pid}) {how}.") from None
        self._waiting = False
        if kind == FAULT:
            error, trace = unpack(payload)
            raise error from (WorkerTraceback(trace) if trace else None)
        return payload

    def _end(self, kill: bool = False) -> int | None:
        """Return the exit code, if it was not asked for before."""
        if kill and self._close.alive:  # until it is waited for, the pid belongs to nobody else
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        return self._close()


def _close_worker(nursery: Nursery, worker: int, channel: Channel, held: int, owner: int) -> int | None:
    if os.getpid() != owner:  # a fork that collects its copies must leave the worker alone
        return None
    try:
        with suppress(OSError):
            channel.send(CLOSE)
        return nursery.end(worker, GRACE_S)
    except OSError:  # the nursery is gone; closing the lifeline ends the worker too
        return None
    finally:
        channel.close()
        os.close(held)


def _close_nursery(process: subprocess.Popen[bytes], ours: socket.socket, owner: int) -> None:
    ours.close()
    if os.getpid() == owner:
        process.wait()


def _how(code: int | None) -> str:
    return f"exit code {code}" + (f" ({signal.Signals(-code).name})" if code is not None and code < 0 else "")
