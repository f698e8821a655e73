"""A run folder: made, read, and loaded."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from precocial.algos import ALGOS, build
from precocial.algos.plain.shared import PlainMethod, go_on
from precocial.envs import make_env
from precocial.envs.oracle import OracleEnv
from precocial.envs.own.source import source_file, warn_if_changed
from precocial.nets.gru import bfloat16_supported
from precocial.runs import checkpoint
from precocial.runs.plan import Plan, from_document, to_document, with_overrides
from precocial.seeding import generator
from precocial.types import Algorithm, Split, TaskEnv, Tasks, UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


SOURCE = "source.safetensors"
"""What a run began from, in its folder."""


def create_folder(
    p: Plan, folder: Path, *, overwrite: bool, source: dict[str, Any] | None = None
) -> None:
    """Make the run folder with its ``config.yaml`` in one step, so that it is always resumable.

    With ``source``, what the run is to begin from lies in it from the start, too.
    """
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
        with claimed(folder):
            partial.mkdir()
            write_config(partial, to_document(p))
            if source is not None:
                checkpoint.save(partial / SOURCE, source)
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}; choose another --out") from error


PATIENCE_S = 20.0
"""For another process that is just saving the run to end."""


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have the run for this process alone, on systems and file systems that can lock a folder.

    Raises:
        UserError: another process trains it, and does not end soon.
    """
    if fcntl is None or not folder.is_dir():
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        for wait in range(-1, int(PATIENCE_S / 0.1)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if folder.exists() and os.path.samestat(os.fstat(lock), folder.stat()):
                    break
                raise UserError(f"{folder} was replaced by another process meanwhile; start again")
            except BlockingIOError:
                pass
            except OSError:  # a file system without locks, or one (NFS) that locks no folders
                break
            if wait == 0:
                print(f"waiting for another process that trains {folder}", file=sys.stderr)
            time.sleep(0.1)
        else:
            raise UserError(
                f"{folder} is being trained by another process; stop that one, or wait for its end"
            )
        yield
    finally:
        os.close(lock)


def is_run(folder: Path) -> bool:
    """Whether the folder is a run."""
    return (folder / "config.yaml").is_file()


def expand_runs(folders: list[Path]) -> list[Path]:
    """Run folders among ``folders``; a parent of ``seed-S`` folders stands for all of them."""
    runs = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; expected a run folder made by train")
        seeds = sorted(folder.glob("seed-*/config.yaml"))
        runs += [path.parent for path in seeds] if seeds else [folder]
    return runs


def write_config(folder: Path, document: dict[str, Any]) -> None:
    """Write ``config.yaml`` whole or not at all."""
    partial = folder / "config.yaml.partial"
    partial.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    partial.replace(folder / "config.yaml")


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


def is_there(device: str) -> bool:
    """Whether torch finds the device."""
    return device == "cpu" or int(device.partition(":")[2] or 0) < torch.cuda.device_count()


def require_machine(p: Plan) -> None:
    """Refuse a GPU that is not there, and products that this processor does not have.

    Raises:
        UserError: torch finds fewer GPUs, or no bfloat16.
    """
    if not is_there(p.run.device):
        found = torch.cuda.device_count()
        raise UserError(
            f"--device is {p.run.device} but torch finds {found} GPUs; try --device cpu"
        )
    if getattr(p.algo_config, "precision", "") == "bfloat16" and not bfloat16_supported():
        raise UserError("--precision bfloat16: this processor has none; leave it out")


def require_fit(p: Plan) -> Plan:
    """Refuse a wrong environment, or one the algorithm cannot have, before anything is written.

    Returns:
        The plan with what only the environment could tell: a time limit found by playing it, and
        the file it was written in.
    """
    require_machine(p)
    with closing(build_env(p)) as env:
        algorithm = build_algorithm(p, env)
        if isinstance(algorithm, PlainMethod) and not go_on(env):
            warn_of_short_lanes(algorithm, env)
    if p.run.one_task != "no" and getattr(algorithm, "draws_tasks", False):
        raise UserError(
            f"--one-task is {p.run.one_task}, but {p.algo} draws its training tasks itself; leave "
            "it out"
        )
    family = env.env if isinstance(env, OracleEnv) else env
    config = getattr(family, "cfg", p.env_config)
    return dataclasses.replace(p, env_config=config, source=source_file(p.env))


def warn_of_short_lanes(algorithm: PlainMethod, env: TaskEnv) -> None:
    """Say so where training never gets to the later steps of an episode."""
    if algorithm.reach < env.spec.horizon:
        longer = "--rollout-steps 0" if hasattr(algorithm.cfg, "rollout_steps") else "more --rounds"
        print(
            f"precocial: on {env.spec.name} every iteration begins new episodes, of which it sees "
            f"the first {algorithm.reach} of {env.spec.horizon} steps alone; {longer} for whole "
            "ones",
            file=sys.stderr,
        )


def build_env(p: Plan) -> TaskEnv:
    """The family of a plan, with the task in the observation for ``oracle``.

    Raises:
        UserError: nothing has its name here, or it does not fit.
    """
    try:
        env = make_env(p.env, p.env_config)
    except UserError as error:
        if p.source and isinstance(error.__cause__, ModuleNotFoundError):
            raise UserError(
                f"{error}; the run was trained with {p.source['file']}: run this in its folder"
            ) from error
        raise
    return OracleEnv(env) if ALGOS[p.algo].sees_task else env


def draw_tasks(p: Plan, env: TaskEnv, n: int, split: Split, rng: torch.Generator) -> Tasks:
    """So many tasks of the split, or as many copies of the one that a run is about."""
    if p.run.one_task == "no":
        return env.sample_tasks(n, split, rng)
    one = env.sample_tasks(1, p.run.one_task, generator(p.run.seed, "one task"))
    return Tasks.join([one] * n)


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
    if not is_there(p.run.device):  # acting and evaluating need no GPU
        p = with_overrides(p, {"device": "cpu"})
    with ExitStack() as on_failure:
        env = on_failure.enter_context(closing(build_env(p)))
        warn_if_changed(p.env, p.source)
        algorithm = build_algorithm(p, env)
        state = load_state(folder, algorithm, which, p.run.device)
        on_failure.pop_all()
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
