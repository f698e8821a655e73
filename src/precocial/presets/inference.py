"""Presets of task inference off-policy."""

from __future__ import annotations

from typing import Any

from precocial.presets.preset import Preset, Table

LENDER = "pearl"
"""Whose presets a method of this branch borrows on a family for which it has none of its own."""

OWN = Preset(100, {"num_tasks": 10, "train_tasks": 20})
"""On an environment of one's own, which is stepped in Python, copy by copy."""

_POINT: dict[str, Any] = {"gamma": 0.9, "hidden": (64, 64), "num_tasks": 40}
_SPARSE: dict[str, Any] = {
    "encoder": "attention", "episodes_per_trial": 10, "first_data": "sticky", "informed": 0.6,
    "warm_updates": 1000, "updates": 400, "kl_weight": 5e-3, "anneal": True, "context_trials": 6,
}  # fmt: skip
"""Contexts without a reward say nothing, and a policy that knows nothing meets none."""
_VALID: dict[str, Any] = {"eval_tasks": 20, "eval_every": 5}

PRESETS: Table = {
    ("pearl", "point-robot"): {"default": Preset(60, _POINT, run=_VALID)},
    ("pearl", "point-robot-sparse"): {"default": Preset(120, _POINT | _SPARSE, run=_VALID)},
}  # fmt: skip
