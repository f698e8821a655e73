"""Presets of the methods that plan with a model."""

from __future__ import annotations

from typing import Any

from precocial.presets.preset import Preset, Table

LENDER = "grbal"
"""Whose presets a method of this branch borrows on a family for which it has none of its own."""

OWN = Preset(30, {"num_tasks": 10})
"""On an environment of one's own: a planner learns from a thousandth of the steps, and plans for
every lane at every one."""

_GAIN: dict[str, Any] = {"hidden": (64, 64), "memory_size": 64, "model_updates": 150}
_ROBOT: dict[str, Any] = {"windows": 32, "model_updates": 300}
"""50 000 environment steps: ten iterations of ten episodes of 500 steps."""
_ROBOT_PAPER: dict[str, Any] = {
    "num_tasks": 5, "hidden": (512, 512, 512), "candidates": 500, "planner": "random-shooting",
    "inner_lr": 1e-3, "learn_lr": False, "model_updates": 1000,
}  # fmt: skip
"""250 000 steps; the rates of the published code. Not run here."""


def _robot(steps: int) -> dict[str, Preset]:
    """Presets of a robot that breaks, for an episode of so many steps."""
    default = _ROBOT | {"num_tasks": 5000 // steps}
    return {
        "default": Preset(10, default, run={"eval_every": 0}),
        "paper": Preset(50, _ROBOT_PAPER, {"horizon": 1000}, run={"eval_every": 0}),
    }


PRESETS: Table = {
    ("grbal", "hidden-gain"): {"default": Preset(30, _GAIN)},
    ("grbal", "pendulum-mass"): {"default": Preset(15, _GAIN)},
    ("mb-de", "hidden-gain"): {"default": Preset(30, _GAIN | {"inner_lr": 0.03})},
    ("grbal", "half-cheetah-disabled"): _robot(500),
    ("grbal", "half-cheetah-slope"): _robot(500),
    ("grbal", "half-cheetah-pier"): _robot(500),
    ("grbal", "ant-crippled"): _robot(500),
    ("grbal", "arm-7dof"): _robot(100),
}
