"""Being asked to stop, by Ctrl-C or by SIGTERM: an exception, in this process alone."""

from __future__ import annotations

import os
import signal
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is."""


def stop_by(number: int, error: type[BaseException]) -> object:
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
