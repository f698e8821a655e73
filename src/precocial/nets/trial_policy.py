"""Policy and value of a trial: a memory, or none, with two heads."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from precocial.nets.activations import tanh
from precocial.nets.initial import linear, orthogonal
from precocial.nets.memory import Memory
from precocial.nets.pictures import initial, out_dim, read, with_numbers
from precocial.nets.products import Linear
from precocial.nets.recurrent import State
from precocial.ops.distributions import Dist
from precocial.ops.losses import masked_mean
from precocial.types import EnvSpec, Picture

LARGEST_SCALE = 10.0
"""Of the value head when its units move: where an untrained head meets rewards that are small, or
none, what it predicts is noise and not to be kept."""


AT_ONCE = 1000
"""Pictures that are looked at together: as floats, and in patches, they take much room."""


class MLP(nn.Module):
    """A multi-layer perceptron in the place of a memory, for inputs that say all there is."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], rng: torch.Generator) -> None:
        super().__init__()
        sizes = (inputs, *hidden)
        self.layers = nn.ModuleList(
            linear(i, o, rng) for i, o in zip(sizes, sizes[1:], strict=False)
        )
        self.size = sizes[-1]

    def initial(self, batch: int) -> State:
        """Nothing."""
        return {}

    def sequence(
        self, x: Shaped[Tensor, "*t i"], state: State, keep: Float[Tensor, "t b"] | None
    ) -> Float[Tensor, "*t h"]:
        """Each step on its own."""
        for layer in self.layers:
            x = tanh(layer(x))
        return x

    def step(self, x: Shaped[Tensor, "b i"], state: State) -> tuple[Float[Tensor, "b h"], State]:
        """Output after one input."""
        return self.sequence(x, state, None), state

    def clear(self, state: State, lanes: Bool[Tensor, " b"]) -> State:
        """There is nothing to forget."""
        return state


class Eyes(nn.Module):
    """What a memory gets of rows of bytes: a layer on the convolutions, and the numbers beside.

    Args:
        picture: What a row holds.
        size: Width of the layer.
        rng: Draws the weights.
    """

    def __init__(self, picture: Picture, size: int, rng: torch.Generator) -> None:
        super().__init__()
        for name, p in initial(picture, rng).items():
            self.register_parameter(name, nn.Parameter(p))
        self.numbers = picture.numbers
        self.layer = linear(out_dim(picture._replace(numbers=0)), size, rng)
        self.size = size + self.numbers

    def sequence(
        self, x: UInt8[Tensor, "*t i"], state: State, keep: Float[Tensor, "t b"] | None
    ) -> Float[Tensor, "*t h"]:
        """Each step on its own.

        What the convolutions make on the way is not kept, but made again for the gradient.
        """
        parts = x.flatten(0, -2).split(AT_ONCE)
        made = [checkpoint(self.look, part, use_reentrant=False) for part in parts]
        return torch.cat(made).unflatten(0, x.shape[:-1])

    def look(self, rows: UInt8[Tensor, "b i"]) -> Float[Tensor, "b h"]:
        """At so many."""
        seen = read(dict(self.named_parameters()), rows)
        size = seen.shape[-1] - self.numbers
        return torch.cat([tanh(self.layer(seen[:, :size])), seen[:, size:]], -1)


def eyes(
    spec: EnvSpec, extra: int, rng: torch.Generator, size: int = 0, pictures: int = 1
) -> Eyes | None:
    """For a family that shows pictures, so many at a time, with more numbers beside them.

    64 wide, unless ``size`` says how wide.
    """
    if not spec.picture:
        return None
    several = spec.picture._replace(
        channels=pictures * spec.picture.channels, numbers=pictures * spec.picture.numbers
    )
    return Eyes(with_numbers(several, extra, spec.name), size or 64, rng)


class TrialPolicy(nn.Module):
    """Action distribution and value of what a memory holds.

    The value head predicts what a lane will get beyond the running mean of all lanes at the same
    step of the trial, in units of the running spread around it. Most of a value is the time that
    is left, which tells tasks and actions not apart; a head in plain units would spend itself on
    it. When the spread moves the head is rescaled, so that what it predicts beyond the mean stays
    (PopArt, van Hasselt et al. 2016; the mean per step is ours).
    """

    value_mean: Tensor
    value_std: Tensor

    def __init__(
        self,
        memory: Memory | MLP,
        spec: EnvSpec,
        steps: int,
        init_std: float,
        rng: torch.Generator,
        embedding: MLP | Eyes | None = None,
    ) -> None:
        super().__init__()
        self.memory, self.embedding = memory, embedding
        self.discrete = spec.action_kind == "discrete"
        self.policy_head = Linear(memory.size, spec.action_dim)
        self.value_head = Linear(memory.size, 1)
        # Nearly uniform at first, so that the first trials explore.
        self.policy_head.weight.data = orthogonal(spec.action_dim, memory.size, rng) * 0.01
        self.value_head.weight.data = orthogonal(1, memory.size, rng)
        self.policy_head.bias.data.zero_()
        self.value_head.bias.data.zero_()
        if not self.discrete:
            self.log_std = nn.Parameter(torch.full((spec.action_dim,), init_std).log())
        self.register_buffer("value_mean", torch.zeros(steps))
        self.register_buffer("value_std", torch.ones(()))

    def heads(self, h: Float[Tensor, "*b h"]) -> tuple[Dist, Float[Tensor, "*b"]]:
        """Action distribution, and value in normalised units."""
        out, value = self.policy_head(h), self.value_head(h).squeeze(-1)
        if self.discrete:
            return {"logits": torch.log_softmax(out, -1)}, value
        return {"mean": out, "log_std": self.log_std.expand_as(out)}, value

    def sequence(
        self, x: Shaped[Tensor, "t b i"], state: State, keep: Float[Tensor, "t b"] | None
    ) -> tuple[Dist, Float[Tensor, "t b"]]:
        """Distribution and normalised value at every step of whole trials."""
        return self.heads(self.memory.sequence(self.embed(x), state, keep))

    def embed(self, x: Shaped[Tensor, "*b i"]) -> Float[Tensor, "*b d"]:
        """The memory's input."""
        return self.embedding.sequence(x, {}, None) if self.embedding else x

    def step(
        self, x: Shaped[Tensor, "b i"], state: State
    ) -> tuple[Dist, Float[Tensor, " b"], State]:
        """Distribution, normalised value, and the memory after one input."""
        h, state = self.memory.step(self.embed(x), state)
        return *self.heads(h), state

    def in_reward_units(self, value: Float[Tensor, "t b"]) -> Float[Tensor, "t b"]:
        """From normalised values of steps 0, 1, ... of trials."""
        return self.value_mean[: value.shape[0], None] + self.value_std * value

    def normalise(self, value: Float[Tensor, "t b"]) -> Float[Tensor, "t b"]:
        """The inverse."""
        return (value - self.value_mean[: value.shape[0], None]) / self.value_std

    @torch.no_grad()
    def track(self, target: Float[Tensor, "t b"], valid: Float[Tensor, "t b"], rate: float) -> None:
        """Move the value's units towards those of ``target``."""
        steps, count = target.shape[0], valid.sum(1)
        mean = (target * valid).sum(1) / count.clamp(min=1)
        spread = masked_mean((target - mean.unsqueeze(1)).square(), valid).sqrt()
        known = self.value_mean[:steps]
        self.value_mean[:steps] = torch.where(count > 0, known + rate * (mean - known), known)
        std = (self.value_std + rate * (spread - self.value_std)).clamp(min=1e-4)
        scale = (self.value_std / std).clamp(max=LARGEST_SCALE)
        self.value_head.weight.mul_(scale)
        self.value_head.bias.mul_(scale)
        self.value_std.copy_(std)


def perceptron_policy(
    spec: EnvSpec, extra: int, hidden: tuple[int, ...], steps: int, init_std: float,
    rng: torch.Generator,
) -> TrialPolicy:  # fmt: skip
    """Without a memory, for observations with ``extra`` numbers beside that say all there is."""
    embedding = eyes(spec, extra, rng)
    net = MLP(embedding.size if embedding else spec.obs_dim + extra, hidden, rng)
    return TrialPolicy(net, spec, steps, init_std, rng, embedding)
