"""Matrix products of layers: by the fastest library, and the same bits on any number of threads.

PyTorch sends float32 products to MKL, which on AMD leaves half of AVX-512 unused; oneDNN does not.
Both cut a long sum into one piece per thread, so that its rounding depends on how many there are.
Here small products have one thread, long sums are cut the same way everywhere, and what is left is
cut by rows and columns of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from precocial.ops.sums import total
from precocial.processor import AMD
from precocial.threads import alone

_LARGE = 2**20
"""Multiplications from which several threads, or handing a product to oneDNN, pay."""
ROWS = 256
"""Of a sum that one thread does, below what MKL would cut up (some 500)."""
_ONEDNN_ROWS = 2048
"""The same for oneDNN, which is slower at many small ones."""
_LONGEST = 384
"""Of a sum over inputs, below the same."""
_TOGETHER = 1024
"""Rows that go through all layers of a perceptron before others do."""
_NARROW = 2**13
"""Weights of a layer whose gradient one thread has before several have agreed who does what."""
_FEW = 16
"""Rows of a result below which MKL cuts up shorter sums, too."""


_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
_ONEDNN = (
    torch.backends.mkldnn.is_available()
    and _AVX512
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and AMD
)


def affine(
    plus: Float[Tensor, "*m n"] | None, a: Float[Tensor, "m k"], b: Float[Tensor, "k n"]
) -> Float[Tensor, "m n"]:
    """``plus + a b``, in the precision of ``plus``; not differentiable."""
    if plus is not None and a.dtype != plus.dtype:
        product = alone(torch.mm, a, b) if _small(a, b) else torch.mm(a, b)
        return product.to(plus.dtype).add_(plus)
    if _small(a, b) or len(a) < _FEW:
        return alone(_added, plus, a, b)
    longest = _ONEDNN_ROWS if _by_onednn(a) else _LONGEST
    if len(b) > longest and a.device.type == "cpu":
        for left, right in zip(a.split(longest, 1), b.split(longest), strict=True):
            plus = affine(plus, left, right)
        assert plus is not None
        return plus
    if _by_onednn(a):
        if plus is None or plus.ndim == 1:
            return torch.ops.mkldnn._linear_pointwise(a, b.T, plus, "none", [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(a, plus, b.T, None, "add")
    if _AVX512 or a.device.type != "cpu":
        return _added(plus, a, b)
    if len(a) < 2 * ROWS:  # MKL's other kernels round the rows at a thread's ends otherwise
        return alone(_added, plus, a, b)
    whole = len(a) // ROWS * ROWS
    blocks = a[:whole].unflatten(0, (-1, ROWS))
    every = b.expand(len(blocks), *b.shape)
    by_row = plus is not None and plus.ndim == 2
    if plus is None:
        y = torch.bmm(blocks, every).flatten(0, 1)
    else:
        added = plus[:whole].unflatten(0, (-1, ROWS)) if by_row else plus
        y = torch.baddbmm(added, blocks, every).flatten(0, 1)
    if whole < len(a):
        rest = plus[whole:] if plus is not None and by_row else plus
        y = torch.cat([y, alone(_added, rest, a[whole:], b)])
    return y


def _added(plus: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b) if plus is None else torch.addmm(plus, a, b)


def outer(
    plus: Float[Tensor, "m n"] | None, a: Float[Tensor, "rows m"], b: Float[Tensor, "rows n"]
) -> Float[Tensor, "m n"]:
    """``plus + a'b``, the gradient of a layer's weights; not differentiable."""
    if _small(a.T, b) or len(a) <= ROWS:
        return affine(plus, a.T, b)
    if len(a) < 2 * ROWS and (plus is None or a.dtype == plus.dtype):
        return alone(_added, plus, a.T, b)
    if _by_onednn(a):
        for rows, columns in zip(a.split(_ONEDNN_ROWS), b.split(_ONEDNN_ROWS), strict=True):
            plus = affine(plus, rows.T, columns)
        assert plus is not None
        return plus
    whole = len(a) // ROWS * ROWS
    left, right = (x[:whole].unflatten(0, (-1, ROWS)) for x in (a, b))
    total = torch.bmm(left.mT, right)
    total = total.sum(0) if plus is None else total.to(plus.dtype).sum(0).add_(plus)
    return affine(total, a[whole:].T, b[whole:]) if whole < len(a) else total


def dense(
    x: Float[Tensor, "*b i"], weight: Float[Tensor, "i o"], bias: Float[Tensor, " o"],
    *, relu: bool,
) -> Float[Tensor, "*b o"]:  # fmt: skip
    """``x W + b``, perhaps rectified; not differentiable."""
    rows = x.flatten(0, -2)
    if _by_onednn(rows) and not _small(rows, weight) and len(weight) <= _ONEDNN_ROWS:
        kind = "relu" if relu else "none"
        y = torch.ops.mkldnn._linear_pointwise(rows, weight.T, bias, kind, [], "")
    else:
        y = affine(bias, rows, weight)
        y = y.relu_() if relu else y
    return y.view(*x.shape[:-1], weight.shape[1])


def _small(a: Tensor, b: Tensor) -> bool:
    """Whether a product is better done by one thread; a single column is bound by memory."""
    return a.shape[0] * b.shape[0] * b.shape[1] < _LARGE or b.shape[1] == 1


def cut_up(rows: int, weight: Float[Tensor, "*n i o"]) -> bool:
    """Whether threads may get parts of the sums of a product of so many rows with ``weight``."""
    return rows < _FEW or weight.shape[-2] > ROWS or weight.shape[-1] == 1


def _by_onednn(a: Tensor) -> bool:
    return _ONEDNN and a.dtype == torch.float32 and a.device.type == "cpu"


def linear(
    x: Float[Tensor, "*b i"], weight: Float[Tensor, "*n i o"], bias: Float[Tensor, "*n o"]
) -> Float[Tensor, "*b o"]:
    """``x W + b`` for shared weights (i, o), or for (N, i, o) on a batch (N, B, i)."""
    if torch.compiler.is_compiling():  # an exporter's sizes are symbols
        return x @ weight + bias.unsqueeze(-2) if weight.ndim == 3 else x @ weight + bias
    if weight.ndim == 2:
        one = cut_up(x.shape[:-1].numel(), weight)
        return (alone(torch.matmul, x, weight) if one else x @ weight) + bias
    rows = x.shape[1]
    if len(weight) == 1 and rows > ROWS:  # one task: threads would cut up its sums over rows
        parts = -(-rows // ROWS)
        padded = torch.nn.functional.pad(x[0], (0, 0, 0, -rows % parts))
        stacked = (p.expand(parts, *p.shape[1:]) for p in (weight, bias))
        y = linear(padded.unflatten(0, (parts, -1)), *stacked)
        return y.flatten(0, 1)[:rows].unsqueeze(0)
    if len(weight) == 1 and cut_up(rows, weight):
        return alone(torch.baddbmm, bias.unsqueeze(-2), x, weight)
    return torch.baddbmm(bias.unsqueeze(-2), x, weight)


class Linear(nn.Linear):
    """``nn.Linear`` by these products; differentiable once."""

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """``x W' + b``."""
        return shared(x, self.weight.T, self.bias)


def shared(
    x: Float[Tensor, "*b i"], weight: Float[Tensor, "i o"], bias: Float[Tensor, " o"] | None = None
) -> Float[Tensor, "*b o"]:
    """``x W + b`` with weights that all rows share; differentiable once."""
    if bias is None:
        bias = weight.new_zeros(weight.shape[1])
    if torch.compiler.is_compiling():
        return x @ weight + bias
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
        return (
            affine(None, g, weight.T) if ctx.needs_input_grad[0] else None,
            outer(None, x, g) if ctx.needs_input_grad[1] else None,
            _columns(g) if ctx.needs_input_grad[2] else None,
        )


def rectified(
    x: Float[Tensor, "1 rows i"], weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Float[Tensor, "1 rows o"]:
    """A perceptron with ReLU, a stack of one, as one node of the graph; differentiable once."""
    y: Tensor = _Rectified.apply(x, *weights, *biases)
    return y


class _Rectified(torch.autograd.Function):
    """Rows go through all layers some at a time, so that what is between layers stays near."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *params: Tensor) -> Tensor:
        x, depth, layers = x[0], len(params) // 2, [p[0] for p in params]
        ctx.rows = -(-len(x) // max(1, -(-len(x) // _TOGETHER)))
        inputs, outputs = [], []
        for h in x.split(ctx.rows):
            for i in range(depth):
                inputs.append(h)
                h = dense(h, layers[i], layers[depth + i], relu=i < depth - 1)
            outputs.append(h)
        ctx.save_for_backward(*layers[:depth], *inputs)
        y = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
        return y.unsqueeze(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        of_x, *wanted = ctx.needs_input_grad
        depth = len(wanted) // 2
        weights, inputs = ctx.saved_tensors[:depth], ctx.saved_tensors[depth:]
        found = [torch.zeros_like(w) if k else None for w, k in zip(weights, wanted, strict=False)]
        for w, k in zip(weights, wanted[depth:], strict=True):
            found.append(w.new_zeros(w.shape[1]) if k else None)
        # The lowest layer that gradients have to reach.
        lowest = 0 if of_x else min(i % depth for i, k in enumerate(wanted) if k)
        by_x = []
        for part, g in enumerate(grads[0][0].contiguous().split(ctx.rows)):
            for i in reversed(range(lowest, depth)):
                x, weight, bias = inputs[part * depth + i], found[i], found[depth + i]
                if weight is not None:
                    _add_outer(weight, x, g)
                if bias is not None:
                    bias += _columns(g)
                if i > lowest or of_x:
                    g = affine(None, g, weights[i].T)
                if i > lowest:  # nothing passes where the layer below was silent
                    torch.ops.aten.threshold_backward.grad_input(g, x, 0.0, grad_input=g)
            by_x.append(g)
        below = torch.cat(by_x) if of_x else None
        return tuple(g if g is None else g.unsqueeze(0) for g in (below, *found))


def _add_outer(
    into: Float[Tensor, "m n"], a: Float[Tensor, "rows m"], b: Float[Tensor, "rows n"]
) -> None:
    """Add ``a'b`` in place."""
    if _by_onednn(a):
        into.copy_(outer(into, a, b))
    elif into.numel() <= _NARROW or not _AVX512:
        alone(into.addmm_, a.T, b)
    else:
        for rows, columns in zip(a.split(ROWS), b.split(ROWS), strict=True):
            if _small(rows.T, columns):
                alone(into.addmm_, rows.T, columns)
            else:
                into.addmm_(rows.T, columns)


def _columns(g: Float[Tensor, "rows o"]) -> Float[Tensor, " o"]:
    return g.sum(0) if g.shape[1] > 1 else total(g).unsqueeze(0)


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
            grad_rate += alone(torch.einsum, "wio,wio->io", full, outer)
            outer.mul_(rate)
            rows.append((g @ full.mul_(rate).mT, ds @ outer.mT, hs @ outer))
        grad_x, grad_h, grad_d = (torch.cat(part) for part in zip(*rows, strict=True))
        return grad_x, grad_rate, grad_h, grad_d


def _chunk(rate: Tensor) -> int:
    return max(1, _CACHE // rate.numel())
