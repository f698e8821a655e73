"""Memories with a state of fixed size, and the two gated ones among them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from precocial.nets.activations import tanh
from precocial.nets.gru import Precision, gru_sequence, gru_step
from precocial.nets.initial import fan_in, orthogonal
from precocial.nets.products import shared

State = dict[str, Tensor]
"""What a memory holds: leaves (B, ...), one row per lane."""


class Recurrent(nn.Module):
    """A memory whose state is all zeros where it knows nothing."""

    def clear(self, state: State, lanes: Bool[Tensor, " b"]) -> State:
        """Forget everything on the given lanes."""
        return {
            k: v.masked_fill(lanes.view(-1, *[1] * (v.ndim - 1)), 0.0) for k, v in state.items()
        }


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014), PyTorch's variant of it."""

    def __init__(self, inputs: int, size: int, rng: torch.Generator, precision: Precision) -> None:
        super().__init__()
        self.size, self.precision = size, precision
        self.weight_ih = nn.Parameter(fan_in(3 * size, inputs, rng))
        self.weight_hh = nn.Parameter(_orthogonal_blocks(3, size, rng))
        self.bias_ih = nn.Parameter(torch.zeros(3 * size))
        self.bias_hh = nn.Parameter(torch.zeros(3 * size))

    def initial(self, batch: int) -> State:
        """Nothing known."""
        return {"h": self.bias_ih.new_zeros(batch, self.size)}

    def sequence(
        self, x: Float[Tensor, "t b i"], state: State, keep: Float[Tensor, "t b"] | None
    ) -> Float[Tensor, "t b h"]:
        """Outputs of all steps."""
        return gru_sequence(
            x, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, state["h"], keep,
            precision=self.precision,
        )  # fmt: skip

    def step(self, x: Float[Tensor, "b i"], state: State) -> tuple[Float[Tensor, "b h"], State]:
        """Output and state after one input."""
        h = gru_step(x, state["h"], self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return h, {"h": h}


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997); forget bias 1."""

    def __init__(self, inputs: int, size: int, rng: torch.Generator) -> None:
        super().__init__()
        self.size = size
        self.weight_ih = nn.Parameter(fan_in(4 * size, inputs, rng))
        self.weight_hh = nn.Parameter(_orthogonal_blocks(4, size, rng))
        bias = torch.zeros(4 * size)
        bias[size : 2 * size] = 1.0
        self.bias_ih, self.bias_hh = nn.Parameter(bias), nn.Parameter(torch.zeros(4 * size))

    def initial(self, batch: int) -> State:
        """Nothing known."""
        zeros = self.bias_ih.new_zeros(batch, self.size)
        return {"h": zeros, "c": zeros}

    def sequence(
        self, x: Float[Tensor, "t b i"], state: State, keep: Float[Tensor, "t b"] | None
    ) -> Float[Tensor, "t b h"]:
        """Outputs of all steps."""
        inputs = shared(x, self.weight_ih.T, self.bias_ih + self.bias_hh).unbind(0)
        kept = [None] * len(x) if keep is None else keep.unsqueeze(-1).unbind(0)
        outs = []
        for gates, keeps in zip(inputs, kept, strict=True):
            if keeps is not None:
                state = {k: v * keeps for k, v in state.items()}
            state = self.after(gates + shared(state["h"], self.weight_hh.T), state["c"])
            outs.append(state["h"])
        return torch.stack(outs)

    def step(self, x: Float[Tensor, "b i"], state: State) -> tuple[Float[Tensor, "b h"], State]:
        """Output and state after one input."""
        gates = shared(x, self.weight_ih.T, self.bias_ih + self.bias_hh)
        state = self.after(gates + shared(state["h"], self.weight_hh.T), state["c"])
        return state["h"], state

    @staticmethod
    def after(gates: Float[Tensor, "b g"], c: Float[Tensor, "b h"]) -> State:
        """The state that input, forget, cell and output gate lead to, before their sigmoids."""
        i, f, g, o = gates.chunk(4, -1)
        i, f, o = (0.5 + 0.5 * tanh(0.5 * gate) for gate in (i, f, o))  # their sigmoids
        c = f * c + i * tanh(g)
        return {"h": o * tanh(c), "c": c}


def _orthogonal_blocks(gates: int, size: int, rng: torch.Generator) -> Float[Tensor, "o i"]:
    """One orthogonal matrix per gate."""
    return torch.cat([orthogonal(size, size, rng) for _ in range(gates)])
