"""DQN: learn the values of actions from replayed transitions, act by the best.

Mnih et al. 2015, https://doi.org/10.1038/nature14236, Algorithm 1, with the targets of van Hasselt,
Guez, Silver 2016, https://arxiv.org/abs/1509.06461, Eq. 4 (``--no-double`` for the first)::

    a_t = a random action with probability epsilon, else argmax_a Q(s_t, a);   keep (s, a, r, s')
    draw B transitions;   y = r + gamma Q_target(s', argmax_a Q(s', a))         0 where s' is an end
    a gradient step on (Q(s, a) - y)^2;   Q_target follows

``--dueling`` splits the last layer into a value and advantages (Wang et al. 2016,
https://arxiv.org/abs/1511.06581, Eq. 9); ``--n-step`` sums the rewards of several steps. Targets
follow by a share ``--tau`` in every step, or are copied every ``--target-every`` steps.

Deviations: Adam, not RMSProp; lanes act in parallel; what the clock ended goes on to have value;
errors are squared, not cut at 1: of CartPole's transitions one in twenty-five is an end, whose
bounded gradient is outvoted by its neighbours', and values grew without limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from precocial.algos.plain.off_policy import OffPolicy, OffPolicyConfig, Training
from precocial.algos.plain.shared import (
    Normalisers,
    PlainConfig,
    PlainLearner,
    copied,
    epsilons,
    or_random,
)
from precocial.checks import at_least, in_range, positive
from precocial.nets.mlp import ACTIVATIONS, Activation, orthogonal_layers, perceptron
from precocial.nets.pictures import initial, seen_dim
from precocial.nets.stack import Nets, clip_norms
from precocial.ops.sums import mean_of_each
from precocial.task_replay import Sample
from precocial.types import EnvSpec, Metrics, Params, TaskEnv, Tasks, UserError


@dataclass(frozen=True)
class DQNConfig(OffPolicyConfig):
    """Settings of ``dqn``."""

    activation: Activation = "relu"
    """Hidden activation."""
    double: bool = True
    """Choose the next action by the network and value it by the target (double Q-learning)."""
    dueling: bool = False
    """A value and advantages instead of values of actions in the last layer."""
    n_step: int = 1
    """Steps whose rewards are summed before bootstrapping (n)."""
    epsilon: float = 1.0
    """Chance of a random action at first."""
    final_epsilon: float = 0.05
    """The same in the end."""
    explore_steps: int = 10_000
    """Environment steps in which it falls."""
    target_every: int = 0
    """Gradient steps after which the target is copied; 0: it follows by --tau."""
    max_grad_norm: float = 10.0
    """Longest gradient; longer ones are scaled down."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        at_least(self, 1, "n_step", "explore_steps")
        at_least(self, 0, "target_every")
        in_range(self, 0, 1, "epsilon", "final_epsilon")
        positive(self, "max_grad_norm")


class DQN(OffPolicy):
    """Deep Q-learning."""

    cfg: DQNConfig

    def __init__(
        self, cfg: DQNConfig, spec: EnvSpec, rng: torch.Generator, device: str = "cpu"
    ) -> None:
        if spec.action_kind != "discrete":
            raise UserError(
                f"{spec.name} has continuous actions; dqn needs discrete ones, try sac or ppo"
            )
        super().__init__(cfg, spec, rng, device)

    def initial_nets(self, rng: torch.Generator) -> Nets:
        """Values near 0."""
        sizes = seen_dim(self.spec), *self.cfg.hidden, self.spec.action_dim + self.cfg.dueling
        return {"q": initial(self.spec.picture, rng) | orthogonal_layers(sizes, 0.1, rng)}

    def initial_targets(self) -> Nets:
        """Of the one network."""
        return {"q": {k: p.clone() for k, p in self.nets["q"].items()}}

    @staticmethod
    def update_together(
        members: Sequence[DQN], env: TaskEnv, tasks: Tasks, rng: torch.Generator
    ) -> list[Metrics]:
        """Rounds of acting and learning."""
        cfg, t = members[0].cfg, Training(members, env, tasks, rng)
        actor = QLearner(cfg, t.stack.nets["q"], t.normalisers, rng)
        actor.epsilon = epsilons(members)

        def update(batch: Sample) -> dict[str, Tensor]:
            losses = dqn_losses(t.stack.nets["q"], t.targets.nets["q"], batch, cfg)
            gradient = t.guides.gradient(t.stack.gradient(losses["loss/value"]), t.stack.flat)
            t.moments.step(t.stack.flat, clip_norms(gradient, cfg.max_grad_norm), cfg.lr)
            if not cfg.target_every:
                t.follow(["q"])
            elif (members[0].updates_done + t.parts + 1) % cfg.target_every == 0:
                t.targets.flat.copy_(t.stack.flat)
            return losses

        metrics = t.run(actor, update)
        for its, epsilon in zip(metrics, actor.epsilon.flatten().tolist(), strict=True):
            its["train/epsilon"] = epsilon
        return metrics

    @staticmethod
    def learner_together(
        members: Sequence[Any], num_tasks: int, lanes: int, rng: torch.Generator
    ) -> QLearner:
        """See ``Stackable``."""
        return QLearner(members[0].cfg, copied(members, "q"), Normalisers(members), rng)


def q_values(
    params: Params, obs: Shaped[Tensor, "s b o"], cfg: DQNConfig
) -> Float[Tensor, "s b a"]:
    """Q(s, .) of each member."""
    out = perceptron(params, obs, ACTIVATIONS[cfg.activation])
    if not cfg.dueling:
        return out
    value, advantage = out[..., :1], out[..., 1:]
    return value + advantage - advantage.mean(-1, keepdim=True)


def dqn_losses(
    params: Params, target: Params, batch: Sample, cfg: DQNConfig
) -> dict[str, Float[Tensor, " s"]]:
    """Squared error of each member, and the mean of its values."""
    with torch.no_grad():
        following = q_values(target, batch.next_obs, cfg)
        judge = q_values(params, batch.next_obs, cfg) if cfg.double else following
        best = judge.argmax(-1, keepdim=True)
        y = batch.reward + batch.discount * following.gather(-1, best).squeeze(-1)
    q = q_values(params, batch.obs, cfg).gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
    return {
        "loss/value": mean_of_each((q - y).square() * batch.weight), "loss/q": mean_of_each(q)
    }  # fmt: skip


class QLearner(PlainLearner):
    """Acts by the best of the values; at random with chance epsilon where it explores."""

    epsilon: Float[Tensor, "s 1 1"] | None = None
    """None: a learner that is scored or used, which explores nothing."""

    def __init__(
        self, cfg: PlainConfig, params: Params, normalise: Normalisers, rng: torch.Generator
    ) -> None:
        super().__init__(cfg, params, normalise, rng)
        assert isinstance(cfg, DQNConfig)
        self.cfg = cfg

    @torch.no_grad()
    def act(self, obs: Shaped[Tensor, "n e o"], *, explore: bool = True) -> Tensor:
        """The best action, or a random one."""
        shape, num = obs.shape[:2], len(self.normalise.mean)
        rows = self.normalise(obs.reshape(num, -1, obs.shape[-1]))
        q = q_values(self.params, rows, self.cfg)
        best = q.argmax(-1).view(shape)
        if self.epsilon is None or not explore:
            return best
        return or_random(best, self.epsilon, q.shape[-1], self.rng)
