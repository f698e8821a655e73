"""Gymnasium's MountainCar-v0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from precocial.checks import positive
from precocial.envs.base import StandardConfig, State, TensorTaskEnv, uniform
from precocial.types import Split


@dataclass(frozen=True)
class MountainCarV0Config(StandardConfig):
    """Options of ``MountainCar-v0``."""

    gravity: float = 0.0025
    """Pull along the slope, per step squared."""
    force: float = 0.001
    """Of the engine, per step squared."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "gravity", "force")


class MountainCarV0(TensorTaskEnv):
    """Swing a weak car out of a valley: Gymnasium's task.

    Observation: position, velocity. Action: push left, not at all, right. Reward: -1 per step.
    Start: position in [-0.6, -0.4], still. End: position 0.5, or the horizon (200 steps). A single
    task; one step is Gymnasium's to 1e-6 (Moore 1990).
    """

    name = "MountainCar-v0"
    obs_dim = 2
    action_kind = "discrete"
    action_dim = 3
    num_tasks = 1
    low, high, max_speed, goal = -1.2, 0.6, 0.07, 0.5

    def __init__(self, cfg: MountainCarV0Config | None = None) -> None:
        cfg = cfg or MountainCarV0Config()
        super().__init__(cfg, cfg.horizon or 200)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Gravity and force, ``n`` times the same."""
        tasks = {
            k: torch.full((n,), getattr(self.cfg, k), device=rng.device)
            for k in ("gravity", "force")
        }
        return tasks | {"id": torch.zeros(n, dtype=torch.long, device=rng.device)}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """Near the bottom, still."""
        place = uniform(rng, lanes, -0.6, -0.4)
        return {"place": place, "speed": torch.zeros_like(place)}

    def transition(
        self, state: State, action: Int[Tensor, "n e"], tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> State:  # fmt: skip
        """One step; the left wall stops the car."""
        pull = torch.cos(3 * state["place"]) * tasks["gravity"]
        speed = state["speed"] + (action - 1) * tasks["force"] - pull
        speed = speed.clamp(-self.max_speed, self.max_speed)
        place = (state["place"] + speed).clamp(self.low, self.high)
        return {"place": place, "speed": torch.where(place <= self.low, speed.clamp(min=0), speed)}

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e 2"]:
        """Position and velocity."""
        return torch.stack([state["place"], state["speed"]], -1)

    def reward(
        self, state: State, action: Tensor, next_state: State, tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """-1."""
        return torch.full(self.lanes, -1.0, device=action.device)

    def terminal(self, state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """At the flag, not rolling back."""
        return (state["place"] >= self.goal) & (state["speed"] >= 0)

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """The hill, the flag and the car."""
        from precocial.envs.picture import Picture

        def at(x: float) -> tuple[float, float]:
            return x + 0.3, 0.45 * float(np.sin(3 * x)) - 0.1

        picture = Picture(size, half_width=1.0)
        picture.line([at(x) for x in np.linspace(self.low, self.high, 60)], "grey", 0.02)
        picture.line([at(self.goal), (self.goal + 0.3, at(self.goal)[1] + 0.2)], "green", 0.03)
        picture.disc(at(float(state["place"])), 0.06, "blue")
        return picture.pixels
