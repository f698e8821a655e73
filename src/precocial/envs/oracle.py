"""The task in the observation: what the ``oracle`` reference trains and is judged on."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from precocial.nets.pictures import beside, with_numbers
from precocial.types import Split, Step, TaskEnv, Tasks


class OracleEnv:
    """A family whose observation ends with the task's own numbers."""

    def __init__(self, env: TaskEnv) -> None:
        self.env = env
        some = env.sample_tasks(1, "train", torch.Generator().manual_seed(0))
        extra = env.task_features(some).shape[-1]
        picture = env.spec.picture
        if picture:
            picture = with_numbers(picture, extra, env.spec.name)
        dim = picture.size if picture else env.spec.obs_dim + extra
        self.spec = env.spec._replace(obs_dim=dim, picture=picture, belief=None)

    @property
    def steps_taken(self) -> int:
        """Environment steps since construction."""
        return self.env.steps_taken

    @steps_taken.setter
    def steps_taken(self, value: int) -> None:
        self.env.steps_taken = value

    def sample_tasks(self, n: int, split: Split, rng: torch.Generator) -> Tasks:
        """As the family."""
        return self.env.sample_tasks(n, split, rng)

    def reset(self, tasks: Tasks, lanes: int, rng: torch.Generator) -> Shaped[Tensor, "n e o"]:
        """As the family, the task appended."""
        obs = self.env.reset(tasks, lanes, rng)
        self.switch_features(tasks, obs)
        return self.append(obs)

    def switch(self, tasks: Tasks) -> None:
        """The oracle is told at once."""
        self.env.switch(tasks)
        self.switch_features(tasks, self.features)

    def switch_features(self, tasks: Tasks, like: Tensor) -> None:
        """Remember the task's numbers, one row per lane."""
        features = self.env.task_features(tasks).to(like.device, torch.float32)
        self.features: Float[Tensor, "n e d"] = features.unsqueeze(1).expand(-1, like.shape[1], -1)

    def append(self, obs: Shaped[Tensor, "n e o"]) -> Shaped[Tensor, "n e p"]:
        """Observation and task."""
        return beside(obs, self.features)

    def step(self, action: Tensor) -> Step:
        """As the family, the task appended."""
        step = self.env.step(action)
        return step._replace(obs=self.append(step.obs), next_obs=self.append(step.next_obs))

    def render(self, task: int, lane: int) -> UInt8[np.ndarray, "h w 3"]:
        """As the family."""
        return self.env.render(task, lane)

    def task_features(self, tasks: Tasks) -> Float[Tensor, "n d"]:
        """As the family."""
        return self.env.task_features(tasks)

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """As the wrapped family's."""
        return self.env.references(tasks, episodes, rng)

    def optimum(self, tasks: Tasks) -> Float[Tensor, " n"] | None:
        """As the family."""
        return self.env.optimum(tasks)

    def close(self) -> None:
        """Release the family."""
        self.env.close()
