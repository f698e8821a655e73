"""MAML over a Q-network: initial values from which temporal differences go far.

Finn, Abbeel, Levine 2017, https://arxiv.org/abs/1703.03400, Algorithm 1, with the loss of
Q-learning (Watkins, Dayan 1992) instead of a policy's::

    per task, K times from phi_0 = theta
        D_k = episodes of phi_k, the best action but with chance epsilon any
        phi_{k+1} = phi_k - alpha grad L(phi_k; D_k)
    theta, alpha <- Adam on grad sum_{k = 1..K} L(phi_k; D_k) through all updates

    L(phi; D) = mean over (s, a) of D of (Q_phi(s, a) - y)^2 / 2,    y held still
    y_t = r_t + gamma ((1 - lambda) max_a Q_phi(s_{t+1}, a) + lambda y_{t+1})

y are lambda-returns that no exploratory action cuts (Peng, Williams 1996,
https://doi.org/10.1007/BF00114731, Eq. 14), towards values of the present parameters. alpha is one
number for each parameter (Li et al. 2017, Meta-SGD). ``first_order`` drops second derivatives.

Unlike a policy's, the loss says nothing of how well the data were collected: exploring is epsilon's
part, and is not learned. With ``inner_steps`` 0 the very same code is joint Q-learning over all
tasks: ``q-multi-task``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from precocial.algos.gradient.shared import (
    AdamUpdates,
    GradientDescent,
    MetaGradientConfig,
    SampledUpdates,
    Stages,
    UpdatesConfig,
    add_gradient,
    chunks,
)
from precocial.checks import at_least, in_range, positive
from precocial.nets.mlp import Activation, QNetwork
from precocial.ops.adaptation import descend
from precocial.ops.params import flatten
from precocial.ops.returns import gae
from precocial.ops.sums import mean_of_each
from precocial.types import Acting, EnvSpec, Metrics, Params, Rollout, TaskEnv, Tasks, UserError


@dataclass(frozen=True)
class QConfig(UpdatesConfig):
    """Settings that every meta-learner of values has."""

    num_tasks: int = 20
    """Tasks per iteration (N, the meta-batch)."""
    episodes_per_task: int = 10
    """Parallel lanes per task and stage, each a horizon long (E)."""
    hidden: tuple[int, ...] = (64,)
    """Widths of the hidden layers; none: values linear in the observation, on cells a table."""
    activation: Activation = "relu"
    """Hidden activation."""
    inner_steps: int = 3
    """Inner updates in training (K), each on fresh samples."""
    inner_lr: float = 1.0
    """Inner learning rate (alpha); where it is learned, at first."""
    gamma: float = 0.9
    """Discount per environment step (gamma)."""
    td_lambda: float = 0.9
    """Weight of longer returns as targets (lambda); 0: one step."""
    epsilon: float = 1.0
    """Chance of a random action at first."""
    final_epsilon: float = 0.3
    """The same in the end, and at test time."""
    explore: float = 0.4
    """Share of the run in which it falls."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        in_range(self, 0, 1, "td_lambda", "epsilon", "final_epsilon", "explore")


@dataclass(frozen=True)
class QMAMLConfig(QConfig, MetaGradientConfig):
    """Settings of ``q-maml``."""

    learn_lr: bool = True
    """Learn one inner rate per parameter (Meta-SGD), for every update, instead of adapt_lrs."""
    first_order: bool = False
    """Drop the second derivative (FOMAML)."""
    outer_lr: float = 5e-3
    """Adam's rate at first (beta); it falls linearly to 0."""
    outer_epochs: int = 3
    """Adam steps per iteration."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "outer_lr")
        at_least(self, 1, "outer_epochs")


class QBatch(NamedTuple):
    """Data of one stage."""

    obs: Shaped[Tensor, "n b o"]
    action: Int[Tensor, "n b"]
    """B = E*T."""
    next_obs: Shaped[Tensor, "n b o"]
    reward: Float[Tensor, "n e t"]
    terminated: Bool[Tensor, "n e t"]
    truncated: Bool[Tensor, "n e t"]

    @property
    def rows(self) -> int:
        """Transitions of a task (B)."""
        return self.action.shape[1]

    def select(self, index: slice) -> QBatch:
        """The tasks at ``index``."""
        return QBatch(*(x[index] for x in self))


def td_loss(network: QNetwork, cfg: QConfig, batch: QBatch, params: Params) -> Float[Tensor, " n"]:
    """L(phi; D) of each task."""
    q = network.values(params, batch.obs)
    with torch.no_grad():
        now = q.max(-1).values.view_as(batch.reward)
        following = network.values(params, batch.next_obs).max(-1).values.view_as(batch.reward)
        ends = batch.terminated, batch.truncated
        y = now + gae(batch.reward, now, following, *ends, cfg.gamma, cfg.td_lambda)
    error = q.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1) - y.flatten(1)
    return mean_of_each(error.square()) / 2


class QUpdates(SampledUpdates):
    """A method of this kind whose network holds values of actions."""

    cfg: QConfig
    policy: QNetwork
    greedy = True
    network = "q"

    def __init__(
        self, cfg: QConfig, spec: EnvSpec, rng: torch.Generator, device: str = "cpu"
    ) -> None:
        if spec.action_kind != "discrete":
            raise UserError(
                f"{spec.name} has continuous actions; values of actions need discrete ones, try "
                "maml, promp or reptile"
            )
        super().__init__(cfg, spec, rng, device)
        self.policy.epsilon = cfg.final_epsilon

    def initial_policy(self, rng: torch.Generator) -> QNetwork:
        """Untrained values."""
        cfg, rest = self.cfg, (self.cfg.normalize_obs, rng, self.context_dim)
        return QNetwork(self.spec, cfg.hidden, cfg.activation, *rest)

    def score(self, rollout: Rollout, actor: Acting) -> QBatch:
        """What the loss reads of a stage."""
        obs, action, next_obs = (
            x.flatten(1, 2) for x in (rollout.obs, rollout.action, rollout.next_obs)
        )
        return QBatch(obs, action, next_obs, rollout.reward, rollout.terminated, rollout.truncated)

    def make_update(self) -> GradientDescent:
        """Gradient descent on temporal differences."""
        return GradientDescent(partial(td_loss, self.policy, self.cfg))

    @property
    def epsilon(self) -> float:
        """Of this iteration."""
        done = min(1.0, self.progress / self.cfg.explore) if self.cfg.explore else 1.0
        return self.cfg.epsilon + done * (self.cfg.final_epsilon - self.cfg.epsilon)

    def collect_stages(
        self, env: TaskEnv, tasks: Tasks, rng: torch.Generator, *, query: bool = True
    ) -> Stages:
        """With the chance of a random action that training has by now."""
        self.policy.epsilon = self.epsilon
        stages = super().collect_stages(env, tasks, rng, query=query)
        self.policy.epsilon = self.cfg.final_epsilon
        return stages


class QMAML(QUpdates, AdamUpdates):
    """Model-agnostic meta-learning of values."""

    cfg: QMAMLConfig

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """One iteration."""
        stages = self.collect_stages(env, tasks, rng)
        metrics = stages.metrics() | {"train/epsilon": self.epsilon}
        for _ in range(self.cfg.outer_epochs):
            gradient, loss = self.outer_gradient(stages.batches)
            self.adam_step(gradient, 1 - self.progress)
            metrics |= {"loss/outer": loss, "loss/gradient_norm": float(flatten(gradient).norm())}
        self.update_statistics(stages)
        return metrics

    def outer_gradient(self, batches: list[QBatch]) -> tuple[Params, float]:
        """Meta-gradient of the mean outer loss over tasks, and the loss."""
        n, meta = len(batches[0].action), self.meta
        total, value = {k: torch.zeros_like(p) for k, p in meta.items()}, 0.0
        for i in chunks(batches[0], n):
            loss = self.outer_loss(meta, [b.select(i) for b in batches]).sum() / n
            add_gradient(total, loss, meta)
            value += float(loss.detach())
        return total, value

    def outer_loss(self, meta: Params, batches: list[QBatch]) -> Float[Tensor, " n"]:
        """Sum over updates of the loss on what the updated values made of the task."""
        theta, lr = self.parts(meta)
        phi = self.policy.start(theta, len(batches[0].action))
        total = torch.zeros_like(batches[0].reward[:, 0, 0])
        for k, batch in enumerate(batches):
            loss = td_loss(self.policy, self.cfg, batch, phi)
            if k > 0 or not self.cfg.inner_steps:  # theta's own only where nothing is updated
                total = total + loss
            if k < self.cfg.inner_steps:
                phi = descend(loss, phi, lr, second_order=not self.cfg.first_order)
        return total
