"""What steps many simulations of one robot at once: fast, or equal to Gymnasium to the bit."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import mujoco
import numpy as np
from jaxtyping import Float64, Int
from mujoco.rollout import Rollout

from precocial.envs.mujoco.state import FULL, Array, State


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


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
