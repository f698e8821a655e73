"""An environment of your own: hold a mass on a spring where it should be.

    cd examples
    precocial check-env own_env:Spring
    precocial train maml --env own_env:Spring

Nothing here knows about Precocial. It is an ordinary ``gymnasium.Env`` with three more methods:
``sample_tasks``, ``set_task`` and ``get_task``.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

Task = dict[str, float]


class Spring(gymnasium.Env):
    """A mass on a spring, pushed by a motor that may be wired the wrong way round.

    Observation: position (metres) and velocity (metres per second). Action: the motor's command,
    -1 to 1. Reward: minus the squared distance to 0.5 m. Start: near 0, almost at rest. End: after
    50 steps of 0.1 s.

    The task is the mass, the stiffness and the sign of the motor. None of them shows in the
    observation; whoever does not know the sign has to find it out first, by trying and adapting.
    """

    # Your time limit. (`TimeLimit`, or registering with `max_episode_steps`, does as well.)
    max_episode_steps = 50

    def __init__(self) -> None:
        # The task must not be in here: it has to be found out through reward and transition.
        self.observation_space = gymnasium.spaces.Box(-10.0, 10.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.task: Task = {"mass": 1.0, "stiffness": 1.0, "sign": 1.0}

    def sample_tasks(self, n: int) -> list[Task]:
        """Draw ``n`` tasks; anything may be a task, as long as ``set_task`` understands it.

        Draw from ``self.np_random``, so that a seed decides what comes.
        """
        return [
            {
                "mass": self.np_random.uniform(0.5, 1.5),  # kilograms
                "stiffness": self.np_random.uniform(0.5, 1.5),  # newtons per metre
                "sign": float(self.np_random.choice([-1.0, 1.0])),
            }
            for _ in range(n)
        ]

    def set_task(self, task: Task) -> None:
        """Play this task from now on, until told otherwise."""
        self.task = task

    def get_task(self) -> Task:
        """The task being played."""
        return self.task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start near 0 m; the start must not depend on the task."""
        super().reset(seed=seed)  # seeds self.np_random
        self.position, self.velocity = self.np_random.normal(0.0, 0.02, 2)
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One tenth of a second, in two half steps."""
        force = 2.0 * self.task["sign"] * float(action[0])  # newtons
        for _ in range(2):
            friction = 0.5 * self.velocity
            pull = self.task["stiffness"] * self.position
            self.velocity += 0.05 * (force - pull - friction) / self.task["mass"]
            self.position += 0.05 * self.velocity
        reward = -float((self.position - 0.5) ** 2)
        # Not terminated: nothing ends here for good. The time limit is `max_episode_steps`.
        return self.observe(), reward, False, False, {}

    def observe(self) -> np.ndarray:
        """Position and velocity."""
        return np.array([self.position, self.velocity], np.float32)
