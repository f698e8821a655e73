"""Gaussian MAML: a Gaussian over initial parameters, from which every episode has a draw.

Finn, Xu, Levine 2018, https://arxiv.org/abs/1806.02817 (probabilistic MAML), read for RL::

    sample N tasks; per task
        D   = E episodes, each by its own  w_e = mu + sigma eps_e,  eps_e ~ N(0, I)
        mu' = mu - alpha grad_mu mean_e L(w_e; D_e)
        D'  = E episodes, each by its own  w'_e = mu' + sigma eps'_e
    for several epochs:  (mu, sigma) = Adam step on
        mean J_clip(w'; D') + beta KL(N(mu', sigma^2) || N(mu, sigma^2))

An agent that does not know its task draws parameters and does what they say for an episode: it
tries one thing after another instead of trembling, which is posterior sampling if the Gaussian is
what is believed. L is the likelihood ratio against the policy that acted, draws held (ProMP's);
J_clip is PPO's. sigma has the reparameterised gradient, through w' = mu' + sigma eps'.

Deviations: the paper's posterior in training is one step away on D' and its prior one step away on
D; here D gives the adapted Gaussian and the KL is to the one before adapting, since in RL D' is
what the adapted parameters did. sigma is the same before and after. A lane keeps its draw where an
episode ends early and another begins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from precocial.algos.gradient.shared import (
    AdamUpdates,
    Batch,
    GradientConfig,
    GradientLearner,
    MetaGradientConfig,
    Stages,
    adapted,
    add_gradient,
    chunks,
    score,
    surrogate,
)
from precocial.checks import at_least, in_range, positive
from precocial.nets.mlp import Policy
from precocial.ops.adam import Adam
from precocial.ops.adaptation import descend
from precocial.ops.distributions import Dist, log_prob, mode, sample
from precocial.ops.losses import ppo_clip_loss
from precocial.ops.params import Rate, detach
from precocial.rollout import collect
from precocial.seeding import randn
from precocial.types import EnvSpec, Metrics, Params, Step, TaskEnv, Tasks, UserError


@dataclass(frozen=True)
class GaussianMAMLConfig(GradientConfig, MetaGradientConfig):
    """Settings of ``gaussian-maml``."""

    drawn: Literal["all", "head", "body", "context"] = "all"
    """Parameters that are drawn; the others have no scale."""
    init_scale: float = 0.05
    """Standard deviation of a drawn parameter at first (sigma)."""
    scale_per: Literal["parameter", "layer"] = "parameter"
    """A scale for each parameter, or one for all of a weight matrix or a bias."""
    kl_weight: float = 1e-6
    """Weight of the KL from the adapted Gaussian to the one before (beta)."""
    outer_lr: float = 1e-3
    """Adam's rate (beta in MAML)."""
    outer_epochs: int = 5
    """Adam steps per iteration."""
    clip_eps: float = 0.3
    """Clipping range of the ratio on D' (epsilon)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "outer_lr", "init_scale")
        at_least(self, 1, "outer_epochs", "inner_steps")
        at_least(self, 0, "kl_weight")
        in_range(self, 0, 1, "clip_eps")
        if self.drawn == "body" and not self.hidden:
            raise UserError("--drawn is body, of which there is none without --hidden; try all")


Noise = dict[str, Tensor]
"""eps of every lane for each drawn parameter, (N, E, ...)."""


def draw(params: Params, scale: Params, lanes: int, rng: torch.Generator) -> Noise:
    """Standard normal numbers for N tasks of E lanes."""
    n = len(next(iter(params.values())))
    return {k: randn((n, lanes, *params[k].shape[1:]), rng).to(params[k]) for k in scale}


def lane_params(params: Params, scale: Params, noise: Noise) -> Params:
    """Parameters of each lane, (N, ...) -> (N E, ...)."""
    lanes = next(iter(noise.values())).shape[1]
    out = {}
    for k, p in params.items():
        w = p.unsqueeze(1).expand(-1, lanes, *p.shape[1:])
        if k in noise:
            w = w + scale[k] * noise[k]
        out[k] = w.flatten(0, 1)
    return out


def lane_dist(
    policy: Policy, params: Params, scale: Params, noise: Noise, obs: Float[Tensor, "n b o"]
) -> Dist:
    """Action distributions of all lanes by their own parameters, each (N, B, A)."""
    n, lanes = next(iter(noise.values())).shape[:2]
    by_lane = obs.unflatten(1, (lanes, -1)).flatten(0, 1)  # (N E, T, O)
    dist = policy.dist(lane_params(params, scale, noise), by_lane)
    return {k: v.unflatten(0, (n, lanes)).flatten(1, 2) for k, v in dist.items()}


class LaneActor:
    """Acts with parameters of every lane's own, and learns nothing."""

    def __init__(
        self, policy: Policy, params: Params, scale: Params, lanes: int, rng: torch.Generator
    ) -> None:
        self.policy, self.rng = policy, rng
        self.noise = draw(params, scale, lanes, rng)
        self.own = detach(lane_params(params, scale, self.noise))
        self.acted: dict[str, Tensor] = {}

    @torch.no_grad()
    def act(self, obs: Float[Tensor, "n e o"], *, explore: bool = True) -> Tensor:
        """Sample, or take the mode."""
        dist = self.policy.dist(self.own, obs.flatten(0, 1).unsqueeze(1))
        self.acted = {k: v.squeeze(1).unflatten(0, obs.shape[:2]) for k, v in dist.items()}
        return sample(self.acted, self.rng) if explore else mode(self.acted)

    def observe(self, action: Tensor, step: Step) -> None:
        """Nothing is kept."""


class GaussianMAML(AdamUpdates):
    """MAML with a Gaussian over parameters."""

    cfg: GaussianMAMLConfig

    def __init__(
        self, cfg: GaussianMAMLConfig, spec: EnvSpec, rng: torch.Generator, device: str = "cpu"
    ) -> None:
        super().__init__(cfg, spec, rng, device)
        theta = {k: v[0] for k, v in self.policy.start(self.policy.theta, 1).items()}
        own = cfg.scale_per == "parameter"
        self.log_scale = {
            k: torch.full(
                theta[k].shape if own else (), math.log(cfg.init_scale), device=device
            ).requires_grad_()
            for k in adapted(list(theta), cfg.drawn)
            if k != "log_std"
        }
        self.optimizer = Adam([*self.policy.parameters(), *self.log_scale.values()], cfg.outer_lr)

    @property
    def context_dim(self) -> int:
        """A latent, where the context is drawn or adapted."""
        return self.cfg.context_dim if "context" in (self.cfg.adapt, self.cfg.drawn) else 0

    @property
    def meta(self) -> Params:
        """With the log scales, ``scale/NAME``."""
        return super().meta | {f"scale/{k}": p for k, p in self.log_scale.items()}

    def gaussian(self, meta: Params) -> tuple[Params, Params, Rate]:
        """Mu, sigma and alpha."""
        scale = {k: meta[f"scale/{k}"].exp() for k in self.log_scale}
        theta, lr = self.parts({k: p for k, p in meta.items() if not k.startswith("scale/")})
        return theta, scale, lr

    @property
    def scale(self) -> Params:
        """Sigma, to act with."""
        return {k: p.detach().exp() for k, p in self.log_scale.items()}

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """One iteration."""
        lanes, horizon = self.cfg.episodes_per_task, self.spec.horizon
        lr = self.learned_rates() or self.rate(self.cfg.inner_lr)
        phi = detach(self.policy.start(self.policy.theta, tasks.num))
        rollouts, batches, noises = [], [], []
        for k in range(self.cfg.inner_steps + 1):
            actor = LaneActor(self.policy, phi, self.scale, lanes, rng)
            rollouts.append(collect(env, tasks, actor, lanes, horizon, rng))
            batches.append(score(rollouts[-1], self.cfg, horizon))
            noises.append(actor.noise)
            if k < self.cfg.inner_steps:
                phi = self.adapted_by(phi, batches[-1], actor.noise, lr, self.policy, self.scale)
        stages = Stages(rollouts, batches, phi)
        metrics = stages.metrics()
        for _ in range(self.cfg.outer_epochs):
            metrics |= self.outer_step(batches, noises)
        sizes = torch.cat([s.flatten() for s in self.scale.values()])
        self.update_statistics(stages)
        return metrics | {"loss/scale": float(sizes.log().mean().exp())}

    def adapted_by(
        self, phi: Params, batch: Batch, noise: Noise, lr: Rate, policy: Policy, scale: Params
    ) -> Params:
        """One inner update of all tasks, values only."""
        parts = []
        for i in chunks(batch, len(batch.obs)):
            mean = {k: p[i].detach().requires_grad_() for k, p in phi.items()}
            part = {k: e[i] for k, e in noise.items()}
            with torch.enable_grad():
                dist = lane_dist(policy, mean, scale, part, batch.select(i).obs)
                loss = surrogate(dist, batch.select(i), self.cfg)
                parts.append(detach(descend(loss, mean, lr, second_order=False)))
        return {k: torch.cat([p[k] for p in parts]) for k in phi}

    def outer_step(self, batches: list[Batch], noises: list[Noise]) -> Metrics:
        """One Adam step on the clipped meta-objective and the KL."""
        n, meta = len(batches[0].obs), self.meta
        clip_total = kl_total = 0.0
        total = {k: torch.zeros_like(p) for k, p in meta.items()}
        for i in chunks(batches[0], n):
            clip, kl = self.task_losses(
                meta, [b.select(i) for b in batches],
                [{k: e[i] for k, e in noise.items()} for noise in noises],
            )  # fmt: skip
            add_gradient(total, (clip + self.cfg.kl_weight * kl).sum() / n, meta)
            clip_total += float(clip.detach().sum()) / n
            kl_total += float(kl.detach().sum()) / n
        self.adam_step(total)
        return {"loss/outer": clip_total, "loss/kl": kl_total}

    def task_losses(
        self, meta: Params, batches: list[Batch], noises: list[Noise]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Clipped loss on D', and KL(N(mu', sigma^2) || N(mu, sigma^2)) in nats."""
        theta, scale, lr = self.gaussian(meta)
        start = self.policy.start(theta, len(batches[0].obs))
        phi = start
        for support, noise in zip(batches[:-1], noises[:-1], strict=True):
            dist = lane_dist(self.policy, phi, scale, noise, support.obs)
            phi = descend(surrogate(dist, support, self.cfg), phi, lr, second_order=True)
        query, noise = batches[-1], noises[-1]
        lp = log_prob(lane_dist(self.policy, phi, scale, noise, query.obs), query.action)
        clip = ppo_clip_loss(lp, query.log_prob, query.advantage, self.cfg.clip_eps)
        moved = [((phi[k] - start[k]) / s).square().flatten(1).sum(1) for k, s in scale.items()]
        return clip, torch.stack(moved).sum(0) / 2

    def learner(self, num_tasks: int, lanes: int, rng: torch.Generator) -> GaussianLearner:
        """Draws parameters for every lane, anew after each update."""
        return GaussianLearner(self, num_tasks, lanes, rng)

    def state_dict(self) -> dict[str, Any]:
        """With the log scales."""
        return super().state_dict() | {"log_scale": detach(self.log_scale)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        super().load_state_dict(state)
        for name, p in self.log_scale.items():
            p.copy_(state["log_scale"][name])


class GaussianLearner(GradientLearner):
    """Explores by drawn parameters; its best actions are those of the mean."""

    def __init__(
        self, method: GaussianMAML, num_tasks: int, lanes: int, rng: torch.Generator
    ) -> None:
        super().__init__(method, num_tasks, rng)
        self.method, self.scale, self.lanes = method, method.scale, lanes
        self.redraw()

    def redraw(self) -> None:
        """A draw for each lane."""
        self.drawn = LaneActor(self.policy, self.params, self.scale, self.lanes, self.rng)

    def act(self, obs: Float[Tensor, "n e o"], *, explore: bool = True) -> Tensor:
        """By the lane's draw, or the most likely action of the mean."""
        if not explore:
            return super().act(obs, explore=False)
        self.obs = obs
        action = self.drawn.act(obs)
        self.acted = self.drawn.acted
        return action

    def adapt(self) -> None:
        """One update of the mean, then new draws."""
        batch = score(self.take(), self.cfg, self.method.spec.horizon)
        self.updates += 1
        lr = self.rates or self.rate(self.cfg.test_lr(self.updates))
        self.params = self.method.adapted_by(
            self.params, batch, self.drawn.noise, lr, self.policy, self.scale
        )
        self.redraw()

    def state_dict(self) -> dict[str, Any]:
        """With the scale."""
        return super().state_dict() | {"scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the saved learner, from new draws."""
        super().load_state_dict(state)
        self.scale = dict(state["scale"])
        self.redraw()
