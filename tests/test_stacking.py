"""Seeds as one program: each is what it would have been alone, saved and undone by itself."""

import itertools
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import precocial
from precocial.cli import main
from precocial.runs import checkpoint
from precocial.runs.folder import create_folder, expand_runs, read_plan
from precocial.runs.plan import plan
from precocial.runs.rows import read_rows
from precocial.stacking import run_stacked
from precocial.training import Loop, run
from precocial.types import UserError

SMALL = {"lanes": 4, "rollout_steps": 16, "minibatch_size": 32, "eval_tasks": 2, "eval_every": 2}


def made(tmp_path, seeds, algo="ppo", env="CartPole-v1", **options):
    folders = []
    for seed in seeds:
        folder = tmp_path / f"seed-{seed}"
        settings = (SMALL if algo == "ppo" else {}) | {"iterations": 4} | options
        create_folder(plan(algo, env, seed=seed, **settings), folder, overwrite=False)
        folders.append(folder)
    return folders


def rows(folder):
    found = read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in found]


def state(folder, which="last"):
    found = checkpoint.load(folder / "checkpoint" / f"{which}.safetensors")
    return torch.utils._pytree.tree_leaves(found)


def close(one, other, rtol=2e-3):
    """Alike but for rounding, which training enlarges."""
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for k, v in a.items():
            assert v == pytest.approx(b[k], rel=rtol, abs=2e-3), k


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", {"env_extra_inputs": 1, "normalize_obs": True, "anneal": True}),
        ("Pendulum-v1", {}),
        ("FrozenLake-v1", {}),
        ("point-nav", {"num_tasks": 3, "env_horizon": 10, "rollout_steps": 0}),
        ("two-step", {"num_tasks": 2, "lanes": 60, "rollout_steps": 0}),
    ],
)
def test_a_seed_is_what_it_would_have_been_alone(env, options, tmp_path):
    folders = made(tmp_path, (3, 4, 7), env=env, **options)
    assert run_stacked(folders, quiet=True) == {}
    for folder in folders:
        p = read_plan(folder)
        alone = tmp_path / f"alone-{p.run.seed}"
        create_folder(p, alone, overwrite=False)
        run(alone, quiet=True)
        close(rows(folder), rows(alone))
        for a, b in zip(state(folder), state(alone), strict=True):
            if isinstance(a, torch.Tensor) and a.is_floating_point():
                torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4)


def test_a_stack_resumes_to_the_bit_also_where_seeds_stand_apart(tmp_path):
    whole = made(tmp_path / "whole", (0, 1, 2), iterations=6)
    run_stacked(whole, quiet=True)
    parted = made(tmp_path / "parted", (0, 1, 2), iterations=6)
    run_stacked(parted, 2, quiet=True)
    run_stacked(parted, 6, quiet=True)
    for a, b in zip(whole, parted, strict=True):
        assert rows(a) == rows(b)
        for x, y in zip(state(a), state(b), strict=True):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
    apart = made(tmp_path / "apart", (0, 1, 2), iterations=6)
    run(apart[1], 3, quiet=True)  # alone for a while
    for folder in apart:
        run_stacked([folder], 6, quiet=True) if folder != apart[1] else None
    run_stacked(apart, 6, quiet=True)
    assert [len(rows(f)) for f in apart] == [6, 6, 6]
    close(rows(apart[1]), rows(whole[1]))


def test_one_that_is_not_finite_is_undone_alone_and_fails_alone(tmp_path, monkeypatch):
    from precocial.algos.plain.ppo import PPO

    inner, count, victims = PPO.update_together, iter(range(100)), []

    def spoiled(members, env, tasks, rng):
        metrics = inner(members, env, tasks, rng)
        victims.append(members[1]) if not victims else None
        if victims[0] in members and next(count) in (1, 4, 5, 6):
            victims[0].nets["actor"]["weight_0"].fill_(float("nan"))
        return metrics

    monkeypatch.setattr(PPO, "update_together", staticmethod(spoiled))
    folders = made(tmp_path / "r", (0, 1, 2), iterations=8)
    failures = run_stacked(folders, quiet=True)
    monkeypatch.undo()
    assert set(failures) == {folders[1]} and "three iterations in a row" in failures[folders[1]]
    assert [len(rows(f)) for f in folders] == [8, 6, 8]
    assert [r.get("loss/skipped", 0) for r in rows(folders[1])] == [0, 1, 0, 0, 1, 1]
    assert all(torch.isfinite(x).all() for x in state(folders[1]) if isinstance(x, torch.Tensor))
    assert (folders[1] / "error.log").is_file()
    straight = made(tmp_path / "s", (0, 1, 2), iterations=8)
    run_stacked(straight, quiet=True)
    for i in (0, 2):  # their neighbour made no difference
        assert rows(folders[i])[:5] == rows(straight[i])[:5]
        close(rows(folders[i]), rows(straight[i]))
    run(folders[1], quiet=True)  # and it can be gone on with
    assert len(rows(folders[1])) == 8


def test_a_run_ends_when_its_return_was_reached_twice_in_a_row(tmp_path):
    folders = made(tmp_path, (0, 1), iterations=30, eval_every=1, stop_at=-1.0)
    run_stacked(folders, quiet=True)
    assert [len(rows(f)) for f in folders] == [2, 2]
    some = made(tmp_path / "b", (0, 1, 2, 3), iterations=12, eval_every=1, stop_at=25.0)
    run_stacked(some, quiet=True)
    lengths = [len(rows(f)) for f in some]
    for folder, length in zip(some, lengths, strict=True):
        reached = [r["valid/episode_reward_mean"] >= 25 for r in rows(folder)]
        pairs = [a and b for a, b in zip(reached, reached[1:], strict=False)]
        assert not any(pairs[:-1]) and (pairs[-1] or length == 12)
    assert len(set(lengths)) > 1, lengths
    before = [state(f) for f in some]
    run_stacked(some, quiet=True)  # nothing is left to do
    for folder, found in zip(some, before, strict=True):
        same = zip(state(folder), found, strict=True)
        assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in same)


WORDS = [
    "train", "ppo", "--env", "CartPole-v1", "--seeds", "2", "--stacked", "--lanes", "4",
    "--rollout-steps", "16", "--rounds", "1", "--epochs", "1", "--eval-every", "0",
    "--save-every", "7",
]  # fmt: skip


def iterations_done(root):
    return {
        checkpoint.load(root / f"seed-{k}" / "checkpoint" / "last.safetensors")["iteration"]
        for k in (0, 1)
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stack_that_is_stopped_goes_on_to_the_bit(number, tmp_path):
    words = [*WORDS, "--iterations", "160", "--out"]
    for attempt in range(9):  # a kill between two saves lets one go alone, equal to rounding
        out = tmp_path / f"r{attempt}"
        process = subprocess.Popen(
            [sys.executable, "-m", "precocial.cli", *words, str(out)], stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip  # in the background of a shell it would be ignored
        path = out / "seed-1" / "metrics.jsonl"
        while not path.is_file() or len(path.read_text().splitlines()) < 10:
            time.sleep(0.02)
            assert process.poll() is None
        process.send_signal(number)
        code = process.wait()
        assert code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
        if number != signal.SIGKILL or len(iterations_done(out)) == 1:
            break
    assert len(iterations_done(out)) == 1
    assert main(["train", "--resume", str(out), "--stacked"]) == 0
    assert main([*words, str(tmp_path / "whole")]) == 0
    for seed in ("seed-0", "seed-1"):
        assert rows(out / seed) == rows(tmp_path / "whole" / seed)


@pytest.mark.parametrize("call", range(13, 19))
def test_a_stop_between_two_seeds_leaves_none_behind(call, tmp_path, monkeypatch):
    words, snapshot, calls = (
        [*WORDS, "--iterations", "9", "--out"],
        Loop.snapshot,
        itertools.count(),
    )

    def stopped(loop):
        if next(calls) == call:
            raise KeyboardInterrupt
        return snapshot(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "snapshot", stopped)
        assert main([*words, str(tmp_path / "r")]) == 130
    assert len(iterations_done(tmp_path / "r")) == 1
    assert main(["train", "--resume", str(tmp_path / "r"), "--stacked"]) == 0
    assert main([*words, str(tmp_path / "whole")]) == 0
    for seed in ("seed-0", "seed-1"):
        assert rows(tmp_path / "r" / seed) == rows(tmp_path / "whole" / seed)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["maml", "--env", "point-nav", "--seeds", "2"], "maml has no batched form"),
        (["ppo", "--env", "CartPole-v1", "--env-exact"], "stepped copy by copy"),
        (["ppo", "--env", "half-cheetah-vel"], "stepped copy by copy"),
        (["ppo", "--env", "CartPole-v1", "--jobs", "2"], "leave --jobs out"),
    ],
)
def test_what_cannot_be_stacked_is_refused_before_anything_is_written(
    words, said, tmp_path, capsys
):
    assert main(["train", *words, "--stacked", "--out", str(tmp_path / "r")]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_runs_that_differ_are_not_stacked(tmp_path):
    a, b = made(tmp_path / "a", (0,)), made(tmp_path / "b", (1,), lr=0.1)
    with pytest.raises(UserError, match="the runs differ in algo_config"):
        run_stacked([*a, *b], quiet=True)


def test_ten_ordinary_folders(tmp_path, capsys):
    words = ["train", "ppo", "--env", "CartPole-v1", "--seeds", "3", "--seed", "5", "--stacked"]
    words += ["--iterations", "2", "--lanes", "4", "--eval-tasks", "1"]
    assert main([*words, "--out", str(tmp_path / "r")]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "r")]
    folders = expand_runs([tmp_path / "r"])
    assert [read_plan(f).run.seed for f in folders] == [5, 6, 7]
    result = precocial.evaluate(tmp_path / "r", tasks=2)
    assert result["runs"] == 3 and result["greedy"] and len(result["stages"]) == 1
    assert os.path.getsize(folders[0] / "checkpoint" / "best.safetensors") > 0


def test_an_end_that_lies_behind_one_changes_none(tmp_path):
    folders = made(tmp_path, (0, 1))
    run(folders[1], quiet=True)  # its four iterations
    with pytest.raises(UserError, match="expected at least the 4"):
        run_stacked(folders, 3, quiet=True)
    assert read_plan(folders[0]).run.iterations == 4
