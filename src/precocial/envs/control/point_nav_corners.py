"""2-D navigation to one of four corners; only near it is a reward (Rothfuss et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from precocial.envs.base import EnvConfig, State
from precocial.envs.control.point_nav import Point
from precocial.seeding import rand
from precocial.types import Split, Tasks, UserError

CORNERS = ((2.0, 2.0), (-2.0, 2.0), (-2.0, -2.0), (2.0, -2.0))
"""Metres."""
SOLVED = 0.75
"""Distance from the corner, in metres, within which an episode is to end."""


@dataclass(frozen=True)
class PointNavCornersConfig(EnvConfig):
    """Options of ``point-nav-corners``."""

    horizon: int = 100
    """Time limit of an episode, in steps (H)."""
    radius: float = 1.0
    """Distance from the corner, in metres, within which there is a reward. At 2 m some of twenty
    random walks finds it in nearly every task, at 1 m in half of them."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        if not 0 < self.radius < 2.8:  # beyond, the centre is near every corner
            raise UserError(f"--env-radius is {self.radius}; expected metres between 0 and 2.8")


class PointNavCorners(Point):
    """Find out in which of four corners the reward is.

    Observation: position (x, y) in metres. Action: velocity, 0.2 metres per step at +-1, clipped.
    Reward: the radius less the distance to the corner, where that is above 0. Start: U[-0.2, 0.2]^2
    m. End: the horizon (100 steps). Success: the episode ends within 0.75 m of the corner. Task
    distribution: the corners (+-2, +-2) m, all four in every split.

    Deviation from ProMP's environment: there the reward is progress, beyond half a metre from the
    start and on the side of the corner alone.
    """

    name = "point-nav-corners"
    action_low, action_high = (-0.2, -0.2), (0.2, 0.2)
    num_tasks = len(CORNERS)
    cfg: PointNavCornersConfig

    def __init__(self, cfg: PointNavCornersConfig | None = None) -> None:
        super().__init__(cfg or PointNavCornersConfig(), (cfg or PointNavCornersConfig()).horizon)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Corners (n, 2), each as often as can be."""
        first = torch.randint(self.num_tasks, (), generator=rng, device=rng.device)
        number = (torch.arange(n, device=rng.device) + first) % self.num_tasks
        return {"goal": torch.tensor(CORNERS, device=rng.device)[number], "id": number}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """About the centre."""
        position = 0.4 * rand((*lanes, 2), rng) - 0.2
        return {"position": position, "steps": torch.zeros(lanes, device=rng.device)}

    def transition(
        self, state: State, action: Tensor, tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """Positions add up velocities."""
        return {"position": state["position"] + action, "steps": state["steps"] + 1}

    def reward(
        self, state: State, action: Tensor, next_state: State, tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """The radius less the distance, not below 0."""
        return (self.cfg.radius - self.distance(next_state, tasks)).clamp(min=0)

    def success(self, next_state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """Near the corner when time is up."""
        last = next_state["steps"] >= self.spec.horizon
        return last & (self.distance(next_state, tasks) < SOLVED)

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Straight to the corner; and always to the first one, the best of the blind."""
        known = tasks.params["goal"].unsqueeze(1)
        first = torch.tensor(CORNERS[0], device=known.device).expand_as(known)
        return {
            name: self.walk(tasks, episodes, rng, lambda at, _, goal=goal: goal - at)  # type: ignore[misc]
            for name, goal in {"known corner": known, "always one corner": first}.items()
        }

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """The plane, where there is a reward in green, the agent in blue."""
        from precocial.envs.picture import Picture

        picture = Picture(size, half_width=3.2)
        picture.square(2.0)
        picture.disc(tasks["goal"], radius=self.cfg.radius, colour="green")
        picture.disc(state["position"], radius=0.08, colour="blue")
        return picture.pixels
