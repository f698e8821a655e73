"""As many threads for torch as other programs leave cores for.

The threads of a product wait for each other, and while they wait they spin (OpenMP). Where another
program has one of the cores, the thread that was meant for it comes late and the others burn their
time: beside one busy program two threads on two cores took three times as long as alone, one
thread no longer than alone. So the number is chosen anew while the work goes on. No number that we
compute depends on it (``nets/products.py``; a test), only the time.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

import torch

from precocial.processor import AMD

EVERY_S = 0.25
"""Seconds between looks at what others do."""
STAT = Path("/proc/stat")
MANY_ALIKE = torch.backends.cpu.get_cpu_capability() == "AVX512" and not AMD
"""Whether results are alike on any number of threads. Elsewhere they are on one and two: MKL's
other kernels round otherwise where three threads share two products."""
NOISE = 0.3
"""Cores that others may use before a thread makes room for them: a desktop is never quite idle."""

T = TypeVar("T")

_most: ContextVar[int] = ContextVar("most", default=0)
"""Threads that torch had outside ``shared``; 0 there."""


class Others:
    """How many cores other programs use, by the kernel's count; none where it does not tell."""

    def __init__(self) -> None:
        self.cores, self.busy = 0.0, 0.0
        self.clock, self.own = time.monotonic(), time.process_time()
        try:
            self.mine = {b"cpu%d" % i for i in os.sched_getaffinity(0)}
            self.tick = 1 / os.sysconf("SC_CLK_TCK")
            self.busy = self._busy()
        except (OSError, AttributeError, ValueError):  # not Linux, or a closed box
            self.mine = set()

    def look(self) -> float:
        """Cores in use by others in the last quarter of a second or more."""
        now = time.monotonic()
        span = now - self.clock
        if self.mine and span >= EVERY_S:
            busy, own = self._busy(), time.process_time()
            self.cores = max(0.0, (busy - self.busy) - (own - self.own)) / span
            self.clock, self.busy, self.own = now, busy, own
        return self.cores

    def _busy(self) -> float:
        """Seconds that our cores have worked for anyone, or were taken away (Linux, proc(5))."""
        total = 0
        for line in STAT.read_bytes().splitlines():
            name, *times = line.split()[:9] or [b""]
            if name in self.mine:
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, times)
                total += user + nice + system + irq + softirq + steal
        return total * self.tick


_others = Others()


def fitting() -> int:
    """Threads that torch should have now, at most as many as outside ``shared``.

    As many as there, where another number would change results.
    """
    most = _most.get() or torch.get_num_threads()
    if most == 1 or not _others.mine or (most > 2 and not MANY_ALIKE):
        return most
    free = len(_others.mine) - _others.look()
    return min(most, max(1, math.floor(free + NOISE)))


def adjust() -> None:
    """Inside ``shared``, give torch as many threads as fit now; outside, leave them alone."""
    if _most.get():
        torch.set_num_threads(fitting())


@contextmanager
def shared() -> Iterator[None]:
    """Share the cores with other programs until the end, then have as many threads as before."""
    if _most.get():
        yield
        return
    before = torch.get_num_threads()
    token = _most.set(before)
    try:
        adjust()
        yield
    finally:
        _most.reset(token)
        torch.set_num_threads(before)


def alone(function: Callable[..., T], *args: object) -> T:
    """Call it with one thread: it is too small for more, or would round by their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(*args)
    finally:
        torch.set_num_threads(before)
