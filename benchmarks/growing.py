"""Time of an iteration and of a checkpoint with few and with very many stored transitions.

    python benchmarks/growing.py --out benchmarks/results/growing.json

A model-based run keeps all that it ever met. Nothing an iteration does may take longer for that:
the copy to undo it, the scan for values that are not finite, adding data, the statistics, sampling,
the checkpoint. Two runs of `grbal` on hidden-gain, one standing on 10 000 and one on 2 000 000
transitions, iterate and save in turn; printed is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from precocial.replay import Transitions
from precocial.runs.folder import create_folder
from precocial.runs.plan import plan
from precocial.training import Loop

HORIZON, STORED = 100, (10_000, 2_000_000)


def standing_on(transitions: int, folder: Path) -> Loop:
    """A run that has met so many transitions, saved."""
    p = plan("grbal", "hidden-gain")
    create_folder(p, folder, overwrite=False)
    loop = Loop(p, folder, quiet=True)
    loop.algorithm.iteration = p.algo_config.random_iterations  # it plans from the first on
    rng = torch.Generator().manual_seed(0)
    for _ in range(transitions // 10_000):
        obs = torch.randn(100, HORIZON, 3, generator=rng)
        action = torch.rand(100, HORIZON, 1, generator=rng) * 2 - 1
        episode = torch.zeros(100, HORIZON, dtype=torch.int64)
        new = Transitions(obs, action, obs + 0.1 * obs.roll(1, -1), episode)
        loop.algorithm.replay.extend(new._asdict())
        loop.algorithm.learn_statistics(new)
        loop.save("last")
    return loop


def timed(loop: Loop) -> tuple[float, float]:
    """Seconds of one iteration and of one checkpoint."""
    started = time.perf_counter()
    loop.iterate()
    iterated = time.perf_counter()
    loop.iteration += 1
    loop.save("last")
    return iterated - started, time.perf_counter() - iterated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        loops = [standing_on(n, Path(home) / str(n)) for n in STORED]
        rounds = [[timed(loop) for loop in loops] for _ in range(args.rounds + 1)][1:]
    few, many = ([row[i] for row in rounds] for i in range(2))
    result = {"stored": STORED, "rounds": args.rounds}
    for k, name in enumerate(("iteration", "checkpoint")):
        medians = [statistics.median(row[k] for row in of) for of in (few, many)]
        result[f"{name}_s"] = [round(x, 4) for x in medians]
        result[f"{name}_ratio"] = round(
            statistics.median(b[k] / a[k] for a, b in zip(few, many, strict=True)), 3
        )
    print(json.dumps(result))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
