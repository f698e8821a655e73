"""MAML for RL: an initialisation from which a policy-gradient step goes far.

Finn, Abbeel, Levine 2017, https://arxiv.org/abs/1703.03400, Algorithm 3::

    sample N tasks                                                              line 3
    per task:  D  = rollouts(theta);  phi = theta - alpha grad L(theta; D)      lines 5-7
               D' = rollouts(phi)                                               line 8
    theta = theta - beta grad sum_i L(phi_i; D'_i)                              line 10

The inner loss is the likelihood ratio against the sampling policy (Rothfuss et al. 2019,
low-variance curvature): low variance, exact at horizon 1, and a small bias beyond, since it drops
the cross terms of the Hessian that DiCE keeps. ``--estimator dice`` keeps them.

The outer step is TRPO (the paper's), clipped PPO or plain policy gradient. ``first_order`` treats
the inner gradient as a constant (FOMAML). With ``inner_steps`` 0 nothing is adapted in training and
the very same code is joint training over all tasks: the ``multi-task`` and ``oracle`` references.

Deviation: Fisher-vector products use every tenth state of support and query; the line search,
which decides, uses all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from precocial.algos.gradient.shared import (
    AdamUpdates,
    Batch,
    GradientConfig,
    MetaGradientConfig,
    add_gradient,
    chunks,
    policy_losses,
)
from precocial.checks import at_least, in_range, positive
from precocial.ops.adaptation import adapt
from precocial.ops.distributions import kl, kl_hessian_product, log_prob
from precocial.ops.losses import likelihood_ratio_loss, ppo_clip_loss
from precocial.ops.params import flatten, unflatten
from precocial.ops.sums import dot, mean_of_each
from precocial.ops.trust_region import conjugate_gradient, line_search
from precocial.types import Metrics, Params, TaskEnv, Tasks


@dataclass(frozen=True)
class MAMLConfig(GradientConfig, MetaGradientConfig):
    """Settings of MAML."""

    first_order: bool = False
    """Drop the second derivative (FOMAML)."""
    outer: Literal["trpo", "ppo", "pg"] = "trpo"
    """Outer step: trust region, clipped surrogate with Adam, or one Adam step."""
    max_kl: float = 0.01
    """Trust region: limit on the mean KL of the adapted policies, nats (delta)."""
    cg_iterations: int = 10
    """Conjugate-gradient iterations."""
    damping: float = 1e-5
    """Added to the Fisher matrix's diagonal."""
    fisher_every: int = 10
    """Fisher products use every so-many-th state."""
    outer_lr: float = 1e-3
    """Adam's rate for ppo and pg (beta)."""
    outer_epochs: int = 5
    """Adam steps per iteration for ppo."""
    clip_eps: float = 0.3
    """Clipping range of the ratio for ppo (epsilon)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "max_kl", "outer_lr")
        at_least(self, 1, "cg_iterations", "fisher_every", "outer_epochs")
        in_range(self, 0, 1, "clip_eps", "damping")


class MAML(AdamUpdates):
    """Model-agnostic meta-learning for policies."""

    cfg: MAMLConfig

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """One iteration of Algorithm 3."""
        stages = self.collect_stages(env, tasks, rng)  # D and D'
        *supports, query = stages.batches
        outer_step = self.trust_region_step if self.cfg.outer == "trpo" else self.adam_steps
        metrics = stages.metrics() | outer_step(supports, query)
        self.update_statistics(stages)
        return metrics

    def outer_loss(
        self, meta: Params, supports: list[Batch], query: Batch, *, second_order: bool
    ) -> tuple[Tensor, Tensor]:
        """Surrogate on D' of the policies adapted from theta, and KL from those that acted.

        Returns:
            Loss and KL per task, each (N,).
        """
        theta, lr = self.parts(meta)
        losses = policy_losses(self.policy, supports, self.cfg)
        phi = self.policy.start(theta, query.obs.shape[0])
        phi = adapt(losses, phi, lr, second_order=second_order)
        dist = self.policy.dist(phi, query.obs)
        lp = log_prob(dist, query.action)
        divergence = mean_of_each(kl(query.dist, dist))
        if self.cfg.outer == "ppo":
            loss = ppo_clip_loss(lp, query.log_prob, query.advantage, self.cfg.clip_eps)
        else:
            loss = likelihood_ratio_loss(lp, query.log_prob, query.advantage)
        return loss, divergence

    def outer_gradient(
        self, meta: Params, supports: list[Batch], query: Batch
    ) -> tuple[Params, float]:
        """Meta-gradient of the mean outer loss over tasks, and the loss."""
        n = query.obs.shape[0]
        total, value = {k: torch.zeros_like(p) for k, p in meta.items()}, 0.0
        for i in chunks(query, n):
            loss, _ = self.outer_loss(
                meta, [s.select(i) for s in supports], query.select(i),
                second_order=not self.cfg.first_order,
            )  # fmt: skip
            add_gradient(total, loss.sum() / n, meta)
            value += float(loss.detach().sum()) / n
        return total, value

    def trust_region_step(self, supports: list[Batch], query: Batch) -> Metrics:
        """TRPO on the adapted policies as functions of theta (Schulman et al. 2015).

        Learned rates have a step of Adam: within the limit on the KL they would hardly move.
        """
        theta = self.policy.theta
        gradient, loss = self.outer_gradient(self.meta, supports, query)
        g = flatten({k: gradient[k] for k in theta})
        product = FisherProduct(self, supports, query)
        direction = conjugate_gradient(product, g, self.cfg.cg_iterations)
        curvature = float(dot(direction, product(direction)))
        metrics = {"loss/outer": loss, "loss/gradient_norm": float(g.norm())}
        if not curvature > 0:  # a zero gradient: nothing to do
            return metrics | {"loss/kl": 0.0, "loss/step_fraction": 0.0}
        full_step = -direction * (2 * self.cfg.max_kl / curvature) ** 0.5

        @torch.no_grad()
        def evaluate(vector: Tensor) -> tuple[float, float]:
            params = unflatten(vector, theta)
            total_loss = total_kl = 0.0
            n = query.obs.shape[0]
            for i in chunks(query, n):
                loss, divergence = self.outer_loss(
                    params, [s.select(i) for s in supports], query.select(i), second_order=False
                )
                total_loss += float(loss.sum()) / n
                total_kl += float(divergence.sum()) / n
            return total_loss, total_kl

        start = flatten(theta).detach()
        accepted, new_loss, new_kl = line_search(evaluate, start, full_step, loss, self.cfg.max_kl)
        with torch.no_grad():
            for p, new in zip(theta.values(), unflatten(accepted, theta).values(), strict=True):
                p.copy_(new)
        self.rates_step(gradient)
        moved = float((accepted - start).norm() / full_step.norm())
        return metrics | {
            "loss/outer_after": new_loss, "loss/kl": new_kl, "loss/step_fraction": moved,
        }  # fmt: skip

    def adam_steps(self, supports: list[Batch], query: Batch) -> Metrics:
        """Clipped surrogate for several epochs, or one plain policy-gradient step."""
        metrics = {}
        for _ in range(self.cfg.outer_epochs if self.cfg.outer == "ppo" else 1):
            gradient, loss = self.outer_gradient(self.meta, supports, query)
            self.adam_step(gradient)
            norm = float(flatten(gradient).norm())
            metrics = {"loss/outer": loss, "loss/gradient_norm": norm}
        return metrics


class FisherProduct:
    """Fisher matrix of the adapted policies with respect to theta, times a vector.

    Gauss-Newton form J' M J through the adaptation, J = d dist(phi(theta)) / d theta. The graph of
    J'w, linear in a dummy w, is built once; J v is its derivative with respect to w, so that every
    product costs two backward passes. Leaving the adaptation out of J would make the KL of the
    first trial step hundreds of times too large.
    """

    def __init__(self, maml: MAML, supports: list[Batch], query: Batch) -> None:
        cfg, policy = maml.cfg, maml.policy
        self.damping, self.n = cfg.damping, query.obs.shape[0]
        self.theta = policy.theta
        self.parts = []
        for i in chunks(query, self.n):
            # DiCE sums over whole episodes, which cannot be thinned.
            every = 1 if cfg.estimator.endswith("dice") else cfg.fisher_every
            thin = [s.select(i, every) for s in supports]
            states = query.select(i, cfg.fisher_every).obs
            theta, lr = maml.parts(self.theta)
            losses = policy_losses(policy, thin, cfg)
            phi = policy.start(theta, states.shape[0])
            phi = adapt(losses, phi, lr, second_order=not cfg.first_order)
            dist = policy.dist(phi, states)
            dummy = {k: torch.zeros_like(u, requires_grad=True) for k, u in dist.items()}
            pulled = torch.autograd.grad(
                list(dist.values()), list(self.theta.values()), list(dummy.values()),
                create_graph=True,
            )  # fmt: skip
            self.parts.append((dist, dummy, torch.cat([g.reshape(-1) for g in pulled])))

    def __call__(self, vector: Tensor) -> Tensor:
        """F v + damping v, averaged over states and tasks."""
        total = self.damping * vector
        for dist, dummy, pulled in self.parts:
            pushed = torch.autograd.grad(pulled, list(dummy.values()), vector, retain_graph=True)
            values = {k: u.detach() for k, u in dist.items()}
            image = kl_hessian_product(values, dict(zip(dummy, pushed, strict=True)))
            states = next(iter(values.values())).shape[1]
            grads = torch.autograd.grad(
                list(dist.values()), list(self.theta.values()), list(image.values()),
                retain_graph=True,
            )  # fmt: skip
            total = total + torch.cat([g.reshape(-1) for g in grads]) / (states * self.n)
        return total
