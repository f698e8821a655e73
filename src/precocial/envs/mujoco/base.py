"""What MuJoCo families share: N x E simulations stepped together by a thread pool in C.

A family names Gymnasium's model of its robot and writes plain NumPy functions of joint positions
and velocities. Physics and rewards are float64; what leaves is in torch's default dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Shaped, UInt8
from torch import Tensor

from precocial.envs.base import EnvConfig
from precocial.envs.mujoco.pictures import Camera
from precocial.envs.mujoco.simulators import (
    ExactSimulator,
    FastSimulator,
    Simulator,
    available_cores,
)
from precocial.envs.mujoco.state import FULL, Array, Physics, State, gymnasium_asset, quiet
from precocial.types import EnvSpec, RewardFn, Split, Step, Tasks, TerminalFn, UserError


@dataclass(frozen=True)
class MujocoConfig(EnvConfig):
    """Options that every MuJoCo family has."""

    horizon: int = 100
    """Time limit of an episode, in steps (H)."""
    action_scale: float = 1.0
    """The policy's output that spans the action bounds; 1 is Finn's convention, 10 is ProMP's."""
    exact: bool = False
    """Equal Gymnasium to the bit for whole episodes, at some 0.7 of the speed. Otherwise the
    constraint solver starts cold at every step: the first differs by less than 1e-9, but
    trajectories part after some 50 steps, as chaotic ones do."""
    threads: int = 0
    """Simulation threads; 0 uses every core. Results do not depend on it."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        if self.horizon < 1:
            raise UserError(f"--env-horizon is {self.horizon}; expected at least 1 step")
        if not 0 < self.action_scale < float("inf"):
            raise UserError(f"--env-action-scale is {self.action_scale}; expected more than 0")
        if self.threads < 0:
            raise UserError(f"--env-threads is {self.threads}; expected 0 (every core) or more")


class MujocoTaskEnv:
    """Steps a family of tasks for one robot, by default with one model for all tasks.

    Subclasses set ``name``, ``model_file``, ``frame_skip`` and ``obs_dim`` and implement
    ``draw_tasks``, ``initial``, ``observation`` and ``reward``, or ``reward_fn`` where the reward
    is a function of what can be seen; ``task_model``, ``terminal_fn`` and ``info`` where they have
    them. Task parameters arrive as float64 ``(N, 1, ...)``.

    A simulation that diverges (MuJoCo warns, or the state is not finite) ends its episode: that
    step is ``truncated`` with reward 0, ``next_obs`` is the last sane observation, the lane
    restarts, ``info["diverged"]`` is 1 and ``diverged`` counts one more. MuJoCo's own warnings are
    silenced.
    """

    name: str
    model_file: str
    """MJCF file among Gymnasium's assets."""
    frame_skip: int
    """Simulation steps per environment step."""
    obs_dim: int
    num_tasks: int | None = None
    split_sizes: tuple[tuple[Split, int], ...] = ()
    """Number of tasks of each split that has few of its own; these have an ``id``."""
    reward_fn: RewardFn | None = None
    """The reward of what leaves the environment, instead of ``reward``; a static method."""
    terminal_fn: TerminalFn | None = None
    """Whether ``next_obs`` ends the episode, for a family that ends early; a static method."""
    command_dim: int = 0
    """The last so many columns of the observation are commands, such as a target."""

    def __init__(self, cfg: MujocoConfig) -> None:
        self.cfg = cfg
        with quiet():
            self.model: Any = self.load_model()
        self.dt: float = self.frame_skip * self.model.opt.timestep
        """Seconds per environment step."""
        low, high = self.model.actuator_ctrlrange.T
        self.centre, self.half_range = (low + high) / 2, (high - low) / 2
        self.rest = np.empty(mujoco.mj_stateSize(self.model, FULL))
        mujoco.mj_getState(self.model, mujoco.MjData(self.model), self.rest, FULL)
        self.threads = cfg.threads or available_cores()
        self.steps_taken = 0
        self.diverged = 0
        """Lanes lost to a diverging simulation since construction."""
        self.simulator: Simulator | None = None
        self.state: State = np.empty((0, self.rest.size))
        self.camera: Camera | None = None
        some = self.sample_tasks(1, "train", torch.Generator().manual_seed(0))
        self.spec = EnvSpec(
            self.name, self.obs_dim, "box", self.model.nu, tuple(low.tolist()),
            tuple(high.tolist()), cfg.horizon, self.num_tasks, self.task_features(some).shape[-1],
            threaded=True, reward_fn=self.reward_fn, terminal_fn=self.terminal_fn,
            command_dim=self.command_dim, action_scale=cfg.action_scale,
            split_sizes=self.split_sizes,
        )  # fmt: skip

    # ---- what a family writes -------------------------------------------------------------

    def draw_tasks(
        self, n: int, split: Split, rng: torch.Generator
    ) -> dict[str, Shaped[Tensor, "n ..."]]:
        """Parameters of ``n`` new tasks, each ``(n, ...)``; a finite family adds ``id``."""
        raise NotImplementedError

    def initial(
        self, num: int, rng: torch.Generator
    ) -> tuple[Float64[Array, "b q"], Float64[Array, "b v"]]:
        """Positions and velocities of ``num`` robots at the start of an episode."""
        raise NotImplementedError

    def begin(self, lanes: Int[Array, " k"], rng: torch.Generator) -> None:
        """What else an episode's start on these of the B lanes draws or puts back."""

    def observation(self, before: Physics, after: Physics) -> Float64[Array, "n e o"]:
        """What the policy sees after a step, never the task; at a start the two are the same."""
        raise NotImplementedError

    def reward(
        self,
        before: Physics,
        after: Physics,
        action: Float64[Array, "n e a"],
        tasks: dict[str, Array],
    ) -> Float64[Array, "n e"]:
        """Reward of the step; ``action`` is clipped to [-1, 1]."""
        raise NotImplementedError

    def info(self, before: Physics, after: Physics) -> dict[str, Float64[Array, "n e"]]:
        """Numbers for metrics."""
        return {}

    def load_model(self) -> Any:
        """Gymnasium's ``MjModel`` of the robot."""
        return mujoco.MjModel.from_xml_path(gymnasium_asset(self.model_file))

    def task_model(self, task: dict[str, Array]) -> Any:
        """The ``MjModel`` of one task, whose parameters come without the task axis.

        A family with a body of its own per task changes and returns ``copy.copy(self.model)``,
        and calls ``mujoco.mj_setConst`` on it after changing masses or lengths.
        """
        return self.model

    def caption(self, task: dict[str, Array]) -> str:
        """The task in a few words, written into pictures."""
        return ""

    def lane_caption(self, task: int, lane: int) -> str:
        """The same for one lane, which may not have met its task yet."""
        return self.caption(self._task(task))

    def task_features(self, tasks: Tasks) -> Float[Tensor, "n d"]:
        """All parameters, flattened; a family whose numbers are not of order one rescales them."""
        return torch.cat([v.reshape(tasks.num, -1).float() for v in tasks.params.values()], -1)

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Nobody has scored known methods here."""
        return {}

    def optimum(self, tasks: Tasks) -> Float[Tensor, " n"] | None:
        """Nobody knows."""
        return None

    # ---- the TaskEnv protocol -------------------------------------------------------------

    def sample_tasks(self, n: int, split: Split, rng: torch.Generator) -> Tasks:
        """N tasks; ids are stable for a fixed pool and a finite family."""
        if n < 1:
            raise UserError(f"{n} tasks were asked for; expected at least 1")
        if split == "train" and self.cfg.train_tasks:
            size = self.cfg.train_tasks
            pool = self.draw_tasks(size, split, torch.Generator(rng.device).manual_seed(20_260))
            pick = torch.randint(size, (n,), generator=rng, device=rng.device)
            params, fallback = {k: v[pick] for k, v in pool.items()}, pick
        else:
            params, fallback = self.draw_tasks(n, split, rng), torch.arange(n, device=rng.device)
        task_id = params.pop("id", fallback)
        return Tasks(params, task_id)

    def reset(self, tasks: Tasks, lanes: int, rng: torch.Generator) -> Float[Tensor, "n e o"]:
        """Start an episode on every lane."""
        num = tasks.num * lanes
        if self.simulator is None or len(self.state) != num:
            self._allocate(num)
        self.lanes, self.rng = (tasks.num, lanes), rng
        self.time = np.zeros(self.lanes, dtype=np.int64)
        self.switch(tasks)
        self._restart(np.ones(self.lanes, dtype=bool))
        self.obs = self._start_obs()
        return self.obs

    def switch(self, tasks: Tasks) -> None:
        """The world changes, the state stays."""
        if tasks.num != self.lanes[0]:
            raise ValueError(f"{tasks.num} tasks for {self.lanes[0]} rows of lanes")
        self.tasks = {k: v.unsqueeze(1).cpu().double().numpy() for k, v in tasks.params.items()}
        models = [self.task_model(self._task(i)) for i in range(tasks.num)]
        if any(m.signature != self.model.signature for m in models):
            raise ValueError(f"{self.name}: task_model changed the robot's structure")
        self.models = [m for m in models for _ in range(self.lanes[1])]

    def step(self, action: Float[Tensor, "n e a"]) -> Step:
        """One step on every lane; ended episodes restart in place."""
        assert self.simulator is not None, "reset comes before step"
        raw = action.detach().cpu().double().numpy()
        act = (raw / self.cfg.action_scale).clip(-1, 1)
        # (N, E, A) -> (N*E, frame_skip, A): the same torque for every simulation step
        self.control[:] = (self.centre + self.half_range * act).reshape(len(self.control), 1, -1)
        with quiet():
            self.simulator.advance(self.models, self.state, self.control, self.frames)
        following = self.frames[:, -1].copy()
        lost = self._rewind_diverged(following)

        before, after = self._physics(self.state), self._physics(following)
        info = {k: self._floats(v) for k, v in self.info(before, after).items()}
        info["diverged"] = self._floats(lost.astype(np.float64))
        next_obs = self._floats(self.observation(before, after))
        next_obs = torch.where(self._flags(lost)[..., None], self.obs, next_obs)
        if self.reward_fn is None:
            reward = self._floats(self.reward(before, after, act, self.tasks))
        else:
            reward = self.reward_fn(self.obs, self._floats(act), next_obs)
        reward = reward.masked_fill(self._flags(lost), 0.0)
        terminated = np.zeros(self.lanes, dtype=bool)
        if self.terminal_fn is not None:
            terminated = self.terminal_fn(next_obs).cpu().numpy() & ~lost
        self.steps_taken += lost.size
        self.time += 1
        truncated = ((self.time >= self.cfg.horizon) | lost) & ~terminated

        self.state = following
        ended = terminated | truncated
        self.obs = next_obs
        if ended.any():
            self._restart(ended)
            self.obs = torch.where(self._flags(ended)[..., None], self._start_obs(), next_obs)
        return Step(
            self.obs, next_obs, reward, self._flags(terminated), self._flags(truncated), info
        )

    def render(self, task: int, lane: int) -> UInt8[Array, "h w 3"]:
        """The lane as it stands, 480 x 320: by OpenGL if ``MUJOCO_GL`` or ``DISPLAY`` is set."""
        index = task * self.lanes[1] + lane
        model = self.models[index]
        if self.camera is None or self.camera.model is not model:
            if self.camera is not None:
                self.camera.close()
            self.camera = Camera(model)
        return self.camera.picture(self.state[index], self.lane_caption(task, lane))

    def close(self) -> None:
        """Stop the threads and free the simulations; ``reset`` would start them again."""
        if self.simulator is not None:
            self.simulator.close()
            self.simulator = None
        if self.camera is not None:
            self.camera.close()
            self.camera = None

    # ---- inside ---------------------------------------------------------------------------

    def _allocate(self, num: int) -> None:
        """Everything whose size is the number of lanes."""
        self.close()
        new = ExactSimulator if self.cfg.exact else FastSimulator
        self.simulator = new(self.model, num, self.threads)
        self.state = np.empty((num, self.rest.size))
        self.control: Array = np.empty((num, self.frame_skip, self.model.nu))
        self.frames: Array = np.empty((num, self.frame_skip, self.rest.size))

    def _restart(self, ended: Bool[Array, "n e"]) -> None:
        """Put the lanes where ``ended`` at the start of an episode."""
        assert self.simulator is not None
        lanes = np.flatnonzero(ended)
        self.time[ended] = 0
        self.begin(lanes, self.rng)
        nq, nv = self.model.nq, self.model.nv
        fresh = np.tile(self.rest, (lanes.size, 1))
        fresh[:, 1 : 1 + nq], fresh[:, 1 + nq : 1 + nq + nv] = self.initial(lanes.size, self.rng)
        self.state[lanes] = fresh
        with quiet():
            self.simulator.place(self.models, self.state, lanes)

    def _start_obs(self) -> Float[Tensor, "n e o"]:
        """What the policy would see if every lane had just started."""
        physics = self._physics(self.state)
        return self._floats(self.observation(physics, physics))

    def _rewind_diverged(self, following: State) -> Bool[Array, "n e"]:
        """Where the simulation diverged; ``following`` becomes the state before it on those lanes.

        MuJoCo restarts or stops an unstable simulation, so that its clock falls short; what goes
        wrong in the last simulation step shows as a number beyond MuJoCo's limit.
        """
        due = self.state[:, 0] + self.dt - 0.5 * self.model.opt.timestep
        late = ~(following[:, 0] > due)
        limit = mujoco.mjMAXVAL
        if late.any() or not np.abs(following).max() < limit or np.isnan(self.control).any():
            sane = (np.abs(following) < limit).all(-1) & np.isfinite(self.control[:, 0]).all(-1)
            late |= ~sane
            following[late] = self.state[late]
            self.diverged += int(late.sum())
        return late.reshape(self.lanes)

    def _physics(self, state: State) -> Physics:
        """Views of positions and velocities, (N*E, S) -> (N, E, ...)."""
        nq, nv = self.model.nq, self.model.nv
        whole = state.reshape(*self.lanes, -1)
        return Physics(whole[..., 1 : 1 + nq], whole[..., 1 + nq : 1 + nq + nv])

    def _task(self, index: int) -> dict[str, Array]:
        return {k: np.asarray(v[index, 0]) for k, v in self.tasks.items()}

    def _floats(self, values: Float64[Array, "..."]) -> Float[Tensor, "..."]:
        return torch.tensor(values, dtype=torch.get_default_dtype(), device=self.rng.device)

    def _flags(self, values: Bool[Array, "n e"]) -> Bool[Tensor, "n e"]:
        return torch.tensor(values, device=self.rng.device)
