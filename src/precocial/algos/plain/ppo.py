"""PPO: a policy improved within a trust region that a clip approximates.

Schulman, Wolski, Dhariwal, Radford, Klimov 2017, https://arxiv.org/abs/1707.06347, Algorithm 1::

    for iteration = 1, 2, ...
        run pi_old in E lanes for T time steps
        advantage estimates A_1, ..., A_T                                       Eq. 11, GAE
        maximise  L_clip - c1 L_VF + c2 entropy                                 Eq. 9
            with K epochs and minibatches of M <= E*T;   pi_old <- pi

on a single task, or on a family, blind to the task. Policy and value are networks of their own.

Deviations: values are not clipped; an episode that the clock ends is bootstrapped with V of its
last state; gradients longer than ``--max-grad-norm`` are scaled down.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from precocial import threads
from precocial.algos.plain.shared import (
    Lanes,
    Normalisers,
    PlainConfig,
    PlainLearner,
    PlainMethod,
    draws,
)
from precocial.algos.transfer.guide import GUIDED, Guides
from precocial.checks import at_least, in_range, positive
from precocial.nets.mlp import ACTIVATIONS, action_dist, orthogonal_layers, perceptron
from precocial.nets.pictures import initial, seen_dim
from precocial.nets.stack import Moments, Nets, Stack, clip_norms
from precocial.ops.distributions import Dist, entropy, kl, log_prob
from precocial.ops.losses import ppo_clip_loss
from precocial.ops.returns import gae, normalise
from precocial.ops.sums import mean_of_each
from precocial.types import Metrics, Rollout, TaskEnv, Tasks


@dataclass(frozen=True)
class PPOConfig(PlainConfig):
    """Settings of ``ppo``."""

    rollout_steps: int = 0
    """Steps of every lane between updates (T); 0: a whole episode, the family's horizon."""
    rounds: int = 1
    """Rollouts, each with its updates, in an iteration."""
    gae_lambda: float = 0.95
    """GAE's lambda."""
    epochs: int = 4
    """Passes over a rollout (K)."""
    minibatch_size: int = 256
    """Transitions in a gradient step (M), about: a rollout is cut into equal parts."""
    clip_eps: float = 0.2
    """PPO's clip (epsilon)."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus (c2)."""
    vf_coef: float = 0.5
    """Weight of the value loss (c1)."""
    max_grad_norm: float = 0.5
    """Longest gradient; longer ones are scaled down."""
    anneal: bool = False
    """Let the rate fall linearly to 0 over the run."""
    init_std: float = 1.0
    """Initial standard deviation of a Gaussian policy, in policy units (+-1 spans the bounds)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        at_least(self, 0, "rollout_steps", "ent_coef", "vf_coef")
        at_least(self, 1, "rounds", "epochs", "minibatch_size")
        in_range(self, 0, 1, "gae_lambda")
        positive(self, "clip_eps", "max_grad_norm", "init_std")


class Batch(NamedTuple):
    """Scored transitions of S members."""

    obs: Shaped[Tensor, "s b o"]
    action: Tensor
    """``(S, B, A)`` or ``(S, B)``."""
    log_prob: Float[Tensor, "s b"]
    """log pi_old(a|s)."""
    advantage: Float[Tensor, "s b"]
    target: Float[Tensor, "s b"]
    """What V regresses on."""


class PPO(PlainMethod):
    """Proximal policy optimisation."""

    cfg: PPOConfig
    held_by = GUIDED

    def initial_nets(self, rng: torch.Generator) -> Nets:
        """Orthogonal layers; the first policy is all but uniform."""
        spec, cfg = self.spec, self.cfg
        inputs = seen_dim(spec), *cfg.hidden
        actor = initial(spec.picture, rng) | orthogonal_layers(
            (*inputs, spec.action_dim), 0.01, rng
        )
        if spec.action_kind == "box":
            actor["log_std"] = torch.full((spec.action_dim,), math.log(cfg.init_std))
        critic = initial(spec.picture, rng) | orthogonal_layers((*inputs, 1), 1.0, rng)
        return {"actor": actor, "critic": critic}

    @property
    def reach(self) -> int:
        """Of all rounds."""
        return self.cfg.rounds * (self.cfg.rollout_steps or self.spec.horizon)

    @staticmethod
    def update_together(
        members: Sequence[PPO], env: TaskEnv, tasks: Tasks, rng: torch.Generator
    ) -> list[Metrics]:
        """Rounds of acting and learning."""
        cfg, progress = members[0].cfg, [m.progress for m in members]
        stack = Stack([m.nets for m in members])
        moments = Moments([m.moments for m in members], eps=1e-5)
        normalisers, lanes = Normalisers(members), Lanes(members, env, tasks, rng)
        guides = Guides([m.guide for m in members], [m.env_steps for m in members])
        lr = cfg.lr * (1 - torch.tensor(progress).to(stack.flat).unsqueeze(1) * cfg.anneal)
        steps, parts = cfg.rollout_steps or env.spec.horizon, 0
        totals: dict[str, Tensor] = {}
        for _ in range(cfg.rounds):
            actor = PlainLearner(cfg, stack.nets["actor"], normalisers, rng)
            rollout = lanes.roll(actor, steps)
            batch = score(rollout, stack, normalisers, lanes, cfg)
            for part in minibatches(batch, cfg, rng):
                threads.adjust()
                losses = ppo_losses(stack, part, cfg)
                if guides.pull is not None:
                    losses["loss/teacher"] = kickstart(stack, part, guides, cfg)
                    losses["loss/total"] = losses["loss/total"] + losses["loss/teacher"]
                gradient = guides.gradient(stack.gradient(losses.pop("loss/total")), stack.flat)
                moments.step(stack.flat, clip_norms(gradient, cfg.max_grad_norm), lr)
                totals = {k: totals.get(k, 0.0) + v.detach() for k, v in losses.items()}
                parts += 1
            normalisers.learn(lanes.stacked(rollout.obs), guides.learning_statistics())
        lanes.close()
        rows = zip(members, stack.rows(), moments.rows(), normalisers.rows(), strict=True)
        for m, nets, its_moments, normaliser in rows:
            m.nets, m.moments, m.normaliser = nets, its_moments, normaliser
        return [
            lanes.metrics(m) | {k: float(v[i]) / parts for k, v in totals.items()}
            for i, m in enumerate(members)
        ]


@torch.no_grad()
def score(
    rollout: Rollout, stack: Stack, normalisers: Normalisers, lanes: Lanes, cfg: PPOConfig
) -> Batch:
    """Advantages, and targets of the value; axes (S*N, E, T) become (S, N*E*T).

    Steps on which a simulation diverged have advantage 0 and say nothing of the value.
    """
    obs, following = (normalisers(lanes.stacked(x)) for x in (rollout.obs, rollout.next_obs))
    shape = rollout.reward.shape
    value, next_value = (values(stack, x, cfg).view(shape) for x in (obs, following))
    advantage = gae(
        rollout.reward, value, next_value, rollout.terminated, rollout.truncated,
        cfg.gamma, cfg.gae_lambda,
    ).masked_fill(rollout.diverged, 0.0)  # fmt: skip
    dist: Dist = {k: v for k, v in rollout.extra.items() if not k.startswith("info/")}
    old = log_prob(dist, rollout.action)
    return Batch(obs, *map(lanes.stacked, (rollout.action, old, advantage, advantage + value)))


def kickstart(stack: Stack, batch: Batch, guides: Guides, cfg: PPOConfig) -> Float[Tensor, " s"]:
    """KL(teacher || policy), weighted (Schmitt et al. 2018, https://arxiv.org/abs/1803.03835)."""
    assert guides.pull is not None
    activation = ACTIVATIONS[cfg.activation]
    with torch.no_grad():
        teacher = action_dist(guides.teachers, batch.obs, activation)
    policy = action_dist(stack.nets["actor"], batch.obs, activation)
    return guides.pull * mean_of_each(kl(teacher, policy))


def values(stack: Stack, obs: Shaped[Tensor, "s b o"], cfg: PPOConfig) -> Float[Tensor, "s b"]:
    """V(s) of each member."""
    return perceptron(stack.nets["critic"], obs, ACTIVATIONS[cfg.activation]).squeeze(-1)


def minibatches(batch: Batch, cfg: PPOConfig, rng: torch.Generator) -> Iterator[Batch]:
    """Every transition once per epoch, each member's in an order of its own."""
    num, size = batch.log_prob.shape
    row = torch.arange(num, device=rng.device).unsqueeze(1)
    for _ in range(cfg.epochs):
        order = draws(rng, lambda g: torch.randperm(size, generator=g, device=g.device))
        shuffled = [x[row, order] for x in batch]
        for columns in zip(
            *(x.tensor_split(math.ceil(size / cfg.minibatch_size), 1) for x in shuffled),
            strict=True,
        ):
            yield Batch(*columns)


def ppo_losses(stack: Stack, batch: Batch, cfg: PPOConfig) -> dict[str, Float[Tensor, " s"]]:
    """Eq. 9 of each member, and its parts; advantages are normalised within the minibatch."""
    dist = action_dist(stack.nets["actor"], batch.obs, ACTIVATIONS[cfg.activation])
    lp = log_prob(dist, batch.action)
    policy = ppo_clip_loss(lp, batch.log_prob, normalise(batch.advantage), cfg.clip_eps)
    value = mean_of_each((values(stack, batch.obs, cfg) - batch.target).square())
    total = policy + cfg.vf_coef * value
    if cfg.ent_coef:
        total = total - cfg.ent_coef * mean_of_each(entropy(dist))
    with torch.no_grad():
        kept = {
            "loss/entropy": mean_of_each(entropy(dist)),
            "loss/kl": mean_of_each(batch.log_prob - lp),
        }
    return kept | {"loss/total": total, "loss/policy": policy, "loss/value": value}
