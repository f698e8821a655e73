"""What a transfer brought, against the same training from scratch (Taylor and Stone 2009).

Taylor, Stone 2009, *Transfer Learning for Reinforcement Learning Domains*, JMLR 10, Sec. 2.2: jump
start, asymptote, total reward, transfer ratio, time to threshold. A threshold is reached with the
first of two evaluations in a row at or above it, after training began: one evaluation may be luck,
and so may be an untrained network. A run that never gets there within the budget is censored: it
counts with the budget in the restricted mean, and is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from precocial.statistics import as_json, bootstrap_interval

ROWS = (
    ("before training", "start", "jump_start"),
    ("mean over the budget", "area", "area_gain"),
    ("at the end", "asymptote", "asymptote_gain"),
    ("worst evaluation", "worst", ""),
    ("steps to the threshold", "time", "time_saved"),
    ("with the source's steps", "time_with_source", ""),
)
"""In words, the key of each side, and of the difference."""
LAST_SHARE = 0.1
"""Of the evaluations, whose mean is the asymptote."""


class Curve(NamedTuple):
    """Evaluations of one run."""

    env_steps: np.ndarray
    """(K,), from 0 on."""
    returns: np.ndarray
    """(K,)"""


def curve_of(rows: Sequence[dict[str, Any]]) -> Curve:
    """The evaluations among the rows of a run's metrics, at the last stage of adaptation."""
    prefix = "valid/episode_reward_mean"
    keys = {key for row in rows for key in row if key.startswith(prefix)}
    key = max(
        keys, key=lambda k: int(k.removeprefix(prefix).removeprefix("_adapt_") or 0), default=""
    )
    found = [(row["env_steps"], row[key]) for row in rows if key in row]
    steps, returns = zip(*found, strict=True) if found else ((), ())
    return Curve(np.asarray(steps, float), np.asarray(returns, float))


def time_to(curve: Curve, threshold: float) -> float | None:
    """Environment steps to the first of two evaluations in a row at or above the threshold."""
    good = (curve.returns >= threshold) & (curve.env_steps > 0)
    pairs = np.flatnonzero(good[:-1] & good[1:])
    return float(curve.env_steps[pairs[0]]) if len(pairs) else None


def area(curve: Curve, budget: float) -> float:
    """Mean return over the first ``budget`` steps, linear between evaluations."""
    inside = curve.env_steps <= budget
    steps, returns = curve.env_steps[inside], curve.returns[inside]
    if len(steps) < 2:
        return float(returns[0])
    between = (returns[1:] + returns[:-1]) / 2
    return float((between * np.diff(steps)).sum() / (steps[-1] - steps[0]))


def asymptote(curve: Curve) -> float:
    """Mean of the last tenth of the evaluations."""
    last = max(1, round(LAST_SHARE * len(curve.returns)))
    return float(curve.returns[-last:].mean())


def measure(
    transfer: Sequence[Curve],
    scratch: Sequence[Curve],
    source_steps: Sequence[int],
    threshold: float | None,
) -> dict[str, Any]:
    """All of it over seeds, in pairs: seed by seed the same number in both.

    Args:
        transfer: Curves of the runs that began from a source.
        scratch: Of those that did not; none where they were left out.
        source_steps: Environment steps that each source had cost.
        threshold: Return to be reached, None for none.
    """
    budget = min(float(c.env_steps[-1]) for c in [*transfer, *scratch])
    result: dict[str, Any] = {"seeds": len(transfer), "budget": budget, "threshold": threshold}
    sides = {"transfer": transfer, "scratch": scratch}
    for side, curves in sides.items():
        if not curves:
            continue
        values: dict[str, list[float]] = {
            "start": [float(c.returns[0]) for c in curves],
            "area": [area(c, budget) for c in curves],
            "asymptote": [asymptote(c) for c in curves],
            "worst": [float(c.returns.min()) for c in curves],
        }
        result[side] = {k: _figure(v) for k, v in values.items()}
        if threshold is not None:
            found = [time_to(c, threshold) for c in curves]
            times = [t if t is not None and t <= budget else None for t in found]
            kept = [budget if t is None else t for t in times]
            own = source_steps if side == "transfer" else [0] * len(curves)
            result[side] |= {
                "time": _figure(kept),
                "time_with_source": _figure([t + n for t, n in zip(kept, own, strict=True)]),
                "censored": sum(t is None for t in times),
                "times": times,
            }
    if scratch:
        result |= _compare(result)
    return result


def _compare(result: dict[str, Any]) -> dict[str, Any]:
    """Transfer against scratch, in pairs."""
    ours, theirs = (
        {k: np.array(result[side][k]["each"]) for k in ("start", "area", "asymptote")}
        for side in ("transfer", "scratch")
    )
    found: dict[str, Any] = {
        "jump_start": _figure(ours["start"] - theirs["start"]),
        "area_gain": _figure(ours["area"] - theirs["area"]),
        "asymptote_gain": _figure(ours["asymptote"] - theirs["asymptote"]),
    }
    total = theirs["area"].mean()
    found["transfer_ratio"] = float((ours["area"].mean() - total) / abs(total)) if total else None
    if result["threshold"] is not None:
        times = (np.array(result[side]["time"]["each"]) for side in ("transfer", "scratch"))
        t, s = times
        reached = np.array([x is not None for x in result["transfer"]["times"]])
        found["time_saved"] = _figure(s - t)
        found["at_most_half_the_time"] = int((reached & (t <= s / 2)).sum())
    return found


def _figure(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Mean over seeds, its bootstrap interval, and every seed's."""
    x = np.asarray(values, float)
    interval = bootstrap_interval(x[:, None], trim=False)
    return {"mean": float(x.mean()), "ci95": as_json(interval), "each": [float(v) for v in x]}
