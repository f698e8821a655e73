"""A gated recurrent unit over whole sequences, about twice as fast as ``nn.GRU`` on a CPU.

Weights have the layout of ``nn.GRU``, rows r, z, n. With sigma the logistic function,

    r = sigma(W_ir x + b_ir + W_hr h + b_hr)
    z = sigma(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r (W_hn h + b_hn));     h' = (1 - z) n + z h

(Cho et al. 2014, PyTorch's variant: r gates the product, not the state.) The speed comes from
oneDNN's matrix product where PyTorch's own is slower, from a backward pass written by hand that
leaves little but products in the loop over time, and from memory that is used again.
"""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from precocial.nets.activations import sigmoid, tanh_
from precocial.nets.products import affine, outer
from precocial.threads import alone

Precision = Literal["float32", "bfloat16"]

_aten = torch.ops.aten
_BLOCK = 2**17  # elements of the states of the steps that are worked on at once where possible
_SMALL = 2**14  # elements of a state below which PyTorch's cell on one thread is fastest


def bfloat16_supported() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def gru_sequence(
    x: Float[Tensor, "t b i"],
    weight_ih: Float[Tensor, "g i"],
    weight_hh: Float[Tensor, "g h"],
    bias_ih: Float[Tensor, " g"],
    bias_hh: Float[Tensor, " g"],
    h0: Float[Tensor, "b h"],
    keep: Float[Tensor, "t b"] | None = None,
    *,
    precision: Precision = "float32",
) -> Float[Tensor, "t b h"]:
    """States after every step, from ``h0`` on; differentiable once, in everything but ``keep``.

    The state is multiplied by ``keep[t]`` before step t, so 0 clears it. Precision "bfloat16" takes
    the matrix products in bfloat16, faster where ``bfloat16_supported()``; states, gates and sums
    over blocks of time keep the precision of ``x``.
    """
    inputs = (x, weight_ih, weight_hh, bias_ih, bias_hh, h0, keep)
    dtype = torch.bfloat16 if precision == "bfloat16" else x.dtype
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in inputs):
        return _Sequence.apply(*inputs, dtype)
    return _forward(None, *inputs, dtype)


@torch.no_grad()
def gru_step(
    x: Float[Tensor, "b i"],
    h: Float[Tensor, "b h"],
    weight_ih: Float[Tensor, "g i"],
    weight_hh: Float[Tensor, "g h"],
    bias_ih: Float[Tensor, " g"],
    bias_hh: Float[Tensor, " g"],
) -> Float[Tensor, "b h"]:
    """The state after one step, without a graph."""
    if torch.compiler.is_compiling():  # an exporter's sizes are symbols
        return torch.gru_cell(x, h, weight_ih, weight_hh, bias_ih, bias_hh)
    if h.numel() < _SMALL:
        return alone(torch.gru_cell, x, h, weight_ih, weight_hh, bias_ih, bias_hh)
    w = _Weights.of(weight_ih, weight_hh, bias_ih, bias_hh)
    rz = affine(affine(w.bias_rz, x, w.ih_rz), h, w.hh_rz)
    r, z = sigmoid(rz, rz).chunk(2, -1)
    n = affine(w.bias_in, x, w.ih_n).addcmul_(r, affine(w.bias_hn, h, w.hh_n))
    return torch.lerp(tanh_(n), h, z)


class _Weights(NamedTuple):
    """Factors of the products, (in, out): r and z together, n apart."""

    ih_rz: Tensor
    ih_n: Tensor
    hh_rz: Tensor
    hh_n: Tensor
    bias_rz: Tensor
    bias_in: Tensor
    bias_hn: Tensor

    @classmethod
    def of(cls, ih: Tensor, hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> _Weights:
        n = 2 * hh.shape[1]
        ih, hh, both = ih.T, hh.T, bias_ih[:n] + bias_hh[:n]
        return cls(ih[:, :n], ih[:, n:], hh[:, :n], hh[:, n:], both, bias_ih[n:], bias_hh[n:])

    def packed(self, dtype: torch.dtype) -> _Weights:
        """Copies in the layout that products read fastest."""
        return _Weights(*(v.to(dtype).contiguous() for v in self))


class _Memory:
    """Memory that later calls of the same size use again: new pages cost a fifth of the time."""

    most_bytes = 2**27
    """Kept for later calls."""
    free: ClassVar[deque[Tensor]] = deque(maxlen=8)

    def __init__(self, flat: Float[Tensor, " n"]) -> None:
        self.flat = flat

    def __del__(self) -> None:
        self.free.append(self.flat)
        while sum(flat.nbytes for flat in self.free.copy()) > self.most_bytes:
            try:
                self.free.popleft()
            except IndexError:  # another thread took the last
                break

    @classmethod
    def like(cls, x: Tensor, numel: int) -> _Memory:
        for _ in range(len(cls.free)):
            try:
                flat = cls.free.popleft()
            except IndexError:  # another thread took the last
                break
            if (flat.numel(), flat.dtype, flat.device) == (numel, x.dtype, x.device):
                return cls(flat)
            cls.free.append(flat)
        return cls(x.new_empty(numel))

    def split(self, steps: int, lanes: int, *widths: int) -> list[Tensor]:
        """Contiguous (steps, lanes, width) for every width."""
        parts = self.flat.split([steps * lanes * w for w in widths])
        return [p.view(steps, lanes, w) for p, w in zip(parts, widths, strict=True)]


class _Gates(NamedTuple):
    """What the backward pass wants to know of every step, (T, B, 2H) or (T, B, H)."""

    rz: Tensor
    m: Tensor  # r (W_hn h + b_hn)
    n: Tensor


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, weight_ih, weight_hh, _, _, h0, keep, ctx.dtype = args
        (steps, lanes, _), size = x.shape, h0.shape[1]
        ctx.memory = _Memory.like(x, 4 * steps * lanes * size)  # free when the graph is
        ctx.gates = _Gates(*ctx.memory.split(steps, lanes, 2 * size, size, size))
        out = _forward(ctx.gates, *args)
        ctx.save_for_backward(out, x, weight_ih, weight_hh, h0, keep)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        gradients = _backward(wanted, ctx.dtype, grads[0], ctx.gates, *ctx.saved_tensors)
        return *gradients, None, None


def _forward(
    gates: _Gates | None,
    x: Float[Tensor, "t b i"],
    weight_ih: Float[Tensor, "g i"],
    weight_hh: Float[Tensor, "g h"],
    bias_ih: Float[Tensor, " g"],
    bias_hh: Float[Tensor, " g"],
    h: Float[Tensor, "b h"],
    keep: Float[Tensor, "t b"] | None,
    dtype: torch.dtype,
) -> Float[Tensor, "t b h"]:
    """States after every step; ``gates``, if any, are filled."""
    (steps, lanes), size = x.shape[:2], h.shape[1]
    w = _Weights.of(weight_ih, weight_hh, bias_ih, bias_hh).packed(dtype)
    if gates is None:  # the same memory for every step
        gates = _Gates(*(h.new_empty(lanes, k * size).expand(steps, -1, -1) for k in (2, 1, 1)))
    out = x.new_empty(steps, lanes, size)
    rz_t, m_t, n_t, out_t = (v.unbind(0) for v in (*gates, out))
    r_t, z_t = (v.unbind(0) for v in gates.rz.chunk(2, -1))
    keep_t = None if keep is None else keep.unsqueeze(-1).unbind(0)
    block = _block(lanes, size)
    for first in range(0, steps, block):
        rows = x[first : first + block].flatten(0, 1).to(dtype)  # (t, b, i) -> (t*b, i)
        i_rz = affine(w.bias_rz, rows, w.ih_rz).split(lanes)
        i_n = affine(w.bias_in, rows, w.ih_n).split(lanes)
        for t, (to_rz, to_n) in enumerate(zip(i_rz, i_n, strict=True), first):
            if keep_t is not None:
                h = h * keep_t[t]
            a = h.to(dtype)
            sigmoid(affine(to_rz, a, w.hh_rz).to(h.dtype), rz_t[t])
            torch.mul(r_t[t], affine(w.bias_hn, a, w.hh_n).to(h.dtype), out=m_t[t])
            tanh_(torch.add(m_t[t], to_n.to(h.dtype), out=n_t[t]))
            h = torch.lerp(n_t[t], h, z_t[t], out=out_t[t])
    return out


def _backward(
    wanted: tuple[bool, ...],
    dtype: torch.dtype,
    grad: Float[Tensor, "t b h"],
    gates: _Gates,
    out: Float[Tensor, "t b h"],
    x: Float[Tensor, "t b i"],
    weight_ih: Float[Tensor, "g i"],
    weight_hh: Float[Tensor, "g h"],
    h0: Float[Tensor, "b h"],
    keep: Float[Tensor, "t b"] | None,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, the weights, the biases and h0.

    With g the gradient of h', h the state before the step (after ``keep``) and d_r, d_z, d_n the
    gradients of the arguments of sigma, sigma and tanh,

        d_n = g (1 - z) (1 - n^2);     d_z = g (h - n) z (1 - z);     d_r = d_n m (1 - r)
        dh = g z + d_r W_hr + d_z W_hz + r d_n W_hn;     m = r (W_hn h + b_hn)

    All but g is known in advance: the factors are computed for a block of steps at once, and after
    the block the products for which no earlier step waits.
    """
    (steps, lanes, inputs), size = x.shape, h0.shape[1]
    block = min(steps, _block(lanes, size))
    scratch = _Memory.like(x, 10 * block * lanes * size)
    d_h, d_i, before, to_z, to_n, to_r = scratch.split(
        block, lanes, 3 * size, 3 * size, size, size, size, size
    )
    d_h_t, to_z_t, to_n_t, to_r_t = (v.unbind(0) for v in (d_h, to_z, to_n, to_r))
    d_r_t, d_z_t, d_hn_t = (v.unbind(0) for v in d_h.chunk(3, -1))
    d_n_t = d_i[..., 2 * size :].unbind(0)
    r, z = gates.rz.chunk(2, -1)
    r_t, z_t = r.unbind(0), z.unbind(0)
    keep_t = None if keep is None else keep.unsqueeze(-1).unbind(0)
    one, zero = x.new_ones(()), x.new_zeros(())
    h_t, grad_t = (h0, *out.unbind(0)), (zero, *grad.unbind(0))
    w_ih, w_hh = (w.to(dtype).contiguous() for w in (weight_ih, weight_hh))
    grad_x = torch.empty_like(x) if wanted[0] else None
    grad_ih, grad_hh = x.new_zeros(inputs, 3 * size), x.new_zeros(size, 3 * size)
    grad_bias, grad_bias_hn = x.new_zeros(3 * size), x.new_zeros(size)
    g = grad_t[steps]
    for last in range(steps, 0, -block):
        first = max(0, last - block)
        now = slice(first, last)
        d_h, d_i, before, to_z, to_n, to_r = (
            v[: last - first] for v in (d_h, d_i, before, to_z, to_n, to_r)
        )
        torch.stack(h_t[now], out=before)
        if keep is not None:
            before.mul_(keep[now].unsqueeze(-1))
        torch.sub(before, gates.n[now], out=to_z)
        _aten.sigmoid_backward.grad_input(to_z, z[now], grad_input=to_z)
        torch.sub(one, z[now], out=to_n)
        _aten.tanh_backward.grad_input(to_n, gates.n[now], grad_input=to_n)
        torch.addcmul(gates.m[now], gates.m[now], r[now], value=-1, out=to_r)
        for t in reversed(range(first, last)):
            j = t - first
            torch.mul(g, to_z_t[j], out=d_z_t[j])
            torch.mul(g, to_n_t[j], out=d_n_t[j])
            torch.mul(d_n_t[j], to_r_t[j], out=d_r_t[j])
            torch.mul(d_n_t[j], r_t[t], out=d_hn_t[j])
            d = d_h_t[j].to(dtype)
            if keep_t is None:
                g = affine(torch.addcmul(grad_t[t], g, z_t[t]), d, w_hh)
            else:
                g = torch.addcmul(grad_t[t], affine(g * z_t[t], d, w_hh), keep_t[t])
        d_i[..., : 2 * size] = d_h[..., : 2 * size]
        d = d_i.flatten(0, 1).to(dtype)  # (t, b, 3h) -> (t*b, 3h)
        if grad_x is not None:
            grad_x[now] = affine(d.new_zeros(inputs), d, w_ih).view(-1, lanes, inputs)
        if any(wanted[1:5]):
            grad_ih = outer(grad_ih, x[now].flatten(0, 1).to(dtype), d)
            d, rows = (v.flatten(0, 1).to(dtype) for v in (d_h, before))
            grad_hh = outer(grad_hh, rows, d)
            grad_bias += d_i.sum((0, 1))
            grad_bias_hn += d_h[..., 2 * size :].sum((0, 1))
    weights = grad_ih.T.contiguous(), grad_hh.T.contiguous()
    return grad_x, *weights, grad_bias, torch.cat([grad_bias[: 2 * size], grad_bias_hn]), g


def _block(lanes: int, size: int) -> int:
    """Steps worked on at once."""
    return max(1, _BLOCK // (lanes * size))
