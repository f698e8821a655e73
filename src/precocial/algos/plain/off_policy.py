"""What off-policy methods share: acting and learning in turns, on what was met before.

An iteration is a fixed number of environment steps with a fixed number of gradient steps:
``rounds`` times every lane acts for ``train_every`` steps, and then ``updates`` gradient steps are
taken on transitions drawn from the replay. Until it holds ``learning_starts`` of them nothing is
learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precocial import threads
from precocial.algos.plain.shared import Lanes, Normalisers, PlainConfig, PlainMethod
from precocial.algos.transfer.guide import Guides
from precocial.checks import at_least, in_range
from precocial.nets.stack import Moments, Nets, Stack, follow
from precocial.seeding import each_of
from precocial.task_replay import Sample, TaskReplay
from precocial.types import EnvSpec, Metrics, TaskEnv, Tasks, UserError


@dataclass(frozen=True)
class OffPolicyConfig(PlainConfig):
    """Replay, and how much is learned from it."""

    lanes: int = 8
    """Parallel environments per task (E)."""
    rounds: int = 32
    """Times that an iteration acts and learns."""
    train_every: int = 4
    """Steps of every lane between gradient steps."""
    updates: int = 16
    """Gradient steps after them."""
    batch_size: int = 64
    """Transitions in a gradient step (B)."""
    buffer_size: int = 50_000
    """Transitions that are kept, the last ones, in equal shares of all tasks."""
    learning_starts: int = 1000
    """Transitions before the first gradient step."""
    tau: float = 0.005
    """Share of the way that targets move towards the networks in a gradient step (Polyak)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        at_least(self, 1, "rounds", "train_every", "updates", "batch_size", "buffer_size")
        at_least(self, 0, "learning_starts")
        in_range(self, 0, 1, "tau")
        if self.buffer_size < self.num_tasks * self.lanes * self.train_every:
            raise UserError(
                f"--buffer-size is {self.buffer_size}; expected at least the steps between "
                "updates, --num-tasks x --lanes x --train-every = "
                f"{self.num_tasks * self.lanes * self.train_every}"
            )
        most = self.capacity * self.lanes * self.num_tasks
        if self.learning_starts > most:
            raise UserError(
                f"--learning-starts is {self.learning_starts}; expected at most the {most} "
                "transitions that --buffer-size keeps, or nothing is ever learned"
            )

    @property
    def capacity(self) -> int:
        """Steps of every lane that are kept."""
        return self.buffer_size // (self.num_tasks * self.lanes)


class OffPolicy(PlainMethod):
    """One run with a replay and targets."""

    cfg: OffPolicyConfig
    held_by: tuple[str, ...] = ("freeze", "features_from", "unfreeze_at", "l2_source")
    targets: Nets
    """Slow copies of some of the networks."""

    def __init__(self, cfg: Any, spec: EnvSpec, rng: torch.Generator, device: str = "cpu") -> None:
        super().__init__(cfg, spec, rng, device)
        self.targets = self.initial_targets()
        self.replay = TaskReplay(cfg.capacity, spare=cfg.rounds * cfg.train_every)
        self.updates_done = 0

    def initial_targets(self) -> Nets:
        """Copies of the networks that have a slow one."""
        raise NotImplementedError

    @property
    def reach(self) -> int:
        """Of all rounds."""
        return self.cfg.rounds * self.cfg.train_every

    def begin_with(self, networks: dict[str, dict[str, Tensor]]) -> None:
        """See ``Transferable``; targets begin where the networks do."""
        super().begin_with(networks)
        self.targets = self.initial_targets()

    def state_dict(self) -> dict[str, Any]:
        """All but the replay, which is kept apart."""
        return super().state_dict() | {"targets": self.targets, "updates_done": self.updates_done}


class Training:
    """The rows of S members during an iteration."""

    def __init__(
        self, members: Sequence[OffPolicy], env: TaskEnv, tasks: Tasks, rng: torch.Generator
    ) -> None:
        self.members, self.cfg, self.rng = members, members[0].cfg, rng
        self.stack = Stack([m.nets for m in members])
        self.moments = Moments([m.moments for m in members], eps=1e-8)
        self.targets = Stack([m.targets for m in members])
        self.normalisers = Normalisers(members)
        self.lanes = Lanes(members, env, tasks, rng)
        self.guides = Guides([m.guide for m in members], [m.env_steps for m in members])
        self.totals: dict[str, Tensor] = {}
        self.parts = 0

    def run(self, learner: Any, update: Callable[[Sample], dict[str, Tensor]]) -> list[Metrics]:
        """All rounds of an iteration; the metrics of each member."""
        cfg, members = self.cfg, self.members
        for _ in range(cfg.rounds):
            rollout = self.lanes.roll(learner, cfg.train_every)
            for i, m in enumerate(members):
                m.replay.add(type(rollout)(*(self._of(x, i) for x in rollout)))
            self.normalisers.learn(
                self.lanes.stacked(rollout.obs), self.guides.learning_statistics()
            )
            if self.ready():
                for _ in range(cfg.updates):
                    threads.adjust()
                    losses = update(self.sample())
                    self.totals = {
                        k: self.totals.get(k, 0.0) + v.detach() for k, v in losses.items()
                    }
                    self.parts += 1
        self.lanes.close()
        self._hand_back()
        return [
            self.lanes.metrics(m) | {k: float(v[i]) / self.parts for k, v in self.totals.items()}
            for i, m in enumerate(members)
        ]

    def ready(self) -> bool:
        """Whether enough was met; all members have met as much."""
        replay = self.members[0].replay
        return replay.num_transitions * self.cfg.num_tasks >= self.cfg.learning_starts

    def _of(self, x: Any, i: int) -> Any:
        """A member's part of what lies one after the other on the task axis."""
        if isinstance(x, dict):
            return {k: self.lanes.split(v)[i] for k, v in x.items()}
        return self.lanes.split(x)[i]

    def sample(self) -> Sample:
        """A batch of each member, (S, B, ...), over all of its tasks; observations normalised."""
        cfg, steps = self.cfg, getattr(self.cfg, "n_step", 1)
        each = -(-cfg.batch_size // cfg.num_tasks)
        parts = [
            m.replay.sample(each, cfg.gamma, rng, steps)
            for m, rng in zip(self.members, each_of(self.rng), strict=True)
        ]
        batch = Sample(
            *(torch.stack([x.flatten(0, 1) for x in f]) for f in zip(*parts, strict=True))
        )
        return batch._replace(
            obs=self.normalisers(batch.obs), next_obs=self.normalisers(batch.next_obs)
        )

    def follow(self, names: Sequence[str]) -> None:
        """Move the targets of these networks a share of the way."""
        follow({n: self.targets.nets[n] for n in names}, self.stack.nets, self.cfg.tau)

    def _hand_back(self) -> None:
        rows = zip(
            self.members, self.stack.rows(), self.moments.rows(), self.normalisers.rows(),
            self.targets.rows(), strict=True,
        )  # fmt: skip
        for m, nets, moments, normaliser, targets in rows:
            m.nets, m.moments, m.normaliser, m.targets = nets, moments, normaliser, targets
            m.updates_done += self.parts
            if not self.lanes.goes_on:
                m.replay.cut()
