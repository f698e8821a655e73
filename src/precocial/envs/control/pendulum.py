"""Pendulum swing-up with a hidden mass (RLlib's PendulumMass)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from precocial.envs.base import EnvConfig, State, TensorTaskEnv, split_uniform, uniform
from precocial.threads import alone
from precocial.types import Split


@dataclass(frozen=True)
class PendulumMassConfig(EnvConfig):
    """Options of ``pendulum-mass``."""

    horizon: int = 200
    """Time limit of an episode, in steps of 0.05 s (H)."""


class PendulumMass(TensorTaskEnv):
    """Swing up and hold a pendulum whose mass is hidden.

    Observation: cos and sin of the angle (0 is upright), angular velocity (rad/s). Action: torque,
    +-2 N m at +-1. Reward: -(angle^2 + 0.1 velocity^2 + 0.001 torque^2) at the start of the step.
    Start: angle in +-pi, velocity in +-1. End: the horizon (200 steps), never earlier.
    Task distribution: mass ~ U[0.5, 2] kg; ``shifted`` U[2, 3] kg.
    Dynamics: Gymnasium's Pendulum (g 10 m/s^2, length 1 m, 0.05 s, speed within +-8 rad/s).
    """

    name = "pendulum-mass"
    obs_dim = 3
    action_dim = 1
    action_low = (-2.0,)
    action_high = (2.0,)
    gravity, length, time_step, max_speed = 10.0, 1.0, 0.05, 8.0

    def __init__(self, cfg: PendulumMassConfig | None = None) -> None:
        super().__init__(cfg or PendulumMassConfig(), (cfg or PendulumMassConfig()).horizon)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Masses (n,), kg."""
        mass = split_uniform(rng, (n,), 0.5, 2.0, split)
        return {"mass": uniform(rng, (n,), 2.0, 3.0) if split == "shifted" else mass}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """Any angle, slow."""
        return {
            "angle": uniform(rng, lanes, -np.pi, np.pi),
            "speed": uniform(rng, lanes, -1, 1),
        }

    def transition(
        self, state: State, action: Float[Tensor, "n e 1"], tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> State:  # fmt: skip
        """Semi-implicit Euler."""
        pull = 3 * self.gravity / (2 * self.length) * torch.sin(state["angle"])
        twist = 3 / (tasks["mass"] * self.length**2) * action.squeeze(-1)
        speed = state["speed"] + (pull + twist) * self.time_step
        speed = speed.clamp(-self.max_speed, self.max_speed)
        return {"angle": state["angle"] + speed * self.time_step, "speed": speed}

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e 3"]:
        """cos, sin, angular velocity."""
        angle = state["angle"]
        return torch.stack([torch.cos(angle), torch.sin(angle), state["speed"]], -1)

    @staticmethod
    def reward_fn(
        obs: Float[Tensor, "*b 3"], action: Float[Tensor, "*b 1"], next_obs: Float[Tensor, "*b 3"]
    ) -> Float[Tensor, "*b"]:
        """Upright, still and without effort is best; the action in [-1, 1]."""
        angle = alone(torch.atan2, obs[..., 1], obs[..., 0])
        torque = PendulumMass.action_high[0] * action.squeeze(-1)
        return -(angle.square() + 0.1 * obs[..., 2].square() + 0.001 * torque.square())

    def reward(
        self, state: State, action: Float[Tensor, "n e 1"], next_state: State,
        tasks: dict[str, Tensor], rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """See ``reward_fn``."""
        before, after = (self.observation(x, tasks) for x in (state, next_state))
        return self.reward_fn(before, action / self.action_high[0], after)

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """The rod, thicker when heavier."""
        from precocial.envs.picture import Picture

        angle = float(state["angle"])
        tip = (-np.sin(angle), np.cos(angle))
        picture = Picture(size, half_width=1.3)
        picture.line([(0, 0), tip], "orange", 0.08)
        picture.disc(tip, 0.1 * float(tasks["mass"]) ** 0.5, "blue")
        picture.disc((0, 0), 0.05, "grey")
        return picture.pixels
