"""The inner loop of gradient-based meta-learning, for any differentiable loss.

A loss takes parameters stacked over tasks (N, ...) and gives one value per task, (N,). It averages
inside a task and never over tasks, so the gradient of the sum is each task's own gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from precocial.ops.params import Rate, sgd_step
from precocial.types import Params

TaskLoss = Callable[[Params], Float[Tensor, " n"]]


def inner_update(loss: TaskLoss, params: Params, lr: Rate, *, second_order: bool) -> Params:
    """Phi = theta - alpha grad L(theta) for every task (Finn et al. 2017, Eq. 1).

    With ``second_order`` the result can be differentiated through the gradient; without, the
    gradient counts as a constant, and phi still depends on theta through the identity (FOMAML).
    """
    with torch.enable_grad():
        if not any(p.requires_grad for p in params.values()):
            params = {k: p.detach().requires_grad_() for k, p in params.items()}
        return descend(loss(params), params, lr, second_order=second_order)


def descend(loss: Float[Tensor, " n"], params: Params, lr: Rate, *, second_order: bool) -> Params:
    """The same for a loss already computed from ``params``, which may count elsewhere, too."""
    names = list(lr if isinstance(lr, dict) else params)
    moved = [params[k] for k in names]
    grads = torch.autograd.grad(loss.sum(), moved, retain_graph=True, create_graph=second_order)
    return sgd_step(params, dict(zip(names, grads, strict=True)), lr)


def adapt(losses: Sequence[TaskLoss], theta: Params, lr: Rate, *, second_order: bool) -> Params:
    """One inner update per loss, from theta (N, ...): phi as a function of theta."""
    for loss in losses:
        theta = inner_update(loss, theta, lr, second_order=second_order)
    return theta
