"""What holds a run to its source while it is trained: frozen layers, a teacher, a leash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from precocial.algos.transfer.config import TransferConfig
from precocial.algos.transfer.surgery import Operation, layer_of
from precocial.nets.stack import Nets, flat
from precocial.types import Params

GUIDED = ("freeze", "features_from", "unfreeze_at", "critic_warmup", "l2_source", "kickstart")
"""Ways that go on while the run is trained; an algorithm names those it has, ``held_by``."""


class Guide:
    """Of one run.

    Args:
        cfg: Its ways.
        operation: How it began.
        teacher: The source's policy in the target's shape; None where there is none.
        device: Of the run's networks.
    """

    def __init__(
        self, cfg: TransferConfig, operation: Operation, teacher: Params | None,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        nets = {k: v for k, v in operation.nets.items() if k != "normaliser"}
        frozen = {row.layer for row in operation.plan if row.frozen}
        self.cfg, self.device = cfg, device
        self.teacher = None if teacher is None else {k: p.to(device) for k, p in teacher.items()}
        # A frozen layer must go on to read what it read.
        self.normaliser_frozen = any(layer.endswith(".0") for layer in frozen)
        self.trained = self._mask(nets, lambda net, k: layer_of(net, k) not in frozen)
        self.critics = self._mask(nets, lambda net, k: net != "actor")
        self.source = flat(nets).to(device)
        self.known = flat({k: operation.known[k] for k in nets}).to(device)

    def _mask(self, nets: Nets, keep: Any) -> Float[Tensor, " p"]:
        """1 for the numbers of what ``keep(net, name)`` says."""
        return torch.cat(
            [
                torch.full((p.numel(),), float(keep(net, k)), device=self.device)
                for net, params in nets.items()
                for k, p in params.items()
            ]
        )

    def trainable(self, env_steps: int) -> Float[Tensor, " p"]:
        """1 for every number that learns after so many environment steps of the run."""
        free = 0 < self.cfg.unfreeze_at <= env_steps
        mask = torch.ones_like(self.trained) if free else self.trained
        warming = env_steps < (self.cfg.critic_warmup or 0)
        return mask * self.critics if warming else mask

    def pull(self, env_steps: int) -> float:
        """Weight of the teacher after so many environment steps."""
        if self.teacher is None or not self.cfg.kickstart:
            return 0.0
        return self.cfg.kickstart * max(0.0, 1 - env_steps / self.cfg.kickstart_steps)

    def normalises(self, env_steps: int) -> bool:
        """Whether statistics of observations go on to be learned."""
        return not self.normaliser_frozen or 0 < self.cfg.unfreeze_at <= env_steps


class Guides:
    """Of S members, some or all of them without."""

    def __init__(self, guides: Sequence[Guide | None], env_steps: Sequence[int]) -> None:
        self.guides, self.env_steps = guides, env_steps
        some = [g for g in guides if g is not None]
        self.any = bool(some)
        pulls = [0.0 if g is None else g.pull(n) for g, n in zip(guides, env_steps, strict=True)]
        self.pull: Tensor | None = None
        """Weights of the teachers (S,); None where none pulls."""
        if not some:
            return
        device = some[0].device
        if any(pulls):
            self.pull = torch.tensor(pulls, device=device)
        one = torch.ones_like(some[0].trained)
        zero = torch.zeros_like(one)
        self.trainable = torch.stack(
            [one if g is None else g.trainable(n) for g, n in zip(guides, env_steps, strict=True)]
        )
        leash = [[0.0 if g is None else 2 * g.cfg.l2_source] for g in guides]
        self.leash = torch.tensor(leash, device=device)
        self.leashed = any(row[0] for row in leash)
        self.source = torch.stack([zero if g is None else g.source for g in guides])
        self.known = torch.stack([zero if g is None else g.known for g in guides])
        if self.pull is not None:
            teachers = [g.teacher if g is not None else None for g in guides]
            like = next(t for t in teachers if t is not None)
            self.teachers = {
                k: torch.stack([torch.zeros_like(p) if t is None else t[k] for t in teachers])
                for k, p in like.items()
            }

    def gradient(
        self, grad: Float[Tensor, "s p"], parameters: Float[Tensor, "s p"]
    ) -> Float[Tensor, "s p"]:
        """With the leash to the source, and 0 for what is frozen."""
        if not self.any:
            return grad
        if self.leashed:
            grad = grad + self.leash * self.known * (parameters - self.source)
        return grad * self.trainable

    def learning_statistics(self) -> list[bool]:
        """Of each member, whether its normaliser goes on to learn."""
        each = zip(self.guides, self.env_steps, strict=True)
        return [g is None or g.normalises(n) for g, n in each]
