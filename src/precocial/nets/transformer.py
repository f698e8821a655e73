"""A memory that attends to everything in the trial so far."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from precocial.nets.initial import fan_in
from precocial.nets.products import Linear
from precocial.nets.recurrent import State


class Norm(nn.LayerNorm):
    """``nn.LayerNorm``, whose own gradient of the scale has one partial sum per thread."""

    def forward(self, x: Float[Tensor, "*b h"]) -> Float[Tensor, "*b h"]:
        """Normalise, then scale and shift."""
        return nn.functional.layer_norm(x, self.normalized_shape) * self.weight + self.bias


_CACHE = ("keys", "values")


class Transformer(nn.Module):
    """Causal self-attention over the trial so far (Vaswani et al. 2017), pre-norm.

    Positions count from where the memory was last cleared and are encoded by sinusoids, so that a
    trial may be longer than those of training. Acting keeps keys and values of every step.
    """

    def __init__(
        self, inputs: int, size: int, layers: int, heads: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.size, self.layers, self.heads = size, layers, heads
        self.embed = Linear(inputs, size)
        self.norm_1 = nn.ModuleList(Norm(size) for _ in range(layers))
        self.qkv = nn.ModuleList(Linear(size, 3 * size) for _ in range(layers))
        self.out = nn.ModuleList(Linear(size, size) for _ in range(layers))
        self.norm_2 = nn.ModuleList(Norm(size) for _ in range(layers))
        self.up = nn.ModuleList(Linear(size, 4 * size) for _ in range(layers))
        self.down = nn.ModuleList(Linear(4 * size, size) for _ in range(layers))
        self.last = Norm(size)
        for module in self.modules():
            if isinstance(module, Linear):
                module.weight.data = fan_in(module.out_features, module.in_features, rng)
                module.bias.data.zero_()
        for module in [*self.out, *self.down]:  # residual branches start small
            module.weight.data.mul_(1 / math.sqrt(2 * layers))

    def initial(self, batch: int) -> State:
        """Nothing seen; ``start`` is the step at which each lane's memory begins."""
        some = self.last.weight
        return {
            "keys": some.new_zeros(batch, self.layers, 16, self.size),
            "values": some.new_zeros(batch, self.layers, 16, self.size),
            "seen": torch.zeros(batch, dtype=torch.long, device=some.device),
            "start": torch.zeros(batch, dtype=torch.long, device=some.device),
        }

    def sequence(
        self, x: Float[Tensor, "t b i"], state: State, keep: Float[Tensor, "t b"] | None
    ) -> Float[Tensor, "t b h"]:
        """Outputs of all steps of whole trials; ``state`` is the initial one."""
        steps, batch = x.shape[:2]
        time = torch.arange(steps, device=x.device).expand(batch, steps)
        if keep is None:
            start, mask = torch.zeros_like(time), None
        else:
            start = torch.where(keep.T == 0, time, 0).cummax(1).values
            seen = time.unsqueeze(1) >= start.unsqueeze(2)  # (B, query, key)
            mask = (seen & torch.ones_like(seen).tril()).unsqueeze(1)
        h = self.embed(x.transpose(0, 1)) + self.positions(time - start)
        for i in range(self.layers):
            q, k, v = self.qkv[i](self.norm_1[i](h)).chunk(3, -1)
            mixed = nn.functional.scaled_dot_product_attention(
                self.split(q), self.split(k), self.split(v), mask, is_causal=mask is None
            )
            h = h + self.out[i](mixed.transpose(1, 2).flatten(2))
            h = h + self.down[i](torch.relu(self.up[i](self.norm_2[i](h))))
        outputs: Tensor = self.last(h).transpose(0, 1)
        return outputs

    def step(self, x: Float[Tensor, "b i"], state: State) -> tuple[Float[Tensor, "b h"], State]:
        """Output after one input; its keys and values are written into the state's own memory."""
        now = int(state["seen"][0])
        state = self.grown(state) if now == state["keys"].shape[2] else dict(state)
        time = torch.arange(now + 1, device=x.device)
        mask = (time >= state["start"].unsqueeze(1))[:, None, None]  # (B, head, query, key)
        h = self.embed(x) + self.positions(now - state["start"])
        for i in range(self.layers):
            q, k, v = self.qkv[i](self.norm_1[i](h)).chunk(3, -1)
            state["keys"][:, i, now], state["values"][:, i, now] = k, v
            mixed = nn.functional.scaled_dot_product_attention(
                self.split(q.unsqueeze(1)),
                self.split(state["keys"][:, i, : now + 1]),
                self.split(state["values"][:, i, : now + 1]),
                mask,
            )
            h = h + self.out[i](mixed.flatten(1))
            h = h + self.down[i](torch.relu(self.up[i](self.norm_2[i](h))))
        state["seen"] = state["seen"] + 1
        outputs: Tensor = self.last(h)
        return outputs, state

    def clear(self, state: State, lanes: Bool[Tensor, " b"]) -> State:
        """Attend to nothing before now on the given lanes."""
        return state | {"start": torch.where(lanes, state["seen"], state["start"])}

    def grown(self, state: State) -> State:
        """The state with room for twice as many steps."""
        longer = {k: torch.cat([state[k], torch.zeros_like(state[k])], 2) for k in _CACHE}
        return state | longer

    def split(self, x: Float[Tensor, "b t h"]) -> Float[Tensor, "b k t d"]:
        """Heads as a batch axis."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def positions(self, time: Int[Tensor, "..."]) -> Float[Tensor, "... h"]:
        """Sinusoids of periods 2 pi to 2 pi 1000 steps."""
        half = self.size // 2
        rate = torch.exp(
            torch.arange(half, device=time.device) * (-math.log(1000.0) / max(1, half - 1))
        )
        angle = time.unsqueeze(-1) * rate
        return torch.cat([angle.sin(), angle.cos()], -1)
