"""A model of how observations follow one another."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from precocial.nets.products import dense, linear, shared, stepped
from precocial.ops.moments import merge_moments
from precocial.types import EnvSpec, Params


class Factors(NamedTuple):
    """The gradient of a layer on each of W windows: of the weights h'd, of the bias d's sum."""

    h: Float[Tensor, "w m i"]
    """The layer's inputs."""
    d: Float[Tensor, "w m o"]
    """Derivatives of the loss in the layer's outputs, before the activation."""


def step_rates(rates: Params | float, layer: int) -> tuple[Any, Any]:
    """The rates of a layer's weights and bias: one number for all, or one each."""
    if isinstance(rates, dict):
        return rates[f"weight_{layer}"], rates[f"bias_{layer}"]
    return rates, rates


class Dynamics(nn.Module):
    """MLP that predicts the difference to the next state, as a function of a parameter dict.

    The state is the observation without its commands (``EnvSpec.command_dim``). Data come raw and
    are normalised here, with statistics kept in buffers. Predictions of whole observations stay
    within the range of the states that were seen, widened to the present one: a planner would find
    whatever the model dreams up beyond it (Nagabandi et al. 2019 plan on the bare model).

    Args:
        spec: Sizes S of the state and A of the action.
        hidden: Widths of the layers (ReLU).
        context: Size of a vector that the model is given beside state and action.
        rng: Draws the weights.
    """

    mean: Tensor
    std: Tensor
    delta_mean: Tensor
    delta_std: Tensor
    low: Tensor
    high: Tensor
    count: Tensor

    def __init__(
        self, spec: EnvSpec, hidden: tuple[int, ...], rng: torch.Generator, context: int = 0
    ) -> None:
        super().__init__()
        self.state_dim = spec.obs_dim - spec.command_dim
        sizes = (self.state_dim + spec.action_dim + context, *hidden, self.state_dim)
        self.depth = len(sizes) - 1
        for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            # He et al. 2015; the last layer small, so that at first nothing is thought to move.
            bound = math.sqrt(6 / fan_in) * (1.0 if i < self.depth - 1 else 0.1)
            weight = (torch.rand(fan_in, fan_out, generator=rng) * 2 - 1) * bound
            self.register_parameter(f"weight_{i}", nn.Parameter(weight))
            self.register_parameter(f"bias_{i}", nn.Parameter(torch.zeros(fan_out)))
        for name in ("mean", "delta_mean"):
            self.register_buffer(name, torch.zeros(self.state_dim))
        for name in ("std", "delta_std", "var", "delta_var"):
            self.register_buffer(name, torch.ones(self.state_dim))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("low", torch.full((self.state_dim,), -torch.inf))
        self.register_buffer("high", torch.full((self.state_dim,), torch.inf))

    @property
    def theta(self) -> Params:
        """The parameters by name."""
        return dict(self.named_parameters())

    @torch.no_grad()
    def update_statistics(self, obs: Float[Tensor, "b o"], next_obs: Float[Tensor, "b o"]) -> None:
        """Merge raw data into mean, deviation and range; what never changes has deviation 1."""
        state, following = obs[:, : self.state_dim], next_obs[:, : self.state_dim]
        count = self.count
        for prefix, x in (("", state), ("delta_", following - state)):
            mean, std, var = (getattr(self, f"{prefix}{name}") for name in ("mean", "std", "var"))
            new_mean, new_var, count = merge_moments(mean, var, self.count, x)
            mean.copy_(new_mean)
            var.copy_(new_var)
            std.copy_(torch.where(var > 1e-12, var.sqrt(), 1.0))
        low, high = torch.minimum(state, following).amin(0), torch.maximum(state, following).amax(0)
        known = self.count > 0
        self.low.copy_(torch.where(known, torch.minimum(self.low, low), low))
        self.high.copy_(torch.where(known, torch.maximum(self.high, high), high))
        self.count.copy_(count)

    def inputs(
        self, obs: Float[Tensor, "*b o"], action: Float[Tensor, "*b a"]
    ) -> Float[Tensor, "*b i"]:
        """What the network sees: normalised state, action in [-1, 1]."""
        return torch.cat([(obs[..., : self.state_dim] - self.mean) / self.std, action], -1)

    def targets(
        self, obs: Float[Tensor, "*b o"], next_obs: Float[Tensor, "*b o"]
    ) -> Float[Tensor, "*b s"]:
        """What the network predicts: the normalised difference to the next state."""
        delta = next_obs[..., : self.state_dim] - obs[..., : self.state_dim]
        return (delta - self.delta_mean) / self.delta_std

    def layer(self, i: int) -> tuple[Tensor, Tensor]:
        """Weight (I, O) and bias (O,) of layer i."""
        return getattr(self, f"weight_{i}"), getattr(self, f"bias_{i}")

    def trace(self, x: Float[Tensor, "*b i"]) -> list[Tensor]:
        """The input of every layer, and at last the predicted normalised difference."""
        values = [x]
        for i in range(self.depth):
            x = shared(x, *self.layer(i))
            x = torch.relu(x) if i < self.depth - 1 else x
            values.append(x)
        return values

    def delta(self, params: Params, x: Float[Tensor, "n b i"]) -> Float[Tensor, "n b s"]:
        """Predicted normalised difference by parameters of each lane's own, leaves (N, ...)."""
        for i in range(self.depth):
            x = linear(x, params[f"weight_{i}"], params[f"bias_{i}"])
            x = torch.relu(x) if i < self.depth - 1 else x
        return x

    def gradient(
        self, x: Float[Tensor, "w m i"], target: Float[Tensor, "w m s"],
        mask: Float[Tensor, "w m"], top: int | None = None,
    ) -> list[Factors]:  # fmt: skip
        """Gradient of each window's error at theta, of the ``top`` layers (default: all of them).

        The error is the mean over the state of the squared error, summed over the mask, over M: few
        transitions say little. Back-propagation by hand, in products that can be differentiated
        once: through them goes the second-order gradient.
        """
        *inputs, predicted = self.trace(x)
        scale = mask / (mask.shape[-1] * self.state_dim)
        d = 2 * (predicted - target) * scale.unsqueeze(-1)
        factors = [Factors(inputs[-1], d)]
        for i in range(self.depth - 1, self.depth - (top or self.depth), -1):
            d = shared(d, self.layer(i)[0].mT) * (inputs[i] > 0)
            factors.append(Factors(inputs[i - 1], d))
        return factors[::-1]

    def stepped(
        self, x: Float[Tensor, "w k i"], gradient: list[Factors], rates: Params | float
    ) -> Float[Tensor, "w k s"]:
        """What each window's parameters after a step, phi = theta - rate grad L, predict."""
        first = self.depth - len(gradient)
        for i in range(self.depth):
            weight, bias = self.layer(i)
            if i < first:
                x = shared(x, weight, bias)
            else:
                rate, bias_rate = step_rates(rates, i)
                shift = bias_rate * gradient[i - first].d.sum(1)
                x = stepped(x, weight, rate, *gradient[i - first]) + (bias - shift).unsqueeze(1)
            x = torch.relu(x) if i < self.depth - 1 else x
        return x

    @torch.no_grad()
    def after_step(self, gradient: list[Factors], rates: Params | float) -> Params:
        """Each window's parameters after the step: leaves (W, ...) of the layers that adapt."""
        phi = self.theta
        for i, (h, d) in enumerate(gradient, self.depth - len(gradient)):
            (weight, bias), (rate, bias_rate) = self.layer(i), step_rates(rates, i)
            phi[f"weight_{i}"] = weight - rate * (h.mT @ d)
            phi[f"bias_{i}"] = bias - bias_rate * d.sum(1)
        return phi

    @torch.no_grad()
    def predict(
        self,
        params: Params,
        obs: Float[Tensor, "b c o"],
        action: Float[Tensor, "b c a"],
        context: Float[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b c o"]:
        """The next observation, for planning; any layer may have weights of its own per lane B."""
        x = self.inputs(obs, action)
        if context is not None:
            x = torch.cat([x, context.unsqueeze(1).expand(-1, x.shape[1], -1)], -1)
        x = self.network(params, x)
        state, commands = obs.split([self.state_dim, obs.shape[-1] - self.state_dim], -1)
        x = torch.addcmul(state + self.delta_mean, x, self.delta_std)
        low, high = torch.minimum(self.low, state), torch.maximum(self.high, state)
        # What is not finite becomes NaN instead of a bound, so that a broken model shows.
        bounded = torch.clamp(x, low, high).masked_fill(~torch.isfinite(x), torch.nan)
        return torch.cat([bounded, commands], -1)

    def network(self, params: Params, x: Float[Tensor, "b c i"]) -> Float[Tensor, "b c s"]:
        """As ``delta``, for many rows per lane: lane after lane, so that they stay in the cache."""
        layers = [(params[f"weight_{i}"], params[f"bias_{i}"]) for i in range(self.depth)]
        own = next((i for i, (w, _) in enumerate(layers) if w.ndim == 3), self.depth)
        if own < self.depth and x.device.type != "cpu":
            return self.delta(params, x)
        for i, layer in enumerate(layers[:own]):
            x = dense(x, *layer, relu=i < self.depth - 1)
        if own == self.depth:
            return x
        lanes = []
        for lane, rows in enumerate(x):
            for i, (weight, bias) in enumerate(layers[own:], own):
                rows = dense(rows, weight[lane], bias[lane], relu=i < self.depth - 1)
            lanes.append(rows)
        return torch.stack(lanes)
