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

from precocial import threads
from precocial.envs.own.source import warn_if_changed
from precocial.evaluation.curve import adaptation_curve
from precocial.runs import checkpoint
from precocial.runs.folder import (
    build_algorithm,
    build_env,
    claimed,
    create_folder,
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
from precocial.types import Metrics, Remembering, UserError


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
        if iterations is not None and iterations != p.run.iterations:
            if iterations < loop.iteration:
                raise UserError(
                    f"--iterations is {iterations}; expected at least the {loop.iteration} that "
                    f"{folder} has done"
                )
            document = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
            document["run"]["iterations"] = iterations
            write_config(folder, document)
            loop.plan = with_overrides(p, {"iterations": iterations})
        loop.run()
    return folder


class Loop:
    """One run, from its latest checkpoint on."""

    def __init__(self, p: Plan, folder: Path, *, quiet: bool) -> None:
        self.plan, self.folder, self.quiet = p, folder, quiet
        self.iteration, self.skipped_in_a_row, self.best = 0, 0, -math.inf
        with ExitStack() as stack:
            self.env = stack.enter_context(closing(build_env(p)))
            self.valid_env = stack.enter_context(closing(build_env(p)))
            warn_if_changed(p.env, p.source)
            self.algorithm = build_algorithm(p, self.env)
            self.parts: Parts | None = None
            if isinstance(self.algorithm, Remembering):
                self.parts = Parts(folder / "checkpoint" / "parts", self.algorithm.replay)
            if (folder / "checkpoint" / "last.safetensors").is_file():
                state = load_state(folder, self.algorithm, "last", p.run.device)
                self.iteration, self.best = int(state["iteration"]), float(state["best"])
                self.skipped_in_a_row = int(state["skipped_in_a_row"])
                self.env.steps_taken = int(state["env_steps"])
                if self.parts and "parts" in state:
                    self.parts.load(state["parts"], p.run.device)
            self.before = self.snapshot()
            self.close = stack.pop_all().close
            """Close both environments."""

    def run(self) -> None:
        """Iterate to the end; save on every way out."""
        run = self.plan.run
        tracker = Tracker(self.folder, self.iteration)
        progress = Progress(run.iterations, self.iteration, run.env_steps, quiet=self.quiet)
        try:
            with progress.on_screen(), self.resumable(), threads.shared():
                while self.iteration < run.iterations and not self.steps_used_up():
                    metrics = self.iterate()
                    row = self.iteration
                    self.iteration += 1
                    if run.eval_every and self.iteration % run.eval_every == 0:
                        metrics |= self.validate()
                    tracker.log(row, self.env.steps_taken, metrics)
                    if self.iteration % run.save_every == 0:
                        self.save("last")
                    progress.show(self.iteration, self.env.steps_taken, metrics)
            self.save("last")
            if self.best == -math.inf:  # nothing was validated: the latest is the best known
                self.save("best")
        finally:
            tracker.close()

    def snapshot(self) -> tuple[Any, ...]:
        """All that an iteration changes, and the length of what it adds to."""
        state = copy.deepcopy(self.algorithm.state_dict())
        counters = self.env.steps_taken, self.iteration, self.skipped_in_a_row, self.best
        return state, len(self.parts.grown) if self.parts else 0, *counters

    def restore(self) -> None:
        """Undo the iteration under way."""
        self.undo_learning()
        *_, steps, self.iteration, self.skipped_in_a_row, self.best = self.before
        self.env.steps_taken = steps

    def undo_learning(self) -> None:
        """Take back what the algorithm learned and kept since the snapshot."""
        state, length, *_ = self.before
        self.algorithm.load_state_dict(state)
        if self.parts:
            self.parts.grown.shrink(length)

    def share_done(self) -> float:
        """How much of the run is done, by iterations or by ``--env-steps``, whichever is more."""
        run = self.plan.run
        by_steps = self.env.steps_taken / run.env_steps if run.env_steps else 0.0
        return min(1.0, max(self.iteration / run.iterations, by_steps))

    def steps_used_up(self) -> bool:
        """Whether ``--env-steps`` is reached."""
        return bool(self.plan.run.env_steps) and self.env.steps_taken >= self.plan.run.env_steps

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """On any exception, save the state at the start of the iteration it broke."""
        try:
            yield
        except BaseException as error:
            self.restore()
            self.save("last")
            if not isinstance(error, KeyboardInterrupt):
                text = getattr(error, "trace", "") or traceback.format_exc()
                (self.folder / "error.log").write_text(text, encoding="utf-8")
            raise

    def iterate(self) -> Metrics:
        """One outer iteration, undone if its numbers are not finite."""
        run = self.plan.run
        self.before = self.snapshot()
        threads.adjust()
        started = time.perf_counter()
        # Tasks are always drawn on the CPU, so that they are the same on every device.
        tasks = self.env.sample_tasks(
            self.plan.algo_config.num_tasks, "train", generator(run.seed, "tasks", self.iteration)
        )
        rng = generator(run.seed, "rollout", self.iteration, device=run.device)
        self.algorithm.progress = self.share_done()
        metrics = self.algorithm.meta_update(self.env, tasks, rng)
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
                    "smaller rate (--outer-lr, --inner-lr, --vae-lr), or check the environment's "
                    "rewards"
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
        """Adaptation curve on the valid tasks; keeps the best checkpoint."""
        run, cfg = self.plan.run, self.plan.algo_config
        started = time.perf_counter()
        tasks = self.valid_env.sample_tasks(
            run.eval_tasks, "valid", generator(run.seed, "valid tasks")
        )
        curve = adaptation_curve(
            self.algorithm, self.valid_env, tasks, stages=self.algorithm.num_stages,
            lanes=cfg.lanes, seed=derive(run.seed, "valid"), device=run.device,
        )  # fmt: skip
        metrics: Metrics = {}
        for k, value in enumerate(curve.returns.mean(0)):
            suffix = f"_adapt_{k}" if k else ""
            metrics[f"valid/episode_reward_mean{suffix}"] = float(value)
        trial = curve.returns.sum(1) if self.algorithm.is_trial else curve.returns[:, -1]
        final = float(trial.mean())
        if final > self.best:
            self.save("best")
            self.best = final
        metrics["time/valid_s"] = time.perf_counter() - started
        return metrics

    @held()
    def save(self, name: str) -> None:
        """Write ``checkpoint/NAME.safetensors``; only ``last``, which goes on, stands on data."""
        state: dict[str, Any] = {
            "algorithm": self.algorithm.state_dict(),
            "iteration": self.iteration,
            "env_steps": self.env.steps_taken,
            "best": self.best,
            "skipped_in_a_row": self.skipped_in_a_row,
        }
        parts = self.parts if name == "last" else None
        if parts:
            state["parts"] = parts.save()
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
