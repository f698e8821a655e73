"""Training a GRU on whole trials: ``precocial.nets.gru`` against ``nn.GRU`` under autograd.

    python benchmarks/recurrent.py [--out FILE.json]

512 lanes x 100 steps, 256 units, minibatches of 128 whole trials, with one thread and with all.
"passes" is one forward and backward pass over all lanes; "update" is an acting pass and four epochs
of PPO with its heads, loss and Adam. Variants take turns and ratios are medians over rounds, but
anything else that runs on the machine still costs the many-threaded figures most: see the load.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from precocial.nets import gru

STEPS, LANES, MINIBATCH, EPOCHS = 100, 512, 128, 4
INPUTS, SIZE, ACTIONS = 32, 256, 6
FLOPS = 2 * 3 * SIZE * (SIZE + INPUTS)  # of one step forwards; backwards takes twice as many
VARIANTS = ("nn.GRU", "float32", "bfloat16")


class Agent(nn.Module):
    """A policy and a value on one GRU, computed by the named variant."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.variant = variant
        self.core = nn.GRU(INPUTS, SIZE)
        self.policy, self.value = nn.Linear(SIZE, ACTIONS), nn.Linear(SIZE, 1)
        self.adam = torch.optim.Adam(self.parameters(), 3e-4)

    def sequence(self, x: Tensor) -> Tensor:
        if self.variant == "nn.GRU":
            return self.core(x)[0]
        h0 = x.new_zeros(x.shape[1], SIZE)
        return gru.gru_sequence(x, *self.core.parameters(), h0, precision=self.variant)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        if self.variant == "nn.GRU":
            return torch.gru_cell(x, h, *self.core.parameters())
        return gru.gru_step(x, h, *self.core.parameters())


def passes(agent: Agent, x: Tensor, grad: Tensor) -> None:
    """Forwards and backwards over all lanes."""
    for lanes in torch.arange(LANES).split(MINIBATCH):
        agent.sequence(x[:, lanes]).backward(grad)


def update(agent: Agent, x: Tensor, advantage: Tensor) -> None:
    """Act, then four epochs of PPO; advantages also serve as value targets."""
    h = x.new_zeros(LANES, SIZE)
    actions, before = [], []
    with torch.no_grad():
        for inputs in x:
            h = agent.step(inputs, h)
            agent.value(h)
            log_prob = agent.policy(h).log_softmax(-1)
            actions.append(log_prob.exp().multinomial(1))
            before.append(log_prob.gather(-1, actions[-1]))
    action, old = torch.stack(actions), torch.stack(before)
    for _ in range(EPOCHS):
        for lanes in torch.randperm(LANES).split(MINIBATCH):
            h = agent.sequence(x[:, lanes])
            log_prob = agent.policy(h).log_softmax(-1)
            ratio = (log_prob.gather(-1, action[:, lanes]) - old[:, lanes]).exp()
            gain = torch.min(
                ratio * advantage[:, lanes], ratio.clip(0.8, 1.2) * advantage[:, lanes]
            )
            entropy = -(log_prob.exp() * log_prob).sum(-1)
            error = (agent.value(h) - advantage[:, lanes]).square()
            agent.adam.zero_grad()
            (error.mean() / 2 - gain.mean() - 0.01 * entropy.mean()).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            agent.adam.step()


def seconds(function: Callable[..., object], *args: object) -> float:
    started = time.perf_counter()
    function(*args)
    return time.perf_counter() - started


def product_rates(matrix: Tensor) -> dict[str, float]:
    """Of a large float32 product, in GFLOP/s: PyTorch's, and the one inside the GRU."""
    flops = 2 * len(matrix) ** 3 / 1e9
    return {
        "torch.mm": flops / seconds(torch.mm, matrix, matrix),
        "gru": flops / seconds(gru.affine, matrix[0], matrix, matrix),
    }


def measure(threads: int, repeats: int) -> dict[str, float]:
    """Medians over rounds in which every variant has its turn."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    agents = [Agent(v) for v in VARIANTS if v != "bfloat16" or gru.bfloat16_supported()]
    x, grad = torch.randn(STEPS, LANES, INPUTS), torch.randn(STEPS, MINIBATCH, SIZE)
    advantage = torch.randn(STEPS, LANES, 1)
    matrix = torch.randn(2048, 2048)
    rounds: dict[str, list[float]] = {}
    for i in range(repeats + 1):
        took = {f"{k}_gflops": v for k, v in product_rates(matrix).items()}
        for agent in agents:
            took[f"passes {agent.variant}"] = seconds(passes, agent, x, grad)
            took[f"update {agent.variant}"] = seconds(update, agent, x, advantage)
        if i:  # the first round warms up
            for name, value in took.items():
                rounds.setdefault(name, []).append(value)
    result: dict[str, float] = {}
    for name, values in rounds.items():
        if name.endswith("gflops"):
            result[name] = statistics.median(values)
            continue
        kind = name.split()[0]
        rate = LANES * STEPS / statistics.median(values)
        result[f"{name} steps/s"] = rate
        pairs = zip(rounds[f"{kind} nn.GRU"], values, strict=True)
        result[f"{name} ratio"] = statistics.median(a / b for a, b in pairs)
        flops = FLOPS * (3 if kind == "passes" else 3 * EPOCHS + 1)
        result[f"{name} share of torch.mm"] = rate * flops / result["torch.mm_gflops"] / 1e9
    return result


def main() -> None:
    """Measure with one thread and with all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    every = torch.get_num_threads()
    result: dict[str, object] = {"load_before": os.getloadavg()[0]}
    for threads in sorted({1, every}):
        figures = measure(threads, args.repeats)
        result[f"threads={threads}"] = figures
        print(f"{threads} thread{'s' * (threads > 1)}")
        for name, value in figures.items():
            print(f"  {name:36} {value:.4g}")
    result["load_after"] = os.getloadavg()[0]
    print(f"load {result['load_before']:.2f} before, {result['load_after']:.2f} after")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
