"""Checks of settings, with errors that name the flag."""

from __future__ import annotations

import math
from typing import Any

from precocial.errors import UserError


def flag(name: str) -> str:
    """The command-line flag of a field."""
    return "--" + name.replace("_", "-")


def at_least(cfg: Any, low: int, *names: str) -> None:
    """Refuse numbers below ``low``, and those that are not finite."""
    for name in names:
        if not low <= getattr(cfg, name) < math.inf:
            raise UserError(f"{flag(name)} is {getattr(cfg, name)}; expected {low} or more")


def in_range(cfg: Any, low: float, high: float, *names: str) -> None:
    """Refuse numbers outside [low, high], and NaN."""
    for name in names:
        if not low <= getattr(cfg, name) <= high:
            raise UserError(f"{flag(name)} is {getattr(cfg, name)}; expected {low} to {high}")


def positive(cfg: Any, *names: str) -> None:
    """Refuse numbers that are not finite and above 0."""
    for name in names:
        if not 0 < getattr(cfg, name) < math.inf:
            raise UserError(f"{flag(name)} is {getattr(cfg, name)}; expected a number above 0")


def widths(cfg: Any, *names: str) -> None:
    """Refuse hidden layers that are none, or narrower than 1."""
    for name in names:
        if not getattr(cfg, name) or min(getattr(cfg, name)) < 1:
            raise UserError(
                f"{flag(name)} is {getattr(cfg, name)}; expected widths above 0, e.g. 64 64"
            )
