"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

MISSING = "–"  # noqa: RUF001  an en dash, as tables use it


def decimals(values: Iterable[float]) -> int:
    """Decimals that show about three digits of the largest of ``values``."""
    top = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    return 0 if top >= 100 else 1 if top >= 10 else 2 if top >= 1 else 3


def number(value: float, places: int | None = None, *, sign: bool = False) -> str:
    """``value`` with a true minus sign, and no minus zero."""
    if not math.isfinite(value):
        return MISSING
    places = decimals([value]) if places is None else places
    rounded = round(value, places) + 0.0
    return f"{rounded:{'+' if sign else ''},.{places}f}".replace("-", "−").replace(",", "\u202f")  # noqa: RUF001


def count(value: float) -> str:
    """A large count in three digits: ``4.8 M``."""
    if not math.isfinite(value):
        return MISSING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """``45 s``, ``4 min 12 s`` or ``3 h 20 min``."""
    if not math.isfinite(seconds):
        return MISSING
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def plural(num: int, noun: str) -> str:
    """``1 seed``, ``5 seeds``."""
    return f"{num:,} {noun}{'' if num == 1 else 's'}".replace(",", "\u202f")


def listed(names: Iterable[str]) -> str:
    """``a, b and c``, each name once."""
    *most, last = dict.fromkeys(names)
    return f"{', '.join(most)} and {last}" if most else last


def few_of(num: int, most: int) -> list[int]:
    """Indices of at most ``most`` (3 or more) of ``num`` stages: both ends, more of the early."""
    if num <= most:
        return list(range(num))
    steps = most - 2
    return sorted({0, *(round(2 * (num / 2) ** (i / steps)) - 1 for i in range(steps + 1))})


def percent(share: float) -> str:
    """``97 %``, or ``97.3 %`` close to all."""
    return f"{100 * share:.{1 if 0.9 <= share < 1.1 else 0}f} %"


def plain(value: Any) -> str:
    """A setting's value."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
