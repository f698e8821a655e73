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
_CHEETAH: dict[str, Any] = {
    "train_tasks": 100, "num_tasks": 10, "updates": 1000, "kl_weight": 0.01, "lr": 3e-4,
    "tau": 0.005, "alpha": 0.2, "auto_alpha": True, "min_alpha": 0.02,
}  # fmt: skip
"""A temperature of 1 over the reference's reward scale at first, falling to a tenth of it."""
_DIR: dict[str, Any] = _CHEETAH | {
    "train_tasks": 2, "num_tasks": 2, "lanes": 5, "meta_batch": 2, "batch_size": 256,
}  # fmt: skip
_GRID: dict[str, Any] = {
    "train_tasks": 21, "num_tasks": 21, "meta_batch": 21, "lanes": 8, "episodes_per_trial": 4,
    "context_size": 60, "encoder_hidden": (128, 128), "next_obs_in_context": True,
    "hidden": (64, 64), "informed": 0.6, "gamma": 0.9, "tau": 0.05, "alpha": 0.02,
}  # fmt: skip
"""Rewards are rare: a value must get from the goal to where it is needed in few steps."""
_PAPER: dict[str, Any] = {
    "hidden": (300,) * 3, "encoder_hidden": (200,) * 3, "batch_size": 256, "lr": 3e-4,
    "tau": 0.005, "reward_change_in_context": False, "num_tasks": 5, "context_trials": 1,
    "buffer_size": 70_000,
}  # fmt: skip
"""Everything that 500 iterations collect of a task is kept."""
_FAST: dict[str, Any] = {"horizon": 200, "velocity_max": 3.0}
_VALID: dict[str, Any] = {"eval_tasks": 20, "eval_every": 5}

PRESETS: Table = {
    ("pearl", "point-robot"): {
        "default": Preset(60, _POINT, run=_VALID),
        "paper": Preset(
            500, _PAPER | {
                "updates": 1000, "context_size": 64, "alpha": 0.01, "kl_weight": 1.6e-4,
                "lanes": 10,
            },
        ),
    },
    ("pearl", "point-robot-sparse"): {
        "default": Preset(120, _POINT | _SPARSE, run=_VALID),
        "paper": Preset(
            500, _PAPER | {
                "updates": 1000, "context_size": 1024, "alpha": 0.01, "kl_weight": 1.6e-3,
                "gamma": 0.9, "num_tasks": 10, "episodes_per_trial": 50,
            },
        ),
    },
    ("pearl", "half-cheetah-vel"): {
        "default": Preset(100, _CHEETAH, _FAST, run=_VALID),
        "paper": Preset(
            500, _PAPER | {
                "train_tasks": 100, "updates": 2000, "alpha": 0.2, "kl_weight": 0.064,
                "episodes_per_trial": 5, "buffer_size": 30_000,
            }, _FAST,
        ),
    },
    ("pearl", "half-cheetah-dir"): {
        "default": Preset(100, _DIR, {"horizon": 200}, run=_VALID),
    },
    ("pearl", "grid-nav"): {"default": Preset(150, _GRID, run=_VALID)},
    ("pearl", "wind"): {
        "default": Preset(
            60, _POINT | {"train_tasks": 40, "gamma": 0.95, "next_obs_in_context": True},
            run=_VALID,
        ),
    },
}  # fmt: skip
