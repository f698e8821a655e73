"""The linear feature baseline (Duan et al. 2016), fitted per task on the data it scores."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from precocial.ops.returns import gae, in_whole_episode, reward_to_go, time_in_episode
from precocial.threads import alone
from precocial.types import Rollout


def features(obs: Float[Tensor, "*b o"], time: Float[Tensor, "*b"]) -> Float[Tensor, "*b f"]:
    """obs, obs^2, tau, tau^2, tau^3 and 1, with tau = t/100; obs is clipped to +-10."""
    obs = obs.clamp(-10, 10)
    tau = (time / 100).unsqueeze(-1)
    return torch.cat([obs, obs.square(), tau, tau**2, tau**3, torch.ones_like(tau)], -1)


_WIDE = 2000
"""Features from which on tasks are fitted one by one, in rows or features, whichever are fewer."""


def fit(
    x: Float[Tensor, "n b f"],
    y: Float[Tensor, "n b"],
    weight: Bool[Tensor, "n b"],
    ridge: float = 1e-5,
) -> Float[Tensor, "n f"]:
    """Ridge regression per task on the rows where ``weight`` is True, in double precision."""
    if x.shape[-1] > _WIDE:
        tasks = zip(x, y, weight, strict=True)
        return torch.stack([_fit_wide(rows[w], returns[w], ridge) for rows, returns, w in tasks])
    xw = (x * weight.unsqueeze(-1)).double()
    gram = _product(xw.mT, x.double())
    moment = _product(xw.mT, y.double().unsqueeze(-1))
    return _ridge(gram, moment, ridge).squeeze(-1).to(x.dtype)


def _fit_wide(x: Float[Tensor, "b f"], y: Float[Tensor, " b"], ridge: float) -> Float[Tensor, " f"]:
    """One task in the smaller of two equal forms, over the features that are not always 0.

    X'(X X' + ridge I)^-1 y = (X'X + ridge I)^-1 X'y; a feature that is always 0 has the weight 0.
    """
    used = (x != 0).any(0)
    a, moment = x[:, used].double(), y.double().unsqueeze(-1)
    if a.shape[0] < a.shape[1]:
        beta = _product(a.mT, _ridge(_product(a, a.mT), moment, ridge))
    else:
        beta = _ridge(_product(a.mT, a), _product(a.mT, moment), ridge)
    return x.new_zeros(x.shape[1]).masked_scatter(used, beta.squeeze(-1).to(x.dtype))


def _product(a: Float[Tensor, "*n b f"], b: Float[Tensor, "*n f g"]) -> Float[Tensor, "*n b g"]:
    """``a b``, by one thread where there is one task: threads would cut up its long sums."""
    return a @ b if a.ndim == 3 and len(a) > 1 else alone(torch.matmul, a, b)


def _ridge(
    gram: Float[Tensor, "*n f f"], moment: Float[Tensor, "*n f 1"], ridge: float
) -> Float[Tensor, "*n f 1"]:
    """By one thread: MKL rounds by their number.

    Once that has been set, it does not even come back from several tasks of some 200 features.
    """
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return alone(torch.linalg.solve, gram + ridge * eye, moment)


class Scores(NamedTuple):
    """What the baseline makes of a rollout, in reward units."""

    advantage: Float[Tensor, "n e t"]
    """Not normalised."""
    value: Float[Tensor, "n e t"]
    reward: Float[Tensor, "n e t"]
    """Where an episode was cut, with the discounted value of what would have followed."""


@torch.no_grad()
def advantages(rollout: Rollout, gamma: float, gae_lambda: float, horizon: int) -> Scores:
    """Advantages under a linear baseline fitted per task.

    The features hold the time, so the baseline is a finite-horizon value: nothing follows a
    termination, or a truncation after ``horizon`` steps. An episode truncated earlier, or cut by
    the end of the data, is bootstrapped. The fit uses the other episodes alone, since the return of
    a cut one is unknown; a task that has no other is fitted as if its truncations were the clock's.
    A step on which a simulation diverged says nothing of its action: it counts as if the episode
    had been cut before it.
    """
    ended = rollout.terminated | rollout.truncated
    n = ended.shape[0]
    steps = time_in_episode(ended)
    early = rollout.truncated & ~rollout.terminated & ((steps + 1 < horizon) | rollout.diverged)
    time = steps.to(rollout.reward.dtype)
    x = features(rollout.obs, time)
    y = reward_to_go(rollout.reward, ended, gamma)
    whole, with_early = (in_whole_episode(ended, cut) for cut in (early, early & False))
    whole = torch.where(whole.flatten(1).any(1)[:, None, None], whole, with_early)
    beta = fit(x.flatten(1, 2), y.flatten(1), whole.flatten(1))
    value = _product(x.flatten(1, 2), beta.unsqueeze(-1)).reshape(n, *ended.shape[1:])
    last = features(rollout.next_obs[:, :, -1], time[:, :, -1] + 1)  # (N, E, F)
    next_value = torch.cat([value[..., 1:], _product(last, beta.unsqueeze(-1))], -1)
    reward = rollout.reward
    if bool(early.any()):
        reached = _product(features(rollout.next_obs, time + 1).flatten(1, 2), beta.unsqueeze(-1))
        next_value = torch.where(early, reached.reshape(ended.shape), next_value)
        reward = torch.where(rollout.diverged, value - gamma * next_value, reward)
    over = ended & ~early
    advantage = gae(reward, value, next_value, over, early, gamma, gae_lambda)
    cut = early.clone()
    cut[..., -1] |= ~ended[..., -1]
    return Scores(advantage, value, torch.where(cut, reward + gamma * next_value, reward))
