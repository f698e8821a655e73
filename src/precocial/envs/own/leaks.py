"""Whether an observation tells the task."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import stats

from precocial.envs.own.findings import Problem

NUM_TASKS, NUM_SEEDS = 12, 8
"""What first observations are compared over."""


def leak(where: str, shown: list[int]) -> Problem:
    """What is said of components that tell the task, in the first observation or later."""
    some = ", ".join(map(str, shown[:8])) + (", ..." if len(shown) > 8 else "")
    return Problem(
        "task-in-observation", f"{where} tells the task (component {some} of the flattened "
        "observation differs between tasks at the same seed); remove it: the agent must find the "
        "task out through reward and transition",
    )  # fmt: skip


def task_components(first: Float[np.ndarray, "k s o"]) -> list[int]:
    """Components of the first observation that the task moves, over K tasks and S seeds.

    Two-way analysis of variance without replication: the effect of the task against what seed and
    task do together. Where the start is a constant, any difference counts.
    """
    num_tasks, num_seeds, size = first.shape
    x = first.astype(np.float64) - first.mean((0, 1), dtype=np.float64)
    by_task, by_seed = x.mean(1, keepdims=True), x.mean(0, keepdims=True)
    between = num_seeds * (by_task**2).sum((0, 1)) / (num_tasks - 1)
    rest = ((x - by_task - by_seed) ** 2).sum((0, 1)) / ((num_tasks - 1) * (num_seeds - 1))
    scale = (x**2).mean((0, 1))
    ratio = between / np.maximum(rest, 1e-12 * scale + 1e-30)
    p = stats.f.sf(ratio, num_tasks - 1, (num_tasks - 1) * (num_seeds - 1))
    differs = (first != first[:1]).any((0, 1))
    return np.flatnonzero(differs & (p < 1e-4 / size)).tolist()
