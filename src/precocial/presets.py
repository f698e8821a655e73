"""Named settings for a pair of algorithm and family.

A preset lists only what differs from the algorithm's own defaults. ``default`` learns quickly;
``paper`` reproduces the publication as far as ``docs/decisions.md`` says. Explicit flags override.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from precocial.algos import ALGOS
from precocial.algos.gradient.online_maml import OnlineMAMLConfig
from precocial.algos.gradient.shared import GradientConfig
from precocial.algos.memory.trials import TrialConfig
from precocial.algos.model.shared import ModelConfig
from precocial.envs import ENVS
from precocial.types import UserError


@dataclass(frozen=True)
class Preset:
    """Differences from the defaults."""

    iterations: int = 100
    algo: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    config: Any = None
    """A settings object of another type, where the pair calls for another class."""
    run: dict[str, Any] = field(default_factory=dict)


OWN_ENVIRONMENT = Preset(100, {"num_tasks": 20, "episodes_per_task": 10})
"""A user's environment is stepped in Python, copy by copy: fewer episodes."""

OWN_PLANNED = Preset(30, {"num_tasks": 10})
"""A planner learns from a thousandth of the steps, and plans for every lane at every one."""

OWN_TRIALS = Preset(100, {"num_tasks": 200})
"""One trial a task needs more tasks."""

JOINT = ("multi-task", "oracle", "scratch")
IN_TRIAL = [name for name, entry in ALGOS.items() if isinstance(entry.config, TrialConfig)]
"""Methods that learn inside a trial; they borrow RL2's presets, the others MAML's."""
BY_MODEL = [name for name, entry in ALGOS.items() if isinstance(entry.config, ModelConfig)]
"""Methods that plan with a model; they borrow GrBAL's presets."""

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
    return Preset(
        iterations, env={"pulls": pulls, "arms": arms}, config=OnlineMAMLConfig(gamma=1.0)
    )


_TABULAR = Preset(200, env={"episodes": 10}, config=OnlineMAMLConfig(num_tasks=500, inner_lr=0.1))


_RL2: dict[str, Any] = {
    "gae_lambda": 0.3, "outer_lr": 8e-3, "num_tasks": 2500, "outer_epochs": 10, "minibatches": 4,
}  # fmt: skip
"""Pulls are independent given the arms, so credit need not reach far."""
_LONG: dict[str, Any] = {
    "gae_lambda": 0.3, "outer_lr": 4e-3, "num_tasks": 300, "outer_epochs": 6, "minibatches": 4,
}  # fmt: skip
_MDP: dict[str, Any] = _LONG | {
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


PRESETS: dict[tuple[str, str], dict[str, Preset]] = {
    ("grbal", "hidden-gain"): {"default": Preset(30, _GAIN)},
    ("grbal", "pendulum-mass"): {"default": Preset(15, _GAIN)},
    ("mb-de", "hidden-gain"): {"default": Preset(30, _GAIN | {"inner_lr": 0.03})},
    ("grbal", "half-cheetah-disabled"): _robot(500),
    ("grbal", "half-cheetah-slope"): _robot(500),
    ("grbal", "half-cheetah-pier"): _robot(500),
    ("grbal", "ant-crippled"): _robot(500),
    ("grbal", "arm-7dof"): _robot(100),
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
    ("promp", "point-nav"): {"default": Preset(100, _NAV_FAST)},
    ("reptile", "point-nav"): {"default": Preset(100, _NAV_FAST)},
    ("rl2", "bandit"): {
        "default": _pulls(10, 5, 50),
        "n10-k5": _pulls(10, 5, 50),
        "n10-k5-long": _pulls(10, 5, 200),
        "n100-k5": _pulls(100, 5, 400),
        "n100-k2": _pulls(100, 2, 200),
    },
    ("rl2", "tabular-mdp"): {
        "default": Preset(120, _MDP, run=_VALID),
        "n10": Preset(120, _MDP, run=_VALID),
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


def nearest(given: str, names: list[str], what: str) -> UserError:
    """An error that names the nearest known names."""
    close = get_close_matches(given, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(names)}"
    return UserError(f"unknown {what} {given!r}; {hint}")


def _lender(algo: str) -> str:
    """Whose presets an algorithm borrows on a family for which it has none of its own."""
    if algo in BY_MODEL:
        return "grbal"
    return "rl2" if algo in IN_TRIAL else "maml"


def find(algo: str, env: str, name: str) -> Preset:
    """The preset of a pair; variants and references borrow MAML's or RL2's where they have none.

    Raises:
        UserError: unknown algorithm, or unknown preset for this pair.
    """
    if algo not in ALGOS:
        raise nearest(algo, list(ALGOS), "algorithm")
    own = PRESETS.get((algo, env))
    table = own or PRESETS.get((_lender(algo), env), {})
    if name in table:
        preset = table[name]
    elif name == "default":
        theirs = {"rl2": OWN_TRIALS, "grbal": OWN_PLANNED}.get(_lender(algo), OWN_ENVIRONMENT)
        preset = Preset() if env in ENVS else theirs
    else:
        raise nearest(name, [*dict.fromkeys([*table, "default"])], f"preset for {algo} on {env}")
    if own or algo in BY_MODEL:
        return preset
    if preset.config is not None:  # settings of another class: only the family's options carry over
        preset = Preset(env=preset.env)
    if algo in JOINT:
        # Budgets are equal: all the episodes that MAML spends before and after adapting.
        stages = 1 + preset.algo.get("inner_steps", 1)
        num_tasks = preset.algo.get("num_tasks", GradientConfig.num_tasks) * stages
        preset = replace(preset, algo=preset.algo | {"inner_steps": 0, "num_tasks": num_tasks})
    return preset if ALGOS[algo].trains else replace(preset, iterations=0)


def settings(algo: str, preset: Preset) -> Any:
    """The algorithm's settings under a preset."""
    base = preset.config or ALGOS[algo].config
    known = base.__dataclass_fields__
    return replace(base, **{k: v for k, v in preset.algo.items() if k in known})
