"""Plain methods beside Stable-Baselines3: environment steps and CPU seconds to a threshold.

    python benchmarks/plain.py ppo --sb3 OTHER/bin/python --out benchmarks/results/plain-ppo.json

Both on one thread, one after the other in the same run. OTHER is a Python with stable-baselines3
2.9 and torch of the same version. Its settings are RL Zoo's for the environment. A threshold counts
as reached at the second evaluation in a row at or above it, of 20 episodes of best actions, after
training began. Evaluations are not timed; everything else is, by this process's CPU clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TASKS: dict[str, dict[str, Any]] = {
    "ppo": {"env": "CartPole-v1", "threshold": 475.0, "steps": 100_000, "every": 1024},
    "dqn": {"env": "CartPole-v1", "threshold": 475.0, "steps": 60_000, "every": 1024},
    "sac": {"env": "Pendulum-v1", "threshold": -200.0, "steps": 15_000, "every": 500},
}
EPISODES = 20


def zoo(algo: str) -> dict[str, Any]:
    """RL Zoo's settings (rl-baselines3-zoo, hyperparams/ALGO.yml)."""
    if algo == "ppo":
        return {
            "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
            "ent_coef": 0.0, "learning_rate": lambda left: 1e-3 * left,
            "clip_range": lambda left: 0.2 * left,
        }  # fmt: skip
    if algo == "dqn":
        return {
            "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000,
            "learning_starts": 1000, "gamma": 0.99, "target_update_interval": 10,
            "train_freq": 256, "gradient_steps": 128, "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04, "policy_kwargs": {"net_arch": [256, 256]},
        }  # fmt: skip
    return {"learning_rate": 1e-3}


def theirs(algo: str, seed: int) -> dict[str, Any]:
    """One seed of Stable-Baselines3; run by its own Python."""
    import stable_baselines3 as sb3
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)
    task = TASKS[algo]
    env = make_vec_env(task["env"], 8 if algo == "ppo" else 1, seed=seed)
    valid = make_vec_env(task["env"], EPISODES, seed=1000 + seed)

    class Watch(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.aside, self.curve, self.next = 0.0, [], task["every"]

        def _on_step(self) -> bool:
            if self.num_timesteps < self.next:
                return True
            self.next += task["every"]
            began = time.process_time()
            score, _ = evaluate_policy(self.model, valid, EPISODES, warn=False)
            self.curve.append((self.num_timesteps, float(score)))
            self.aside += time.process_time() - began
            good = [s >= task["threshold"] for _, s in self.curve[-2:]]
            return not (len(good) == 2 and all(good))

    watch = Watch()
    model = getattr(sb3, algo.upper())("MlpPolicy", env, seed=seed, **zoo(algo))
    began = time.process_time()
    model.learn(task["steps"], callback=watch)
    cpu = time.process_time() - began - watch.aside
    good = [s >= task["threshold"] for _, s in watch.curve[-2:]]
    return {
        "seed": seed, "reached": len(good) == 2 and all(good), "steps": model.num_timesteps,
        "cpu_s": cpu, "version": sb3.__version__,
    }  # fmt: skip


def ours(algo: str, seeds: list[int], *, stacked: bool) -> list[dict[str, Any]]:
    """Seeds of this package's preset, in one program or one after the other."""
    import torch

    from precocial import stacking, training
    from precocial.runs.folder import create_folder
    from precocial.runs.plan import plan
    from precocial.runs.rows import read_rows

    torch.set_num_threads(1)
    task, aside = TASKS[algo], [0.0]

    def untimed(function: Any) -> Any:
        def call(*args: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args)
            finally:
                aside[0] += time.process_time() - began

        return call

    stacking.Stacked.validate = untimed(stacking.Stacked.validate)  # type: ignore[method-assign]
    training.Loop.validate = untimed(training.Loop.validate)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as home:
        folders = [Path(home) / f"seed-{seed}" for seed in seeds]
        for seed, folder in zip(seeds, folders, strict=True):
            p = plan(
                algo, task["env"], seed=seed, env_steps=task["steps"], stop_at=task["threshold"]
            )
            create_folder(p, folder, overwrite=False)
        began = time.process_time()
        if stacked:
            stacking.run_stacked(folders, quiet=True)
            cpus = [(time.process_time() - began - aside[0]) / len(seeds)] * len(seeds)
        else:
            cpus = []
            for folder in folders:
                began, aside[0] = time.process_time(), 0.0
                training.run(folder, quiet=True)
                cpus.append(time.process_time() - began - aside[0])
        found = []
        for seed, folder, cpu in zip(seeds, folders, cpus, strict=True):
            rows = read_rows(folder / "metrics.jsonl")
            scores = [
                r["valid/episode_reward_mean"] for r in rows if "valid/episode_reward_mean" in r
            ]
            reached = len(scores) > 1 and min(scores[-2:]) >= task["threshold"]
            steps = rows[-1]["env_steps"]
            found.append({"seed": seed, "reached": reached, "steps": steps, "cpu_s": cpu})
    return found


EQUAL: dict[str, dict[str, Any]] = {
    "ppo": {"lanes": 8, "rollout_steps": 32, "rounds": 4, "epochs": 20, "minibatch_size": 256},
    "dqn": {
        "hidden": (256, 256), "lanes": 8, "train_every": 32, "updates": 128, "rounds": 4,
        "batch_size": 64, "learning_starts": 0,
    },
    "sac": {
        "hidden": (256, 256), "lanes": 1, "train_every": 1, "updates": 1, "rounds": 200,
        "batch_size": 256, "learning_starts": 0,
    },
}  # fmt: skip
"""Stable-Baselines3's networks, batches and gradient steps per environment step, as above."""


def rate(algo: str, seeds: int) -> int:
    """Environment steps per CPU second, of all seeds together, doing the same work as theirs."""
    import dataclasses

    import torch

    from precocial.algos import ALGOS, build
    from precocial.envs import env_config, make_env
    from precocial.seeding import Generators, generator

    torch.set_num_threads(1)
    cfg = dataclasses.replace(ALGOS[algo].config, **EQUAL[algo])
    env = make_env(TASKS[algo]["env"], env_config(TASKS[algo]["env"]))
    agents = [build(cfg, env.spec, generator(s, "init")) for s in range(seeds)]
    spent = 0.0
    for i in range(4):
        tasks = env.sample_tasks(seeds, "train", generator(0, "tasks", i))
        rngs = Generators([generator(s, "rollout", i) for s in range(seeds)])
        began, before = time.process_time(), env.steps_taken
        type(agents[0]).update_together(agents, env, tasks, rngs)
        if i:  # the first one is warm-up
            spent += time.process_time() - began
    return round(3 * (env.steps_taken - before) / spent)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several seeds."""
    cpu, steps = (sum(r[k] for r in runs) for k in ("cpu_s", "steps"))
    return {
        "reached": f"{sum(r['reached'] for r in runs)} of {len(runs)}",
        "steps_median": statistics.median(r["steps"] for r in runs),
        "steps_max": max(r["steps"] for r in runs),
        "cpu_s_a_seed": round(cpu / len(runs), 3), "steps_per_cpu_s": round(steps / cpu),
        "runs": [{k: v for k, v in r.items() if k != "version"} for r in runs],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("algo", choices=TASKS)
    parser.add_argument("--sb3", help="Python of an environment with stable-baselines3")
    parser.add_argument("--seeds", type=int, default=10, help="ours")
    parser.add_argument("--sb3-seeds", type=int, default=4)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--theirs", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.theirs is not None:
        print(json.dumps(theirs(args.algo, args.theirs)))
        return
    seeds = list(range(args.seeds))
    result: dict[str, Any] = {"task": TASKS[args.algo], "threads": 1}
    sides = []
    for seed in range(args.sb3_seeds if args.sb3 else 0):
        words = [args.sb3, __file__, args.algo, "--theirs", str(seed)]
        alone = os.environ | {"OMP_NUM_THREADS": "1"}
        told = subprocess.run(words, check=True, capture_output=True, text=True, env=alone)
        sides.append(json.loads(told.stdout.splitlines()[-1]))
        print(f"stable-baselines3, {sides[-1]}", file=sys.stderr)
    result["stacked"] = summary(ours(args.algo, seeds, stacked=True))
    result["alone"] = summary(ours(args.algo, seeds[: max(1, args.sb3_seeds)], stacked=False))
    result["steps_per_cpu_s_at_their_work"] = {
        "alone": rate(args.algo, 1), "ten stacked": rate(args.algo, 10),
    }  # fmt: skip
    if sides:
        result["stable-baselines3"] = summary(sides) | {"version": sides[0]["version"]}
        base = result["stable-baselines3"]["cpu_s_a_seed"]
        for form in ("stacked", "alone"):
            result[f"times_less_cpu_{form}"] = round(base / result[form]["cpu_s_a_seed"], 1)
    print(json.dumps(result))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
