"""Gymnasium's Acrobot-v1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from precocial.checks import positive
from precocial.envs.base import StandardConfig, State, TensorTaskEnv, uniform
from precocial.types import Split


@dataclass(frozen=True)
class AcrobotV1Config(StandardConfig):
    """Options of ``Acrobot-v1``."""

    mass: float = 1.0
    """Of the outer link, kg."""
    torque: float = 1.0
    """Of the motor, N m."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "mass", "torque")


class AcrobotV1(TensorTaskEnv):
    """Swing two links up by the joint between them: Gymnasium's task.

    Observation: cos and sin of the first angle (0 hangs down), the same of the second, relative to
    the first, and their velocities (rad/s). Action: torque -1, 0 or +1 N m. Reward: -1 per step, 0
    for the last. Start: angles and velocities in +-0.1. End: the tip one link above the hinge, or
    the horizon (500 steps). A single task. Dynamics: Sutton and Barto's book, fourth-order
    Runge-Kutta over 0.2 s, velocities within 4 pi and 9 pi; one step is Gymnasium's to 1e-5
    relative (Sutton 1996).
    """

    name = "Acrobot-v1"
    obs_dim = 6
    action_kind = "discrete"
    action_dim = 3
    num_tasks = 1
    time_step, gravity, max_speeds = 0.2, 9.8, (4 * math.pi, 9 * math.pi)

    def __init__(self, cfg: AcrobotV1Config | None = None) -> None:
        cfg = cfg or AcrobotV1Config()
        super().__init__(cfg, cfg.horizon or 500)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Mass and torque, ``n`` times the same."""
        tasks = {
            k: torch.full((n,), getattr(self.cfg, k), device=rng.device) for k in ("mass", "torque")
        }
        return tasks | {"id": torch.zeros(n, dtype=torch.long, device=rng.device)}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """Hanging, all but still: two angles, two velocities."""
        return {"s": uniform(rng, (*lanes, 4), -0.1, 0.1)}

    def transition(
        self, state: State, action: Int[Tensor, "n e"], tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> State:  # fmt: skip
        """One Runge-Kutta step."""
        s, dt, torque = state["s"], self.time_step, (action - 1) * tasks["torque"]
        k1 = self._derivative(s, torque, tasks["mass"])
        k2 = self._derivative(s + dt / 2 * k1, torque, tasks["mass"])
        k3 = self._derivative(s + dt / 2 * k2, torque, tasks["mass"])
        k4 = self._derivative(s + dt * k3, torque, tasks["mass"])
        s = s + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        angles, speeds = s[..., :2], s[..., 2:]
        turns = (angles < -math.pi).to(s) - (angles > math.pi).to(s)
        most = torch.tensor(self.max_speeds, device=s.device)
        speeds = torch.minimum(torch.maximum(speeds, -most), most)
        return {"s": torch.cat([angles + 2 * math.pi * turns, speeds], -1)}

    def _derivative(
        self, s: Float[Tensor, "n e 4"], torque: Float[Tensor, "n e"], mass: Float[Tensor, "n 1"]
    ) -> Float[Tensor, "n e 4"]:
        """Of angles and velocities; links of 1 m, their centres halfway, inertia 1 kg m^2 each."""
        angle1, angle2, speed1, speed2 = s.unbind(-1)
        cos2, sin2 = torch.cos(angle2), torch.sin(angle2)
        d1 = 0.25 + mass * (1.25 + cos2) + 2
        d2 = mass * (0.25 + 0.5 * cos2) + 1
        phi2 = mass * 0.5 * self.gravity * torch.sin(angle1 + angle2)
        phi1 = (
            -mass * 0.5 * (speed2.square() + 2 * speed2 * speed1) * sin2
            + (0.5 + mass) * self.gravity * torch.sin(angle1)
            + phi2
        )
        rest = torque + d2 / d1 * phi1 - mass * 0.5 * speed1.square() * sin2 - phi2
        rate2 = rest / (mass * 0.25 + 1 - d2.square() / d1)
        rate1 = -(d2 * rate2 + phi1) / d1
        return torch.stack([speed1, speed2, rate1, rate2], -1)

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e 6"]:
        """Cosines, sines and velocities."""
        angle1, angle2, *speeds = state["s"].unbind(-1)
        cos_sin = [f(x) for x in (angle1, angle2) for f in (torch.cos, torch.sin)]
        return torch.stack([*cos_sin, *speeds], -1)

    def reward(
        self, state: State, action: Tensor, next_state: State, tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """-1 until the end."""
        return self.terminal(next_state, tasks).float() - 1

    def terminal(self, state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """The tip is up."""
        angle1, angle2 = state["s"][..., 0], state["s"][..., 1]
        return -torch.cos(angle1) - torch.cos(angle1 + angle2) > 1.0

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """Both links, and the height to reach."""
        from precocial.envs.picture import Picture

        angle1, angle2 = state["s"][..., :2].tolist()
        elbow = (math.sin(angle1), -math.cos(angle1))
        tip = (elbow[0] + math.sin(angle1 + angle2), elbow[1] - math.cos(angle1 + angle2))
        picture = Picture(size, half_width=2.2)
        picture.line([(-2.2, 1.0), (2.2, 1.0)], "green", 0.03)
        picture.line([(0.0, 0.0), elbow, tip], "orange", 0.12)
        picture.disc(elbow, 0.1, "grey")
        picture.disc((0.0, 0.0), 0.1, "grey")
        return picture.pixels
