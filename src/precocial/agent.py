"""What a user holds: a trained run, and learners in a loop of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
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

    def act(self, obs: Any, *, explore: bool = True) -> Any:
        """An action in the environment's units; ``explore=False`` for the most likely one."""
        raw = self.raw = self.inner.act(self.encode(obs), explore=explore)
        env = self.trained.env
        if env.spec.action_kind == "discrete":
            action = raw.cpu().numpy() + getattr(env, "action_start", 0)
            return int(action[0, 0]) if self.axes == (1, 1) else action
        unit = raw.cpu() / env.spec.action_scale
        low, high = torch.tensor(env.spec.action_low), torch.tensor(env.spec.action_high)
        action = torch.lerp(low, high, (unit.clamp(-1, 1) + 1) / 2).numpy()
        space = getattr(env, "action_space", None)  # of a user's environment
        if space is not None:
            action = action.astype(space.dtype).reshape(*self.axes, *space.shape)
        return action[0, 0] if self.axes == (1, 1) else action

    def observe(self, next_obs: Any, reward: Any, terminated: Any, truncated: Any) -> None:
        """Tell what the last action led to; ``next_obs`` as ``env.step`` returned it.

        Raises:
            UserError: nothing was acted yet, or a shape is wrong.
        """
        if self.raw is None:
            raise UserError("observe() before any act(); expected act, env.step, observe")
        following = self.encode(next_obs)
        step = Step(
            following, following, self._shape(reward, torch.float32),
            self._shape(terminated, torch.bool), self._shape(truncated, torch.bool), {},
        )  # fmt: skip
        self.inner.observe(self.raw, step)

    def adapt(self) -> None:
        """Learn from everything observed since the last call."""
        self.inner.adapt()

    def save(self, path: Path | str) -> None:
        """Write the adapted learner to one file."""
        state = {"learner": self.inner.state_dict(), "axes": list(self.axes)}
        checkpoint.save(Path(path), state)

    def encode(self, obs: Any) -> Tensor:
        """(N, E, O) from the environment's own observation."""
        env = self.trained.env
        flat = env.encode(obs) if self.axes == (1, 1) and hasattr(env, "encode") else obs
        tensor = torch.as_tensor(np.asarray(flat), dtype=torch.float32)
        expected = (*self.axes, env.spec.obs_dim)
        if tensor.numel() != int(np.prod(expected)):
            raise UserError(
                f"the observation has shape {tuple(tensor.shape)}; expected "
                f"{expected if self.axes != (1, 1) else (env.spec.obs_dim,)}"
            )
        return tensor.reshape(expected).to(self.trained.plan.run.device)

    def _shape(self, value: Any, dtype: torch.dtype) -> Tensor:
        tensor = torch.as_tensor(value, dtype=dtype, device=self.trained.plan.run.device)
        return tensor.reshape(self.axes)


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
