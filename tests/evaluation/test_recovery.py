"""What evaluation says about a world that changes mid-episode, and about a model's errors."""

import json
import math

import numpy as np
import pytest
import torch

from precocial.agent import load
from precocial.algos.model.errors import ModelErrors
from precocial.cli import main
from precocial.evaluation.curve import adaptation_curve
from precocial.evaluation.recovery import Recovery, recovery, summarise_recovery
from precocial.evaluation.table import evaluate
from precocial.runs.folder import read_plan
from precocial.seeding import generator
from precocial.statistics import TaskSample
from precocial.training import train
from precocial.types import Rollout


def rollout(reward, switched, terminated=None):
    """A rollout (N, E, T) of which only these matter."""
    no = torch.zeros_like(reward, dtype=torch.bool)
    terminated = no.clone() if terminated is None else terminated
    truncated = no.clone()
    truncated[..., -1] = ~terminated[..., -1]
    nothing = torch.zeros(*reward.shape, 1)
    return Rollout(
        nothing, nothing, reward, nothing, terminated, truncated, {"info/switched": switched}
    )


def test_returns_around_the_change_are_aligned_at_each_lanes_own():
    # 40 steps, sums of two; the reward is 1 before the change and -3 from it on.
    switched = torch.zeros(2, 1, 40)
    switched[0, 0, 10:], switched[1, 0, 21:] = 1, 1
    found = recovery(rollout(1 - 4 * switched, switched), 40)
    assert found.every == 2
    at = {start: found.returns[:, k] for k, start in enumerate(found.start)}
    np.testing.assert_array_equal(at[-2], [2, 2])
    np.testing.assert_array_equal(at[0], [-6, -6])
    np.testing.assert_array_equal(at[-10], [2, 2])
    assert math.isnan(at[-12][0]) and at[-12][1] == 2  # the first lane had not begun
    assert math.isnan(at[20][1]) and at[20][0] == -6  # the second was over


def test_after_an_early_end_a_lane_earns_nothing_and_the_next_episode_does_not_count():
    switched = torch.zeros(1, 2, 40)
    switched[0, :, 10:] = 1
    terminated = torch.zeros(1, 2, 40, dtype=torch.bool)
    terminated[0, 0, 13] = True  # after the change; and in the next lane before it
    terminated[0, 1, 5] = True
    found = recovery(rollout(torch.ones(1, 2, 40), switched, terminated), 40)
    at = {start: found.returns[0, k] for k, start in enumerate(found.start)}
    assert [at[k] for k in (-10, 0, 2, 4, 28)] == [2, 2, 2, 0, 0]


def test_sums_that_half_of_the_tasks_lack_are_not_shown():
    table = np.array([[1.0, 2.0, np.nan, 3.0], [1.0, 4.0, np.nan, np.nan]])
    rows = summarise_recovery([Recovery(5, [-10, -5, 0, 5], table)], TaskSample(np.arange(2)))
    assert rows["start"] == [-10, -5, 5] and rows["return"] == [1.0, 3.0, 3.0]
    # The last sum exists for one task alone: nothing is known of others.
    assert rows["ci95"] == [[1.0, 1.0], [2.0, 4.0], None]


def test_errors_are_means_over_the_tasks_that_have_one():
    curve = np.array([[1.0, 0.8, np.nan], [1.0, 0.2, np.nan]])
    errors = ModelErrors(np.array([1.0, 0.5, np.nan]), np.array([0.4, 0.1, np.nan]), "start", curve)
    tasks = TaskSample(np.arange(3))
    found = ModelErrors.summarise([[errors], [errors]], tasks)
    assert found["unadapted"] == pytest.approx(0.75) and found["adapted"] == pytest.approx(0.25)
    assert found["drop"] == pytest.approx(0.5)
    assert found["drop_ci95"][0] >= 0.4 - 1e-9 and found["drop_ci95"][1] <= 0.6 + 1e-9
    assert found["by_transitions"]["transitions"] == [0, 1]
    nothing = ModelErrors(np.full(2, np.nan), np.full(2, np.nan), "start", curve)
    assert ModelErrors.summarise([[nothing]], tasks)["adapted"] is None
    json.dumps(ModelErrors.summarise([[nothing]], tasks))


def test_errors_of_two_models_on_two_rollouts_are_not_four_seeds():
    def errors(value):
        both = np.full(4, value), np.full(4, value)
        return ModelErrors(*both, "start", np.zeros((2, 1)))

    # Model i on rollout j errs by i + 10 j; one redraw of models and one of rollouts.
    found = ModelErrors.summarise(
        [[errors(0.0), errors(10.0)], [errors(1.0), errors(11.0)]], TaskSample(np.arange(4))
    )
    assert found["adapted_seeds"] == [0, 10, 1, 11] and found["adapted"] == 5.5
    assert found["adapted_ci95"] == pytest.approx([0.0, 11.0])
    complete = TaskSample(np.arange(4), complete=True)
    assert ModelErrors.summarise([[errors(1.0)]], complete)["adapted_ci95"] is None


TINY = [
    "--iterations", "2", "--hidden", "8", "--model-updates", "2", "--candidates", "4",
    "--plan-horizon", "2", "--num-tasks", "2", "--future", "3",
    "--env-horizon", "40", "--env-switch-at", "20",
]  # fmt: skip


def test_train_eval_and_report_of_a_model_that_adapts(tmp_path, capsys):
    for algo, flags in (("grbal", [*TINY, "--past", "3"]), ("mb-mpc", TINY)):
        out = str(tmp_path / algo)
        assert main(["train", algo, "--env", "hidden-gain", "--out", out, *flags]) == 0
    capsys.readouterr()
    line = [
        "eval",
        str(tmp_path / "grbal"),
        "--tasks",
        "4",
        "--reference",
        str(tmp_path / "mb-mpc"),
    ]
    assert main([*line, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["stage_unit"] == "episode" and len(result["stages"]) == 1
    own, theirs = result["model_error"], result["reference_errors"]["mb-mpc"]
    assert own["by_transitions"]["since"] == "switch" and own["adapted"] != own["unadapted"]
    assert theirs["adapted"] == theirs["unadapted"] != own["adapted"]
    assert result["recovery"]["every"] == 2 and 0 in result["recovery"]["start"]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "unadapted" in printed and "mb-mpc" in printed
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "grbal"), "--out", str(page)]) == 0
    assert "the world changes" in page.read_text()
    assert main(["watch", str(tmp_path / "grbal"), "--out", str(tmp_path / "film.gif")]) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of a run in question and two of a reference."""
    home, found = tmp_path_factory.mktemp("runs"), {}
    for algo in ("grbal", "mb-de"):
        for seed in "01":
            out = found[algo, int(seed)] = home / f"{algo}-{seed}"
            line = ["train", algo, "--env", "hidden-gain", "--seed", seed, *TINY, "--past", "3"]
            assert main([*line, "--out", str(out)]) == 0
    return found


def met_by(run, num_tasks):
    """What a run meets when it is evaluated on so many test tasks, and in which environment."""
    plan, trained, rollouts = read_plan(run), load(run), []
    tasks = trained.env.sample_tasks(num_tasks, "test", generator(0, "evaluation tasks", "test"))
    adaptation_curve(
        trained.algorithm, trained.env, tasks, stages=1, lanes=plan.algo_config.lanes, seed=0,
        on_trial=rollouts.append,
    )  # fmt: skip
    [rollout] = rollouts
    return rollout, trained.env.spec


def error_on(run, met):
    """The mean error of a run's model, adapted, on what someone met."""
    return pytest.approx(load(run).algorithm.diagnose(*met).adapted.mean(), rel=1e-5)


def test_references_are_scored_on_what_the_runs_in_question_met(runs):
    ours, theirs = runs["grbal", 0], runs["mb-de", 0]
    result = evaluate(ours, tasks=3, references=[theirs], keep=False)
    met, own = met_by(ours, 3), met_by(theirs, 3)
    assert result["model_error"]["adapted_seeds"] == [error_on(ours, met)]
    assert result["reference_errors"]["mb-de"]["adapted_seeds"] == [error_on(theirs, met)]
    alone = evaluate(theirs, tasks=3, keep=False)
    assert alone["model_error"]["adapted_seeds"] == [error_on(theirs, own)]
    assert alone["model_error"]["adapted_seeds"] != [error_on(theirs, met)]


@pytest.mark.parametrize("swap", [False, True])
def test_a_method_without_a_model_stands_beside_one_that_has_one(swap, runs, tmp_path):
    """It is scored, and has nothing to say of the transitions that the other met."""
    settings = {"num_tasks": 4, "iterations": 1, "env_horizon": 40, "env_switch_at": 20}
    memory = train("rl2", "hidden-gain", out=tmp_path / "rl2", quiet=True, **settings)
    ours, theirs = (memory, runs["grbal", 0]) if swap else (runs["grbal", 0], memory)
    result = evaluate(ours, tasks=2, references=[theirs], keep=False)
    assert ("grbal" if swap else "rl2") in result["reference_curves"]
    assert ("model_error" in result) != swap and "reference_errors" not in result
    both = evaluate(runs["grbal", 0], tasks=2, references=[memory, runs["mb-de", 0]], keep=False)
    assert list(both["reference_errors"]) == ["mb-de"]


def test_a_reference_with_another_action_scale_is_asked_about_what_was_done(tmp_path):
    folders = {}
    for scale in ("1", "4"):
        folders[scale] = tmp_path / scale
        line = ["train", "mb-mpc", "--env", "arm-7dof", *TINY, "--env-threads", "1"]
        line += ["--env-action-scale", scale, "--out", str(folders[scale])]
        assert main(line) == 0
    models = [load(folder).algorithm.model.state_dict() for folder in folders.values()]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    result = evaluate(folders["1"], tasks=2, references=[folders["4"]], keep=False)
    [theirs] = result["reference_errors"].values()
    assert theirs["adapted"] == result["model_error"]["adapted"]  # one and the same model


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_every_reference_is_scored_on_what_each_run_in_question_met(runs, seeds):
    ours, theirs = [runs["grbal", 0], runs["grbal", 1]], [runs["mb-de", seed] for seed in seeds]
    met = [met_by(run, 2) for run in ours]
    result = evaluate(ours, tasks=2, references=theirs, keep=False)
    found = result["reference_errors"]["mb-de"]
    pairs = [error_on(run, one) for run in theirs for one in met]
    assert found["adapted_seeds"] == pairs
    assert found["adapted"] == pytest.approx(np.mean(found["adapted_seeds"]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--env", "point-nav"], "no reward as a function"),
        (["--env", "cart-pole"], "discrete actions"),
        (["--env", "hidden-gain", "--plan-horizon", "101"], "--plan-horizon is 101; expected at"),
        (["--env", "hidden-gain", "--past", "60", "--future", "50"], "longer together than an"),
        (["--env", "hidden-gain", "--env-switch-at", "100"], "--env-switch-at is 100"),
        (["--env", "hidden-gain", "--env-switch-at", "soon"], "--env-switch-at is soon"),
        (["--env", "hidden-gain", "--planner", "luck"], "planner"),
        (["--env", "hidden-gain", "--candidates", "1"], "--candidates is 1"),
        (["--env", "hidden-gain", "--inner-lr", "0"], "--inner-lr is 0"),
        (["--env", "hidden-gain", "--hidden", "0"], "--hidden"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(flags, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "grbal", *flags, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()
