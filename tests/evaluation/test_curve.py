"""The protocol: what an adaptation curve counts."""

import pytest
import torch

from precocial.algos import ALGOS, build
from precocial.cli import _print_curve
from precocial.envs.control.point_nav import PointNav, PointNavConfig
from precocial.evaluation.curve import adaptation_curve
from precocial.evaluation.summary import summarise
from precocial.statistics import TaskSample


class Unstable(PointNav):
    """Says that the simulation of the first lanes diverged in the fourth step."""

    lost = 0

    def info(self, state):
        now = (self.time == 3) & (torch.arange(self.lanes[1]) < self.lost)
        return {"diverged": now.float()}


@pytest.mark.parametrize("algo", ["maml", "rl2"])
@pytest.mark.parametrize("lost", [0, 2])
def test_diverged_lanes_are_counted(algo, lost, capsys):
    env = Unstable(PointNavConfig(horizon=5))
    env.lost = lost
    rng = torch.Generator().manual_seed(0)
    method = build(ALGOS[algo].config, env.spec, rng)
    tasks = env.sample_tasks(3, "test", rng)
    curve = adaptation_curve(method, env, tasks, stages=2, lanes=4, seed=0)
    result = summarise([curve, curve], TaskSample(tasks.id.numpy()))
    assert curve.lanes_diverged == 3 * 2 * lost  # tasks x stages x lanes
    assert result.get("lanes_diverged") == (12 * lost or None)
    _print_curve(result | {
        "algorithm": algo, "env": "point-nav", "num_tasks": 3, "split": "test", "lanes": 4,
        "runs": 2, "stage_unit": method.stage_unit, "references": {}, "reference_curves": {},
        "adapt_lrs": [0.1] * (method.stage_unit == "update"), "greedy": False,
    })  # fmt: skip
    assert ("24 lanes diverged" in capsys.readouterr().out) == bool(lost)
