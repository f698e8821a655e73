"""What a user holds: a trained run, and learners in a loop of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
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
        rng = generator(seed, "agent", device=self.plan.run.device)
        inner = self.algorithm.learner(num_tasks, lanes, rng)
        return Agent(self, inner, num_tasks, lanes)


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

    def adapt(self) -> None:
        """Learn from everything observed since the last call."""
        self.inner.adapt()

    def save(self, path: Path | str) -> None:
        """Write the adapted learner to one file."""
        state = {"learner": self.inner.state_dict(), "axes": list(self.axes)}
        checkpoint.save(Path(path), state)

    def encode(self, obs: Any) -> Float[Tensor, "n e o"]:
        """A copy of the environment's own observation, flat, as the policy sees it."""
        env: Any = self.trained.env
        if hasattr(env, "encode"):  # a user's environment
            lanes = [obs] if self.axes == (1, 1) else self._lanes(obs, env.observation_space)
            obs = np.stack([env.encode(one) for one in lanes]).reshape(*self.axes, -1)
        flat = torch.tensor(np.asarray(obs), dtype=torch.float32)
        whole = (*self.axes, env.spec.obs_dim)
        expected = whole[2:] if self.axes == (1, 1) else whole
        if tuple(flat.shape) not in (expected, whole):
            raise UserError(f"the observation has shape {tuple(flat.shape)}; expected {expected}")
        self._require_finite(flat, "the observation")
        return flat.reshape(whole).to(self.trained.plan.run.device)

    def _lanes(self, obs: Any, space: spaces.Space) -> list[Any]:
        """The observations of all lanes one after the other; each array is (N, E, ...)."""
        if (
            isinstance(space, spaces.Dict)
            and isinstance(obs, Mapping)
            and obs.keys() == space.keys()
        ):
            columns = [self._lanes(obs[k], space[k]) for k in space]
            return [dict(zip(space, lane, strict=True)) for lane in zip(*columns, strict=True)]
        if isinstance(space, spaces.Tuple) and isinstance(obs, tuple) and len(obs) == len(space):
            return list(zip(*map(self._lanes, obs, space), strict=True))
        if space.shape is None:
            raise UserError(
                f"the observation holds a {type(obs).__name__}; expected one "
                f"{type(space).__name__}, each of its arrays with axes of tasks and lanes in front"
            )
        array, expected = np.asarray(obs), (*self.axes, *space.shape)
        if array.shape != expected:
            raise UserError(
                f"the observation has shape {array.shape}; expected {expected}: tasks, lanes, and "
                "an observation's own"
            )
        return list(array.reshape(-1, *space.shape))

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
        tensor = torch.tensor(np.asarray(value), dtype=dtype)
        if tensor.numel() != 1 if self.axes == (1, 1) else tuple(tensor.shape) != self.axes:
            raise UserError(
                f"{name} has shape {tuple(tensor.shape)}; expected "
                f"{'one value' if self.axes == (1, 1) else self.axes}"
            )
        self._require_finite(tensor, name)
        return tensor.reshape(self.axes).to(self.trained.plan.run.device)

    @staticmethod
    def _require_finite(tensor: Tensor, name: str) -> None:
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"{name} holds NaN or infinity; the learner was not told and is as it was"
            )


def load(folder: Path | str, which: str = "last") -> Trained:
    """Load a run folder; ``which`` is ``last`` or ``best`` (by return on valid tasks).

    Raises:
        UserError: no run folder, or a damaged checkpoint.
    """
    return Trained(*load_algorithm(Path(folder), which))


def load_agent(folder: Path | str, path: Path | str) -> Agent:
    """The adapted learner that ``Agent.save`` wrote, for the run it came from."""
    trained = load(folder)
    state = checkpoint.load(Path(path), trained.plan.run.device)
    agent = trained.learner(*state["axes"])
    agent.inner.load_state_dict(state["learner"])
    return agent
