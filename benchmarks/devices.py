"""Seconds of an iteration on the processor and on a GPU, for numbers and for pictures.

    python benchmarks/devices.py [--devices cpu cuda] [--only WORD] [--out FILE.json]

Presets of their families but for what is said; each in a process of its own, the median of what
follows one iteration. Whether a GPU pays is a question of size: a step of a few hundred lanes is a
dozen small products, which a GPU starts no sooner than a processor does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = {
    "rl2 lake, pictures, 100 tasks": "rl2 --env frozen-lake --env-size 4 --env-view picture "
    "--num-tasks 100",
    "rl2 lake, 300 tasks": "rl2 --env frozen-lake --env-size 4",
    "maml point-nav, pictures": "maml --env point-nav --env-view picture",
    "maml point-nav": "maml --env point-nav",
    "maml point-nav, 400 tasks": "maml --env point-nav --num-tasks 400",
    "ppo point-nav, pictures, 32 lanes": "ppo --env point-nav --env-view picture --lanes 32",
    "dqn lake, pictures": "dqn --env frozen-lake --env-view picture",
    "rl2 bandit": "rl2 --env bandit",
    "varibad grid-nav": "varibad --env grid-nav",
    "q-maml lake": "q-maml --env frozen-lake --env-size 4",
    "pearl point-robot": "pearl --env point-robot",
    "promp half-cheetah-dir": "promp --env half-cheetah-dir",
    "grbal half-cheetah-disabled": "grbal --env half-cheetah-disabled --num-tasks 4",
}


def seconds(command: str, device: str, iterations: int) -> float:
    """Median of the iterations after the first."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "run"
        words = [*command.split(), "--device", device, "--iterations", str(iterations)]
        words += ["--eval-every", "0", "--out", str(folder)]
        subprocess.run(
            [sys.executable, "-m", "precocial.cli", "train", *words], check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(row["time/iteration_s"] for row in rows[1:])


def main() -> None:
    """Print a row for each setting as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--devices", nargs="+", default=["cpu", "cuda"])
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--only", default="", help="settings with this word in their name")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    print(f"{'':36}", *(f"{d:>9}" for d in args.devices))
    result: dict[str, dict[str, float]] = {}
    for name, command in SETTINGS.items():
        if args.only in name:
            result[name] = {d: seconds(command, d, args.iterations) for d in args.devices}
            print(f"{name:36}", *(f"{s:9.3f}" for s in result[name].values()), flush=True)
            if args.out:
                args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
