"""Being asked to stop, by Ctrl-C or by SIGTERM: an exception, in this process alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is."""


def stop_by(number: int, error: type[BaseException]) -> Any:
    """Raise ``error`` once when the signal comes; returns the handler that was there before.

    Later ones find the process stopping already. A child that is forked from here is ended by the
    signal as if nothing had been set.
    """
    owner, stopping = os.getpid(), False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not stopping:
            stopping = True
            raise error

    return signal.signal(number, handle)


@contextmanager
def held() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of what must not be cut in two."""
    if threading.current_thread() is not threading.main_thread():  # they come to that one alone
        yield
        return
    came: list[int] = []
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(number, lambda number, _: came.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)
