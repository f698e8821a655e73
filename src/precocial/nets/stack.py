"""Networks of one shape, stacked: the parameters of each are a row of one matrix.

So S networks are stepped by a handful of operations on (S, P), whatever the number of their layers,
and each as if it were alone: norms, moments and rates are a row's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from precocial.ops.sums import total
from precocial.types import Params

Nets = dict[str, Params]
"""Networks by name, e.g. ``actor`` and ``critic``, each its parameters by name."""


class Stack:
    """S rows of networks, ready to be differentiated and stepped.

    Args:
        members: The networks of each; copied.
    """

    def __init__(self, members: Sequence[Nets]) -> None:
        self.flat = torch.stack([flat(nets) for nets in members])
        self.nets: Nets = {}
        self.leaves: list[Tensor] = []
        """Parameters (S, ...) in the order of the columns; they share memory with ``flat``."""
        start = 0
        for name, params in members[0].items():
            self.nets[name] = {}
            for k, p in params.items():
                part = self.flat[:, start : start + p.numel()]
                leaf = part.view(len(members), *p.shape).detach().requires_grad_()
                self.nets[name][k] = leaf
                self.leaves.append(leaf)
                start += p.numel()

    def gradient(self, loss: Float[Tensor, " s"]) -> Float[Tensor, "s p"]:
        """Of each row's own loss; 0 for what it does not depend on."""
        grads = torch.autograd.grad(loss.sum(), self.leaves, materialize_grads=True)
        return torch.cat([g.flatten(1) for g in grads], 1)

    def rows(self) -> list[Nets]:
        """The networks of each member, copied out."""
        return [
            {
                name: {k: p[i].detach().clone() for k, p in params.items()}
                for name, params in self.nets.items()
            }
            for i in range(len(self.flat))
        ]


def flat(nets: Nets) -> Float[Tensor, " p"]:
    """All parameters one after the other."""
    return torch.cat([p.reshape(-1) for params in nets.values() for p in params.values()])


@torch.no_grad()
def follow(slow: Nets, nets: Nets, share: float) -> None:
    """Move slow copies of some networks a share of the way, in place (Polyak)."""
    torch._foreach_lerp_(
        [p for params in slow.values() for p in params.values()],
        [p for name in slow for p in nets[name].values()],
        share,
    )


def clip_norms(grad: Float[Tensor, "s p"], longest: float) -> Float[Tensor, "s p"]:
    """Scale down the rows that are longer than ``longest``."""
    square = grad.square()
    norm = (square.sum(1) if len(grad) > 1 else total(square).unsqueeze(0)).sqrt()
    return grad * (longest / (norm + 1e-6)).clamp(max=1.0).unsqueeze(1)


class Moments:
    """Adam (Kingma and Ba 2015, Algorithm 1) for rows, each with a rate and a clock of its own."""

    def __init__(self, states: Sequence[dict[str, Tensor]], eps: float) -> None:
        self.m, self.v = (torch.stack([s[k] for s in states]) for k in ("m", "v"))
        self.count = torch.stack([s["count"] for s in states]).unsqueeze(1)
        self.eps = eps

    @staticmethod
    def zero(nets: Nets) -> dict[str, Tensor]:
        """Of a network that was never stepped."""
        zeros = torch.zeros_like(flat(nets))
        return {"m": zeros, "v": zeros.clone(), "count": zeros.new_zeros(())}

    @torch.no_grad()
    def step(
        self,
        flat: Float[Tensor, "s p"],
        grad: Float[Tensor, "s p"],
        lr: Float[Tensor, "s 1"] | float,
    ) -> None:
        """Move ``flat`` in place."""
        self.count += 1
        self.m.lerp_(grad, 0.1)
        self.v.mul_(0.999).addcmul_(grad, grad, value=0.001)
        by_count = 1 - 0.9**self.count, (1 - 0.999**self.count).sqrt()
        flat.sub_(self.m * (lr / by_count[0]) / (self.v.sqrt() / by_count[1] + self.eps))

    def rows(self) -> list[dict[str, Tensor]]:
        """Of each member, copied out."""
        parts = zip(self.m, self.v, self.count, strict=True)
        return [{"m": m.clone(), "v": v.clone(), "count": c[0].clone()} for m, v, c in parts]
