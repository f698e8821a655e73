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
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from precocial.algos.gradient.shared import (
    AdamUpdates,
    Batch,
    GradientConfig,
    GradientDescent,
    GradientLearner,
    MetaGradientConfig,
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
from precocial.seeding import randn
from precocial.types import (
    Acting,
    EnvSpec,
    Metrics,
    Params,
    Rollout,
    Step,
    TaskEnv,
    Tasks,
    UserError,
)


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
    policy: Policy, params: Params, scale: Params, noise: Noise, obs: Shaped[Tensor, "n b o"]
) -> Dist:
    """Action distributions of all lanes by their own parameters, each (N, B, A)."""
    n, lanes = next(iter(noise.values())).shape[:2]
    by_lane = obs.unflatten(1, (lanes, -1)).flatten(0, 1)  # (N E, T, O)
    dist = policy.dist(lane_params(params, scale, noise), by_lane)
    return {k: v.unflatten(0, (n, lanes)).flatten(1, 2) for k, v in dist.items()}


class Drawn(NamedTuple):
    """Scored data of one stage, and what the lanes had drawn."""

    batch: Batch
    noise: Noise

    @property
    def obs(self) -> Tensor:
        """States (N, B, O)."""
        return self.batch.obs

    @property
    def rows(self) -> int:
        """Transitions of a task (B)."""
        return self.batch.rows

    def select(self, index: slice) -> Drawn:
        """The tasks at ``index``."""
        return Drawn(self.batch.select(index), {k: e[index] for k, e in self.noise.items()})


def lane_loss(
    policy: Policy, cfg: GradientConfig, scale: Params, data: Drawn, params: Params
) -> Float[Tensor, " n"]:
    """L of each task as a function of the mean, draws held."""
    dist = lane_dist(policy, params, scale, data.noise, data.batch.obs)
    return surrogate(dist, data.batch, cfg)


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
    def act(self, obs: Shaped[Tensor, "n e o"], *, explore: bool = True) -> Tensor:
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

    def actor(self, phi: Params, rng: torch.Generator) -> LaneActor:
        """Every lane with a draw of its own."""
        return LaneActor(self.policy, phi, self.scale, self.cfg.episodes_per_task, rng)

    def score(self, rollout: Rollout, actor: Acting) -> Drawn:
        """With what was drawn."""
        assert isinstance(actor, LaneActor | GaussianLearner)
        return Drawn(score(rollout, self.cfg, self.spec), actor.noise)

    def make_update(self) -> GradientDescent:
        """Gradient descent of the mean."""
        return GradientDescent(partial(lane_loss, self.policy, self.cfg, self.scale))

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """One iteration."""
        stages = self.collect_stages(env, tasks, rng)
        metrics = stages.metrics()
        for _ in range(self.cfg.outer_epochs):
            metrics |= self.outer_step(stages.batches)
        sizes = torch.cat([s.flatten() for s in self.scale.values()])
        self.update_statistics(stages)
        return metrics | {"loss/scale": float(sizes.log().mean().exp())}

    def outer_step(self, stages: list[Drawn]) -> Metrics:
        """One Adam step on the clipped meta-objective and the KL."""
        n, meta = len(stages[0].batch.obs), self.meta
        clip_total = kl_total = 0.0
        total = {k: torch.zeros_like(p) for k, p in meta.items()}
        for i in chunks(stages[0], n):
            clip, kl = self.task_losses(meta, [s.select(i) for s in stages])
            add_gradient(total, (clip + self.cfg.kl_weight * kl).sum() / n, meta)
            clip_total += float(clip.detach().sum()) / n
            kl_total += float(kl.detach().sum()) / n
        self.adam_step(total)
        return {"loss/outer": clip_total, "loss/kl": kl_total}

    def task_losses(
        self, meta: Params, stages: list[Drawn]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Clipped loss on D', and KL(N(mu', sigma^2) || N(mu, sigma^2)) in nats."""
        theta, scale, lr = self.gaussian(meta)
        start = self.policy.start(theta, len(stages[0].batch.obs))
        *supports, (query, noise) = stages
        phi = start
        for support in supports:
            loss = lane_loss(self.policy, self.cfg, scale, support, phi)
            phi = descend(loss, phi, lr, second_order=True)
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
        self.scale, self.lanes = method.scale, lanes
        self.redraw()

    def redraw(self) -> None:
        """A draw for each lane."""
        self.drawn = LaneActor(self.policy, self.params, self.scale, self.lanes, self.rng)

    def act(self, obs: Shaped[Tensor, "n e o"], *, explore: bool = True) -> Tensor:
        """By the lane's draw, or the most likely action of the mean."""
        if not explore:
            return super().act(obs, explore=False)
        self.obs = obs
        action = self.drawn.act(obs)
        self.acted = self.drawn.acted
        return action

    @property
    def noise(self) -> Noise:
        """What the lanes have drawn."""
        return self.drawn.noise

    def adapt(self) -> None:
        """One update of the mean, then new draws."""
        super().adapt()
        self.redraw()

    def state_dict(self) -> dict[str, Any]:
        """With the scale."""
        return super().state_dict() | {"scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the saved learner, from new draws."""
        super().load_state_dict(state)
        self.scale = dict(state["scale"])
        self.update = GradientDescent(partial(lane_loss, self.policy, self.cfg, self.scale))
        self.redraw()
