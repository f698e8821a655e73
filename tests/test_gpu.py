"""Every method on a GPU: trains, goes on, is scored, and is used and read where there is none."""

import math

import numpy as np
import pytest
import torch

import precocial
from precocial.runs.folder import load_algorithm
from precocial.runs.rows import read_rows
from precocial.training import run
from test_pictures import CASES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

MODEL = {
    "env": "half-cheetah-disabled", "env_horizon": 20, "num_tasks": 2, "hidden": (8, 8),
    "windows": 8, "model_updates": 3, "candidates": 8, "plan_horizon": 3,
}  # fmt: skip
TABLES = {"env": "tabular-mdp", "num_tasks": 4, "episodes_per_trial": 2}
FEW = {"num_tasks": 2, "episodes_per_task": 3}
NUMBERS = {
    "fomaml": {"env": "cart-pole"} | FEW, "meta-sgd": {"env": "point-nav"} | FEW,
    "multi-task": {"env": "pendulum-mass"} | FEW,
    "q-reptile": {"env": "frozen-lake"} | FEW, "q-multi-task": {"env": "frozen-lake"} | FEW,
    "q-learning": {"env": "FrozenLake-v1", "lanes": 2},
    "rl2 by lstm": TABLES | {"memory": "lstm"},
    "rl2 by attention": TABLES | {"memory": "transformer"},
    "rl2 by fast weights": TABLES | {"memory": "fast-weights", "embed": 0},
    "belief-oracle": {"env": "grid-nav", "num_tasks": 4},
    "domain-randomization": {"env": "bandit", "num_tasks": 4},
    "grbal": MODEL | {"past": 4, "future": 3}, "rebal": MODEL | {"past": 4, "futures": 2},
    "grebal": MODEL | {"past": 4}, "mb-mpc": MODEL | {"future": 3},
    "mb-de": MODEL | {"past": 4, "future": 3},
    "promp of sentences": {"env": "instructions"} | FEW,
}  # fmt: skip
ALL = {f"{name}, pictures": case | {"env_view": "picture"} for name, case in CASES.items()}
ALL |= {f"{name}, numbers": case for name, case in CASES.items()} | NUMBERS


@pytest.mark.parametrize("case", ALL)
def test_a_method_on_a_gpu(case, tmp_path, monkeypatch):
    options = ALL[case] | {"eval_every": 0, "quiet": True, "device": "cuda"}
    name, env = case.partition(",")[0].partition(" ")[0], options.pop("env")
    folder = precocial.train(name, env, out=tmp_path / "r", iterations=1, **options)
    run(folder, iterations=2, quiet=True)
    rows = read_rows(folder / "metrics.jsonl")
    assert len(rows) == 2 and all(math.isfinite(x) for r in rows for x in r.values())
    table = precocial.evaluate(folder, tasks=2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)  # the same run where no GPU is
    assert load_algorithm(folder)[0].run.device == "cpu"
    assert precocial.evaluate(folder, tasks=2).keys() == table.keys()


@pytest.mark.parametrize("case", ["maml, pictures", "rl2, numbers", "dqn, pictures"])
def test_actions_are_alike_where_no_gpu_is(case, tmp_path, monkeypatch):
    name, options = case.partition(",")[0], ALL[case] | {"iterations": 1, "eval_every": 0}
    folder = precocial.train(name, out=tmp_path / "r", quiet=True, device="cuda", **options)
    there = precocial.load(folder)
    assert there.plan.run.device == "cuda"
    spec = there.env.spec
    obs = np.random.default_rng(0).random((3, *spec.obs_shape)) * (255 if spec.picture else 1)
    obs = obs.astype(np.uint8 if spec.picture else np.float32)
    acted, _ = there.predict(obs, deterministic=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    here, _ = precocial.load(folder).predict(obs, deterministic=True)
    assert np.allclose(acted, here, atol=1e-3)
