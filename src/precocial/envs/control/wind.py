"""A point that a hidden wind carries along, and a goal that it knows (Dorfman et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from precocial.envs.base import EnvConfig, State
from precocial.envs.control.point_nav import Point, on_square
from precocial.types import Split, Tasks, UserError

GOAL = 0.0, 1.0
"""Of every task, metres."""
STRONGEST = 0.08
"""Wind along an axis, metres per step; ``shifted`` up to a quarter more, what a point can stand."""


@dataclass(frozen=True)
class WindConfig(EnvConfig):
    """Options of ``wind``."""

    horizon: int = 75
    """Time limit of an episode, in steps (H)."""
    radius: float = 0.03
    """Distance from the goal, in metres, within which there is a reward."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        if not 0 < self.radius < 1:
            raise UserError(f"--env-radius is {self.radius}; expected metres between 0 and 1")


class Wind(Point):
    """Go to a goal and stay there, in a wind that is not told.

    Observation: position (x, y) in metres. Action: velocity, 0.1 metres per step at +-1, clipped;
    the wind is added to it. Reward: 1 for a step that ends within 0.03 m of the goal (0, 1), else
    0; ``info`` has a ``dense_reward``, for critics in training: that less the distance in metres.
    Start: the origin. End: the horizon (75 steps). Task distribution: the wind, metres per step,
    ~ U[-0.08, 0.08]^2; ``shifted``: the larger component between 0.08 and 0.1. Train, valid and
    test winds differ by construction.
    """

    name = "wind"
    cfg: WindConfig

    def __init__(self, cfg: WindConfig | None = None) -> None:
        super().__init__(cfg or WindConfig(), (cfg or WindConfig()).horizon)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Winds (n, 2), metres per step."""
        return {"wind": on_square(n, STRONGEST, split, rng, further=0.25)}

    def transition(
        self, state: State, action: Tensor, tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """Its own velocity and the wind's."""
        return {"position": state["position"] + action + tasks["wind"]}

    def distance(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e"]:
        """To the goal, metres."""
        position = state["position"]
        return super().distance(state, {"goal": position.new_tensor(GOAL)})

    def reward(
        self, state: State, action: Tensor, next_state: State, tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """1 at the goal, else 0."""
        return self.success(next_state, tasks).float()

    def success(self, next_state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """At the goal."""
        return self.distance(next_state, tasks) <= self.cfg.radius

    def info(self, state: State) -> dict[str, Float[Tensor, "n e"]]:
        """What a critic may learn from in training: it also says how far the goal is, metres."""
        away = self.distance(self.reached, self.tasks)
        return {"dense_reward": (away <= self.cfg.radius).float() - away}

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Against the wind, which is the best there is; and as if there was none."""
        wind = tasks.params["wind"].unsqueeze(1)
        goal = wind.new_tensor(GOAL)
        believed = {"known wind": wind, "as if there was none": torch.zeros_like(wind)}
        return {
            name: self.walk(tasks, episodes, rng, lambda at, _, w=w: goal - at - w)  # type: ignore[misc]
            for name, w in believed.items()
        }

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """The plane, the wind as a line from the origin, the goal in green, the agent in blue."""
        from precocial.envs.picture import Picture

        picture = Picture(size, half_width=1.6)
        picture.line([(0.0, 0.0), tuple((5 * tasks["wind"]).tolist())], colour="grey")
        picture.disc(torch.tensor(GOAL), radius=max(self.cfg.radius, 0.05), colour="green")
        picture.disc(state["position"], radius=0.04, colour="blue")
        return picture.pixels
