"""Exact answers for Bernoulli bandits with uniform priors."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

Counts = tuple[tuple[int, int], ...]


@lru_cache(maxsize=16)
def bayes_optimum(pulls: int, arms: int) -> float | None:
    """Expected total reward of the best possible learner over ``pulls`` pulls of ``arms`` arms.

    Backward induction over what has been seen, (successes, failures) of every arm. None where that
    table is too large: it is computed for two arms up to 100 pulls, and for any number up to 12.
    """
    if arms == 2 and pulls <= 100:
        return _two_arms(pulls)
    if pulls <= 12:
        return _any_arms(pulls, min(arms, pulls))  # further arms cannot be touched
    return None


def _any_arms(pulls: int, arms: int) -> float:
    """Recursion on the multiset of counts, since arms are exchangeable."""

    @cache
    def value(counts: Counts, left: int) -> float:
        if left == 0:
            return 0.0
        best = 0.0
        for i, (won, lost) in enumerate(counts):
            if i and counts[i - 1] == counts[i]:
                continue  # the same arm as before, as far as anyone knows
            chance = (won + 1) / (won + lost + 2)
            rest = counts[:i] + counts[i + 1 :]
            after_win = tuple(sorted((*rest, (won + 1, lost))))
            after_loss = tuple(sorted((*rest, (won, lost + 1))))
            best = max(
                best,
                chance * (1 + value(after_win, left - 1))
                + (1 - chance) * value(after_loss, left - 1),
            )
        return best

    return value(((0, 0),) * arms, pulls)


def _two_arms(pulls: int) -> float:
    """The same for two arms as array operations over (won 1, lost 1, won 2); lost 2 follows."""
    size = pulls + 1
    w1, l1, w2 = np.meshgrid(*[np.arange(size)] * 3, indexing="ij")
    value = np.zeros((size + 1,) * 3)
    for seen in range(pulls - 1, -1, -1):
        l2 = np.maximum(seen - w1 - l1 - w2, 0)  # rows with a negative count are never read
        p1, p2 = (w1 + 1) / (w1 + l1 + 2), (w2 + 1) / (w2 + l2 + 2)
        first = p1 * (1 + value[1:, :-1, :-1]) + (1 - p1) * value[:-1, 1:, :-1]
        second = p2 * (1 + value[:-1, :-1, 1:]) + (1 - p2) * value[:-1, :-1, :-1]
        value[:-1, :-1, :-1] = np.maximum(first, second)
    return float(value[0, 0, 0])
