"""The way back: a registered family as an ordinary Gymnasium environment with one task."""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Shaped, UInt8
from torch import Tensor

from precocial.envs import ENVS
from precocial.envs.registration import register_all as register_all
from precocial.types import Split, Tasks, UserError


class TaskGymEnv(gymnasium.Env):
    """One lane of a family, which keeps its task until ``set_task``.

    The observation is the family's; actions are in the family's own units. Episodes end by
    themselves: no ``TimeLimit`` is needed.

    Args:
        family: A name in ``ENVS``, e.g. ``"point-nav"``.
        render_mode: ``"rgb_array"`` or None.
        task_seed: Draws the first task, from the training split.
        options: Fields of the family's config, e.g. ``horizon=50``.

    Raises:
        UserError: An unknown option, or a value without a meaning.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(
        self, family: str, render_mode: str | None = None, task_seed: int = 0, **options: Any
    ) -> None:
        config = ENVS[family].config
        known = [field.name for field in dataclasses.fields(config)]
        for option in options:
            if option not in known:
                close = get_close_matches(option, known, n=2) or known
                raise UserError(
                    f"{family} has no option {option!r}; did you mean {' or '.join(close)}?"
                )
        cfg = config(**options)
        self.family = ENVS[family].cls(cfg)
        self.render_mode = render_mode
        # The policy output that spans the action bounds, where the family lets one choose.
        self.action_scale = float(getattr(cfg, "action_scale", 1.0))
        spec = self.family.spec
        if spec.picture:
            self.observation_space = spaces.Box(0, 255, spec.obs_shape, np.uint8)
        else:
            self.observation_space = spaces.Box(-np.inf, np.inf, spec.obs_shape, np.float32)
        if spec.action_kind == "discrete":
            self.action_space: spaces.Space = spaces.Discrete(spec.action_dim)
        else:
            low, high = np.float32(spec.action_low), np.float32(spec.action_high)
            self.action_space = spaces.Box(low, high, dtype=np.float32)
        self.max_episode_steps = spec.horizon
        self.playing = False
        rng = torch.Generator().manual_seed(task_seed)
        self.set_task(self._unpack(self.family.sample_tasks(1, "train", rng))[0])

    # ---- the task -------------------------------------------------------------------------

    def sample_tasks(self, n: int, split: Split = "train") -> list[dict[str, np.ndarray]]:
        """Draw ``n`` tasks, each a dict of arrays such as ``{"goal": (2,)}``."""
        rng = torch.Generator().manual_seed(int(self.np_random.integers(2**31 - 1)))
        return self._unpack(self.family.sample_tasks(n, split, rng))

    def set_task(self, task: dict[str, np.ndarray]) -> None:
        """Play this task from now on; an episode under way goes on from its state."""
        self.task = task
        if self.playing:
            self.family.switch(self._tasks())

    def get_task(self) -> dict[str, np.ndarray]:
        """The task being played."""
        return self.task

    # ---- the gymnasium.Env interface --------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Shaped[np.ndarray, "*o"], dict[str, Any]]:
        """Start an episode; ``seed`` has no influence on the task."""
        super().reset(seed=seed)
        self.playing = True
        rng = torch.Generator().manual_seed(int(self.np_random.integers(2**31 - 1)))
        return self._out(self.family.reset(self._tasks(), 1, rng)), {}

    def step(
        self, action: Any
    ) -> tuple[Shaped[np.ndarray, "*o"], float, bool, bool, dict[str, Any]]:
        """One step; the observation is the true successor."""
        step = self.family.step(self._to_policy_units(action))
        terminated, truncated = bool(step.terminated), bool(step.truncated)
        if self.max_episode_steps == 1:  # Gymnasium takes a first step cut by the clock for a fault
            terminated, truncated = True, False
        info = {name: float(value) for name, value in step.info.items()}
        return self._out(step.next_obs), float(step.reward), terminated, truncated, info

    def render(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """A picture, where the family can draw one."""
        return None if self.render_mode is None else self.family.render(0, 0)

    def close(self) -> None:
        """Release the family."""
        self.family.close()

    # ---- within ---------------------------------------------------------------------------

    def _tasks(self) -> Tasks:
        params = {k: torch.as_tensor(v)[None] for k, v in self.task.items()}
        return Tasks(params, torch.zeros(1, dtype=torch.long))

    def _to_policy_units(self, action: Any) -> Tensor:
        """The family takes raw policy samples, whose +-``action_scale`` spans the bounds."""
        if isinstance(self.action_space, spaces.Discrete):
            return torch.tensor([[int(action)]])
        assert isinstance(self.action_space, spaces.Box)
        low, high = self.action_space.low, self.action_space.high
        unit = (np.asarray(action, np.float64) - low) / (high - low) * 2 - 1
        return torch.as_tensor(unit * self.action_scale, dtype=torch.float32)[None, None]

    def _out(self, obs: Shaped[Tensor, "1 1 o"]) -> Shaped[np.ndarray, "*o"]:
        spec = self.family.spec
        return obs[0, 0].cpu().reshape(spec.obs_shape).numpy().copy()  # callers keep it

    @staticmethod
    def _unpack(tasks: Tasks) -> list[dict[str, np.ndarray]]:
        return [{k: v[i].cpu().numpy() for k, v in tasks.params.items()} for i in range(tasks.num)]
