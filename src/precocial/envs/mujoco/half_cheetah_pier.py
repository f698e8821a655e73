"""HalfCheetah on a pier of floating blocks (Nagabandi et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import torch
from jaxtyping import Float
from torch import Tensor

from precocial.envs.base import split_uniform, uniform
from precocial.envs.mujoco.breaking import BreakingConfig, OtherGround
from precocial.envs.mujoco.state import Array
from precocial.types import Split, Tasks

EDGES = (-1000, -2, 2, 6, 10, 14, 18, 22, 1000)
"""Where each of the eight blocks begins and the last ends, m."""
THICK = 0.1
"""Metres from a block's top to its bottom."""


@dataclass(frozen=True)
class HalfCheetahPierConfig(BreakingConfig):
    """Options of ``half-cheetah-pier``."""


class HalfCheetahPier(OtherGround):
    """Run forward over floating blocks that give way below the feet.

    Observation: 18 numbers: Gymnasium's 17, positions (m, rad) without x, then velocities; last the
    mean forward velocity during the last step, m/s. It tells nothing of the blocks.
    Action: 6 joint torques in [-1, 1] times the joint's gear, clipped.
    Reward: forward velocity - 0.05 * |action|^2 per step of 0.05 s; m/s, actions in [-1, 1].
    Start: standing on the second block, with Gymnasium's noise; the blocks at rest. End: the
    horizon (500 steps), never early.
    Task distribution: damping of each of the eight blocks ~ U[0, 10] N s/m; ``shifted`` U[10, 15].
    The second block's train, valid and test dampings differ by construction: the robot starts on
    it. All blocks weigh 10 kg and hang on springs of 150 N/m between stops at +-0.15 m, as in the
    paper's code; they are 4 m long from 2 m behind the start to 22 m ahead of it, and the first and
    the last go on from there for ever.
    Deviations: the robot weighs Gymnasium's 14 kg (there robot and blocks weigh 14 kg together),
    and the blocks float at the plane's height while nobody stands on them (there they sag under
    their weight).

    A pier that comes amid an episode begins its second block 2 m behind the robot.
    """

    name = "half-cheetah-pier"

    def __init__(self, cfg: HalfCheetahPierConfig | None = None) -> None:
        super().__init__(cfg or HalfCheetahPierConfig())

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Dampings of the blocks (n, 8), N s/m."""
        if split == "shifted":
            return {"damping": uniform(rng, (n, 8), 10.0, 15.0)}
        damping = uniform(rng, (n, 8), 0.0, 10.0)
        damping[:, 1] = split_uniform(rng, (n,), 0.0, 10.0, split)
        return {"damping": damping}

    def add_ground(self, spec: mujoco.MjSpec) -> None:
        """Eight blocks whose weight the water carries."""
        for number, (start, end) in enumerate(zip(EDGES, EDGES[1:], strict=False)):
            middle, half = (start + end) / 2, (end - start) / 2
            block = spec.worldbody.add_body(
                name=f"block {number}", pos=[middle, 0, -THICK / 2], gravcomp=1
            )
            block.add_joint(
                name=f"block {number}", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, 0, 1],
                stiffness=150, range=[-0.15, 0.15],
            )  # fmt: skip
            block.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX, size=[half, 1, THICK / 2], mass=10, conaffinity=1,
                contype=0,
            )  # fmt: skip

    def perturbed(self, task: dict[str, Array]) -> Any:
        """The blocks take the plane's place."""
        model = self.touchable()
        model.dof_damping[9:] = task["damping"]
        return model

    def come_into_force(self, model: Any, lane: int) -> Any:
        """The blocks, moved to where the robot is; if it is on a pier already, that one stays."""
        known, model = self.models[lane], super().come_into_force(model, lane)
        if known is not self.model:
            model.body_pos[self.ground] = known.body_pos[self.ground]
        return model

    def task_features(self, tasks: Tasks) -> Float[Tensor, "n d"]:
        """The dampings on the scale of one."""
        return super().task_features(tasks) / 10

    def caption(self, task: dict[str, Array]) -> str:
        """That it is a pier."""
        return f"pier, damping {task['damping'].min():.0f} to {task['damping'].max():.0f} N s/m"
