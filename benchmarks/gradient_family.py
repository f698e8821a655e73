"""CPU seconds of an iteration of each policy method beside MAML's with the same outer step.

    OMP_NUM_THREADS=1 python benchmarks/gradient_family.py [--out FILE.json]

20 tasks x 20 lanes x 100 steps of point-nav before and after one update; the methods take turns, so
that what else the machine does falls on all alike. Medians of CPU seconds on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

TURNS = 10
METHODS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "trpo": {
        "maml": ("maml", {}),
        "maml --estimator dice": ("maml", {"estimator": "dice"}),
        "maml --estimator loaded-dice": ("maml", {"estimator": "loaded-dice"}),
        "maml --adapt head": ("maml", {"adapt": "head"}),
        "meta-sgd": ("meta-sgd", {}),
        "cavia": ("cavia", {}),
        "e-maml": ("e-maml", {}),
    },
    "ppo": {
        "maml": ("maml", {"outer": "ppo", "outer_epochs": 5}),
        "promp": ("promp", {"outer_epochs": 5}),
        "gaussian-maml": ("gaussian-maml", {"outer_epochs": 5}),
    },
}


def main() -> None:
    """Time all of them in turn."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    import torch

    from precocial.runs.folder import build_algorithm, build_env
    from precocial.runs.plan import plan
    from precocial.seeding import generator

    torch.set_num_threads(1)
    result: dict[str, dict[str, float]] = {}
    for outer, methods in METHODS.items():
        runs = {}
        for name, (algo, options) in methods.items():
            p = plan(algo, "point-nav", num_tasks=20, episodes_per_task=20, **options)
            env = build_env(p)
            runs[name] = env, build_algorithm(p, env), list[float]()
        for i in range(TURNS + 2):
            for env, algorithm, seconds in runs.values():
                tasks = env.sample_tasks(20, "train", generator(0, "tasks", i))
                started = time.process_time()
                algorithm.meta_update(env, tasks, generator(0, "rollout", i))
                seconds.append(time.process_time() - started)
        medians = {name: statistics.median(s[2:]) for name, (_, _, s) in runs.items()}
        result[outer] = {name: round(s / medians["maml"], 3) for name, s in medians.items()}
        result[outer]["maml, CPU seconds"] = round(medians["maml"], 3)
        for name, ratio in result[outer].items():
            print(f"{outer:5} {name:30} {ratio:.2f}")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
