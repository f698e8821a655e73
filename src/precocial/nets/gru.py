"""A gated recurrent unit over whole sequences, several times faster than ``nn.GRU`` on a CPU.

Weights have the layout of ``nn.GRU``, rows r, z, n. With sigma the logistic function,

    r = sigma(W_ir x + b_ir + W_hr h + b_hr)
    z = sigma(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r (W_hn h + b_hn));     h' = (1 - z) n + z h

(Cho et al. 2014, PyTorch's variant: r gates the product, not the state.) The speed comes from
oneDNN's matrix product where it beats the default one, a backward pass written by hand, memory that
is used again, and lanes taken in chunks, one per thread.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from threading import Barrier
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Precision = Literal["float32", "bfloat16"]
_Result = TypeVar("_Result")

_aten = torch.ops.aten
_CHUNK = 2**17  # elements of the state of one chunk of lanes
_BLOCK = 2**17  # elements of the states of the steps whose products are taken at once
_FEWEST = 32  # lanes of a chunk: products with fewer rows are slow
_LARGE = 2**20  # multiplications from which oneDNN's larger overhead pays

# PyTorch sends float32 products to MKL, which on AMD leaves half of AVX-512 unused.
_ONEDNN = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


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
    over lanes and blocks of time keep the precision of ``x``.
    """
    inputs = (x, weight_ih, weight_hh, bias_ih, bias_hh, h0, keep)
    dtype = torch.bfloat16 if precision == "bfloat16" else x.dtype
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in inputs):
        return _Sequence.apply(*inputs, dtype)
    return _forward(_parts(x, h0.shape[1]), None, *inputs, dtype)


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
    w = _Weights.of(weight_ih, weight_hh, bias_ih, bias_hh)
    r, z = _affine(_affine(w.bias_rz, x, w.ih_rz), h, w.hh_rz).sigmoid_().chunk(2, -1)
    n = _affine(w.bias_in, x, w.ih_n).addcmul_(r, _affine(w.bias_hn, h, w.hh_n))
    return torch.lerp(_tanh_(n), h, z)


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


class _Gates(NamedTuple):
    """What the backward pass wants to know of every step, (T, B, 2H) or (T, B, H)."""

    rz: Tensor
    m: Tensor  # r (W_hn h + b_hn)
    n: Tensor

    @classmethod
    def of_lanes(cls, memory: Tensor, part: slice, steps: int, size: int) -> _Gates:
        """Those of some lanes, contiguous in a memory of 4 T B H elements."""
        each = steps * (part.stop - part.start) * size
        pieces = memory.narrow(0, 4 * steps * part.start * size, 4 * each).split(
            (2 * each, each, each)
        )
        return cls(*(v.view(steps, part.stop - part.start, -1) for v in pieces))


class _Memory:
    """Memory that later calls of the same size use again: new pages cost more than arithmetic."""

    free: ClassVar[deque[Tensor]] = deque(maxlen=8)

    def __init__(self, like: Tensor, numel: int) -> None:
        for _ in range(len(self.free)):
            try:
                self.flat = self.free.popleft()
            except IndexError:  # another thread was faster
                break
            if (self.flat.numel(), self.flat.dtype, self.flat.device) == (
                numel, like.dtype, like.device,
            ):  # fmt: skip
                return
            self.free.append(self.flat)
        self.flat = like.new_empty(numel)

    def __del__(self) -> None:
        self.free.append(self.flat)


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        *inputs, ctx.dtype = args
        x, size = inputs[0], inputs[2].shape[1]
        ctx.parts = _parts(x, size)
        ctx.memory = _Memory(x, 4 * x.shape[0] * x.shape[1] * size)
        out = _forward(ctx.parts, ctx.memory.flat, *args)
        ctx.save_for_backward(out, *inputs)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        out, x, weight_ih, weight_hh, _, _, h0, keep = ctx.saved_tensors
        steps, size = len(x), h0.shape[1]
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        need_weights = any(ctx.needs_input_grad[1:5])
        w_ih, w_hh = (w.to(ctx.dtype).contiguous() for w in (weight_ih, weight_hh))
        tasks = []
        for p in ctx.parts:
            gates = _Gates.of_lanes(ctx.memory.flat, p, steps, size)
            lanes = [v if v is None else v[:, p] for v in (grads[0], x, out, keep, grad_x)]
            tasks.append((*lanes, h0[p], w_ih, w_hh, gates, need_weights))
        *sums, grad_h0 = zip(*_run(_backward_chunk, tasks), strict=True)
        grad_ih, grad_hh, bias_ih, bias_hn = (torch.stack(v).sum(0) for v in sums)
        bias_hh = torch.cat([bias_ih[: 2 * size], bias_hn])
        return grad_x, grad_ih, grad_hh, bias_ih, bias_hh, torch.cat(grad_h0), None, None


def _forward(
    parts: list[slice],
    memory: Float[Tensor, " m"] | None,
    x: Float[Tensor, "t b i"],
    weight_ih: Float[Tensor, "g i"],
    weight_hh: Float[Tensor, "g h"],
    bias_ih: Float[Tensor, " g"],
    bias_hh: Float[Tensor, " g"],
    h0: Float[Tensor, "b h"],
    keep: Float[Tensor, "t b"] | None,
    dtype: torch.dtype,
) -> Float[Tensor, "t b h"]:
    """States after every step; ``memory``, if any, gets the gates."""
    steps, size = len(x), h0.shape[1]
    w = _Weights.of(weight_ih, weight_hh, bias_ih, bias_hh).packed(dtype)
    out = x.new_empty(steps, len(h0), size)
    tasks = []
    for p in parts:
        gates = None if memory is None else _Gates.of_lanes(memory, p, steps, size)
        lanes = [v if v is None else v[:, p] for v in (x, keep, out)]
        tasks.append((*lanes, h0[p], w, gates))
    _run(_forward_chunk, tasks)
    return out


def _forward_chunk(
    x: Float[Tensor, "t b i"],
    keep: Float[Tensor, "t b"] | None,
    out: Float[Tensor, "t b h"],
    h: Float[Tensor, "b h"],
    w: _Weights,
    gates: _Gates | None,
) -> None:
    """Fill ``out`` and ``gates``."""
    (steps, lanes), size, dtype = x.shape[:2], h.shape[1], w.hh_n.dtype
    if gates is None:  # the same memory for every step
        gates = _Gates(*(h.new_empty(lanes, k * size).expand(steps, -1, -1) for k in (2, 1, 1)))
    rz_t, m_t, n_t, out_t = (v.unbind(0) for v in (*gates, out))
    r_t, z_t = (v.unbind(0) for v in gates.rz.chunk(2, -1))
    keep_t = None if keep is None else keep.unsqueeze(-1).unbind(0)
    block = _block(lanes, size)
    for first in range(0, steps, block):
        rows = x[first : first + block].flatten(0, 1).to(dtype)  # (t, b, i) -> (t*b, i)
        i_rz = _affine(w.bias_rz, rows, w.ih_rz).split(lanes)
        i_n = _affine(w.bias_in, rows, w.ih_n).split(lanes)
        for t, (to_rz, to_n) in enumerate(zip(i_rz, i_n, strict=True), first):
            if keep_t is not None:
                h = h * keep_t[t]
            a = h.to(dtype)
            torch.sigmoid(_affine(to_rz, a, w.hh_rz).to(h.dtype), out=rz_t[t])
            torch.mul(r_t[t], _affine(w.bias_hn, a, w.hh_n).to(h.dtype), out=m_t[t])
            _tanh_(torch.add(m_t[t], to_n.to(h.dtype), out=n_t[t]))
            h = torch.lerp(n_t[t], h, z_t[t], out=out_t[t])


def _backward_chunk(
    grad: Float[Tensor, "t b h"],
    x: Float[Tensor, "t b i"],
    out: Float[Tensor, "t b h"],
    keep: Float[Tensor, "t b"] | None,
    grad_x: Float[Tensor, "t b i"] | None,
    h0: Float[Tensor, "b h"],
    w_ih: Float[Tensor, "g i"],
    w_hh: Float[Tensor, "g h"],
    gates: _Gates,
    need_weights: bool,
) -> tuple[Tensor, ...]:
    """Fill ``grad_x``; gradients of both weights, of b_ih, of b_hn and of h0.

    With g the gradient of h', h the state before the step (after ``keep``) and d_r, d_z, d_n those
    of the arguments of sigma, sigma and tanh:

        d_n = g (1 - z) (1 - n^2);     d_z = g (h - n) z (1 - z);     d_r = d_n m (1 - r)
        dh = g z + d_r W_hr + d_z W_hz + r d_n W_hn;     m = r (W_hn h + b_hn)

    All but g is known in advance, so the factors are computed for a block of steps at once.
    """
    (steps, lanes, inputs), size, dtype = x.shape, h0.shape[1], w_ih.dtype
    block = min(steps, _block(lanes, size))
    each = block * lanes * size
    scratch = _Memory(h0, 10 * each)
    d_h, d_i, before, to_z, to_n, to_r = (
        v.view(block, lanes, -1)
        for v in scratch.flat.split((3 * each, 3 * each, each, each, each, each))
    )
    d_h_t, to_z_t, to_n_t, to_r_t = (v.unbind(0) for v in (d_h, to_z, to_n, to_r))
    d_r_t, d_z_t, d_hn_t = (v.unbind(0) for v in d_h.chunk(3, -1))
    d_n_t = d_i[..., 2 * size :].unbind(0)
    r, z = gates.rz.chunk(2, -1)
    r_t, z_t = r.unbind(0), z.unbind(0)
    keep_t = None if keep is None else keep.unsqueeze(-1).unbind(0)
    one, zero = h0.new_ones(()), h0.new_zeros(())
    h_t, grad_t = (h0, *out.unbind(0)), (zero, *grad.unbind(0))
    sum_ih, sum_hh = h0.new_zeros(inputs, 3 * size), h0.new_zeros(size, 3 * size)
    bias_ih, bias_hn = h0.new_zeros(3 * size), h0.new_zeros(size)
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
        _aten.sigmoid_backward.grad_input(
            torch.sub(before, gates.n[now], out=to_z), z[now], grad_input=to_z
        )
        _aten.tanh_backward.grad_input(
            torch.sub(one, z[now], out=to_n), gates.n[now], grad_input=to_n
        )
        torch.addcmul(gates.m[now], gates.m[now], r[now], value=-1, out=to_r)
        for t in reversed(range(first, last)):
            j = t - first
            torch.mul(g, to_z_t[j], out=d_z_t[j])
            torch.mul(g, to_n_t[j], out=d_n_t[j])
            torch.mul(d_n_t[j], to_r_t[j], out=d_r_t[j])
            torch.mul(d_n_t[j], r_t[t], out=d_hn_t[j])
            d = d_h_t[j].to(dtype)
            if keep_t is None:
                g = _affine(torch.addcmul(grad_t[t], g, z_t[t]), d, w_hh)
            else:
                g = torch.addcmul(grad_t[t], _affine(g * z_t[t], d, w_hh), keep_t[t])
        d_i[..., : 2 * size] = d_h[..., : 2 * size]
        rows = d_i.flatten(0, 1).to(dtype)  # (t, b, 3h) -> (t*b, 3h)
        if grad_x is not None:
            grad_x[now] = _affine(rows.new_zeros(inputs), rows, w_ih).view(-1, lanes, inputs)
        if need_weights:
            bias_ih += d_i.sum((0, 1))
            bias_hn += d_h[..., 2 * size :].sum((0, 1))
            sum_ih = _affine(sum_ih, x[now].flatten(0, 1).to(dtype).T, rows)
            sum_hh = _affine(sum_hh, before.flatten(0, 1).to(dtype).T, d_h.flatten(0, 1).to(dtype))
    return sum_ih.T, sum_hh.T, bias_ih, bias_hn, g


def _affine(plus: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``plus + a b``, in the precision of ``plus``."""
    if a.dtype != plus.dtype:
        return torch.mm(a, b).to(plus.dtype).add_(plus)
    large = a.shape[0] * b.shape[0] * b.shape[1] >= _LARGE
    if _ONEDNN and large and a.dtype == torch.float32 and a.device.type == "cpu":
        if plus.ndim == 1:
            return torch.ops.mkldnn._linear_pointwise(a, b.T, plus, "none", [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(a, plus, b.T, None, "add")
    return torch.addmm(plus, a, b)


def _tanh_(x: Tensor) -> Tensor:
    """In place, as 2 sigmoid(2x) - 1."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def _block(lanes: int, size: int) -> int:
    """Steps taken at once where steps need not wait for each other."""
    return max(1, _BLOCK // (lanes * size))


def _parts(x: Float[Tensor, "t b i"], size: int) -> list[slice]:
    """Chunks of lanes: of equal size, a multiple of the threads that share them."""
    lanes = x.shape[1]
    threads = min(torch.get_num_threads() if x.device.type == "cpu" else 1, lanes // _FEWEST)
    threads = max(1, threads)
    pieces = math.ceil(lanes * size / _CHUNK / threads) * threads
    edges = [lanes * i // pieces for i in range(pieces + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def _run(function: Callable[..., _Result], tasks: list[tuple]) -> list[_Result]:
    """Results in order; side by side where this thread may use several cores."""
    threads = torch.get_num_threads()
    if len(tasks) == 1 or threads == 1:
        return [function(*t) for t in tasks]
    return list(_pool(threads).map(lambda t: torch.no_grad()(function)(*t), tasks))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that leave each operation undivided."""
    started = Barrier(threads + 1)

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, "gru", start)
    for _ in range(threads):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(threads)  # of threads to come; a worker's call has changed it
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
