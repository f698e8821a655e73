"""What decides a run: presets resolved, to and from ``config.yaml``."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any, Literal

import torch

import precocial
from precocial.algos import ALGOS
from precocial.algos.transfer.config import TransferConfig
from precocial.checks import at_least
from precocial.envs import env_config
from precocial.presets import find, settings
from precocial.types import UserError

OneTask = Literal["no", "train", "valid", "test", "shifted"]
NO_LIMIT = 10**9
"""Iterations of a run that --env-steps alone ends."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Settings of a run that are not the algorithm's."""

    seed: int = 0
    """Root of all randomness."""
    one_task: OneTask = "no"
    """Train and validate on a single task of this split, which the seed draws."""
    iterations: int = 100
    """Outer iterations."""
    env_steps: int = 0
    """End after this many environment steps; 0: no such limit. Without --iterations it alone ends
    the run."""
    device: str = "cpu"
    """Device of networks and tensor environments: cpu, cuda, cuda:1, ..."""
    eval_every: int = 10
    """Iterations between evaluations on valid tasks; 0: never."""
    eval_first: bool = False
    """Evaluate before the first iteration, too; that return can be the best."""
    stop_at: float | None = None
    """End when the mean return on valid tasks was this or more in two evaluations in a row."""
    eval_tasks: int = 20
    """Number of valid tasks."""
    save_every: int = 5
    """Iterations between checkpoints."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        at_least(self, 0, "seed", "iterations", "env_steps", "eval_every")
        at_least(self, 1, "eval_tasks", "save_every")
        if self.stop_at is not None and not (math.isfinite(self.stop_at) and self.eval_every):
            raise UserError(
                f"--stop-at is {self.stop_at} and --eval-every {self.eval_every}; expected a "
                "return that evaluations, every 1 iteration or more, can reach"
            )
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
    transfer: TransferConfig | None = None
    """How it begins from a source, which lies in the run folder."""
    source: dict[str, str] | None = dataclasses.field(default=None, compare=False)
    """Of an environment of one's own: its source file as it was when the run was made."""

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
        "transfer": None if p.transfer is None else _plain(p.transfer),
        "source": p.source,
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
        fields, family = dict(document["algo_config"]), dict(document["env_config"])
        fields.pop("type")
        if hasattr(base.env_config, "exact"):  # runs from before these were tensors, too
            family.setdefault("exact", True)
        return Plan(
            base.algo, base.env, base.preset, RunConfig(**document["run"]),
            type(base.algo_config)(**_tuples(fields)),
            type(base.env_config)(**_tuples(family)),
            TransferConfig(**_tuples(document["transfer"])) if document.get("transfer") else None,
            document.get("source"),
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
    here = Path(__file__).parents[1]
    try:
        top = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short", "HEAD"],
            capture_output=True, text=True, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    inside_package_repository = (here.parent.parent / "pyproject.toml").is_file()
    return top.stdout.strip() if top.returncode == 0 and inside_package_repository else ""
