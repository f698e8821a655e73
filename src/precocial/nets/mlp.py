"""Policies as functions of a parameter dict, shared or one set per task.

Layers are matrix products that accept weights with or without a leading task axis: acting, which
runs at every step, and the update use the same code, and nothing goes through ``vmap``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from precocial.nets.activations import tanh
from precocial.nets.initial import orthogonal
from precocial.nets.pictures import initial, is_bytes, read, seen_dim
from precocial.nets.products import linear, rectified
from precocial.ops.distributions import Dist
from precocial.ops.moments import merge_moments
from precocial.ops.params import depth, expand
from precocial.types import EnvSpec, Params

Activation = Literal["tanh", "relu"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": tanh, "relu": torch.relu}
MIN_LOG_STD = math.log(1e-6)


def perceptron(
    params: Params, x: Shaped[Tensor, "*b i"], activation: Callable[[Tensor], Tensor]
) -> Float[Tensor, "*b o"]:
    """The layers ``weight_0``, ``bias_0``, ``weight_1``, ...; shared or stacked, as ``linear``.

    Rows of bytes are read by the convolutions before them.
    """
    x = read(params, x)
    last = depth(params) - 1
    for i in range(last + 1):
        x = linear(x, params[f"weight_{i}"], params[f"bias_{i}"])
        if i < last:
            x = activation(x)
    return x


def perceptron_once(
    params: Params, x: Shaped[Tensor, "s b i"], activation: Callable[[Tensor], Tensor]
) -> Float[Tensor, "s b o"]:
    """A stacked ``perceptron`` that is differentiated once: faster where it is one with ReLU."""
    if len(x) > 1 or activation is not torch.relu or is_bytes(x):
        return perceptron(params, x, activation)
    layers = range(depth(params))
    weights = [params[f"weight_{i}"] for i in layers]
    return rectified(x, weights, [params[f"bias_{i}"] for i in layers])


def orthogonal_layers(sizes: Sequence[int], last_gain: float, rng: torch.Generator) -> Params:
    """Initial parameters of a ``perceptron``: orthogonal, gain sqrt 2 but for the last layer."""
    params = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        gain = last_gain if i == len(sizes) - 2 else math.sqrt(2)
        params[f"weight_{i}"] = orthogonal(inputs, outputs, rng) * gain
        params[f"bias_{i}"] = torch.zeros(outputs)
    return params


def outputs(
    params: Params, obs: Shaped[Tensor, "*b o"], activation: Callable[[Tensor], Tensor]
) -> Float[Tensor, "*b a"]:
    """A perceptron's: ``obs`` is (B, O) with shared parameters, (N, ..., O) with stacked ones."""
    stacked = params["bias_0"].ndim == 2
    # (N, ..., O) -> (N, B, O)
    h = perceptron(params, obs.flatten(1, -2) if stacked and obs.ndim > 3 else obs, activation)
    return h.reshape(*obs.shape[:-1], h.shape[-1])


def action_dist(
    params: Params,
    obs: Shaped[Tensor, "*b o"],
    activation: Callable[[Tensor], Tensor],
) -> Dist:
    """Of a perceptron: a Gaussian where there is a ``log_std``, else a categorical.

    ``obs`` is (B, O) with shared parameters, (N, ..., O) with stacked ones.
    """
    out = outputs(params, obs, activation)
    if "log_std" not in params:
        return {"logits": torch.log_softmax(out, -1)}
    log_std = params["log_std"].clamp(min=MIN_LOG_STD)
    if params["bias_0"].ndim == 2:  # (N, A) -> (N, 1, ..., A)
        log_std = log_std.reshape(log_std.shape[0], *(1,) * (out.ndim - 2), out.shape[-1])
    return {"mean": out, "log_std": log_std.expand_as(out)}


class Policy(nn.Module):
    """MLP policy: diagonal Gaussian for box actions, categorical for discrete ones.

    The Gaussian's standard deviation is one free vector, which adapts with the rest, as do the
    convolutions where observations are pictures. The
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
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.normalize_obs = normalize_obs
        self.context_dim = context_dim
        """Numbers of a task's own that the network reads beside the observation."""
        for name, p in initial(spec.picture, rng).items():
            self.register_parameter(name, nn.Parameter(p))
        sizes = (seen_dim(spec) + context_dim, *hidden, spec.action_dim)
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            # Glorot-uniform, as in the reference implementations of MAML and ProMP.
            bound = math.sqrt(6 / (fan_in + fan_out))
            weight = (torch.rand(fan_in, fan_out, generator=rng) * 2 - 1) * bound
            self.register_parameter(f"weight_{i}", nn.Parameter(weight))
            self.register_parameter(f"bias_{i}", nn.Parameter(torch.zeros(fan_out)))
        if spec.action_kind == "box":
            self.log_std = nn.Parameter(torch.full((spec.action_dim,), math.log(init_std)))
        self.register_buffer("obs_mean", torch.zeros(spec.obs_dim))
        self.register_buffer("obs_var", torch.ones(spec.obs_dim))
        self.register_buffer("obs_count", torch.zeros(()))

    @property
    def theta(self) -> Params:
        """The parameters by name."""
        return dict(self.named_parameters())

    def start(self, theta: Params, n: int) -> Params:
        """What N tasks begin with: theta, and a context of zeros where there is one."""
        phi = expand(theta, n)
        if self.context_dim:
            zeros = torch.zeros(n, self.context_dim).to(theta["bias_0"].detach())
            phi["context"] = zeros.requires_grad_()  # a leaf, which updates differentiate
        return phi

    def dist(self, params: Params, obs: Shaped[Tensor, "*b o"]) -> Dist:
        """Action distribution at ``obs``: (B, O) with shared weights, (N, ..., O) with stacked."""
        return action_dist(params, self.inputs(params, obs), self.activation)

    def inputs(self, params: Params, obs: Shaped[Tensor, "*b o"]) -> Float[Tensor, "*b i"]:
        """Observations, of mean 0 and deviation 1 where that was asked for, and the context.

        What the convolutions make of a picture is not normalised.
        """
        if is_bytes(obs):
            obs = read(params, obs)
        elif self.normalize_obs:
            obs = ((obs - self.obs_mean) * (self.obs_var + 1e-8).rsqrt()).clamp(-10, 10)
        if not self.context_dim:
            return obs
        context = params["context"]
        context = context.view(len(context), *(1,) * (obs.ndim - 2), -1)
        return torch.cat([obs, context.expand(*obs.shape[:-1], -1)], -1)

    @torch.no_grad()
    def update_statistics(self, obs: Shaped[Tensor, "*b o"]) -> None:
        """Merge a batch into the running mean and variance."""
        if not self.normalize_obs or is_bytes(obs):
            return
        moments = self.obs_mean, self.obs_var, self.obs_count
        merged = merge_moments(*moments, obs.reshape(-1, obs.shape[-1]))
        for kept, new in zip(moments, merged, strict=True):
            kept.copy_(new)


class QNetwork(Policy):
    """Values of actions, and the policy that does the best of them but with chance epsilon any."""

    epsilon = 1.0

    def __init__(
        self,
        spec: EnvSpec,
        hidden: tuple[int, ...],
        activation: Activation,
        normalize_obs: bool,
        rng: torch.Generator,
        context_dim: int = 0,
    ) -> None:
        super().__init__(spec, hidden, activation, 1.0, normalize_obs, rng, context_dim)
        with torch.no_grad():  # no value is known yet
            self.theta[f"weight_{len(hidden)}"].mul_(0.01)

    def values(self, params: Params, obs: Shaped[Tensor, "*b o"]) -> Float[Tensor, "*b a"]:
        """Q(s, .) at ``obs``, as ``Policy.dist``."""
        return outputs(params, self.inputs(params, obs), self.activation)

    def dist(self, params: Params, obs: Shaped[Tensor, "*b o"]) -> Dist:
        """Epsilon-greedy."""
        q = self.values(params, obs)
        best = torch.nn.functional.one_hot(q.argmax(-1), q.shape[-1]).to(q)
        return {"logits": (best * (1 - self.epsilon) + self.epsilon / q.shape[-1]).log()}
