"""What model-based methods share: data, planning with a model that adapts, and fitting it.

Every iteration collects an episode's steps per lane by model-predictive control, keeps them raw,
and fits the model to windows of everything kept. Methods differ in how their model adapts to the
last transitions of the present episode (an ``Adapter``) and so in the loss that it is fitted by.
Any step may be a new task: nobody says when the world changed. What was adapted ends with the
episode. The ends of a lane's data take part in fewer windows than its middle.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from precocial.algos.model.errors import ModelErrors
from precocial.checks import at_least, positive, widths
from precocial.nets.dynamics import Dynamics
from precocial.ops.losses import masked_mean
from precocial.ops.params import restore
from precocial.ops.planning import Plan, PlannerConfig, first_plan, imagined_return, improve, shift
from precocial.ops.returns import episode_index, first_episode_return, time_in_episode
from precocial.replay import Replay, Transitions
from precocial.rollout import collect
from precocial.types import EnvSpec, Metrics, Params, Rollout, Step, TaskEnv, Tasks, UserError

WARM = 0.7
"""Correlation of random actions from one step to the next: a robot that only trembles shows
little of how it moves."""


@dataclass(frozen=True)
class ModelConfig(PlannerConfig):
    """Data, model and planner."""

    num_tasks: int = 10
    """Tasks per iteration (N), an episode each unless --episodes-per-task says more."""
    episodes_per_task: int = 1
    """Parallel episodes per task (E)."""
    random_iterations: int = 1
    """Iterations at first whose actions are random."""
    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the model's layers."""
    future: int = 16
    """Transitions in a row that it is to predict well (K)."""
    outer_lr: float = 1e-3
    """Adam's rate."""
    model_updates: int = 200
    """Adam steps per iteration."""
    windows: int = 64
    """Windows of M + K transitions in an Adam step."""
    max_grad_norm: float = 10.0
    """Longest gradient; longer ones are scaled down."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        at_least(self, 1, "num_tasks", "episodes_per_task", "random_iterations", "future")
        at_least(self, 1, "model_updates", "windows")
        positive(self, "outer_lr", "max_grad_norm")
        widths(self, "hidden")

    @property
    def lanes(self) -> int:
        """E, lanes per task."""
        return self.episodes_per_task


@dataclass(frozen=True)
class AdaptiveConfig(ModelConfig):
    """The same for a model that adapts."""

    past: int = 16
    """Transitions that the model adapts to (M)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        at_least(self, 1, "past")


@runtime_checkable
class Adapter(Protocol):
    """A model of the dynamics on B lanes, and what adapts it to each lane's present."""

    resets: int
    """Lanes whose adaptation broke down (NaN) and was started afresh."""

    @property
    def model(self) -> nn.Module:
        """All that was trained, a copy of the adapter's own."""
        ...

    def predict(
        self, obs: Float[Tensor, "b c o"], action: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b c o"]:
        """The next observations, as far as the present is known."""
        ...

    def observe(
        self, obs: Float[Tensor, "b o"], action: Float[Tensor, "b a"],
        next_obs: Float[Tensor, "b o"], ended: Bool[Tensor, " b"],
    ) -> None:  # fmt: skip
        """Adapt to one more transition; forget everything where it ended the episode."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Window:
    """The last M transitions of the present episode on each of B lanes, newest last."""

    def __init__(self, length: int, lanes: int) -> None:
        self.length, self.lanes = length, lanes
        self.transitions: tuple[Tensor, ...] | None = None
        self.filled: Float[Tensor, "b m"] = torch.zeros(lanes, length)

    def push(self, *transition: Tensor) -> None:
        """One more transition, tensors (B, ...); the oldest goes."""
        if self.transitions is None:
            self.transitions = tuple(
                x.new_zeros(self.lanes, self.length, *x.shape[1:]) for x in transition
            )
            self.filled = transition[0].new_zeros(self.lanes, self.length)
        pairs = zip(self.transitions, transition, strict=True)
        self.transitions = tuple(torch.cat([w[:, 1:], x.unsqueeze(1)], 1) for w, x in pairs)
        self.filled = torch.cat([self.filled[:, 1:], torch.ones_like(self.filled[:, :1])], 1)

    def clear(self, lanes: Bool[Tensor, " b"]) -> None:
        """Nothing is known of these lanes, whatever it was (NaN in a product would stay NaN)."""
        self.filled = self.filled.masked_fill(lanes.unsqueeze(1), 0.0)
        if self.transitions is not None:
            self.transitions = tuple(
                x.masked_fill(lanes.view(-1, *(1,) * (x.ndim - 1)), 0.0) for x in self.transitions
            )

    def state_dict(self) -> dict[str, Any]:
        """What it holds."""
        held = {} if self.transitions is None else dict(enumerate(self.transitions))
        return {"filled": self.filled} | {str(k): v for k, v in held.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.filled = state["filled"]
        held = [state[str(k)] for k in range(len(state) - 1)]
        self.transitions = tuple(held) if held else None


def prediction_error(
    predicted: Float[Tensor, "w k s"], target: Float[Tensor, "w k s"], asked: Float[Tensor, "w k"]
) -> Float[Tensor, ""]:
    """Squared error of normalised differences: mean over the state, and over what is asked."""
    return masked_mean((predicted - target).square().mean(-1), asked)


class ParameterAdapter:
    """Parameters phi of each lane's own, adapted at every step; a method says how in ``step``.

    Args:
        model: All that was trained, not changed.
        dynamics: The model or a part of it; its parameters are theta.
        past: M, transitions that ``step`` is given.
        lanes: B.
    """

    def __init__(self, model: nn.Module, dynamics: Dynamics, past: int, lanes: int) -> None:
        self.model, self.dynamics, self.window = model, dynamics, Window(past, lanes)
        self.theta = dynamics.theta
        self.phi = self.theta
        self.resets = 0

    def step(
        self, x: Float[Tensor, "b m i"], y: Float[Tensor, "b m s"], filled: Float[Tensor, "b m"],
        ended: Bool[Tensor, " b"],
    ) -> Params:  # fmt: skip
        """New parameters, leaves (B, ...), by the last transitions' inputs and targets."""
        raise NotImplementedError

    def predict(
        self, obs: Float[Tensor, "b c o"], action: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b c o"]:
        """See ``Adapter``."""
        return self.dynamics.predict(self.phi, obs, action)

    def observe(
        self, obs: Float[Tensor, "b o"], action: Float[Tensor, "b a"],
        next_obs: Float[Tensor, "b o"], ended: Bool[Tensor, " b"],
    ) -> None:  # fmt: skip
        """See ``Adapter``; lanes whose parameters are not finite go back to theta."""
        self.window.push(self.dynamics.inputs(obs, action), self.dynamics.targets(obs, next_obs))
        self.window.clear(ended)
        assert self.window.transitions is not None
        x, y = self.window.transitions
        self.phi = self.step(x, y, self.window.filled, ended)
        self.resets += restore_broken(self.phi, self.theta, self.window)

    def state_dict(self) -> dict[str, Any]:
        """Parameters and window of every lane."""
        return {"phi": dict(self.phi), "window": self.window.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the saved one."""
        self.phi = state["phi"]
        self.window.load_state_dict(state["window"])


def restore_broken(phi: Params, theta: Params, window: Window) -> int:
    """Put lanes whose parameters (B, ...) are not finite back to theta; returns how many."""
    own = {k: p for k, p in phi.items() if p.ndim > theta[k].ndim}
    total = torch.stack([p.flatten(1).sum(1) for p in own.values()]).sum(0)
    broken = ~torch.isfinite(total)
    if bool(broken.any()):
        for name, p in own.items():
            p[broken] = theta[name]
        window.clear(broken)
    return int(broken.sum())


class RandomActor:
    """Acts at random, the same way for a while."""

    def __init__(self, spec: EnvSpec, shape: tuple[int, int], rng: torch.Generator) -> None:
        self.spec, self.rng = spec, rng
        self.noise = self.draw((*shape, spec.action_dim))
        self.acted: dict[str, Tensor] = {}

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise."""
        return torch.randn(shape, generator=self.rng, device=self.rng.device)

    def act(self, obs: Tensor, *, explore: bool = True) -> Float[Tensor, "n e a"]:
        """First-order autoregressive noise, clipped to the bounds."""
        action = self.noise.clamp(-1, 1) * self.spec.action_scale
        fresh = self.draw(tuple(self.noise.shape))
        self.noise = WARM * self.noise + math.sqrt(1 - WARM**2) * fresh
        return action

    def observe(self, action: Tensor, step: Step) -> None:
        """It does not look."""


class MPCLearner:
    """Model-predictive control: plan with the adapted model, do the first action, plan again.

    Args:
        adapter: The model, on N*E lanes.
        cfg: The planner's settings.
        spec: With ``reward_fn``.
        shape: Tasks and lanes (N, E).
        rng: Draws candidates.
    """

    plans = True

    def __init__(
        self, adapter: Adapter, cfg: PlannerConfig, spec: EnvSpec, shape: tuple[int, int],
        rng: torch.Generator,
    ) -> None:  # fmt: skip
        self.adapter, self.cfg, self.spec, self.shape, self.rng = adapter, cfg, spec, shape, rng
        self.plan = first_plan(shape[0] * shape[1], spec.action_dim, cfg, rng.device)
        self.obs: Tensor | None = None
        self.acted: dict[str, Tensor] = {}

    @torch.no_grad()
    def act(self, obs: Float[Tensor, "n e o"], *, explore: bool = True) -> Float[Tensor, "n e a"]:
        """The first action of the improved plan; planning is all the exploration there is."""
        assert self.spec.reward_fn is not None
        self.obs = obs.flatten(0, 1)
        score = partial(
            imagined_return, self.adapter.predict, self.spec.reward_fn, self.spec.terminal_fn,
            self.obs,
        )  # fmt: skip
        self.plan = improve(score, self.plan, self.cfg, self.rng)
        return self.plan.mean[:, 0].unflatten(0, self.shape) * self.spec.action_scale

    @torch.no_grad()
    def observe(self, action: Float[Tensor, "n e a"], step: Step) -> None:
        """Adapt to what just happened, at once; where the episode ended, start afresh."""
        assert self.obs is not None, "act comes before observe"
        ended = (step.terminated | step.truncated).flatten()
        done = clipped(action, self.spec).flatten(0, 1)
        self.adapter.observe(self.obs, done, step.next_obs.flatten(0, 1), ended)
        later = shift(self.plan, self.cfg)
        keep = (~ended).to(later.mean).view(-1, 1, 1)
        self.plan = later._replace(mean=later.mean * keep)

    def adapt(self) -> None:
        """Nothing: the model has adapted at every step."""

    def state_dict(self) -> dict[str, Any]:
        """Its model, what it knows of the present, and its plan."""
        return {
            "model": self.adapter.model.state_dict(), "adapter": self.adapter.state_dict(),
            "plan": self.plan._asdict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the saved learner; without a saved model, with the one that is here."""
        if "model" in state:
            self.adapter.model.load_state_dict(state["model"])
        self.adapter.load_state_dict(state["adapter"])
        self.plan = Plan(**state["plan"])


def clipped(action: Float[Tensor, "*b a"], spec: EnvSpec) -> Float[Tensor, "*b a"]:
    """What the environment makes of a policy's sample, +-1 spanning the bounds."""
    return (action / spec.action_scale).clamp(-1, 1)


SETTLED = 16
"""Transitions after which a model counts as adapted, when its error is measured; the same for every
method, so that they compare."""


class ModelBased:
    """The outer loop. A method adds ``adapter`` and ``loss``."""

    stage_unit: Literal["update", "episode"] = "episode"
    num_stages = 1
    is_trial = True
    progress = 0.0
    cfg: ModelConfig

    def prepare(
        self, cfg: ModelConfig, spec: EnvSpec, model: nn.Module, dynamics: Dynamics, device: str
    ) -> None:
        """Set what all of them have; ``dynamics`` is the model or a part of it.

        Raises:
            UserError: a family that cannot be planned for, or windows longer than its episodes.
        """
        if spec.action_kind != "box":
            raise UserError(
                f"{spec.name} has discrete actions; planners here need continuous ones, try "
                "--env hidden-gain"
            )
        if spec.reward_fn is None:
            raise UserError(
                f"{spec.name} gives no reward as a function of (obs, action, next_obs), which a "
                "planner needs; try --env hidden-gain, or give your environment a reward_fn"
            )
        if cfg.plan_horizon > spec.horizon:
            raise UserError(
                f"--plan-horizon is {cfg.plan_horizon}; expected at most an episode's "
                f"{spec.horizon} steps"
            )
        past = cfg.past if isinstance(cfg, AdaptiveConfig) else 0
        if past + cfg.future > spec.horizon:
            half, of = max(1, spec.horizon // 2), f"than an episode of {spec.horizon} steps"
            raise UserError(
                f"--past {past} and --future {cfg.future} are longer together {of}; try "
                f"--past {half} --future {half} or less"
                if past
                else f"--future {cfg.future} is longer {of}; try --future {half}"
            )
        try_rewards(spec)
        self.cfg, self.spec, self.model, self.dynamics = cfg, spec, model.to(device), dynamics
        self.replay = Replay()
        self.iteration = 0
        self.optimizer = torch.optim.Adam(self.model.parameters(), cfg.outer_lr)

    def adapter(self, lanes: int) -> Adapter:
        """A frozen copy of the model, ready to adapt on B lanes."""
        raise NotImplementedError

    def loss(self, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """What one Adam step descends, on a fresh sample of the data; and what to report."""
        raise NotImplementedError

    def learner(self, num_tasks: int, lanes: int, rng: torch.Generator) -> MPCLearner:
        """A learner on a copy of the model, at the start of an episode."""
        adapter = self.adapter(num_tasks * lanes)
        return MPCLearner(adapter, self.cfg, self.spec, (num_tasks, lanes), rng)

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """The steps of one episode on every lane, then so many Adam steps on all data."""
        cfg = self.cfg
        actor: RandomActor | MPCLearner
        if self.iteration < cfg.random_iterations:
            actor = RandomActor(self.spec, (tasks.num, cfg.lanes), rng)
        else:
            actor = self.learner(tasks.num, cfg.lanes, rng)
        rollout = collect(env, tasks, actor, cfg.lanes, self.spec.horizon, rng)
        ended = rollout.terminated | rollout.truncated
        metrics: Metrics = {
            "episode_reward_mean": float(first_episode_return(rollout.reward, ended).mean()),
            "train/lanes_reset": float(
                actor.adapter.resets if isinstance(actor, MPCLearner) else 0
            ),
        }
        if "info/diverged" in rollout.extra:
            metrics["train/lanes_diverged"] = float(rollout.extra["info/diverged"].sum())
        self.learn_statistics(self.replay.add(rollout, clipped(rollout.action, self.spec)))
        self.iteration += 1
        totals: dict[str, Tensor] = {}
        for _ in range(cfg.model_updates):
            loss, report = self.loss(rng)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), cfg.max_grad_norm)
            self.optimizer.step()
            totals = {k: totals.get(k, 0.0) + v.detach() for k, v in report.items()}
        return metrics | {f"loss/{k}": float(v) / cfg.model_updates for k, v in totals.items()}

    def learn_statistics(self, new: Transitions) -> None:
        """Merge new data that count into the model's normaliser and range."""
        counts = new.episode >= 0
        if counts.any():
            self.dynamics.update_statistics(new.obs[counts], new.next_obs[counts])

    @torch.no_grad()
    def diagnose(self, rollout: Rollout, spec: EnvSpec) -> ModelErrors:
        """How well the model predicts what happened on each task, whoever acted.

        ``spec`` is of the environment that was acted in: it says what the actions mean. Counted are
        transitions of a lane's first episode after at least 16 others; where the world changed,
        after at least 16 of the new one.
        """
        (num, lanes), steps = rollout.reward.shape[:2], rollout.reward.shape[2]
        # (N, E, T, ...) -> (N*E, T, ...)
        obs, next_obs = rollout.obs.flatten(0, 1), rollout.next_obs.flatten(0, 1)
        action = clipped(rollout.action, spec).flatten(0, 1)
        ended = (rollout.terminated | rollout.truncated).flatten(0, 1)
        adapter, fresh = self.adapter(num * lanes), self.adapter(num * lanes)
        size = self.spec.obs_dim - self.spec.command_dim
        scale = (next_obs - obs)[..., :size].flatten(0, 1).std(0, correction=0)
        moves = scale > 1e-6  # what never changes has no unit
        errors = []
        for t in range(steps):
            now = obs[:, t], action[:, t]
            for model in (fresh, adapter):
                predicted = model.predict(*(x.unsqueeze(1) for x in now)).squeeze(1)
                wrong = (predicted - next_obs[:, t])[:, :size][:, moves] / scale[moves]
                errors.append(wrong.square().mean(-1))
            adapter.observe(*now, next_obs[:, t], ended[:, t])
        error = torch.stack(errors, -1).unflatten(-1, (steps, 2))  # (N*E, T, 2)
        first = episode_index(ended) == 0
        if "info/diverged" in rollout.extra:
            first &= ~rollout.extra["info/diverged"].flatten(0, 1).bool()
        seen, asked = time_in_episode(ended), first
        since: Literal["start", "switch"] = "start"
        if "info/switched" in rollout.extra:
            since, asked = "switch", rollout.extra["info/switched"].flatten(0, 1).bool() & first
            seen = torch.where(asked, time_in_episode(ended | opens(asked)), seen)
        weight = (asked & (seen >= SETTLED)).to(error).unsqueeze(-1)
        total, count = (x.unflatten(0, (num, lanes)).sum((1, 2)) for x in (error * weight, weight))
        curve = [error[asked & (seen == age)].mean(0) for age in range(2 * SETTLED + 1)]
        unadapted, adapted = (total / count).sqrt().cpu().double().numpy().T
        by_age = torch.stack(curve, 1).sqrt().cpu().double().numpy()
        return ModelErrors(unadapted, adapted, since, by_age)

    def test_lrs(self, num_updates: int) -> list[float]:
        """Nothing is updated between episodes."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Model and optimiser; the data are kept apart, since they only grow."""
        return {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse; also of checkpoints that held the data and no running statistics."""
        self.model.load_state_dict(state["model"], strict="replay" not in state)
        restore(self.optimizer, state["optimizer"])
        self.iteration = int(state["iteration"])
        if "replay" in state:
            self.replay.extend(state["replay"])
            self.dynamics.count.zero_()
            self.learn_statistics(Transitions(**self.replay.rows(0)))


def try_rewards(spec: EnvSpec) -> None:
    """Call the functions that a planner will call, so that a fault in them shows at once."""
    assert spec.reward_fn is not None
    obs, action = torch.zeros(2, 3, spec.obs_dim), torch.zeros(2, 3, spec.action_dim)
    rewards = spec.reward_fn(obs, action, obs)
    if spec.terminal_fn is not None:
        spec.terminal_fn(obs)
    if not bool(torch.isfinite(rewards).all()):
        raise UserError(
            f"{spec.name}: reward_fn gave {rewards[0, 0].item()} for an observation and an action "
            "of zeros; expected a finite reward for whatever a model may predict"
        )


def opens(on: Bool[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
    """True at the step before a stretch of ``on`` begins."""
    return torch.cat([~on[:, :-1] & on[:, 1:], torch.zeros_like(on[:, :1])], 1)


def frozen(model: nn.Module) -> Any:
    """A copy that nothing trains."""
    return copy.deepcopy(model).requires_grad_(False)
