"""A 7-joint arm that carries a load, is stiff or has a dead joint (Nagabandi et al. 2019)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import torch
from jaxtyping import Float, Float64, Int, UInt8
from torch import Tensor

from precocial.envs.base import split_uniform, uniform
from precocial.envs.mujoco.breaking import BreakingConfig, BreakingTaskEnv
from precocial.envs.mujoco.state import Array, Physics, gymnasium_asset
from precocial.envs.picture import Picture
from precocial.types import Split

JOINTS = (
    "shoulder pan", "shoulder lift", "upper arm roll", "elbow flex", "forearm roll", "wrist flex",
    "wrist roll",
)  # fmt: skip
DEAD: dict[Split, tuple[int, ...]] = {"train": (0, 2, 4, 5, 6), "valid": (3,), "test": (1,)}
"""Which of the joints can be dead."""
HAND = "r_wrist_roll_link"
SHOULDER = (0.0, -0.6, 0.0)
"""On the axis about which the whole arm turns, m."""
LANDMARKS = ("r_shoulder_lift_link", "r_elbow_flex_link", "r_wrist_flex_link")
FINGERTIP = (0.1, 0.0, 0.0)
"""The point between the two tips, m, in the hand's frame."""


@dataclass(frozen=True)
class Arm7DofConfig(BreakingConfig):
    """Options of ``arm-7dof``."""

    horizon: int = 100
    """Time limit of an episode, in steps (H)."""


class Arm7Dof(BreakingTaskEnv):
    """Reach a point with an arm whose load, damping or joints are not what they were.

    Observation: 20 numbers: 7 joint angles (rad), 7 velocities (rad/s), the fingertip (x, y, z), m,
    then the target (x, y, z), m, which is a command.
    Action: 7 joint torques in [-1, 1] times 2 N m, clipped.
    Reward: -|fingertip - target| - 0.01 * |action|^2 per step of 0.05 s; m, after the step.
    Start: Gymnasium's: the arm stretched out, velocities +-0.005 rad/s. The target is new in every
    episode: 0.45 to 0.7 m from the shoulder joint, within 1 rad to either side of straight ahead,
    from 0.35 rad below the horizontal to 0.3 rad above it, which the arm can reach. Gymnasium's
    object stands 5 m aside, where the arm cannot touch it.
    End: the horizon (100 steps), never early.
    Task distribution: one of three kinds.
    Load: the hand's mass times U[1, 3], and a pull of U[0.1, 2] N down at the hand; there is no
    gravity otherwise. Damping: of every joint, times U[0, 2]. Dead: one joint without torque, of
    0, 2, 4, 5, 6 in training, 3 (elbow) in valid, 1 (shoulder lift) in test. Train, valid and test
    differ by construction: in the pull, or the first joint's damping, or the joint. ``shifted``:
    loads of mass times U[3, 4] with a pull of U[2, 2.5] N, as much as the shoulder can hold when
    the arm is stretched.
    Deviations: in the paper's code mass and pull are two kinds and the damping is U[0, 2] N m s
    itself; the goal stays the same.
    """

    name = "arm-7dof"
    model_file = "pusher_v5.xml"
    frame_skip = 5
    obs_dim = 20
    command_dim = 3

    def __init__(self, cfg: Arm7DofConfig | None = None) -> None:
        super().__init__(cfg or Arm7DofConfig())

    @staticmethod
    def reward_fn(
        obs: Float[Tensor, "*b o"], action: Float[Tensor, "*b a"], next_obs: Float[Tensor, "*b o"]
    ) -> Float[Tensor, "*b"]:
        """Minus the distance to the target, m, less the control cost."""
        away = next_obs[..., 14:17] - next_obs[..., 17:20]
        return -away.square().sum(-1).sqrt() - 0.01 * action.square().sum(-1)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Pull (n,), N; factors of hand mass (n,) and damping (n, 7); which joints obey (n, 7)."""
        sound = torch.ones(n, 7, device=rng.device)
        if split == "shifted":
            return {
                "pull": uniform(rng, (n,), 2.0, 2.5), "mass": uniform(rng, (n,), 3.0, 4.0),
                "damping": sound, "alive": sound,
            }  # fmt: skip
        kind = torch.randint(3, (n,), generator=rng, device=rng.device)
        load, stiff, broken = kind == 0, kind == 1, kind == 2
        pull, mass = split_uniform(rng, (n,), 0.1, 2.0, split), uniform(rng, (n,), 1.0, 3.0)
        damping = uniform(rng, (n, 7), 0.0, 2.0)
        damping[:, 0] = split_uniform(rng, (n,), 0.0, 2.0, split)
        joints = torch.tensor(DEAD[split], device=rng.device)
        joint = joints[torch.randint(len(joints), (n,), generator=rng, device=rng.device)]
        dead = torch.arange(7, device=rng.device) == joint[:, None]
        return {
            "pull": torch.where(load, pull, 0.0), "mass": torch.where(load, mass, 1.0),
            "damping": torch.where(stiff[:, None], damping, 1.0),
            "alive": torch.where(broken[:, None] & dead, 0.0, sound),
        }  # fmt: skip

    def load_model(self) -> Any:
        """Gymnasium's arm, all of it weightless should there be gravity."""
        spec = mujoco.MjSpec.from_file(gymnasium_asset(self.model_file))
        for body in spec.bodies[1:]:
            body.gravcomp = 1
        return spec.compile()

    def perturbed(self, task: dict[str, Array]) -> Any:
        """The pull is gravity that acts on the hand alone."""
        model = copy.copy(self.model)
        model.actuator_gear *= task["alive"][:, None]
        model.dof_damping[:7] *= task["damping"]
        hand = model.body(HAND).id
        model.body_mass[hand] *= task["mass"]
        model.body_inertia[hand] *= task["mass"]
        model.opt.gravity[2] = -9.81
        model.body_gravcomp[hand] = 1 - task["pull"] / (9.81 * model.body_mass[hand])
        mujoco.mj_setConst(model, mujoco.MjData(model))
        return model

    def begin(self, lanes: Int[Array, " k"], rng: torch.Generator) -> None:
        """A new target."""
        super().begin(lanes, rng)
        shape, device = (len(lanes), 3), rng.device
        draw = torch.rand(shape, generator=rng, dtype=torch.float64, device=device).cpu().numpy()
        distance, aside, above = ([0.45, -1, -0.35] + draw * [0.25, 2, 0.65]).T
        out = 0.1 + distance * np.cos(above)  # from the axis on which the shoulder turns
        offset = np.stack([out * np.cos(aside), out * np.sin(aside), distance * np.sin(above)], 1)
        self.target[lanes] = SHOULDER + offset

    def initial(
        self, num: int, rng: torch.Generator
    ) -> tuple[Float64[Array, "b q"], Float64[Array, "b v"]]:
        """Stretched out; the object stands aside."""
        draw = torch.rand(num, 7, generator=rng, dtype=torch.float64, device=rng.device)
        qpos, qvel = np.tile(self.model.qpos0, (num, 1)), np.zeros((num, self.model.nv))
        qpos[:, 7] = 5.0
        qvel[:, :7] = 0.01 * draw.cpu().numpy() - 0.005
        return qpos, qvel

    def observation(self, before: Physics, after: Physics) -> Float64[Array, "n e 20"]:
        """Angles, velocities, fingertip, target."""
        angles = after.qpos[..., :7]
        tip, target = self.points(angles)[-1], self.target.reshape(*self.lanes, 3)
        return np.concatenate([angles, after.qvel[..., :7], tip, target], -1)

    def points(self, angles: Float64[Array, "*b 7"]) -> list[Float64[Array, "*b 3"]]:
        """Where shoulder, elbow and wrist are, in metres, and last the fingertip."""
        model, found = self.model, []
        rotation, origin = np.eye(3), np.zeros(3)
        for body in range(1, model.body(HAND).id + 1):
            origin = origin + rotation @ model.body_pos[body]
            for joint in np.flatnonzero(model.jnt_bodyid == body):
                rotation = rotation @ rotations(model.jnt_axis[joint], angles[..., joint])
            if model.body(body).name in LANDMARKS:
                found.append(origin)
        return [*found, origin + rotation @ np.array(FINGERTIP)]

    def caption(self, task: dict[str, Array]) -> str:
        """What is wrong with the arm."""
        if task["pull"] > 0:
            return f"pull of {task['pull']:.2f} N, hand {task['mass']:.1f} x as heavy"
        if (task["alive"] == 0).any():
            return " and ".join(JOINTS[i] for i in np.flatnonzero(task["alive"] == 0)) + " dead"
        return f"damping x {task['damping'].min():.1f} to {task['damping'].max():.1f}"

    def render(self, task: int, lane: int) -> UInt8[Array, "h w 3"]:
        """The lane as it stands, from above and from the side, 640 x 320; never by OpenGL."""
        index = task * self.lanes[1] + lane
        points = [SHOULDER, *self.points(self.state[index, 1:8])]
        views = []
        for title, vertical, middle in (("from above", 1, -0.6), ("from the side", 2, 0.0)):
            picture = Picture(320, 0.9)
            if vertical == 2:
                picture.line([(-0.9, -0.325), (0.9, -0.325)], "grey", 0.01)  # the table
            places = [(p[0] - 0.3, p[vertical] - middle) for p in (*points, self.target[index])]
            for link, width in enumerate((0.1, 0.09, 0.07, 0.04)):
                picture.line(places[link : link + 2], "sky" if link % 2 else "blue", width)
            picture.disc(places[-1], 0.04, "red")
            picture.disc(places[-2], 0.025, "orange")
            picture.text((0.0, -0.8), title)
            views.append(picture)
        views[0].text((0.0, 0.8), self.lane_caption(task, lane))
        return np.concatenate([view.pixels for view in views], 1)

    # ---- inside ---------------------------------------------------------------------------

    def _allocate(self, num: int) -> None:
        super()._allocate(num)
        self.target = np.zeros((num, 3))


def rotations(axis: Float64[Array, "3"], angle: Float64[Array, "*b"]) -> Float64[Array, "*b 3 3"]:
    """Rotation matrices about a unit axis (Rodrigues); angles in radians."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    sin, cos = np.sin(angle)[..., None, None], np.cos(angle)[..., None, None]
    return np.eye(3) + sin * cross + (1 - cos) * cross @ cross
