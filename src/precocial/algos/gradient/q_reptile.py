"""Reptile over a Q-network: move initial values towards what each task made of them.

Nichol, Achiam, Schulman 2018, https://arxiv.org/abs/1803.02999, Algorithm 2 (batched), with the
inner loss of ``q-maml``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from precocial.algos.gradient.q_maml import QConfig, QUpdates
from precocial.algos.gradient.reptile import interpolate
from precocial.checks import at_least, in_range, positive
from precocial.types import Metrics, TaskEnv, Tasks


@dataclass(frozen=True)
class QReptileConfig(QConfig):
    """Settings of ``q-reptile``."""

    outer_lr: float = 0.5
    """Interpolation towards the adapted parameters (epsilon in the paper), in (0, 1]."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        at_least(self, 1, "inner_steps")
        positive(self, "outer_lr")
        in_range(self, 0, 1, "outer_lr")


class QReptile(QUpdates):
    """First-order meta-learning of values by interpolation."""

    cfg: QReptileConfig

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """One iteration."""
        stages = self.collect_stages(env, tasks, rng, query=False)
        change = interpolate(self.policy.theta, stages.phi, self.cfg.outer_lr)
        self.update_statistics(stages)
        return stages.metrics() | {"loss/parameter_change": change, "train/epsilon": self.epsilon}
