"""Sinusoid regression (Finn et al. 2017, Sec. 5.1) through the very inner loop that RL uses.

    python benchmarks/sinusoid.py            # about ten minutes on one core
    python benchmarks/sinusoid.py --iterations 500

Amplitude ~ U[0.1, 5], phase ~ U[0, pi], x ~ U[-5, 5], K = 5 points; 1-40-40-1 ReLU. Published mean
squared errors after 1 / 5 / 10 gradient steps: 0.67 / 0.38 / 0.35; pretraining on all tasks stays
at 2.41 / 2.23 / 2.19 (Table 2).

Deviation: `--inner-steps` updates in training instead of one; 600 test tasks instead of one set.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from precocial.nets.mlp import linear
from precocial.ops.adaptation import adapt, inner_update
from precocial.ops.params import expand
from precocial.types import Params

PUBLISHED = {1: 0.67, 5: 0.38, 10: 0.35}


def initial(rng: torch.Generator, width: int = 40) -> Params:
    """Uniform in +-1/sqrt(fan in): larger first layers make the inner step overshoot."""
    sizes = [(1, width), (width, width), (width, 1)]
    theta = {}
    for i, (fan_in, fan_out) in enumerate(sizes):
        bound = 1 / math.sqrt(fan_in)
        theta[f"w{i}"] = (2 * torch.rand(fan_in, fan_out, generator=rng) - 1) * bound
        theta[f"b{i}"] = (2 * torch.rand(fan_out, generator=rng) - 1) * bound
    return {k: p.requires_grad_() for k, p in theta.items()}


def predict(params: Params, x: Tensor) -> Tensor:
    """(N, B, 1) -> (N, B, 1) under per-task parameters."""
    for i in range(2):
        x = torch.relu(linear(x, params[f"w{i}"], params[f"b{i}"]))
    return linear(x, params["w2"], params["b2"])


def squared_error(x: Tensor, y: Tensor, params: Params) -> Tensor:
    """Mean over a task's points, (N,)."""
    return (predict(params, x) - y).square().mean((1, 2))


def draw(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Amplitude and phase of n tasks, each (n, 1, 1)."""
    amplitude = 0.1 + 4.9 * torch.rand((n, 1, 1), generator=rng)
    return amplitude, math.pi * torch.rand((n, 1, 1), generator=rng)


def points(task: tuple[Tensor, Tensor], k: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """K points of each task: x and amplitude sin(x - phase)."""
    amplitude, phase = task
    x = 10 * torch.rand((len(phase), k, 1), generator=rng) - 5
    return x, amplitude * torch.sin(x - phase)


def train(
    iterations: int, *, inner_lr: float = 0.01, inner_steps: int = 1, num_tasks: int = 25,
    outer_lr: float = 1e-3, shots: int = 5, seed: int = 0, second_order: bool = True,
) -> Params:  # fmt: skip
    """Meta-train with Adam; ``inner_steps`` 0 is pretraining on all tasks."""
    rng = torch.Generator().manual_seed(seed)
    theta = initial(rng)
    optimizer = torch.optim.Adam(list(theta.values()), outer_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for _ in range(iterations):
        task = draw(num_tasks, rng)
        support = partial(squared_error, *points(task, shots, rng))
        query = partial(squared_error, *points(task, shots, rng))
        phi = adapt(
            [support] * inner_steps, expand(theta, num_tasks), inner_lr, second_order=second_order
        )
        optimizer.zero_grad()
        query(phi).mean().backward()
        optimizer.step()
        schedule.step()
    return theta


def test(theta: Params, *, inner_lr: float, shots: int = 5, n: int = 600) -> dict[int, float]:
    """Mean squared error on 100 fresh points of n unseen tasks after 0, 1, 5 and 10 steps."""
    rng = torch.Generator().manual_seed(12_345)
    task = draw(n, rng)
    support = partial(squared_error, *points(task, shots, rng))
    x, y = points(task, 100, rng)
    phi, errors = expand(theta, n), {}
    for step in range(11):
        if step:
            phi = inner_update(support, phi, inner_lr, second_order=False)
            phi = {k: p.detach() for k, p in phi.items()}
        if step in (0, 1, 5, 10):
            errors[step] = float(squared_error(x, y, phi).mean().detach())
    return errors


def main() -> None:
    """Train, test, print beside the published figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--iterations", type=int, default=70_000)
    parser.add_argument("--inner-steps", type=int, default=1)
    parser.add_argument("--inner-lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    started = time.perf_counter()
    theta = train(
        args.iterations, inner_lr=args.inner_lr, inner_steps=args.inner_steps, seed=args.seed
    )
    errors = test(theta, inner_lr=args.inner_lr)
    for step, error in errors.items():
        print(f"after {step:2} steps: {error:.3f}   published {PUBLISHED.get(step, '')}")
    if args.out:
        result = {"mse": errors, "published": PUBLISHED, "train_s": time.perf_counter() - started}
        args.out.write_text(json.dumps(result | {k: str(v) for k, v in vars(args).items()}))


if __name__ == "__main__":
    main()
