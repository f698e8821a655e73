"""A gated recurrent unit over whole sequences, several times faster than ``nn.GRU`` on a CPU.

Weights have the layout of ``nn.GRU``: rows r, z, n. With sigma the logistic function,

    r = sigma(W_ir x + b_ir + W_hr h + b_hr)
    z = sigma(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r (W_hn h + b_hn));     h' = (1 - z) n + z h

(Cho et al. 2014, PyTorch's variant: r gates the product, not the state.) The speed comes from a
backward pass written by hand, lanes taken in chunks that fit the cache, one chunk per thread,
memory that is used again, and oneDNN's matrix product where it beats the default one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Precision = Literal["float32", "bfloat16"]
_Result = TypeVar("_Result")

_CHUNK = 2**17
_LANES = 32  # fewer rows than this and a matrix product slows down
_ROWS = 512  # of the products over several steps at once


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
    """States after every step; differentiable once, in everything but ``keep``.

    Args:
        keep: The state is multiplied by ``keep[t]`` before step t: 0 clears it.
        precision: Of the matrix products. With bfloat16 the state, the gates and the sums over
            lanes and time stay in the precision of ``x``.
    """
    inputs = (x, weight_ih, weight_hh, bias_ih, bias_hh, h0, keep)
    dtype = torch.bfloat16 if precision == "bfloat16" else x.dtype
    if torch.is_grad_enabled() and any(p is not None and p.requires_grad for p in inputs):
        return _Sequence.apply(*inputs, dtype)
    out, _ = _forward(*inputs, dtype, save=False)
    return out


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
    return gru_sequence(x.unsqueeze(0), weight_ih, weight_hh, bias_ih, bias_hh, h)[0]


class _Weights(NamedTuple):
    """Weights as the products want them, (in, out); the input's part of n is doubled."""

    ih_rz: Tensor
    ih_n: Tensor
    hh_rz: Tensor
    hh_n: Tensor
    bias_rz: Tensor
    bias_in: Tensor
    bias_hn: Tensor


class _Memory:
    """A flat piece of memory that later calls use again.

    Touching new pages costs a fifth of a forward and backward pass.
    """

    free: deque[Tensor] = deque(maxlen=16)

    def __init__(self, like: Tensor, numel: int) -> None:
        for i, old in enumerate(self.free):
            if old.numel() == numel and old.dtype == like.dtype and old.device == like.device:
                del self.free[i]
                self.flat = old
                return
        self.flat = like.new_empty(numel)

    def __del__(self) -> None:
        self.free.append(self.flat)

    def split(self, *shapes: tuple[int, ...]) -> list[Tensor]:
        sizes = [int(torch.Size(s).numel()) for s in shapes]
        parts = self.flat.split(sizes)
        return [p.view(s) for p, s in zip(parts, shapes, strict=True)]


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        *inputs, ctx.dtype = args
        out, ctx.gates = _forward(*inputs, ctx.dtype, save=True)
        ctx.save_for_backward(out, *inputs)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        out, x, weight_ih, weight_hh, _, _, h0, keep = ctx.saved_tensors
        grad = grads[0].contiguous()
        w_ih, w_hh = weight_ih.to(ctx.dtype).contiguous(), weight_hh.to(ctx.dtype).contiguous()
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None

        def task(part: slice, gates: _Memory) -> tuple[Tensor, ...]:
            return _backward_chunk(
                grad[:, part],
                x[:, part],
                out[:, part],
                h0[part],
                None if keep is None else keep[:, part],
                w_ih,
                w_hh,
                gates,
                None if grad_x is None else grad_x[:, part],
            )

        parts = zip(_parts(x, h0.shape[1]), ctx.gates, strict=True)
        results = _run([lambda a=a: task(*a) for a in parts])
        grad_ih, grad_hh, grad_bias, grad_h0 = zip(*results, strict=True)
        bias = torch.stack(grad_bias).sum(0)
        size = h0.shape[1]
        return (
            grad_x,
            torch.stack(grad_ih).sum(0).T.contiguous(),
            torch.stack(grad_hh).sum(0).T.contiguous(),
            bias[: 3 * size],
            torch.cat([bias[: 2 * size], bias[3 * size :]]),
            torch.cat(grad_h0),
            None,
            None,
        )


def _forward(x, weight_ih, weight_hh, bias_ih, bias_hh, h0, keep, dtype, save):
    size = h0.shape[1]
    n = 2 * size
    both = bias_ih + bias_hh
    w = _Weights(
        weight_ih[:n].T.to(dtype).contiguous(),
        weight_ih[n:].T.mul(2).to(dtype).contiguous(),
        weight_hh[:n].T.to(dtype).contiguous(),
        weight_hh[n:].T.to(dtype).contiguous(),
        both[:n].to(dtype),
        bias_ih[n:].mul(2).to(dtype),
        bias_hh[n:].to(dtype),
    )
    out = x.new_empty(*x.shape[:2], size)

    def task(part):
        return _forward_chunk(
            x[:, part], h0[part], None if keep is None else keep[:, part], w, out[:, part], save
        )

    return out, _run([lambda p=p: task(p) for p in _parts(x, size)])


def _forward_chunk(x, h, keep, w, out, save):
    steps, lanes, _ = x.shape
    size = h.shape[1]
    count = steps if save else 1
    memory = _Memory(x, count * lanes * 4 * size)
    rz, m, n = memory.split((count, lanes, 2 * size), (count, lanes, size), (count, lanes, size))
    rz, r, z, m, n = (
        v.unbind(0) * (steps // count)
        for v in (rz, rz[..., :size], rz[..., size:], m, n)
    )
    out = out.unbind(0)
    keep = None if keep is None else keep.unsqueeze(-1).unbind(0)
    dtype = w.hh_n.dtype
    block = max(1, _ROWS // lanes)
    for start in range(0, steps, block):
        rows = x[start : start + block].flatten(0, 1).to(dtype)
        in_rz = _affine(w.bias_rz, rows, w.ih_rz).view(-1, lanes, 2 * size).unbind(0)
        in_n = _affine(w.bias_in, rows, w.ih_n).view(-1, lanes, size).unbind(0)
        for t, (i_rz, i_n) in enumerate(zip(in_rz, in_n, strict=True), start):
            if keep is not None:
                h = h * keep[t]
            a = h.to(dtype)
            torch.sigmoid(_affine(i_rz, a, w.hh_rz).to(h.dtype), out=rz[t])
            torch.mul(_affine(w.bias_hn, a, w.hh_n).to(h.dtype), r[t], out=m[t])
            torch.add(i_n.to(h.dtype), m[t], alpha=2, out=n[t]).sigmoid_().mul_(2).sub_(1)
            h = torch.lerp(n[t], h, z[t], out=out[t])
    return memory if save else None


def _backward_chunk(grad, x, out, h0, keep, w_ih, w_hh, gates, grad_x):
    steps, lanes, inputs = x.shape
    size = h0.shape[1]
    dtype = w_ih.dtype
    rz, m, n = gates.split((steps, lanes, 2 * size), (steps, lanes, size), (steps, lanes, size))
    r, z = rz.split(size, -1)
    block = min(steps, max(1, _ROWS // lanes))
    one = (block, lanes, size)
    memory = _Memory(x, 10 * block * lanes * size)
    before, f_z, f_n, f_r, d_h, d_i = memory.split(one, one, one, one, (block, lanes, 3*size), (block, lanes, 3 * size))
    acc_i = x.new_zeros(inputs, 3 * size)
    acc_h = x.new_zeros(size, 3 * size)
    acc_b = x.new_zeros(4 * size)
    grads = grad.unbind(0)
    r_t, z_t = r.unbind(0), z.unbind(0)
    keeps = None if keep is None else keep.unsqueeze(-1).unbind(0)
    unit = x.new_ones(())
    d_hr, d_hz, d_hn = (v.unbind(0) for v in d_h.split(size, -1))
    d_n = d_i[..., 2 * size:].unbind(0)
    d_h_t = d_h.unbind(0)
    fz_t, fn_t, fr_t = f_z.unbind(0), f_n.unbind(0), f_r.unbind(0)
    carry = grads[-1]
    last = steps
    while last > 0:
        first = max(0, last - block)
        k = last - first
        now = slice(first, last)
        if first:
            before[:k].copy_(out[first - 1 : last - 1])
        else:
            before[0].copy_(h0)
            before[1:k].copy_(out[: last - 1])
        if keep is not None:
            before[:k].mul_(keep[now].unsqueeze(-1))
        torch.sub(before[:k], n[now], out=f_z[:k])
        torch.ops.aten.sigmoid_backward.grad_input(f_z[:k], z[now], grad_input=f_z[:k])
        torch.sub(unit, z[now], out=f_n[:k])
        torch.ops.aten.tanh_backward.grad_input(f_n[:k], n[now], grad_input=f_n[:k])
        torch.addcmul(m[now], m[now], r[now], value=-1, out=f_r[:k])
        for j in range(k - 1, -1, -1):
            t = first + j
            torch.mul(carry, fz_t[j], out=d_hz[j])
            torch.mul(carry, fn_t[j], out=d_n[j])
            torch.mul(d_n[j], fr_t[j], out=d_hr[j])
            torch.mul(d_n[j], r_t[t], out=d_hn[j])
            d = d_h_t[j].to(dtype)
            if keeps is None and t:
                carry = _affine(torch.addcmul(grads[t - 1], carry, z_t[t]), d, w_hh)
            else:
                carry = _affine(carry * z_t[t], d, w_hh)
                if keeps is not None:
                    carry.mul_(keeps[t])
                    if t:
                        carry.add_(grads[t - 1])
        d_i[:k, :, : 2 * size].copy_(d_h[:k, :, : 2 * size])
        i = d_i[:k].flatten(0, 1)
        acc_b[:3 * size] += i.sum(0)
        acc_b[3 * size:] += d_h[:k, :, 2 * size:].sum((0, 1))
        i = i.to(dtype)
        acc_i = _affine(acc_i, x[now].flatten(0, 1).to(dtype).T, i)
        acc_h = _affine(acc_h, before[:k].flatten(0, 1).to(dtype).T, d_h[:k].flatten(0, 1).to(dtype))
        if grad_x is not None:
            grad_x[now] = _product(i, w_ih).view(k, lanes, inputs)
        last = first
    return acc_i, acc_h, acc_b, carry


def _affine(plus, a, b):
    if a.dtype != plus.dtype:
        return torch.mm(a, b).to(plus.dtype).add_(plus)
    if _onednn(a, b):
        if plus.ndim == 1:
            return torch.ops.mkldnn._linear_pointwise(a, b.T, plus, "none", [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(a, plus, b.T, None, "add")
    return torch.addmm(plus, a, b)


def _product(a, b):
    if _onednn(a, b):
        return torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")
    return torch.mm(a, b)


def _onednn(a, b):
    return (
        a.dtype == torch.float32
        and a.device.type == "cpu"
        and a.shape[0] * b.shape[0] * b.shape[1] >= 2**20
        and _HAS
    )


_HAS = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def _parts(x, size):
    steps, lanes = x.shape[:2]
    threads = 1 if x.device.type != "cpu" else min(torch.get_num_threads(), max(1, lanes // _LANES))
    pieces = -(-lanes // max(_LANES, _CHUNK // size))
    pieces = -(-pieces // threads) * threads
    edges = [lanes * i // pieces for i in range(pieces + 1)]
    return [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]


def _run(tasks):
    threads = torch.get_num_threads()
    if len(tasks) == 1 or threads == 1:
        return [t() for t in tasks]
    return list(_pool(threads).map(_quietly, tasks))


@torch.no_grad()
def _quietly(t):
    return t()


@cache
def _pool(threads):
    barrier = Barrier(threads + 1)

    def start():
        torch.set_num_threads(1)
        barrier.wait()

    pool = ThreadPoolExecutor(threads, initializer=start)
    for _ in range(threads):
        pool.submit(int)
    barrier.wait()
    torch.set_num_threads(threads)
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)
