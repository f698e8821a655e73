"""What methods that learn inside a trial share: acting with a context, scoring, PPO.

A trial is k whole episodes of one task. Nothing is updated inside it: what the agent has learned is
in its context (what it was told last, an exact belief, an inferred latent) and its memory.
Advantages and bootstrapping run over the trial, across episode ends (Duan et al. 2016, Sec. 2.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from precocial import threads
from precocial.checks import at_least, in_range, positive
from precocial.nets.recurrent import State
from precocial.nets.trial_policy import TrialPolicy
from precocial.ops.adam import Adam
from precocial.ops.distributions import Dist, entropy, log_prob, mode, sample
from precocial.ops.losses import masked_mean, ppo_clip_terms
from precocial.ops.returns import episode_returns, gae, last_valid
from precocial.rollout import collect, lanes_diverged
from precocial.types import (
    EnvSpec,
    Metrics,
    Params,
    Rollout,
    Step,
    TaskEnv,
    Tasks,
    UserError,
)

DEFAULT_EPISODES = 2
"""Episodes of a trial for a family that names no number of its own."""

UNITS_RATE = 0.3
"""Share of the way that the value's units move towards those of an iteration."""


@dataclass(frozen=True)
class TrialConfig:
    """Trials, and PPO over them."""

    num_tasks: int = 500
    """Tasks per iteration (N), one trial each unless --trials-per-task says more."""
    trials_per_task: int = 1
    """Parallel trials per task (E); they do not see each other."""
    episodes_per_trial: int | None = None
    """Episodes of a trial (k); None: the family's own number, or 2 where it has none."""
    gamma: float = 0.99
    """Discount per environment step (gamma), running on across the episodes of a trial."""
    gae_lambda: float = 0.95
    """GAE's lambda."""
    outer_lr: float = 1e-3
    """Adam's rate."""
    anneal: bool = True
    """Let the rate fall linearly to 0 over the run."""
    outer_epochs: int = 4
    """Passes over the trials of an iteration."""
    minibatches: int = 4
    """Minibatches of whole trials in a pass."""
    clip_eps: float = 0.2
    """PPO's clip (epsilon)."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    anneal_entropy: bool = False
    """Let the entropy bonus fall linearly to 0 over the run, too."""
    vf_coef: float = 0.5
    """Weight of the value loss, in squared units of the value's spread at a step."""
    max_grad_norm: float = 0.5
    """Longest gradient; longer ones are scaled down."""
    init_std: float = 1.0
    """Initial standard deviation of a Gaussian policy, in policy units (+-1 spans the bounds)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        at_least(self, 1, "num_tasks", "trials_per_task", "outer_epochs", "minibatches")
        at_least(self, 0, "ent_coef", "vf_coef")
        in_range(self, 0, 1, "gamma", "gae_lambda")
        positive(self, "outer_lr", "clip_eps", "max_grad_norm", "init_std")
        if self.episodes_per_trial is not None and self.episodes_per_trial < 1:
            raise UserError(
                f"--episodes-per-trial is {self.episodes_per_trial}; a trial is at least 1 whole "
                "episode, try 2"
            )
        if self.minibatches > self.num_tasks * self.trials_per_task:
            raise UserError(
                f"--minibatches is {self.minibatches}; expected at most the number of trials, "
                f"--num-tasks x --trials-per-task = {self.num_tasks * self.trials_per_task}"
            )

    @property
    def lanes(self) -> int:
        """E, lanes per task."""
        return self.trials_per_task

    def rate(self, progress: float) -> float:
        """Factor on learning rates at this share of the run."""
        return 1 - progress if self.anneal else 1.0

    def trial_steps(self, spec: EnvSpec) -> int:
        """T, the most steps that a trial can have."""
        return self.episodes(spec) * spec.horizon

    def episodes(self, spec: EnvSpec) -> int:
        """Episodes of a trial on a family."""
        return self.episodes_per_trial or spec.trial_episodes or DEFAULT_EPISODES


@runtime_checkable
class Context(Protocol):
    """What a policy is given beside the observation, built from what happened in the trial."""

    def features(self, obs: Shaped[Tensor, "b o"]) -> Shaped[Tensor, "b i"]:
        """The network's input at ``obs``."""
        ...

    def observe(self, action: Tensor, step: Step) -> None:
        """Take in one transition; every tensor is ``(N, E, ...)``."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def as_vector(action: Tensor, spec: EnvSpec) -> Float[Tensor, "*b a"]:
    """One-hot for discrete actions, the raw sample for continuous ones."""
    if spec.action_kind == "box":
        return action
    return torch.nn.functional.one_hot(action, spec.action_dim).float()


class TrialLearner:
    """Acts through a trial; learns in its context and memory alone.

    Args:
        policy: Shared by all lanes and not changed.
        context: What the policy is given beside the observation.
        shape: Tasks and lanes (N, E).
        rng: Draws actions.
        forgetful: Clear the memory at the start of every episode.
        record: Keep in ``acted`` what training needs, not only the distribution.
        snapshot_every: Keep the memory's state before every so many steps, 0 for never.
    """

    def __init__(
        self,
        policy: TrialPolicy,
        context: Context,
        shape: tuple[int, int],
        rng: torch.Generator,
        *,
        forgetful: bool = False,
        record: bool = False,
        snapshot_every: int = 0,
    ) -> None:
        self.policy, self.context, self.shape, self.rng = policy, context, shape, rng
        self.forgetful, self.record, self.snapshot_every = forgetful, record, snapshot_every
        self.memory: State = policy.memory.initial(shape[0] * shape[1])
        self.ended: Tensor | None = None
        self.time = 0
        self.snapshots: list[State] = []
        self.acted: dict[str, Tensor] = {}

    @torch.no_grad()
    def act(self, obs: Shaped[Tensor, "n e o"], *, explore: bool = True) -> Tensor:
        """Sample, or take the mode."""
        x = self.context.features(obs.flatten(0, 1))
        if self.forgetful and self.ended is not None:
            self.memory = self.policy.memory.clear(self.memory, self.ended.flatten())
        if self.snapshot_every and self.time % self.snapshot_every == 0:
            self.snapshots.append(self.memory)
        dist, value, self.memory = self.policy.step(x, self.memory)
        dist = {k: v.unflatten(0, self.shape) for k, v in dist.items()}
        self.acted = dict(dist)
        if self.record:
            keep = torch.ones_like(value)
            if self.forgetful and self.ended is not None:
                keep = 1 - self.ended.flatten().to(keep)
            kept = {"input": x, "value": value, "keep": keep}
            self.acted |= {k: v.unflatten(0, self.shape) for k, v in kept.items()}
        return sample(dist, self.rng) if explore else mode(dist)

    @torch.no_grad()
    def observe(self, action: Tensor, step: Step) -> None:
        """Remember what came of it: it is delivered with the next observation."""
        self.context.observe(action, step)
        self.ended = step.terminated | step.truncated
        self.time += 1

    def adapt(self) -> None:
        """Nothing: the memory has adapted at every step."""

    def state_dict(self) -> dict[str, Any]:
        """Memory and context."""
        ended = {} if self.ended is None else {"ended": self.ended}
        return {
            "memory": self.memory, "context": self.context.state_dict(), "time": self.time,
            "policy": self.policy.state_dict(), **ended,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the saved learner."""
        # A transformer writes into its memory in place, so it must not be shared.
        self.memory = {k: v.clone() for k, v in state["memory"].items()}
        self.ended = state.get("ended")
        self.time = int(state["time"])
        self.context.load_state_dict(state["context"])
        self.policy.load_state_dict(state["policy"])


class TrialBatch(NamedTuple):
    """Scored trials, time first: B = N*E trials, or pieces of trials."""

    input: Shaped[Tensor, "t b i"]
    keep: Float[Tensor, "t b"] | None
    """0 where the memory was cleared before the step; None where it never was."""
    memory: State
    """The memory before the first step, leaves ``(B, ...)``."""
    action: Tensor
    log_prob: Float[Tensor, "t b"]
    """log pi_old(a|history)."""
    advantage: Float[Tensor, "t b"]
    target: Float[Tensor, "t b"]
    """What the value regresses on, in reward units."""
    valid: Float[Tensor, "t b"]
    """1 for steps of the trial, 0 where a simulation diverged or the last episode was over."""

    def select(self, lanes: Int[Tensor, " m"]) -> TrialBatch:
        """Some of the trials, cut after the longest of them."""
        counts = self.valid.index_select(1, lanes).amax(1).nonzero()
        steps = 1 + int(counts.max()) if len(counts) else 1

        def pick(x: Tensor) -> Tensor:
            return x[:steps].index_select(1, lanes)

        return TrialBatch(
            pick(self.input), None if self.keep is None else pick(self.keep),
            {k: v.index_select(0, lanes) for k, v in self.memory.items()}, pick(self.action),
            pick(self.log_prob), pick(self.advantage), pick(self.target), pick(self.valid),
        )  # fmt: skip

    def pieces(self, length: int, memories: list[State]) -> TrialBatch:
        """Trials cut into pieces of ``length`` steps, each from the memory it really began with."""
        missing = -self.valid.shape[0] % length

        def cut(x: Tensor) -> Tensor:  # (T, B, ...) -> (L, pieces * B, ...)
            padded = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
            return padded.unflatten(0, (-1, length)).transpose(0, 1).flatten(1, 2)

        memory = {k: torch.cat([m[k] for m in memories]) for k in memories[0]}
        whole = TrialBatch(
            cut(self.input), None if self.keep is None else cut(self.keep), memory,
            cut(self.action), cut(self.log_prob), cut(self.advantage), cut(self.target),
            cut(self.valid),
        )  # fmt: skip
        return whole.select(whole.valid.amax(0).nonzero().squeeze(-1))


def run_trials(
    env: TaskEnv, tasks: Tasks, learner: TrialLearner, cfg: TrialConfig, rng: torch.Generator
) -> Rollout:
    """One trial on every lane; ``extra["valid"]`` is False after a lane's last episode."""
    k = cfg.episodes(env.spec)
    return collect(env, tasks, learner, cfg.lanes, cfg.trial_steps(env.spec), rng, episodes=k)


@torch.no_grad()
def score(
    rollout: Rollout, policy: TrialPolicy, cfg: TrialConfig, *, forgetful: bool = False
) -> TrialBatch:
    """Advantages over the trial, in reward units; axes (N, E, T) become (T, N*E).

    Where the memory is cleared at every episode (``forgetful``), so is the credit: no action can
    change what a later episode brings. A step on which a simulation diverged says nothing of its
    action: credit ends before it, with the value of the state that it left.
    """

    def time_first(x: Tensor) -> Tensor:  # (N, E, T, ...) -> (T, N*E, ...)
        return x.flatten(0, 1).transpose(0, 1).contiguous()

    valid = time_first(rollout.extra["valid"])
    ends = last_valid(valid.T).T
    if forgetful:  # a cleared memory counts the steps of an episode, so its end is no surprise
        ends = ends | time_first(rollout.terminated | rollout.truncated)
    value = policy.in_reward_units(time_first(rollout.extra["value"]))
    following = torch.cat([value[1:], torch.zeros_like(value[:1])])
    lost = time_first(rollout.diverged)
    reward = torch.where(lost, (1 - cfg.gamma) * value, time_first(rollout.reward))
    following = torch.where(lost, value, following)
    advantage = gae(
        reward.T, value.T, following.T, (ends & ~lost).T, lost.T, cfg.gamma, cfg.gae_lambda
    ).T
    own = ("input", "value", "keep", "valid")
    dist: Dist = {k: v for k, v in rollout.extra.items() if k not in own and "/" not in k}
    keep = time_first(rollout.extra["keep"]) if forgetful else None
    return TrialBatch(
        time_first(rollout.extra["input"]), keep, {}, time_first(rollout.action),
        time_first(log_prob(dist, rollout.action)), advantage, advantage + value,
        (valid & ~lost).to(value.dtype),
    )  # fmt: skip


def standardise(batch: TrialBatch, policy: TrialPolicy, *, first: bool) -> TrialBatch:
    """Advantages of mean 0 and deviation 1, targets in the value head's units, which move first.

    In a run's ``first`` iteration the units are taken from it alone.
    """
    policy.track(batch.target, batch.valid, rate=1.0 if first else UNITS_RATE)
    centre = masked_mean(batch.advantage, batch.valid)
    spread = masked_mean((batch.advantage - centre).square(), batch.valid).sqrt()
    return batch._replace(
        advantage=(batch.advantage - centre) / (spread + 1e-8),
        target=policy.normalise(batch.target),
    )


def ppo_update(
    policy: TrialPolicy,
    batch: TrialBatch,
    cfg: TrialConfig,
    optimizer: torch.optim.Optimizer,
    progress: float,
    rng: torch.Generator,
) -> Metrics:
    """Proximal policy optimisation (Schulman et al. 2017, Eq. 9) on standardised trials.

    Means are over valid steps: sums divided by the mask's sum.
    """
    for group in optimizer.param_groups:
        group["lr"] = cfg.outer_lr * cfg.rate(progress)
    entropy_weight = cfg.ent_coef * (1 - progress if cfg.anneal_entropy else 1.0)
    totals: dict[str, Tensor] = {}
    parts = 0
    for part in minibatches(batch, cfg, rng):
        threads.adjust()
        dist, value = policy.sequence(part.input, part.memory, part.keep)
        # Where nothing counts the ratio is 1: that of a narrow Gaussian could be infinite.
        lp = torch.where(part.valid > 0, log_prob(dist, part.action), part.log_prob)
        surrogate = ppo_clip_terms(lp, part.log_prob, part.advantage, cfg.clip_eps)
        losses = {
            "loss/policy": masked_mean(surrogate, part.valid),
            "loss/value": masked_mean((value - part.target).square(), part.valid),
            "loss/entropy": masked_mean(entropy(dist), part.valid),
        }
        loss = losses["loss/policy"] + cfg.vf_coef * losses["loss/value"]
        if entropy_weight:
            loss = loss - entropy_weight * losses["loss/entropy"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), cfg.max_grad_norm)
        optimizer.step()
        losses["loss/kl"] = masked_mean(part.log_prob - lp, part.valid)
        totals = {k: totals.get(k, 0.0) + v.detach() for k, v in losses.items()}
        parts += 1
    return {k: float(v) / parts for k, v in totals.items()}


def minibatches(batch: TrialBatch, cfg: TrialConfig, rng: torch.Generator) -> Iterator[TrialBatch]:
    """Every trial once per epoch, in random order; parts differ by one trial at most."""
    lanes = batch.valid.shape[1]
    for _ in range(cfg.outer_epochs):
        order = torch.randperm(lanes, generator=rng, device=rng.device)
        for part in order.tensor_split(cfg.minibatches):
            yield batch.select(part)


def trial_metrics(rollout: Rollout, episodes: int) -> Metrics:
    """Mean return of each episode of the trials, and their sum; diverged lanes if there were."""
    ended = rollout.terminated | rollout.truncated
    means = episode_returns(rollout.reward, ended, episodes).mean((0, 1)).tolist()
    metrics: Metrics = {"episode_reward_mean": means[0], "train/trial_return_mean": sum(means)}
    if episodes > 1:
        metrics[f"episode_reward_mean_adapt_{episodes - 1}"] = means[-1]
    return metrics | lanes_diverged([rollout])


class TrialMethod:
    """Construction and saving, the same for every method of this kind."""

    stage_unit: Literal["update", "episode"] = "episode"
    is_trial = True
    greedy = False
    progress = 0.0
    cfg: TrialConfig
    policy: TrialPolicy
    optimizer: Adam

    def prepare(self, cfg: TrialConfig, spec: EnvSpec, policy: TrialPolicy, device: str) -> None:
        """Set what all of them have."""
        self.cfg, self.spec, self.policy = cfg, spec, policy.to(device)
        self.num_stages = cfg.episodes(spec)
        self.optimizer = Adam(self.policy.parameters(), cfg.outer_lr, eps=1e-5)

    def improve(
        self, env: TaskEnv, tasks: Tasks, learner: TrialLearner, rng: torch.Generator
    ) -> tuple[Rollout, Metrics]:
        """One trial on every lane by a learner that records, then PPO on all of them."""
        rollout = run_trials(env, tasks, learner, self.cfg, rng)
        batch = score(rollout, self.policy, self.cfg, forgetful=learner.forgetful)
        batch = standardise(batch, self.policy, first=not self.optimizer.made.state)
        batch = self.with_memories(batch, learner)
        losses = ppo_update(self.policy, batch, self.cfg, self.optimizer.made, self.progress, rng)
        return rollout, trial_metrics(rollout, self.num_stages) | losses

    def with_memories(self, batch: TrialBatch, learner: TrialLearner) -> TrialBatch:
        """Each trial, or each piece of one, with the memory that it began with."""
        if learner.snapshot_every:
            return batch.pieces(learner.snapshot_every, learner.snapshots)
        return batch._replace(memory=self.policy.memory.initial(batch.valid.shape[1]))

    def test_lrs(self, num_updates: int) -> list[float]:
        """Nothing is updated."""
        return []

    def networks(self) -> dict[str, Params]:
        """See ``Transferable``: memory, policy and value."""
        return {"memory": self.policy.state_dict()}

    def begin_with(self, networks: dict[str, Params]) -> None:
        """See ``Transferable``."""
        self.policy.load_state_dict(networks["memory"])

    def state_dict(self) -> dict[str, Any]:
        """Parameters, value units and optimiser moments."""
        return {"policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
