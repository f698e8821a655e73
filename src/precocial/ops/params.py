"""Dicts of parameters: shared ``(...)`` or one per task ``(N, ...)``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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


def depth(params: Iterable[str]) -> int:
    """Layers of the perceptron whose parameters, or names of them, these are."""
    return sum(name.startswith("weight_") for name in params)


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimizer the moments of another; its settings, such as the rate, stay its own.

    Counters stay on the CPU, where Adam reads them without waiting for a GPU.

    Raises:
        ValueError: the other had other parameters.
    """
    own = optimizer.state_dict()["param_groups"]
    groups = [g | {"params": s["params"]} for g, s in zip(own, state["param_groups"], strict=True)]
    moments = {
        i: {k: v.cpu() if k == "step" else v for k, v in values.items()}
        for i, values in state["state"].items()
    }
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


Rate = float | Params
"""Of a gradient step: one number, or one for each parameter that is to move."""


def sgd_step(params: Params, grads: Params, lr: Rate) -> Params:
    """Params - lr grads; where rates are one for each, parameters without one stay."""
    if isinstance(lr, dict):
        return params | {k: params[k] - rate * grads[k] for k, rate in lr.items()}
    return {k: torch.add(p, grads[k], alpha=-lr) for k, p in params.items()}
