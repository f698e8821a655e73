"""HalfCheetah that must run in a direction or at a speed it is not told (Finn et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from precocial.envs.base import split_uniform, uniform
from precocial.envs.mujoco.base import MujocoConfig, MujocoTaskEnv
from precocial.envs.mujoco.state import Array, Physics, noisy_start
from precocial.types import Split, UserError


@dataclass(frozen=True)
class HalfCheetahDirConfig(MujocoConfig):
    """Options of ``half-cheetah-dir``."""

    ctrl_cost: float = 0.05
    """Weight of the control cost: reward lost per step per squared unit of action in [-1, 1]."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        if not 0 <= self.ctrl_cost < float("inf"):
            raise UserError(f"--env-ctrl-cost is {self.ctrl_cost}; expected 0 or more")


@dataclass(frozen=True)
class HalfCheetahVelConfig(HalfCheetahDirConfig):
    """Options of ``half-cheetah-vel``."""

    velocity_max: float = 2.0
    """Target velocities are uniform from 0 to this, in m/s; shifted ones up to 1.5 x."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        if not 0 < self.velocity_max < float("inf"):
            raise UserError(f"--env-velocity-max is {self.velocity_max}; expected m/s above 0")


class HalfCheetah(MujocoTaskEnv):
    """What both families share; they add their tasks and ``running_reward``."""

    model_file = "half_cheetah.xml"
    frame_skip = 5
    obs_dim = 17
    cfg: HalfCheetahDirConfig

    def running_reward(
        self, velocity: Float64[Array, "n e"], tasks: dict[str, Array]
    ) -> Float64[Array, "n e"]:
        """Reward for the mean forward velocity during the step, m/s."""
        raise NotImplementedError

    def initial(
        self, num: int, rng: torch.Generator
    ) -> tuple[Float64[Array, "b q"], Float64[Array, "b v"]]:
        """Gymnasium's start: standing, positions +- 0.1 uniform, velocities normal with std 0.1."""
        return noisy_start(self.model.qpos0, self.model.nv, num, rng)

    def observation(self, before: Physics, after: Physics) -> Float64[Array, "n e 17"]:
        """Positions without x, then velocities."""
        return np.concatenate([after.qpos[..., 1:], after.qvel], -1)

    def reward(
        self, before: Physics, after: Physics, action: Float64[Array, "n e a"],
        tasks: dict[str, Array],
    ) -> Float64[Array, "n e"]:  # fmt: skip
        """Running reward less the control cost."""
        running = self.running_reward(self.velocity(before, after), tasks)
        return running - self.cfg.ctrl_cost * np.einsum("nea,nea->ne", action, action)

    def info(self, before: Physics, after: Physics) -> dict[str, Float64[Array, "n e"]]:
        """Forward velocity, m/s."""
        return {"forward_velocity": self.velocity(before, after)}

    def velocity(self, before: Physics, after: Physics) -> Float64[Array, "n e"]:
        """Mean forward velocity of the torso during the step, m/s."""
        return (after.qpos[..., 0] - before.qpos[..., 0]) / self.dt


class HalfCheetahDir(HalfCheetah):
    """Run forward or backward, whichever the hidden direction says.

    Observation: 17 numbers as in Gymnasium: positions (m, rad) without x, then velocities.
    Action: 6 joint torques in [-1, 1] times the joint's gear, clipped.
    Reward: d * velocity - 0.05 * |action|^2 per step of 0.05 s; m/s, actions in [-1, 1].
    Start: standing, with Gymnasium's noise. End: the horizon (100 steps), never early.
    Task distribution: d = -1 (id 0, backward) or +1 (id 1, forward); more than one task take turns,
    from a random first. Two tasks are all there is: train and test tasks are the same.
    """

    name = "half-cheetah-dir"
    num_tasks = 2

    def __init__(self, cfg: HalfCheetahDirConfig | None = None) -> None:
        super().__init__(cfg or HalfCheetahDirConfig())

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Directions (n,), -1 or +1, as balanced as n allows."""
        first = torch.randint(2, (), generator=rng, device=rng.device)
        forward = (torch.arange(n, device=rng.device) + first) % 2
        return {"direction": 2.0 * forward - 1.0, "id": forward}

    def running_reward(
        self, velocity: Float64[Array, "n e"], tasks: dict[str, Array]
    ) -> Float64[Array, "n e"]:
        """Velocity in the wanted direction, m/s."""
        return tasks["direction"] * velocity

    def caption(self, task: dict[str, Array]) -> str:
        """Which way to run."""
        return "run forward" if task["direction"] > 0 else "run backward"


class HalfCheetahVel(HalfCheetah):
    """Run forward at a hidden velocity.

    Observation, action, start and end: as ``half-cheetah-dir``.
    Reward: -|velocity - target| - 0.05 * |action|^2 per step of 0.05 s; m/s, actions in [-1, 1].
    Task distribution: target ~ U[0, 2] m/s; ``shifted`` U[2, 3] m/s. Train, valid and test targets
    differ by construction.
    """

    name = "half-cheetah-vel"
    cfg: HalfCheetahVelConfig

    def __init__(self, cfg: HalfCheetahVelConfig | None = None) -> None:
        super().__init__(cfg or HalfCheetahVelConfig())

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Target velocities (n,), m/s."""
        top = self.cfg.velocity_max
        if split == "shifted":
            return {"velocity": uniform(rng, (n,), top, 1.5 * top)}
        return {"velocity": split_uniform(rng, (n,), 0.0, top, split)}

    def running_reward(
        self, velocity: Float64[Array, "n e"], tasks: dict[str, Array]
    ) -> Float64[Array, "n e"]:
        """Minus the distance to the wanted velocity, m/s."""
        return -np.abs(velocity - tasks["velocity"])

    def caption(self, task: dict[str, Array]) -> str:
        """How fast to run."""
        return f"run at {task['velocity']:.2f} m/s"
