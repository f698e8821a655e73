"""Reptile for RL: move the initialisation towards what each task made of it.

Nichol, Achiam, Schulman 2018, https://arxiv.org/abs/1803.02999, Algorithm 2 (batched)::

    per task:  phi = K inner updates from theta, each on fresh rollouts
    theta = theta + epsilon mean_i (phi_i - theta)

The inner optimiser is SGD, or an Adam whose moments start afresh for every task, since its state
would carry one task's curvature into another's. Observation statistics are shared, never
interpolated.

Deviation: the paper reports no RL results; an inner update here is ``inner_epochs`` steps on the
clipped surrogate of one batch of episodes (with one epoch, the plain policy gradient).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from precocial.algos.gradient.shared import (
    Batch,
    GradientConfig,
    SampledUpdates,
    Update,
)
from precocial.checks import at_least, in_range, positive
from precocial.nets.mlp import Policy
from precocial.ops.distributions import log_prob
from precocial.ops.losses import ppo_clip_loss
from precocial.ops.params import Rate, detach, restore
from precocial.ops.sums import total
from precocial.types import Metrics, Params, TaskEnv, Tasks, UserError


@dataclass(frozen=True)
class ReptileConfig(GradientConfig):
    """Settings of Reptile."""

    inner_steps: int = 3
    """Inner updates in training (K), each on fresh samples."""
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimiser inside a task; adam starts afresh for every task."""
    inner_epochs: int = 1
    """Gradient steps per inner update on the same samples."""
    clip_eps: float = 0.3
    """Clipping range of the ratio when inner_epochs > 1 (epsilon)."""
    outer_lr: float = 0.5
    """Interpolation towards the adapted parameters (epsilon in the paper), in (0, 1]."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        at_least(self, 1, "inner_steps", "inner_epochs")
        positive(self, "outer_lr")
        in_range(self, 0, 1, "clip_eps", "outer_lr")
        if self.estimator != "likelihood-ratio":
            raise UserError(f"--estimator is {self.estimator}; reptile knows only likelihood-ratio")


class InnerOptimizer:
    """The inner updates of one trial; elementwise, so stacked tasks stay independent."""

    def __init__(self, policy: Policy, cfg: ReptileConfig) -> None:
        self.policy, self.cfg = policy, cfg
        self.moments: dict[str, Any] | None = None

    def __call__(self, params: Params, batch: Batch, lr: Rate) -> Params:
        """One inner update on one batch."""
        assert not isinstance(lr, dict)  # none are learned
        phi = {k: p.detach().clone().requires_grad_() for k, p in params.items()}
        adam = self.cfg.inner_optimizer == "adam"
        optimizer = (torch.optim.Adam if adam else torch.optim.SGD)(list(phi.values()), lr=lr)
        if self.moments is not None:
            restore(optimizer, self.moments)
        with torch.enable_grad():
            for _ in range(self.cfg.inner_epochs):
                lp = log_prob(self.policy.dist(phi, batch.obs), batch.action)
                loss = ppo_clip_loss(lp, batch.log_prob, batch.advantage, self.cfg.clip_eps)
                optimizer.zero_grad()
                loss.sum().backward()
                optimizer.step()
        self.moments = optimizer.state_dict()
        return detach(phi)

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's moments."""
        return {"moments": self.moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.moments = state["moments"]


@torch.no_grad()
def interpolate(theta: Params, phi: Params, outer_lr: float) -> float:
    """Theta moves to theta + epsilon mean_i (phi_i - theta), in place; how far it moved."""
    change = 0.0
    for name, p in theta.items():
        step = outer_lr * (phi[name].mean(0) - p)
        change += float(total(step.square()))
        p.add_(step)
    return change**0.5


class Reptile(SampledUpdates):
    """First-order meta-learning by interpolation."""

    cfg: ReptileConfig

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """One iteration of Algorithm 2."""
        stages = self.collect_stages(env, tasks, rng, query=False)
        change = interpolate(self.policy.theta, stages.phi, self.cfg.outer_lr)
        self.update_statistics(stages)
        return stages.metrics() | {"loss/parameter_change": change}

    def make_update(self) -> Update:
        """The inner optimiser of a new trial, with fresh moments."""
        return InnerOptimizer(self.policy, self.cfg)
