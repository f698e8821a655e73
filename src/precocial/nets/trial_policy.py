"""Policy and value of a trial: a memory, or none, with two heads."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from precocial.nets.activations import tanh
from precocial.nets.memory import Memory, State, orthogonal
from precocial.ops.distributions import Dist
from precocial.types import EnvSpec


class NoMemory(nn.Module):
    """A multi-layer perceptron in the place of a memory, for inputs that say all there is."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], rng: torch.Generator) -> None:
        super().__init__()
        sizes = (inputs, *hidden)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            layer.weight.data = orthogonal(layer.out_features, layer.in_features, rng) * 2**0.5
            layer.bias.data.zero_()
        self.size = sizes[-1]

    def initial(self, batch: int) -> State:
        """Nothing."""
        return {}

    def sequence(
        self, x: Float[Tensor, "t b i"], state: State, keep: Float[Tensor, "t b"] | None
    ) -> Float[Tensor, "t b h"]:
        """Each step on its own."""
        for layer in self.layers:
            x = tanh(layer(x))
        return x

    def step(self, x: Float[Tensor, "b i"], state: State) -> tuple[Float[Tensor, "b h"], State]:
        """Output after one input."""
        return self.sequence(x.unsqueeze(0), state, None).squeeze(0), state

    def clear(self, state: State, lanes: Bool[Tensor, " b"]) -> State:
        """There is nothing to forget."""
        return state


class TrialPolicy(nn.Module):
    """Action distribution and value of what a memory holds.

    The value head predicts in units of a running mean and spread of its targets, and is rescaled
    when those move so that its predictions stay (PopArt, van Hasselt et al. 2016): totals of a
    trial may be 5 or 500.
    """

    value_mean: Tensor
    value_std: Tensor

    def __init__(
        self, memory: Memory | NoMemory, spec: EnvSpec, init_std: float, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.memory = memory
        self.discrete = spec.action_kind == "discrete"
        self.policy_head = nn.Linear(memory.size, spec.action_dim)
        self.value_head = nn.Linear(memory.size, 1)
        # Nearly uniform at first, so that the first trials explore.
        self.policy_head.weight.data = orthogonal(spec.action_dim, memory.size, rng) * 0.01
        self.value_head.weight.data = orthogonal(1, memory.size, rng)
        self.policy_head.bias.data.zero_()
        self.value_head.bias.data.zero_()
        if not self.discrete:
            self.log_std = nn.Parameter(torch.full((spec.action_dim,), init_std).log())
        self.register_buffer("value_mean", torch.zeros(()))
        self.register_buffer("value_std", torch.ones(()))

    def heads(self, h: Float[Tensor, "*b h"]) -> tuple[Dist, Float[Tensor, "*b"]]:
        """Action distribution, and value in normalised units."""
        out, value = self.policy_head(h), self.value_head(h).squeeze(-1)
        if self.discrete:
            return {"logits": torch.log_softmax(out, -1)}, value
        return {"mean": out, "log_std": self.log_std.expand_as(out)}, value

    def sequence(
        self, x: Float[Tensor, "t b i"], state: State, keep: Float[Tensor, "t b"] | None
    ) -> tuple[Dist, Float[Tensor, "t b"]]:
        """Distribution and normalised value at every step of whole trials."""
        return self.heads(self.memory.sequence(x, state, keep))

    def step(
        self, x: Float[Tensor, "b i"], state: State
    ) -> tuple[Dist, Float[Tensor, " b"], State]:
        """Distribution, value in reward units, and the memory after one input."""
        h, state = self.memory.step(x, state)
        dist, value = self.heads(h)
        return dist, self.value_mean + self.value_std * value, state

    def normalise(self, value: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Reward units to the value head's."""
        return (value - self.value_mean) / self.value_std

    @torch.no_grad()
    def rescale(self, mean: Tensor, std: Tensor, rate: float) -> None:
        """Move the value's units towards ``mean`` and ``std``, predictions unchanged."""
        new_mean = self.value_mean + rate * (mean - self.value_mean)
        new_std = (self.value_std + rate * (std - self.value_std)).clamp(min=1e-4)
        self.value_head.weight.mul_(self.value_std / new_std)
        shifted = self.value_std * self.value_head.bias + self.value_mean - new_mean
        self.value_head.bias.copy_(shifted / new_std)
        self.value_mean.copy_(new_mean)
        self.value_std.copy_(new_std)
