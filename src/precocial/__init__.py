"""Precocial: agents that adapt. Meta-reinforcement learning and transfer in one package."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from precocial.envs.registration import register_all

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "evaluate", "load", "load_agent", "train"]

_HOMES = {
    "train": "precocial.training",
    "evaluate": "precocial.evaluation.table",
    "load": "precocial.agent",
    "load_agent": "precocial.agent",
    "UserError": "precocial.errors",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `precocial report` needs no torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'precocial' has no attribute {name!r}")


register_all()  # every family is also a Gymnasium environment: precocial/PointNav-v0, ...
