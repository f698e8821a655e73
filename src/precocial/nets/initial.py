"""Initial weights."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

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
