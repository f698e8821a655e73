"""tanh and sigmoid, the faster way and with the same bits on any number of threads."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from precocial.processor import AMD
from precocial.threads import alone

_GRAIN = 2**15
"""Elements that PyTorch gives a thread at least."""
_STRIDE = 32
"""Elements that it takes at once; the rest of a thread's share is rounded otherwise."""


def sigmoid(x: Tensor, out: Tensor) -> Tensor:
    """The logistic function, written to ``out``."""
    threads = min(torch.get_num_threads(), -(-x.numel() // _GRAIN))
    if threads > 1 and x.numel() % (threads * _STRIDE):
        return alone(partial(torch.sigmoid, out=out), x)
    return torch.sigmoid(x, out=out)


def tanh_(x: Tensor) -> Tensor:
    """Hyperbolic tangent, in place, exact to about 1e-7 (absolute) in single precision.

    As 2 sigmoid(2x) - 1 where PyTorch's own takes three times as long.
    """
    return sigmoid(x.mul_(2), x).mul_(2).sub_(1) if AMD else x.tanh_()


class _Tanh(torch.autograd.Function):
    """Differentiable any number of times: the backward is PyTorch's own, on the saved output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = tanh_(x.clone())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(grads[0], y)


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent, exact to about 1e-7 (absolute) in single precision."""
    return _Tanh.apply(x) if torch.is_grad_enabled() and x.requires_grad else tanh_(x.clone())
