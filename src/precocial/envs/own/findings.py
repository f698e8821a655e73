"""What a check finds, and the time that it may take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped

from precocial.envs.own.workers import (
    Copies,
    Factory,
    Outcome,
    Seat,
)


class Problem(NamedTuple):
    """Something to repair."""

    code: str
    """Its kind, e.g. ``task-in-observation``."""
    message: str
    """What was seen, and what to do about it."""


_SAY_EVERY_S = 10.0


class TimeUp(Exception):
    """The time for all checks is over."""


class Pace:
    """Time that all checks together may take: says what goes on, and knows what was left out.

    Args:
        budget_s: Time in seconds; one call into the user's code may outlast it.
        say: Gets a line every ten seconds, when a call returns; without it nothing is said.
    """

    def __init__(
        self, budget_s: float = math.inf, say: Callable[[str], None] | None = None
    ) -> None:
        self.budget_s, self.say = budget_s, say
        self.started = self.said = time.monotonic()
        self.calls, self.doing = 0, ""
        self.left_out: list[str] = []
        """What there was no time for, in words."""

    @property
    def left_s(self) -> float:
        """Time that is left, in seconds."""
        return self.budget_s - (time.monotonic() - self.started)

    def tick(self) -> None:
        """Comes before every reset and step.

        Raises:
            TimeUp: No time is left; for ``run``.
        """
        self.calls += 1
        now = time.monotonic()
        if self.say and now - self.said >= _SAY_EVERY_S:
            self.said = now
            self.say(f"{now - self.started:.0f} s, {self.calls} resets and steps: {self.doing}")
        if self.left_s <= 0:
            raise TimeUp

    def run(self, doing: str, problems: Iterator[Problem]) -> Iterator[Problem]:
        """What a check finds until the time is up."""
        self.doing = doing
        try:
            self.tick()
            yield from problems
        except TimeUp:
            self.left_out.append(doing)


class Paced(Copies):
    """Copies that look at the clock at every reset and step."""

    def __init__(self, factory: Factory, horizon: int, pace: Pace) -> None:
        super().__init__(factory, horizon)
        self.pace = pace

    def reset(self, seats: list[Seat]) -> Float32[np.ndarray, "l o"]:
        """As without a clock."""
        self.pace.tick()
        return super().reset(seats)

    def step(self, actions: Shaped[np.ndarray, "l *a"]) -> Outcome:
        """As without a clock."""
        self.pace.tick()
        return super().step(actions)
