"""Tabular Q-learning: the value of every action in every state, learned from each transition.

Watkins, Dayan 1992, https://doi.org/10.1007/BF00992698, Eq. 1::

    Q(s, a) <- Q(s, a) + alpha (r + gamma max_a' Q(s', a') - Q(s, a))           0 where s' is an end

For observations that are one-hot. Actions are random with chance epsilon, else the best; ties go to
any. alpha is ``--lr`` over a power of how often the pair was met: with 1 and 0.5 < power <= 1 the
table converges to the optimum (their theorem). Lanes learn in parallel; those that meet the same
pair in the same step count as one with their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from precocial.algos.plain.shared import (
    Lanes,
    Normalisers,
    PlainConfig,
    PlainLearner,
    PlainMethod,
    copied,
    epsilons,
    or_random,
)
from precocial.checks import at_least, in_range
from precocial.nets.pictures import refuse
from precocial.nets.stack import Nets
from precocial.seeding import rand
from precocial.types import EnvSpec, Metrics, Step, TaskEnv, Tasks, UserError


@dataclass(frozen=True)
class QLearningConfig(PlainConfig):
    """Settings of ``q-learning``."""

    lanes: int = 8
    """Parallel environments per task (E)."""
    steps: int = 100
    """Steps of every lane in an iteration."""
    lr: float = 0.5
    """Rate of a pair that is met for the first time (alpha)."""
    lr_power: float = 0.0
    """The rate falls with this power of how often the pair was met; 0: constant."""
    epsilon: float = 1.0
    """Chance of a random action at first."""
    final_epsilon: float = 0.1
    """The same in the end."""
    explore_steps: int = 20_000
    """Environment steps in which it falls."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        at_least(self, 1, "steps", "explore_steps")
        in_range(self, 0, 1, "epsilon", "final_epsilon", "lr", "lr_power")


class QLearning(PlainMethod):
    """A table."""

    cfg: QLearningConfig

    def __init__(
        self, cfg: QLearningConfig, spec: EnvSpec, rng: torch.Generator, device: str = "cpu"
    ) -> None:
        if spec.action_kind != "discrete":
            raise UserError(
                f"{spec.name} has continuous actions; a table needs discrete ones, try sac or ppo"
            )
        refuse(spec, "a table", "try dqn or ppo")
        super().__init__(cfg, spec, rng, device)
        self.met = torch.zeros(spec.obs_dim, spec.action_dim, device=device)
        """How often each pair was met."""

    def initial_nets(self, rng: torch.Generator) -> Nets:
        """All values 0."""
        return {"q": {"table": torch.zeros(self.spec.obs_dim, self.spec.action_dim)}}

    @property
    def reach(self) -> int:
        """Of an iteration."""
        return self.cfg.steps

    @staticmethod
    def update_together(
        members: Sequence[QLearning], env: TaskEnv, tasks: Tasks, rng: torch.Generator
    ) -> list[Metrics]:
        """Act and learn, step by step."""
        cfg, lanes = members[0].cfg, Lanes(members, env, tasks, rng)
        table = torch.stack([m.nets["q"]["table"] for m in members])
        learner = TableLearner(cfg, {"table": table}, Normalisers(members), rng)
        learner.met = torch.stack([m.met for m in members])
        learner.epsilon = epsilons(members)
        lanes.roll(learner, cfg.steps)
        lanes.close()
        for m, values, met in zip(members, table, learner.met, strict=True):
            m.nets, m.met = {"q": {"table": values.clone()}}, met.clone()
        chances = learner.epsilon.flatten().tolist()
        return [
            lanes.metrics(m) | {"train/epsilon": chance, "loss/q": float(values.max())}
            for m, chance, values in zip(members, chances, table, strict=True)
        ]

    @staticmethod
    def learner_together(
        members: Sequence[Any], num_tasks: int, lanes: int, rng: torch.Generator
    ) -> TableLearner:
        """See ``Stackable``."""
        return TableLearner(members[0].cfg, copied(members, "q"), Normalisers(members), rng)

    def state_dict(self) -> dict[str, Any]:
        """With how often each pair was met."""
        return super().state_dict() | {"met": self.met}


class TableLearner(PlainLearner):
    """Acts by a table, and learns it where it counts what it meets."""

    met: Float[Tensor, "s o a"] | None = None
    """None: a learner that is scored or used, which learns nothing."""
    epsilon: Float[Tensor, "s 1 1"]

    def __init__(
        self, cfg: PlainConfig, params: dict[str, Tensor], normalise: Normalisers,
        rng: torch.Generator,
    ) -> None:  # fmt: skip
        super().__init__(cfg, params, normalise, rng)
        assert isinstance(cfg, QLearningConfig)
        self.cfg = cfg

    @torch.no_grad()
    def act(self, obs: Shaped[Tensor, "n e o"], *, explore: bool = True) -> Tensor:
        """The best action, or a random one."""
        self.state = self._numbers(obs)
        shape, table = obs.shape[:2], self.params["table"]
        values = table[self._row(shape), self.state]
        if self.met is None or not explore:
            return values.argmax(-1)
        tie = rand(values.shape, self.rng)
        best = torch.where(values == values.amax(-1, keepdim=True), tie, -1.0).argmax(-1)
        return or_random(best, self.epsilon, table.shape[-1], self.rng)

    @torch.no_grad()
    def observe(self, action: Tensor, step: Step) -> None:
        """Eq. 1, of every lane."""
        super().observe(action, step)
        if self.met is None:
            return
        table, row = self.params["table"], self._row(action.shape)
        following = table[row, self._numbers(step.next_obs)].amax(-1)
        target = step.reward + self.cfg.gamma * following * (~step.terminated)
        place = (row.expand_as(action) * table[0].numel()) + self.state * table.shape[-1] + action
        place, error = place.flatten(), (target - table[row, self.state, action]).flatten()
        count = torch.zeros(table.numel(), device=table.device).index_add_(
            0, place, torch.ones_like(error)
        )
        total = torch.zeros_like(count).index_add_(0, place, error)
        seen = count > 0
        self.met.view(-1)[seen] += 1
        rate = self.cfg.lr * self.met.view(-1)[seen] ** -self.cfg.lr_power
        table.view(-1)[seen] += rate * total[seen] / count[seen]

    def _row(self, shape: Sequence[int]) -> Tensor:
        """Which member each lane is of, (S*N, 1)."""
        table = self.params["table"]
        num = len(table)
        return (
            torch.arange(num, device=table.device).repeat_interleave(shape[0] // num).unsqueeze(1)
        )

    def _numbers(self, obs: Shaped[Tensor, "n e o"]) -> Tensor:
        """States of one-hot observations.

        Raises:
            UserError: they are something else.
        """
        if not bool(((obs == 0) | (obs == 1)).all() and (obs.sum(-1) == 1).all()):
            raise UserError("q-learning needs one-hot observations, one for every state; try dqn")
        return obs.argmax(-1)
