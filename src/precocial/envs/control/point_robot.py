"""A point whose goal is hidden, with dense and with sparse rewards (Rakelly et al. 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from precocial.envs.base import EnvConfig, State, split_uniform, uniform
from precocial.envs.control.point_nav import Point, on_square
from precocial.types import Split, Tasks, UserError


@dataclass(frozen=True)
class PointRobotConfig(EnvConfig):
    """Options of ``point-robot``."""

    horizon: int = 20
    """Time limit of an episode, in steps (H)."""


@dataclass(frozen=True)
class PointRobotSparseConfig(PointRobotConfig):
    """Options of ``point-robot-sparse``."""

    radius: float = 0.2
    """Distance from the goal, in metres, within which there is a reward."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        if not 0 < self.radius < 1:
            raise UserError(f"--env-radius is {self.radius}; expected metres between 0 and 1")


class PointRobot(Point):
    """Go to a hidden goal, from anywhere.

    Observation: position (x, y) in metres. Action: velocity, 0.1 metres per step at +-1, clipped.
    Reward: minus the distance to the goal after the step, in metres. Start: U[-1, 1]^2 m.
    End: the horizon (20 steps). Task distribution: goal ~ U[-1, 1]^2 m; ``shifted`` goals lie
    outside that square, up to 1.5 m. Train, valid and test goals differ by construction.
    """

    name = "point-robot"

    def __init__(self, cfg: PointRobotConfig | None = None) -> None:
        super().__init__(cfg or PointRobotConfig(), (cfg or PointRobotConfig()).horizon)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Goals (n, 2), metres."""
        return {"goal": on_square(n, 1.0, split, rng)}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """Anywhere on the square."""
        return {"position": uniform(rng, (*lanes, 2), -1.0, 1.0)}

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Straight to the goal, the best there is; to the centre, the best of the blind."""
        goal = tasks.params["goal"].unsqueeze(1)
        return {
            "known goal": self._straight(tasks, goal, episodes, rng),
            "to the centre": self._straight(tasks, torch.zeros_like(goal), episodes, rng),
        }

    def _straight(
        self, tasks: Tasks, target: Float[Tensor, "n 1 2"], episodes: int, rng: torch.Generator
    ) -> Float[Tensor, "n k"]:
        """As near as can be at every step, along each axis by itself."""
        return self.walk(tasks, episodes, rng, lambda position, _: target - position)

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """The plane, the goal as a green disc, the agent as a blue one."""
        from precocial.envs.picture import Picture

        picture = Picture(size, half_width=1.6)
        picture.square(1.0)
        picture.disc(tasks["goal"], radius=getattr(self.cfg, "radius", 0.05), colour="green")
        picture.disc(state["position"], radius=0.04, colour="blue")
        return picture.pixels


class PointRobotSparse(PointRobot):
    """Find a hidden goal on a half circle, by walking into it.

    Observation and action as of ``point-robot``. Reward: 1 - d within 0.2 m of the goal, d the
    distance in metres, else 0; ``info`` has the ``dense_reward`` -d, for critics in training.
    Start: the origin. End: the horizon (20 steps). Task distribution: goal at distance 1 m, its
    angle ~ U[0, pi]; ``shifted`` goals lie on the lower half. Train, valid and test angles differ
    by construction.
    """

    name = "point-robot-sparse"
    cfg: PointRobotSparseConfig

    def __init__(self, cfg: PointRobotSparseConfig | None = None) -> None:
        super().__init__(cfg or PointRobotSparseConfig())

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Goals (n, 2), metres."""
        angle = split_uniform(rng, (n,), 0.0, math.pi, split)
        if split == "shifted":
            angle = -angle
        return {"goal": torch.stack([angle.cos(), angle.sin()], -1)}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """The origin."""
        return Point.initial(self, lanes, tasks, rng)

    def reward(
        self, state: State, action: Tensor, next_state: State, tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """Only near the goal."""
        away = self.distance(next_state, tasks)
        return (1 - away) * (away <= self.cfg.radius)

    def success(self, next_state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """Near the goal."""
        return self.distance(next_state, tasks) <= self.cfg.radius

    def info(self, state: State) -> dict[str, Float[Tensor, "n e"]]:
        """What a critic may learn from."""
        return {"dense_reward": -self.distance(self.reached, self.tasks)}

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Straight to the goal, which is the best there is."""
        goal = tasks.params["goal"].unsqueeze(1)
        return {"known goal": self._straight(tasks, goal, episodes, rng)}
