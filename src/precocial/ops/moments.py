"""Running moments of data that come batch by batch."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def merge_moments(
    mean: Float[Tensor, " d"], var: Float[Tensor, " d"], count: Float[Tensor, ""],
    batch: Float[Tensor, "b d"],
) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"], Float[Tensor, ""]]:  # fmt: skip
    """Mean, variance and count of all data so far and a batch (Chan et al. 1979)."""
    num = batch.shape[0]
    total = count + num
    delta = batch.mean(0) - mean
    merged = (var * count + batch.var(0, correction=0) * num) / total
    return (
        mean + delta * num / total,
        merged + delta.square() * count * num / total**2,
        total,
    )
