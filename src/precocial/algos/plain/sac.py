"""SAC: maximise return and the entropy of the policy, off-policy.

Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905, Algorithm 1: two critics, the smaller of
them counts, and a temperature that holds the entropy at a target::

    a ~ pi(.|s);   keep (s, a, r, s')
    y = r + gamma (min_i Q_target_i(s', a') - alpha log pi(a'|s')),  a' ~ pi        Eq. 2, 3
    descend (Q_i(s, a) - y)^2                                                       Eq. 5
    descend alpha log pi(a|s) - min_i Q_i(s, a),  a ~ pi by reparameterisation      Eq. 7
    descend -alpha (log pi(a|s) + target entropy)                                   Eq. 18
    Q_target_i follow by a share tau

For box actions the policy is a Gaussian squashed by tanh, in policy units: +-1 spans the bounds.
For discrete ones all expectations over actions are sums (Christodoulou 2019,
https://arxiv.org/abs/1910.07207, Eq. 10-12).

Deviations: alpha never falls below ``--min-alpha``, for where a policy stands still it goes to zero
and exploration with it; its gradient is taken in log alpha; one step each of critics, policy and
temperature, in this order, all from one batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from precocial.algos.plain.off_policy import OffPolicy, OffPolicyConfig, Training
from precocial.algos.plain.shared import Normalisers, PlainConfig, PlainLearner, copied
from precocial.checks import positive
from precocial.nets.mlp import ACTIVATIONS, Activation, orthogonal_layers, perceptron_once
from precocial.nets.pictures import initial, is_bytes, read, seen_dim
from precocial.nets.stack import Nets
from precocial.ops.distributions import sample
from precocial.ops.sums import mean_of_each
from precocial.seeding import rand, randint, randn
from precocial.task_replay import Sample
from precocial.types import EnvSpec, Metrics, Params, TaskEnv, Tasks, UserError

LOG_STDS = -5.0, 2.0
"""Of the Gaussian before it is squashed."""
SLOW = "q", "q_twin", "eyes"
"""Networks that targets have copies of; eyes where observations are pictures."""


@dataclass(frozen=True)
class SACConfig(OffPolicyConfig):
    """Settings of ``sac``."""

    activation: Activation = "relu"
    """Hidden activation."""
    alpha: float = 1.0
    """Temperature at first: weight of the entropy."""
    auto_alpha: bool = True
    """Learn the temperature, so that the entropy is at its target."""
    min_alpha: float = 0.01
    """The least that it falls to."""
    target_entropy: float | None = None
    """Nats; None: minus the number of action components, or half of a uniform choice's."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "alpha", "min_alpha")
        if self.target_entropy is not None and not math.isfinite(self.target_entropy):
            raise UserError(f"--target-entropy is {self.target_entropy}; expected nats, e.g. -1")
        if self.alpha < self.min_alpha:
            raise UserError(
                f"--alpha is {self.alpha}; expected --min-alpha, {self.min_alpha}, or more"
            )

    def entropy_of(self, spec: EnvSpec) -> float:
        """The target."""
        return usual_entropy(spec) if self.target_entropy is None else self.target_entropy


def usual_entropy(spec: EnvSpec) -> float:
    """Nats that a policy may have: -1 for each component, or half of a uniform choice's."""
    return -spec.action_dim if spec.action_kind == "box" else 0.5 * math.log(spec.action_dim)


def initial_nets(
    seen: int, spec: EnvSpec, hidden: tuple[int, ...], alpha: float, rng: torch.Generator
) -> Nets:
    """A wide policy, values near 0, of ``seen`` inputs besides actions."""
    box = spec.action_kind == "box"
    outputs = 2 * spec.action_dim if box else spec.action_dim
    critic = (seen + spec.action_dim, *hidden, 1) if box else (seen, *hidden, spec.action_dim)
    nets = {
        "actor": orthogonal_layers((seen, *hidden, outputs), 0.01, rng),
        "q": orthogonal_layers(critic, 1.0, rng),
        "q_twin": orthogonal_layers(critic, 1.0, rng),
        "temperature": {"log_alpha": torch.tensor([math.log(alpha)])},
    }
    return nets | ({"eyes": initial(spec.picture, rng)} if spec.picture else {})


def slow(nets: Nets) -> Nets:
    """Copies of what targets are made with."""
    return {n: {k: p.clone() for k, p in nets[n].items()} for n in SLOW if n in nets}


def acting(nets: Nets) -> Params:
    """What a policy acts with: its layers, and the convolutions before them."""
    return nets["actor"] | nets.get("eyes", {})


def looked_at(nets: Nets, targets: Nets, batch: Sample) -> tuple[Sample, Tensor]:
    """The batch as networks see it, and the next observations as the policy does.

    Vectors are what they are. Of pictures both critics and the policy see what one set of
    convolutions makes, which the critics alone train (Yarats et al. 2021,
    https://arxiv.org/abs/1910.01741); targets see through a slow copy.
    """
    if not is_bytes(batch.obs):
        return batch, batch.next_obs
    with torch.no_grad():
        ahead, later = (read(n["eyes"], batch.next_obs) for n in (nets, targets))
    return batch._replace(obs=read(nets["eyes"], batch.obs), next_obs=later), ahead


class SAC(OffPolicy):
    """Soft actor-critic."""

    cfg: SACConfig
    held_by = (*OffPolicy.held_by, "critic_warmup")

    def initial_nets(self, rng: torch.Generator) -> Nets:
        """Of the observation."""
        cfg, spec = self.cfg, self.spec
        return initial_nets(seen_dim(spec), spec, cfg.hidden, cfg.alpha, rng)

    def initial_targets(self) -> Nets:
        """Of both critics."""
        return slow(self.nets)

    @staticmethod
    def update_together(
        members: Sequence[SAC], env: TaskEnv, tasks: Tasks, rng: torch.Generator
    ) -> list[Metrics]:
        """Rounds of acting and learning."""
        first = members[0]
        cfg, t = first.cfg, Training(members, env, tasks, rng)
        target, nets = cfg.entropy_of(first.spec), t.stack.nets
        actor = SACLearner(cfg, acting(nets), t.normalisers, rng, first.spec)
        # A run that began from a source knows better than chance.
        actor.random = not t.ready() and first.guide is None

        def update(batch: Sample) -> dict[str, Tensor]:
            actor.random = False
            draw = Policies(cfg.activation, first.spec, rng)
            alpha = nets["temperature"]["log_alpha"].detach().exp()
            batch, ahead = looked_at(nets, t.targets.nets, batch)
            losses = critic_losses(nets, t.targets.nets, batch, ahead, alpha, draw)
            losses |= actor_losses(nets, batch, alpha, draw)
            entropy = losses["loss/entropy"].detach()
            total = losses["loss/value"] + losses["loss/policy"]
            if cfg.auto_alpha:
                total = total + nets["temperature"]["log_alpha"].squeeze(1) * (entropy - target)
            gradient = t.guides.gradient(t.stack.gradient(total), t.stack.flat)
            t.moments.step(t.stack.flat, gradient, cfg.lr)
            with torch.no_grad():
                nets["temperature"]["log_alpha"].clamp_(min=math.log(cfg.min_alpha))
            t.follow(list(t.targets.nets))
            return losses | {"loss/alpha": alpha.squeeze(1)}

        return t.run(actor, update)

    @staticmethod
    def learner_together(
        members: Sequence[Any], num_tasks: int, lanes: int, rng: torch.Generator
    ) -> SACLearner:
        """See ``Stackable``."""
        first = members[0]
        params = acting({n: copied(members, n) for n in ("actor", "eyes") if n in first.nets})
        return SACLearner(first.cfg, params, Normalisers(members), rng, first.spec)


def log_stds(raw: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
    """Log standard deviations between their bounds."""
    low, high = LOG_STDS
    return low + 0.5 * (high - low) * (torch.tanh(raw) + 1)


class Policies:
    """Actions of S policies, and how likely they are."""

    def __init__(self, activation: Activation, spec: EnvSpec, rng: torch.Generator) -> None:
        self.activation = ACTIVATIONS[activation]
        self.box, self.rng = spec.action_kind == "box", rng

    def logits(self, params: Params, obs: Shaped[Tensor, "s b o"]) -> Float[Tensor, "s b a"]:
        """Of discrete actions, normalised."""
        return torch.log_softmax(perceptron_once(params, obs, self.activation), -1)

    def gaussian(
        self, params: Params, obs: Shaped[Tensor, "s b o"]
    ) -> tuple[Float[Tensor, "s b a"], Float[Tensor, "s b a"]]:
        """Mean and log standard deviation before squashing."""
        mean, raw = perceptron_once(params, obs, self.activation).chunk(2, -1)
        return mean, log_stds(raw)

    def draw(
        self, params: Params, obs: Shaped[Tensor, "s b o"]
    ) -> tuple[Float[Tensor, "s b a"], Float[Tensor, "s b"]]:
        """A squashed action of each row, reparameterised, and its log-density (Eq. 26)."""
        mean, log_std = self.gaussian(params, obs)
        noise = randn(mean.shape, self.rng)
        u = mean + noise * log_std.exp()
        normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(u)^2), without losing digits where u is large
        slope = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))
        return torch.tanh(u), (normal - slope).sum(-1)

    def act(
        self, params: Params, obs: Shaped[Tensor, "s b o"], shape: tuple[int, ...],
        rng: torch.Generator | None,
    ) -> Tensor:  # fmt: skip
        """Actions of lanes of this shape, drawn by ``rng``; without it the middle or likeliest."""
        if not self.box:
            logits = self.logits(params, obs).view(*shape, -1)
            return logits.argmax(-1) if rng is None else sample({"logits": logits}, rng)
        mean, log_std = (x.reshape(*shape, -1) for x in self.gaussian(params, obs))
        if rng is not None:
            mean = sample({"mean": mean, "log_std": log_std}, rng)
        return torch.tanh(mean)


def values(
    nets: Nets, obs: Tensor, action: Tensor | None, draw: Policies
) -> list[Float[Tensor, "s b *a"]]:
    """Q(s, a) by both critics, or of all discrete actions."""
    x = obs if action is None else torch.cat([obs, action], -1)
    found = [perceptron_once(nets[n], x, draw.activation) for n in ("q", "q_twin")]
    return found if action is None else [q.squeeze(-1) for q in found]


def critic_losses(
    nets: Nets, targets: Nets, batch: Sample, ahead: Shaped[Tensor, "s b o"],
    alpha: Float[Tensor, "s 1"], draw: Policies,
) -> dict[str, Float[Tensor, " s"]]:  # fmt: skip
    """Squared errors of both critics of each member; ``ahead`` is what the policy sees next."""
    with torch.no_grad():
        if draw.box:
            action, log_prob = draw.draw(nets["actor"], ahead)
            following = _smaller(targets, batch.next_obs, action, draw) - alpha * log_prob
        else:
            logits = draw.logits(nets["actor"], ahead)
            soft = _smaller(targets, batch.next_obs, None, draw) - alpha.unsqueeze(-1) * logits
            following = (logits.exp() * soft).sum(-1)
        y = batch.reward + batch.discount * following
    errors, found = torch.zeros_like(y), torch.zeros_like(y)
    for q in values(nets, batch.obs, batch.action.clamp(-1, 1) if draw.box else None, draw):
        if not draw.box:
            q = q.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
        errors, found = errors + (q - y).square(), found + 0.5 * q.detach()
    return {"loss/value": mean_of_each(errors * batch.weight), "loss/q": mean_of_each(found)}


def actor_losses(
    nets: Nets, batch: Sample, alpha: Float[Tensor, "s 1"], draw: Policies
) -> dict[str, Float[Tensor, " s"]]:
    """What each policy descends, through critics that stand still; and its entropy."""
    batch = batch._replace(obs=batch.obs.detach())
    still = {n: {k: p.detach() for k, p in nets[n].items()} for n in ("q", "q_twin")}
    if draw.box:
        action, log_prob = draw.draw(nets["actor"], batch.obs)
        loss = alpha * log_prob - _smaller(still, batch.obs, action, draw)
        entropy = -log_prob
    else:
        logits = draw.logits(nets["actor"], batch.obs)
        soft = alpha.unsqueeze(-1) * logits - _smaller(still, batch.obs, None, draw)
        loss = (logits.exp() * soft).sum(-1)
        entropy = -(logits.exp() * logits).sum(-1)
    return {"loss/policy": mean_of_each(loss), "loss/entropy": mean_of_each(entropy)}


def _smaller(nets: Nets, obs: Tensor, action: Tensor | None, draw: Policies) -> Tensor:
    one, other = values(nets, obs, action, draw)
    return torch.minimum(one, other)


class SACLearner(PlainLearner):
    """Acts by squashed Gaussians or categoricals; their middle where it does not explore."""

    random = False
    """Act uniformly: before anything is learned."""

    def __init__(
        self, cfg: PlainConfig, params: Params, normalise: Normalisers, rng: torch.Generator,
        spec: EnvSpec,
    ) -> None:  # fmt: skip
        super().__init__(cfg, params, normalise, rng)
        assert isinstance(cfg, SACConfig)
        self.policies, self.spec = Policies(cfg.activation, spec, rng), spec

    @torch.no_grad()
    def act(self, obs: Shaped[Tensor, "n e o"], *, explore: bool = True) -> Tensor:
        """Sample, or take the mean before squashing."""
        shape, num = obs.shape[:2], len(self.normalise.mean)
        rows = self.normalise(obs.reshape(num, -1, obs.shape[-1]))
        box = self.policies.box
        if self.random and explore:
            wide = (*shape, self.spec.action_dim)
            return 2 * rand(wide, self.rng) - 1 if box else randint(0, wide[-1], shape, self.rng)
        return self.policies.act(self.params, rows, shape, self.rng if explore else None)
