"""Environment steps per second of the tensor families, bare and with a small policy.

    python benchmarks/stepping.py [--out FILE.json]

Targets: cart-pole and bandit at least 2 M steps/s bare and 0.7 M with a policy of one hidden layer
of 32 units; 100 tasks x 40 lanes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

FAMILIES = ("cart-pole", "bandit", "point-nav", "tabular-mdp", "pendulum-mass")


def main() -> None:
    """Time every family."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--lanes", type=int, default=40)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    import torch

    from precocial.algos.gradient.shared import Actor
    from precocial.envs import env_config, make_env
    from precocial.nets.mlp import Policy
    from precocial.ops.params import expand
    from precocial.seeding import generator

    results = {}
    with torch.no_grad():
        for name in FAMILIES:
            env = make_env(name, env_config(name))
            rng = generator(0, name)
            policy = Policy(env.spec, (32,), "tanh", 1.0, False, rng)
            tasks = env.sample_tasks(args.tasks, "train", rng)
            actor = Actor(policy, expand(policy.theta, args.tasks), rng)
            row = {}
            for kind in ("bare", "policy"):
                best = 0.0
                for _ in range(5):
                    obs = env.reset(tasks, args.lanes, rng)
                    action = actor.act(obs)
                    started, steps = time.perf_counter(), 100
                    for _ in range(steps):
                        obs = env.step(action).obs
                        if kind == "policy":
                            action = actor.act(obs)
                    rate = steps * args.tasks * args.lanes / (time.perf_counter() - started)
                    best = max(best, rate)
                row[kind] = best
            results[name] = row
            bare, acted = row["bare"] / 1e6, row["policy"] / 1e6
            print(f"{name:14} bare {bare:6.2f} M/s   policy {acted:6.2f} M/s")
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
