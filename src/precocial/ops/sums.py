"""Sums over everything, with the same bits on any number of threads."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_WHOLE = 2**15
"""Numbers from which PyTorch gives each thread a part of the sum."""
_PART = 2**10


def total(x: Float[Tensor, "*x"]) -> Float[Tensor, ""]:
    """``x.sum()``, in parts that do not depend on the threads where it is long."""
    x = x.reshape(-1)
    if len(x) < _WHOLE:
        return x.sum()
    whole = len(x) // _PART * _PART
    return total(x[:whole].view(-1, _PART).sum(1)) + x[whole:].sum()


def mean(x: Float[Tensor, "*x"]) -> Float[Tensor, ""]:
    """``x.mean()``."""
    return total(x) / x.numel()


def mean_of_each(x: Float[Tensor, "n *b"]) -> Float[Tensor, " n"]:
    """Mean within each task."""
    return x.flatten(1).mean(1) if len(x) > 1 else mean(x).unsqueeze(0)


def dot(x: Float[Tensor, " p"], y: Float[Tensor, " p"]) -> Float[Tensor, ""]:
    """``x.dot(y)``."""
    return total(x * y)


def spread(x: Float[Tensor, ""], like: Float[Tensor, "*y"]) -> Float[Tensor, "*y"]:
    """One number everywhere, whose gradient is a ``total``; differentiable any number of times."""
    y: Tensor = _Spread.apply(x, like.shape)
    return y


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: torch.Size) -> Tensor:
        return x.expand(shape).clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return total(grads[0]), None
