"""PEARL: infer which task it is, draw a guess, act as if it were true for an episode, look again.

Rakelly, Zhou, Quillen, Finn, Levine 2019, https://arxiv.org/abs/1903.08254, Algorithms 1 and 2::

    for each iteration
        for some of the training tasks
            z ~ N(0, I); act by pi(a|s, z) for an episode; c <- what was seen
            z ~ q(z|c) before each further episode of the trial
        for each gradient step
            for a batch of tasks: context c, z ~ q(z|c), transitions b
                descend  Q-loss(b, z) + beta KL(q(z|c) || N(0, I))      encoder and critics
                descend  policy loss(b, z), z held still

    q(z|c) ~ N(0, I) prod_n N(mu_n, sigma_n^2),   one factor for each transition      Eq. 2

The context of a gradient step is what a test looks like: the first k episodes of one trial, k
drawn. Contexts come from a task's last ``--context-trials`` trials, transitions from all that is
kept.

Deviations: two critics with slow copies and no state value (as later SAC). The prior is a factor of
the product, so a posterior of nothing is the prior. KL is a mean over tasks, so its weight does not
depend on their number: the reference's weight w at N tasks and a reward scale s is w N / s^2
here, where rewards are not scaled and the temperature is 1 / s. The encoder also sees by how much
the reward has changed, and all that it sees is scaled by the first data.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from precocial import threads
from precocial.algos.inference.encoder import Kind, encode, initial
from precocial.algos.plain.sac import (
    Policies,
    actor_losses,
    critic_losses,
    initial_nets,
    looked_at,
    slow,
    usual_entropy,
)
from precocial.checks import at_least, in_range, positive, widths
from precocial.nets.mlp import Activation
from precocial.nets.pictures import read, seen_dim, thumbnail, thumbnail_dim
from precocial.nets.stack import Moments, Nets, Stack, follow
from precocial.ops.returns import episode_index, episode_returns
from precocial.rollout import collect, lanes_diverged
from precocial.seeding import child_seed
from precocial.task_replay import Sample, TaskReplay
from precocial.types import EnvSpec, Metrics, Params, Rollout, Step, TaskEnv, Tasks, UserError

AHEAD = 16
"""Gradient steps whose data are drawn together."""


@dataclass(frozen=True)
class PEARLConfig:
    """Settings of ``pearl``."""

    train_tasks: int = 80
    """Training tasks in all (P)."""
    num_tasks: int = 20
    """Tasks that an iteration collects trials from, in rotation, at most (M)."""
    lanes: int = 1
    """Trials of each of them (E)."""
    episodes_per_trial: int = 2
    """Episodes of a trial in training (K)."""
    updates: int = 200
    """Gradient steps per iteration."""
    warm_updates: int = 0
    """Gradient steps on the first data, before anything is collected by the policy."""
    meta_batch: int = 16
    """Tasks in a gradient step (N)."""
    batch_size: int = 64
    """Transitions of each of them (B)."""
    context_size: int = 100
    """Most transitions of a context in training (C)."""
    context_trials: int = 5
    """Last trials of a task from which contexts are taken (R)."""
    buffer_size: int = 20_000
    """Transitions of each task that are kept."""
    first_data: Literal["uniform", "sticky"] = "uniform"
    """Actions of the first trials: drawn at every step, or once an episode. These trials stay among
    the contexts for ever."""
    informed: float = 0.0
    """Share of trials that from some episode on also know of an earlier trial on the task."""
    encoder: Kind = "product"
    """A factor for each transition; attention among them; a recurrent network."""
    context: Literal["sampled", "deterministic", "none"] = "sampled"
    """Draw z from q(z|c); take its mean, without a KL term; or know nothing, for comparison."""
    latent_dim: int = 5
    """Size of the latent task (z)."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of policy and critics."""
    encoder_hidden: tuple[int, ...] = (64, 64)
    """Widths of the encoder."""
    activation: Activation = "relu"
    """Hidden activation."""
    next_obs_in_context: bool = False
    """Show the encoder where each step led, as a difference; for tasks that differ in dynamics."""
    reward_change_in_context: bool = True
    """Show the encoder by how much the reward grew since the step before in the episode."""
    kl_weight: float = 1e-3
    """Weight of KL(q(z|c) || N(0, I)), a mean over tasks (beta)."""
    gamma: float = 0.99
    """Discount per environment step."""
    lr: float = 1e-3
    """Adam's rate."""
    anneal: bool = False
    """Let the rate fall linearly to 0 over the run."""
    tau: float = 0.01
    """Share of the way that slow critics move in a gradient step."""
    alpha: float = 0.01
    """Temperature: weight of the entropy, one over the reference's reward scale."""
    auto_alpha: bool = False
    """Learn the temperature, so that the entropy is at its target."""
    min_alpha: float = 1e-3
    """The least that it falls to."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        at_least(
            self, 1, "train_tasks", "num_tasks", "lanes", "episodes_per_trial", "updates",
            "meta_batch", "batch_size", "context_size", "context_trials", "buffer_size",
            "latent_dim",
        )  # fmt: skip
        at_least(self, 0, "warm_updates", "kl_weight")
        in_range(self, 0, 1, "gamma", "tau", "informed")
        positive(self, "lr", "alpha", "min_alpha")
        if self.alpha < self.min_alpha:
            raise UserError(
                f"--alpha is {self.alpha}; expected --min-alpha, {self.min_alpha}, or more"
            )
        widths(self, "hidden", "encoder_hidden")


class PEARL:
    """Probabilistic embeddings for actor-critic meta-RL."""

    stage_unit: Literal["update", "episode"] = "episode"
    is_trial = False
    greedy = False
    draws_tasks = True
    progress = 0.0

    def __init__(
        self, cfg: PEARLConfig, spec: EnvSpec, rng: torch.Generator, device: str = "cpu"
    ) -> None:
        self.cfg, self.spec, self.device = cfg, spec, device
        self.num_stages = cfg.episodes_per_trial + 1
        row = row_width(cfg, spec)
        nets = initial_nets(seen_dim(spec) + cfg.latent_dim, spec, cfg.hidden, cfg.alpha, rng)
        temperature = nets.pop("temperature")
        nets["encoder"] = initial(cfg.encoder, row, cfg.encoder_hidden, cfg.latent_dim, rng)
        nets["temperature"] = temperature
        self.nets = {n: {k: p.to(device) for k, p in part.items()} for n, part in nets.items()}
        self.targets = slow(self.nets)
        self.moments = Moments.zero(self.nets)
        self.pool_seed = child_seed(rng)
        """Draws the training tasks."""
        self.groups = -(-self.num_train // cfg.num_tasks)
        """Iterations until every task had its turn."""
        self.at_once = -(-self.num_train // self.groups)
        """Tasks that have their turn together."""
        self.length = cfg.episodes_per_trial * spec.horizon
        """Steps of a trial."""
        per_turn = self.length * cfg.lanes
        turns = max(cfg.context_trials, -(-cfg.buffer_size // per_turn))
        rows = turns * self.groups * self.length
        self.replay = TaskReplay(rows, spare=self.length)
        self.first: dict[str, Tensor] = {}
        """The first trials of all tasks, (G, L, M, E, ...)."""
        self.scale = Scale(row, device)

    @property
    def num_train(self) -> int:
        """Training tasks: no more than the family has of them."""
        return min(self.cfg.train_tasks, self.spec.tasks_of("train") or self.cfg.train_tasks)

    def tasks_of(self, env: TaskEnv, group: int) -> Tasks:
        """Those whose turn it is; the last group begins anew at the first tasks."""
        rng = torch.Generator().manual_seed(self.pool_seed)
        pool = env.sample_tasks(self.num_train, "train", rng)
        which = [(group * self.at_once + k) % self.num_train for k in range(self.at_once)]
        return Tasks.join([pool.select(slice(k, k + 1)) for k in which])

    def learner(self, num_tasks: int, lanes: int, rng: torch.Generator) -> PEARLLearner:
        """Acts on what it infers."""
        nets = {
            n: {k: p.unsqueeze(0) for k, p in part.items()}
            for n, part in self.nets.items() if n in ("actor", "encoder", "eyes")
        }  # fmt: skip
        return PEARLLearner(self.cfg, self.spec, nets, self.scale, (num_tasks, lanes), rng)

    def test_lrs(self, num_updates: int) -> list[float]:
        """Nothing is updated."""
        return []

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """Trials on the tasks whose turn it is, then gradient steps on all tasks.

        ``tasks`` are not used: the training tasks are a pool of the method's own.
        """
        training = Training(self, rng)
        if not self.first:
            self.collect_first(env, rng)
            training.run(self.cfg.warm_updates)
        rollout = self.collect(env, rng)
        self.replay.extend(self.rows_of(rollout))
        training.run(self.cfg.updates)
        ended = rollout.terminated | rollout.truncated
        returns = episode_returns(rollout.reward, ended, self.cfg.episodes_per_trial)
        found = {
            f"episode_reward_mean{f'_adapt_{k}' if k else ''}": float(x)
            for k, x in enumerate(returns.mean((0, 1)))
        }
        return found | training.means() | lanes_diverged([rollout])

    # ---- data ---------------------------------------------------------------------------

    def collect_first(self, env: TaskEnv, rng: torch.Generator) -> None:
        """A trial on every task by actions that nothing was learned for."""
        blocks = []
        for group in range(self.groups):
            actor = FirstActions(self.cfg, self.spec, (self.at_once, self.cfg.lanes), rng)
            rollout = collect(
                env, self.tasks_of(env, group), actor, self.cfg.lanes, self.length, rng
            )
            blocks.append(self.rows_of(rollout))
        self.first = {k: torch.stack([b[k] for b in blocks]) for k in blocks[0]}
        reward, ended = (self.first[k].movedim(1, -1) for k in ("reward", "ended"))
        change = changes(reward, ended).movedim(-1, 1)
        self.scale.learn(context_rows(self.first | {"change": change}, self.cfg, self.spec))

    def collect(self, env: TaskEnv, rng: torch.Generator) -> Rollout:
        """A trial on each task whose turn it is."""
        group = (self.replay.total // self.length) % self.groups
        learner = self.learner(self.at_once, self.cfg.lanes, rng)
        if self.cfg.informed:
            learner.inform(*self.informed(group, rng))
        tasks = self.tasks_of(env, group)
        return collect(env, tasks, learner, self.cfg.lanes, self.length, rng)

    def informed(
        self, group: int, rng: torch.Generator
    ) -> tuple[Float[Tensor, "m e c d"], Float[Tensor, "m e c"], Int[Tensor, "m e"]]:
        """An earlier trial on each task, and from which episode on it is known."""
        cfg, shape = self.cfg, (self.at_once, self.cfg.lanes)
        slot = torch.arange(self.at_once, device=rng.device)
        groups = torch.full_like(slot, group)
        drawn = [self.context(groups, slot, rng, whole=True) for _ in range(cfg.lanes)]
        rows, weight = (torch.stack(x, 1) for x in zip(*drawn, strict=True))
        since = torch.randint(cfg.episodes_per_trial, shape, generator=rng, device=rng.device)
        never = torch.rand(shape, generator=rng, device=rng.device) >= cfg.informed
        return rows, weight, since.masked_fill(never, self.length)

    def rows_of(self, rollout: Rollout) -> dict[str, Tensor]:
        """What is kept of a rollout, (L, M, E, ...)."""
        columns = {
            "obs": rollout.obs, "action": rollout.action, "reward": rollout.reward,
            "next_obs": rollout.next_obs, "terminated": rollout.terminated,
            "ended": rollout.terminated | rollout.truncated, "lost": rollout.diverged,
        }  # fmt: skip
        if "info/dense_reward" in rollout.extra:
            columns["dense"] = rollout.extra["info/dense_reward"]
        return {k: v.movedim(2, 0) for k, v in columns.items()}

    def turns(self, group: Int[Tensor, "*n"]) -> tuple[Int[Tensor, "*n"], Int[Tensor, "*n"]]:
        """Of each group, how many blocks are kept, and the number of its last one."""
        now = self.replay.total // self.length
        last = now - 1 - (now - 1 - group) % self.groups
        oldest = self.replay.start // self.length
        kept = ((last - oldest) // self.groups + 1).clamp(min=0)
        return kept, last

    def transitions(
        self, group: Int[Tensor, " n"], slot: Int[Tensor, " n"], rng: torch.Generator
    ) -> Sample:
        """B transitions of each of these tasks, uniformly of all that are kept."""
        cfg, shape = self.cfg, (len(group), self.cfg.batch_size)
        kept, _ = self.turns(group)

        def draw(high: int) -> Tensor:
            return torch.randint(high, shape, generator=rng, device=rng.device)

        # The first data are one more block of each task.
        back = (
            torch.rand(shape, generator=rng, device=rng.device) * (kept + 1).unsqueeze(1)
        ).long()
        back = torch.minimum(back, kept.unsqueeze(1))
        inside, lane = draw(self.length), draw(cfg.lanes)
        reward = "dense" if "dense" in self.first else "reward"
        names = ("obs", "action", reward, "next_obs", "terminated", "lost")
        found = self.at(names, group.unsqueeze(1), slot.unsqueeze(1), back, inside, lane)
        discount = cfg.gamma * (~found["terminated"]).to(found[reward])
        weight = (~found["lost"]).to(discount)
        return Sample(
            found["obs"], found["action"], found[reward], found["next_obs"], discount, weight
        )

    def at(
        self, names: Sequence[str], group: Tensor, slot: Tensor, back: Tensor, inside: Tensor,
        lane: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Fields of steps: ``back`` turns before the group's last, the first trial beyond them."""
        kept, last = self.turns(group)
        is_first = (back >= kept).expand(inside.shape)
        time = (last - back * self.groups).clamp(min=0) * self.length + inside
        width = self.at_once * self.cfg.lanes
        cell = slot * self.cfg.lanes + lane
        early = ((group * self.length + inside) * width + cell).flatten()
        late = self.replay.places(time, cell).flatten() if self.replay.fields else early
        found = {}
        for k in names:
            x = self.first[k].flatten(0, 3).index_select(0, early)
            if self.replay.fields:
                other = self.replay.at(k, late)
                mask = is_first.reshape(-1, *(1,) * (x.ndim - 1))
                x = torch.where(mask, x, other)
            found[k] = x.unflatten(0, inside.shape)
        return found

    def context(
        self, group: Int[Tensor, " n"], slot: Int[Tensor, " n"], rng: torch.Generator, *,
        whole: bool = False,
    ) -> tuple[Float[Tensor, "n c d"], Float[Tensor, "n c"]]:  # fmt: skip
        """The first k episodes of a trial of each task, k drawn; how many steps each row is for."""
        cfg, n = self.cfg, len(group)
        kept, _ = self.turns(group)
        # The first trial is always one of those that may be drawn.
        choices = kept.clamp(max=cfg.context_trials) + 1
        pick = (torch.rand(n, generator=rng, device=rng.device) * choices).long()
        back = torch.where(pick >= choices - 1, kept, pick)
        lane = torch.randint(cfg.lanes, (n,), generator=rng, device=rng.device)
        k = torch.randint(1, cfg.episodes_per_trial + 1, (n,), generator=rng, device=rng.device)
        if whole:
            k = torch.full_like(k, cfg.episodes_per_trial)
        which = group.unsqueeze(1), slot.unsqueeze(1), back.unsqueeze(1)
        steps = torch.arange(self.length, device=rng.device).expand(n, -1)
        trial = self.at(("ended", "reward"), *which, steps, lane.unsqueeze(1))
        size = (episode_index(trial["ended"]) < k.unsqueeze(1)).sum(1)
        rows = min(cfg.context_size, self.length)
        offset = torch.rand((n, 1), generator=rng, device=rng.device)
        spread = (offset + torch.arange(rows, device=rng.device)) * (size.unsqueeze(1) / rows)
        few = size.unsqueeze(1) <= rows
        there = torch.arange(rows, device=rng.device) < size.unsqueeze(1)
        place = torch.where(few, torch.arange(rows, device=rng.device), spread.long())
        place = torch.minimum(place, size.unsqueeze(1) - 1)
        weight = torch.where(few, there.float(), size.unsqueeze(1) / rows)
        names = ("obs", "action", "reward", "next_obs", "lost")
        chosen = self.at(names, *which, place, lane.unsqueeze(1))
        chosen["change"] = changes(trial["reward"], trial["ended"]).gather(1, place)
        weight = weight * (~chosen["lost"]).to(weight)
        return self.scale(context_rows(chosen, cfg, self.spec)), weight

    # ---- state --------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All but the replay, which is kept apart."""
        return {
            "nets": self.nets, "targets": self.targets, "moments": self.moments,
            "first": self.first, "pool_seed": self.pool_seed,
            "scale": {"mean": self.scale.mean, "std": self.scale.std},
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        state = copy.deepcopy(state)
        vars(self.scale).update(state.pop("scale"))
        first = state["first"]
        # Older runs kept the reward twice where a family has one; new rows have it once.
        if "dense" in first and torch.equal(first["dense"], first["reward"]):
            del first["dense"]
        vars(self).update(state)


def changes(reward: Float[Tensor, "*b t"], ended: Bool[Tensor, "*b t"]) -> Float[Tensor, "*b t"]:
    """By how much each reward is above the one before in its episode; 0 for an episode's first."""
    before = torch.cat([reward[..., :1], reward[..., :-1]], -1)
    first = torch.cat([torch.ones_like(ended[..., :1]), ended[..., :-1]], -1)
    return (reward - before).masked_fill(first, 0.0)


def row_width(cfg: PEARLConfig, spec: EnvSpec) -> int:
    """Of ``context_rows``."""
    seen = thumbnail_dim(spec) * (1 + cfg.next_obs_in_context)
    return seen + spec.action_dim + 1 + cfg.reward_change_in_context


def context_rows(
    steps: dict[str, Tensor], cfg: PEARLConfig, spec: EnvSpec
) -> Float[Tensor, "*b d"]:
    """What the encoder reads of transitions, before it is scaled; of pictures thumbnails."""
    action, obs = steps["action"], thumbnail(steps["obs"], spec)
    if spec.action_kind == "discrete":
        action = torch.nn.functional.one_hot(action, spec.action_dim).to(obs)
    parts = [obs, action.clamp(-1, 1), steps["reward"].unsqueeze(-1)]
    if cfg.reward_change_in_context:
        parts.append(steps["change"].unsqueeze(-1))
    if cfg.next_obs_in_context:
        parts.append(thumbnail(steps["next_obs"], spec) - obs)
    return torch.cat(parts, -1)


class Scale:
    """Mean 0 and deviation 1 of every column of a context, by the first data."""

    def __init__(self, width: int, device: str) -> None:
        self.mean, self.std = torch.zeros(width, device=device), torch.ones(width, device=device)

    def learn(self, rows: Float[Tensor, "*b d"]) -> None:
        """From these."""
        self.mean = rows.flatten(0, -2).mean(0)
        std = rows.flatten(0, -2).std(0)
        self.std = torch.where(std > 1e-6, std, torch.ones_like(std))

    def __call__(self, rows: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Scaled, within +-10."""
        return ((rows - self.mean) / self.std).clamp(-10, 10)


def guess(
    params: Params, rows: Float[Tensor, "n c d"], weight: Float[Tensor, "n c"], cfg: PEARLConfig,
    rng: torch.Generator,
) -> tuple[Float[Tensor, "n z"], Float[Tensor, " n"]]:  # fmt: skip
    """A z for each task, and KL(q(z|c) || N(0, I))."""
    if cfg.context == "none":
        weight = torch.zeros_like(weight)
    q = encode(cfg.encoder, params, rows, weight)
    return (q.mean if cfg.context == "deterministic" else q.draw(rng)), q.kl()


class Training:
    """Gradient steps of an iteration."""

    def __init__(self, owner: PEARL, rng: torch.Generator) -> None:
        self.owner, self.cfg, self.rng = owner, owner.cfg, rng
        self.stack, self.targets = Stack([owner.nets]), Stack([owner.targets])
        self.moments = Moments([owner.moments], eps=1e-8)
        self.policies = Policies(owner.cfg.activation, owner.spec, rng)
        self.lr = owner.cfg.lr * (1 - owner.progress * owner.cfg.anneal)
        self.totals: dict[str, Tensor] = {}
        self.steps = 0

    def run(self, steps: int) -> None:
        """So many; what they learn from is drawn for some of them together."""
        ahead = 1 if self.owner.spec.picture else AHEAD
        for start in range(0, steps, ahead):
            for data in self.drawn(min(ahead, steps - start)):
                threads.adjust()
                self.step(*data)
        [self.owner.nets], [self.owner.targets] = self.stack.rows(), self.targets.rows()
        [self.owner.moments] = self.moments.rows()

    def drawn(self, steps: int) -> Iterator[tuple[Tensor, Tensor, Sample]]:
        """For each step a batch of tasks: contexts, how many steps each row is for, transitions."""
        owner, rng = self.owner, self.rng
        cells = owner.groups * owner.at_once
        tasks = min(self.cfg.meta_batch, cells)
        chosen = torch.cat(
            [torch.randperm(cells, generator=rng, device=rng.device)[:tasks] for _ in range(steps)]
        )
        group, slot = chosen // owner.at_once, chosen % owner.at_once
        rows, weight = owner.context(group, slot, rng)
        batch = owner.transitions(group, slot, rng)
        columns = zip(*(x.split(tasks) for x in batch), strict=True)
        parts = zip(rows.split(tasks), weight.split(tasks), columns, strict=True)
        return ((r, w, Sample(*column)) for r, w, column in parts)

    def step(
        self, rows: Float[Tensor, "n c d"], weight: Float[Tensor, "n c"], batch: Sample
    ) -> None:
        """On contexts and transitions of a batch of tasks."""
        cfg, owner, nets = self.cfg, self.owner, self.stack.nets
        encoder = {k: p.squeeze(0) for k, p in nets["encoder"].items()}
        z, kl = guess(encoder, rows, weight, cfg, self.rng)
        z = z.unsqueeze(1).expand(-1, cfg.batch_size, -1).flatten(0, 1).unsqueeze(0)
        batch = Sample(*(x.flatten(0, 1).unsqueeze(0) for x in batch))
        batch, ahead = looked_at(nets, self.targets.nets, batch)
        obs, next_obs, ahead = (torch.cat([x, z], -1) for x in (batch.obs, batch.next_obs, ahead))
        batch = batch._replace(obs=obs, next_obs=next_obs)
        log_alpha = nets["temperature"]["log_alpha"]
        alpha = log_alpha.detach().exp()
        losses = critic_losses(nets, self.targets.nets, batch, ahead, alpha, self.policies)
        losses |= actor_losses(nets, batch, alpha, self.policies)
        kl = kl.mean().unsqueeze(0)
        total = losses["loss/value"] + losses["loss/policy"]
        if cfg.context == "sampled":
            total = total + cfg.kl_weight * kl
        if cfg.auto_alpha:
            over = losses["loss/entropy"].detach() - usual_entropy(owner.spec)
            total = total + log_alpha.squeeze(1) * over
        self.moments.step(self.stack.flat, self.stack.gradient(total), self.lr)
        with torch.no_grad():
            log_alpha.clamp_(min=math.log(cfg.min_alpha))
        follow(self.targets.nets, nets, cfg.tau)
        losses |= {"loss/kl": kl, "loss/alpha": alpha.squeeze(1)}
        self.totals = {k: self.totals.get(k, 0.0) + v.detach() for k, v in losses.items()}
        self.steps += 1

    def means(self) -> Metrics:
        """Over the gradient steps."""
        return {k: float(v) / self.steps for k, v in self.totals.items()}


class FirstActions:
    """Acts before anything was learned."""

    def __init__(
        self, cfg: PEARLConfig, spec: EnvSpec, shape: tuple[int, int], rng: torch.Generator
    ) -> None:
        self.cfg, self.spec, self.shape, self.rng = cfg, spec, shape, rng
        self.acted: dict[str, Tensor] = {}
        self.action = self.draw()

    def draw(self) -> Tensor:
        """Any action of every lane."""
        if self.spec.action_kind == "discrete":
            return torch.randint(
                self.spec.action_dim, self.shape, generator=self.rng, device=self.rng.device
            )
        wide = (*self.shape, self.spec.action_dim)
        return 2 * torch.rand(wide, generator=self.rng, device=self.rng.device) - 1

    def act(self, obs: Tensor, *, explore: bool = True) -> Tensor:
        """The action of the step, or of the episode."""
        if self.cfg.first_data == "uniform":
            self.action = self.draw()
        return self.action

    def observe(self, action: Tensor, step: Step) -> None:
        """A new direction for a new episode, as fast as it can go."""
        ended = (step.terminated | step.truncated).view(*self.shape, *(1,) * (action.ndim - 2))
        self.action = torch.where(ended, self.draw(), self.action)


class PEARLLearner:
    """A trial: z from the prior for the first episode, then from what the trial has shown.

    Contexts longer than in training are thinned out as there, to ``--context-size`` rows that stand
    for all.
    """

    def __init__(
        self, cfg: PEARLConfig, spec: EnvSpec, nets: Nets, scale: Scale, shape: tuple[int, int],
        rng: torch.Generator,
    ) -> None:  # fmt: skip
        self.cfg, self.spec, self.nets, self.rng = cfg, spec, nets, rng
        self.scale = copy.copy(scale)
        self.policies = Policies(cfg.activation, spec, rng)
        self.acted: dict[str, Tensor] = {}
        self.shape = shape
        self.rows: list[Tensor] = []
        """What the encoder reads of every step so far, each (N, E, D)."""
        self.told: tuple[Tensor, Tensor] | None = None
        self.since = torch.zeros(shape, dtype=torch.long, device=rng.device)
        self.episode = torch.zeros_like(self.since)
        self.z = self.draw()
        self.obs: Tensor
        self.before: Tensor | None = None
        """The last reward, nan where it ended an episode."""

    def inform(self, rows: Tensor, weight: Tensor, since: Int[Tensor, "n e"]) -> None:
        """Let it know of an earlier trial from an episode on."""
        self.told, self.since = (rows, weight), since
        self.z = self.draw()

    @torch.no_grad()
    def draw(self) -> Float[Tensor, "n e z"]:
        """A guess of every lane, from what it knows."""
        n, e = self.shape
        rows, weight = self.known()
        encoder = {k: p.squeeze(0) for k, p in self.nets["encoder"].items()}
        return guess(encoder, rows, weight, self.cfg, self.rng)[0].view(n, e, -1)

    def known(self) -> tuple[Float[Tensor, "b c d"], Float[Tensor, "b c"]]:
        """The context of every lane."""
        steps, size = len(self.rows), min(len(self.rows), self.cfg.context_size)
        place = [int((k + 0.5) * steps / size) for k in range(size)]
        num, width = self.shape[0] * self.shape[1], row_width(self.cfg, self.spec)
        rows = torch.zeros(num, 0, width, device=self.rng.device)
        weight = rows.new_zeros(num, 0)
        if self.told is not None:
            told, share = self.told
            share = share * (self.episode >= self.since).unsqueeze(-1)
            rows, weight = told.flatten(0, 1), share.flatten(0, 1)
        if place:
            own = torch.stack([self.rows[k] for k in place], 2).flatten(0, 1)
            rows = torch.cat([rows, own], 1)
            weight = torch.cat([weight, weight.new_full((num, size), steps / size)], 1)
        return rows, weight

    @torch.no_grad()
    def act(self, obs: Shaped[Tensor, "n e o"], *, explore: bool = True) -> Tensor:
        """Sample, or take the middle."""
        self.obs = obs
        seen = read(self.nets.get("eyes", {}), obs.flatten(0, 1).unsqueeze(0))
        rows = torch.cat([seen, self.z.flatten(0, 1).unsqueeze(0)], -1)
        return self.policies.act(
            self.nets["actor"], rows, self.shape, self.rng if explore else None
        )

    def observe(self, action: Tensor, step: Step) -> None:
        """One more transition; a new guess where an episode has ended."""
        ended, before = step.terminated | step.truncated, self.before
        change = torch.zeros_like(step.reward) if before is None else step.reward - before
        change = change.nan_to_num(0.0)  # an episode's first reward has none before it
        seen = {
            "obs": self.obs, "action": action, "reward": step.reward, "change": change,
            "next_obs": step.next_obs,
        }  # fmt: skip
        self.rows.append(self.scale(context_rows(seen, self.cfg, self.spec)))
        self.before = step.reward.masked_fill(ended, math.nan)
        self.episode = self.episode + ended.long()
        if bool(ended.any()):
            self.z = torch.where(ended.unsqueeze(-1), self.draw(), self.z)

    def adapt(self) -> None:
        """Nothing: beliefs follow by themselves."""

    def state_dict(self) -> dict[str, Any]:
        """Networks and what was seen."""
        return {
            "nets": self.nets, "scale": vars(self.scale), "rows": self.rows, "z": self.z,
            "episode": self.episode, "before": self.before,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the saved learner."""
        state = dict(state)
        vars(self.scale).update(state.pop("scale"))
        vars(self).update(state)
        self.rows = list(state["rows"])
