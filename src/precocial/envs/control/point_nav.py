"""2-D navigation to a hidden goal (Finn et al. 2017, Sec. 5.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor

from precocial.envs.base import EnvConfig, State, TensorTaskEnv, split_uniform
from precocial.envs.views import PICTURE, View, check_view, on_plane
from precocial.types import Split, Tasks, UserError


@dataclass(frozen=True)
class PointNavConfig(EnvConfig):
    """Options of ``point-nav``."""

    horizon: int = 100
    """Time limit of an episode, in steps (H)."""
    goal_range: float = 0.5
    """Goals are uniform on the square of this half width, in metres; shifted ones up to 1.5 x."""
    view: View = "vector"
    """What is seen: the position, or a picture of the agent on the plane, 64 x 64 in colour."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        check_view(self.view, get_args(View))
        if not 0 < self.goal_range < float("inf"):
            raise UserError(f"--env-goal-range is {self.goal_range}; expected metres above 0")


def on_square(
    n: int, half_width: float, split: Split, rng: torch.Generator, further: float = 0.5
) -> Float[Tensor, "n 2"]:
    """Uniform on a square; ``shifted`` ones outside of it, up to a share of it further."""
    point = split_uniform(rng, (n, 2), -half_width, half_width, split)
    if split == "shifted":  # push the larger coordinate out of the training square
        scale = 1 + further * torch.rand((n, 1), generator=rng, device=rng.device)
        point = point / point.abs().amax(-1, keepdim=True) * half_width * scale
    return point


class Point(TensorTaskEnv):
    """A point on a plane, whose action is its velocity and whose reward how near its goal is."""

    obs_dim = 2
    action_dim = 2
    action_low = (-0.1, -0.1)
    action_high = (0.1, 0.1)

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """The origin."""
        return {"position": torch.zeros(*lanes, 2, device=rng.device)}

    def transition(
        self, state: State, action: Tensor, tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """Positions add up velocities."""
        return {"position": state["position"] + action}

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Shaped[Tensor, "n e o"]:
        """The position."""
        return state["position"]

    def distance(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e"]:
        """To the goal, metres."""
        return (state["position"] - tasks["goal"]).square().sum(-1).sqrt()

    def reward(
        self, state: State, action: Tensor, next_state: State, tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """Minus the distance left, metres."""
        return -self.distance(next_state, tasks)

    def walk(
        self, tasks: Tasks, episodes: int, rng: torch.Generator,
        action: Callable[[Float[Tensor, "n k 2"], int], Float[Tensor, "n k 2"]],
    ) -> Float[Tensor, "n k"]:  # fmt: skip
        """Returns of episodes whose actions are a function of the position and of the time."""
        lanes, params = (tasks.num, episodes), {k: v.unsqueeze(1) for k, v in tasks.params.items()}
        state = self.initial(lanes, params, rng)
        total = torch.zeros(lanes, device=rng.device)
        for time in range(self.spec.horizon):
            top = self.action_high[0]
            velocity = action(state["position"], time).clamp(-top, top)
            following = self.transition(state, velocity, params, rng)
            total = total + self.reward(state, velocity, following, params, rng)
            state = following
        return total


class PointNav(Point):
    """Reach a hidden goal on a plane.

    Observation: position (x, y) in metres, or with ``view`` picture the plane to 1.6 x the goals'
    range, where the agent is a disc. Action: velocity, 0.1 metres per step at +-1, clipped.
    Reward: minus the distance to the goal after the step, in metres. Start: the origin.
    End: both axes within 0.01 m of the goal, or the horizon (100 steps).
    Task distribution: goal ~ U[-0.5, 0.5]^2 m; ``shifted`` goals lie outside that square, up to
    0.75 m. Train, valid and test goals differ by construction.
    """

    name = "point-nav"

    def __init__(self, cfg: PointNavConfig | None = None) -> None:
        cfg = cfg or PointNavConfig()
        self.goal_range = cfg.goal_range
        if cfg.view == "picture":
            self.picture, self.obs_dim = PICTURE, PICTURE.size
        super().__init__(cfg, cfg.horizon)

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Shaped[Tensor, "n e o"]:
        """The position, or a picture."""
        if not self.picture:
            return state["position"]
        return on_plane(state["position"], 1.6 * self.goal_range)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Goals (n, 2), metres."""
        return {"goal": on_square(n, self.goal_range, split, rng)}

    def terminal(self, state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """Within 0.01 m on both axes."""
        return ((state["position"] - tasks["goal"]).abs() < 0.01).all(-1)

    def success(self, next_state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """Reached the goal."""
        return self.terminal(next_state, tasks)

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """The plane, the goal as a green disc, the agent as a blue one."""
        from precocial.envs.picture import Picture

        picture = Picture(size, half_width=1.6 * self.goal_range)
        picture.square(self.goal_range)
        picture.disc(tasks["goal"], radius=0.05 * self.goal_range, colour="green")
        picture.disc(state["position"], radius=0.04 * self.goal_range, colour="blue")
        return picture.pixels
