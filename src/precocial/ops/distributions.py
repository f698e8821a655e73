"""Action distributions as dicts of parameters, in closed form.

A distribution is ``{"mean": (..., A), "log_std": (..., A)}`` (diagonal Gaussian) or
``{"logits": (..., A)}`` (categorical, normalised log-probabilities); the keys tell which.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from precocial.seeding import exponential, randn

Dist = dict[str, Tensor]


def log_prob(dist: Dist, action: Tensor) -> Float[Tensor, "..."]:
    """Log-density (summed over action components) or log-probability of ``action``."""
    if "logits" in dist:
        return dist["logits"].gather(-1, action.unsqueeze(-1)).squeeze(-1)
    log_std = dist["log_std"]
    scaled = (action - dist["mean"]) * torch.exp(-log_std)
    constant = 0.5 * math.log(2 * math.pi)
    return -(0.5 * scaled.square() + log_std + constant).sum(-1)


def entropy(dist: Dist) -> Float[Tensor, "..."]:
    """Entropy, nats; differential for a Gaussian."""
    if "logits" in dist:
        return -(dist["logits"].exp() * dist["logits"]).sum(-1)
    return (dist["log_std"] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def kl(old: Dist, new: Dist) -> Float[Tensor, "..."]:
    """KL(old || new), nats."""
    if "logits" in old:
        return (old["logits"].exp() * (old["logits"] - new["logits"])).sum(-1)
    ratio = (2 * (old["log_std"] - new["log_std"])).exp()
    away = (old["mean"] - new["mean"]).square() * (-2 * new["log_std"]).exp()
    return (new["log_std"] - old["log_std"] + 0.5 * (ratio + away - 1)).sum(-1)


def kl_hessian_product(dist: Dist, direction: Dist) -> Dist:
    """Hessian of KL(dist || .) at ``dist`` itself, times a direction in parameter space.

    Gaussian: 1/sigma^2 for the mean, 2 for log sigma. Categorical (on unnormalised logits):
    diag(p) - p p'.
    """
    if "logits" in dist:
        p = dist["logits"].exp()
        v = direction["logits"]
        return {"logits": p * (v - (p * v).sum(-1, keepdim=True))}
    return {
        "mean": direction["mean"] * (-2 * dist["log_std"]).exp(),
        "log_std": 2 * direction["log_std"],
    }


def sample(dist: Dist, rng: torch.Generator) -> Tensor:
    """One draw: float ``(..., A)`` or int64 ``(...)``."""
    if "logits" in dist:
        # Gumbel-max: exact, and without multinomial's copy of the whole table.
        noise = exponential(dist["logits"].shape, rng)
        return (dist["logits"] - noise.log()).argmax(-1)
    mean = dist["mean"]
    noise = randn(mean.shape, rng).to(mean)
    return torch.addcmul(mean, noise, dist["log_std"].exp())


def mode(dist: Dist) -> Tensor:
    """The most likely action."""
    return dist["logits"].argmax(-1) if "logits" in dist else dist["mean"]
