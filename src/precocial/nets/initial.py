"""Initial weights, and layers that have them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from precocial.nets.products import Linear
from precocial.threads import alone


def fan_in(rows: int, columns: int, rng: torch.Generator) -> Float[Tensor, "o i"]:
    """Uniform with variance 1 / (3 fan-in), PyTorch's default for linear layers."""
    return (torch.rand(rows, columns, generator=rng) * 2 - 1) / math.sqrt(columns)


def orthogonal(rows: int, columns: int, rng: torch.Generator) -> Float[Tensor, "o i"]:
    """A matrix with orthonormal rows or columns, uniformly distributed (Saxe et al. 2014)."""
    wide = torch.randn(max(rows, columns), min(rows, columns), generator=rng)
    q, r = alone(torch.linalg.qr, wide)
    q = q * r.diagonal().sign()
    return q if rows >= columns else q.T


def linear(
    inputs: int, outputs: int, rng: torch.Generator, gain: float = 2**0.5, blocks: int = 1
) -> Linear:
    """A layer of so many orthogonal matrices, one below the other, and no bias at first."""
    layer = Linear(inputs, outputs)
    rows = outputs // blocks
    layer.weight.data = torch.cat([orthogonal(rows, inputs, rng) for _ in range(blocks)]) * gain
    layer.bias.data.zero_()
    return layer
