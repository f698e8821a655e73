"""Curves of several seeds as the JSON of ``eval`` holds them."""

from __future__ import annotations

from typing import Any

import numpy as np

from precocial.evaluation.curve import Curve
from precocial.evaluation.recovery import summarise_recovery
from precocial.statistics import TaskSample, as_json, bootstrap_intervals, interquartile_mean


def summarise(curves: list[Curve], tasks: TaskSample | None) -> dict[str, Any]:
    """The curve over seeds as the JSON of ``eval`` holds it.

    ``ci95`` is the 95 % bootstrap interval of the interquartile mean over seeds and tasks, None
    where nothing can be said. References are scored without one (``tasks`` None).
    """
    scores = np.stack([c.returns for c in curves])  # (S, N, stages)
    hits = [c.success for c in curves if c.success is not None]
    success = np.stack(hits) if hits else None
    found = [c.solved_by for c in curves if c.solved_by is not None]
    solved = np.stack(found) if found else None
    stages = []
    intervals = bootstrap_intervals(scores, tasks) if tasks else []
    for k in range(scores.shape[-1]):
        row: dict[str, Any] = {
            "stage": k,
            "episodes_seen": curves[0].episodes_seen[k],
            "env_steps_seen": curves[0].env_steps_seen[k],
            "return_mean": float(scores[:, :, k].mean()),
            "return_iqm": interquartile_mean(scores[:, :, k].ravel()),
            "seed_means": [float(x) for x in scores[:, :, k].mean(1)],
        }
        if intervals:
            row["ci95"] = as_json(intervals[k])
        if success is not None:
            row["success_rate"] = float(success[:, :, k].mean())
        if solved is not None:
            row["solved_by"] = float(solved[:, :, k].mean())
        stages.append(row)
    per_task = scores.mean(0)[:1000]
    around = [c.recovery for c in curves if c.recovery is not None]
    lost = sum(c.lanes_diverged for c in curves)
    extras = {"recovery": summarise_recovery(around, tasks)} if around and tasks else {}
    return (
        extras
        | ({"lanes_diverged": lost} if lost else {})
        | {
            "stages": stages,
            "per_task_return": [[float(x) for x in row] for row in per_task],
            "success_rate": stages[-1].get("success_rate"),
        }
    )
