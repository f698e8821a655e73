"""Which runs are scored together, on which tasks, and what becomes of the result."""

import json
import sys

import pytest

import precocial
from precocial.cli import main
from precocial.envs.grid.frozen_lake import FrozenLake, FrozenLakeConfig
from precocial.errors import UserError
from precocial.evaluation.table import evaluate
from precocial.seeding import generator

SMALL = {
    "num_tasks": 2, "episodes_per_task": 2, "hidden": (4,), "iterations": 1, "eval_every": 0,
    "env_horizon": 5, "quiet": True,
}  # fmt: skip


def train(out, algo="maml", env="point-nav", **settings):
    return precocial.train(algo, env, out=out, **(SMALL | settings))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("run") / "one")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"inner_lr": 0.3}, r"differ in --inner-lr \(0.3, 0.25\)"),
        ({"iterations": 2}, "--iterations"),
        ({"env_train_tasks": 5}, "--env-train-tasks"),
        ({"env_goal_range": 0.4}, "--env-goal-range"),
        ({"algo": "promp"}, "--algo"),
        ({"seed": 0}, "seed 0 was given twice"),
    ],
)
def test_only_seeds_of_one_setting_are_pooled(settings, words, run, tmp_path):
    other = train(tmp_path / "other", **({"seed": 1} | settings))
    with pytest.raises(UserError, match=words):
        evaluate([run, other], tasks=2, keep=False)


def test_seeds_of_one_setting_are_pooled_however_they_were_carried_out(run, tmp_path):
    other = train(tmp_path / "other", seed=1, save_every=7)
    assert evaluate([run, other], tasks=2, keep=False)["run_seeds"] == [0, 1]
    with pytest.raises(UserError, match="given twice"):
        evaluate([run, run], tasks=2, keep=False)
    with pytest.raises(UserError, match="given twice"):
        evaluate(run, tasks=2, references=[other, other], keep=False)


def test_references_of_two_settings_are_two(run, tmp_path):
    homes = [train(tmp_path / f"lr-{lr}", "fomaml", inner_lr=lr) for lr in (0.1, 0.2)]
    result = evaluate(run, tasks=2, references=homes, keep=False)
    assert {"fomaml", "fomaml (lr-0.2)"} <= set(result["reference_curves"])


def test_known_methods_have_seen_as_many_episodes_as_what_they_stand_beside(tmp_path):
    lake = train(
        tmp_path / "lake", "q-maml", env_horizon=12, env_size=4, num_tasks=2, episodes_per_task=2,
        env="frozen-lake",
    )  # fmt: skip
    result = evaluate(lake, tasks=30, updates=2, keep=False)
    seen = [s["episodes_seen"] for s in result["stages"]]
    assert seen[0] == 0 < seen[1] < seen[2]
    env = FrozenLake(FrozenLakeConfig(size=4, horizon=12))
    tasks = env.sample_tasks(30, "test", generator(0, "evaluation tasks", "test"))
    alone = env.references(tasks, seen[-1] + 1, generator(0, "references"))["planner"]
    planner = [s["return_mean"] for s in result["reference_curves"]["planner"]]
    assert planner == pytest.approx([float(alone[:, k].mean()) for k in seen])
    assert planner[0] < planner[-1]
    with pytest.raises(UserError, match="rates of this q-maml were learned"):
        evaluate(lake, tasks=2, adapt_lrs=(1.0,), keep=False)


def test_train_tasks_are_the_same_for_run_and_reference(tmp_path):
    pool = train(tmp_path / "pool", env_train_tasks=3)
    fresh = train(tmp_path / "fresh", "fomaml")
    with pytest.raises(UserError, match="--env-train-tasks where train tasks are scored"):
        evaluate(pool, tasks=2, split="train", references=[fresh], keep=False)
    assert evaluate(pool, tasks=2, references=[fresh], keep=False)["num_tasks"] == 2


def test_a_folder_that_cannot_be_written_to_costs_a_line(run, capsys):
    (run / "eval").write_text("in the way")
    assert main(["eval", str(run), "--tasks", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["num_tasks"] == 2
    assert err.startswith("precocial: not kept") and err.count("\n") == 1
    (run / "eval").unlink()


ENVIRONMENT = """
import gymnasium, numpy as np
class Hill(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    max_episode_steps = 5
    def sample_tasks(self, n): return list(self.np_random.uniform(-1, 1, n))
    def set_task(self, task): self.task = task
    def get_task(self): return self.task
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}
    def step(self, action): return np.zeros(1, np.float32), SIGN * self.task, False, False, {}
"""


def test_another_source_file_of_the_same_name_is_said(tmp_path, monkeypatch, capsys):
    for name, sign in (("here", 1), ("there", -1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "hill.py").write_text(ENVIRONMENT.replace("SIGN", str(sign)))
    line = ["--tasks", "2", "--json"]
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    options = SMALL | {"env_horizon": 0}
    run = precocial.train("maml", "hill:Hill", out=tmp_path / "run", **options)
    assert main(["eval", str(run), *line]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.delitem(sys.modules, "hill")
    monkeypatch.syspath_prepend(str(tmp_path / "there"))
    assert main(["eval", str(run), *line]) == 0
    said = capsys.readouterr().err
    assert "there/hill.py is another file than" in said and "here/hill.py" in said
    assert said.count("\n") == 1


def test_a_missing_module_names_where_the_run_was_trained(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / "gully.py").write_text(ENVIRONMENT.replace("SIGN", "1"))
    with monkeypatch.context() as inside:
        inside.chdir(home)
        inside.syspath_prepend(str(home))
        options = SMALL | {"env_horizon": 0}
        run = precocial.train("maml", "gully:Hill", out=tmp_path / "run", **options)
    monkeypatch.delitem(sys.modules, "gully")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in sys.path if p != str(home)])
    with pytest.raises(UserError, match=r"the run was trained with .*home/gully.py"):
        evaluate(run, tasks=2, keep=False)
