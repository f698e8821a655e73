"""Trust-region steps: conjugate gradient and line search (Schulman et al. 2015, App. C)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from precocial.ops.sums import dot


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    target: Float[Tensor, " p"],
    iterations: int = 10,
    tolerance: float = 1e-10,
) -> Float[Tensor, " p"]:
    """Solve ``F x = target`` for a symmetric positive matrix given only by its product."""
    x = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    error = dot(residual, residual)
    for _ in range(iterations):
        image = product(direction)
        alpha = error / dot(direction, image)
        x = x + alpha * direction
        residual = residual - alpha * image
        new_error = dot(residual, residual)
        if new_error < tolerance:
            break
        direction = residual + new_error / error * direction
        error = new_error
    return x


def line_search(
    evaluate: Callable[[Tensor], tuple[float, float]],
    start: Float[Tensor, " p"],
    full_step: Float[Tensor, " p"],
    loss: float,
    max_kl: float,
    max_backtracks: int = 15,
) -> tuple[Float[Tensor, " p"], float, float]:
    """Shrink ``full_step`` until the loss falls and the KL stays within ``max_kl``.

    Since the KL is quadratic near the start, a step that broke the limit is shrunk by
    min(0.8, 0.95 sqrt(max_kl / kl)) instead of a blind 0.8.

    Args:
        evaluate: Parameters to (loss, KL to the start).
        start: Parameters now.
        full_step: Change proposed by the trust region's quadratic model.
        loss: Loss at ``start``.
        max_kl: Limit on the KL, nats.
        max_backtracks: Evaluations before giving up.

    Returns:
        The accepted parameters with their loss and KL; ``start`` with KL 0 if none was.
    """
    fraction = 1.0
    for _ in range(max_backtracks):
        candidate = start + fraction * full_step
        new_loss, new_kl = evaluate(candidate)
        if new_loss < loss and new_kl <= max_kl:
            return candidate, new_loss, new_kl
        shrink = 0.8
        if math.isfinite(new_kl) and new_kl > max_kl:
            shrink = min(shrink, 0.95 * math.sqrt(max_kl / new_kl))
        fraction *= shrink
    return start, loss, 0.0
