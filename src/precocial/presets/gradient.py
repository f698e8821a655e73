"""Presets of the gradient-based methods."""

from __future__ import annotations

from typing import Any

from precocial.presets.preset import Preset, Table

LENDER = "maml"
"""Whose presets a method of this branch borrows on a family for which it has none of its own."""

OWN = Preset(100, {"num_tasks": 20, "episodes_per_task": 10})
"""On an environment of one's own, which is stepped in Python, copy by copy: fewer episodes."""

_ONLINE = "gradient.online_maml:OnlineMAML"
"""MAML over a trial in which every episode counts."""

_NAV_FAST: dict[str, Any] = {
    "num_tasks": 20, "inner_lr": 0.25, "gae_lambda": 0.95, "adapt_lrs": (0.25, 0.1, 0.05),
}  # fmt: skip
_NAV_PAPER: dict[str, Any] = {
    "num_tasks": 40, "hidden": (100, 100), "activation": "relu", "inner_lr": 0.25,
    "gae_lambda": 0.95, "adapt_lrs": (0.25, 0.1, 0.05),
}  # fmt: skip
_POLE: dict[str, Any] = {"num_tasks": 20, "episodes_per_task": 10, "inner_lr": 0.5}
_PENDULUM: dict[str, Any] = {"num_tasks": 20, "episodes_per_task": 10}
_CHEETAH: dict[str, Any] = {"num_tasks": 20}
_SCALE: dict[str, Any] = {"action_scale": 10.0}
"""ProMP's convention, on which its inner rate of 0.1 depends."""


def _bandit(pulls: int, arms: int, iterations: int) -> Preset:
    return Preset(iterations, {"gamma": 1.0}, {"pulls": pulls, "arms": arms}, place=_ONLINE)


_TABULAR = Preset(200, {"num_tasks": 500, "inner_lr": 0.1}, {"episodes": 10}, place=_ONLINE)


PRESETS: Table = {
    ("maml", "point-nav"): {
        "default": Preset(100, _NAV_FAST),
        "paper": Preset(100, _NAV_PAPER),
        "demo": Preset(60, _NAV_FAST),
    },
    ("maml", "bandit"): {
        "default": _bandit(10, 5, 300),
        "n10-k5": _bandit(10, 5, 300),
        "n100-k5": _bandit(100, 5, 150),
    },
    ("maml", "cart-pole"): {"default": Preset(40, _POLE)},
    ("promp", "cart-pole"): {"default": Preset(40, _POLE | {"outer_lr": 3e-3})},
    ("maml", "pendulum-mass"): {"default": Preset(60, _PENDULUM)},
    ("promp", "pendulum-mass"): {"default": Preset(60, _PENDULUM)},
    ("maml", "half-cheetah-dir"): {"default": Preset(250, _CHEETAH, _SCALE)},
    ("maml", "half-cheetah-vel"): {"default": Preset(250, _CHEETAH, _SCALE)},
    ("promp", "half-cheetah-dir"): {
        "default": Preset(250, _CHEETAH, _SCALE),
        "paper": Preset(1001, {}, _SCALE),
    },
    ("promp", "half-cheetah-vel"): {
        "default": Preset(250, _CHEETAH, _SCALE),
        "paper": Preset(1001, {}, _SCALE),
    },
    ("maml", "tabular-mdp"): {"default": _TABULAR, "n10": _TABULAR},
    ("q-maml", "frozen-lake"): {"default": Preset(300)},
    ("promp", "point-nav"): {"default": Preset(100, _NAV_FAST)},
    ("reptile", "point-nav"): {"default": Preset(100, _NAV_FAST)},
}
