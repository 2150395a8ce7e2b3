"""What runs in the process of one environment, forked by :mod:`.nursery`."""

from __future__ import annotations

import fcntl
import os
import struct
import traceback
from contextlib import suppress

import numpy as np

from ..core.errors import EnvironmentFault, ForethoughtError
from .channel import BUILT, CLOSE, FAULT, OUTCOME, RESET, Channel, pack, pack_outcome, unpack
from .single import LocalEnvironment, Outcome

SEED = struct.Struct("<q")
"""Of a reset."""
STEP_HEAD = struct.Struct("<q?7x")
"""In front of a step's action: the seed of the reset that follows if the episode ends, and whether it is cut then. Its
size keeps the action aligned."""


def work(reading: int, writing: int, lifeline: int) -> None:
    """Build the environment that the first message describes, and step it until told to close.

    Args:
        reading: pipe from the trainer.
        writing: pipe to the trainer.
        lifeline: a pipe whose other end only the trainer holds; this process ends when it closes.
    """
    _end_with(lifeline)
    channel = Channel(reading, writing)
    with suppress(EOFError, OSError):  # the trainer is gone
        environment = _build(channel)
        if environment is not None:
            _serve(channel, environment)
            fcntl.fcntl(lifeline, fcntl.F_SETFL, 0)
            with suppress(Exception):
                environment.close()


def _end_with(lifeline: int) -> None:
    """Let SIGIO end this process when the trainer's end of the pipe closes, whatever the environment is doing then.

    A thread that watches the pipe would not do: code that hangs may hold the interpreter's lock.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)


def _build(channel: Channel) -> LocalEnvironment | None:
    _, payload = channel.receive()
    try:
        try:
            factory = unpack(payload)
        except Exception as error:
            raise EnvironmentFault(
                f"The environment's factory cannot be rebuilt in another process: {type(error).__name__}: {error}. "
                "What it uses must be importable there."
            ) from error
        environment = LocalEnvironment(factory)
        built = pack((environment.name, environment.observation_space, environment.action_space))
    except ForethoughtError as error:
        _report(channel, error)
        return None
    channel.send(BUILT, built)
    return environment


def _serve(channel: Channel, environment: LocalEnvironment) -> None:
    dtype, shape = environment.action_space.dtype, environment.action_space.shape or ()
    while (message := channel.receive())[0] != CLOSE:
        kind, payload = message
        if kind == RESET:
            environment.ask_reset(*SEED.unpack(payload))
            _answer(channel, environment)
            continue
        seed, last = STEP_HEAD.unpack_from(payload)
        action = np.frombuffer(bytearray(payload), dtype, offset=STEP_HEAD.size).reshape(shape)[()]
        environment.ask_step(action, seed, last)
        outcome = _answer(channel, environment)
        if outcome is not None and (outcome.terminated or outcome.truncated):
            environment.ask_reset(seed)  # without being told to: it is known what comes next
            _answer(channel, environment)


def _answer(channel: Channel, environment: LocalEnvironment) -> Outcome | None:
    try:
        outcome = environment.answer()
    except EnvironmentFault as fault:
        _report(channel, fault)
        return None
    channel.send(OUTCOME, pack_outcome(outcome))
    return outcome


def _report(channel: Channel, error: ForethoughtError) -> None:
    cause = error.__cause__
    trace = "".join(traceback.format_exception(cause)) if cause is not None else ""
    channel.send(FAULT, pack((error, trace)))
