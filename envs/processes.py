"""Environments in processes of their own: they work at the same time, and none can take the trainer down with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..core.errors import EnvironmentFault, ForethoughtError, SettingsError
from .channel import BUILD, CLOSE, FAULT, RESET, STEP, Channel, pack, unpack, unpack_outcome
from .single import Outcome
from .worker import SEED

WORKER = "forethought.envs.worker"
BUILD_TIMEOUT_S = 120.0
GRACE_S = 2.0
"""How long a worker may take to close its environment."""


class WorkerTraceback(Exception):
    """What an environment raised in its process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class WorkerEnvironment:
    """An environment in a process of its own, which ends with this one, however that ends.

    The process is a fresh interpreter, so that threads and GPU contexts of this one are not copied into it; the factory
    travels by cloudpickle. Call :meth:`wait_until_built` before anything else: so several can be built at once.

    Args:
        factory: builds it, there.
        timeout_s: how long a reset or a step may take.

    Raises:
        SettingsError: the factory cannot be pickled.
    """

    def __init__(self, factory: Callable[[], Any], timeout_s: float) -> None:
        try:
            self._factory = pack(factory)
        except Exception as error:
            raise SettingsError(
                "async_envs sends the environment's factory to other processes, and this one cannot be pickled: "
                f"{type(error).__name__}: {error}. Let it make what it needs when it is called."
            ) from error
        self._timeout_s = timeout_s
        self._resetting_with: int | None = None  # what it was not told to do, and does because an episode has ended
        self._start()

    def wait_until_built(self) -> None:
        """Learn the environment's name and spaces.

        Raises:
            ForethoughtError: as the factory raised it.
            EnvironmentFault: it failed otherwise.
        """
        self.name, self.observation_space, self.action_space = unpack(self._receive())

    def ask_reset(self, seed: int) -> None:
        """Tell the worker to reset, unless it does so already."""
        if seed == self._resetting_with:
            self._deadline = time.monotonic() + self._timeout_s
        else:
            self._command(RESET, SEED.pack(seed))

    def ask_step(self, action: Any, next_seed: int) -> None:
        """Tell the worker to step; where the episode ends, it goes on at once with the reset."""
        self._command(STEP, SEED.pack(next_seed) + action.tobytes())
        self._next_seed = next_seed

    def answer(self) -> Outcome:
        """Wait for the worker's answer.

        Raises:
            EnvironmentFault: the environment raised; or the worker died, or took longer than ``timeout_s``.
        """
        self._resetting_with = None
        outcome = unpack_outcome(self._receive())
        if outcome.terminated or outcome.truncated:
            self._resetting_with = self._next_seed
        return outcome

    def rebuild(self) -> None:
        """Kill the worker, and build the environment in a new one."""
        self._process.kill()
        self._end()
        self._start()
        self.wait_until_built()

    def close(self) -> None:
        """Let the worker close the environment, and end it."""
        self._end()

    def _start(self) -> None:
        commands, commanding = os.pipe()
        answering, answers = os.pipe()
        lifeline, held = os.pipe()  # held by this process alone: the worker ends when it closes
        theirs = commands, answers, lifeline
        try:
            self._process = subprocess.Popen(
                # The same modules are found, in the same order: -P keeps the current folder out, unless it is listed.
                [sys.executable, "-P", "-m", WORKER, *map(str, theirs)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                stdin=subprocess.DEVNULL,
                pass_fds=theirs,
                process_group=0,  # Ctrl-C does not reach it, not even before it can ignore it
            )
        finally:
            for end in theirs:
                os.close(end)
        self._channel = Channel(answering, commanding)
        # Without a reference to this object, so that it can be collected, and with it the process.
        self._end = weakref.finalize(self, _end, self._process, self._channel, held, os.getpid())
        self._resetting_with = None
        self._send(BUILD, self._factory, BUILD_TIMEOUT_S)

    def _command(self, kind: int, payload: bytes) -> None:
        while self._waiting or self._resetting_with is not None:  # an answer that nobody took, after an interruption
            with suppress(ForethoughtError):
                self.answer()
        self._send(kind, payload, self._timeout_s)

    def _send(self, kind: int, payload: bytes, timeout_s: float) -> None:
        self._waiting, self._deadline, self._allowed_s = True, time.monotonic() + timeout_s, timeout_s
        try:
            self._channel.send(kind, payload)
        except OSError:  # the worker is dead, which the answer will say
            pass

    def _receive(self) -> bytes:
        try:
            kind, payload = self._channel.receive(max(self._deadline - time.monotonic(), 0.0))
        except (EOFError, OSError) as failure:
            self._waiting, late = False, isinstance(failure, TimeoutError)
            if late:
                self._process.kill()
            self._end()
            how = f"did not answer within {self._allowed_s:g} s, and was killed" if late else f"died, {self._exit()}"
            raise EnvironmentFault(f"its worker (pid {self._process.pid}) {how}.") from None
        self._waiting = False
        if kind == FAULT:
            error, trace = unpack(payload)
            raise error from (WorkerTraceback(trace) if trace else None)
        return payload

    def _exit(self) -> str:
        code = self._process.returncode
        return f"exit code {code}" + (f" ({signal.Signals(-code).name})" if code < 0 else "")


def _end(process: subprocess.Popen[bytes], channel: Channel, held: int, owner: int) -> None:
    if os.getpid() != owner:  # a fork that collects its copies must leave the worker alone
        return
    with suppress(OSError):
        channel.send(CLOSE)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    channel.close()
    os.close(held)
