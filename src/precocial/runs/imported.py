"""Run folders of what was trained elsewhere."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path

import torch

from precocial.algos.plain.sb3 import SB3
from precocial.bridges.sb3 import load_policy
from precocial.runs import checkpoint
from precocial.runs.folder import build_algorithm, build_env, create_folder, require_fit
from precocial.runs.plan import Plan


def make_run(
    file: Path, p: Plan, folder: Path, *, vecnormalize: Path | None = None, overwrite: bool = False
) -> Path:
    """A run folder that ``eval``, ``watch``, ``transfer`` and ``load`` take.

    Args:
        file: A zip that Stable-Baselines3 saved.
        p: A plan of the algorithm ``sb3``.
        folder: Where to.
        vecnormalize: What ``VecNormalize.save`` wrote beside it.
        overwrite: Replace an existing run folder.

    Raises:
        UserError: a file is missing, damaged or hostile, or the environment is another; nothing is
            written then.
    """
    policy = load_policy(file, vecnormalize)
    p = dataclasses.replace(
        p, algo_config=dataclasses.replace(
            p.algo_config, file=str(file), trained_by=policy.kind,
            activation=policy.activation.lower(),
        ),
    )  # fmt: skip
    p = require_fit(p)
    with closing(build_env(p)) as env:
        algorithm = build_algorithm(p, env)
        assert isinstance(algorithm, SB3)
        algorithm.take(policy)
    create_folder(p, folder, overwrite=overwrite)
    state = {
        "iteration": 0, "env_steps": policy.steps, "best": -torch.inf, "skipped_in_a_row": 0,
        "algorithm": algorithm.state_dict(),
    }  # fmt: skip
    for which in ("last", "best"):
        checkpoint.save(folder / "checkpoint" / f"{which}.safetensors", state)
    return folder
