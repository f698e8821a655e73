"""Which tasks the intervals of ``eval`` are over, and who reads them."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from precocial.cli import main
from precocial.evaluation.table import evaluate
from precocial.report import write_report
from precocial.statistics import TaskSample, bootstrap_interval


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two untrained seeds on the 21 goals of grid-nav."""
    home = tmp_path_factory.mktemp("grid") / "runs"
    line = ["train", "scratch", "--env", "grid-nav", "--seeds", "2", "--hidden", "8"]
    assert main([*line, "--num-tasks", "2", "--episodes-per-task", "2", "--out", str(home)]) == 0
    return home


def test_all_goals_are_kept_and_only_seeds_are_drawn(runs):
    result = evaluate(runs, tasks=21, updates=0, keep=False)
    assert result["tasks_complete"] and sorted(result["task_ids"]) == list(range(21))
    low, high = result["stages"][0]["ci95"]
    one, other = (
        evaluate(runs / f"seed-{seed}", tasks=21, updates=0, keep=False) for seed in (0, 1)
    )
    iqms = sorted(r["stages"][0]["return_iqm"] for r in (one, other))
    assert (low, high) == pytest.approx(iqms)
    assert one["stages"][0]["ci95"] is None


def test_some_goals_are_draws_and_copies_are_one(runs):
    some = evaluate(runs / "seed-0", tasks=10, updates=0, keep=False)
    assert not some["tasks_complete"] and len(set(some["task_ids"])) == 10
    returns = np.array(some["per_task_return"]).T
    assert some["stages"][0]["ci95"] == pytest.approx(list(bootstrap_interval(returns)))
    copies = evaluate(runs / "seed-0", tasks=63, updates=0, keep=False)
    assert copies["tasks_complete"] and len(copies["task_ids"]) == 63


def test_one_seed_without_an_interval_is_printed_reported_and_tabled(runs, tmp_path, capsys):
    run = runs / "seed-1"
    assert main(["eval", str(run), "--tasks", "21", "--updates", "1"]) == 0
    assert " .. " not in capsys.readouterr().out
    kept = json.loads((run / "eval" / "test-0.json").read_text())
    assert [stage["ci95"] for stage in kept["stages"]] == [None, None]
    page = tmp_path / "page.html"
    write_report([run], page)
    text = page.read_text()
    assert "one seed on all tasks that there are" in text
    assert "interval below" not in text and "NaN" not in text.partition('id="charts"')[0]
    path = Path(__file__).parents[2] / "benchmarks" / "table.py"
    spec = importlib.util.spec_from_file_location("table", path)
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    rows, line = table.describe(run, run / "eval" / "test-0.json")
    assert [(r["ci95_low"], r["ci95_high"]) for r in rows] == [("", ""), ("", "")]
    assert "None" not in line


def test_the_standard_error_counts_tasks_not_copies():
    values = np.array([1.0, 5.0, 3.0, 7.0])  # two copies of each of two tasks, means 2 and 6
    assert TaskSample(np.array([0, 1, 0, 1])).standard_error(values) == 2 / np.sqrt(2)
    assert TaskSample(np.zeros(4)).standard_error(values) is None
