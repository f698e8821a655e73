"""Planning and adapting against the machine's matrix-product rate.

    python benchmarks/planning.py --out benchmarks/results/planning.json

- A planning step (one round of random shooting, 500 candidates x 10 steps, model 3x512, one robot
  with the half-cheetah's sizes) as a share of the rate of a large float32 product, PyTorch's and
  oneDNN's, whichever is higher.
- Eight robots, each with parameters of its own, planned together against eight times one.
- Latency of a control step at the default size: adapt to the last transition and plan.

The kinds take turns, and ratios are medians over rounds, so that other load hits all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from precocial.algos import ALGOS, build
from precocial.algos.model.grbal import GrBALConfig
from precocial.nets.products import affine
from precocial.seeding import generator
from precocial.types import EnvSpec, Step

OBS, ACTIONS = 18, 6
SPEC = EnvSpec(
    "half-cheetah", OBS, "box", ACTIONS, (-1.0,) * ACTIONS, (1.0,) * ACTIONS, 500, None, 1,
    reward_fn=lambda obs, action, next_obs: next_obs[..., -1] - 0.05 * action.square().sum(-1),
)  # fmt: skip
LARGE = GrBALConfig(hidden=(512, 512, 512), candidates=500, planner="random-shooting")


def flops(cfg: GrBALConfig) -> float:
    """Of the products in one planning step of one robot, GFLOP."""
    sizes = (OBS + ACTIONS, *cfg.hidden, OBS)
    macs = sum(a * b for a, b in zip(sizes, sizes[1:], strict=False))
    return 2e-9 * macs * cfg.candidates * cfg.plan_horizon * cfg.rounds


def seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def product_rate(matrix: torch.Tensor) -> float:
    """Of the faster library, GFLOP/s."""
    work = 2 * len(matrix) ** 3 / 1e9
    both = (lambda: matrix @ matrix, lambda: affine(matrix[0], matrix, matrix))
    return max(work / seconds(f) for f in both)


class Robot:
    """Learners that have adapted, and a transition to go on with."""

    def __init__(self, algo: str, lanes: int, cfg: object | None = None) -> None:
        algorithm = build(cfg or ALGOS[algo].config, SPEC, generator(0, "init"))
        self.learner = algorithm.learner(lanes, 1, generator(0, "act"))
        self.obs = torch.randn(lanes, 1, OBS, generator=generator(0, "obs"))
        no = torch.zeros(lanes, 1, dtype=torch.bool)
        self.step = Step(self.obs, self.obs + 0.01, torch.zeros(lanes, 1), no, no, {})
        self.control()

    def plan(self) -> None:
        self.action = self.learner.act(self.obs)

    def control(self) -> None:
        """One step of the control loop."""
        self.plan()
        self.learner.observe(self.action, self.step)


def measure(threads: int, rounds: int) -> dict[str, float]:
    """All figures with this many threads."""
    torch.set_num_threads(threads)
    matrix = torch.randn(2048, 2048)
    one, eight = Robot("grbal", 1, LARGE), Robot("grbal", 8, LARGE)
    shares, ratios, rates = [], [], []
    for i in range(rounds + 1):
        rate = product_rate(matrix)
        single, together = seconds(one.plan), seconds(eight.plan)
        if i:  # the first round warms up
            rates.append(rate)
            shares.append(flops(LARGE) / single / rate)
            ratios.append(together / single)
    figures = {
        "product_gflops": statistics.median(rates),
        "planning_gflop": flops(LARGE),
        "planning_share_of_product_rate": statistics.median(shares),
        "eight_robots_over_one": statistics.median(ratios),
    }
    for algo in ("grbal", "rebal", "grebal", "mb-mpc", "mb-de"):
        robot = Robot(algo, 1)
        robot.control()
        took = [1000 * seconds(robot.control) for _ in range(20 * rounds)]
        figures[f"{algo}_latency_p50_ms"] = float(np.percentile(took, 50))
        figures[f"{algo}_latency_p99_ms"] = float(np.percentile(took, 99))
    return figures


def main() -> None:
    """Measure with one thread and with all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, object] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "load_before": os.getloadavg()[0],
    }
    for threads in sorted({1, torch.get_num_threads()}):
        figures = measure(threads, args.rounds)
        result[f"threads={threads}"] = figures
        print(f"{threads} thread{'s' * (threads > 1)}")
        for name, value in figures.items():
            print(f"  {name:32} {value:.4g}")
    result["load_after"] = os.getloadavg()[0]
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
