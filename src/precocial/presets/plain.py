"""Presets of plain reinforcement learning."""

from __future__ import annotations

from typing import Any

from precocial.presets.preset import Preset, Table

LENDER = "ppo"
"""Whose presets a method of this branch borrows on a family for which it has none of its own."""

OWN = Preset(100, {"lanes": 8})
"""On an environment of one's own, which is stepped in Python, copy by copy."""

_POLE: dict[str, Any] = {"rollout_steps": 32, "rounds": 2, "lr": 2e-3, "epochs": 10}
"""16 lanes x 32 steps, twice: 1 024 steps an iteration."""

PRESETS: Table = {
    ("dqn", "CartPole-v1"): {
        "default": Preset(
            40,
            {"normalize_obs": True, "n_step": 3, "tau": 0.02, "lr": 5e-4},
            run={"eval_every": 1, "eval_tasks": 4},
        ),
    },
    ("sac", "Pendulum-v1"): {
        "default": Preset(
            29,
            {"lanes": 4, "updates": 8, "learning_starts": 500},
            run={"eval_every": 1, "eval_tasks": 5},
        ),
    },
    ("q-learning", "FrozenLake-v1"): {
        "default": Preset(100, {"lr": 1.0, "lr_power": 0.7, "explore_steps": 60_000}),
    },
    ("ppo", "CartPole-v1"): {
        "default": Preset(40, _POLE, run={"eval_every": 1, "eval_tasks": 2}),
    },
}
