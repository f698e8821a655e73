"""The shared training loop, and what a run folder holds."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import platform
import re
import shutil
import subprocess
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

import precocial
from precocial.algos import ALGOS, build
from precocial.checks import at_least
from precocial.envs import env_config, make_env
from precocial.envs.oracle import OracleEnv
from precocial.evaluation.curve import adaptation_curve
from precocial.nets.gru import bfloat16_supported
from precocial.presets import find, settings
from precocial.runs import checkpoint
from precocial.runs.progress import Progress
from precocial.runs.tracker import Tracker
from precocial.seeding import derive, generator
from precocial.types import Algorithm, Metrics, TaskEnv, UserError

NO_LIMIT = 10**9
"""Iterations of a run that --env-steps alone ends."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Settings of a run that are not the algorithm's."""

    seed: int = 0
    """Root of all randomness."""
    iterations: int = 100
    """Outer iterations."""
    env_steps: int = 0
    """End after this many environment steps; 0: no such limit. Without --iterations it alone ends
    the run."""
    device: str = "cpu"
    """Device of networks and tensor environments: cpu, cuda, cuda:1, ..."""
    eval_every: int = 10
    """Iterations between evaluations on valid tasks; 0: never."""
    eval_tasks: int = 20
    """Number of valid tasks."""
    save_every: int = 5
    """Iterations between checkpoints."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        at_least(self, 0, "seed", "iterations", "env_steps", "eval_every")
        at_least(self, 1, "eval_tasks", "save_every")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise UserError(f"--device is {self.device!r}; expected cpu, cuda or cuda:NUMBER")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that decides what a run computes."""

    algo: str
    env: str
    preset: str
    run: RunConfig
    algo_config: Any
    env_config: Any

    def __post_init__(self) -> None:
        """Refuse a run that would train nothing, or something else than its name says."""
        entry = ALGOS[self.algo].config
        if getattr(self.algo_config, "forget", False) != getattr(entry, "forget", False):
            raise UserError(
                "--forget is what tells domain-randomization from rl2; leave it out and train the "
                "one you mean"
            )
        if ALGOS[self.algo].trains and self.run.iterations < 1:
            raise UserError(f"--iterations is {self.run.iterations}; expected 1 or more")
        if not ALGOS[self.algo].trains and self.run.iterations:
            raise UserError(
                f"{self.algo} is evaluated untrained; leave --iterations and --env-steps out"
            )

    @property
    def folder(self) -> Path:
        """Default place of the run."""
        name = self.env.replace(":", "-").replace("/", "-").replace(".", "-").lower()
        parts = [self.algo, name] + ([self.preset] if self.preset != "default" else [])
        return Path("runs") / f"{'-'.join(parts)}-{self.run.seed}"


def plan(algo: str, env: str, preset: str = "default", **overrides: Any) -> Plan:
    """Resolve a preset and overrides to a plan.

    Args:
        algo: A name in ``ALGOS``.
        env: A registered family, a Gymnasium id or ``module:Class``.
        preset: A name in ``PRESETS`` for this pair.
        overrides: Fields of the run's, the algorithm's or (with the prefix ``env_``) the family's
            settings.

    Raises:
        UserError: an unknown name, or a value without a meaning.
    """
    chosen = find(algo, env, preset)
    algo_config, run = settings(algo, chosen), RunConfig(iterations=chosen.iterations, **chosen.run)
    family = env_config(env, **chosen.env)
    return with_overrides(Plan(algo, env, preset, run, algo_config, family), overrides)


def with_overrides(base: Plan, overrides: dict[str, Any]) -> Plan:
    """The plan with some fields replaced."""
    parts: dict[str, dict[str, Any]] = {"run": {}, "algo_config": {}, "env_config": {}}
    if overrides.get("env_steps") and "iterations" not in overrides:
        overrides = overrides | {"iterations": NO_LIMIT}
    for key, value in overrides.items():
        if key in base.run.__dataclass_fields__:
            parts["run"][key] = value
        elif key in base.algo_config.__dataclass_fields__:
            parts["algo_config"][key] = value
        elif key.removeprefix("env_") in base.env_config.__dataclass_fields__:
            parts["env_config"][key.removeprefix("env_")] = value
        else:
            raise UserError(f"unknown setting {key!r} for {base.algo} on {base.env}")
    return dataclasses.replace(
        base,
        **{k: dataclasses.replace(getattr(base, k), **v) for k, v in parts.items() if v},
    )


def to_document(p: Plan) -> dict[str, Any]:
    """The content of ``config.yaml``."""
    return {
        "precocial": {"version": precocial.__version__, "commit": commit()},
        "algo": p.algo,
        "env": p.env,
        "preset": p.preset,
        "seed": p.run.seed,
        "run": _plain(p.run),
        "algo_config": {"type": type(p.algo_config).__name__} | _plain(p.algo_config),
        "env_config": _plain(p.env_config),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }


def _plain(config: Any) -> dict[str, Any]:
    return {
        k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()
    }


def from_document(document: dict[str, Any]) -> Plan:
    """The inverse of ``to_document``.

    Raises:
        UserError: the document is not one of ours.
    """
    try:
        base = plan(document["algo"], document["env"], document["preset"])
        fields = dict(document["algo_config"])
        fields.pop("type")
        return Plan(
            base.algo, base.env, base.preset, RunConfig(**document["run"]),
            type(base.algo_config)(**_tuples(fields)),
            type(base.env_config)(**_tuples(document["env_config"])),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"config.yaml does not read as a run of this version ({error!r}); "
            "restore it or train again with --overwrite"
        ) from error


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}


def commit() -> str:
    """The commit of the working copy that this package is imported from, "" outside one."""
    here = Path(__file__).parent
    try:
        top = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short", "HEAD"],
            capture_output=True, text=True, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    inside_package_repository = (here.parent.parent / "pyproject.toml").is_file()
    return top.stdout.strip() if top.returncode == 0 and inside_package_repository else ""


def read_plan(folder: Path) -> Plan:
    """The plan of a run folder.

    Raises:
        UserError: this is no run folder.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is no run folder (no config.yaml); expected one made by train")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML; restore it or train again") from error
    if not isinstance(document, dict):
        raise UserError(f"{path} is empty; restore it or train again with --overwrite")
    return from_document(document)


def create_folder(p: Plan, folder: Path, *, overwrite: bool) -> None:
    """Make the run folder with its ``config.yaml`` in one step, so that it is always resumable."""
    if folder.exists():
        if not overwrite:
            raise UserError(
                f"{folder} exists; continue it with --resume {folder}, replace it with "
                "--overwrite, or choose another --out"
            )
        if not folder.is_dir() or (any(folder.iterdir()) and not is_run(folder)):
            raise UserError(f"{folder} is no run folder, so --overwrite leaves it alone")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        partial.mkdir()
        write_config(partial, to_document(p))
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}; choose another --out") from error


def is_run(folder: Path) -> bool:
    """Whether the folder is a run."""
    return (folder / "config.yaml").is_file()


def write_config(folder: Path, document: dict[str, Any]) -> None:
    """Write ``config.yaml`` whole or not at all."""
    partial = folder / "config.yaml.partial"
    partial.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    partial.replace(folder / "config.yaml")


def require_machine(p: Plan) -> None:
    """Refuse a GPU that is not there, and products that this processor does not have.

    Raises:
        UserError: torch finds fewer GPUs, or no bfloat16.
    """
    device = p.run.device
    if device != "cpu" and int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(f"--device is {device} but torch finds {found} GPUs; try --device cpu")
    if getattr(p.algo_config, "precision", "") == "bfloat16" and not bfloat16_supported():
        raise UserError("--precision bfloat16: this processor has none; leave it out")


def require_fit(p: Plan) -> None:
    """Refuse a wrong environment, or one the algorithm cannot have, before anything is written."""
    require_machine(p)
    env = build_env(p)
    build_algorithm(p, env)
    env.close()


def build_env(p: Plan) -> TaskEnv:
    """The family of a plan, with the task in the observation for ``oracle``."""
    env = make_env(p.env, p.env_config)
    return OracleEnv(env) if ALGOS[p.algo].sees_task else env


def build_algorithm(p: Plan, env: TaskEnv) -> Algorithm:
    """The algorithm of a plan, at its initial parameters."""
    return build(p.algo_config, env.spec, generator(p.run.seed, "init"), p.run.device)


def load_algorithm(
    folder: Path, which: str = "last", **overrides: Any
) -> tuple[Plan, TaskEnv, Algorithm, int]:
    """A trained run: plan, a fresh environment, the algorithm and its iteration.

    Args:
        folder: The run folder.
        which: ``last`` or ``best`` (by return on valid tasks).
        overrides: Settings to replace that the checkpoint does not depend on.
    """
    p = with_overrides(read_plan(folder), overrides)
    if not torch.cuda.is_available():  # acting and evaluating need no GPU
        p = with_overrides(p, {"device": "cpu"})
    env = build_env(p)
    algorithm = build_algorithm(p, env)
    state = load_state(folder, algorithm, which, p.run.device)
    return p, env, algorithm, int(state["iteration"])


def load_state(folder: Path, algorithm: Algorithm, which: str, device: str) -> dict[str, Any]:
    """Put a checkpoint's state into the algorithm; returns all of the checkpoint.

    Raises:
        UserError: no checkpoint, a damaged one, or one of other settings or another environment.
    """
    state = checkpoint.load(folder / "checkpoint" / f"{which}.safetensors", device)
    try:
        algorithm.load_state_dict(state["algorithm"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            f"the checkpoint in {folder} does not fit its config.yaml or the environment as it is "
            "now (other sizes of network, observation or action); restore them or train again"
        ) from error
    return state


def run(folder: Path, iterations: int | None = None, *, quiet: bool = False) -> Path:
    """Train the run in ``folder`` from where it stands to its end (or to ``iterations``).

    Raises:
        UserError: wrong input, a failing environment, or three iterations in a row whose numbers
            were not finite. The folder stays resumable.
        KeyboardInterrupt: Ctrl-C, after saving a checkpoint.
    """
    p = read_plan(folder)
    require_machine(p)
    loop = Loop(p, folder, quiet=quiet)
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
        self.env, self.valid_env = build_env(p), build_env(p)
        self.algorithm = build_algorithm(p, self.env)
        self.iteration, self.skipped_in_a_row, self.best = 0, 0, -math.inf
        if (folder / "checkpoint" / "last.safetensors").is_file():
            state = load_state(folder, self.algorithm, "last", p.run.device)
            self.iteration, self.best = int(state["iteration"]), float(state["best"])
            self.skipped_in_a_row = int(state["skipped_in_a_row"])
            self.env.steps_taken = int(state["env_steps"])
        self.before = self.snapshot()

    def run(self) -> None:
        """Iterate to the end; save on every way out."""
        run = self.plan.run
        tracker = Tracker(self.folder, self.iteration)
        progress = Progress(run.iterations, self.iteration, run.env_steps, quiet=self.quiet)
        try:
            with progress, self.resumable():
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
            self.env.close()
            self.valid_env.close()

    def snapshot(self) -> tuple[Any, ...]:
        """All that an iteration changes."""
        state = copy.deepcopy(self.algorithm.state_dict())
        return state, self.env.steps_taken, self.iteration, self.skipped_in_a_row, self.best

    def restore(self) -> None:
        """Undo the iteration under way."""
        state, steps, self.iteration, self.skipped_in_a_row, self.best = self.before
        self.algorithm.load_state_dict(state)
        self.env.steps_taken = steps

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
            self.algorithm.load_state_dict(self.before[0])
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
        """Whether all numbers and parameters are."""
        leaves = torch.utils._pytree.tree_leaves(self.algorithm.state_dict())
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

    def save(self, name: str) -> None:
        """Write ``checkpoint/NAME.safetensors``."""
        state = {
            "algorithm": self.algorithm.state_dict(),
            "iteration": self.iteration,
            "env_steps": self.env.steps_taken,
            "best": self.best,
            "skipped_in_a_row": self.skipped_in_a_row,
        }
        checkpoint.save(self.folder / "checkpoint" / f"{name}.safetensors", state)


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
    p = plan(algo, env, preset, **overrides)
    folder = Path(out) if out is not None else p.folder
    require_fit(p)
    create_folder(p, folder, overwrite=overwrite)
    return run(folder, quiet=quiet)
