"""Which source to begin from: rounds, their order, and what the order leaves open."""

import json
from contextlib import closing

import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind

import precocial
from precocial.cli import main
from precocial.runs.folder import build_algorithm, build_env, create_folder, read_plan
from precocial.runs.plan import plan
from precocial.stacking import run_stacked
from precocial.statistics import student_interval, welch_interval
from precocial.transferring import rank as module
from precocial.transferring.features import feature_fits, held_out
from precocial.transferring.rank import _labels, allotment, rank, sizes_of
from precocial.transferring.verdict import Round, ranking, verdict
from precocial.types import UserError

SMALL = {"lanes": 4, "rollout_steps": 32, "minibatch_size": 64, "rounds": 1, "lr": 2e-3}


def train(home, name, seeds=(0,), algo="ppo", env="CartPole-v1", **settings):
    folders = []
    for seed in seeds:
        folder = home / name / f"seed-{seed}"
        create_folder(plan(algo, env, seed=seed, **settings), folder, overwrite=False)
        folders.append(folder)
    run_stacked(folders, quiet=True)
    return home / name


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A good source, one whose actions mean the opposite, and one that knows next to nothing."""
    home = tmp_path_factory.mktemp("sources")
    good = SMALL | {"lanes": 16, "epochs": 10, "iterations": 24, "eval_every": 4, "eval_tasks": 1}
    train(home, "good", **good)
    train(home, "reversed", env_force=-10.0, **good)
    train(home, "poor", iterations=1, eval_every=0, **SMALL)
    return home


# ---- by hand ------------------------------------------------------------------------------


def test_the_better_half_goes_on_and_money_decides_how_long():
    assert [sizes_of(n) for n in (1, 2, 3, 5, 8, 12)] == [
        [1], [2], [3, 2], [5, 3, 2], [8, 4, 2], [12, 6, 3, 2],
    ]  # fmt: skip
    # 3 seeds of 512 steps: 8 and 4 forms for an iteration each, 2 for two, scratch as two of them.
    assert allotment([8, 4, 2], 512, 3, 36_864) == [1, 2, 4]
    assert allotment([8, 4, 2], 512, 3, 36_863) == [1, 2]  # 16 * 1536 = 24 576
    assert allotment([8, 4, 2], 512, 3, 2 * 36_864) == [2, 4, 8]
    assert allotment([8, 4, 2], 512, 3, 1) == [1]


def rounds(*tables):
    return [
        Round(k, {n: [[x] for x in v] for n, v in t.items()}, 0, 0) for k, t in enumerate(tables)
    ]


def test_the_order_by_hand():
    found = ranking(
        rounds(
            {"a": [0, 0, 0], "b": [9, 9, 9], "c": [5, 5, 5], "d": [1, 1, 1], "scratch": [0, 0, 0]},
            {"a": [8, 7, 9], "b": [6, 6, 6], "c": [2, 3, 4], "d": [1, 2, 0], "scratch": [2, 3, 1]},
            {"a": [9, 9, 9], "b": [9, 8, 7], "scratch": [5, 9, 4]},
        )
    )
    # c beat scratch in its last round, d did not; b is behind a by 0, 1, 2.
    assert [x["name"] for x in found] == ["a", "b", "c", "scratch", "d"]
    assert [x["iterations"] for x in found] == [2, 2, 1, 2, 1]
    assert found[1]["behind"]["mean"] == 1 and not found[1]["apart"]
    half = 4.302653 / np.sqrt(3)  # Student's t with 2 degrees of freedom, deviation 1
    assert found[1]["behind"]["ci95"] == pytest.approx([1 - half, 1 + half])
    assert found[2]["behind"]["mean"] == 5  # of 8 7 9 over 2 3 4, in the round that c was in
    assert found[2]["apart"] and found[4]["apart"]
    words = verdict(found)
    assert words.startswith("None helps, as far as so few steps tell: a scores highest")


def test_scratch_that_beats_the_last_is_first_whoever_was_dropped_earlier():
    late = rounds(
        {"a": [0, 0], "b": [0, 0], "c": [0, 0], "scratch": [0, 0]},
        {"a": [8, 8], "b": [7, 7], "c": [6, 6], "scratch": [1, 1]},
        {"a": [8, 8], "b": [7, 7], "scratch": [9, 9]},
    )
    order = ranking(late)
    assert [x["name"] for x in order] == ["scratch", "a", "b", "c"]
    assert verdict(order) == "None helps: nothing scores above scratch; the best source is a."


def test_who_failed_has_no_place():
    some = rounds({"a": [9, 9], "b": [0, 0], "scratch": [1, 1]}, {"b": [2, 3], "scratch": [1, 2]})
    assert [x["name"] for x in ranking(some, {"a": "not finite"})] == ["b", "scratch"]
    alone = rounds({"a": [9, 9], "scratch": [1, 1]}, {"scratch": [1, 1]})
    words = verdict(ranking(alone, {"a": "not finite"}))
    assert words == "None helps: nothing scores above scratch."


def test_the_verdict_has_three_outcomes():
    ahead = rounds({"a": [9, 8, 9], "b": [8, 9, 9], "c": [5, 4, 5], "scratch": [1, 2, 1]})
    assert verdict(ranking(ahead)) == (
        "Begin from a: ahead of scratch by 7.333 [5.466, 9.2]. Not told apart from it: b."
    )
    level = rounds({"a": [9, 1, 5], "scratch": [1, 5, 4]})
    assert "not told apart from scratch" in verdict(ranking(level))
    behind = rounds({"a": [1, 1], "b": [2, 2], "scratch": [3, 3]})
    assert verdict(ranking(behind)) == (
        "None helps: nothing scores above scratch; the best source is b."
    )
    single = rounds({"a": [9], "scratch": [1]})  # one seed says nothing
    assert "not told apart from scratch" in verdict(ranking(single))


def test_welch_by_hand_and_by_scipy():
    rng = np.random.default_rng(0)
    one, other = rng.normal(3, 1, 3), rng.normal(0, 5, 6)
    found = ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert welch_interval(one, other) == pytest.approx((found.low, found.high))
    wide = ttest_ind(one, other, equal_var=False).confidence_interval(1 - 0.05 / 7)
    assert welch_interval(one, other, tries=7) == pytest.approx((wide.low, wide.high))
    assert welch_interval(np.array([5.0, 5.0]), np.array([2.0, 2.0])) == (3, 3)
    assert welch_interval(np.array([5.0]), other) is None


def test_an_interval_of_few_seeds_is_students():
    assert student_interval(np.array([3.0])) is None
    low, high = student_interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_a_fit_is_1_for_what_is_linear_and_0_or_less_for_noise():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(8, 40, 3, generator=rng)
    value = (x @ torch.tensor([1.0, -2.0, 0.5]) + 3).unsqueeze(1)
    ones = torch.ones(8, 40, 1)
    assert held_out(torch.cat([x, ones], -1), value) == pytest.approx(1, abs=1e-3)
    noise = torch.randn(8, 1, 40, generator=rng)
    assert -0.2 < held_out(torch.cat([x, ones], -1), noise) < 0.05


def test_names_tell_sources_apart(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    here, above = tmp_path.name, tmp_path.parent.name
    assert _labels(["."]) == [here] and _labels([".."]) == [above]  # else probes lie outside OUT
    assert _labels([".safetensors"]) == [f"{here}-"]
    with pytest.raises(UserError, match="twice"):
        _labels(["a", str(tmp_path / "a")])
    assert _labels(["runs/a", "runs/b/"]) == ["a", "b"]
    assert _labels(["runs/a/seed-0", "runs/b/seed-0"]) == ["a-seed-0", "b-seed-0"]
    assert _labels(["runs/a", "nets/b.safetensors"]) == ["a", "b"]
    assert _labels(["runs/scratch", "net:made"]) == ["runs-scratch", "net-made"]
    assert _labels(["a:b", "a-b"]) == ["source-1", "source-2"]
    with pytest.raises(UserError, match="twice"):
        _labels(["runs/a", "./runs//a"])


def test_returns_that_are_all_equal_tell_nothing():
    p = plan("ppo", "FrozenLake8x8-v1")  # whose goal no untrained policy reaches
    with closing(build_env(p)) as env:
        one = build_algorithm(p, env)
        rng = torch.Generator().manual_seed(0)
        found, steps = feature_fits({"a": one}, env, env.sample_tasks(4, "valid", rng), one, rng)
    assert found == {} and steps > 0


# ---- the real thing -----------------------------------------------------------------------


def test_sources_are_ranked_with_what_was_spent(home, tmp_path, capsys):
    sources = [str(home / name) for name in ("poor", "reversed", "good")]
    words = [
        "rank", *sources, "--env", "CartPole-v1", "--rounds", "1", "--episodes", "4",
        "--seeds", "2", "--out", str(tmp_path / "r"),
    ]  # fmt: skip
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(tmp_path / "r")
    assert ("precocial transfer" in printed.out) == ("Begin from" in printed.out)
    found = json.loads((tmp_path / "r" / "rank.json").read_text())
    order = [x["name"] for x in found["ranking"]]
    assert order[0] == "good, as it is"
    assert order[-1] == "reversed, as it is"  # its features are as good as any: its head misleads
    fits = {x["name"]: x["feature_fit"] for x in found["ranking"]}
    assert fits["reversed, as it is"] == fits["reversed, new head"] > 0.2 > fits["scratch"]
    assert [len(r["returns"]) for r in found["rounds"]] == [7, 7, 4, 3]
    assert [r["iterations"] for r in found["rounds"]] == [0, 1, 2, 4]
    # 2 seeds of 512 steps: 6 forms and scratch, twice, for 1 iteration; 3 for 1 more, 2 for 2.
    assert found["train_steps"] == 2 * 512 * (8 + 5 + 8)
    # Of CartPole the return is the number of steps; the features took 32 episodes of 128.
    rolled = sum(sum(map(sum, table)) for r in found["rounds"] for table in r["returns"].values())
    assert found["eval_steps"] == pytest.approx(rolled + 32 * 128, abs=8)
    # Probes are ordinary runs, which go on as what they are.
    probe = tmp_path / "r" / "good" / "new-head" / "seed-1"
    assert read_plan(probe).transfer.reinit == ("actor.2",)
    assert precocial.load(probe) is not None
    # The same command again does nothing more.
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*.safetensors")}
    assert main(words) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*.safetensors")}


def test_a_ranking_that_was_stopped_goes_on_to_the_same(home, tmp_path, monkeypatch):
    sources = [home / "good", home / "poor"]
    settings = SMALL | {"seeds": 2, "budget": 4000, "quiet": True}
    whole = rank(sources, "CartPole-v1", out=tmp_path / "whole", **settings)
    trained, calls = module.run_stacked, []

    def stopped(*args, **more):
        calls.append(args)
        if len(calls) == 2:  # in the second round, after a part of it was trained
            trained(args[0][:3], *args[1:], **more)
            raise KeyboardInterrupt
        return trained(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_stacked", stopped)
        with pytest.raises(KeyboardInterrupt):
            rank(sources, "CartPole-v1", out=tmp_path / "again", **settings)
    again = rank(sources, "CartPole-v1", out=tmp_path / "again", **settings)
    assert [r["returns"] for r in again["rounds"]] == [r["returns"] for r in whole["rounds"]]
    assert again["ranking"] == whole["ranking"]
    with pytest.raises(UserError, match="with other settings"):
        rank(sources[:1], "CartPole-v1", out=tmp_path / "again", **settings)


def test_later_iterations_of_other_lengths_do_not_change_the_rounds(home, tmp_path):
    settings = SMALL | {"seeds": 1, "budget": 640, "quiet": True, "out": tmp_path / "r"}
    found = rank([home / "good", home / "poor"], "CartPole-v1", **settings)
    assert [r["iterations"] for r in found["rounds"]] == [0, 1]
    path = tmp_path / "r" / "scratch" / "seed-0" / "metrics.jsonl"
    row = json.loads(path.read_text())
    path.write_text(f"{json.dumps(row)}\n{json.dumps(row | {'iteration': 1})}\n")
    again = rank([home / "good", home / "poor"], "CartPole-v1", **settings)
    assert again == found
    path.unlink()
    with pytest.raises(UserError, match="not there any more"):
        rank([home / "good", home / "poor"], "CartPole-v1", **settings)


def test_a_ranking_goes_on_at_another_commit_and_beside_a_half_written_file(
    home, tmp_path, monkeypatch
):
    settings = SMALL | {"seeds": 1, "budget": 1, "quiet": True, "out": tmp_path}
    (tmp_path / "rank.json.partial").write_text("{")
    found = rank([home / "good"], "CartPole-v1", **settings)
    monkeypatch.setattr("precocial.runs.plan.commit", lambda: "another")
    monkeypatch.setattr("os.cpu_count", lambda: 96)
    assert rank([home / "good"], "CartPole-v1", **settings) == found


def test_what_an_evaluation_costs_is_counted_whatever_is_asked(home, tmp_path):
    settings = SMALL | {"seeds": 1, "budget": 1, "quiet": True, "eval_first": True}
    rank([home / "good"], "CartPole-v1", out=tmp_path / "r", **settings)
    rows = (tmp_path / "r" / "scratch" / "seed-0" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["iteration"] for row in rows] == [0]


def test_a_worse_source_is_no_teacher_and_a_better_one_is(home, tmp_path):
    rank(
        [home / "reversed", home / "good"],
        "CartPole-v1",
        out=tmp_path / "r",
        budget=1,
        quiet=True,
        **SMALL,
    )
    taught = {}
    for name in ("reversed", "good"):
        path = tmp_path / "r" / name / "as-it-is" / "seed-0" / "source.safetensors"
        taught[name] = precocial.runs.checkpoint.load(path)["teaches"]
    assert taught == {"reversed": False, "good": True}


def test_a_form_that_cannot_be_is_left_out_and_said(home, tmp_path, capsys):
    words = [
        "--env",
        "Pendulum-v1",
        "--seeds",
        "2",
        "--lanes",
        "2",
        "--rollout-steps",
        "8",
        "--budget",
        "1",
    ]
    out = tmp_path / "r"
    assert main(["rank", str(home / "good"), *words, "--map-obs", "0=0", "--out", str(out)]) == 0
    assert "good, as it is, is left out" in capsys.readouterr().err
    found = json.loads((out / "rank.json").read_text())
    assert {x["name"] for x in found["ranking"]} == {"good, new head", "scratch"}


@pytest.mark.parametrize("words", [["--reinit", "actor.2"], ["--only-layers", "0", "1"]])
def test_a_head_that_is_new_as_it_is_is_tried_once(words, home, tmp_path, capsys):
    few = ["--seeds", "1", "--lanes", "2", "--rollout-steps", "8", "--budget", "1"]
    out = tmp_path / "r"
    assert main(["rank", str(home / "good"), *few, *words, "--out", str(out)]) == 0
    assert "good, new head, is left out" in capsys.readouterr().err
    found = json.loads((out / "rank.json").read_text())
    assert {x["name"] for x in found["ranking"]} == {"good, as it is", "scratch"}


def test_what_cannot_be_stacked_is_ranked_too(tmp_path, monkeypatch):
    asked = []

    def in_this_process(folders, *, jobs, iterations, quiet):
        asked.append(jobs)
        for folder in folders:
            precocial.training.run(folder, iterations, quiet=quiet)
        return {}

    monkeypatch.setattr(module, "run_all", in_this_process)
    small = {"num_tasks": 2, "episodes_per_task": 2, "env_horizon": 8, "eval_tasks": 2}
    folder = tmp_path / "source"
    create_folder(plan("reptile", "point-nav", iterations=2, **small), folder, overwrite=False)
    precocial.training.run(folder, quiet=True)
    found = rank(
        [folder], "point-nav", "maml", out=tmp_path / "r", seeds=1, budget=1, quiet=True, jobs=2,
        **small,
    )  # fmt: skip
    assert {x["name"] for x in found["ranking"]} == {
        "source, as it is",
        "source, new head",
        "scratch",
    }
    assert found["ranking"][0]["iterations"] == 1 and found["train_steps"] > 0
    assert set(asked) == {2}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no source given"),
        (["nowhere"], "there is no such thing"),
        (["{good}", "{good}"], "given twice"),
        (["{good}", "--seeds", "0"], "seeds is 0"),
        (["{good}", "--budget", "0"], "budget is 0"),
        (["{good}", "--env-steps", "100"], "--budget says"),
        (["{good}", "--stop-at", "400"], "--budget says"),
        (["{good}", "--algo", "scratch"], "evaluated untrained"),
        (["{good}", "--jobs", "0"], "jobs is 0"),
        (["{good}", "--checkpoint", "first"], "expected best or last"),
        (["{good}", "--algo", "grbal", "--env", "hidden-gain"], "nothing of the source is taken"),
        (["{good}", "--out", "{home}"], "holds no ranking"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    words, said, home, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    names = {"good": str(home / "good"), "home": str(home)}
    assert main(["rank", *(w.format(**names) for w in words)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and said in error[0]
    assert not list(tmp_path.iterdir())


def test_a_damaged_ranking_is_one_line(home, tmp_path, capsys):
    (tmp_path / "rank.json").write_text("{")
    assert main(["rank", str(home / "good"), "--out", str(tmp_path)]) == 2
    assert "rank.json is unreadable" in capsys.readouterr().err
