"""A robot's state in numbers, where it starts, and MuJoCo kept quiet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import NamedTuple

import mujoco
import numpy as np
import torch
from jaxtyping import Float64

FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
"""What MuJoCo needs to go on from, in this order: time, qpos, qvel, and the robot's own extras."""
Array = np.ndarray
State = Float64[Array, "b s"]
"""The full physics of B = N*E lanes, task by task."""


class Physics(NamedTuple):
    """Where every lane's robot is, in metres, radians and seconds."""

    qpos: Float64[Array, "n e q"]
    qvel: Float64[Array, "n e v"]


def gymnasium_asset(name: str) -> str:
    """Path of an MJCF file among Gymnasium's assets."""
    with as_file(files("gymnasium") / "envs/mujoco/assets" / name) as path:
        return str(path)


def noisy_start(
    qpos: Float64[Array, " q"], nv: int, num: int, rng: torch.Generator
) -> tuple[Float64[Array, "b q"], Float64[Array, "b v"]]:
    """Gymnasium's start of a runner: ``qpos`` +- 0.1 uniform, velocities normal with std 0.1."""
    dtype, device = torch.float64, rng.device
    shift = torch.rand(num, len(qpos), generator=rng, dtype=dtype, device=device)
    speed = torch.randn(num, nv, generator=rng, dtype=dtype, device=device)
    return qpos + 0.2 * shift.cpu().numpy() - 0.1, 0.1 * speed.cpu().numpy()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep MuJoCo from printing warnings and from writing MUJOCO_LOG.TXT where the user stands."""
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(previous)
