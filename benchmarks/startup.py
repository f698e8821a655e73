"""CPU seconds of short commands: most of each is importing what it needs, and what it does not.

    python benchmarks/startup.py --out benchmarks/results/startup.json

User and system time of the whole process, the median of several; `eval` and `watch` are of a small
run on cart-pole. Only the ratio to `python -c "import torch"`, printed with each, compares
machines.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CLI = ["-m", "precocial.cli"]
COMMANDS = {
    "import torch": ["-c", "import torch"],
    "--help": [*CLI, "--help"],
    "list": [*CLI, "list"],
    "train maml --env point-nav --help": [*CLI, "train", "maml", "--env", "point-nav", "--help"],
    "eval RUN": [*CLI, "eval", "RUN"],
    "watch RUN --out film.gif": [*CLI, "watch", "RUN", "--out", "RUN/film.gif"],
}
TRAIN = [*CLI, "train", "maml", "--env", "cart-pole", "--iterations", "2", "--out", "RUN"]


def cpu_seconds(words: list[str], run: Path) -> float:
    """User and system time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *(word.replace("RUN", str(run)) for word in words)],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as home:
        run = Path(home) / "run"
        cpu_seconds(TRAIN, run)
        for name, words in COMMANDS.items():
            results[name] = statistics.median(cpu_seconds(words, run) for _ in range(args.rounds))
            ratio = results[name] / results["import torch"]
            print(f"{name:36} {results[name]:5.2f} s, {ratio:4.1f} x import torch", flush=True)
    if args.out:
        text = json.dumps({name: round(value, 3) for name, value in results.items()}, indent=2)
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
