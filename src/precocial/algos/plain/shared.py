"""What plain methods share: S runs computed as one, lanes that go on, and what is kept of them.

A member is one run: an object with its own networks, moments, normaliser and lanes, which is saved
and loaded by itself. An iteration stacks the members, works on rows (S, ...), and hands each its
row back. A member that is trained alone is a stack of one.

Where the task is always the same and the environment can leave its lanes and take them up again,
an episode goes on from one iteration to the next. Elsewhere lanes begin anew with every iteration,
with new tasks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from precocial.algos.transfer.guide import Guide
from precocial.checks import at_least, in_range, positive, widths
from precocial.nets.mlp import ACTIVATIONS, Activation, action_dist
from precocial.nets.pictures import is_bytes
from precocial.nets.stack import Moments, Nets
from precocial.ops.distributions import mode, sample
from precocial.ops.moments import merge_moments
from precocial.ops.returns import episode_index
from precocial.rollout import collect
from precocial.seeding import each_of, only_where, rand, randint
from precocial.types import (
    Continuing,
    EnvSpec,
    Metrics,
    Params,
    Rollout,
    Step,
    TaskEnv,
    Tasks,
)

RECENT = 100
"""Episodes whose mean return is reported."""


@dataclass(frozen=True)
class PlainConfig:
    """Lanes and networks."""

    num_tasks: int = 1
    """Tasks per iteration (N); the agent is blind to which it faces."""
    lanes: int = 16
    """Parallel environments per task (E)."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of every network."""
    activation: Activation = "tanh"
    """Hidden activation."""
    normalize_obs: bool = False
    """Normalise observations by running statistics of the training data."""
    gamma: float = 0.99
    """Discount per environment step (gamma)."""
    lr: float = 1e-3
    """Adam's rate."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        at_least(self, 1, "num_tasks", "lanes")
        in_range(self, 0, 1, "gamma")
        positive(self, "lr")
        widths(self, "hidden")


class PlainMethod:
    """One run: what is saved and loaded, and the learner that acts for it.

    A method sets ``nets`` and implements ``update_together``.
    """

    stage_unit: Literal["update", "episode"] = "episode"
    num_stages = 1
    is_trial = True
    greedy = True
    progress = 0.0
    held_by: tuple[str, ...] = ()
    """Ways of ``TransferConfig`` in which it can be held to a source while it is trained."""
    nets: Nets

    def __init__(self, cfg: Any, spec: EnvSpec, rng: torch.Generator, device: str = "cpu") -> None:
        self.cfg, self.spec = cfg, spec
        self.nets = {
            name: {k: p.to(device) for k, p in params.items()}
            for name, params in self.initial_nets(rng).items()
        }
        self.moments = Moments.zero(self.nets)
        self.normaliser = {
            "mean": torch.zeros(spec.obs_dim, device=device),
            "var": torch.ones(spec.obs_dim, device=device),
            "count": torch.zeros((), device=device),
        }
        self.standing: dict[str, Tensor] = {}
        """Where the lanes stand, each ``(N, E, ...)``; nothing where they are to begin."""
        self.recent = torch.zeros(0)
        """Returns of the last episodes."""
        self.env_steps = 0
        """Of this run."""
        self.guide: Guide | None = None
        """What holds it to the source that it began from."""

    def initial_nets(self, rng: torch.Generator) -> Nets:
        """Untrained networks by name."""
        raise NotImplementedError

    @staticmethod
    def update_together(
        members: Sequence[Any], env: TaskEnv, tasks: Tasks, rng: torch.Generator
    ) -> list[Metrics]:
        """See ``Stackable``."""
        raise NotImplementedError

    @staticmethod
    def learner_together(
        members: Sequence[PlainMethod], num_tasks: int, lanes: int, rng: torch.Generator
    ) -> PlainLearner:
        """See ``Stackable``."""
        return PlainLearner(members[0].cfg, copied(members, "actor"), Normalisers(members), rng)

    @property
    def reach(self) -> int:
        """Steps that a lane makes in an iteration."""
        raise NotImplementedError

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """One iteration alone."""
        return self.update_together([self], env, tasks, rng)[0]

    def learner(self, num_tasks: int, lanes: int, rng: torch.Generator) -> PlainLearner:
        """A frozen copy, which learns nothing more."""
        return self.learner_together([self], num_tasks, lanes, rng)

    def networks(self) -> dict[str, Params]:
        """See ``Transferable``."""
        return self.nets | {"normaliser": self.normaliser}

    def begin_with(self, networks: dict[str, Params]) -> None:
        """See ``Transferable``."""
        device = self.normaliser["mean"].device
        nets = {n: {k: p.to(device) for k, p in part.items()} for n, part in networks.items()}
        self.normaliser = nets.pop("normaliser")
        self.nets = nets

    def test_lrs(self, num_updates: int) -> list[float]:
        """Nothing is updated."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Networks, moments, normaliser, lanes."""
        return {
            "nets": self.nets, "moments": self.moments, "normaliser": self.normaliser,
            "standing": self.standing, "recent": self.recent, "env_steps": self.env_steps,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse.

        Raises:
            ValueError: networks of other names or sizes.
        """
        shapes = [_shapes(nets) for nets in (state["nets"], self.nets)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"networks of other sizes: {shapes[0]}; expected {shapes[1]}")
        for name, value in state.items():
            setattr(self, name, copy.deepcopy(value))


def _shapes(nets: Nets) -> dict[str, tuple[int, ...]]:
    return {f"{net}/{k}": tuple(p.shape) for net, params in nets.items() for k, p in params.items()}


class Normalisers:
    """Observation statistics of S members."""

    def __init__(self, members: Sequence[PlainMethod]) -> None:
        self.on = members[0].cfg.normalize_obs
        states = [m.normaliser for m in members]
        self.mean, self.var, self.count = (
            torch.stack([s[k] for s in states]) for k in ("mean", "var", "count")
        )

    def __call__(self, obs: Shaped[Tensor, "s *b o"]) -> Shaped[Tensor, "s *b o"]:
        """Mean 0 and deviation 1, within +-10; pictures as they are."""
        if not self.on or is_bytes(obs):
            return obs
        shape = len(obs), *(1,) * (obs.ndim - 2), obs.shape[-1]
        centred = obs - self.mean.view(shape)
        return (centred * (self.var.view(shape) + 1e-8).rsqrt()).clamp(-10, 10)

    def learn(self, obs: Shaped[Tensor, "s b o"], whose: Sequence[bool]) -> None:
        """Merge a batch of each member's, of those that go on to learn."""
        for i, batch in enumerate(obs):
            if self.on and whose[i] and not is_bytes(batch):
                merged = merge_moments(self.mean[i], self.var[i], self.count[i], batch)
                self.mean[i], self.var[i], self.count[i] = merged

    def rows(self) -> list[dict[str, Tensor]]:
        """Of each member."""
        each = zip(self.mean, self.var, self.count, strict=True)
        return [{"mean": m.clone(), "var": v.clone(), "count": c.clone()} for m, v, c in each]


class PlainLearner:
    """Acts by the policies of S members, each on its share of the tasks.

    Args:
        cfg: Settings of all members.
        params: Of their policies, each ``(S, ...)``; what they are when it acts.
        normalise: Their normalisers.
        rng: Draws actions.
    """

    def __init__(
        self, cfg: PlainConfig, params: Params, normalise: Normalisers, rng: torch.Generator
    ) -> None:
        self.activation = ACTIVATIONS[cfg.activation]
        self.params, self.normalise, self.rng = params, normalise, rng
        self.acted: dict[str, Tensor] = {}
        self.seen: Tensor
        """The latest observation, on which acting goes on."""

    @torch.no_grad()
    def act(self, obs: Shaped[Tensor, "n e o"], *, explore: bool = True) -> Tensor:
        """Sample, or take the mode."""
        shape, num = obs.shape[:2], len(self.normalise.mean)
        rows = self.normalise(obs.reshape(num, -1, obs.shape[-1]))  # (S*N, E, O) -> (S, N*E, O)
        dist = action_dist(self.params, rows, self.activation)
        self.acted = {k: v.reshape(*shape, v.shape[-1]) for k, v in dist.items()}
        return sample(self.acted, self.rng) if explore else mode(self.acted)

    def observe(self, action: Tensor, step: Step) -> None:
        """It learns nothing."""
        self.seen = step.obs

    def adapt(self) -> None:
        """It learns nothing."""

    def state_dict(self) -> dict[str, Any]:
        """What it is."""
        return {"params": self.params, "normaliser": self.normalise.rows()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the saved learner."""
        self.params = dict(state["params"])
        for name in ("mean", "var", "count"):
            stacked = torch.stack([row[name] for row in state["normaliser"]])
            setattr(self.normalise, name, stacked)


def go_on(env: TaskEnv) -> bool:
    """Whether lanes go on from one iteration to the next."""
    return env.spec.num_tasks == 1 and isinstance(env, Continuing)


class Lanes:
    """The lanes of S members during an iteration, and the returns of the episodes they end."""

    def __init__(
        self, members: Sequence[PlainMethod], env: TaskEnv, tasks: Tasks, rng: torch.Generator
    ) -> None:
        self.members, self.env, self.tasks, self.rng = members, env, tasks, rng
        self.num = members[0].cfg.lanes
        self.goes_on = go_on(env)
        self.steps_before = env.steps_taken
        standing = [m.standing if self.goes_on else {} for m in members]
        share = tasks.num // len(members)
        begins = torch.tensor([not s for s in standing]).repeat_interleave(share)
        if begins.any():
            with only_where(begins, rng):
                self.obs = env.reset(tasks, self.num, rng)
            fresh = self._leave() if self.goes_on else {}
            fresh["return"] = self.obs.new_zeros(tasks.num, self.num)
            standing = [
                s or {k: v[i * share : (i + 1) * share] for k, v in fresh.items()}
                for i, s in enumerate(standing)
            ]
        joined = {k: torch.cat([s[k] for s in standing]) for k in standing[0]}
        self.returns = joined.pop("return")
        """Of the episodes under way (S*N, E)."""
        if not begins.all():
            assert isinstance(env, Continuing)
            self.obs = env.enter(tasks, joined, rng)

    def _leave(self) -> dict[str, Tensor]:
        assert isinstance(self.env, Continuing)
        return self.env.leave()

    def roll(self, learner: Any, steps: int) -> Rollout:
        """Act for so many steps on every lane, on from where they stand."""
        rollout = collect(self.env, self.tasks, learner, self.num, steps, self.rng, obs=self.obs)
        ended = rollout.terminated | rollout.truncated
        self.obs = learner.seen
        index = episode_index(ended)
        sums = torch.zeros(*index.shape[:2], steps + 1).to(rollout.reward)
        sums.scatter_add_(-1, index, rollout.reward)
        sums[..., 0] += self.returns
        count = ended.sum(-1, keepdim=True)
        self.returns = sums.gather(-1, count).squeeze(-1)
        done = torch.arange(steps + 1, device=sums.device) < count
        for m, totals, whole in zip(self.members, *map(self.split, (sums, done)), strict=True):
            m.recent = torch.cat([m.recent.to(totals), totals[whole]])[-RECENT:]
        return rollout

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Of each member, from (S*N, ...)."""
        return x.chunk(len(self.members))

    def stacked(self, x: Shaped[Tensor, "n e t *d"]) -> Tensor:
        """(S*N, E, T, ...) -> (S, N*E*T, ...)."""
        return x.reshape(len(self.members), -1, *x.shape[3:])

    def close(self) -> None:
        """Hand every member its own, where lanes go on; count its steps."""
        for m in self.members:
            m.env_steps += (self.env.steps_taken - self.steps_before) // len(self.members)
        if self.goes_on:
            left = self._leave() | {"return": self.returns}
            for i, m in enumerate(self.members):
                m.standing = {k: self.split(v)[i].clone() for k, v in left.items()}

    def metrics(self, member: PlainMethod) -> Metrics:
        """Mean return of a member's last episodes."""
        if not len(member.recent):
            return {}
        return {"episode_reward_mean": float(member.recent.mean())}


def epsilons(members: Sequence[PlainMethod]) -> Float[Tensor, "s 1 1"]:
    """Chances of a random action, by how many environment steps each has made."""
    cfg: Any = members[0].cfg
    done = torch.tensor([min(1.0, m.env_steps / cfg.explore_steps) for m in members])
    return (cfg.epsilon + done * (cfg.final_epsilon - cfg.epsilon)).view(-1, 1, 1)


def copied(members: Sequence[PlainMethod], net: str) -> Params:
    """A network of each member, (S, ...)."""
    return {k: torch.stack([m.nets[net][k] for m in members]) for k in members[0].nets[net]}


def or_random(
    best: Int[Tensor, "n e"], epsilon: Float[Tensor, "s 1 1"], num: int, rng: torch.Generator
) -> Int[Tensor, "n e"]:
    """These actions, or with chance epsilon any of ``num``."""
    chance = epsilon.expand(len(epsilon), len(best) // len(epsilon), best.shape[1])
    dice = rand(best.shape, rng) < chance.reshape(best.shape).to(best.device)
    return torch.where(dice, randint(0, num, best.shape, rng), best)


def draws(rng: torch.Generator, draw: Any) -> Tensor:
    """``draw(generator)`` of every member, (S, ...)."""
    return torch.stack([draw(one) for one in each_of(rng)])
