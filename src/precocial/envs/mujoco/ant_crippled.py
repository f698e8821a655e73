"""Ant one of whose legs is crippled (Nagabandi et al. 2019)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from precocial.envs.mujoco.breaking import BreakingConfig, BreakingRunner, draw_broken
from precocial.envs.mujoco.state import Array, Physics, noisy_start
from precocial.types import Split

LEGS = ("front left", "back left", "back right", "front right")
"""Seen by the ant, which walks along x; Gymnasium's joints call them 1 to 4."""
CRIPPLED: dict[Split, tuple[tuple[int, ...], ...]] = {
    "train": ((0,), (1,)), "valid": ((2,),), "test": ((3,),), "shifted": ((0, 3),),
}  # fmt: skip


def unhealthy(next_obs: Float[Tensor, "*b o"]) -> Bool[Tensor, "*b"]:
    """The torso left 0.2 to 1 m, or something is not finite."""
    height = next_obs[..., 0]
    return ~((height >= 0.2) & (height <= 1.0) & next_obs.isfinite().all(-1))


@dataclass(frozen=True)
class AntCrippledConfig(BreakingConfig):
    """Options of ``ant-crippled``."""

    terminate_when_unhealthy: bool = True
    """End the episode when the torso leaves 0.2 to 1 m. Without, an ant that fell or jumped goes
    on to the horizon, as in the paper's code, and so lives until its leg fails."""


class AntCrippled(BreakingRunner):
    """Walk forward with a leg that is short and does not obey.

    Observation: 28 numbers: Gymnasium's 27, positions (m, quaternion, rad) without x and y, then
    velocities; last the mean forward velocity during the last step, m/s. No contact forces.
    Action: 8 joint torques in [-1, 1] times 150 N m, clipped; those of the crippled leg have no
    effect.
    Reward: forward velocity + 0.05 per step of 0.05 s; m/s, no control cost.
    Start: standing, with Gymnasium's noise. End: the torso is below 0.2 m or above 1 m, which is
    termination if ``terminate_when_unhealthy``, or the horizon (500 steps).
    Task distribution: one leg (id) of 0 and 1 in training, 2 in valid, 3 in test; legs 0 and 3, id
    4, in ``shifted``. Both moving parts of the leg shrink to half their length and thickness
    towards their joints; their mass stays.
    Deviations: the paper's code trains on leg 2 as well, which here is valid's own, and its ant
    does not stop when it falls: ``terminate_when_unhealthy=False``.
    """

    name = "ant-crippled"
    split_sizes = tuple((split, len(sets)) for split, sets in CRIPPLED.items())
    model_file = "ant.xml"
    frame_skip = 5
    obs_dim = 28

    def __init__(self, cfg: AntCrippledConfig | None = None) -> None:
        cfg = cfg or AntCrippledConfig()
        self.terminal_fn = unhealthy if cfg.terminate_when_unhealthy else None
        super().__init__(cfg)

    @staticmethod
    def reward_fn(
        obs: Float[Tensor, "*b o"], action: Float[Tensor, "*b a"], next_obs: Float[Tensor, "*b o"]
    ) -> Float[Tensor, "*b"]:
        """Mean forward velocity during the step, m/s, and a little for being alive."""
        return next_obs[..., -1] + 0.05

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Which legs obey, (n, 4) of 0 and 1."""
        sound, ids = draw_broken(CRIPPLED[split], 4, n, rng)
        return {"sound": sound, "id": ids}

    def perturbed(self, task: dict[str, Array]) -> Any:
        """A crippled leg gets no torque, and hip and ankle carry half the capsule they did."""
        model = copy.copy(self.model)
        for leg in np.flatnonzero(task["sound"] == 0):
            for name in (f"hip_{leg + 1}", f"ankle_{leg + 1}"):
                joint = model.joint(name)
                model.actuator_gear[model.actuator_trnid[:, 0] == joint.id] = 0.0
                geom = model.body_geomadr[model.jnt_bodyid[joint.id]]
                model.geom_size[geom] /= 2
                model.geom_pos[geom] /= 2
                model.geom_sameframe[geom] = 0  # else MuJoCo leaves it at the centre of mass
        return model

    def initial(
        self, num: int, rng: torch.Generator
    ) -> tuple[Float64[Array, "b q"], Float64[Array, "b v"]]:
        """Gymnasium's start: standing, positions +- 0.1 uniform, velocities normal with std 0.1."""
        return noisy_start(self.model.qpos0, self.model.nv, num, rng)

    def observation(self, before: Physics, after: Physics) -> Float64[Array, "n e 28"]:
        """Positions without x and y, velocities, mean forward velocity."""
        velocity = self.velocity(before, after)[..., None]
        return np.concatenate([after.qpos[..., 2:], after.qvel, velocity], -1)

    def caption(self, task: dict[str, Array]) -> str:
        """Which legs are crippled."""
        return " and ".join(LEGS[i] for i in np.flatnonzero(task["sound"] == 0)) + " leg crippled"
