"""What a user holds: a trained run, and learners in a loop of one's own."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float32, Shaped, UInt8
from torch import Tensor

from precocial.algos import ALGOS
from precocial.runs import checkpoint
from precocial.runs.folder import load_algorithm
from precocial.runs.plan import Plan
from precocial.seeding import generator
from precocial.types import Algorithm, Learner, Step, TaskEnv, UserError


class Trained:
    """A trained run: its plan, environment and algorithm."""

    def __init__(self, plan: Plan, env: TaskEnv, algorithm: Algorithm, iteration: int) -> None:
        self.plan, self.env, self.algorithm, self.iteration = plan, env, algorithm, iteration
        self.close = weakref.finalize(self, env.close)
        """Close the environment; done by itself with the last learner, or at exit."""

    def learner(self, num_tasks: int = 1, lanes: int = 1, seed: int = 0) -> Agent:
        """A fresh learner to use in a loop of your own: NumPy in, NumPy out.

        Args:
            num_tasks: Tasks learned in parallel (N).
            lanes: Episodes in parallel per task (E).
            seed: Of its exploration.
        """
        if ALGOS[self.plan.algo].sees_task:
            raise UserError(
                f"{self.plan.algo} needs the task's numbers in its observation, which no loop of "
                "yours has; load a run of another algorithm"
            )
        for name, count in (("num_tasks", num_tasks), ("lanes", lanes)):
            if count < 1:
                raise UserError(f"{name} is {count}; expected 1 or more")
        rng = generator(seed, "agent", device=self.plan.run.device)
        inner = self.algorithm.learner(num_tasks, lanes, rng)
        return Agent(self, inner, num_tasks, lanes)

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """Actions as Stable-Baselines3's ``predict`` gives them, for loops that are written for it.

        A method that updates acts as it stands before any update; ``Agent.predict`` acts as
        adapted. One with a memory, a belief or a model goes on with the state that it gave back,
        across episodes: a trial begins where ``state`` is None. It is not told rewards this way,
        and takes them for 0; the loop of ``learner`` tells it.

        Args:
            obs: One observation, or a batch of them: an array, of a Dict space a dict of arrays.
            state: What the last call gave back, for the same number of observations.
            episode_start: Whether each of them begins an episode (B,).
            deterministic: The most likely actions instead of samples.

        Raises:
            UserError: an observation of another shape.
        """
        lanes, many = self._count(obs)
        if state is None:
            state = self.learner(1, lanes, seed=int(torch.randint(2**31 - 1, ())))
        elif not isinstance(state, Agent) or state.axes != (1, lanes):
            raise UserError(
                f"the state is not that of {lanes} observations; expected None at first"
            )
        elif state.raw is not None:
            ended = np.zeros(lanes, bool) if episode_start is None else np.asarray(episode_start)
            seen = state.encode(_with_tasks(obs, lanes, many))
            zero = torch.zeros(1, lanes, device=seen.device)
            flags = torch.from_numpy(ended.astype(bool)).view(1, lanes).to(seen.device)
            state.inner.observe(state.raw, Step(seen, seen, zero, flags, flags & False, {}))
        found, _ = state.predict(obs, deterministic=deterministic)
        remembers = ALGOS[self.plan.algo].branch in ("memory", "inference", "model")
        return found, state if remembers else None

    def _count(self, obs: Any) -> tuple[int, bool]:
        """How many observations these are, and whether they came as a batch."""
        env: Any = self.env
        space = getattr(env, "observation_space", None)
        while isinstance(obs, dict) and isinstance(space, spaces.Dict):
            key = next(iter(space))
            obs, space = obs.get(key), space[key]
        shape = env.spec.obs_shape if space is None else tuple(space.shape or ())
        given = np.shape(obs)
        if given == shape:
            return 1, False
        if given[1:] == shape:
            return given[0], True
        raise UserError(f"the observation has shape {given}; expected {shape}, or a batch of them")


def _with_tasks(obs: Any, lanes: int, many: bool) -> Any:
    """Observations with an axis for the one task, and for lanes where there are several."""
    if isinstance(obs, dict):
        return {k: _with_tasks(v, lanes, many) for k, v in obs.items()}
    array = np.asarray(obs)
    if lanes == 1:
        return array[0] if many else array
    return array[None]


class Agent:
    """A learner for any loop around any Gymnasium environment of the family.

    Observations and actions are the environment's own. With one task and one lane they come
    without the task and lane axes, as ``env.reset`` and ``env.step`` give and take them.
    """

    def __init__(self, trained: Trained, learner: Learner, num_tasks: int, lanes: int) -> None:
        self.trained, self.inner = trained, learner
        self.axes = (num_tasks, lanes)
        self.raw: Tensor | None = None
        """The action whose outcome is awaited, as the policy drew it."""
        self.awaited = False
        """Whether acting again before ``observe`` would lose a transition."""

    def act(self, obs: Any, *, explore: bool = True) -> Any:
        """An action in the environment's units; ``explore=False`` for the most likely one.

        Raises:
            UserError: the last action's outcome was not observed (the best action of a method that
                learns by updates need not be), the shape is wrong, or a number is not finite.
        """
        if self.awaited:
            raise UserError("act() twice in a row; expected act, env.step, observe")
        raw = self.raw = self.inner.act(self.encode(obs), explore=explore)
        self.awaited = explore or self.trained.algorithm.stage_unit == "episode"
        action = self.to_env_units(raw)
        if self.axes != (1, 1):
            return action
        discrete = self.trained.env.spec.action_kind == "discrete"
        return int(action[0, 0]) if discrete else action[0, 0]

    def observe(self, next_obs: Any, reward: Any, terminated: Any, truncated: Any) -> None:
        """Tell what the last action led to; ``next_obs`` as ``env.step`` returned it.

        Raises:
            UserError: nothing was acted since the last call, a shape is wrong, or a number is not
                finite. The learner is as it was before.
        """
        if self.raw is None:
            raise UserError("observe() without an act() before it; expected act, env.step, observe")
        following = self.encode(next_obs)
        step = Step(
            following, following, self._each(reward, "reward", torch.float32),
            self._each(terminated, "terminated", torch.bool),
            self._each(truncated, "truncated", torch.bool), {},
        )  # fmt: skip
        raw, self.raw, self.awaited = self.raw, None, False
        self.inner.observe(raw, step)

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """Actions of the learner as it is, as SB3's ``predict``; nothing is to be observed of them.

        One observation for each of its lanes, or one alone where it has one; the state is handed
        through.
        """
        lanes, many = self.trained._count(obs)
        if self.axes != (1, lanes):
            raise UserError(
                f"the learner has {self.axes[0]} tasks x {self.axes[1]} lanes, and {lanes} "
                "observations came; expected one for each"
            )
        self.raw = self.inner.act(
            self.encode(_with_tasks(obs, lanes, many)), explore=not deterministic
        )
        action = np.asarray(self.to_env_units(self.raw)[0])
        return (action if many else action[0]), state

    def adapt(self) -> None:
        """Learn from everything observed since the last call."""
        self.inner.adapt()

    def save(self, path: Path | str) -> None:
        """Write the adapted learner to one file."""
        state = {"learner": self.inner.state_dict(), "axes": list(self.axes)}
        checkpoint.save(Path(path), state)

    def encode(self, obs: Any) -> Shaped[Tensor, "n e o"]:
        """A copy of the environment's own observation, flat, as the policy sees it."""
        env: Any = self.trained.env
        device = self.trained.plan.run.device
        if hasattr(env, "encode"):  # a user's environment
            obs = env.encode(obs, () if self.axes == (1, 1) else self.axes)
            if env.spec.picture:
                return torch.tensor(obs).reshape(*self.axes, -1).to(device)
        elif env.spec.picture:
            return self._pixels(obs, env.spec.obs_shape).to(device)
        flat = self._numbers(obs, "the observation")
        whole = (*self.axes, env.spec.obs_dim)
        expected = whole[2:] if self.axes == (1, 1) else whole
        if tuple(flat.shape) not in (expected, whole):
            raise UserError(f"the observation has shape {tuple(flat.shape)}; expected {expected}")
        return flat.reshape(whole).to(device)

    def _pixels(self, obs: Any, shape: tuple[int, ...]) -> UInt8[Tensor, "n e o"]:
        """A copy of pictures, as rows of bytes."""
        array, expected = np.asarray(obs), shape if self.axes == (1, 1) else (*self.axes, *shape)
        if array.shape != expected or array.dtype != np.uint8:
            raise UserError(
                f"the observation has shape {array.shape} and dtype {array.dtype}; expected "
                f"{expected} uint8"
            )
        return torch.tensor(array).reshape(*self.axes, -1)

    def to_env_units(self, raw: Tensor) -> np.ndarray:
        """What a policy drew (N, E, ...) as the environment takes it, in its dtype and bounds."""
        env: Any = self.trained.env
        if hasattr(env, "to_env_units"):  # a user's environment, by the conversion of training
            rows: np.ndarray = env.to_env_units(raw)
            return rows.reshape(*self.axes, *rows.shape[1:])
        if env.spec.action_kind == "discrete":
            return raw.cpu().numpy().copy()
        unit = raw.cpu() / env.spec.action_scale
        low, high = torch.tensor(env.spec.action_low), torch.tensor(env.spec.action_high)
        action = torch.lerp(low, high, (unit.clamp(-1, 1) + 1) / 2)
        return action.clamp(low, high).numpy()

    def _each(self, value: Any, name: str, dtype: torch.dtype) -> Tensor:
        """A copy of one value per lane, (N, E)."""
        tensor = self._numbers(value, name)
        if tensor.numel() != 1 if self.axes == (1, 1) else tuple(tensor.shape) != self.axes:
            raise UserError(
                f"{name} has shape {tuple(tensor.shape)}; expected "
                f"{'one value' if self.axes == (1, 1) else self.axes}"
            )
        return tensor.reshape(self.axes).to(self.trained.plan.run.device, dtype)

    @staticmethod
    def _numbers(value: Any, name: str) -> Float32[Tensor, "*x"]:
        """A copy of them; NaN and infinity are refused."""
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        if array.dtype.kind not in "biuf":
            raise UserError(f"{name} is a {type(value).__name__}; expected numbers")
        tensor = torch.tensor(array, dtype=torch.float32)
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"{name} holds NaN or infinity; the learner was not told and is as it was"
            )
        return tensor


def load(folder: Path | str, which: str = "last") -> Trained:
    """Load a run folder; ``which`` is ``last`` or ``best`` (by return on valid tasks).

    Raises:
        UserError: no run folder, or a damaged checkpoint.
    """
    return Trained(*load_algorithm(Path(folder), which))


def load_agent(folder: Path | str, path: Path | str) -> Agent:
    """The adapted learner that ``Agent.save`` wrote, for the run it came from.

    Raises:
        UserError: no such file, a damaged one, or one of another algorithm or environment.
    """
    trained = load(folder)
    state = checkpoint.load(Path(path), trained.plan.run.device)
    try:
        agent = trained.learner(*state["axes"])
        agent.inner.load_state_dict(state["learner"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(
            f"{path} holds no learner of {trained.plan.algo} on {trained.plan.env}; expected what "
            f"a learner of {folder} saved"
        ) from error
    return agent
