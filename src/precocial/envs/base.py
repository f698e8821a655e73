"""What task families share: the stepping of families written as pure functions on tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from precocial.seeding import only_where, rand
from precocial.types import Belief, EnvSpec, Picture, RewardFn, Split, Step, Tasks, UserError

State = dict[str, Tensor]
"""A simulator state, each ``(N, E, ...)``."""


@dataclass(frozen=True)
class EnvConfig:
    """Options that every family has. Families add theirs; each shows as ``--env-NAME``."""

    train_tasks: int = 0
    """Size of a fixed pool of training tasks; 0 draws fresh ones for ever."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        if self.train_tasks < 0:
            raise UserError(
                f"--env-train-tasks is {self.train_tasks}; expected 0 (fresh tasks) or more"
            )


@dataclass(frozen=True)
class GymConfig(EnvConfig):
    """Options of an environment that is stepped in Python."""

    horizon: int = 0
    """Time limit of an episode, in steps (H); 0 takes the environment's own, named or found by
    playing it."""
    workers: int = 0
    """Processes that step the copies; 0 steps them in this one. Results are the same."""
    step_timeout: float = 60.0
    """Longest time a worker may spend in one reset or step of one copy, in seconds."""
    pixels: int = 0
    """See what the environment's own render draws, a picture of so many pixels a side, e.g. 64,
    instead of its observation; 0: its observation."""
    frames: int = 1
    """Pictures seen at a time: the latest, and by how much it has changed since each of those
    before it, which is how motion shows."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        if self.horizon < 0:
            raise UserError(
                f"--env-horizon is {self.horizon}; expected steps, or 0 for the environment's own"
            )
        if self.workers < 0:
            raise UserError(f"--workers is {self.workers}; expected 0 (no processes) or more")
        if self.pixels and not 16 <= self.pixels <= 512:
            raise UserError(f"--env-pixels is {self.pixels}; expected 0 or 16 to 512, try 64")
        if not 1 <= self.frames <= 8:
            raise UserError(f"--env-frames is {self.frames}; expected 1 to 8")
        if not 0 < self.step_timeout < math.inf:
            raise UserError(f"--step-timeout is {self.step_timeout}; expected seconds above 0")


@dataclass(frozen=True)
class StandardConfig(GymConfig):
    """Options of Gymnasium's own environments, which are written here as tensors, too."""

    exact: bool = False
    """Step Gymnasium's own code, copy by copy, instead of the same physics on tensors."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning, and another physics of code that is not ours."""
        super().__post_init__()
        known = {f.name for f in fields(StandardConfig)}
        for f in fields(self):
            if self.theirs and f.name not in known and getattr(self, f.name) != f.default:
                raise UserError(
                    f"--env-{f.name.replace('_', '-')} is {getattr(self, f.name)}; "
                    f"--env-{'exact' if self.exact else 'pixels'} steps Gymnasium's own "
                    "environment as it is, leave one of them out"
                )
        if self.frames > 1 and not self.pixels:
            raise UserError(
                f"--env-frames is {self.frames}; expected pictures to see, try --env-pixels 64"
            )

    @property
    def theirs(self) -> bool:
        """Whether it is Gymnasium's own code that is stepped: it alone can draw every copy."""
        return self.exact or bool(self.pixels)


def uniform(
    rng: torch.Generator, shape: tuple[int, ...], low: float, high: float
) -> Float[Tensor, "..."]:
    """Uniform samples in [low, high)."""
    return rand(shape, rng) * (high - low) + low


def log_uniform(
    rng: torch.Generator, shape: tuple[int, ...], low: float, high: float
) -> Float[Tensor, "..."]:
    """Samples whose logarithm is uniform, in [low, high)."""
    return uniform(rng, shape, math.log(low), math.log(high)).exp()


RESIDUES: dict[Split, tuple[int, ...]] = {
    "train": (0, 1, 2, 3, 4, 5, 6, 7), "valid": (8,), "test": (9,), "shifted": (9,),
}  # fmt: skip


def split_uniform(
    rng: torch.Generator, shape: tuple[int, ...], low: float, high: float, split: Split
) -> Float[Tensor, "..."]:
    """Uniform samples whose train, valid and test values can never be equal.

    [low, high) is cut into 10 000 slivers; a sliver's number modulo 10 decides its split: 0-7
    train, 8 valid, 9 test. Each split covers the whole range evenly, and no value is in two.
    A family gives one of its task's numbers this treatment, which makes the tasks disjoint.
    """
    residues = torch.tensor(RESIDUES[split], device=rng.device)
    choice = torch.randint(len(residues), shape, generator=rng, device=rng.device)
    group = torch.randint(1000, shape, generator=rng, device=rng.device)
    # Stay off the sliver's edges, where float32 rounding could cross into the neighbour.
    inside = uniform(rng, shape, 0.05, 0.95)
    unit = (group * 10 + residues[choice] + inside) / 10_000
    return unit * (high - low) + low


def split_log_uniform(
    rng: torch.Generator, shape: tuple[int, ...], low: float, high: float, split: Split
) -> Float[Tensor, "..."]:
    """As ``split_uniform`` in the logarithm; ``shifted`` lies beyond ``high``, up to half more."""
    start, end = math.log(low), math.log(high)
    if split == "shifted":
        start, end = end, end + (end - start) / 2
    return split_uniform(rng, shape, start, end, split).exp()


def split_of(value: Float[Tensor, "..."], low: float, high: float) -> Shaped[Tensor, "..."]:
    """Residue (0-9) of the sliver a value of ``split_uniform`` lies in; for checks."""
    return ((value.double() - low) / (high - low) * 10_000).floor().long() % 10


class TensorTaskEnv:
    """Steps a family given as five pure functions and one that draws tasks.

    Subclasses set ``name`` and implement ``draw_tasks``, ``initial``, ``transition``,
    ``observation``, ``reward`` and ``terminal``; their state is a tensor dict with leaves
    ``(N, E, ...)`` and task parameters arrive as ``(N, 1, ...)``, ready to broadcast over lanes.
    All run on the device of the generator given to ``reset``.
    """

    name: str
    obs_dim: int
    action_kind: Literal["box", "discrete"] = "box"
    action_dim: int
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    num_tasks: int | None = None
    trial_episodes: int | None = None
    command_dim: int = 0
    split_sizes: tuple[tuple[Split, int], ...] = ()
    picture: Picture | None = None
    """What a row of bytes holds, where observations are pictures."""
    reward_fn: RewardFn | None = None
    """The reward as a function of what is seen, for planners; a static method where it is one."""

    def __init__(self, cfg: EnvConfig, horizon: int) -> None:
        if horizon < 1:
            raise UserError(f"--env-horizon is {horizon}; expected at least 1 step")
        self.cfg = cfg
        self.steps_taken = 0
        task_dim = self.task_features(
            self.sample_tasks(1, "train", torch.Generator().manual_seed(0))
        ).shape[-1]
        self.spec = EnvSpec(
            self.name, self.obs_dim, self.action_kind, self.action_dim, self.action_low,
            self.action_high, horizon, self.num_tasks, task_dim, self.trial_episodes,
            belief=self.belief(), reward_fn=self.reward_fn, command_dim=self.command_dim,
            split_sizes=self.split_sizes, picture=self.picture,
        )  # fmt: skip

    # ---- what a family writes -------------------------------------------------------------

    def draw_tasks(
        self, n: int, split: Split, rng: torch.Generator
    ) -> dict[str, Shaped[Tensor, "n ..."]]:
        """Parameters of ``n`` new tasks, each ``(n, ...)``."""
        raise NotImplementedError

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """First state of an episode on every lane (N, E)."""
        raise NotImplementedError

    def restart(self, state: State, tasks: dict[str, Tensor], rng: torch.Generator) -> State:
        """First state of the next episode of a trial; a family whose world goes on overrides it."""
        return self.initial(self.lanes, tasks, rng)

    def transition(
        self, state: State, action: Tensor, tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """The next state; the action arrives clipped, in the environment's own units."""
        raise NotImplementedError

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Shaped[Tensor, "n e o"]:
        """What the policy sees; never the task."""
        raise NotImplementedError

    def reward(
        self,
        state: State,
        action: Tensor,
        next_state: State,
        tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:
        """Reward of the step."""
        raise NotImplementedError

    def terminal(self, state: State, tasks: dict[str, Tensor]) -> Shaped[Tensor, "n e"] | None:
        """True where the MDP has ended; None for a family that never ends early."""
        return None

    def success(self, next_state: State, tasks: dict[str, Tensor]) -> Shaped[Tensor, "n e"] | None:
        """True where the task counts as solved at this step; None where that has no meaning."""
        return None

    def info(self, state: State) -> dict[str, Shaped[Tensor, "n e"]]:
        """Numbers for metrics, of the step that begins in ``state``."""
        return {}

    def task_features(self, tasks: Tasks) -> Float[Tensor, "n d"]:
        """All parameters, flattened; a family whose numbers are not of order one rescales them."""
        return torch.cat([v.reshape(tasks.num, -1).float() for v in tasks.params.values()], -1)

    def optimum(self, tasks: Tasks) -> Float[Tensor, " n"] | None:
        """Known best expected return per task; None where nobody knows."""
        return None

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Scores of known methods by name: returns of episodes 1 to k of a trial on each task."""
        return {}

    def belief(self) -> Belief | None:
        """The exact posterior over tasks; None where it is not known."""
        return None

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """A picture of one lane; the state and the task come without their lane axes."""
        raise UserError(f"{self.name} has no picture; try `precocial report` for its curves")

    # ---- the TaskEnv protocol -------------------------------------------------------------

    def sample_tasks(self, n: int, split: Split, rng: torch.Generator) -> Tasks:
        """N tasks; ids are stable for a fixed pool and a finite family."""
        if n < 1:
            raise UserError(f"{n} tasks were asked for; expected at least 1")
        if split == "train" and self.cfg.train_tasks:
            pool = self.draw_tasks(
                self.cfg.train_tasks, split, torch.Generator(rng.device).manual_seed(20_260)
            )
            pick = torch.randint(self.cfg.train_tasks, (n,), generator=rng, device=rng.device)
            return Tasks({k: v[pick] for k, v in pool.items()}, pick)
        params = self.draw_tasks(n, split, rng)
        return Tasks(params, params.get("id", torch.arange(n, device=rng.device)))

    def reset(self, tasks: Tasks, lanes: int, rng: torch.Generator) -> Shaped[Tensor, "n e o"]:
        """Start an episode on every lane."""
        self._prepare(tasks, lanes, rng)
        self.state = self.initial(self.lanes, self.tasks, rng)
        self.time = torch.zeros(self.lanes, dtype=torch.long, device=rng.device)
        self.latest = 0  # no lane's clock can be ahead of this
        return self.observation(self.state, self.tasks)

    def leave(self) -> State:
        """Where every lane stands, each ``(N, E, ...)``."""
        return {f"state/{k}": v for k, v in self.state.items()} | {"time": self.time.clone()}

    def enter(self, tasks: Tasks, standing: State, rng: torch.Generator) -> Shaped[Tensor, "n e o"]:
        """Go on from where ``leave`` left."""
        self.time = standing["time"].clone()
        self._prepare(tasks, self.time.shape[1], rng)
        self.state = {
            k.removeprefix("state/"): v for k, v in standing.items() if k.startswith("state/")
        }
        self.latest = int(self.time.max())
        return self.observation(self.state, self.tasks)

    def _prepare(self, tasks: Tasks, lanes: int, rng: torch.Generator) -> None:
        self.lanes, self.rng = (tasks.num, lanes), rng
        low, high = (
            torch.tensor(x, device=rng.device) for x in (self.action_low, self.action_high)
        )
        self.bounds = low, high
        self.switch(tasks)

    def switch(self, tasks: Tasks) -> None:
        """The world changes, the state stays."""
        self.tasks = {k: v.to(self.rng.device).unsqueeze(1) for k, v in tasks.params.items()}

    def step(self, action: Tensor) -> Step:
        """One step on every lane; ended episodes restart in place."""
        if self.action_kind == "box":
            action = self.scale(action)
        following = self.transition(self.state, action, self.tasks, self.rng)
        self.reached = following
        reward = self.reward(self.state, action, following, self.tasks, self.rng)
        next_obs = self.observation(following, self.tasks)
        terminated = self.terminal(following, self.tasks)
        success = self.success(following, self.tasks)
        info = self.info(self.state)
        if success is not None:
            info["success"] = success.float()
        self.steps_taken += reward.numel()
        self.time += 1
        self.latest += 1
        truncated = self.time >= self.spec.horizon
        if terminated is None:
            terminated, ended = torch.zeros_like(truncated), truncated
        else:
            truncated &= ~terminated
            ended = truncated | terminated
        may_end = self.latest >= self.spec.horizon or self.terminal_is_possible
        if may_end and bool(ended.any()):
            with only_where(ended, self.rng):
                fresh = self.restart(following, self.tasks, self.rng)
            self.state = {k: _where(ended, fresh[k], v) for k, v in following.items()}
            self.time = self.time.masked_fill(ended, 0)
            if bool(ended.all()):
                self.latest = 0
            obs = self.observation(self.state, self.tasks)
        else:
            self.state, obs = following, next_obs
        return Step(obs, next_obs, reward, terminated, truncated, info)

    @property
    def terminal_is_possible(self) -> bool:
        """Whether an episode can end before its time limit."""
        return type(self).terminal is not TensorTaskEnv.terminal

    def scale(self, action: Float[Tensor, "n e a"]) -> Float[Tensor, "n e a"]:
        """Policy units to environment units: +-1 spans the bounds; clipped."""
        return torch.lerp(*self.bounds, (action.clamp(-1, 1) + 1) / 2)

    def render(self, task: int, lane: int) -> UInt8[np.ndarray, "h w 3"]:
        """A picture of the lane as it stands."""
        return self._picture(self.state, task, lane)

    def render_end(self, task: int, lane: int) -> UInt8[np.ndarray, "h w 3"]:
        """The same as the last step left it: an episode that it ended has not restarted yet."""
        return self._picture(self.reached, task, lane)

    def _picture(self, state: State, task: int, lane: int) -> UInt8[np.ndarray, "h w 3"]:
        one = {k: v[task, lane].cpu() for k, v in state.items()}
        return self.draw(one, {k: v[task, 0].cpu() for k, v in self.tasks.items()}, 320)

    def close(self) -> None:
        """Nothing to release."""


def _where(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.reshape(mask.shape + (1,) * (old.ndim - mask.ndim)), new, old)
