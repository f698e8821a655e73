"""Matrix products of layers, by the fastest library that this processor has.

PyTorch sends float32 products to MKL, which on AMD leaves half of AVX-512 unused; oneDNN does not.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_LARGE = 2**20
"""Multiplications from which handing a product to oneDNN pays."""

_ONEDNN = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def affine(
    plus: Float[Tensor, "*m n"], a: Float[Tensor, "m k"], b: Float[Tensor, "k n"]
) -> Float[Tensor, "m n"]:
    """``plus + a b``, in the precision of ``plus``; not differentiable."""
    if a.dtype != plus.dtype:
        return torch.mm(a, b).to(plus.dtype).add_(plus)
    if _pays(a, b):
        if plus.ndim == 1:
            return torch.ops.mkldnn._linear_pointwise(a, b.T, plus, "none", [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(a, plus, b.T, None, "add")
    return torch.addmm(plus, a, b)


def dense(
    x: Float[Tensor, "*b i"], weight: Float[Tensor, "i o"], bias: Float[Tensor, " o"],
    *, relu: bool,
) -> Float[Tensor, "*b o"]:  # fmt: skip
    """``x W + b``, perhaps rectified; not differentiable."""
    rows = x.flatten(0, -2)
    if _pays(rows, weight):
        kind = "relu" if relu else "none"
        y = torch.ops.mkldnn._linear_pointwise(rows, weight.T, bias, kind, [], "")
    else:
        y = torch.addmm(bias, rows, weight)
        y = y.relu_() if relu else y
    return y.view(*x.shape[:-1], -1)


def _pays(a: Tensor, b: Tensor) -> bool:
    large = a.shape[0] * b.shape[0] * b.shape[1] >= _LARGE
    return _ONEDNN and large and a.dtype == torch.float32 and a.device.type == "cpu"


def shared(
    x: Float[Tensor, "*b i"], weight: Float[Tensor, "i o"], bias: Float[Tensor, " o"] | None = None
) -> Float[Tensor, "*b o"]:
    """``x W + b`` with weights that all rows share; differentiable once."""
    if bias is None:
        bias = weight.new_zeros(weight.shape[1])
    y: Tensor = _Shared.apply(x.flatten(0, -2), weight, bias)
    return y.view(*x.shape[:-1], -1)


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return affine(bias, x, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        g = grads[0].contiguous()
        no_x, no_weight = g.new_zeros(weight.shape[0]), torch.zeros_like(weight)
        return (
            affine(no_x, g, weight.T) if ctx.needs_input_grad[0] else None,
            affine(no_weight, x.T, g) if ctx.needs_input_grad[1] else None,
            g.sum(0) if ctx.needs_input_grad[2] else None,
        )


_CACHE = 2**18
"""Numbers of windows' own weights that are worked on at once: they stay in the L2 cache."""


def stepped(
    x: Float[Tensor, "w k i"],
    weight: Float[Tensor, "i o"],
    rate: Float[Tensor, "i o"] | float,
    h: Float[Tensor, "w m i"],
    d: Float[Tensor, "w m o"],
) -> Float[Tensor, "w k o"]:
    """``x (W - rate * h'd)``: a layer after a gradient step of each window's own.

    The gradient of a layer's weights is the product h'd of its inputs and of the gradients of its
    outputs; ``rate * h'd`` is formed for a few windows at a time and never kept, so it does not
    leave the cache. With one rate for all weights not even that: (x h')d has few rows.
    Differentiable once, in everything: with h and d functions of W, that is the second-order
    gradient.
    """
    if isinstance(rate, Tensor):
        step: Tensor = _Step.apply(x, rate, h, d)
        return shared(x, weight) - step
    return shared(x, weight) - rate * (x @ h.mT @ d)


class _Step(torch.autograd.Function):
    """x (rate * h'd) for every window."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: Tensor, h: Tensor, d: Tensor) -> Tensor:
        ctx.save_for_backward(x, rate, h, d)
        size = _chunk(rate)
        parts = zip(x.split(size), h.split(size), d.split(size), strict=True)
        return torch.cat([xs @ (hs.mT @ ds).mul_(rate) for xs, hs, ds in parts])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, rate, h, d = ctx.saved_tensors
        size = _chunk(rate)
        grad_rate, rows = torch.zeros_like(rate), []
        for xs, hs, ds, g in zip(*(v.split(size) for v in (x, h, d, grads[0])), strict=True):
            full = hs.mT @ ds
            outer = xs.mT @ g
            grad_rate += torch.einsum("wio,wio->io", full, outer)
            outer.mul_(rate)
            rows.append((g @ full.mul_(rate).mT, ds @ outer.mT, hs @ outer))
        grad_x, grad_h, grad_d = (torch.cat(part) for part in zip(*rows, strict=True))
        return grad_x, grad_rate, grad_h, grad_d


def _chunk(rate: Tensor) -> int:
    return max(1, _CACHE // rate.numel())
