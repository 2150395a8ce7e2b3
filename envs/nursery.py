"""The small process of which workers are forked: ``python -m forethought.envs.nursery SOCKET``, a file descriptor.

It has imported what most environments need, and nothing more: no torch, no threads, no GPU. So workers start quickly,
and share the memory of all that code, which makes them step faster too than interpreters of their own would. Started by
:class:`.processes.Nursery`.
"""

from __future__ import annotations

import faulthandler
import gc
import math
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence

import numpy as np

from .quiet import quiet_mujoco
from .worker import work

REQUEST = struct.Struct("<qqd")
"""A serial number, and with a worker's three pipes: to fork it. Without: the pid of the worker to end, and how many
seconds it may take."""
REPLY = struct.Struct("<qq")
"""The serial number, and the pid of the new worker or the exit code of the one that was ended."""


def main(arguments: Sequence[str]) -> int:
    """Fork workers and see to their end, until the trainer closes its side of the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which then ends its workers
    faulthandler.enable()  # a crash in compiled code says where
    quiet_mujoco()
    gc.freeze()  # collecting garbage would otherwise unshare the memory
    with socket.socket(fileno=int(arguments[0])) as requests:
        while True:
            request, pipes, _, _ = socket.recv_fds(requests, REQUEST.size, 3)
            if not request:
                return 0
            serial, worker, grace_s = REQUEST.unpack(request)
            if not pipes:
                requests.sendall(REPLY.pack(serial, _end(worker, grace_s)))
                continue
            worker = os.fork()
            if not worker:
                break
            requests.sendall(REPLY.pack(serial, worker))
            for pipe in pipes:
                os.close(pipe)
    np.random.seed()  # noqa: NPY002 - environments that draw from the global generator shall not all draw the same
    work(*pipes)
    return 0


def _end(worker: int, grace_s: float) -> int:
    """Wait for a worker, kill it when its time is up, and return its exit code."""
    until = time.monotonic() + grace_s
    while True:
        ended, status = os.waitpid(worker, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            os.kill(worker, signal.SIGKILL)
            until = math.inf
        time.sleep(0.002)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
