"""What a preset is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Differences from the defaults."""

    iterations: int = 100
    algo: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    place: str = ""
    """Another class than the algorithm's own, where the pair calls for one, as in ``ALGOS``."""


Table = dict[tuple[str, str], dict[str, Preset]]
"""Presets by name, of pairs of algorithm and family."""
