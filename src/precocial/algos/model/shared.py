"""What model-based methods share: data, planning with a model that adapts, and fitting it.

Every iteration collects an episode's steps per lane by model-predictive control, keeps them raw,
and fits the model to windows of everything kept. Methods differ in how their model adapts to the
last transitions of the present episode (an ``Adapter``) and so in the loss that it is fitted by.
Any step may be a new task: nobody says when the world changed. What was adapted ends with the
episode. The ends of a lane's data take part in fewer windows than its middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from precocial import threads
from precocial.algos.model.acting import MPCLearner, RandomActor, clipped
from precocial.algos.model.adapters import Adapter
from precocial.algos.model.errors import ModelErrors, model_errors
from precocial.checks import at_least, positive, widths
from precocial.nets.dynamics import Dynamics
from precocial.nets.pictures import refuse
from precocial.ops.adam import Adam
from precocial.ops.planning import PlannerConfig
from precocial.ops.returns import first_episode_return
from precocial.ops.sums import mean
from precocial.replay import Replay, Transitions
from precocial.rollout import collect
from precocial.types import EnvSpec, Metrics, Params, Rollout, TaskEnv, Tasks, UserError


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


class ModelBased:
    """The outer loop. A method adds ``adapter`` and ``loss``."""

    stage_unit: Literal["update", "episode"] = "episode"
    num_stages = 1
    is_trial = True
    greedy = False
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
        refuse(spec, "a planner", "try ppo, or rl2 where tasks vary")
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
        self.optimizer = Adam(self.model.parameters(), cfg.outer_lr)

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
            "episode_reward_mean": float(mean(first_episode_return(rollout.reward, ended))),
            "train/lanes_reset": float(
                actor.adapter.resets if isinstance(actor, MPCLearner) else 0
            ),
        }
        if "info/diverged" in rollout.extra:
            metrics["train/lanes_diverged"] = float(rollout.extra["info/diverged"].sum())
        self.learn_statistics(self.replay.add(rollout, clipped(rollout.action, self.spec)))
        self.iteration += 1
        totals: dict[str, Tensor] = {}
        optimizer = self.optimizer.made
        for _ in range(cfg.model_updates):
            threads.adjust()
            loss, report = self.loss(rng)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), cfg.max_grad_norm)
            optimizer.step()
            totals = {k: totals.get(k, 0.0) + v.detach() for k, v in report.items()}
        return metrics | {f"loss/{k}": float(v) / cfg.model_updates for k, v in totals.items()}

    def learn_statistics(self, new: Transitions) -> None:
        """Merge new data that count into the model's normaliser and range."""
        counts = new.episode >= 0
        if counts.any():
            self.dynamics.update_statistics(new.obs[counts], new.next_obs[counts])

    def diagnose(self, rollout: Rollout, spec: EnvSpec) -> ModelErrors:
        """How well the model predicts what happened on each task, whoever acted."""
        num, lanes = rollout.reward.shape[:2]
        state_dim = self.spec.obs_dim - self.spec.command_dim
        fresh, adapting = (self.adapter(num * lanes) for _ in range(2))
        return model_errors(fresh, adapting, rollout, spec, state_dim)

    def networks(self) -> dict[str, Params]:
        """See ``Transferable``: the model, with its units."""
        return {"dynamics": self.model.state_dict()}

    def begin_with(self, networks: dict[str, Params]) -> None:
        """See ``Transferable``."""
        self.model.load_state_dict(networks["dynamics"])

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
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = int(state["iteration"])
        if state.get("replay"):  # empty where the first iteration broke
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
