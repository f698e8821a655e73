"""Presets of the methods that learn inside a trial."""

from __future__ import annotations

from typing import Any

from precocial.presets.preset import Preset, Table

LENDER = "rl2"
"""Whose presets a method of this branch borrows on a family for which it has none of its own."""

OWN = Preset(100, {"num_tasks": 200})
"""On an environment of one's own: one trial a task needs more tasks."""

_RL2: dict[str, Any] = {
    "gae_lambda": 0.3, "outer_lr": 8e-3, "num_tasks": 2500, "outer_epochs": 10, "minibatches": 4,
}  # fmt: skip
"""Pulls are independent given the arms, so credit need not reach far."""
_LONG: dict[str, Any] = {
    "gae_lambda": 0.3, "outer_lr": 4e-3, "num_tasks": 300, "outer_epochs": 6, "minibatches": 4,
}  # fmt: skip
_EXPLORE: dict[str, Any] = {"gae_lambda": 0.8, "ent_coef": 0.02, "anneal_entropy": True}
"""What is worth a look early on pays late, over most of a hundred pulls of five arms."""
_MDP: dict[str, Any] = {
    "gae_lambda": 0.5, "outer_lr": 3e-3, "num_tasks": 300, "outer_epochs": 4, "minibatches": 4,
    "ent_coef": 0.01, "anneal_entropy": True, "memory": "fast-weights",
}  # fmt: skip
"""What was learned of this state is what counts, so the memory is one that looks it up."""
_MDP_GRU: dict[str, Any] = _LONG | {
    "gae_lambda": 0.8, "outer_lr": 2e-3, "outer_epochs": 8, "ent_coef": 0.03,
    "anneal_entropy": True, "memory_size": 128, "embed": 128, "previous_obs": True,
}  # fmt: skip
_GRID: dict[str, Any] = {
    "num_tasks": 252, "gamma": 0.95, "outer_lr": 2e-3, "ent_coef": 0.01, "anneal_entropy": True,
}  # fmt: skip
_WORLD: dict[str, Any] = _GRID | {
    "num_tasks": 300, "gamma": 0.98, "outer_lr": 3e-3, "memory_size": 128, "embed": 128,
}  # fmt: skip
_LAKE: dict[str, Any] = _GRID | {
    "num_tasks": 300, "gamma": 0.98, "outer_lr": 3e-3, "memory_size": 128, "embed": 128,
    "previous_obs": True,
}  # fmt: skip
"""Where a step led to a hole is one thing to remember: state, action and ending in one input."""
_BELIEF: dict[str, Any] = _GRID | {"gamma": 0.97, "ent_coef": 0.05, "hidden": (128, 128)}
"""With less entropy a policy on beliefs stops exploring before it has seen every cell."""
_INFERENCE: dict[str, Any] = _BELIEF | {
    "latent_dim": 10,
    "decoder_hidden": (64, 64), "vae_updates": 20, "vae_batch": 25, "vae_lr": 2e-3,
    "decode_steps": 0, "reward_likelihood": "bernoulli", "transition_weight": 0.0,
}  # fmt: skip
"""Rewards of two values, no transition decoder, as in the paper's grid."""
_VALID: dict[str, Any] = {"eval_tasks": 210}


def _pulls(pulls: int, arms: int, iterations: int, **algo: Any) -> Preset:
    return Preset(
        iterations, (_RL2 if pulls < 50 else _LONG) | algo, {"pulls": pulls, "arms": arms},
        run={"eval_tasks": 1000},
    )  # fmt: skip


PRESETS: Table = {
    ("rl2", "bandit"): {
        "default": _pulls(10, 5, 50),
        "n10-k5": _pulls(10, 5, 50),
        "n10-k5-long": _pulls(10, 5, 200),
        "n100-k5": _pulls(100, 5, 400, **_EXPLORE),
        "n100-k2": _pulls(100, 2, 200),
    },
    ("rl2", "tabular-mdp"): {
        "default": Preset(100, _MDP, run=_VALID),
        "n10": Preset(100, _MDP, run=_VALID),
        "n10-gru": Preset(120, _MDP_GRU, run=_VALID),
    },
    ("rl2", "grid-nav"): {"default": Preset(200, _GRID, run=_VALID)},
    ("varibad", "grid-nav"): {"default": Preset(350, _INFERENCE, run=_VALID)},
    ("belief-oracle", "grid-nav"): {"default": Preset(350, _BELIEF, run=_VALID)},
    ("rl2", "grid-world"): {"default": Preset(600, _WORLD, run=_VALID)},
    ("rl2", "frozen-lake"): {"default": Preset(200, _LAKE, run=_VALID)},
    ("rl2", "harlow"): {"default": Preset(60, {"outer_lr": 3e-3, "outer_epochs": 6}, run=_VALID)},
    ("rl2", "two-step"): {
        "default": Preset(80, _LONG | {"gae_lambda": 0.8, "memory_size": 48}, run=_VALID)
    },
}
