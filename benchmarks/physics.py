"""HalfCheetah sampling and meta-training against bare ``mj_step`` on the same threads.

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

from precocial.algos.gradient.shared import Actor
from precocial.envs.mujoco.half_cheetah import HalfCheetahDir, HalfCheetahDirConfig
from precocial.envs.mujoco.half_cheetah_slope import HalfCheetahSlope, HalfCheetahSlopeConfig
from precocial.nets.mlp import Policy
from precocial.ops.params import expand
from precocial.rollout import collect
from precocial.runs.folder import build_algorithm, build_env
from precocial.runs.plan import plan
from precocial.seeding import generator


class OwnModel(HalfCheetahDir):
    """A distinct ``MjModel`` for every task, all with the same physics."""

    def task_model(self, task):
        return copy.copy(self.model)


def run_ours(env, tasks, lanes, steps):
    """Seconds for ``steps`` steps of the acting loop; also start and controls, for the replay."""
    rng = torch.Generator().manual_seed(1)
    policy = Policy(env.spec, (64, 64), "tanh", 1.0, False, rng)
    actor, controls = Actor(policy, expand(policy.theta, tasks.num), rng), []
    began = time.perf_counter()
    collect(env, tasks, actor, lanes, steps, rng)
    seconds = time.perf_counter() - began
    # Once more, untimed, to keep what was played.
    rng.manual_seed(1)
    obs = env.reset(tasks, lanes, rng)
    start = env.state.copy()
    for _ in range(steps):
        obs = env.step(actor.act(obs)).obs
        controls.append(env.control[:, :1].copy())
    return seconds, start, np.concatenate(controls, 1)


def meta_training(threads, repeats):
    """Environment steps per second of whole ProMP iterations of 40 x 20 x 100 x 2 steps."""
    p = plan("promp", "half-cheetah-dir", "paper", env_threads=threads)
    env = build_env(p)
    algorithm, rates = build_algorithm(p, env), []
    for i in range(repeats + 1):
        tasks = env.sample_tasks(p.algo_config.num_tasks, "train", generator(0, "tasks", i))
        began, before = time.perf_counter(), env.steps_taken
        algorithm.meta_update(env, tasks, generator(0, "rollout", i))
        rates.append((env.steps_taken - before) / (time.perf_counter() - began))
    return rates[1:]


class Bare:
    """``mj_step`` in a C loop on a thread pool."""

    def __init__(self, env, threads, lanes, steps):
        self.pool = Rollout(nthread=threads)
        self.data = [mujoco.MjData(env.model) for _ in range(threads)]
        self.skip = env.frame_skip
        self.state = np.zeros((lanes, steps * self.skip, env.rest.size))

    def run(self, models, start, controls):
        """Seconds to replay ``controls`` on a model per lane, each held for a frame skip."""
        control = controls.repeat(self.skip, 1)
        began = time.perf_counter()
        self.pool.rollout(
            models, self.data, start, control,
            nstep=control.shape[1], state=self.state, skip_checks=True,
        )  # fmt: skip
        return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=40, help="N, tasks")
    parser.add_argument("--lanes", type=int, default=20, help="E, episodes per task")
    parser.add_argument("--steps", type=int, default=50, help="T, environment steps per run")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    parser.add_argument("--threads", type=int, default=0, help="0: every core")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()

    config = HalfCheetahDirConfig(threads=args.threads, action_scale=10.0)
    exact = HalfCheetahDirConfig(threads=args.threads, action_scale=10.0, exact=True)
    envs = {
        "ours": HalfCheetahDir(config),
        "ours, a model per task": OwnModel(config),
        "ours, exact": HalfCheetahDir(exact),
        "slopes, a model per task": HalfCheetahSlope(
            HalfCheetahSlopeConfig(threads=args.threads, action_scale=10.0)
        ),
    }
    threads = envs["ours"].threads
    total = args.tasks * args.lanes * args.steps
    # Slopes are another world than the plane: they are measured against bare slopes.
    bare = {
        "bare mj_step": Bare(envs["ours"], threads, args.tasks * args.lanes, args.steps),
        "bare slopes": Bare(
            envs["slopes, a model per task"], threads, args.tasks * args.lanes, args.steps
        ),
    }
    against = dict.fromkeys([*envs, "bare mj_step"], "bare mj_step")
    against |= dict.fromkeys(["slopes, a model per task", "bare slopes"], "bare slopes")
    rates: dict[str, list[float]] = {kind: [] for kind in [*bare, *envs]}
    for repeat in range(args.repeats + 1):
        for kind, env in envs.items():
            tasks = env.sample_tasks(args.tasks, "train", torch.Generator().manual_seed(repeat))
            seconds, start, controls = run_ours(env, tasks, args.lanes, args.steps)
            if repeat:  # the first round warms up
                rates[kind].append(total / seconds)
            if kind in ("ours", "slopes, a model per task"):
                seconds = bare[against[kind]].run(env.models, start, controls)
                if repeat:
                    rates[against[kind]].append(total / seconds)

    whole = meta_training(args.threads, 3)
    result = {
        "what": "HalfCheetah, 64-64 policy in the loop, against bare mj_step",
        "tasks": args.tasks, "lanes": args.lanes, "steps": args.steps, "threads": threads,
        "repeats": args.repeats, "cpus": os.cpu_count(), "machine": platform.machine(),
        "torch": torch.__version__, "mujoco": mujoco.__version__,
        "env_steps_per_s": {k: round(statistics.median(v)) for k, v in rates.items()},
        "ratio_to_bare": {
            k: round(
                statistics.median(a / b for a, b in zip(v, rates[against[k]], strict=True)), 3
            )
            for k, v in rates.items()
        },
    }  # fmt: skip
    result["env_steps_per_s"]["ProMP meta-training"] = round(statistics.median(whole))
    result["ratio_to_bare"]["ProMP meta-training"] = round(
        statistics.median(whole) / statistics.median(rates["bare mj_step"]), 3
    )
    for kind, ratio in result["ratio_to_bare"].items():
        print(f"{kind:24s} {ratio:5.2f} of bare  {result['env_steps_per_s'][kind]:8,d} env steps/s")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
