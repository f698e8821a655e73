"""Gradient steps of ``pearl``: all tasks at once, against the structure of the published code.

    python benchmarks/pearl.py [--out FILE.json]

"one by one" has what the published code has: a replay in numpy for each task, a Python loop over
tasks where batches, products of Gaussians, guesses and divergences are made, a state value with a
slow copy besides two critics, and five optimisers, stepped in turn. 16 tasks of ``point-robot``,
one thread, CPU seconds; both take turns and ratios are medians over rounds. Beside them the
arithmetic of a step and the share that it is of the rate of a large matrix product. The rest says
what does not grow: an iteration with a full replay over one with an empty one, and the memory of
100 tasks x 20 000 transitions of ``half-cheetah-vel``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.utils.flop_counter import FlopCounterMode

from precocial import memory
from precocial.algos.inference.pearl import PEARL, PEARLConfig, Training
from precocial.envs import ENVS
from precocial.types import TaskEnv

TASKS, LATENT, CONTEXT = 16, 5, 64
SIZES = {
    "3x300, 256 rows (the paper's)": ((300,) * 3, (200,) * 3, 256),
    "3x128, 256 rows": ((128,) * 3, (128,) * 3, 256),
    "3x128, 64 rows": ((128,) * 3, (128,) * 3, 64),
    "2x128, 64 rows (the defaults)": ((128,) * 2, (64,) * 2, 64),
    "3x64, 64 rows": ((64,) * 3, (64,) * 3, 64),
    "2x64, 64 rows (point-robot)": ((64,) * 2, (64,) * 2, 64),
}
"""Policy and critics, encoder, transitions of each task."""
GAMMA, ALPHA, KL, LR, TAU = 0.9, 0.01, 1e-3, 1e-3, 0.01


def layers(sizes: tuple[int, ...]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for i, o in zip(sizes, sizes[1:], strict=False):
        parts += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class OneByOne:
    """A gradient step in which every task has its turn."""

    def __init__(self, owner: PEARL, hidden: tuple[int, ...], encoder: tuple[int, ...]) -> None:
        steps = kept(owner)
        self.store = [{k: v[task].numpy() for k, v in steps.items()} for task in range(TASKS)]
        self.rows, self.rng = owner.cfg.batch_size, np.random.default_rng(0)
        o, a = owner.spec.obs_dim, owner.spec.action_dim
        self.encoder = layers((o + a + 1, *encoder, 2 * LATENT))
        self.policy = layers((o + LATENT, *hidden, 2 * a))
        self.q, self.q_twin = (layers((o + a + LATENT, *hidden, 1)) for _ in range(2))
        self.v, self.slow_v = (layers((o + LATENT, *hidden, 1)) for _ in range(2))
        nets = (self.encoder, self.policy, self.q, self.q_twin, self.v)
        self.adams = [torch.optim.Adam(n.parameters(), LR) for n in nets]

    def batch(self, tasks: np.ndarray, num: int) -> dict[str, Tensor]:
        """``num`` transitions of each."""
        parts: dict[str, list[Tensor]] = {}
        for task in tasks:
            store = self.store[task]
            at = self.rng.integers(len(store["reward"]), size=num)
            for k, v in store.items():
                parts.setdefault(k, []).append(torch.from_numpy(v[at]).unsqueeze(0))
        return {k: torch.cat(v) for k, v in parts.items()}

    def guess(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """A z for each task and the sum of their divergences."""
        mean, raw = self.encoder(context).chunk(2, -1)
        var = nn.functional.softplus(raw)
        means, variances = [], []
        for m, s in zip(mean.unbind(0), var.unbind(0), strict=True):
            s = s.clamp(min=1e-7)
            together = 1 / (1 / s).sum(0)
            means.append(together * (m / s).sum(0))
            variances.append(together)
        posteriors = [Normal(m, s.sqrt()) for m, s in zip(means, variances, strict=True)]
        prior = Normal(torch.zeros(LATENT), torch.ones(LATENT))
        z = torch.stack([q.rsample() for q in posteriors])
        return z, torch.stack([kl_divergence(q, prior).sum() for q in posteriors]).sum()

    def act(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A squashed action and its log-density."""
        mean, log_std = self.policy(x).chunk(2, -1)
        normal = Normal(mean, log_std.clamp(-20, 2).exp())
        u = normal.rsample()
        log_prob = normal.log_prob(u) - torch.log(1 - torch.tanh(u).square() + 1e-6)
        return torch.tanh(u), log_prob.sum(-1, keepdim=True)

    def step(self) -> None:
        """One of each optimiser."""
        tasks = self.rng.integers(TASKS, size=TASKS)
        seen = self.batch(tasks, CONTEXT)
        context = torch.cat([seen["obs"], seen["action"], seen["reward"].unsqueeze(-1)], -1)
        b = {k: v.flatten(0, 1) for k, v in self.batch(tasks, self.rows).items()}
        z, kl = self.guess(context)
        every = torch.cat([row.expand(self.rows, -1) for row in z.unbind(0)])
        obs, still = torch.cat([b["obs"], every], -1), every.detach()
        action, log_prob = self.act(torch.cat([b["obs"], still], -1))
        x = torch.cat([obs, b["action"]], -1)
        q, q_twin = self.q(x), self.q_twin(x)
        v = self.v(torch.cat([b["obs"], still], -1))
        with torch.no_grad():
            later = self.slow_v(torch.cat([b["next_obs"], every], -1))
            going = (~b["terminated"]).float().unsqueeze(-1)
            y = b["reward"].unsqueeze(-1) + GAMMA * going * later
        encoder, policy, first, twin, value = self.adams
        for adam in (encoder, first, twin):
            adam.zero_grad()
        (KL / TASKS * kl).backward(retain_graph=True)
        ((q - y).square().mean() + (q_twin - y).square().mean()).backward()
        for adam in (first, twin, encoder):
            adam.step()
        x = torch.cat([b["obs"], still, action], -1)
        low = torch.min(self.q(x), self.q_twin(x))
        value.zero_grad()
        (v - (low - ALPHA * log_prob).detach()).square().mean().backward()
        value.step()
        with torch.no_grad():
            for slow, p in zip(self.slow_v.parameters(), self.v.parameters(), strict=True):
                slow.copy_(slow * (1 - TAU) + p * TAU)
        policy.zero_grad()
        (ALPHA * log_prob - low).mean().backward()
        policy.step()


def make(name: str, **options: int) -> TaskEnv:
    """A family by name."""
    entry = ENVS[name]
    env: TaskEnv = entry.cls(entry.config(**options))
    return env


def kept(owner: PEARL) -> dict[str, Tensor]:
    """Its replay, tasks first."""
    names = ("obs", "action", "reward", "next_obs", "terminated")
    stored = owner.replay.rows(0)
    return {k: stored[k].movedim(0, 1).flatten(1, 2).contiguous() for k in names}


def make_pearl(
    hidden: tuple[int, ...], encoder: tuple[int, ...], rows: int, **more: int
) -> tuple[PEARL, Training, torch.Generator]:
    """One that has collected its first data and some more."""
    cfg = PEARLConfig(
        train_tasks=TASKS, num_tasks=TASKS, meta_batch=TASKS, hidden=hidden, encoder_hidden=encoder,
        batch_size=rows, context_size=CONTEXT, episodes_per_trial=4, buffer_size=4000, updates=1,
        gamma=GAMMA, alpha=ALPHA, kl_weight=KL, lr=LR, tau=TAU,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    family = make("point-robot")
    owner = PEARL(replace(cfg, **more), family.spec, rng)
    for _ in range(20):
        owner.meta_update(family, family.sample_tasks(1, "train", rng), rng)
    return owner, Training(owner, rng), rng


def cpu_seconds(step: Callable[[], object], times: int) -> float:
    """Of one call, in the mean."""
    started = time.process_time()
    for _ in range(times):
        step()
    return (time.process_time() - started) / times


def arithmetic(step: Callable[[], object]) -> float:
    """GFLOP of a call, in matrix products."""

    def added(_: torch.Size, a: torch.Size, b: torch.Size, **more: object) -> int:
        return 2 * a.numel() * b[1]

    in_place = {torch.ops.aten.addmm_: added}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        step()
    return counter.get_total_flops() / 1e9


def product_rate() -> float:
    """GFLOP per CPU second of a large matrix product."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / 1e9 / cpu_seconds(lambda: torch.mm(a, a), 4)


def compare(repeats: int) -> dict[str, dict[str, float]]:
    """Both in turn, at every size."""
    result = {}
    for name, (hidden, encoder, rows) in SIZES.items():
        owner, training, _ = make_pearl(hidden, encoder, rows)
        loop = OneByOne(owner, hidden, encoder)
        times = max(5, int(2 / (cpu_seconds(partial(training.run, 16), 1) / 16)))
        loop.step()
        ours, theirs, rate = [], [], []
        for _ in range(repeats):
            ours.append(cpu_seconds(partial(training.run, times), 1) / times)
            theirs.append(cpu_seconds(loop.step, times))
            rate.append(product_rate())
        work = arithmetic(partial(training.run, 1)), arithmetic(loop.step)
        result[name] = {
            "steps per CPU s": 1 / statistics.median(ours),
            "one by one": 1 / statistics.median(theirs),
            "ratio": statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
            "GFLOP a step": work[0],
            "GFLOP a step, one by one": work[1],
            "share of the product rate": work[0]
            / statistics.median(a * r for a, r in zip(ours, rate, strict=True)),
        }
    return result


def growth(repeats: int) -> float:
    """CPU seconds of an iteration with a full replay over those with little in it."""
    family, ratios = make("point-robot"), []
    for _ in range(repeats):
        owner, _, rng = make_pearl((64, 64), (64, 64), 64, updates=50, buffer_size=20_000)
        iteration = partial(owner.meta_update, family, family.sample_tasks(1, "train", rng), rng)
        before = cpu_seconds(iteration, 10)
        stored = owner.replay.rows(0)
        while owner.replay.total < owner.replay.room:
            owner.replay.extend(stored)
        ratios.append(cpu_seconds(iteration, 10) / before)
    return statistics.median(ratios)


def replay_mb() -> float:
    """MB of a full replay of half-cheetah-vel: 100 tasks, 20 000 transitions of each."""
    family = make("half-cheetah-vel", horizon=200)
    cfg = PEARLConfig(train_tasks=100, num_tasks=20, buffer_size=20_000, updates=1)
    rng = torch.Generator().manual_seed(0)
    owner = PEARL(cfg, family.spec, rng)
    owner.meta_update(family, family.sample_tasks(1, "train", rng), rng)
    return sum(x.numel() * x.element_size() for x in owner.replay.fields.values()) / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    memory.keep()  # as in training, for both
    result = {
        "steps": compare(args.repeats),
        "an iteration with a full replay over one with little": growth(args.repeats),
        "MB of 100 tasks x 20 000 transitions of half-cheetah-vel": replay_mb(),
    }
    for name, row in result["steps"].items():  # type: ignore[attr-defined]
        print(f"{name:32}" + "  ".join(f"{k} {v:.3g}" for k, v in row.items()))
    print({k: v for k, v in result.items() if k != "steps"})
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
