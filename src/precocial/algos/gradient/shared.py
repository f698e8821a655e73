"""What the gradient-based meta-learners share: scoring data, one inner update, a learner.

Everything carries the task axis N first. The inner step averages inside a task and never over
tasks: losses come as (N,), and the gradient of their sum with respect to weights stacked (N, ...)
is each task's own gradient.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from precocial.checks import at_least, in_range, positive
from precocial.nets.baseline import advantages
from precocial.nets.mlp import Activation, Policy
from precocial.nets.pictures import is_bytes, seen_dim, thumbnail
from precocial.ops.adam import Adam
from precocial.ops.adaptation import TaskLoss, inner_update
from precocial.ops.distributions import Dist, log_prob, mode, sample
from precocial.ops.losses import dice_loss, likelihood_ratio_loss, policy_gradient_loss
from precocial.ops.params import Rate, depth, detach
from precocial.ops.returns import first_episode_return, normalise, time_in_episode
from precocial.ops.sums import mean
from precocial.rollout import collect, lanes_diverged, stack_steps
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

Estimator = Literal["likelihood-ratio", "dice", "loaded-dice", "log-likelihood"]
ROWS_PER_CHUNK, PICTURES_PER_CHUNK = 20_000, 2_000
"""Losses are differentiated for about this many transitions at a time, which bounds memory."""


@dataclass(frozen=True)
class NetworkConfig:
    """The network and the data of one iteration."""

    num_tasks: int = 40
    """Tasks per iteration (N, the meta-batch)."""
    episodes_per_task: int = 20
    """Parallel episodes per task and stage (E)."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    activation: Activation = "tanh"
    """Hidden activation."""
    normalize_obs: bool = False
    """Normalise observations by running statistics of the training data."""
    inner_lr: float = 0.1
    """Inner learning rate (alpha)."""
    gamma: float = 0.99
    """Discount per environment step (gamma)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        at_least(self, 1, "num_tasks", "episodes_per_task")
        in_range(self, 0, 1, "gamma")
        if not (self.inner_lr >= 0 and math.isfinite(self.inner_lr)):
            raise UserError(f"--inner-lr is {self.inner_lr}; expected a number >= 0, e.g. 0.1")
        if self.hidden and min(self.hidden) < 1:
            raise UserError(f"--hidden is {self.hidden}; expected widths above 0, e.g. 64 64")

    @property
    def lanes(self) -> int:
        """E, lanes per task."""
        return self.episodes_per_task


@dataclass(frozen=True)
class PolicyConfig(NetworkConfig):
    """The same of a policy."""

    init_std: float = 1.0
    """Initial standard deviation of a Gaussian policy, in policy units (+-1 spans the bounds)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "init_std")


@dataclass(frozen=True)
class UpdatesConfig(NetworkConfig):
    """Of a method that updates, whatever its network is."""

    inner_steps: int = 1
    """Inner updates in training (K), each on fresh samples."""
    adapt_lrs: tuple[float, ...] = ()
    """Rates of update 1, 2, 3, ... at test time, the last repeating; empty: inner_lr always."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        at_least(self, 0, "inner_steps")
        if any(not (lr >= 0 and math.isfinite(lr)) for lr in self.adapt_lrs):
            raise UserError(f"--adapt-lrs are {self.adapt_lrs}; expected numbers >= 0")

    def test_lr(self, update: int) -> float:
        """Rate of test-time update 1, 2, 3, ..."""
        if not self.adapt_lrs:
            return self.inner_lr
        return self.adapt_lrs[min(update, len(self.adapt_lrs)) - 1]


@dataclass(frozen=True)
class MetaGradientConfig(UpdatesConfig):
    """Of a method that differentiates through its updates."""

    adapt: Literal["all", "head", "body", "context"] = "all"
    """Parameters that an inner update moves: all, the last layer (ANIL) with the standard
    deviation, all others, or the context alone (CAVIA)."""
    context_dim: int = 5
    """Numbers that the network reads beside the observation where the context is adapted (or
    drawn), 0 on every new task."""
    learn_lr: bool = False
    """Learn one inner rate per parameter (Meta-SGD), for every update, instead of adapt_lrs."""
    rates_lr: float = 0.03
    """Adam's rate of their logarithms."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "rates_lr")
        at_least(self, 1, "context_dim")
        if self.adapt == "body" and not self.hidden:
            raise UserError("--adapt is body, of which there is none without --hidden; try all")
        if self.learn_lr:
            positive(self, "inner_lr")
            at_least(self, 1, "inner_steps")


@dataclass(frozen=True)
class GradientConfig(UpdatesConfig, PolicyConfig):
    """Settings that every policy-gradient meta-learner has."""

    estimator: Estimator = "likelihood-ratio"
    """Inner surrogate: likelihood-ratio (low variance, small bias), dice (unbiased), loaded-dice
    (with a baseline for all orders) or log-likelihood (the common one, with a wrong Hessian; for
    comparison)."""
    gae_lambda: float = 1.0
    """GAE's lambda."""
    normalize_advantages: bool = True
    """Centre and scale advantages within each task."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        in_range(self, 0, 1, "gae_lambda")


class Batch(NamedTuple):
    """Scored data of one stage: what losses read."""

    obs: Shaped[Tensor, "n b o"]
    action: Tensor
    """``(N, B, A)`` or ``(N, B)``, B = E*T."""
    dist: Dist
    """The distribution that acted, ``(N, B, A)``."""
    log_prob: Float[Tensor, "n b"]
    """log pi_old(a|s)."""
    advantage: Float[Tensor, "n b"]
    reward: Float[Tensor, "n e t"]
    """Where an episode was cut, with the discounted value of what would have followed."""
    value: Float[Tensor, "n e t"]
    """The baseline."""
    first: Float[Tensor, "n e t"]
    """1 where an episode opens."""
    scale: Float[Tensor, "n 1 1"]
    """1 / standard deviation of the raw advantages (1 without normalisation), for DiCE."""
    above: Float[Tensor, " n"]
    """What E-MAML credits a task with; 0 for others."""

    @property
    def rows(self) -> int:
        """Transitions of a task (B)."""
        return self.advantage.shape[1]

    def select(self, index: slice, every: int = 1) -> Batch:
        """The tasks at ``index``; ``every`` > 1 keeps one transition in so many.

        Lanes keep different time steps, so that every time of an episode stays represented.
        """
        lanes, steps = self.reward.shape[1:]
        place = torch.arange(lanes * steps, device=self.reward.device)
        kept = ((place // steps + place % steps) % every == 0).nonzero().squeeze(-1)

        def thin(x: Tensor) -> Tensor:
            return x[index] if every == 1 else x[index].index_select(1, kept)

        return Batch(
            thin(self.obs), thin(self.action), {k: thin(v) for k, v in self.dist.items()},
            thin(self.log_prob), thin(self.advantage), self.reward[index], self.value[index],
            self.first[index], self.scale[index], self.above[index],
        )  # fmt: skip


@runtime_checkable
class Scored(Protocol):
    """Scored data of one stage, whatever the losses are."""

    @property
    def obs(self) -> Tensor: ...

    @property
    def rows(self) -> int: ...

    def select(self, index: slice) -> Any: ...


@runtime_checkable
class Update(Protocol):
    """The inner update of one trial, values only."""

    def __call__(self, params: Params, batch: Any, lr: Rate) -> Params:
        """Phi after one update with rate ``lr`` on ``batch``."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class GradientDescent:
    """Plain gradient descent as the inner update; it has no state.

    ``loss`` is that of data under parameters, one value per task.
    """

    def __init__(self, loss: Callable[[Any, Params], Float[Tensor, " n"]]) -> None:
        self.loss = loss

    def __call__(self, params: Params, batch: Scored, lr: Rate) -> Params:
        """One step on every task, a chunk of tasks at a time."""
        parts = []
        for i in chunks(batch, len(next(iter(params.values())))):
            loss = partial(self.loss, batch.select(i))
            part = {k: p[i] for k, p in params.items()}
            parts.append(inner_update(loss, part, lr, second_order=False))
        return {k: torch.cat([p[k] for p in parts]).detach() for k in params}

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


@torch.no_grad()
def score(rollout: Rollout, cfg: GradientConfig, spec: EnvSpec) -> Batch:
    """Advantages under the linear baseline, and the data flattened to (N, E*T, ...).

    Steps on which a simulation diverged have advantage 0. Of pictures the baseline sees grey
    thumbnails.
    """
    obs, next_obs = (thumbnail(x, spec, grey=True) for x in (rollout.obs, rollout.next_obs))
    seen = rollout._replace(obs=obs, next_obs=next_obs)
    advantage, value, reward = advantages(seen, cfg.gamma, cfg.gae_lambda, spec.horizon)
    n = advantage.shape[0]
    scale = torch.ones((n, 1, 1), dtype=value.dtype, device=value.device)
    if cfg.normalize_advantages:
        std = advantage.flatten(1).std(1, correction=0) + 1e-8
        scale = (1 / std).reshape(n, 1, 1)
        advantage = normalise(advantage)
    advantage = advantage.masked_fill(rollout.diverged, 0.0)
    names = [k for k in rollout.extra if not k.startswith("info/")]
    dist = {k: rollout.extra[k].flatten(1, 2) for k in names}
    action = rollout.action.flatten(1, 2)
    time = time_in_episode(rollout.terminated | rollout.truncated)
    return Batch(
        rollout.obs.flatten(1, 2), action, dist, log_prob(dist, action), advantage.flatten(1),
        reward, value, (time == 0).to(value.dtype), scale, torch.zeros_like(value[:, 0, 0]),
    )  # fmt: skip


def surrogate(dist: Dist, batch: Batch, cfg: GradientConfig) -> Float[Tensor, " n"]:
    """What an inner step descends, one value per task, given the policy at the batch's states."""
    lp = log_prob(dist, batch.action)
    if cfg.estimator in ("dice", "loaded-dice"):
        now, then = (x.reshape(batch.reward.shape) for x in (lp, batch.log_prob))
        return dice_loss(
            now, then, batch.reward, batch.value, batch.first, cfg.gamma, batch.scale,
            all_orders=cfg.estimator == "loaded-dice",
        )  # fmt: skip
    if cfg.estimator == "log-likelihood":
        return policy_gradient_loss(lp, batch.advantage)
    return likelihood_ratio_loss(lp, batch.log_prob, batch.advantage)


def inner_loss(
    policy: Policy, cfg: GradientConfig, batch: Batch, params: Params
) -> Float[Tensor, " n"]:
    """The surrogate as a function of the parameters."""
    return surrogate(policy.dist(params, batch.obs), batch, cfg)


def policy_losses(policy: Policy, batches: list[Batch], cfg: GradientConfig) -> list[TaskLoss]:
    """The inner losses on each stage's data, as functions of the parameters."""
    return [partial(inner_loss, policy, cfg, batch) for batch in batches]


def add_gradient(total: Params, loss: Tensor, meta: Params) -> None:
    """Add the gradient of a loss to a running sum."""
    for t, g in zip(total.values(), torch.autograd.grad(loss, list(meta.values())), strict=True):
        t += g


def chunks(batch: Scored, num: int) -> Iterator[slice]:
    """Slices that cover ``num`` tasks, each of about ``ROWS_PER_CHUNK`` transitions."""
    rows = PICTURES_PER_CHUNK if is_bytes(batch.obs) else ROWS_PER_CHUNK
    size = max(1, rows // batch.rows)
    for start in range(0, num, size):
        yield slice(start, min(start + size, num))


class Actor:
    """Acts with one parameter set per task and learns nothing."""

    def __init__(self, policy: Policy, params: Params, rng: torch.Generator) -> None:
        self.policy, self.params, self.rng = policy, detach(params), rng
        self.acted: dict[str, Tensor] = {}

    @torch.no_grad()
    def act(self, obs: Shaped[Tensor, "n e o"], *, explore: bool = True) -> Tensor:
        """Sample, or take the mode; remembers the distribution in ``acted``."""
        self.acted = self.policy.dist(self.params, obs)
        return sample(self.acted, self.rng) if explore else mode(self.acted)

    def observe(self, action: Tensor, step: Step) -> None:
        """Nothing is kept."""


class Recorder(Actor):
    """Acts, and keeps what follows until it is taken to adapt."""

    def __init__(self, policy: Policy, params: Params, rng: torch.Generator) -> None:
        super().__init__(policy, params, rng)
        self.steps: list[tuple[Tensor, ...]] = []
        self.extras: list[dict[str, Tensor]] = []

    def act(self, obs: Shaped[Tensor, "n e o"], *, explore: bool = True) -> Tensor:
        """As ``Actor``; remembers the observation."""
        self.obs = obs
        return super().act(obs, explore=explore)

    def observe(self, action: Tensor, step: Step) -> None:
        """Keep the transition for ``adapt``."""
        self.steps.append(
            (self.obs, action, step.reward, step.next_obs, step.terminated, step.truncated)
        )
        self.extras.append(self.acted | {f"info/{k}": v for k, v in step.info.items()})

    def take(self) -> Rollout:
        """Everything observed since the last call.

        Raises:
            UserError: nothing, or on some task no whole episode.
        """
        if not self.steps:
            raise UserError(
                "adapt() before any observe(); let the learner act for an episode first"
            )
        rollout = stack_steps(self.steps, self.extras)
        if not bool((rollout.terminated | rollout.truncated).flatten(1).any(1).all()):
            raise UserError(
                "adapt() before any episode ended; let the learner act to its end first"
            )
        self.steps, self.extras = [], []
        return rollout


class GradientLearner(Recorder):
    """Adapts at test time by the very update that was meta-trained."""

    def __init__(
        self,
        method: SampledUpdates,
        num_tasks: int,
        rng: torch.Generator,
    ) -> None:
        frozen = copy.copy(method)
        frozen.policy = copy.deepcopy(method.policy)
        super().__init__(frozen.policy, frozen.policy.start(frozen.policy.theta, num_tasks), rng)
        self.cfg, self.score, self.update = method.cfg, frozen.score, frozen.make_update()
        self.rates, self.rate = method.learned_rates(), frozen.rate
        self.updates = 0

    def adapt(self) -> None:
        """One update on everything observed since the last."""
        batch = self.score(self.take(), self)
        self.updates += 1
        lr = self.rates or self.rate(self.cfg.test_lr(self.updates))
        self.params = detach(self.update(self.params, batch, lr))

    def state_dict(self) -> dict[str, Any]:
        """All it has learned and its normaliser; data not yet adapted to are left out."""
        return {
            "params": dict(self.params), "updates": self.updates, "rates": self.rates,
            "policy": self.policy.state_dict(), "update": self.update.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the saved learner."""
        self.params, self.updates = dict(state["params"]), int(state["updates"])
        self.rates = state.get("rates", {})  # older files have none
        self.policy.load_state_dict(state["policy"])
        self.update.load_state_dict(state["update"])


class Stages(NamedTuple):
    """What one iteration collected: before adapting, after update 1, 2, ..."""

    rollouts: list[Rollout]
    batches: list[Any]
    """The same, scored."""
    phi: Params
    """The adapted parameters, one set per task."""

    def metrics(self) -> Metrics:
        """Mean return of the first whole episodes of each stage; diverged lanes if there were."""
        metrics = lanes_diverged(self.rollouts)
        for k, rollout in enumerate(self.rollouts):
            ended = rollout.terminated | rollout.truncated
            key = "episode_reward_mean" + (f"_adapt_{k}" if k else "")
            metrics[key] = float(mean(first_episode_return(rollout.reward, ended)))
        return metrics


class PolicyMethod:
    """Construction and saving, which are the same for every method of this kind."""

    stage_unit: Literal["update", "episode"] = "update"
    is_trial = False
    greedy = False
    progress = 0.0
    network = "actor"
    """What its network is to a run that begins from it."""

    def __init__(self, cfg: Any, spec: EnvSpec, rng: torch.Generator, device: str = "cpu") -> None:
        self.cfg, self.spec = cfg, spec
        self.policy = self.initial_policy(rng).to(device)

    def initial_policy(self, rng: torch.Generator) -> Policy:
        """An untrained one."""
        cfg = self.cfg
        return Policy(
            self.spec, cfg.hidden, cfg.activation, cfg.init_std, cfg.normalize_obs, rng,
            self.context_dim,
        )  # fmt: skip

    @property
    def context_dim(self) -> int:
        """Numbers that a task has of its own beside the network."""
        return 0

    def networks(self) -> dict[str, Params]:
        """See ``Transferable``: the initial parameters."""
        moments = {k: getattr(self.policy, f"obs_{k}") for k in ("mean", "var", "count")}
        return {self.network: detach(self.policy.theta), "normaliser": moments}

    @torch.no_grad()
    def begin_with(self, networks: dict[str, Params]) -> None:
        """See ``Transferable``."""
        reads_context = self.policy.theta["weight_0"][seen_dim(self.spec) :]
        fresh = reads_context.clone()
        for name, p in self.policy.theta.items():
            p.copy_(networks[self.network][name])
        # What the source did not have came as 0, from which no gradient leads away.
        reads_context.copy_(torch.where(reads_context.any(1, keepdim=True), reads_context, fresh))
        for name, value in networks["normaliser"].items():
            getattr(self.policy, f"obs_{name}").copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Parameters and statistics."""
        return {"policy": self.policy.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.policy.load_state_dict(state["policy"])


class SampledUpdates(PolicyMethod):
    """A method whose K inner updates each take a batch of fresh episodes."""

    cfg: Any

    @property
    def num_stages(self) -> int:
        """Stages in training: before adapting and after each inner update."""
        return self.cfg.inner_steps + 1

    def test_lrs(self, num_updates: int) -> list[float]:
        """Rates of the updates at test time; of learned ones the geometric mean."""
        if rates := self.learned_rates():
            logs = torch.cat([r.log().flatten() for r in rates.values()])
            return [float(logs.mean().exp())] * num_updates
        return [self.cfg.test_lr(k + 1) for k in range(num_updates)]

    def learned_rates(self) -> Params:
        """One inner rate for each parameter; nothing where they are not learned."""
        return {}

    def rate(self, lr: float) -> Rate:
        """Of an update by a number."""
        return lr

    def actor(self, phi: Params, rng: torch.Generator) -> Acting:
        """Collects a stage of training with the parameters of each task."""
        return Actor(self.policy, phi, rng)

    def score(self, rollout: Rollout, actor: Acting) -> Scored:
        """What the losses read of a stage, and of who acted in it."""
        return score(rollout, self.cfg, self.spec)

    def make_update(self) -> Update:
        """The inner update of a new trial: plain gradient descent."""
        return GradientDescent(partial(inner_loss, self.policy, self.cfg))

    def collect_stages(
        self, env: TaskEnv, tasks: Tasks, rng: torch.Generator, *, query: bool = True
    ) -> Stages:
        """K times: roll out E episodes per task, adapt; then the query rollouts."""
        update, lr = self.make_update(), self.learned_rates() or self.rate(self.cfg.inner_lr)
        rollouts, batches = [], []
        phi = self.policy.start(self.policy.theta, tasks.num)
        for k in range(self.cfg.inner_steps + query):
            actor = self.actor(phi, rng)
            rollouts.append(
                collect(env, tasks, actor, self.cfg.episodes_per_task, self.spec.horizon, rng)
            )
            batches.append(self.score(rollouts[-1], actor))
            if k < self.cfg.inner_steps:
                phi = update(phi, batches[-1], lr)
        return Stages(rollouts, batches, phi)

    def update_statistics(self, stages: Stages) -> None:
        """Feed the observation normaliser; only at the end of an iteration."""
        for rollout in stages.rollouts:
            self.policy.update_statistics(rollout.obs)

    def learner(self, num_tasks: int, lanes: int, rng: torch.Generator) -> GradientLearner:
        """A learner on copies of parameters and statistics, with the test-time rates."""
        return GradientLearner(self, num_tasks, rng)


def adapted(names: list[str], which: str) -> list[str]:
    """Those of a network's parameters that an inner update moves."""
    if which in ("all", "context"):
        return [k for k in names if which == "all" or k == "context"]
    last = depth(names) - 1
    head = [f"weight_{last}", f"bias_{last}", "log_std"]
    return [k for k in names if (k in head) == (which == "head")]


class AdamUpdates(SampledUpdates):
    """``SampledUpdates`` with Adam as outer optimiser; inner rates may be learned, too."""

    def __init__(self, cfg: Any, spec: EnvSpec, rng: torch.Generator, device: str = "cpu") -> None:
        super().__init__(cfg, spec, rng, device)
        self.optimizer = Adam(self.policy.parameters(), cfg.outer_lr)
        moved = {k: v[0] for k, v in self.policy.start(self.policy.theta, 1).items()}
        self.moved = adapted(list(moved), cfg.adapt)
        self.log_rates = {
            k: torch.full_like(moved[k], math.log(cfg.inner_lr)).detach().requires_grad_()
            for k in self.moved * cfg.learn_lr
        }
        self.rates_optimizer = Adam(self.log_rates.values(), cfg.rates_lr)

    @property
    def context_dim(self) -> int:
        """CAVIA's."""
        return self.cfg.context_dim if self.cfg.adapt == "context" else 0

    def rate(self, lr: float) -> Rate:
        """For the parameters that are to move."""
        if self.cfg.adapt == "all":
            return lr
        return {k: torch.tensor(lr, device=self.policy.obs_mean.device) for k in self.moved}

    def learned_rates(self) -> Params:
        """One for each parameter, where they are learned."""
        return {k: p.detach().exp() for k, p in self.log_rates.items()}

    @property
    def meta(self) -> Params:
        """All that is meta-learned: the parameters, and log rates as ``lr/NAME``."""
        return self.policy.theta | {f"lr/{k}": p for k, p in self.log_rates.items()}

    def parts(self, meta: Params) -> tuple[Params, Rate]:
        """Theta and alpha of such parameters; where there is theta alone, alpha as it stands."""
        theta = {k: p for k, p in meta.items() if not k.startswith("lr/")}
        rates = {k: meta.get(f"lr/{k}", own).exp() for k, own in self.log_rates.items()}
        return theta, rates or self.rate(self.cfg.inner_lr)

    def adam_step(self, gradient: Params, share: float = 1.0) -> None:
        """On theta and on the log rates, each with ``share`` of its own rate."""
        for k, p in self.meta.items():
            p.grad = gradient[k]
        self.optimizer.made.param_groups[0]["lr"] = self.optimizer.lr * share
        self.optimizer.made.step()
        self.rates_step(gradient, share)

    def rates_step(self, gradient: Params, share: float = 1.0) -> None:
        """On the log rates, where they are learned."""
        if self.log_rates:
            for k, p in self.log_rates.items():
                p.grad = gradient[f"lr/{k}"]
            self.rates_optimizer.made.param_groups[0]["lr"] = self.rates_optimizer.lr * share
            self.rates_optimizer.made.step()

    def state_dict(self) -> dict[str, Any]:
        """Parameters, statistics and optimiser moments."""
        state = super().state_dict() | {"optimizer": self.optimizer.state_dict()}
        if self.log_rates:
            state["log_rates"] = detach(self.log_rates)
            state["rates_optimizer"] = self.rates_optimizer.state_dict()
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        super().load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])
        for name, p in self.log_rates.items():
            p.copy_(state["log_rates"][name])
        if self.log_rates:
            self.rates_optimizer.load_state_dict(state["rates_optimizer"])
