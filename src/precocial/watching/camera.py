"""Films of a trained run, episode by episode, on a task it has not met."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from precocial.envs.base import TensorTaskEnv
from precocial.envs.oracle import OracleEnv
from precocial.ops.returns import episode_returns
from precocial.rollout import collect
from precocial.runs.folder import load_algorithm
from precocial.seeding import generator
from precocial.types import Learner, Step, TaskEnv, Tasks, UserError


class Film(NamedTuple):
    """One filmed episode."""

    frames: list[np.ndarray]
    """Before every action, and after the last."""
    episode_return: float
    stage: int
    """Number of updates or of episodes before it."""
    unit: Literal["update", "episode"]
    """What ``stage`` counts."""


MOST_FILMS = 4
"""Of a trial with more episodes, only the first, the second and the last are shown."""


def film(
    folder: Path,
    *,
    updates: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    which: str = "last",
) -> list[Film]:
    """Episodes of lane 0 on one unseen task.

    Of a method that updates: the first before adapting and the first after each of ``updates``
    (default 1). Of one that remembers: a trial of ``episodes`` (default: a whole one).

    Raises:
        UserError: a number that the method has no use for, or a family that draws no pictures.
    """
    p, env, algorithm, _ = load_algorithm(folder, which)
    by_episode = algorithm.stage_unit == "episode"
    try:
        if by_episode and updates is not None:
            raise UserError(
                f"{p.algo} is not updated during a trial; leave --updates out, try --episodes 2"
            )
        if not by_episode and episodes is not None:
            raise UserError(f"{p.algo} learns by updates; leave --episodes out, try --updates 1")
        tasks = env.sample_tasks(1, "test", generator(seed, "evaluation tasks", "test"))
        rng = generator(seed, "film", device=p.run.device)
        if by_episode:
            learner = algorithm.learner(1, 1, rng)
            return _film(env, tasks, learner, 1, rng, episodes or algorithm.num_stages)
        learner, films = algorithm.learner(1, p.algo_config.lanes, rng), []
        for stage in range((1 if updates is None else updates) + 1):
            if stage:
                learner.adapt()
            [first] = _film(env, tasks, learner, p.algo_config.lanes, rng, 1)
            films.append(first._replace(stage=stage, unit="update"))
    finally:
        env.close()
    return films


def _film(
    env: TaskEnv, tasks: Tasks, learner: Learner, lanes: int, rng: torch.Generator, episodes: int
) -> list[Film]:
    """The first ``episodes`` episodes of lane 0, without a break; of many, the most telling."""
    shown = range(episodes) if episodes <= MOST_FILMS else (0, 1, episodes - 1)
    camera = _Camera(env, learner, shown)
    num_steps = episodes * env.spec.horizon
    rollout = collect(env, tasks, camera, lanes, num_steps, rng, on_step=camera.shoot)
    ended = (rollout.terminated | rollout.truncated)[0, 0]
    returns = episode_returns(rollout.reward[0, 0], ended, episodes).tolist()
    return [Film(camera.frames[k], returns[k], k, "episode") for k in shown]


class _Camera:
    """Acts for a learner and films some episodes of lane 0 of the first task.

    Before every action, and once more after the last where the family keeps what it came to.
    """

    def __init__(self, env: TaskEnv, learner: Learner, shown: Collection[int]) -> None:
        self.env, self.learner = env, learner
        inner = env.env if isinstance(env, OracleEnv) else env
        self.family = inner if isinstance(inner, TensorTaskEnv) else None
        self.frames: dict[int, list[np.ndarray]] = {k: [] for k in shown}
        self.number = 0
        self.acted: dict[str, Tensor] = {}

    def shoot(self) -> None:
        """The lane as it stands."""
        if self.number in self.frames:
            self.frames[self.number].append(self.env.render(0, 0))

    def act(self, obs: Tensor, *, explore: bool = True) -> Tensor:
        """As the learner."""
        action = self.learner.act(obs, explore=explore)
        self.acted = self.learner.acted
        return action

    def observe(self, action: Tensor, step: Step) -> None:
        """As the learner; an episode that ended is seen off."""
        self.learner.observe(action, step)
        if bool(step.terminated[0, 0] | step.truncated[0, 0]):
            if self.family and self.number in self.frames:
                self.frames[self.number].append(self.family.render_end(0, 0))
            self.number += 1
