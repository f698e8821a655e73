"""The linear feature baseline (Duan et al. 2016), fitted per task on the data it scores."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from precocial.ops.returns import gae, in_whole_episode, reward_to_go, time_in_episode
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
    gram = xw.mT @ x.double()
    moment = xw.mT @ y.double().unsqueeze(-1)
    return _ridge(gram, moment, ridge).squeeze(-1).to(x.dtype)


def _fit_wide(x: Float[Tensor, "b f"], y: Float[Tensor, " b"], ridge: float) -> Float[Tensor, " f"]:
    """One task in the smaller of two equal forms, over the features that are not always 0.

    X'(X X' + ridge I)^-1 y = (X'X + ridge I)^-1 X'y; a feature that is always 0 has the weight 0.
    """
    used = (x != 0).any(0)
    a, moment = x[:, used].double(), y.double().unsqueeze(-1)
    if a.shape[0] < a.shape[1]:
        beta = a.mT @ _ridge(a @ a.mT, moment, ridge)
    else:
        beta = _ridge(a.mT @ a, a.mT @ moment, ridge)
    return x.new_zeros(x.shape[1]).masked_scatter(used, beta.squeeze(-1).to(x.dtype))


def _ridge(
    gram: Float[Tensor, "*n f f"], moment: Float[Tensor, "*n f 1"], ridge: float
) -> Float[Tensor, "*n f 1"]:
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram + ridge * eye, moment)


@torch.no_grad()
def advantages(
    rollout: Rollout, gamma: float, gae_lambda: float
) -> tuple[Float[Tensor, "n e t"], Float[Tensor, "n e t"]]:
    """Advantages and baseline values under a linear baseline fitted per task.

    The features hold the time, so the baseline is a finite-horizon value: nothing follows a
    truncation, and only an episode cut by the end of the data is bootstrapped. The fit uses whole
    episodes alone, since the return of a cut one is unknown.

    Returns:
        Advantages (not normalised) and values, each ``(N, E, T)``, in reward units.
    """
    ended = rollout.terminated | rollout.truncated
    n = ended.shape[0]
    time = time_in_episode(ended).to(rollout.reward.dtype)
    x = features(rollout.obs, time)
    y = reward_to_go(rollout.reward, ended, gamma)
    whole = in_whole_episode(ended)
    beta = fit(x.flatten(1, 2), y.flatten(1), whole.flatten(1))
    value = (x.flatten(1, 2) @ beta.unsqueeze(-1)).reshape(n, *ended.shape[1:])
    last = features(rollout.next_obs[:, :, -1], time[:, :, -1] + 1)  # (N, E, F)
    next_value = torch.cat([value[..., 1:], (last @ beta.unsqueeze(-1))], -1)
    advantage = gae(rollout.reward, value, next_value, ended, ended, gamma, gae_lambda)
    return advantage, value
