"""Named settings for a pair of algorithm and family.

A preset lists only what differs from the algorithm's own defaults. ``default`` learns quickly;
``paper`` reproduces the publication as far as ``docs/decisions.md`` says. Explicit flags override.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from precocial.algos import ALGOS, default_config
from precocial.envs import ENVS
from precocial.errors import UserError
from precocial.presets import gradient, inference, memory, model, plain
from precocial.presets.preset import Preset, Table

BRANCHES: dict[str, Any] = {
    "plain": plain, "gradient": gradient, "memory": memory, "inference": inference,
    "model": model,
}  # fmt: skip
PRESETS: Table = {pair: row for branch in BRANCHES.values() for pair, row in branch.PRESETS.items()}

JOINT = ("multi-task", "oracle", "scratch", "q-multi-task", "q-scratch")
"""References that stand beside methods of every branch."""


def nearest(given: str, names: list[str], what: str) -> UserError:
    """An error that names the nearest known names."""
    close = get_close_matches(given, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(names)}"
    return UserError(f"unknown {what} {given!r}; {hint}")


def find(algo: str, env: str, name: str) -> Preset:
    """The preset of a pair; where it has none, that of the method its branch borrows from.

    Raises:
        UserError: unknown algorithm, or unknown preset for this pair.
    """
    if algo not in ALGOS:
        raise nearest(algo, list(ALGOS), "algorithm")
    branch = BRANCHES[ALGOS[algo].branch]
    lender = ALGOS[algo].lender or branch.LENDER
    own = PRESETS.get((algo, env))
    table = own or PRESETS.get((lender, env), {})
    if name in table:
        preset = table[name]
    elif name == "default":
        preset = Preset() if env in ENVS else branch.OWN
    else:
        raise nearest(name, [*dict.fromkeys([*table, "default"])], f"preset for {algo} on {env}")
    if own:
        return preset
    if preset.place:  # settings of another class: only the family's options carry over
        preset = Preset(env=preset.env)
    if "inner_lr" in ALGOS[algo].settings:  # what it moves calls for rates of its own
        theirs = {k: v for k, v in preset.algo.items() if k not in ("inner_lr", "adapt_lrs")}
        preset = replace(preset, algo=theirs)
    if algo in JOINT:
        # Budgets are equal: all the episodes that the lender spends before and after adapting.
        theirs = vars(ALGOS[lender].config) | preset.algo
        num_tasks = theirs["num_tasks"] * (1 + theirs.get("inner_steps", 1))
        preset = replace(preset, algo=preset.algo | {"inner_steps": 0, "num_tasks": num_tasks})
    return preset if ALGOS[algo].trains else replace(preset, iterations=0)


def settings(algo: str, preset: Preset) -> Any:
    """The algorithm's settings under a preset."""
    base = default_config(preset.place, {}) if preset.place else ALGOS[algo].config
    known = base.__dataclass_fields__
    return replace(base, **{k: v for k, v in preset.algo.items() if k in known})
