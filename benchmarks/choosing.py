"""The tables of ``docs/which-method.md``, read from the measured ones beside this file.

    python benchmarks/choosing.py

writes them into the page. A score is the mean return over seeds and test tasks, after what the
method saw of a task; in round brackets the lowest and the highest seed.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "which-method.md"


class Row(NamedTuple):
    """A line of a table: the line of a CSV that has these columns."""

    method: str
    seen: str
    table: str
    where: str
    """Columns and what they hold, as ``run=lake4, stage=3``."""

    def find(self) -> dict[str, str]:
        """The line.

        Raises:
            LookupError: none, or several.
        """
        where = dict(pair.split("=") for pair in self.where.split(", "))
        found = [row for row in read(self.table) if where.items() <= row.items()]
        if len(found) != 1:
            raise LookupError(f"{len(found)} lines of {self.table}.csv have {self.where}")
        return found[0]


@cache
def read(table: str) -> list[dict[str, str]]:
    """All lines of a CSV."""
    with (RESULTS / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


POLE = "env=cart-pole, env_steps=2000000"
LAKE = "actions=most likely, stage="
TRIAL = "actions=sampled, stage="
MODELS = {
    "mb-mpc": "nothing", "mb-de": "the episode so far", "grbal": "its last 16 steps",
    "rebal": "the episode so far", "grebal": "the episode so far",
}  # fmt: skip
QUESTIONS: dict[str, list[Row]] = {
    "pendulum-mass": [
        Row("`multi-task`", "nothing", "gradient", "run=pend-multi-task, stage=0"),
        Row("`maml`", "10 episodes", "gradient", "run=pend-maml, stage=1"),
        Row("`oracle`", "told the mass", "gradient", "run=pend-oracle, stage=0"),
    ],
    "cart-pole": [
        Row("`multi-task`", "nothing", "learning", f"{POLE}, algorithm=multi-task, stage=0"),
        Row("`maml`", "10 episodes", "learning", f"{POLE}, algorithm=maml, stage=1"),
        Row("`oracle`", "told the sign", "learning", f"{POLE}, algorithm=oracle, stage=0"),
    ],
    "half-cheetah-dir": [
        Row("`multi-task`", "nothing", "gradient", "run=dir-multi-task, stage=0"),
        Row("`promp`", "40 episodes", "learning",
            "env=half-cheetah-dir, algorithm=promp, stage=1"),
        Row("`oracle`", "told the direction", "gradient", "run=dir-oracle, stage=0"),
    ],
    "half-cheetah-vel": [
        Row("`multi-task`", "nothing", "gradient", "run=vel-multi-task, stage=0"),
        Row("`maml`", "20 episodes", "gradient", "run=vel-maml, stage=1"),
        Row("`cavia`", "20 episodes", "gradient", "run=vel-cavia, stage=1"),
        Row("`meta-sgd`", "20 episodes", "gradient", "run=vel-meta-sgd, stage=1"),
        Row("`oracle`", "told the speed", "gradient", "run=vel-oracle, stage=0"),
    ],
    "few-steps": [
        Row("`promp`", "20 episodes", "pearl", "run=half-cheetah-vel-promp, stage=1"),
        Row("`rl2`", "1 episode", "pearl", "run=half-cheetah-vel-rl2, stage=1"),
        Row("`pearl`", "2 episodes", "pearl",
            "run=half-cheetah-vel, actions=sampled, stage=2"),
    ],
    "grid-nav": [
        Row("`domain-randomization`", "nothing", "trials",
            f"run=dr-grid-nav, {TRIAL}1"),
        Row("`rl2`", "1 episode", "trials", f"run=grid-nav-rl2, {TRIAL}1"),
        Row("`rl2`", "3 episodes", "trials", f"run=grid-nav-rl2, {TRIAL}3"),
        Row("`varibad`", "1 episode", "trials", f"run=grid-nav-varibad, {TRIAL}1"),
        Row("`varibad`", "3 episodes", "trials", f"run=grid-nav-varibad, {TRIAL}3"),
        Row("`pearl`", "3 episodes", "pearl", "run=grid-nav, stage=3"),
    ],
    "frozen-lake": [
        Row("`q-multi-task`", "nothing", "gradient", f"run=lake4-q-multi-task, {LAKE}0"),
        Row("`q-multi-task`", "about 150 episodes, 3 updates", "gradient",
            f"run=lake4-q-multi-task, {LAKE}3"),
        Row("`q-maml`", "about 150 episodes, 3 updates", "gradient",
            f"run=lake4-q-maml, {LAKE}3"),
        Row("`rl2`", "3 episodes", "trials", f"run=lake4-rl2, {TRIAL}3"),
        Row("`rl2`", "9 episodes", "trials", f"run=lake4-rl2, {TRIAL}9"),
    ],
    "bandit": [
        Row("greedy", "", "trials", "run=n10-k5, algorithm=greedy"),
        Row("`maml`", "", "learning",
            "env=bandit, algorithm=maml, preset=n10-k5, stage=trial"),
        Row("`rl2`", "", "trials", f"run=n10-k5, algorithm=rl2, {TRIAL}trial"),
        Row("UCB1", "", "trials", "run=n10-k5, algorithm=UCB1"),
        Row("Gittins indices", "", "trials", "run=n10-k5, algorithm=Gittins"),
    ],
    "tabular-mdp": [
        Row("`rl2 --memory transformer`", "", "memories",
            "run=tab-tr, algorithm=rl2, stage=trial"),
        Row("PSRL", "", "memories", "run=fw, algorithm=PSRL"),
        Row("`rl2`, fast weights", "", "memories",
            "run=fw, env=tabular-mdp, algorithm=rl2, stage=trial"),
        Row("`belief-oracle`, the exact posterior", "", "memories",
            f"run=bo, algorithm=belief-oracle, {TRIAL}trial"),
    ],
    "hidden-gain": [
        Row(f"`{name}`", seen, "models", f"run={name}, env=hidden-gain, algorithm={name}")
        for name, seen in MODELS.items()
    ],
    "half-cheetah-disabled": [
        Row(f"`{name}`", seen, "models",
            f"run={name}, env=half-cheetah-disabled, algorithm={name}")
        for name, seen in MODELS.items()
    ],
}  # fmt: skip


def line(row: Row) -> str:
    """The row in Markdown."""
    found = row.find()
    seeds = [float(s) for s in found["seed_means"].split()]
    score = digits(float(found["return_mean"]))
    if len(seeds) > 1:
        score += f" ({digits(min(seeds))} to {digits(max(seeds))})"
    steps = f"{int(found['env_steps']) / 1e6:.2g} M" if found["env_steps"] else ""
    cells = [row.method, row.seen, score, steps, str(len(seeds) or "")]
    return "| " + " | ".join(cells) + " |"


def digits(x: float) -> str:
    """Three of them, about."""
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.1f}" if abs(x) >= 20 else f"{x:.2f}"


def table(rows: list[Row]) -> str:
    """A Markdown table."""
    head = ["| | seen of the task | return | environment steps of training | seeds |"]
    return "\n".join([*head, "|---|---|---|---|---|", *map(line, rows)])


def fill(page: str) -> str:
    """The page with every table between its marks made anew.

    Raises:
        LookupError: a mark that no table is for, or a table without a mark.
    """
    marks = re.findall(r"<!-- table: (.*?) -->", page)
    if sorted(marks) != sorted(QUESTIONS):
        raise LookupError(f"the page has marks for {marks}, this file tables for {[*QUESTIONS]}")
    return re.sub(
        r"(<!-- table: (.*?) -->\n).*?(<!-- end -->)",
        lambda m: f"{m[1]}{table(QUESTIONS[m[2]])}\n{m[3]}", page, flags=re.DOTALL,
    )  # fmt: skip


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text()))
