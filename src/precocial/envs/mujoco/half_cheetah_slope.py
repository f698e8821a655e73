"""HalfCheetah on slopes that it cannot see (Nagabandi et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from precocial.envs.base import split_uniform, uniform
from precocial.envs.mujoco.breaking import BreakingConfig, OtherGround
from precocial.envs.mujoco.state import Array
from precocial.types import Split

COLUMNS, REACH = 500, 50.0
"""The height field's columns, and the metres it reaches to either side of its origin."""
FIRST = 255
"""The column at which the first ramp begins, 1.1 m ahead of the origin."""
TALLEST = 4.0
"""Metres between the lowest and the highest point that the height field can hold."""
NAMED: dict[Split, tuple[tuple[tuple[int, ...], float], ...]] = {
    "test": (((1, -1, 0, 0, 0, 0), 0.6), ((-1, 1, 0, 0, 0, 0), 0.55), ((1,) * 6, 1.0)),
    "shifted": (((1,) * 6, 4.0),),
}  # fmt: skip
"""Slopes of the ramps, and height (m), of hill, basin and gentle, and of steep."""


@dataclass(frozen=True)
class HalfCheetahSlopeConfig(BreakingConfig):
    """Options of ``half-cheetah-slope``."""


class HalfCheetahSlope(OtherGround):
    """Run forward over hidden slopes.

    Observation: 18 numbers: Gymnasium's 17, positions (m, rad) without x, then velocities; last the
    mean forward velocity during the last step, m/s. The height is the torso's own, not that above
    the ground.
    Action: 6 joint torques in [-1, 1] times the joint's gear, clipped.
    Reward: forward velocity - 0.05 * |action|^2 per step of 0.05 s; m/s, actions in [-1, 1].
    Start: standing on level ground, with Gymnasium's noise. End: the horizon (500 steps), never
    early.
    Task distribution: six ramps follow each other, 10 columns (2 m) each, from 1.1 m ahead. Their
    slopes are U[0.2, 0.6], the first two up, the others up or down. As in the paper's code, only
    the ratios of the slopes count: the ground is scaled to span U[0.2, 1] m between its lowest and
    its highest point. Train and valid heights differ by construction. Test: ramps of 15 columns
    (3 m): hill (up, down; 0.6 m), basin (down, up; 0.55 m), gentle (six up; 1 m), ids 0 to 2.
    ``shifted``: steep (six up; 4 m, a slope of 0.22 and less than the feet's friction, 0.4), id 3.
    Deviation: the paper's code lets the test's ramps begin 1 m earlier, below the robot.

    Beyond the 50 m of the height field level ground goes on for ever. A field that comes amid an
    episode has its origin below the robot, so that the ramps still lie ahead; one that replaces
    another lies as low as the lowest ground within 1.1 m.
    """

    name = "half-cheetah-slope"
    split_sizes = tuple((split, len(slopes)) for split, slopes in NAMED.items())

    def __init__(self, cfg: HalfCheetahSlopeConfig | None = None) -> None:
        super().__init__(cfg or HalfCheetahSlopeConfig())

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Relative slopes of six ramps (n, 6), the ground's height (n,), m, columns a ramp (n,)."""
        device = rng.device
        if split in NAMED:
            pick = torch.randint(len(NAMED[split]), (n,), generator=rng, device=device)
            slopes = torch.tensor([s for s, _ in NAMED[split]], device=device).float()
            height = torch.tensor([h for _, h in NAMED[split]], device=device)
            return {
                "slopes": slopes[pick], "height": height[pick],
                "width": torch.full((n,), 15.0, device=device),
                "id": pick + (3 if split == "shifted" else 0),
            }  # fmt: skip
        slopes = uniform(rng, (n, 6), 0.2, 0.6)
        down = torch.rand((n, 6), generator=rng, device=device) < 0.5
        down[:, :2] = False
        return {
            "slopes": torch.where(down, -slopes, slopes),
            "height": split_uniform(rng, (n,), 0.2, 1.0, split),
            "width": torch.full((n,), 10.0, device=device),
        }

    def add_ground(self, spec: mujoco.MjSpec) -> None:
        """A height field, and level boxes of 1 km behind and before it."""
        spec.add_hfield(name="field", size=[REACH, 1, TALLEST, 0.1], nrow=2, ncol=COLUMNS,
                        userdata=[0.0] * 2 * COLUMNS)  # fmt: skip
        field = spec.worldbody.add_body(name="field")
        field.add_geom(type=mujoco.mjtGeom.mjGEOM_HFIELD, hfieldname="field", conaffinity=1,
                       contype=0, mass=0)  # fmt: skip
        for name, x in (("behind", -REACH - 500), ("beyond", REACH + 500)):
            level = spec.worldbody.add_body(name=name, pos=[x, 0, -0.5])
            level.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[500, 1, 0.5], conaffinity=1,
                           contype=0, mass=0)  # fmt: skip

    def perturbed(self, task: dict[str, Array]) -> Any:
        """The height field takes the plane's place."""
        model, heights = self.touchable(), profile(task)
        lowest = heights.min()
        model.hfield_data[:] = np.tile((heights - lowest) / TALLEST, 2)
        model.body("field").pos[2] = lowest
        model.body("beyond").pos[2] += heights[-1]
        return model

    def come_into_force(self, model: Any, lane: int) -> Any:
        """The field, its origin below the robot and as low as the ground that it replaces."""
        model, known, x = (
            super().come_into_force(model, lane),
            self.models[lane],
            self.state[lane, 1],
        )
        if known is not self.model:
            origin = known.body("field").pos
            row = known.hfield_data[:COLUMNS] * TALLEST + origin[2]
            around = x - origin[0] + np.linspace(-1.1, 1.1, 45)
            lowest = np.interp(around, np.linspace(-REACH, REACH, COLUMNS), row).min()
            model.body_pos[self.ground, 2] += lowest
        return model

    def caption(self, task: dict[str, Array]) -> str:
        """What kind of ground, and its height."""
        ups = tuple(np.sign(task["slopes"][:2]))
        names = {(1.0, -1.0): "hill", (-1.0, 1.0): "basin"}
        climb = "uphill" if (task["slopes"] > 0).all() else "slopes"
        return f"{names.get(ups, climb)}, {task['height']:.2f} m high"


def profile(task: dict[str, Array]) -> Float64[Array, " c"]:
    """Height of every column in metres, 0 up to where the ramps begin."""
    steps, width = np.zeros(COLUMNS), int(task["width"])
    ramps = np.repeat(task["slopes"], width)
    steps[FIRST : FIRST + len(ramps)] = ramps
    heights = np.cumsum(steps)
    return heights * (task["height"] / np.ptp(heights))
