"""The training loop, and what it keeps in the run folder."""

from __future__ import annotations

import copy
import math
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from precocial import memory, threads
from precocial.algos.transfer.begin import begin
from precocial.envs.own.source import warn_if_changed
from precocial.evaluation.curve import Curve, adaptation_curve, final_returns
from precocial.runs import checkpoint
from precocial.runs.folder import (
    SOURCE,
    build_algorithm,
    build_env,
    claimed,
    create_folder,
    draw_tasks,
    load_state,
    read_plan,
    require_fit,
    require_machine,
    write_config,
)
from precocial.runs.parts import Parts
from precocial.runs.plan import Plan, plan, with_overrides
from precocial.runs.progress import Progress
from precocial.runs.tracker import Tracker
from precocial.seeding import derive, generator
from precocial.signals import held
from precocial.types import Metrics, Remembering, TaskEnv, Tasks, UserError


def run(folder: Path, iterations: int | None = None, *, quiet: bool = False) -> Path:
    """Train the run in ``folder`` from where it stands to its end (or to ``iterations``).

    Raises:
        UserError: wrong input, a run that another process trains, a failing environment, or three
            iterations in a row whose numbers were not finite. The folder stays resumable.
        KeyboardInterrupt: Ctrl-C, after saving a checkpoint.
    """
    with ExitStack() as stack:
        stack.enter_context(claimed(folder))
        p = read_plan(folder)
        require_machine(p)
        loop = stack.enter_context(closing(Loop(p, folder.absolute(), quiet=quiet)))
        if iterations is not None:
            go_on_to(iterations, loop, folder)
        loop.run()
    return folder


def require_more(iterations: int, loop: Loop, folder: Path) -> None:
    """Refuse an end that lies behind a run.

    Raises:
        UserError: it has done more iterations.
    """
    if iterations < loop.iteration:
        raise UserError(
            f"--iterations is {iterations}; expected at least the {loop.iteration} that {folder} "
            "has done"
        )


def go_on_to(iterations: int, loop: Loop, folder: Path) -> None:
    """Let a run end after so many iterations; one that ``--stop-at`` had ended forgets that.

    Raises:
        UserError: it has done more.
    """
    require_more(iterations, loop, folder)
    changed: dict[str, Any] = {"iterations": iterations}
    if loop.reached_in_a_row >= TWICE and iterations > loop.iteration:
        changed["stop_at"], loop.reached_in_a_row = None, 0
    if changed != {"iterations": loop.plan.run.iterations}:
        document = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        document["run"] |= changed
        write_config(folder, document)
        loop.plan = with_overrides(loop.plan, changed)


TWICE = 2
"""Evaluations in a row that must reach ``--stop-at``: one may be luck."""


class Loop:
    """One run, from its latest checkpoint on.

    Args:
        p: Its plan.
        folder: Its folder.
        quiet: No progress output.
        envs: To train and to validate in, where several runs share them; else it has its own.
    """

    def __init__(
        self, p: Plan, folder: Path, *, quiet: bool, envs: tuple[TaskEnv, TaskEnv] | None = None
    ) -> None:
        self.plan, self.folder, self.quiet = p, folder, quiet
        self.iteration, self.env_steps, self.skipped_in_a_row = 0, 0, 0
        self.best, self.reached_in_a_row = -math.inf, 0
        with ExitStack() as stack:
            if envs is None:
                envs = (
                    stack.enter_context(closing(build_env(p))),
                    stack.enter_context(closing(build_env(p))),
                )
            self.env, self.valid_env = envs
            warn_if_changed(p.env, p.source)
            self.algorithm = build_algorithm(p, self.env)
            if p.transfer is not None:
                begin(self.algorithm, p.transfer, checkpoint.load(folder / SOURCE))
            self.parts: Parts | None = None
            if isinstance(self.algorithm, Remembering):
                self.parts = Parts(folder / "checkpoint" / "parts", self.algorithm.replay)
            if (folder / "checkpoint" / "last.safetensors").is_file():
                state = load_state(folder, self.algorithm, "last", p.run.device)
                self.iteration, self.best = int(state["iteration"]), float(state["best"])
                self.skipped_in_a_row = int(state["skipped_in_a_row"])
                self.env_steps = int(state["env_steps"])
                self.reached_in_a_row = int(state.get("reached_in_a_row", 0))
                if self.parts and "parts" in state:
                    first = int(state.get("parts_first", 0))
                    self.parts.load(first, state["parts"], p.run.device)
            self.before = self.snapshot()
            self.close = stack.pop_all().close
            """Close both environments, if they are its own."""

    def run(self) -> None:
        """Iterate to the end; save on every way out."""
        run = self.plan.run
        tracker = Tracker(self.folder, self.iteration)
        progress = Progress(run.iterations, self.iteration, run.env_steps, quiet=self.quiet)
        memory.keep()
        try:
            with progress.on_screen(), self.resumable(), threads.shared():
                if self.begins:
                    tracker.log(-1, 0, self.validate())
                while not self.done:
                    metrics = self.iterate()
                    self.iteration += 1
                    if self.validates:
                        metrics |= self.validate()
                    self.log(tracker, metrics)
                    progress.show(self.iteration, self.env_steps, metrics)
            self.finish()
        finally:
            tracker.close()

    def log(self, tracker: Tracker, metrics: Metrics) -> None:
        """Put down the iteration that has just ended, and save where that is due."""
        tracker.log(self.iteration - 1, self.env_steps, metrics)
        if self.iteration % self.plan.run.save_every == 0:
            self.save("last")

    def finish(self) -> None:
        """Save the end of the run."""
        self.save("last")
        if self.best == -math.inf:  # nothing was validated: the latest is the best known
            self.save("best")

    def snapshot(self) -> tuple[Any, ...]:
        """All that an iteration changes, and the length of what it adds to."""
        state = copy.deepcopy(self.algorithm.state_dict())
        return state, len(self.parts.grown) if self.parts else 0, self.counters()

    def counters(self) -> dict[str, Any]:
        """How far it is; saved with what it learned."""
        return {
            "iteration": self.iteration, "env_steps": self.env_steps, "best": self.best,
            "skipped_in_a_row": self.skipped_in_a_row, "reached_in_a_row": self.reached_in_a_row,
        }  # fmt: skip

    def restore(self) -> None:
        """Undo the iteration under way."""
        self.undo_learning()
        vars(self).update(self.before[2])

    def undo_learning(self) -> None:
        """Take back what the algorithm learned and kept since the snapshot."""
        state, length, _ = self.before
        self.algorithm.load_state_dict(state)
        if self.parts:
            self.parts.grown.shrink(length)

    def share_done(self) -> float:
        """How much of the run is done, by iterations or by ``--env-steps``, whichever is more."""
        run = self.plan.run
        by_steps = self.env_steps / run.env_steps if run.env_steps else 0.0
        return min(1.0, max(self.iteration / run.iterations, by_steps))

    @property
    def done(self) -> bool:
        """Whether ``--iterations``, ``--env-steps`` or ``--stop-at`` is reached."""
        run = self.plan.run
        return (
            self.iteration >= run.iterations
            or bool(run.env_steps and self.env_steps >= run.env_steps)
            or self.reached_in_a_row >= TWICE
        )

    @property
    def begins(self) -> bool:
        """Whether an evaluation is due before the first iteration."""
        return self.plan.run.eval_first and self.iteration == 0

    @property
    def validates(self) -> bool:
        """Whether an evaluation is due after the iteration that has just ended."""
        every = self.plan.run.eval_every
        return bool(every) and self.iteration % every == 0

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """On any exception, save the state at the start of the iteration it broke."""
        try:
            yield
        except BaseException as error:
            self.give_up(error)
            raise

    def give_up(self, error: BaseException) -> None:
        """Save the state at the start of the iteration that the error broke."""
        self.restore()
        self.save("last")
        if not isinstance(error, KeyboardInterrupt):
            text = getattr(error, "trace", "") or traceback.format_exc()
            (self.folder / "error.log").write_text(text, encoding="utf-8")

    def iterate(self) -> Metrics:
        """One outer iteration, undone if its numbers are not finite."""
        self.before = self.snapshot()
        threads.adjust()
        started, steps = time.perf_counter(), self.env.steps_taken
        metrics = self.algorithm.meta_update(self.env, *self.begin())
        return self.end(metrics, self.env.steps_taken - steps, started)

    def begin(self) -> tuple[Tasks, torch.Generator]:
        """Tasks and randomness of the iteration."""
        run = self.plan.run
        # Tasks are always drawn on the CPU, so that they are the same on every device.
        tasks = draw_tasks(
            self.plan, self.env, self.plan.algo_config.num_tasks, "train",
            generator(run.seed, "tasks", self.iteration),
        )  # fmt: skip
        self.algorithm.progress = self.share_done()
        return tasks, generator(run.seed, "rollout", self.iteration, device=run.device)

    def end(self, metrics: Metrics, env_steps: int, started: float) -> Metrics:
        """Accept what an iteration of so many steps has done, or undo it."""
        self.env_steps += env_steps
        metrics = {k if "/" in k else f"train/{k}": v for k, v in metrics.items()}
        if self.finite(metrics):
            self.skipped_in_a_row = 0
        else:
            self.undo_learning()
            self.skipped_in_a_row += 1
            metrics = {k: v for k, v in metrics.items() if math.isfinite(v)} | {"loss/skipped": 1.0}
            if self.skipped_in_a_row >= 3:
                raise UserError(
                    f"losses or parameters were not finite in three iterations in a row, the last "
                    f"{self.iteration}; the checkpoint before them is kept in {self.folder}: try a "
                    "smaller rate (--lr, --outer-lr, --inner-lr, --vae-lr), or check the "
                    "environment's rewards"
                )
        metrics["time/iteration_s"] = time.perf_counter() - started
        return metrics

    def finite(self, metrics: Metrics) -> bool:
        """Whether all numbers, parameters and new data are."""
        new = self.parts.grown.rows(self.before[1]) if self.parts else {}
        leaves = torch.utils._pytree.tree_leaves((self.algorithm.state_dict(), new))
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        return all(math.isfinite(v) for v in metrics.values()) and all(
            bool(torch.isfinite(x).all()) for x in tensors
        )

    def validate(self) -> Metrics:
        """Adaptation curve on the valid tasks."""
        run, started = self.plan.run, time.perf_counter()
        curve = adaptation_curve(
            self.algorithm, self.valid_env, self.valid_tasks(), stages=self.algorithm.num_stages,
            lanes=self.plan.algo_config.lanes, seed=derive(run.seed, "valid"), device=run.device,
        )  # fmt: skip
        return self.judge(curve, started)

    def valid_tasks(self) -> Tasks:
        """The same in every evaluation."""
        run = self.plan.run
        rng = generator(run.seed, "valid tasks")
        return draw_tasks(self.plan, self.valid_env, run.eval_tasks, "valid", rng)

    def judge(self, curve: Curve, started: float) -> Metrics:
        """What a curve says; keeps the best checkpoint, and sees whether the run may stop."""
        metrics: Metrics = {}
        for k, value in enumerate(curve.returns.mean(0)):
            suffix = f"_adapt_{k}" if k else ""
            metrics[f"valid/episode_reward_mean{suffix}"] = float(value)
        final = float(final_returns(self.algorithm, curve).mean())
        if final > self.best:
            self.save("best")
            self.best = final
        stop_at = self.plan.run.stop_at
        if stop_at is not None and self.iteration:
            self.reached_in_a_row = self.reached_in_a_row + 1 if final >= stop_at else 0
        metrics["time/valid_s"] = time.perf_counter() - started
        return metrics

    @held()
    def save(self, name: str) -> None:
        """Write ``checkpoint/NAME.safetensors``; only ``last``, which goes on, stands on data."""
        state = {"algorithm": self.algorithm.state_dict()} | self.counters()
        parts = self.parts if name == "last" else None
        if parts:
            state["parts_first"], state["parts"] = parts.save()
        checkpoint.save(self.folder / "checkpoint" / f"{name}.safetensors", state)
        if parts:
            parts.tidy()


def train(
    algo: str,
    env: str,
    preset: str = "default",
    *,
    out: Path | str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **overrides: Any,
) -> Path:
    """Train and return the run folder.

    Args:
        algo: Algorithm, see ``precocial list algos``.
        env: Registered family, Gymnasium id or ``module:Class``.
        preset: Named settings for the pair.
        out: Run folder; default ``runs/ALGO-ENV-SEED``.
        overwrite: Replace an existing folder.
        quiet: No progress output.
        overrides: Any setting of the run, the algorithm or (prefix ``env_``) the family.

    Raises:
        UserError: an unknown name, a value without a meaning, a failing environment.
    """
    p = require_fit(plan(algo, env, preset, **overrides))
    folder = Path(out) if out is not None else p.folder
    create_folder(p, folder, overwrite=overwrite)
    return run(folder, quiet=quiet)
