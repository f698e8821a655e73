"""One protocol for every method: the adaptation curve on tasks it has never met."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from precocial.ops.returns import episode_returns, first_episode_return
from precocial.rollout import collect
from precocial.seeding import generator
from precocial.statistics import bootstrap_interval, interquartile_mean
from precocial.types import Algorithm, Learner, Step, TaskEnv, Tasks

RESAMPLED_VALUES = 4_000_000


class Curve(NamedTuple):
    """Adaptation curve of one trained run."""

    returns: np.ndarray
    """(N, stages): mean over lanes of the stage's first whole episode, or the trial's episodes."""
    success: np.ndarray | None
    """(N, stages): share of lanes whose first episode succeeded; None where undefined."""
    episodes_seen: list[int]
    """Whole episodes per task that had been observed before each stage, on average."""
    env_steps_seen: list[int]
    """The same in environment steps."""


class Onlooker:
    """Acts for a learner without exploring and hides the outcome from it."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.acted: dict[str, torch.Tensor] = {}

    def act(self, obs: torch.Tensor, *, explore: bool = True) -> torch.Tensor:
        """The learner's best action."""
        return self.learner.act(obs, explore=False)

    def observe(self, action: torch.Tensor, step: Step) -> None:
        """Nothing reaches the learner."""


def adaptation_curve(
    algorithm: Algorithm,
    env: TaskEnv,
    tasks: Tasks,
    *,
    stages: int,
    lanes: int,
    seed: int,
    greedy: bool = False,
    device: str = "cpu",
) -> Curve:
    """Run ``stages`` stages (the first before any adaptation) on every task.

    Where a stage is an episode, all stages are one trial without a break, and every action counts.
    Otherwise support data are ``lanes`` episodes' worth of steps per stage, as in training; a
    stage's return is the first whole episode of every lane. With ``greedy``, update methods collect
    support by sampling and are scored on a rollout of their best actions. Nothing that training
    reads changes: environment and generators are the evaluation's own.
    """
    size = max(1, env.spec.lanes_at_once // lanes)
    parts, observed = [], np.zeros(stages)
    steps = np.zeros(stages)  # of all lanes, in each stage
    for start in range(0, tasks.num, size):
        part = tasks.select(slice(start, start + size))
        rng = generator(seed, "evaluate", start, device=device)
        learner = algorithm.learner(part.num, lanes, rng)
        if algorithm.stage_unit == "episode":
            table, lengths = _trial(learner, env, part, stages, lanes, rng, explore=not greedy)
            parts.append(table)
            observed += lanes * part.num
            steps += lengths
            continue
        columns = []
        for stage in range(stages):
            if stage:
                learner.adapt()
            # In a trial every action counts, so the greedy ones are those it learns from.
            explore = not (greedy and algorithm.is_trial)
            rollout = collect(env, part, learner, lanes, env.spec.horizon, rng, explore=explore)
            observed[stage] += float((rollout.terminated | rollout.truncated).sum())
            steps[stage] += rollout.reward.numel()
            if greedy and explore:
                rollout = collect(env, part, Onlooker(learner), lanes, env.spec.horizon, rng)
            ended = rollout.terminated | rollout.truncated
            score = [first_episode_return(rollout.reward, ended).mean(1)]
            if "info/success" in rollout.extra:
                hits = first_episode_return(rollout.extra["info/success"], ended) > 0
                score.append(hits.float().mean(1))
            columns.append(torch.stack(score).cpu().double().numpy())  # (1 or 2, n)
        parts.append(np.stack(columns, -1))  # (1 or 2, n, stages)
    table = np.concatenate(parts, 1)
    return Curve(
        table[0],
        table[1] if len(table) > 1 else None,
        [round(x) for x in (np.cumsum(observed) - observed) / tasks.num],
        [round(x) for x in (np.cumsum(steps) - steps) / tasks.num],
    )


def _trial(
    learner: Learner, env: TaskEnv, tasks: Tasks, stages: int, lanes: int, rng: torch.Generator,
    *, explore: bool,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """One trial of ``stages`` episodes: scores (1 or 2, n, stages), and steps of each stage."""
    rollout = collect(
        env, tasks, learner, lanes, stages * env.spec.horizon, rng, explore=explore, episodes=stages
    )
    ended = rollout.terminated | rollout.truncated
    table = [episode_returns(rollout.reward, ended, stages).mean(1)]
    if "info/success" in rollout.extra:
        hits = episode_returns(rollout.extra["info/success"], ended, stages) > 0
        table.append(hits.float().mean(1))
    lengths = episode_returns(torch.ones_like(rollout.reward), ended, stages).sum((0, 1))
    return torch.stack(table).cpu().double().numpy(), lengths.cpu().double().numpy()


def summarise(curves: list[Curve], *, intervals: bool = True) -> dict[str, Any]:
    """The curve over seeds as the JSON of ``eval`` holds it.

    ``ci95`` is the 95 % bootstrap interval of the interquartile mean: over tasks for one run, over
    seeds and tasks for several. References are scored without (``intervals`` False).
    """
    scores = np.stack([c.returns for c in curves])  # (S, N, stages)
    hits = [c.success for c in curves if c.success is not None]
    success = np.stack(hits) if hits else None
    stages = []
    # Fewer resamples where there are very many scores, whose interval is narrow anyway.
    resamples = int(np.clip(RESAMPLED_VALUES // scores[..., 0].size, 50, 2000))
    for k in range(scores.shape[-1]):
        row: dict[str, Any] = {
            "stage": k,
            "episodes_seen": curves[0].episodes_seen[k],
            "env_steps_seen": curves[0].env_steps_seen[k],
            "return_mean": float(scores[:, :, k].mean()),
            "return_iqm": interquartile_mean(scores[:, :, k].ravel()),
            "seed_means": [float(x) for x in scores[:, :, k].mean(1)],
        }
        if intervals:
            row["ci95"] = list(bootstrap_interval(scores[:, :, k], resamples))
        if success is not None:
            row["success_rate"] = float(success[:, :, k].mean())
        stages.append(row)
    per_task = scores.mean(0)[:1000]
    return {
        "stages": stages,
        "per_task_return": [[float(x) for x in row] for row in per_task],
        "success_rate": stages[-1].get("success_rate"),
    }
