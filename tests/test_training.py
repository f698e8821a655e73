"""Runs: exact resume, kill -9, damaged files, numbers that are not finite."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import precocial
from precocial.algos import ALGOS, build
from precocial.algos.gradient.online_maml import OnlineMAMLConfig
from precocial.cli import main
from precocial.envs import ENVS
from precocial.presets import JOINT
from precocial.runs import checkpoint
from precocial.runs.folder import create_folder, load_algorithm, read_plan
from precocial.runs.plan import plan
from precocial.runs.rows import read_rows
from precocial.seeding import derive, generator
from precocial.training import Loop, run
from precocial.types import UserError

SMALL = {
    "num_tasks": 3, "episodes_per_task": 3, "hidden": (8,), "env_horizon": 10, "eval_tasks": 3,
    "eval_every": 2, "save_every": 2, "quiet": True,
}  # fmt: skip


def numbers(folder):
    """Metrics without what may differ between equal runs."""
    rows = read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def test_same_seed_same_run_and_another_seed_another(tmp_path):
    runs = [
        precocial.train("maml", "point-nav", iterations=3, seed=s, out=tmp_path / n, **SMALL)
        for n, s in (("a", 1), ("b", 1), ("c", 2))
    ]
    a, b, c = map(numbers, runs)
    assert a == b
    assert a != c
    assert len(a) == 3
    assert {"iteration", "env_steps", "train/episode_reward_mean_adapt_1"} <= set(a[0])


@pytest.mark.parametrize("algo", ["maml", "promp", "reptile", "oracle"])
def test_stopping_and_resuming_equals_never_stopping(algo, tmp_path):
    whole = precocial.train(algo, "point-nav", iterations=5, out=tmp_path / "whole", **SMALL)
    part = precocial.train(algo, "point-nav", iterations=3, out=tmp_path / "part", **SMALL)
    run(part, iterations=5, quiet=True)
    assert numbers(whole) == numbers(part)
    assert read_plan(part).run.iterations == 5
    a, b = (checkpoint.load(f / "checkpoint" / "last.safetensors") for f in (whole, part))
    assert json.dumps(a["algorithm"], default=lambda t: t.tolist()) == json.dumps(
        b["algorithm"], default=lambda t: t.tolist()
    )


def test_kill_minus_nine_at_any_moment(tmp_path):
    """A real process, killed at several moments and resumed until it is through."""
    flags = [
        "--iterations", "30", "--num-tasks", "3", "--episodes-per-task", "3", "--hidden", "8",
        "--env-horizon", "10", "--eval-tasks", "3", "--eval-every", "4", "--save-every", "3",
    ]  # fmt: skip
    command = [sys.executable, "-m", "precocial.cli", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(*args):
        return subprocess.Popen(
            [*command, *args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
        )

    straight = start("maml", "--out", str(tmp_path / "straight"), *flags)
    assert straight.wait(120) == 0
    straight.stderr.close()

    broken, kills = tmp_path / "broken", 0
    process = start("maml", "--out", str(broken), *flags)
    for rows in (1, 8, 17):
        while process.poll() is None and len(read_rows(broken / "metrics.jsonl")) < rows:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        kills += process.returncode == -signal.SIGKILL
        process = start("--resume", str(broken))
    assert process.wait(120) == 0, process.stderr.read().decode()
    process.stderr.close()
    assert kills >= 2
    assert numbers(broken) == numbers(tmp_path / "straight")


def test_a_run_is_resumable_from_the_moment_its_folder_exists(tmp_path):
    p = plan("maml", "point-nav", iterations=2, **{k: v for k, v in SMALL.items() if k != "quiet"})
    create_folder(p, tmp_path / "r", overwrite=False)
    run(tmp_path / "r", quiet=True)
    assert len(numbers(tmp_path / "r")) == 2


def test_a_folder_that_exists_is_refused_or_replaced(tmp_path):
    out = precocial.train("scratch", "point-nav", out=tmp_path / "r", **SMALL)
    with pytest.raises(UserError, match=r"exists; continue it with --resume"):
        precocial.train("scratch", "point-nav", out=out, **SMALL)
    precocial.train("maml", "point-nav", iterations=1, out=out, overwrite=True, **SMALL)
    assert yaml.safe_load((out / "config.yaml").read_text())["algo"] == "maml"


def test_env_steps_limit_a_run(tmp_path):
    out = precocial.train("maml", "point-nav", env_steps=400, out=tmp_path / "r", **SMALL)
    steps = [row["env_steps"] for row in numbers(out)]
    assert steps[-1] >= 400 > steps[-2]


def test_evaluation_changes_nothing_that_training_reads(tmp_path):
    without = precocial.train(
        "maml", "point-nav", iterations=4, out=tmp_path / "a", **{**SMALL, "eval_every": 0}
    )
    checked = precocial.train("maml", "point-nav", iterations=4, out=tmp_path / "b", **SMALL)
    strip = [{k: v for k, v in r.items() if not k.startswith("valid/")} for r in numbers(checked)]
    assert strip == numbers(without)
    precocial.evaluate(without, tasks=3)
    run(without, iterations=6, quiet=True)
    run(checked, iterations=6, quiet=True)
    assert (
        numbers(without)[-1]["train/episode_reward_mean"]
        == (numbers(checked)[-1]["train/episode_reward_mean"])
    )


# ---- checkpoints ----------------------------------------------------------------------------


def some_state():
    return {"w": torch.arange(3.0), "deep": {0: torch.zeros(()), "list": [1, "x", None, 2.5]}}


def test_checkpoint_round_trip(tmp_path):
    checkpoint.save(tmp_path / "c", some_state())
    back = checkpoint.load(tmp_path / "c")
    assert torch.equal(back["w"], torch.arange(3.0))
    assert back["deep"][0].shape == ()
    assert back["deep"]["list"] == [1, "x", None, 2.5]
    assert b"pickle" not in (tmp_path / "c").read_bytes()


@pytest.mark.parametrize("damage", ["truncate", "edit tensor", "edit header", "empty", "other"])
def test_a_damaged_checkpoint_gives_one_clear_line(damage, tmp_path):
    path = tmp_path / "c"
    checkpoint.save(path, some_state())
    data = path.read_bytes()
    path.write_bytes({
        "truncate": data[:-3],
        "edit tensor": data[:-1] + bytes([data[-1] ^ 1]),
        "edit header": data.replace(b"2.5", b"9.5"),
        "empty": b"",
        "other": b"not a checkpoint at all, but long enough",
    }[damage])  # fmt: skip
    with pytest.raises(UserError, match="damaged") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c"
    checkpoint.save(path, some_state())
    good = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.save(path, {"w": torch.ones(9)})
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


# ---- numbers that are not finite ------------------------------------------------------------


def loop(tmp_path, **kwargs):
    options = {k: v for k, v in {**SMALL, **kwargs}.items() if k != "quiet"}
    create_folder(plan("maml", "point-nav", **options), tmp_path / "r", overwrite=False)
    return Loop(read_plan(tmp_path / "r"), tmp_path / "r", quiet=True)


def spoil(one, at):
    """Make the iterations in ``at`` end with a NaN parameter."""
    inner, count = one.algorithm.meta_update, iter(range(1000))

    def spoiled(env, tasks, rng):
        metrics = inner(env, tasks, rng)
        if next(count) in at:
            with torch.no_grad():
                next(one.algorithm.policy.parameters()).fill_(float("nan"))
        return metrics

    one.algorithm.meta_update = spoiled


def test_an_iteration_that_is_not_finite_is_skipped_and_counted(tmp_path):
    one = loop(tmp_path, iterations=4)
    spoil(one, {1, 2})
    one.run()
    rows = numbers(tmp_path / "r")
    assert [row.get("loss/skipped", 0) for row in rows] == [0, 1, 1, 0]
    state = checkpoint.load(tmp_path / "r" / "checkpoint" / "last.safetensors")
    assert torch.isfinite(state["algorithm"]["policy"]["weight_0"]).all()


def test_three_in_a_row_stop_the_run_with_advice_and_a_good_checkpoint(tmp_path):
    one = loop(tmp_path, iterations=9)
    spoil(one, {2, 3, 4})
    with pytest.raises(UserError, match="try a smaller rate"):
        one.run()
    state = checkpoint.load(tmp_path / "r" / "checkpoint" / "last.safetensors")
    assert torch.isfinite(state["algorithm"]["policy"]["weight_0"]).all()
    run(tmp_path / "r", quiet=True)
    assert len(numbers(tmp_path / "r")) == 9


def test_ctrl_c_saves_the_state_before_the_broken_iteration(tmp_path):
    one = loop(tmp_path, iterations=6, save_every=100)
    inner, count = one.algorithm.meta_update, iter(range(100))

    def interrupted(env, tasks, rng):
        metrics = inner(env, tasks, rng)
        if next(count) == 3:
            raise KeyboardInterrupt
        return metrics

    one.algorithm.meta_update = interrupted
    with pytest.raises(KeyboardInterrupt):
        one.run()
    run(tmp_path / "r", quiet=True)
    straight = precocial.train("maml", "point-nav", iterations=6, out=tmp_path / "s", **SMALL)
    assert numbers(tmp_path / "r") == numbers(straight)


# ---- the plan -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algo", "env"), [("maml", "bandit"), ("oracle", "cart-pole"), ("promp", "half-cheetah-dir")]
)
def test_a_plan_survives_its_folder(algo, env, tmp_path):
    p = plan(algo, env, seed=4)
    create_folder(p, tmp_path / "r", overwrite=False)
    assert read_plan(tmp_path / "r") == p


def test_a_broken_config_is_one_clear_line(tmp_path):
    folder = precocial.train("scratch", "point-nav", out=tmp_path / "r", **SMALL)
    for text in ("", ": : :", "algo: maml", "[1, 2]"):
        (folder / "config.yaml").write_text(text)
        with pytest.raises(UserError):
            read_plan(folder)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="no run folder"):
        read_plan(folder)


def test_seeds_of_different_places_are_independent():
    places = [("tasks", 0), ("tasks", 1), ("rollout", 0), ("init",)]
    draws = [torch.rand(3, generator=generator(0, *p)) for p in places]
    assert len({tuple(d.tolist()) for d in draws}) == 4
    assert derive(1, "a") != derive(2, "a")
    # A purpose has one form, since with and without a 0 the seed would be the same.
    for place in [("tasks",), ("init", 0), ("evaluate", 0, 0)]:
        with pytest.raises(ValueError, match="expected a purpose alone"):
            derive(0, *place)
    # Runs of old draw what they drew.
    assert derive(0, "init") == 7518656201426917601
    assert derive(7, "rollout", 0) == 3020773775722240867
    assert derive(7, "evaluation tasks", "test") == 4355103518419126984
    with pytest.raises(ValueError, match="seed is -1"):
        derive(-1, "a")


def test_a_run_of_a_gpu_that_is_not_there_loads_on_the_cpu(tmp_path, monkeypatch):
    folder = precocial.train("scratch", "point-nav", out=tmp_path / "r", **SMALL)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("device: cpu", "device: cuda:1"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert load_algorithm(folder)[0].run.device == "cpu"


@pytest.mark.parametrize("algo", ["maml", "promp", "online", "rl2", "varibad", "grbal", "rebal"])
def test_an_edited_rate_is_honoured(algo, rng):
    cfg = OnlineMAMLConfig() if algo == "online" else ALGOS[algo].config
    spec = ENVS["hidden-gain"].cls().spec
    old, new = (build(replace(cfg, outer_lr=lr), spec, rng) for lr in (0.25, 0.125))
    new.load_state_dict(old.state_dict())
    assert [group["lr"] for group in new.optimizer.made.param_groups] == [0.125]


# ---- presets --------------------------------------------------------------------------------


@pytest.mark.parametrize("env", list(ENVS))
@pytest.mark.parametrize("algo", list(ALGOS))
def test_every_pair_resolves_to_its_own_settings(algo, env):
    p = plan(algo, env)
    online = (algo, env) in {("maml", "bandit"), ("maml", "tabular-mdp")}
    assert isinstance(p.algo_config, OnlineMAMLConfig if online else type(ALGOS[algo].config))
    assert (p.run.iterations > 0) == ALGOS[algo].trains
    if algo in JOINT:
        assert p.algo_config.inner_steps == 0


def test_a_variant_with_a_rate_of_its_own_keeps_it_beside_a_borrowed_preset():
    maml, cavia = (plan(algo, "point-nav").algo_config for algo in ("maml", "cavia"))
    assert maml.adapt_lrs and not cavia.adapt_lrs
    assert cavia.inner_lr == ALGOS["cavia"].config.inner_lr != maml.inner_lr
    assert cavia.num_tasks == maml.num_tasks


def test_joint_values_spend_the_budget_of_q_maml():
    q, joint = (plan(algo, "frozen-lake") for algo in ("q-maml", "q-multi-task"))
    assert q.run.iterations == joint.run.iterations == 300
    assert 4 * q.algo_config.num_tasks == joint.algo_config.num_tasks
    assert not joint.algo_config.learn_lr


def test_references_spend_the_budget_of_maml():
    for env in ("point-nav", "cart-pole", "half-cheetah-dir"):
        maml, joint = plan("maml", env), plan("multi-task", env)
        a, b = maml.algo_config, joint.algo_config
        assert a.episodes_per_task == b.episodes_per_task
        assert a.num_tasks * (a.inner_steps + 1) == b.num_tasks
        assert maml.run.iterations == joint.run.iterations


def test_training_nothing_is_refused():
    with pytest.raises(UserError, match="--iterations is 0"):
        plan("maml", "point-nav", iterations=0)


def test_env_steps_alone_ends_a_run(tmp_path):
    p = plan("maml", "point-nav", env_steps=10**7)
    assert p.run.iterations > 10**6
    out = precocial.train("maml", "point-nav", env_steps=1500, out=tmp_path / "r", **SMALL)
    assert numbers(out)[-1]["env_steps"] >= 1500


# ---- more ways to stop ----------------------------------------------------------------------


def test_a_run_stopped_by_three_in_a_row_stops_again_when_nothing_changed(tmp_path):
    one = loop(tmp_path, iterations=9)
    spoil(one, {2, 3, 4})
    with pytest.raises(UserError):
        one.run()
    again = Loop(read_plan(tmp_path / "r"), tmp_path / "r", quiet=True)
    spoil(again, {0, 1, 2, 3, 4, 5})
    with pytest.raises(UserError, match="three"):
        again.run()


def test_ctrl_c_while_saving_the_best_loses_nothing(tmp_path, monkeypatch):
    one = loop(tmp_path, iterations=6)
    inner = one.save

    def interrupted(name):
        if name == "best" and one.iteration == 4:
            raise KeyboardInterrupt
        inner(name)

    one.save = interrupted
    try:
        one.run()
    except KeyboardInterrupt:
        run(tmp_path / "r", quiet=True)
    straight = precocial.train("maml", "point-nav", iterations=6, out=tmp_path / "s", **SMALL)
    assert numbers(tmp_path / "r") == numbers(straight)
    a, b = (checkpoint.load(tmp_path / n / "checkpoint" / "best.safetensors") for n in "rs")
    assert (a["iteration"], a["best"]) == (b["iteration"], b["best"])


def test_fewer_iterations_than_done_are_refused(tmp_path):
    out = precocial.train("maml", "point-nav", iterations=3, out=tmp_path / "r", **SMALL)
    before = (out / "config.yaml").read_text()
    with pytest.raises(UserError, match="--iterations is 1"):
        run(out, iterations=1, quiet=True)
    assert (out / "config.yaml").read_text() == before


def test_overwrite_leaves_alone_what_is_no_run(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(UserError, match="leaves it alone"):
        precocial.train("maml", "point-nav", out=tmp_path / "thesis", overwrite=True, **SMALL)
    assert (tmp_path / "thesis" / "chapter1.tex").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot make"):
        precocial.train("scratch", "point-nav", out=tmp_path / "file" / "run", **SMALL)


def test_settings_that_do_not_fit_the_checkpoint_are_one_clear_line(tmp_path):
    out = precocial.train("maml", "point-nav", iterations=1, out=tmp_path / "r", **SMALL)
    text = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(text.replace("  - 8\n", "  - 9\n"))
    with pytest.raises(UserError, match="does not fit") as caught:
        precocial.evaluate(out, tasks=2)
    assert "\n" not in str(caught.value)


def test_a_users_environment_resumes_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent / "examples")
    settings = {k: v for k, v in SMALL.items() if k != "env_horizon"}
    name = "own_env:Spring"
    whole = precocial.train("maml", name, iterations=4, out=tmp_path / "whole", **settings)
    part = precocial.train("maml", name, iterations=2, out=tmp_path / "part", **settings)
    run(part, iterations=4, quiet=True)
    assert numbers(whole) == numbers(part)


def test_a_time_limit_found_by_playing_is_kept_with_the_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "clocked.py").write_text(
        "from own_env import Spring\n"
        "class Clocked(Spring):\n"
        "    max_episode_steps = None\n"
        "    def reset(self, **kwargs):\n"
        "        self.t = 0\n"
        "        return super().reset(**kwargs)\n"
        "    def step(self, action):\n"
        "        self.t += 1\n"
        "        obs, reward, terminated, _, info = super().step(action)\n"
        "        return obs, reward, terminated, self.t == 12, info\n"
    )
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "examples"))
    monkeypatch.chdir(tmp_path)
    settings = {k: v for k, v in SMALL.items() if k != "env_horizon"}
    for algo in ("maml", "oracle"):
        out = precocial.train(
            algo, "clocked:Clocked", iterations=1, out=tmp_path / algo, **settings
        )
        assert yaml.safe_load((out / "config.yaml").read_text())["env_config"]["horizon"] == 12
        run(out, iterations=2, quiet=True)
        assert precocial.load(out).env.spec.horizon == 12
        assert capsys.readouterr().err.count("names no time limit") == 1


def test_scratch_trains_nothing():
    with pytest.raises(UserError, match="untrained"):
        plan("scratch", "point-nav", iterations=3)


def test_a_run_can_be_about_one_task(tmp_path):
    settings = {"num_tasks": 3, "lanes": 2, "env_horizon": 5, "one_task": "test"}
    loops = [
        Loop(p, tmp_path / f"{seed}", quiet=True)
        for seed in (0, 1)
        for p in [plan("ppo", "cart-pole", seed=seed, eval_tasks=2, **settings)]
    ]
    drawn = []
    for loop in loops:
        lengths = [loop.begin()[0].params["half_length"]]
        loop.iteration = 7
        lengths += [loop.begin()[0].params["half_length"], loop.valid_tasks().params["half_length"]]
        assert len({float(x) for x in torch.cat(lengths)}) == 1
        assert [len(x) for x in lengths] == [3, 3, 2]
        drawn.append(float(lengths[0][0]))
        loop.close()
    assert drawn[0] != drawn[1]
    assert main(["train", "ppo", "--env", "cart-pole", "--one-task", "tests"]) == 2


def test_a_run_that_stop_at_ended_can_go_on(tmp_path):
    settings = {"lanes": 2, "rollout_steps": 8, "iterations": 9, "eval_every": 1, "eval_tasks": 1}
    folder = tmp_path / "r"
    create_folder(plan("ppo", "CartPole-v1", stop_at=-1.0, **settings), folder, overwrite=False)
    run(folder, quiet=True)
    assert len(read_rows(folder / "metrics.jsonl")) == 2
    run(folder, quiet=True)  # it is done
    assert len(read_rows(folder / "metrics.jsonl")) == 2
    run(folder, 5, quiet=True)
    assert len(read_rows(folder / "metrics.jsonl")) == 5
    assert read_plan(folder).run.stop_at is None
