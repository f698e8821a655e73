"""The parts of VariBAD's evidence lower bound (Zintgraf et al. 2020, Eq. 8)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


def chain_kl(mean: Float[Tensor, "b t z"], log_var: Float[Tensor, "b t z"]) -> Float[Tensor, "b t"]:
    """KL(q_t || q_{t-1}) of diagonal Gaussians, the first against N(0, I), nats."""
    before_mean = torch.cat([torch.zeros_like(mean[:, :1]), mean[:, :-1]], 1)
    before_log_var = torch.cat([torch.zeros_like(log_var[:, :1]), log_var[:, :-1]], 1)
    ratio = (log_var - before_log_var).exp()
    away = (mean - before_mean).square() * (-before_log_var).exp()
    return 0.5 * (ratio + away - 1 - (log_var - before_log_var)).sum(-1)


def log_likelihood(
    predicted: Float[Tensor, "*b d"],
    actual: Float[Tensor, "*b d"],
    likelihood: Literal["gaussian", "bernoulli"],
) -> Float[Tensor, "*b"]:
    """Log-density of ``actual``, summed over its components.

    Gaussian: mean ``predicted``, variance 1. Bernoulli: ``predicted`` is the logit of
    ``actual > 0``.
    """
    if likelihood == "gaussian":
        return -0.5 * ((actual - predicted).square() + math.log(2 * math.pi)).sum(-1)
    sign = 2 * (actual > 0).to(predicted) - 1
    return torch.nn.functional.logsigmoid(sign * predicted).sum(-1)
