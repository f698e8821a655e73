"""Commands on a quiet machine, beside one busy process, and beside two.

    python benchmarks/beside.py --out benchmarks/results/beside.json
    python benchmarks/beside.py --against OLD/src     # with another version in turn

Printed is the wall-clock time of whole commands, and how many times its quiet time each takes. On
two cores a fair scheduler leaves one thread all of a core beside one busy process, and two thirds
of one beside two. Start it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

COMMANDS = {
    "maml": "train maml --env point-nav --iterations 20",
    "promp": "train promp --env half-cheetah-dir --iterations 5",
    "rl2": "train rl2 --env bandit --preset n10-k5 --iterations 20",
    "varibad": "train varibad --env grid-nav --iterations 20",
    "grbal": "train grbal --env half-cheetah-disabled --iterations 2 --num-tasks 4",
    "eval": "eval RUN --tasks 20",
}
TRAINED = "train maml --env cart-pole --iterations 2 --out RUN --overwrite"
BUSY = "while True: pass"


def seconds(command: str, run: Path, source: str | None) -> float:
    """Wall-clock time of one command."""
    words = command.replace("RUN", str(run)).split()
    if words[0] == "train" and "--out" not in words:
        words += ["--out", str(run.with_name("timed")), "--overwrite", "--eval-every", "0"]
    env = os.environ | ({"PYTHONPATH": source} if source else {})
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "precocial.cli", *words], env=env, check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - started


def beside(number: int, command: str, run: Path, source: str | None) -> float:
    """The same while so many processes do nothing but take time."""
    with ExitStack() as stack:
        for _ in range(number):
            busy = subprocess.Popen([sys.executable, "-c", BUSY])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        return seconds(command, run, source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--busy", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--against", help="src folder of another version, timed in turn")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    versions = {"this": None} | ({"other": args.against} if args.against else {})
    results: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as home:
        run = Path(home) / "cart-pole"
        seconds(TRAINED, run, None)
        for name in args.only:
            for version, source in versions.items():
                times = [
                    statistics.median(
                        beside(number, COMMANDS[name], run, source) for _ in range(args.rounds)
                    )
                    for number in args.busy
                ]
                results.setdefault(name, {})[version] = [round(t, 2) for t in times]
                ratios = ", ".join(f"{t / times[0]:.2f}" for t in times)
                print(f"{name:8} {version:6} {times} s, of the first: {ratios}", flush=True)
    if args.out:
        document = {
            "commands": COMMANDS, "busy": args.busy, "cores": os.cpu_count(), "seconds": results
        }  # fmt: skip
        args.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
