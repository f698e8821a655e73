"""ProMP: proximal meta-policy search.

Rothfuss, Lee, Clavera, Asfour, Abbeel 2019, https://arxiv.org/abs/1810.06784, Algorithm 1::

    sample N tasks; per task D = rollouts(theta_o), phi = theta_o - alpha grad L(theta_o; D),
    D' = rollouts(phi)
    for several epochs:  theta = Adam step on  J_clip(phi(theta); D') - eta KL_bar(theta_o, theta)

The inner objective is the likelihood ratio against the policy that sampled (Eq. 15), so plain
differentiation gives a low-variance meta-gradient; J_clip is PPO's clipped ratio on D' (Eq. 16);
KL_bar is the mean KL between the policies that collected each inner stage and the same stage's
policies as theta moves (Eq. 17).

Settings follow the authors' run scripts (40 tasks x 20 episodes, clip 0.3, eta 5e-4, Adam 1e-3,
5 epochs), not their class defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from precocial.algos.gradient.shared import (
    AdamUpdates,
    Batch,
    GradientConfig,
    MetaGradientConfig,
    add_gradient,
    chunks,
    surrogate,
)
from precocial.checks import at_least, in_range, positive
from precocial.ops.adaptation import descend
from precocial.ops.distributions import kl, log_prob
from precocial.ops.losses import ppo_clip_loss
from precocial.ops.sums import mean_of_each
from precocial.types import Metrics, TaskEnv, Tasks


@dataclass(frozen=True)
class ProMPConfig(GradientConfig, MetaGradientConfig):
    """Settings of ProMP."""

    outer_lr: float = 1e-3
    """Adam's rate (beta)."""
    outer_epochs: int = 5
    """Adam steps per iteration."""
    clip_eps: float = 0.3
    """Clipping range of the ratio on D' (epsilon)."""
    inner_kl_coef: float = 5e-4
    """Weight of the inner KL penalty (eta)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "outer_lr")
        at_least(self, 1, "outer_epochs", "inner_steps")
        in_range(self, 0, 1, "clip_eps")
        at_least(self, 0, "inner_kl_coef")


class ProMP(AdamUpdates):
    """Proximal meta-policy search."""

    cfg: ProMPConfig

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """One iteration of Algorithm 1."""
        stages = self.collect_stages(env, tasks, rng)  # D and D'
        *supports, query = stages.batches
        metrics = stages.metrics()
        for _ in range(self.cfg.outer_epochs):
            metrics |= self.outer_step(supports, query)
        self.update_statistics(stages)
        return metrics

    def outer_step(self, supports: list[Batch], query: Batch) -> Metrics:
        """One Adam step on the clipped meta-objective with the inner KL penalty."""
        n, meta = query.obs.shape[0], self.meta
        clip_total = kl_total = 0.0
        total = {k: torch.zeros_like(p) for k, p in meta.items()}
        for i in chunks(query, n):
            clip, inner_kl = self.task_losses([s.select(i) for s in supports], query.select(i))
            add_gradient(total, (clip + self.cfg.inner_kl_coef * inner_kl).sum() / n, meta)
            clip_total += float(clip.detach().sum()) / n
            kl_total += float(inner_kl.detach().sum()) / n
        self.adam_step(total)
        return {"loss/outer": clip_total, "loss/inner_kl": kl_total}

    def task_losses(self, supports: list[Batch], query: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Clipped loss on D' and mean inner KL, each (N,)."""
        theta, lr = self.parts(self.meta)
        phi = self.policy.start(theta, query.obs.shape[0])
        inner_kl = torch.zeros_like(query.advantage[:, 0])
        for support in supports:
            dist = self.policy.dist(phi, support.obs)
            inner_kl = inner_kl + mean_of_each(kl(support.dist, dist)) / len(supports)
            loss = surrogate(dist, support, self.cfg)
            phi = descend(loss, phi, lr, second_order=True)
        lp = log_prob(self.policy.dist(phi, query.obs), query.action)
        return ppo_clip_loss(lp, query.log_prob, query.advantage, self.cfg.clip_eps), inner_kl
