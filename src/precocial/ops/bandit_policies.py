"""Classical policies for Bernoulli bandits, played on many tasks at once.

All start from one pseudo success and one pseudo failure per arm, which is a uniform prior. The arm
of the highest score is pulled, the first of them where scores are equal, as in the evaluation of
Duan et al. 2016. That matters: greedy with ties broken at random explores more by accident, and
gains 0.7 in 100 pulls of 5 arms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Score = Callable[[Tensor, Tensor, int], Tensor]
"""Successes and failures per arm, each (N, k), and the pulls made so far -> scores (N, k)."""

LONGEST_TABLE = 200
"""Pulls up to which Gittins indices are tabulated; memory and time grow with the cube."""

_LEVELS = 301
"""Rewards per pull of the known arm that ``gittins_table`` tries, from 0 to 1."""


def play(
    rate: Float[Tensor, "n k"], pulls: int, score: Score, rng: torch.Generator
) -> Float[Tensor, "n t"]:
    """Rewards of every pull of a trial on arms of these success rates."""
    won, lost = torch.zeros_like(rate), torch.zeros_like(rate)
    rewards = []
    for pull in range(pulls):
        arm = score(won, lost, pull).argmax(-1, keepdim=True)
        draw = torch.rand(arm.shape, generator=rng, device=rate.device)
        reward = (draw < rate.gather(1, arm)).to(rate.dtype)
        won.scatter_add_(1, arm, reward)
        lost.scatter_add_(1, arm, 1 - reward)
        rewards.append(reward)
    return torch.cat(rewards, 1)


def greedy(
    won: Float[Tensor, "n k"], lost: Float[Tensor, "n k"], pull: int
) -> Float[Tensor, "n k"]:
    """The posterior mean."""
    return (won + 1) / (won + lost + 2)


def ucb1(
    won: Float[Tensor, "n k"], lost: Float[Tensor, "n k"], pull: int, c: float = 0.2
) -> Float[Tensor, "n k"]:
    """Upper confidence bound, the posterior mean + c sqrt(2 ln(t) / n).

    ``n`` counts the two pseudo pulls and ``t`` the pulls of all arms, pseudo ones left out: the
    first two pulls have no bonus. c = 0.2 is the best multiple of 0.1 at 100 pulls of 5, 10 and 50
    arms; Duan et al. 2016 tuned it for every cell of their table.
    """
    bonus = c * (2 * math.log(max(pull, 1)) / (won + lost + 2)).sqrt()
    return greedy(won, lost, pull) + bonus


def thompson(
    won: Float[Tensor, "n k"], lost: Float[Tensor, "n k"], rng: torch.Generator
) -> Float[Tensor, "n k"]:
    """A draw from the posterior (Thompson 1933)."""
    # torch.distributions.Beta takes no generator; a Beta is a share of two Gammas.
    a = torch._standard_gamma(won + 1, generator=rng)
    b = torch._standard_gamma(lost + 1, generator=rng)
    return a / (a + b)


def gittins(
    won: Float[Tensor, "n k"], lost: Float[Tensor, "n k"], index: Float[Tensor, "s w l"], left: int
) -> Float[Tensor, "n k"]:
    """The finite-horizon Gittins index, looked up in ``gittins_table`` with ``left`` pulls left."""
    return index[left, won.long(), lost.long()]


@lru_cache(maxsize=4)
def gittins_table(pulls: int) -> Float[Tensor, "s w l"]:
    """Gittins index by pulls left, successes and failures of an arm, for trials of ``pulls``.

        index = max over stopping times 1 <= tau <= left of E[rewards until tau] / E[tau]

    It is the reward per pull of a known arm for which one is indifferent between trying this arm
    (stopping whenever one likes) and never trying it. Backward induction solves that stopping
    problem for a grid of known arms; the zero of the advantage is interpolated between them, which
    is right to about 0.001. Cells with more pulls than a trial can have had are 0.
    """
    known = np.linspace(0, 1, _LEVELS, dtype=np.float32)
    index = np.zeros((pulls + 1, pulls, pulls), np.float32)
    value = np.zeros((pulls + 1, pulls + 1, _LEVELS), np.float32)
    for left in range(1, pulls + 1):
        size = pulls - left + 1
        won, lost = np.ogrid[:size, :size]
        mean = ((won + 1) / (won + lost + 2)).astype(np.float32)[..., None]
        after_win, after_loss = value[1 : size + 1, :size], value[:size, 1 : size + 1]
        advantage = mean - known + mean * after_win + (1 - mean) * after_loss  # (W, L, levels)
        last = ((advantage > 0).sum(-1, keepdims=True) - 1).clip(0, _LEVELS - 2)
        above = np.take_along_axis(advantage, last, -1)[..., 0]
        below = np.take_along_axis(advantage, last + 1, -1)[..., 0]
        index[left, :size, :size] = known[last[..., 0]] + known[1] * above / (above - below)
        value = advantage.clip(min=0)
    return torch.from_numpy(index)


def classical(pulls: int, rng: torch.Generator) -> dict[str, Score]:
    """The policies by name, for trials of ``pulls``; no Gittins beyond ``LONGEST_TABLE``."""
    policies: dict[str, Score] = {
        "greedy": greedy,
        "UCB1": ucb1,
        "Thompson": lambda won, lost, pull: thompson(won, lost, rng),
    }
    if pulls <= LONGEST_TABLE:
        index = gittins_table(pulls).to(rng.device)
        policies["Gittins"] = lambda won, lost, pull: gittins(won, lost, index, pulls - pull)
    return policies
