"""What the returns of probes say: an order, what it leaves open, and whether anything helps."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import numpy as np

from precocial.statistics import as_json, student_interval, welch_interval

SCRATCH = "scratch"


class Round(NamedTuple):
    """An evaluation of those that were still there."""

    iterations: int
    """That each of them had been trained."""
    returns: dict[str, list[list[float]]]
    """By name: of each seed, of each episode; scratch is in every round."""
    train_steps: int
    """Environment steps of training, of all candidates and rounds so far."""
    eval_steps: int
    """Environment steps of this evaluation."""


def scores(rounds: Sequence[Round], name: str) -> np.ndarray:
    """Mean return of each seed in the last round that a candidate took part in, (S,)."""
    last = [r.returns[name] for r in rounds if name in r.returns][-1]
    return np.mean(last, 1, dtype=float)


def ranking(rounds: Sequence[Round], failed: Container[str] = ()) -> list[dict[str, Any]]:
    """All candidates but those that failed, the best first.

    Who stayed longer is before who was dropped earlier; of equal stay the score decides. Scratch,
    which is never dropped, is put where the fewest comparisons with it, each in the other's last
    round, say otherwise.
    ``behind`` is by how much the first one was ahead there; they are told apart where its Welch
    interval is above 0. That to scratch is widened for the choice of the first among all forms.
    """
    stay = {name: sum(name in r.returns for r in rounds) for name in rounds[0].returns}
    order = sorted(
        (name for name in stay if name != SCRATCH and name not in failed),
        key=lambda name: (-stay[name], -scores(rounds, name).mean()),
    )
    forms = len(order)

    def both(one: str, other: str) -> tuple[np.ndarray, np.ndarray]:
        """Scores in the last round that both were there."""
        shared = rounds[: min(stay[one], stay[other])]
        return scores(shared, one), scores(shared, other)

    ahead = [bool(np.diff([s.mean() for s in both(SCRATCH, name)]) > 0) for name in order]
    wrong = [sum(ahead[k:]) + ahead[:k].count(False) for k in range(forms + 1)]
    order.insert(max(k for k in range(forms + 1) if wrong[k] == min(wrong)), SCRATCH)
    found = []
    for name in order:
        own = scores(rounds, name)
        best, its = both(order[0], name)
        interval = welch_interval(best, its, forms if name == SCRATCH else 1)
        found.append(
            {
                "name": name,
                "iterations": rounds[stay[name] - 1].iterations,
                "untrained": float(np.mean(rounds[0].returns[name])),
                "score": {"mean": float(own.mean()), "ci95": as_json(student_interval(own))},
                "behind": {"mean": float(best.mean() - its.mean()), "ci95": as_json(interval)},
                "apart": interval is not None and interval[0] > 0,
            }
        )
    return found


def verdict(order: Sequence[dict[str, Any]]) -> str:
    """The order in two sentences."""
    first = order[0]
    scratch = next(x for x in order if x["name"] == SCRATCH)
    alike = [x["name"] for x in order[1:] if not x["apart"]]
    if first is scratch:
        second = f"; the best source is {order[1]['name']}" if order[1:] else ""
        return f"None helps: nothing scores above scratch{second}."
    if not scratch["apart"]:
        return (
            f"None helps, as far as so few steps tell: {first['name']} scores highest and is not "
            "told apart from scratch. More --seeds or a larger --budget could."
        )
    ahead = scratch["behind"]
    low, high = ahead["ci95"]
    words = (
        f"Begin from {first['name']}: ahead of scratch by {ahead['mean']:.4g} "
        f"[{low:.4g}, {high:.4g}]."
    )
    return words + (f" Not told apart from it: {'; '.join(alike)}." if alike else "")
