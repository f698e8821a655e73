"""One protocol for every method: the adaptation curve on tasks it has never met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from precocial.evaluation.recovery import Recovery, recovery
from precocial.ops.returns import episode_returns, first_episode_return
from precocial.rollout import collect
from precocial.seeding import Generators, generator
from precocial.types import Algorithm, Learner, Rollout, Step, TaskEnv, Tasks


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
    lanes_diverged: int = 0
    """Lanes whose simulation diverged and ended their episode."""
    solved_by: np.ndarray | None = None
    """(N, stages): share of lanes that succeeded in this episode of the trial or an earlier one;
    None where that is undefined, or stages are no episodes of a trial."""
    env_steps: float = 0.0
    """Environment steps that it took; of runs that were scored together, an equal share."""


def final_returns(algorithm: Algorithm, curve: Curve) -> np.ndarray:
    """(N,): what counts of a curve, the whole trial or the last stage of adaptation."""
    return np.asarray(curve.returns.sum(1) if algorithm.is_trial else curve.returns[:, -1])


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
    algorithm: Algorithm | Together,
    env: TaskEnv,
    tasks: Tasks,
    *,
    stages: int,
    lanes: int,
    seed: int | Sequence[int],
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
    rollout of every chunk of tasks, where a stage is an episode. An algorithm may be scored by its
    best actions in any case. ``seed`` has one number for each run of ``Together``.
    """
    greedy = greedy or algorithm.greedy
    size = max(1, env.spec.lanes_at_once // lanes)
    parts, observed = [], np.zeros(stages)
    recoveries: list[Recovery] = []
    steps = np.zeros(stages)  # of all lanes, in each stage
    lost, unseen = 0, 0
    for start in range(0, tasks.num, size):
        part = tasks.select(slice(start, start + size))
        rng = (
            generator(seed, "evaluate", start, device=device)
            if isinstance(seed, int)
            else Generators([generator(one, "evaluate", start, device=device) for one in seed])
        )
        learner = algorithm.learner(part.num, lanes, rng)
        if algorithm.stage_unit == "episode":
            rollout = collect(
                env, part, learner, lanes, stages * env.spec.horizon, rng,
                explore=not greedy, episodes=stages,
            )  # fmt: skip
            if on_trial:
                on_trial(rollout)
            lost += int((rollout.diverged & rollout.extra["valid"]).sum())
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
                unseen += rollout.reward.numel()
            lost += int(rollout.diverged.sum())
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
        lost,
        table[2] if len(table) > 2 else None,
        float(steps.sum()) + unseen,
    )


class Together:
    """Several runs of one algorithm as one, to be scored at once; tasks lie one after the other."""

    def __init__(self, members: Sequence[Any]) -> None:
        self.members = members
        self.stage_unit, self.is_trial = members[0].stage_unit, members[0].is_trial
        self.greedy = members[0].greedy

    def learner(self, num_tasks: int, lanes: int, rng: torch.Generator) -> Learner:
        """Of all, each on its share of the tasks."""
        share = num_tasks // len(self.members)
        learner: Learner = self.members[0].learner_together(self.members, share, lanes, rng)
        return learner


def adaptation_curves(
    members: Sequence[Any],
    env: TaskEnv,
    tasks: Sequence[Tasks],
    *,
    stages: int,
    lanes: int,
    seeds: Sequence[int],
    device: str = "cpu",
) -> list[Curve]:
    """``adaptation_curve`` of each of several runs (``Stackable``), computed together if they fit.

    To rounding they are those of each alone.
    """
    num = tasks[0].num
    size = max(1, env.spec.lanes_at_once // (num * lanes))
    curves: list[Curve] = []
    for start in range(0, len(members), size):
        some = slice(start, start + size)
        group = tasks[some]
        if len(group) == 1 or num * lanes > env.spec.lanes_at_once:
            for one, its, seed in zip(members[some], group, seeds[some], strict=True):
                curves.append(
                    adaptation_curve(
                        one, env, its, stages=stages, lanes=lanes, seed=seed, device=device
                    )
                )
            continue
        curve = adaptation_curve(
            Together(members[some]), env, Tasks.join(group), stages=stages, lanes=lanes,
            seed=seeds[some], device=device,
        )  # fmt: skip
        for i in range(len(group)):
            rows = slice(i * num, (i + 1) * num)
            hits, solved = (
                None if x is None else x[rows] for x in (curve.success, curve.solved_by)
            )
            share = curve.env_steps / len(group)
            curves.append(
                curve._replace(
                    returns=curve.returns[rows], success=hits, solved_by=solved, env_steps=share
                )
            )
    return curves


def _trial(rollout: Rollout, stages: int) -> tuple[np.ndarray, np.ndarray]:
    """Of a trial of ``stages`` episodes: scores (1 or 3, n, stages), and steps of each stage."""
    ended = rollout.terminated | rollout.truncated
    table = [episode_returns(rollout.reward, ended, stages).mean(1)]
    if "info/success" in rollout.extra:
        hits = episode_returns(rollout.extra["info/success"], ended, stages) > 0
        table += [hits.float().mean(1), hits.float().cummax(-1).values.mean(1)]
    lengths = episode_returns(torch.ones_like(rollout.reward), ended, stages).sum((0, 1))
    return torch.stack(table).cpu().double().numpy(), lengths.cpu().double().numpy()
