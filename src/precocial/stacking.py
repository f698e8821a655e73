"""Many seeds of one setting as one batched program, each with an ordinary run folder.

A seed's run is what it would have been alone, to rounding: tasks, resets, steps and actions come
from its own generators, and it is validated, undone, saved, stopped and finished by itself. Seeds
that are done leave the batch; after a resume those that stand behind go first.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from precocial import memory, threads
from precocial.algos import class_of
from precocial.evaluation.curve import adaptation_curves
from precocial.runs.folder import build_env, claimed, read_plan, require_machine
from precocial.runs.plan import Plan, with_overrides
from precocial.runs.progress import Board
from precocial.runs.tracker import Tracker
from precocial.seeding import Generators, derive
from precocial.signals import held
from precocial.training import Loop, go_on_to, require_more
from precocial.types import Continuing, Metrics, Stackable, Tasks, UserError


def run_stacked(
    folders: Sequence[Path], iterations: int | None = None, *, quiet: bool = False
) -> dict[Path, str]:
    """Train the runs in ``folders``, seeds of one setting, together to their ends.

    Returns:
        What stopped the runs that failed, by folder; the others went on.

    Raises:
        UserError: the runs differ in more than their seed, or cannot be stacked.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after all have saved.
    """
    with ExitStack() as stack:
        plans = [read_plan(folder) for folder in folders]
        require_alike(plans)
        for folder in folders:
            stack.enter_context(claimed(folder))
        require_machine(plans[0])
        require_stackable(plans[0])
        env, valid_env = (stack.enter_context(closing(build_env(plans[0]))) for _ in range(2))
        loops = [
            Loop(p, folder.absolute(), quiet=True, envs=(env, valid_env))
            for p, folder in zip(plans, folders, strict=True)
        ]
        if iterations is not None:
            for step in (require_more, go_on_to):  # before any is changed all are asked
                for loop, folder in zip(loops, folders, strict=True):
                    step(iterations, loop, folder)
        failures = Stacked(loops, quiet=quiet).run()
    return {folder: failures[i] for i, folder in enumerate(folders) if i in failures}


def require_stackable(p: Plan) -> None:
    """Refuse what only one seed at a time can compute, before anything is written.

    Raises:
        UserError: the algorithm has no batched form, or the environment draws for all lanes.
    """
    if not issubclass(class_of(p.algo_config), Stackable):
        raise UserError(f"--stacked: {p.algo} has no batched form; train its seeds with --jobs")
    with closing(build_env(p)) as env:
        if not isinstance(env, Continuing):
            raise UserError(
                f"--stacked: {p.env} is stepped copy by copy, which takes one generator for all "
                "seeds; train them with --jobs"
            )


def is_stackable(p: Plan) -> bool:
    """Whether seeds of this setting can be computed as one."""
    try:
        require_stackable(p)
    except UserError:
        return False
    return True


def require_alike(plans: Sequence[Plan]) -> None:
    """Refuse to stack what are not seeds of one setting.

    They may end at different times, and begin from different sources or from none.

    Raises:
        UserError: two differ in something else.
    """
    own = ("seed", "iterations", "env_steps", "stop_at")
    for p in plans[1:]:
        same = with_overrides(p, {k: getattr(plans[0].run, k) for k in own})
        same = dataclasses.replace(same, transfer=plans[0].transfer)
        for field in dataclasses.fields(Plan):
            if getattr(same, field.name) != getattr(plans[0], field.name):
                raise UserError(
                    f"--stacked: the runs differ in {field.name}; expected seeds of one setting, "
                    "continue the others by themselves"
                )


class Stacked:
    """The loops of all seeds."""

    def __init__(self, loops: Sequence[Loop], *, quiet: bool) -> None:
        self.loops, self.board = loops, Board(len(loops), quiet=quiet)
        self.home = Path(os.path.commonpath([loop.folder.parent for loop in loops]))
        self.trackers = {loop: Tracker(loop.folder, loop.iteration) for loop in loops}
        self.failures: dict[int, str] = {}
        self.rows: dict[str, Metrics] = {}

    def run(self) -> dict[int, str]:
        """Iterate to the end of each; save on every way out."""
        active = list(self.loops)
        memory.keep()
        try:
            with self.board.on_screen(), threads.shared():
                for loop in active:
                    run = loop.plan.run
                    self.board.begin(self.name(loop), run.iterations, run.env_steps)
                with resumable(active):
                    for loop, its in self.validate([one for one in active if one.begins]).items():
                        self.trackers[loop].log(-1, 0, its)
                while True:
                    for loop in [one for one in active if one.done]:
                        loop.finish()
                        active.remove(loop)
                        self.board.end(self.name(loop), [], "done")
                    if not active:
                        break
                    with resumable(active):
                        remember(active)
                        for group in alike(active):
                            for loop in self.iterate(group):
                                active.remove(loop)
                    names = [self.name(one) for one in active]
                    self.board.show({k: self.rows[k] for k in names if k in self.rows})
        finally:
            for tracker in self.trackers.values():
                tracker.close()
        return self.failures

    def name(self, loop: Loop) -> str:
        """Short, for the board: below what all folders have in common."""
        return str(loop.folder.relative_to(self.home))

    def iterate(self, active: Sequence[Loop]) -> list[Loop]:
        """One iteration of all; those that failed, which are saved as they were before it."""
        algorithms: list[Any] = [loop.algorithm for loop in active]
        env, failed = active[0].env, []
        threads.adjust()
        started, steps = time.perf_counter(), env.steps_taken
        tasks, rngs = zip(*(loop.begin() for loop in active), strict=True)
        found = algorithms[0].update_together(algorithms, env, Tasks.join(tasks), Generators(rngs))
        steps = (env.steps_taken - steps) // len(active)
        share = (time.perf_counter() - started) / len(active)
        metrics: dict[Loop, Metrics] = {}
        for loop, its in zip(active, found, strict=True):
            try:
                metrics[loop] = loop.end(its, steps, time.perf_counter() - share)
                loop.iteration += 1
            except UserError as error:
                loop.give_up(error)
                self.failures[self.loops.index(loop)] = str(error)
                self.board.end(self.name(loop), [str(error)], "failed")
                failed.append(loop)
        for loop, judged in self.validate([one for one in metrics if one.validates]).items():
            metrics[loop] |= judged
        for loop, its in metrics.items():
            loop.log(self.trackers[loop], its)
            counters = {"iteration": loop.iteration - 1, "env_steps": loop.env_steps}
            self.rows[self.name(loop)] = counters | its
        return failed

    def validate(self, due: Sequence[Loop]) -> dict[Loop, Metrics]:
        """What evaluations on valid tasks say, of the loops that have one now."""
        if not due:
            return {}
        started, p = time.perf_counter(), due[0].plan
        curves = adaptation_curves(
            [loop.algorithm for loop in due], due[0].valid_env,
            [loop.valid_tasks() for loop in due], stages=due[0].algorithm.num_stages,
            lanes=p.algo_config.lanes, device=p.run.device,
            seeds=[derive(loop.plan.run.seed, "valid") for loop in due],
        )  # fmt: skip
        share = (time.perf_counter() - started) / len(due)
        return {
            loop: loop.judge(curve, time.perf_counter() - share)
            for loop, curve in zip(due, curves, strict=True)
        }


def alike(active: Sequence[Loop]) -> list[list[Loop]]:
    """Those that are furthest behind, in groups that have learned from as many steps.

    What begins at a step, such as learning or a copy of a target, then begins for all of a group.
    """
    behind = min(loop.iteration for loop in active)
    groups: dict[int, list[Loop]] = {}
    for loop in active:
        if loop.iteration == behind:
            algorithm: Any = loop.algorithm
            groups.setdefault(algorithm.env_steps, []).append(loop)
    return list(groups.values())


def remember(active: Sequence[Loop]) -> None:
    """Let all go back to where they are now: together, or a stop would leave some behind."""
    snapshots = [loop.snapshot() for loop in active]
    with held():
        for loop, its in zip(active, snapshots, strict=True):
            loop.before = its


@contextmanager
def resumable(active: Sequence[Loop]) -> Iterator[None]:
    """On any exception, save every state at the start of the iteration that it broke."""
    try:
        yield
    except BaseException as error:
        for loop in active:
            loop.give_up(error)
        raise
