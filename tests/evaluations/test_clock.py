"""Clocks count what computing costs, and stand still meanwhile where they are told to."""

from __future__ import annotations

import subprocess
import sys
import time

from forethought.evaluations.clock import Clock


def test_a_clock_stands_still_while_paused():
    clock = Clock(cpu_seconds=5.0, wall_seconds=7.0)
    with clock.paused():
        before = clock.cpu_seconds, clock.wall_seconds
        time.sleep(0.05)
        sum(range(10**6))
        assert (clock.cpu_seconds, clock.wall_seconds) == before
    assert before[0] >= 5.0
    assert before[1] <= clock.wall_seconds < before[1] + 0.04


def test_what_runs_beneath_the_process_counts_as_its_computing_time():
    spin = (
        "import threading, time\n"
        "def busy():\n"
        "    while time.thread_time() < 0.3: pass\n"
        "thread = threading.Thread(target=busy)\n"
        "thread.start(), thread.join(), print(flush=True), input()"
    )
    clock = Clock()
    with subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        alive = clock.cpu_seconds
        child.communicate(b"\n")
    assert alive >= 0.28
    assert clock.cpu_seconds >= alive - 0.02
