"""Policies as functions of a parameter dict, shared or one set per task.

Layers are matrix products that accept weights with or without a leading task axis: acting, which
runs at every step, and the update use the same code, and nothing goes through ``vmap``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from precocial.nets.activations import tanh
from precocial.nets.products import ROWS, cut_up
from precocial.ops.distributions import Dist
from precocial.ops.moments import merge_moments
from precocial.threads import alone
from precocial.types import EnvSpec, Params

Activation = Literal["tanh", "relu"]


def linear(
    x: Float[Tensor, "*b i"], weight: Float[Tensor, "*n i o"], bias: Float[Tensor, "*n o"]
) -> Float[Tensor, "*b o"]:
    """``x W + b`` for shared weights (i, o), or for (N, i, o) on a batch (N, B, i)."""
    if weight.ndim == 2:
        one = cut_up(x.shape[:-1].numel(), weight)
        return (alone(torch.matmul, x, weight) if one else x @ weight) + bias
    rows = x.shape[1]
    if len(weight) == 1 and rows > ROWS:  # one task: threads would cut up its sums over rows
        parts = -(-rows // ROWS)
        padded = torch.nn.functional.pad(x[0], (0, 0, 0, -rows % parts))
        stacked = (p.expand(parts, *p.shape[1:]) for p in (weight, bias))
        y = linear(padded.unflatten(0, (parts, -1)), *stacked)
        return y.flatten(0, 1)[:rows].unsqueeze(0)
    if len(weight) == 1 and cut_up(rows, weight):
        return alone(torch.baddbmm, bias.unsqueeze(-2), x, weight)
    return torch.baddbmm(bias.unsqueeze(-2), x, weight)


class Policy(nn.Module):
    """MLP policy: diagonal Gaussian for box actions, categorical for discrete ones.

    The Gaussian's standard deviation is one free vector, which adapts with the rest. The
    observation normaliser (running mean and variance) lives in buffers, which no inner update
    touches.
    """

    obs_mean: Tensor
    obs_var: Tensor
    obs_count: Tensor

    def __init__(
        self,
        spec: EnvSpec,
        hidden: tuple[int, ...],
        activation: Activation,
        init_std: float,
        normalize_obs: bool,
        rng: torch.Generator,
        min_std: float = 1e-6,
    ) -> None:
        super().__init__()
        self.activation = tanh if activation == "tanh" else torch.relu
        self.discrete = spec.action_kind == "discrete"
        self.normalize_obs = normalize_obs
        self.min_log_std = math.log(min_std)
        sizes = (spec.obs_dim, *hidden, spec.action_dim)
        self.depth = len(sizes) - 1
        for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            # Glorot-uniform, as in the reference implementations of MAML and ProMP.
            bound = math.sqrt(6 / (fan_in + fan_out))
            weight = (torch.rand(fan_in, fan_out, generator=rng) * 2 - 1) * bound
            self.register_parameter(f"weight_{i}", nn.Parameter(weight))
            self.register_parameter(f"bias_{i}", nn.Parameter(torch.zeros(fan_out)))
        if not self.discrete:
            self.log_std = nn.Parameter(torch.full((spec.action_dim,), math.log(init_std)))
        self.register_buffer("obs_mean", torch.zeros(spec.obs_dim))
        self.register_buffer("obs_var", torch.ones(spec.obs_dim))
        self.register_buffer("obs_count", torch.zeros(()))

    @property
    def theta(self) -> Params:
        """The parameters by name."""
        return dict(self.named_parameters())

    def dist(self, params: Params, obs: Float[Tensor, "*b o"]) -> Dist:
        """Action distribution at ``obs``: (B, O) with shared weights, (N, ..., O) with stacked."""
        if self.normalize_obs:
            obs = ((obs - self.obs_mean) * (self.obs_var + 1e-8).rsqrt()).clamp(-10, 10)
        stacked = params["bias_0"].ndim == 2
        # (N, ..., O) -> (N, B, O)
        h = obs.flatten(1, -2) if stacked and obs.ndim > 3 else obs
        for i in range(self.depth):
            h = linear(h, params[f"weight_{i}"], params[f"bias_{i}"])
            if i < self.depth - 1:
                h = self.activation(h)
        out = h.reshape(*obs.shape[:-1], h.shape[-1])
        if self.discrete:
            return {"logits": torch.log_softmax(out, -1)}
        log_std = params["log_std"].clamp(min=self.min_log_std)
        if stacked:  # (N, A) -> (N, 1, ..., A)
            log_std = log_std.reshape(log_std.shape[0], *(1,) * (out.ndim - 2), out.shape[-1])
        return {"mean": out, "log_std": log_std.expand_as(out)}

    @torch.no_grad()
    def update_statistics(self, obs: Float[Tensor, "*b o"]) -> None:
        """Merge a batch into the running mean and variance."""
        if not self.normalize_obs:
            return
        moments = self.obs_mean, self.obs_var, self.obs_count
        merged = merge_moments(*moments, obs.reshape(-1, obs.shape[-1]))
        for kept, new in zip(moments, merged, strict=True):
            kept.copy_(new)
