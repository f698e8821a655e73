"""One protocol for every method: the adaptation curve on tasks it has never met."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from precocial.algos.model.shared import ModelErrors
from precocial.ops.returns import episode_index, episode_returns, first_episode_return
from precocial.rollout import collect
from precocial.seeding import generator
from precocial.statistics import bootstrap_interval, interquartile_mean
from precocial.types import Algorithm, Learner, Rollout, Step, TaskEnv, Tasks

RESAMPLED_VALUES = 4_000_000


class Recovery(NamedTuple):
    """What a run earned before, at and after the world changed during an episode."""

    every: int
    """Steps that a return is summed over."""
    start: list[int]
    """First step of every sum, counted from the change."""
    returns: np.ndarray
    """(N, bins): mean over lanes; NaN where no lane of the task was in its episode then."""


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
    recovery: Recovery | None = None
    """Around a change of the world during the first episode, where the family can have one."""


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
    on_trial: Callable[[Rollout], None] | None = None,
) -> Curve:
    """Run ``stages`` stages (the first before any adaptation) on every task.

    Where a stage is an episode, all stages are one trial without a break, and every action counts.
    Otherwise support data are ``lanes`` episodes' worth of steps per stage, as in training; a
    stage's return is the first whole episode of every lane. With ``greedy``, update methods collect
    support by sampling and are scored on a rollout of their best actions. Nothing that training
    reads changes: environment and generators are the evaluation's own. ``on_trial`` is handed the
    rollout of every chunk of tasks, where a stage is an episode.
    """
    size = max(1, env.spec.lanes_at_once // lanes)
    parts, observed = [], np.zeros(stages)
    recoveries: list[Recovery] = []
    steps = np.zeros(stages)  # of all lanes, in each stage
    for start in range(0, tasks.num, size):
        part = tasks.select(slice(start, start + size))
        rng = generator(seed, "evaluate", start, device=device)
        learner = algorithm.learner(part.num, lanes, rng)
        if algorithm.stage_unit == "episode":
            rollout = collect(
                env, part, learner, lanes, stages * env.spec.horizon, rng,
                explore=not greedy, episodes=stages,
            )  # fmt: skip
            if on_trial:
                on_trial(rollout)
            table, lengths = _trial(rollout, stages)
            parts.append(table)
            observed += lanes * part.num
            steps += lengths
            if "info/switched" in rollout.extra:
                recoveries.append(recovery(rollout, env.spec.horizon))
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
        recoveries[0]._replace(returns=np.concatenate([r.returns for r in recoveries]))
        if recoveries
        else None,
    )


def _trial(rollout: Rollout, stages: int) -> tuple[np.ndarray, np.ndarray]:
    """Of a trial of ``stages`` episodes: scores (1 or 2, n, stages), and steps of each stage."""
    ended = rollout.terminated | rollout.truncated
    table = [episode_returns(rollout.reward, ended, stages).mean(1)]
    if "info/success" in rollout.extra:
        hits = episode_returns(rollout.extra["info/success"], ended, stages) > 0
        table.append(hits.float().mean(1))
    lengths = episode_returns(torch.ones_like(rollout.reward), ended, stages).sum((0, 1))
    return torch.stack(table).cpu().double().numpy(), lengths.cpu().double().numpy()


def recovery(rollout: Rollout, horizon: int) -> Recovery:
    """Returns per 50 steps (per twentieth of an episode shorter than 400) around the change.

    Of the first episode of every lane, in whole sums; a lane that ended early earns nothing for the
    rest of the horizon, one that ended before the change is left out.
    """
    every = 50 if horizon >= 400 else max(1, horizon // 20)
    first = episode_index(rollout.terminated | rollout.truncated)[..., :horizon] == 0
    reward = (rollout.reward[..., :horizon] * first).cpu().double().numpy()
    switched = (rollout.extra["info/switched"][..., :horizon].bool() & first).cpu().numpy()
    missing = horizon - reward.shape[-1]
    reward = np.pad(reward, ((0, 0), (0, 0), (0, missing)))
    at = np.where(switched.any(-1), switched.argmax(-1), -1)  # (N, E)
    bins = range(-(horizon // every), horizon // every)
    total = np.concatenate([np.zeros((*at.shape, 1)), reward.cumsum(-1)], -1)
    columns = []
    for k in bins:
        begin, end = at + k * every, at + (k + 1) * every
        whole = (at >= 0) & (begin >= 0) & (end <= horizon)
        picked = [np.take_along_axis(total, np.clip(x, 0, horizon)[..., None], -1)[..., 0]
                  for x in (begin, end)]  # fmt: skip
        earned = np.where(whole, picked[1] - picked[0], 0.0).sum(1)
        count = whole.sum(1)
        columns.append(np.where(count > 0, earned / np.maximum(count, 1), np.nan))
    return Recovery(every, [k * every for k in bins], np.stack(columns, -1))


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
    around = [c.recovery for c in curves if c.recovery is not None]
    return ({"recovery": summarise_recovery(around)} if around else {}) | {
        "stages": stages,
        "per_task_return": [[float(x) for x in row] for row in per_task],
        "success_rate": stages[-1].get("success_rate"),
    }


COMMON = 0.5
"""Share of the tasks that a sum around the change must exist for, to be shown."""


def summarise_recovery(parts: list[Recovery]) -> dict[str, Any]:
    """Mean over seeds and tasks of every sum, with its bootstrap interval."""
    table = np.stack([part.returns for part in parts])  # (S, N, bins)
    known = np.isfinite(table)
    shown = np.flatnonzero(known.mean((0, 1)) >= COMMON)
    rows: dict[str, Any] = {"every": parts[0].every, "start": [], "return": [], "ci95": []}
    for k in shown:
        tasks = known[..., k].all(0)
        if not tasks.any():
            continue
        column = table[:, tasks, k]
        rows["start"].append(parts[0].start[k])
        rows["return"].append(float(column.mean()))
        rows["ci95"].append(list(bootstrap_interval(column, 1000, trim=False)))
    return rows


def summarise_errors(errors: list[ModelErrors]) -> dict[str, Any]:
    """Next-state error before and after adapting, and what adapting takes off it.

    Means over the tasks on which every seed has an error, with bootstrap intervals over seeds and
    tasks; None where there is nothing to count.
    """
    table = np.stack([(e.unadapted, e.adapted, e.unadapted - e.adapted) for e in errors], 1)
    table = table[..., np.isfinite(table).all((0, 1))]  # (3, S, N)
    out: dict[str, Any] = {}
    for name, values in zip(("unadapted", "adapted", "drop"), table, strict=True):
        some = bool(values.size)
        out[name] = float(values.mean()) if some else None
        out[f"{name}_ci95"] = list(bootstrap_interval(values, 1000, trim=False)) if some else None
        out[f"{name}_seeds"] = [float(x) for x in values.mean(1)] if some else []
    curves = np.stack([e.by_transitions for e in errors])  # (S, 2, A)
    known = np.isfinite(curves).all((0, 1))
    unadapted, adapted = curves[..., known].mean(0)
    return out | {
        "by_transitions": {
            "since": errors[0].since,
            "transitions": [int(age) for age in np.flatnonzero(known)],
            "unadapted": [float(x) for x in unadapted],
            "adapted": [float(x) for x in adapted],
        }
    }
