"""HalfCheetah stepping, with a policy in the loop, against bare ``mj_step`` on the same threads.

    python benchmarks/physics.py --out benchmarks/results/physics.json

Bare: one C call replays the very actions the policy took, so the physics work is the same. The
kinds of run take turns, and ratios are medians over repetitions: noise from other programs on the
machine hits all of them alike.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import time
from pathlib import Path

import mujoco
import numpy as np
import torch
from mujoco.rollout import Rollout

from precocial.envs.mujoco.half_cheetah import HalfCheetahDir, HalfCheetahDirConfig


class OwnModel(HalfCheetahDir):
    """A distinct ``MjModel`` for every task, all with the same physics."""

    def task_model(self, task):
        return copy.copy(self.model)


def policy(num_tasks):
    """A random 64-64 tanh policy, weights stacked by task."""
    rng = torch.Generator().manual_seed(0)
    sizes = [(17, 64), (64, 64), (64, 6)]
    weights = [torch.randn(num_tasks, i, o, generator=rng) / i**0.5 for i, o in sizes]

    def act(obs):
        hidden = torch.tanh(obs @ weights[0])
        hidden = torch.tanh(hidden @ weights[1])
        mean = hidden @ weights[2]
        return mean + torch.randn(mean.shape, generator=rng)

    return act


def run_ours(env, act, tasks, lanes, steps):
    """Seconds for ``steps`` steps with the policy; also start and controls, for the replay."""
    obs = env.reset(tasks, lanes, torch.Generator().manual_seed(1))
    start, controls = env.state.copy(), []
    began = time.perf_counter()
    for _ in range(steps):
        obs = env.step(act(obs)).obs
        controls.append(env.control[:, :1].copy())
    return time.perf_counter() - began, start, np.concatenate(controls, 1)


class Bare:
    """``mj_step`` in a C loop on a thread pool."""

    def __init__(self, env, threads, lanes, steps):
        self.pool = Rollout(nthread=threads)
        self.data = [mujoco.MjData(env.model) for _ in range(threads)]
        self.models, self.skip = [env.model] * lanes, env.frame_skip
        self.state = np.zeros((lanes, steps * self.skip, env.rest.size))

    def run(self, start, controls):
        """Seconds to replay ``controls``, each held for a frame skip."""
        control = controls.repeat(self.skip, 1)
        began = time.perf_counter()
        self.pool.rollout(
            self.models, self.data, start, control,
            nstep=control.shape[1], state=self.state, skip_checks=True,
        )  # fmt: skip
        return time.perf_counter() - began


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=40, help="N, tasks")
    parser.add_argument("--lanes", type=int, default=20, help="E, episodes per task")
    parser.add_argument("--steps", type=int, default=50, help="T, environment steps per run")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    parser.add_argument("--threads", type=int, default=0, help="0: every core")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()

    # A policy this small is faster on one thread, and OpenMP's other threads would go on spinning
    # for milliseconds on the cores that physics needs.
    torch.set_num_threads(1)
    config = HalfCheetahDirConfig(threads=args.threads)
    exact = HalfCheetahDirConfig(threads=args.threads, exact=True)
    envs = {
        "ours": HalfCheetahDir(config),
        "ours, a model per task": OwnModel(config),
        "ours, exact": HalfCheetahDir(exact),
    }
    threads = envs["ours"].threads
    act, total = policy(args.tasks), args.tasks * args.lanes * args.steps
    bare = Bare(envs["ours"], threads, args.tasks * args.lanes, args.steps)
    rates: dict[str, list[float]] = {kind: [] for kind in ["bare mj_step", *envs]}
    for repeat in range(args.repeats + 1):
        for kind, env in envs.items():
            tasks = env.sample_tasks(args.tasks, "train", torch.Generator().manual_seed(repeat))
            seconds, start, controls = run_ours(env, act, tasks, args.lanes, args.steps)
            if repeat:  # the first round warms up
                rates[kind].append(total / seconds)
            if kind == "ours":
                seconds = bare.run(start, controls)
                if repeat:
                    rates["bare mj_step"].append(total / seconds)

    bare_rates = rates["bare mj_step"]
    result = {
        "what": "HalfCheetah, 64-64 policy in the loop, against bare mj_step",
        "tasks": args.tasks, "lanes": args.lanes, "steps": args.steps, "threads": threads,
        "repeats": args.repeats, "cpus": os.cpu_count(), "machine": platform.machine(),
        "torch": torch.__version__, "mujoco": mujoco.__version__,
        "env_steps_per_s": {k: round(statistics.median(v)) for k, v in rates.items()},
        "ratio_to_bare": {
            k: round(statistics.median(a / b for a, b in zip(v, bare_rates, strict=True)), 3)
            for k, v in rates.items()
        },
    }  # fmt: skip
    for kind, ratio in result["ratio_to_bare"].items():
        print(f"{kind:24s} {ratio:5.2f} of bare  {result['env_steps_per_s'][kind]:8,d} env steps/s")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
