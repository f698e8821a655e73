"""What a run earned before, at and after the world changed during an episode."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from precocial.ops.returns import episode_index
from precocial.statistics import TaskSample, as_json, bootstrap_interval
from precocial.types import Rollout

COMMON = 0.5
"""Share of the tasks that a sum around the change must exist for, to be shown."""


class Recovery(NamedTuple):
    """What a run earned before, at and after the world changed during an episode."""

    every: int
    """Steps that a return is summed over."""
    start: list[int]
    """First step of every sum, counted from the change."""
    returns: np.ndarray
    """(N, bins): mean over lanes; NaN where no lane of the task was in its episode then."""


def recovery(rollout: Rollout, horizon: int) -> Recovery:
    """Returns per 50 steps (per twentieth of an episode shorter than 400) around the change.

    Of the first episode of every lane, in whole sums; a lane that ended early earns nothing for the
    rest of the horizon, one that ended before the change is left out.
    """
    every = 50 if horizon >= 400 else max(1, horizon // 20)
    first = episode_index(rollout.terminated | rollout.truncated)[..., :horizon] == 0
    reward = (rollout.reward[..., :horizon] * first).cpu().double().numpy()
    switched = (rollout.extra["info/switched"][..., :horizon].bool() & first).cpu().numpy()
    missing = horizon - reward.shape[-1]
    reward = np.pad(reward, ((0, 0), (0, 0), (0, missing)))
    at = np.where(switched.any(-1), switched.argmax(-1), -1)  # (N, E)
    bins = range(-(horizon // every), horizon // every)
    total = np.concatenate([np.zeros((*at.shape, 1)), reward.cumsum(-1)], -1)
    columns = []
    for k in bins:
        begin, end = at + k * every, at + (k + 1) * every
        whole = (at >= 0) & (begin >= 0) & (end <= horizon)
        picked = [np.take_along_axis(total, np.clip(x, 0, horizon)[..., None], -1)[..., 0]
                  for x in (begin, end)]  # fmt: skip
        earned = np.where(whole, picked[1] - picked[0], 0.0).sum(1)
        count = whole.sum(1)
        columns.append(np.where(count > 0, earned / np.maximum(count, 1), np.nan))
    return Recovery(every, [k * every for k in bins], np.stack(columns, -1))


def summarise_recovery(parts: list[Recovery], tasks: TaskSample) -> dict[str, Any]:
    """Mean over seeds and tasks of every sum, and its bootstrap interval or None."""
    table = np.stack([part.returns for part in parts])  # (S, N, bins)
    known = np.isfinite(table)
    shown = np.flatnonzero(known.mean((0, 1)) >= COMMON)
    rows: dict[str, Any] = {"every": parts[0].every, "start": [], "return": [], "ci95": []}
    for k in shown:
        having = known[..., k].all(0)
        if not having.any():
            continue
        column = table[:, having, k]
        rows["start"].append(parts[0].start[k])
        rows["return"].append(float(column.mean()))
        interval = bootstrap_interval(column, tasks.select(having), trim=False)
        rows["ci95"].append(as_json(interval))
    return rows
