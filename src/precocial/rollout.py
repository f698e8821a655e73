"""The one acting loop, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from precocial import threads
from precocial.ops.returns import episode_index
from precocial.types import Acting, Metrics, Rollout, TaskEnv, Tasks


@torch.no_grad()
def collect(
    env: TaskEnv,
    tasks: Tasks,
    learner: Acting,
    lanes: int,
    num_steps: int,
    rng: torch.Generator,
    *,
    explore: bool = True,
    episodes: int | None = None,
    obs: Tensor | None = None,
    on_step: Callable[[], None] | None = None,
) -> Rollout:
    """Act for ``num_steps`` steps on every lane, from a reset, or on from ``obs``.

    ``extra`` holds what ``learner.act`` left in ``learner.acted`` at each step, stacked, and the
    environment's ``info`` under ``info/NAME``. With ``episodes`` it is one trial: acting stops as
    soon as every lane has ended so many, and ``extra["valid"]`` is False for what a lane did
    afterwards. ``on_step`` is called before every action, to film.

    Where stepping takes the cores, torch works on one thread meanwhile, and for a policy's call
    too, after which its threads would go on spinning. A learner that ``plans`` has all of them.
    """
    columns, extras = [], []
    number: Tensor | int = 0  # of episodes that every lane has ended
    plans = getattr(learner, "plans", False)
    with threads.shared():
        stepping = 1 if env.spec.threaded else threads.fitting()
        torch.set_num_threads(stepping)
        if obs is None:
            obs = env.reset(tasks, lanes, rng)
        for _ in range(num_steps):
            if on_step:
                on_step()
            every = threads.fitting()
            stepping = 1 if env.spec.threaded else every
            acting = every if plans else stepping
            torch.set_num_threads(acting)
            action = learner.act(obs, explore=explore)
            torch.set_num_threads(stepping)
            step = env.step(action)
            torch.set_num_threads(acting)
            learner.observe(action, step)
            ends = (step.terminated, step.truncated)
            columns.append((obs, action, step.reward, step.next_obs, *ends))
            extras.append(learner.acted | {f"info/{k}": v for k, v in step.info.items()})
            obs = step.obs
            if episodes is not None:
                number = number + (step.terminated | step.truncated).long()
                if bool((number >= episodes).all()):
                    break
        threads.adjust()
    rollout = stack_steps(columns, extras)
    if episodes is not None:
        ended = rollout.terminated | rollout.truncated
        rollout.extra["valid"] = episode_index(ended) < episodes
    return rollout


def lanes_diverged(rollouts: Sequence[Rollout]) -> Metrics:
    """How many lanes a diverged simulation ended, where there were any."""
    lost = sum(float(rollout.diverged.sum()) for rollout in rollouts)
    return {"train/lanes_diverged": lost} if lost else {}


def stack_steps(
    columns: Sequence[tuple[Tensor, ...]], extras: Sequence[dict[str, Tensor]]
) -> Rollout:
    """One Rollout from per-step ``(obs, action, reward, next_obs, terminated, truncated)``."""
    obs, action, reward, next_obs, terminated, truncated = (
        torch.stack(c, 2) for c in zip(*columns, strict=True)
    )
    extra = {k: torch.stack([x[k] for x in extras], 2) for k in extras[0]}
    return Rollout(obs, action, reward, next_obs, terminated, truncated, extra)
