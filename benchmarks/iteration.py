"""One MAML-TRPO iteration of point-nav against tristandeleu/pytorch-maml-rl.

    python benchmarks/iteration.py [--out FILE.json]

20 tasks x 20 lanes x 100 steps, before and after one update, 64-64 tanh, exact second order, ten
conjugate-gradient iterations. The older library takes 4.5 s for the same iteration on a two-core
machine; that figure is a constant here, so read the ratio with the noise of this machine in mind.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

OTHER_LIBRARY_S = 4.5


def main() -> None:
    """Time iterations after a warm-up."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    import torch

    from precocial.runs.folder import build_algorithm, build_env
    from precocial.runs.plan import plan
    from precocial.seeding import generator

    p = plan("maml", "point-nav", num_tasks=20)
    env = build_env(p)
    algo = build_algorithm(p, env)
    seconds = []
    memory = []
    for i in range(args.iterations + 3):
        tasks = env.sample_tasks(20, "train", generator(0, "tasks", i))
        started = time.perf_counter()
        algo.meta_update(env, tasks, generator(0, "rollout", i))
        seconds.append(time.perf_counter() - started)
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    median = statistics.median(seconds[3:])
    result = {
        "median_iteration_s": median,
        "fastest_iteration_s": min(seconds[3:]),
        "times_faster_than_pytorch_maml_rl": OTHER_LIBRARY_S / median,
        "env_steps_per_s": 80_000 / median,
        "peak_memory_gib": memory[-1],
        "peak_memory_growth_gib": memory[-1] - memory[3],
        "torch_threads": torch.get_num_threads(),
    }
    for name, value in result.items():
        print(f"{name:36} {value:.4g}")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
