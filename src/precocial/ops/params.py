"""Dicts of parameters: shared ``(...)`` or one per task ``(N, ...)``."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from precocial.types import Params


def expand(params: Params, n: int) -> Params:
    """One (shared-memory) copy per task, ``(...) -> (N, ...)``; gradients sum over tasks."""
    return {k: p.expand(n, *p.shape) for k, p in params.items()}


def detach(params: Params) -> Params:
    """The same values outside any graph."""
    return {k: p.detach() for k, p in params.items()}


def flatten(params: Params) -> Float[Tensor, " p"]:
    """All leaves as one vector, in the dict's order."""
    return torch.cat([p.reshape(-1) for p in params.values()])


def unflatten(vector: Float[Tensor, " p"], like: Params) -> Params:
    """The inverse of ``flatten``."""
    pieces = vector.split([p.numel() for p in like.values()])
    return {k: v.view_as(p) for (k, p), v in zip(like.items(), pieces, strict=True)}


def sgd_step(params: Params, grads: Params, lr: float | Params) -> Params:
    """Params - lr grads; ``lr`` is one number or one per parameter (Meta-SGD)."""
    if isinstance(lr, dict):
        return {k: p - lr[k] * grads[k] for k, p in params.items()}
    return {k: torch.add(p, grads[k], alpha=-lr) for k, p in params.items()}
