"""What MuJoCo families share: N x E simulations stepped together by a thread pool in C.

A family names Gymnasium's model of its robot and writes plain NumPy functions of joint positions
and velocities. Physics and rewards are float64; what leaves is in torch's default dtype.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any, NamedTuple, Protocol

import mujoco
import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Shaped, UInt8
from mujoco.rollout import Rollout
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from precocial.envs.base import EnvConfig
from precocial.types import EnvSpec, RewardFn, Split, Step, Tasks, TerminalFn, UserError

FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
"""What MuJoCo needs to go on from, in this order: time, qpos, qvel, and the robot's own extras."""

Array = np.ndarray
State = Float64[Array, "b s"]
"""The full physics of B = N*E lanes, task by task."""


class Physics(NamedTuple):
    """Where every lane's robot is, in metres, radians and seconds."""

    qpos: Float64[Array, "n e q"]
    qvel: Float64[Array, "n e v"]


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


# ---- simulators -------------------------------------------------------------------------------


class Simulator(Protocol):
    """Steps B simulations on a pool of threads."""

    def place(self, models: list[Any], state: State, lanes: Int[Array, " k"]) -> None:
        """The state of ``lanes`` was replaced from outside."""
        ...

    def advance(
        self,
        models: list[Any],
        state: State,
        control: Float64[Array, "b f u"],
        frames: Float64[Array, "b f s"],
    ) -> None:
        """Go on from ``state``; write the state after each of F steps, or at least the last."""
        ...

    def close(self) -> None: ...


class FastSimulator:
    """``mujoco.rollout``: one C call steps all lanes. Drops the solver's warm start in between."""

    def __init__(self, model: Any, num: int, threads: int) -> None:
        # With no pool at all, rollout works on the calling thread.
        self.pool = Rollout(nthread=threads if threads > 1 else 0)
        self.workspaces = [mujoco.MjData(model) for _ in range(threads)]
        # Lanes per piece of work. With MuJoCo's own choice, a tenth of a thread's share, the first
        # thread to finish waits longer for the last: 3 % of the speed with two.
        self.chunk = max(1, num // (25 * threads))

    def place(self, models: list[Any], state: State, lanes: Int[Array, " k"]) -> None:
        """Nothing to do: every call brings its state along."""

    def advance(
        self,
        models: list[Any],
        state: State,
        control: Float64[Array, "b f u"],
        frames: Float64[Array, "b f s"],
    ) -> None:
        """See ``Simulator``."""
        # skip_checks: else it copies all inputs and inspects every model, on every call.
        self.pool.rollout(
            models, self.workspaces, state, control,
            nstep=frames.shape[1], state=frames, skip_checks=True, chunk_size=self.chunk,
        )  # fmt: skip

    def close(self) -> None:
        """Join the threads."""
        self.pool.close()
        self.workspaces.clear()


class ExactSimulator:
    """One ``MjData`` per lane keeps the solver's warm start, as Gymnasium's environments do."""

    def __init__(self, model: Any, num: int, threads: int) -> None:
        self.pool = ThreadPoolExecutor(threads)
        self.data = [mujoco.MjData(model) for _ in range(num)]
        self.shares = [range(i, num, threads) for i in range(threads)]

    def place(self, models: list[Any], state: State, lanes: Int[Array, " k"]) -> None:
        """See ``Simulator``."""
        for i in lanes:
            mujoco.mj_resetData(models[i], self.data[i])
            mujoco.mj_setState(models[i], self.data[i], state[i], FULL)
            mujoco.mj_forward(models[i], self.data[i])

    def advance(
        self,
        models: list[Any],
        state: State,
        control: Float64[Array, "b f u"],
        frames: Float64[Array, "b f s"],
    ) -> None:
        """See ``Simulator``."""

        def work(lanes: range) -> None:
            for i in lanes:
                data, last = self.data[i], frames[i, -1]
                data.ctrl[:] = control[i, 0]
                mujoco.mj_step(models[i], data, nstep=frames.shape[1])
                mujoco.mj_getState(models[i], data, last, FULL)
                if data.warning.number.any():  # rollout stops here; mj_step carries on regardless
                    last[:] = np.nan

        list(self.pool.map(work, self.shares))

    def close(self) -> None:
        """Join the threads."""
        self.pool.shutdown()
        self.data.clear()


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


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---- pictures ---------------------------------------------------------------------------------

WIDTH, HEIGHT = 480, 320  # multiples of 16, as video encoders want them
FINE = 3  # drawn this much larger, then reduced: smooth edges
METRE = 150 * FINE  # fine pixels per metre
GROUND = 250 * FINE  # fine pixels from the top
SKY, HAZE = (166, 202, 230), (242, 246, 249)
SOIL, DARK_SOIL, SHADE, LINE = (214, 207, 192), (200, 192, 175), (172, 163, 145), (120, 112, 98)
INK = (44, 52, 64)
LINE_WIDTH = 2 * FINE
LIMBS = ((58, 76, 102), (226, 125, 62), (38, 150, 136), (200, 70, 92), (120, 94, 170))


class Camera:
    """Pictures of one model, its camera following the robot."""

    def __init__(self, model: Any) -> None:
        self.model, self.data = model, mujoco.MjData(model)
        self.gl = open_gl(model)

    def picture(self, state: Float64[Array, " s"], caption: str) -> UInt8[Array, "h w 3"]:
        """One state, HEIGHT x WIDTH pixels."""
        with quiet():
            mujoco.mj_setState(self.model, self.data, state, FULL)
            mujoco.mj_forward(self.model, self.data)
        if self.gl is None:
            image = side_view(self.model, self.data)
        else:
            self.gl.update_scene(self.data, camera=0 if self.model.ncam else -1)
            image = Image.fromarray(self.gl.render())
        ImageDraw.Draw(image).text(
            (12, 10), caption, INK, ImageFont.load_default(16), stroke_width=2, stroke_fill=HAZE
        )
        return np.array(image)

    def close(self) -> None:
        """Give the OpenGL context back."""
        if self.gl is not None:
            self.gl.close()


def open_gl(model: Any) -> Any:
    """A ``mujoco.Renderer``, or None where nobody has said that OpenGL works.

    Asking is not safe: a missing driver can abort the process instead of raising.
    """
    if not (os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY")):
        return None
    try:
        return mujoco.Renderer(model, HEIGHT, WIDTH)
    except Exception:  # each backend has an error of its own
        return None


def side_view(model: Any, data: Any) -> Image.Image:
    """The robot's spheres and capsules on the x-z plane, above the ground that it can touch."""
    level = ground_level(model, data)
    image = backdrop(GROUND if level is None else HEIGHT * FINE).copy()
    draw = ImageDraw.Draw(image)
    centre = data.subtree_com[1, 0]

    def pixel(point: Float64[Array, "3"]) -> tuple[float, float]:
        height = point[2] - (level or 0.0)
        return (point[0] - centre) * METRE + WIDTH * FINE / 2, GROUND - height * METRE

    if level is None:
        draw_ground(draw, centre)
        middle, reach = WIDTH * FINE / 2, METRE / 2
        draw.ellipse((middle - reach, GROUND + 3 * FINE, middle + reach, GROUND + 13 * FINE), SHADE)
    else:
        for geom in touched(model):
            top = [pixel(point) for point in surface(model, data, geom)]
            below = float(HEIGHT * FINE)
            outline = [(top[0][0], below), *top, (top[-1][0], below)]
            draw.polygon(outline, SOIL)
            draw.line(outline, LINE, LINE_WIDTH)
        draw_metres(draw, centre)
    # What is far is drawn first; the camera stands at negative y.
    for geom in np.argsort(-data.geom_xpos[:, 1].round(3), kind="stable"):
        kind, size = model.geom_type[geom], model.geom_size[geom]
        if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
            half = data.geom_xmat[geom].reshape(3, 3)[:, 2] * size[1]
        elif kind == mujoco.mjtGeom.mjGEOM_SPHERE:
            half = np.zeros(3)
        else:
            continue
        ends = [pixel(data.geom_xpos[geom] - half), pixel(data.geom_xpos[geom] + half)]
        colour = LIMBS[limb(model, int(model.geom_bodyid[geom])) % len(LIMBS)]
        draw_capsule(draw, ends, size[0] * METRE, colour)
    return image.reduce(FINE)


def draw_capsule(
    draw: ImageDraw.ImageDraw, ends: list[tuple[float, float]], radius: float,
    colour: tuple[int, ...],
) -> None:  # fmt: skip
    """A limb with a dark rim; ends and radius in fine pixels."""
    dark = tuple(c * 2 // 3 for c in colour)
    for r, fill in ((radius + FINE, dark), (radius - FINE, colour)):
        draw.line(ends, fill, round(2 * r))
        for x, y in ends:
            draw.ellipse((x - r, y - r, x + r, y + r), fill)


def touched(model: Any) -> list[int]:
    """The geoms that a robot can stand on."""
    return [int(geom) for geom in np.flatnonzero(model.geom_conaffinity)]


def surface(model: Any, data: Any, geom: int) -> Float64[Array, "k 3"]:
    """The upper edge of a box or a height field at y = 0, from left to right, in metres."""
    size, field = model.geom_size[geom], model.geom_dataid[geom]
    x, z = np.array([-size[0], size[0]]), np.full(2, size[2])
    if field >= 0:
        size, columns = model.hfield_size[field], model.hfield_ncol[field]
        row = model.hfield_data[model.hfield_adr[field] :][:columns]
        x, z = np.linspace(-size[0], size[0], columns), size[2] * row.astype(np.float64)
    return data.geom_xpos[geom] + np.stack([x, 0 * x, z], 1)


def ground_level(model: Any, data: Any) -> float | None:
    """Height in metres of the boxes and fields below the robot; None where it stands on a plane."""
    ground = touched(model)
    if any(model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE for geom in ground):
        return None
    fixed = [geom for geom in ground if not model.body_dofnum[model.geom_bodyid[geom]]]
    edges = [surface(model, data, geom) for geom in fixed]
    centre = data.subtree_com[1, 0]
    heights = [np.interp(centre, e[:, 0], e[:, 2]) for e in edges if e[0, 0] <= centre <= e[-1, 0]]
    return float(max(heights, default=0.0))


def draw_ground(draw: ImageDraw.ImageDraw, centre: float) -> None:
    """Tiles of half a metre, the ground line, and the metres run so far."""
    reach = WIDTH * FINE / 2 / METRE
    for tile in range(int(np.floor(2 * (centre - reach))), int(np.ceil(2 * (centre + reach)))):
        x = (tile / 2 - centre) * METRE + WIDTH * FINE / 2
        if tile % 2:
            draw.rectangle((x, GROUND, x + METRE / 2, GROUND + 16 * FINE), DARK_SOIL)
        else:
            draw.line((x, GROUND, x, GROUND + 24 * FINE), LINE, LINE_WIDTH)
    draw_metres(draw, centre)
    draw.line((0, GROUND, WIDTH * FINE, GROUND), LINE, LINE_WIDTH)


def draw_metres(draw: ImageDraw.ImageDraw, centre: float) -> None:
    """The metres run so far, below the ground."""
    reach, font = WIDTH * FINE / 2 / METRE, ImageFont.load_default(13 * FINE)
    for metre in range(int(np.floor(centre - reach)), int(np.ceil(centre + reach)) + 1):
        x = (metre - centre) * METRE + WIDTH * FINE / 2
        text = f"{metre} m" if metre else "start"
        draw.text((x, GROUND + 28 * FINE), text, INK, font, anchor="mt")


@functools.cache
def backdrop(ground: int) -> Image.Image:
    """A hazy sky, and from the fine pixel row ``ground`` down bare soil."""
    column = np.linspace(SKY, HAZE, ground).astype(np.uint8)
    soil = np.tile(np.array(SOIL, np.uint8), (HEIGHT * FINE - ground, 1))
    column = np.concatenate([column, soil])
    return Image.fromarray(np.ascontiguousarray(column[:, None].repeat(WIDTH * FINE, 1)))


def limb(model: Any, body: int) -> int:
    """0 for the trunk, 1 and up for the limbs that hang on it; gives parts their colour."""
    trunk = model.body_rootid[body]
    while body != trunk and model.body_parentid[body] != trunk:
        body = int(model.body_parentid[body])
    if body == trunk:
        return 0
    siblings = np.flatnonzero(model.body_parentid == trunk)
    return 1 + int(np.searchsorted(siblings, body))
