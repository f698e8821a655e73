"""E-MAML: MAML that credits the episodes before an update with the return after it.

Stadie, Yang, Houthooft, Chen, Duan, Wu, Abbeel, Sutskever 2018, https://arxiv.org/abs/1803.01118,
Eq. 5: of E[J(phi(D))], D sampled by theta, the gradient is

    E[ grad J(phi(D))  +  J(phi(D)) sum_e grad log pi_theta(tau_e) ],     D = tau_1 .. tau_E

MAML has the first term alone. The second makes theta collect what is worth adapting to. It goes
with the log-likelihood as inner loss: a likelihood ratio or DiCE already counts that D depends on
theta through the expected update, and would count it twice.

J is the return of an episode, less its mean over the other tasks, in a unit that all tasks share.
The sum over episodes does not become quieter with more of them, since all have the credit for one
J: give it tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from precocial.algos.gradient.maml import MAML, MAMLConfig
from precocial.algos.gradient.shared import Batch, Estimator, policy_losses, score
from precocial.checks import at_least
from precocial.ops.adaptation import inner_update
from precocial.ops.distributions import log_prob
from precocial.ops.sums import mean, mean_of_each
from precocial.types import Acting, Params, Rollout, UserError


@dataclass(frozen=True)
class EMAMLConfig(MAMLConfig):
    """Settings of ``e-maml``."""

    num_tasks: int = 80
    """Tasks per iteration (N, the meta-batch)."""
    episodes_per_task: int = 10
    """Parallel episodes per task and stage (E)."""
    estimator: Estimator = "log-likelihood"
    """Inner surrogate; the credit goes with this one alone."""
    credit: float = 1.0
    """Weight of the credit; 1: the gradient is unbiased, with --gamma 1 and
    --no-normalize-advantages."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        at_least(self, 0, "credit")
        at_least(self, 1, "inner_steps")
        at_least(self, 2, "num_tasks")
        if self.estimator != "log-likelihood":
            raise UserError(
                f"--estimator is {self.estimator}; e-maml knows only log-likelihood, since others "
                "count exploration already"
            )


def above_others(batch: Batch) -> Float[Tensor, " n"]:
    """Return of a lane's first episode, less the mean of the other tasks.

    In mean deviations of advantages, times the episodes of a lane, as a lane's sum of losses is.
    """
    n, opened = len(batch.reward), batch.first.cumsum(-1)
    earned = (batch.reward * (opened == 1)).sum(2).mean(1)
    # One unit for all tasks: where nothing was earned a task's own deviation is 0.
    unit = (1 / batch.scale).mean() / mean(opened[..., -1])
    return (earned - earned.mean()) * n / max(n - 1, 1) / unit


class EMAML(MAML):
    """MAML with credit for what was collected."""

    cfg: EMAMLConfig

    def score(self, rollout: Rollout, actor: Acting) -> Batch:
        """With the credit of each task."""
        batch = score(rollout, self.cfg, self.spec)
        return batch._replace(above=above_others(batch))

    def outer_loss(
        self, meta: Params, supports: list[Batch], query: Batch, *, second_order: bool
    ) -> tuple[Tensor, Tensor]:
        """MAML's, and the credit."""
        loss, divergence = super().outer_loss(meta, supports, query, second_order=second_order)
        credit = self.chance(meta, supports, second_order=second_order) * query.above
        return loss - self.cfg.credit * credit, divergence

    def chance(self, meta: Params, supports: list[Batch], *, second_order: bool) -> Tensor:
        """Log probability of all actions of all episodes, in steps of a lane, (N,)."""
        theta, lr = self.parts(meta)
        phi = self.policy.start(theta, len(supports[0].obs))
        total = torch.zeros_like(supports[0].above)
        losses = policy_losses(self.policy, supports, self.cfg)
        for k, support in enumerate(supports):
            lp = log_prob(self.policy.dist(phi, support.obs), support.action)
            total = total + support.reward.shape[1] * mean_of_each(lp)
            if k < len(supports) - 1:
                phi = inner_update(losses[k], phi, lr, second_order=second_order)
        return total
