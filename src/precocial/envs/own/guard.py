"""What an environment's code changes for the whole process, kept apart from what is ours.

Any code may change the working directory, torch's defaults, NumPy's handling of errors, filters of
warnings, signal handlers, and the state of ``random`` and ``numpy.random``. Around every call of
the user's code stands ``guard``: inside, its settings are as that code left them; outside, nothing
has changed. No torch is imported in here: a worker needs none.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import warnings
from _signal import getsignal  # the public one makes an enum of its answer, which takes 8 us
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np


class Setting(NamedTuple):
    """One thing that belongs to the process."""

    read: Callable[[], Any]
    write: Callable[[Any], object]
    theirs: bool = True
    """Whether what the user's code sets holds for its next call."""


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it has been removed
        return ""


def _enter_folder(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.chdir(path)


def _filter_warnings(filters: tuple[Any, ...]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]
    with warnings.catch_warnings():  # leaving this makes Python forget what it knew of them
        pass


def _handle(number: int) -> Setting:
    """The handler of a signal, which stays ours inside, too: Ctrl-C is to save the run."""
    return Setting(lambda: getsignal(number), lambda x: signal.signal(number, x), theirs=False)


_ALWAYS = (
    Setting(_folder, _enter_folder),
    Setting(lambda: tuple(warnings.filters), _filter_warnings),
    Setting(np.geterr, lambda given: np.seterr(**given)),
    _handle(signal.SIGINT),
    _handle(signal.SIGTERM),
)


def _of_torch(torch: Any) -> tuple[Setting, ...]:
    def place(device: Any) -> None:
        # None is how torch says the CPU; a device set by name would slow every call down.
        torch.set_default_device(None if device.type == "cpu" else device)

    return (
        Setting(torch.get_default_dtype, torch.set_default_dtype),
        Setting(torch.is_grad_enabled, torch.set_grad_enabled),
        Setting(torch.get_num_threads, torch.set_num_threads),
        Setting(lambda: torch.empty(0).device, place),
    )


class Guard:
    """``with guard:`` around the user's code; may be entered again inside."""

    def __init__(self) -> None:
        self.settings: tuple[Setting, ...] = _ALWAYS
        self.has_torch = False
        self.theirs: dict[Setting, Any] = {}
        """What the user's code has set. It holds for all of it, as in a process of its own."""
        self.entered: list[tuple[tuple[Setting, ...], list[Any], list[Any]]] = []

    def __enter__(self) -> None:
        if not self.has_torch and "torch" in sys.modules:
            self.settings, self.has_torch = _ALWAYS + _of_torch(sys.modules["torch"]), True
        ours = [setting.read() for setting in self.settings]
        inside = ours
        if self.theirs:
            inside = [self.theirs.get(s, v) for s, v in zip(self.settings, ours, strict=True)]
            self._write(self.settings, inside, ours)
        self.entered.append((self.settings, ours, inside))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        settings, ours, inside = self.entered.pop()
        left = [setting.read() for setting in settings]
        if left != inside:
            for setting, now, before in zip(settings, left, inside, strict=True):
                if now != before and setting.theirs:
                    self.theirs[setting] = now
        if left != ours:
            self._write(settings, ours, left)

    @staticmethod
    def _write(settings: tuple[Setting, ...], wanted: list[Any], found: list[Any]) -> None:
        for setting, new, old in zip(settings, wanted, found, strict=True):
            if new != old:
                setting.write(new)


guard = Guard()


class Streams:
    """``random`` and ``numpy.random`` as the copies see them, apart from everyone else's.

    Inside ``with streams:``, which is also inside ``guard``, the two global generators are the
    copies' own; outside nothing has changed. One exchange per batch costs 0.1 ms.
    """

    def __init__(self) -> None:
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Begin both streams anew."""
        bits = np.random.RandomState(seed % 2**32)  # the kind of generator behind numpy.random
        self.inside = (random.Random(seed).getstate(), bits.get_state())

    def __enter__(self) -> None:
        guard.__enter__()
        self.outside = self._swap(self.inside)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.inside = self._swap(self.outside)
        guard.__exit__(kind, error, tb)

    @staticmethod
    def _swap(state: tuple[Any, Any]) -> tuple[Any, Any]:
        before = (random.getstate(), np.random.get_state())  # noqa: NPY002
        random.setstate(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
        return before
