"""Families whose robot or ground changes, from an episode's first step or in the middle of it.

Nagabandi et al. 2019, https://arxiv.org/abs/1803.11347: the reward is the same for every task and
known; what differs is how the world answers an action. So a family writes its reward, and its end
where it has one, as functions of what can be seen, and a planner may call them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from precocial.envs.mujoco.base import MujocoConfig, MujocoTaskEnv
from precocial.envs.mujoco.state import Array, Physics, gymnasium_asset, noisy_start
from precocial.envs.switching import SwitchAt, check_switch_at, draw_switch_steps
from precocial.types import Step, Tasks


@dataclass(frozen=True)
class BreakingConfig(MujocoConfig):
    """Options that every family of this kind has."""

    horizon: int = 500
    """Time limit of an episode, in steps (H)."""
    switch_at: SwitchAt = "never"
    """Step of the episode from which the task's perturbation is in force, 1 to H - 1: until then
    the robot and its ground are Gymnasium's. `random` draws it from the middle half of every
    episode anew; with `never` the perturbation is there from the first step on."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        check_switch_at(self.switch_at, self.horizon)


class BreakingTaskEnv(MujocoTaskEnv):
    """Steps a family whose tasks are perturbations of ``self.model``, Gymnasium's own.

    Subclasses implement ``perturbed``; also ``come_into_force`` if it matters where the robot is at
    that moment. ``info["switched"]`` is 1 at steps taken under a perturbation that came during the
    episode; the key is missing where none can.
    """

    cfg: BreakingConfig
    intact = "intact"
    """The caption while the perturbation is not in force yet."""

    def __init__(self, cfg: BreakingConfig) -> None:
        self.built: dict[bytes, Any] = {}
        super().__init__(cfg)

    # ---- what a family writes -------------------------------------------------------------

    def perturbed(self, task: dict[str, Array]) -> Any:
        """A changed ``copy.copy(self.model)``; parameters come without the task axis."""
        raise NotImplementedError

    def come_into_force(self, model: Any, lane: int) -> Any:
        """``model`` as it strikes the robot of a lane (0 to B - 1) amid an episode.

        ``self.state[lane]`` is where the robot is, ``self.models[lane]`` what it knew until then.
        """
        return model

    # ---- the models of all lanes ------------------------------------------------------------

    def task_model(self, task: dict[str, Array]) -> Any:
        """The perturbed model; those of a few tasks are kept, which is all of a finite family's."""
        key = b"".join(v.tobytes() for v in task.values())
        if key not in self.built:
            if len(self.built) >= 32:
                self.built.clear()
            self.built[key] = self.perturbed(task)
        return self.built[key]

    def switch(self, tasks: Tasks) -> None:
        """The world changes, the state stays; what is not in force yet stays so."""
        known = self.models
        super().switch(tasks)
        self.broken, self.models = self.models, known
        self.models = [self._present_model(i) for i in range(len(known))]

    def begin(self, lanes: Int[Array, " k"], rng: torch.Generator) -> None:
        """Mend the robots, and draw the steps at which they break."""
        at = draw_switch_steps(self.cfg.switch_at, self.cfg.horizon, (len(lanes),), rng)
        self.switch_step[lanes] = at.cpu().numpy()
        for i in lanes:
            self.models[i] = self._present_model(int(i))

    def step(self, action: Float[Tensor, "n e a"]) -> Step:
        """One step on every lane; ended episodes restart in place."""
        if self.cfg.switch_at == "never":
            return super().step(action)
        for i in np.flatnonzero(self.time.ravel() == self.switch_step):
            self.models[i] = self._present_model(int(i))
        switched = self.time >= self.switch_step.reshape(self.lanes)
        step = super().step(action)
        step.info["switched"] = self._floats(switched.astype(np.float64))
        return step

    def lane_caption(self, task: int, lane: int) -> str:
        """The perturbation, once it is in force."""
        before = self.models[task * self.lanes[1] + lane] is self.model
        return self.intact if before else super().lane_caption(task, lane)

    # ---- inside ---------------------------------------------------------------------------

    def _allocate(self, num: int) -> None:
        super()._allocate(num)
        self.models = [self.model] * num
        self.switch_step = np.zeros(num, dtype=np.int64)
        """When in its episode each lane meets its perturbation; 0: at the start."""

    def _present_model(self, lane: int) -> Any:
        """What a lane's robot is subject to at this step of its episode."""
        step = self.time.flat[lane]
        if step < self.switch_step[lane]:
            return self.model
        return self.come_into_force(self.broken[lane], lane) if step else self.broken[lane]


class BreakingRunner(BreakingTaskEnv):
    """A robot that runs along x, its first coordinate."""

    def info(self, before: Physics, after: Physics) -> dict[str, Float64[Array, "n e"]]:
        """Forward velocity, m/s."""
        return {"forward_velocity": self.velocity(before, after)}

    def velocity(self, before: Physics, after: Physics) -> Float64[Array, "n e"]:
        """Mean forward velocity of the torso during the step, m/s."""
        return (after.qpos[..., 0] - before.qpos[..., 0]) / self.dt


def draw_broken(
    sets: tuple[tuple[int, ...], ...], parts: int, n: int, rng: torch.Generator
) -> tuple[Float[Tensor, "n p"], Int[Tensor, " n"]]:
    """Tasks that break one of ``sets`` of a robot's parts: which parts are whole (1 or 0), and ids.

    The id of a single part is its number, that of several at once the number of all parts.
    """
    whole = torch.ones(len(sets), parts, device=rng.device)
    for row, broken in enumerate(sets):
        whole[row, list(broken)] = 0.0
    ids = torch.tensor([s[0] if len(s) == 1 else parts for s in sets], device=rng.device)
    pick = torch.randint(len(sets), (n,), generator=rng, device=rng.device)
    return whole[pick], ids[pick]


class BreakingCheetah(BreakingRunner):
    """A half-cheetah that runs as fast as it can; subclasses say what breaks."""

    model_file = "half_cheetah.xml"
    frame_skip = 5
    obs_dim = 18

    @staticmethod
    def reward_fn(
        obs: Float[Tensor, "*b o"], action: Float[Tensor, "*b a"], next_obs: Float[Tensor, "*b o"]
    ) -> Float[Tensor, "*b"]:
        """Mean forward velocity during the step, m/s, less the control cost."""
        return next_obs[..., -1] - 0.05 * action.square().sum(-1)

    def initial(
        self, num: int, rng: torch.Generator
    ) -> tuple[Float64[Array, "b q"], Float64[Array, "b v"]]:
        """Gymnasium's start; whatever else the model holds lies still."""
        robot_qpos, robot_qvel = noisy_start(self.model.qpos0[:9], 9, num, rng)
        qpos, qvel = np.tile(self.model.qpos0, (num, 1)), np.zeros((num, self.model.nv))
        qpos[:, :9], qvel[:, :9] = robot_qpos, robot_qvel
        return qpos, qvel

    def observation(self, before: Physics, after: Physics) -> Float64[Array, "n e 18"]:
        """The robot's positions without x, its velocities, its mean forward velocity."""
        velocity = self.velocity(before, after)[..., None]
        return np.concatenate([after.qpos[..., 1:9], after.qvel[..., :9], velocity], -1)


class OtherGround(BreakingCheetah):
    """A half-cheetah that meets another ground than Gymnasium's plane.

    ``self.model`` holds both, and only the plane can be touched. Subclasses implement
    ``add_ground``, whose bodies make a ground that is level at height 0 around x = 0, and
    ``perturbed``, which changes what ``touchable`` gives. A ground that comes amid an episode has
    its origin where the robot is then.
    """

    intact = "plain ground"

    def add_ground(self, spec: mujoco.MjSpec) -> None:
        """Add bodies of one geom each, which touch the robot: ``conaffinity`` 1."""
        raise NotImplementedError

    def load_model(self) -> Any:
        """Gymnasium's robot and plane, and another ground out of touch."""
        plain = super().load_model()
        spec = mujoco.MjSpec.from_file(gymnasium_asset(self.model_file))
        spec.compiler.settotalmass = -1.0  # it would share 14 kg out among robot and ground
        for geom in spec.geoms:
            geom.material = ""
        for part in (*spec.materials, *spec.textures):
            spec.delete(part)  # most of a model's memory, and under switching every lane has one
        self.add_ground(spec)
        model = spec.compile()
        robot = slice(plain.nbody)
        self.ground = slice(plain.nbody, None)
        """The bodies of the other ground."""
        model.body_mass[robot], model.body_inertia[robot] = plain.body_mass, plain.body_inertia
        mujoco.mj_setConst(model, mujoco.MjData(model))
        model.stat.meaninertia = plain.stat.meaninertia  # when the solver may stop, as Gymnasium's
        model.geom_conaffinity[plain.ngeom :] = 0
        return model

    def touchable(self) -> Any:
        """A copy of ``self.model`` in which the other ground takes the plane's place."""
        model = copy.copy(self.model)
        floor = model.geom("floor").id
        model.geom_contype[floor] = model.geom_conaffinity[floor] = 0
        model.geom_conaffinity[model.body_geomadr[self.ground]] = 1
        return model

    def come_into_force(self, model: Any, lane: int) -> Any:
        """The other ground, moved to where the robot is."""
        model = copy.copy(model)
        model.body_pos[self.ground, 0] += self.state[lane, 1]
        return model
