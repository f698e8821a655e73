"""The report page, from run folders made up here."""
# ruff: noqa: RUF001  true minus signs

import base64
import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import pytest
import yaml
from PIL import Image

from precocial.cli import _print_curve
from precocial.errors import UserError
from precocial.report import write_report
from precocial.report.figures.learning import training
from precocial.report.figures.models import model_error, recovery
from precocial.report.figures.tasks import before_after, by_task, is_spread_out
from precocial.report.figures.trials import by_episode, success, trial_references
from precocial.report.figures.updates import adaptation
from precocial.report.runs import read_groups
from precocial.report.words import count, duration, few_of, listed, number, percent, plural
from precocial.runs.rows import read_rows
from precocial.statistics import TaskSample, bootstrap_interval, interquartile_mean
from precocial.watching.show import write

LEVELS = {
    "point-nav": (-40.0, -10.8, -3.7, -3.1),
    "half-cheetah-dir": (2.0, 151.0),
    "pendulum-mass": (-310.0, -240.0),
    "bandit": (0.5, 0.6, 0.64, 0.67, 0.69, 0.7, 0.71, 0.71, 0.72, 0.72),
}


def task_params(env, num, rng):
    if env == "point-nav":
        return {"goal": rng.uniform(-0.5, 0.5, (num, 2)).tolist()}
    if env == "half-cheetah-dir":
        forward = np.arange(num) % 2
        return {"direction": (2.0 * forward - 1).tolist(), "id": forward.tolist()}
    return {"mass": rng.uniform(0.5, 2, num).tolist()} if env == "pendulum-mass" else {}


def evaluation(algo, env, scores, seed=0, split="test", **more):
    """The JSON of ``eval`` for scores (S, N, stages)."""
    rng = np.random.default_rng(seed)
    params = task_params(env, scores.shape[1], rng)
    tasks = TaskSample(np.array(params.get("id", range(scores.shape[1]))), "id" in params)
    stages = []
    for k in range(scores.shape[-1]):
        stages.append({
            "stage": k, "episodes_seen": 20 * k, "env_steps_seen": 2000 * k,
            "return_mean": scores[..., k].mean(), "return_iqm": interquartile_mean(scores[..., k]),
            "ci95": bootstrap_interval(scores[..., k], tasks),
            "seed_means": scores[..., k].mean(1).tolist(),
        })  # fmt: skip
    return {
        "algorithm": algo, "env": env, "split": split, "num_tasks": scores.shape[1], "lanes": 20,
        "seed": seed, "runs": len(scores), "stage_unit": "update", "greedy": False,
        "checkpoint": "last", "adapt_lrs": [0.25, 0.1, 0.1], "stages": stages,
        "per_task_return": scores.mean(0).tolist(), "success_rate": None,
        "references": {"oracle": None, "multi-task": None, "optimum": None},
        "reference_curves": {}, "task_params": params, "task_ids": tasks.ids.tolist(),
        "tasks_complete": tasks.complete, "family_size": 2 if tasks.complete else None,
    } | more  # fmt: skip


def scores_of(env, num_seeds=1, num_tasks=40, shift=0.0, seed=0, levels=None):
    """Returns (S, N, stages) around the levels of a family."""
    rng = np.random.default_rng(seed)
    levels = np.array(levels or LEVELS[env]) + shift
    scale = 0.1 * np.abs(levels) + 0.02 * np.ptp(levels)
    seeds = rng.normal(0, 0.4, (num_seeds, 1, 1))
    return levels + scale * (seeds + rng.normal(0, 1, (num_seeds, num_tasks, len(levels))))


def make_run(folder, algo="maml", env="point-nav", seed=0, rows=60, iterations=60, preset="default",
             scores=None, levels=None, **algo_config):  # fmt: skip
    folder.mkdir(parents=True)
    config = {
        "precocial": {"version": "0.1.0", "commit": "abc1234"}, "algo": algo, "env": env,
        "preset": preset, "seed": seed,
        "run": {"seed": seed, "iterations": iterations, "env_steps": 0, "device": "cpu"},
        "algo_config": {"inner_lr": 0.25, "num_tasks": 20, "adapt_lrs": [0.25, 0.1]} | algo_config,
        "env_config": {"train_tasks": 0, "horizon": 100}, "machine": "x86_64, 2 cores",
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rng = np.random.default_rng(seed)
    levels = np.array(levels or LEVELS[env][:2])
    lines = []
    for i in range(rows):
        done = 1 - np.exp(-i / 15)
        value = levels[0] * 1.2 + done * (levels - 1.2 * levels[0])
        value = value + rng.normal(0, 0.02 * np.ptp(levels) + 0.4, len(levels))
        row = {
            "iteration": i,
            "env_steps": (i + 1) * 80_000,
            "loss/outer": 0.1,
            "time/iteration_s": 0.8,
        }
        for prefix in ("train", "valid"):
            if prefix == "train" or i % 10 == 9:
                row |= {
                    f"{prefix}/episode_reward_mean" + (f"_adapt_{k}" if k else ""): v
                    for k, v in enumerate(value)
                }
        lines.append(json.dumps(row))
    if rows:
        (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"iteration": 60, "env_st')
    if scores is not None:
        keep(folder, evaluation(algo, env, scores))
    return folder


def pulls(num_seeds=1, num_tasks=200, num=10, best=0.72, seed=0):
    """Rewards 0 or 1 (S, N, stages) whose mean climbs from a half."""
    rng = np.random.default_rng(seed)
    chance = best - (best - 0.5) * np.exp(-np.arange(num) / (0.2 * num))
    return (rng.random((num_seeds, num_tasks, num)) < chance).astype(float)


def trial_evaluation(algo, env, scores, curves=None, success=None, **more):
    """The JSON of ``eval`` for a method whose stages are episodes of a trial."""
    totals = scores.sum(-1)
    document = evaluation(algo, env, scores, stage_unit="episode", lanes=1,
        trial_return_mean=totals.mean(), trial_return_seeds=totals.mean(1).tolist(),
        trial_ci95=bootstrap_interval(totals, trim=False)) | more  # fmt: skip
    for name, curve in (curves or {}).items():
        document["references"][name] = float(np.sum(curve))
        document["reference_curves"][name] = [
            # Single rewards are 0 or 1, and so is their interquartile mean.
            {"stage": k, "return_mean": float(v), "return_iqm": float(round(v))}
            for k, v in enumerate(curve)
        ]
    for row, rate in zip(document["stages"], success or [], strict=False):
        row["success_rate"] = rate
        document["success_rate"] = rate
    return document


KNOWN = {"random": [0.5] * 10, "Thompson": np.linspace(0.5, 0.66, 10), "best arm": [0.83] * 10}


def make_trial(folder, algo="rl2", env="bandit", scores=None, curves=None, optimum=6.66,
               success=None, env_config=None, preset="default", **more):  # fmt: skip
    """A run of a method that learns inside a trial, evaluated."""
    run = make_run(folder, algo, env, preset=preset, levels=(0.5, 0.7), episodes_per_trial=None)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["env_config"] = env_config or {"train_tasks": 0, "pulls": 10, "arms": 5}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    scores = pulls() if scores is None else scores
    document = trial_evaluation(algo, env, scores, KNOWN if curves is None else curves, success)
    document["references"]["optimum"] = optimum
    keep(run, document | more)
    return run


def members_of(*runs):
    return [(group, e) for group in read_groups(list(runs)) for e in group.evaluations[:1]]


def lines_of(chart):
    """Traces by name, without bands and labels."""
    return {t["name"]: t for t in chart.data if "name" in t}


def keep(folder, document):
    (folder / "eval").mkdir(exist_ok=True)
    path = folder / "eval" / f"{document['split']}-{document['seed']}.json"
    path.write_text(json.dumps(document))


def make_seeds(
    folder,
    num_seeds=3,
    env="point-nav",
    algo="maml",
    shift=0.0,
    references=None,
    levels=None,
    **config,
):
    """A parent of seeds, with an evaluation over all of them."""
    for seed in range(num_seeds):
        make_run(folder / f"seed-{seed}", algo, env, seed, levels=levels and levels[:2], **config)
    scores = scores_of(env, num_seeds, shift=shift, levels=levels, num_tasks=80)
    document = evaluation(algo, env, scores)
    document["references"] |= references or {}
    keep(folder, document)
    return folder


def make_gif(path):
    frames = [Image.new("RGB", (300, 160), (31, 111 + 10 * k, 178)) for k in range(5)]
    frames[0].save(path, save_all=True, append_images=frames[1:], loop=0, duration=100)


def gallery(root):
    """One of everything, as a person could have it."""
    nav = make_seeds(root / "maml", 5, references={"oracle": -2.3, "multi-task": -19.7})
    scores = scores_of("point-nav", 5, shift=-14, num_tasks=80)
    keep(nav, evaluation("maml", "point-nav", scores, split="shifted"))
    make_gif(nav / "before-after.gif")
    runs = [
        nav,
        make_seeds(root / "promp", 3, algo="promp", shift=-2.0, references={"oracle": -2.3}),
        make_seeds(root / "joint", 2, algo="multi-task", levels=(-19.7, -19.2, -19.0, -18.9)),
        make_seeds(root / "cheetah", 3, env="half-cheetah-dir", algo="promp"),
        make_run(root / "idle", "reptile", rows=22),
        make_run(root / "pendulum", env="pendulum-mass", scores=scores_of("pendulum-mass", 1, 60)),
    ]
    pulls = make_run(root / "bandit", env="bandit", preset="n10-k5")
    document = evaluation("maml", "bandit", scores_of("bandit", 1, 200), trial_return_mean=6.62)
    document["references"]["optimum"] = 6.66
    keep(pulls, document)
    return [*runs, pulls]


class Text(HTMLParser):
    """What a person reads of a page, and its tags."""

    def __init__(self, page):
        super().__init__()
        self.open, self.words, self.tags, self.hidden = [], [], [], 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data):
        if not self.hidden:
            self.words.append(data)

    def __str__(self):
        return re.sub(r"\s+", " ", " ".join(self.words)).replace("−", "-")


def report(tmp_path, *runs):
    out = tmp_path / "report.html"
    write_report(list(runs), out)
    return out.read_text(encoding="utf-8")


def test_a_page_is_one_file_that_needs_no_network(tmp_path):
    page = report(tmp_path, make_seeds(tmp_path / "maml"))
    tags = Text(page).tags
    assert not [v for _, attrs in tags for k, v in attrs.items() if k in ("src", "href")]
    assert page.count("plotly.js v") == 1
    assert len(page) < 5_200_000
    assert not list(tmp_path.glob(".*partial"))


def test_the_table_holds_curve_gain_and_references(tmp_path):
    runs = make_seeds(tmp_path / "maml", references={"oracle": -2.3, "multi-task": -19.7})
    text = str(Text(report(tmp_path, runs)))
    [group] = read_groups([runs])
    [e] = group.evaluations
    for stage in e.stages:
        assert f"{stage.score:.1f} {stage.low:.1f} to {stage.high:.1f}" in text
    assert f"+{e.gain:.1f}" in text and "-19.7" in text and "-2.3" in text
    assert "3 4.8 M 48 s" in text  # seeds, steps and time per seed
    assert "after 3 updates" in text and "3 seeds" in text


def test_everything_at_once(tmp_path):
    page = report(tmp_path, *gallery(tmp_path / "runs"))
    text = str(Text(page))
    for words in (
        "half-cheetah-dir : train and test tasks are the same", "not evaluated yet",
        "seed 0 stands at iteration 22 of 60", "one seed only", "By direction", "By mass",
        "Adaptation curve, 80 shifted tasks", "Where the tasks lie: promp", "6.62", "6.66",
        "Tasks beyond the range",
    ):  # fmt: skip
        assert words in text
    [image] = [attrs for tag, attrs in Text(page).tags if tag == "img"]
    assert base64.b64decode(image["src"].partition(",")[2]).startswith(b"GIF89a")
    assert "before and after adapting" in image["alt"]


def test_plotly_knows_every_property(tmp_path):
    page = report(tmp_path, *gallery(tmp_path / "runs"))
    payload = re.search(r'id="charts">(.*?)</script>', page, re.DOTALL).group(1)
    charts = json.loads(re.sub(r"@\w+(:[\d.]+)?", "red", payload))
    assert len(charts) == page.count('class="plot"') > 15
    for chart in charts:
        go.Figure(chart)


def test_reads_no_torch():
    code = (
        "import sys; from precocial.report import write_report; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_seeds_are_grouped_and_settings_kept_apart(tmp_path):
    a = make_run(tmp_path / "a", seed=10)
    b = make_run(tmp_path / "b", seed=2)
    c = make_run(tmp_path / "c", seed=2, inner_lr=0.1)
    first, second = read_groups([a, b, c, a])
    assert [run.seed for run in first.runs] == [2, 10]
    assert (first.label, second.label) == ("maml, inner_lr 0.25", "maml, inner_lr 0.1")


def test_single_evaluations_of_the_same_tasks_are_combined(tmp_path):
    scores = scores_of("point-nav", 2)
    runs = [
        make_run(tmp_path / f"{s}", seed=s, scores=scores[s : s + 1], levels=None) for s in (0, 1)
    ]
    [group] = read_groups(runs)
    [e] = group.evaluations
    assert e.num_seeds == 2
    assert e.stages[1].score == pytest.approx(interquartile_mean(scores[..., 1]))
    low, high = bootstrap_interval(scores[..., 1])
    assert (e.stages[1].low, e.stages[1].high) == (low, high)


def test_stage_units_never_share_a_plot_or_a_table(tmp_path):
    by_update = make_run(tmp_path / "a", scores=scores_of("point-nav"))
    by_episode = make_run(tmp_path / "b", algo="rl2")
    keep(by_episode, evaluation("rl2", "point-nav", scores_of("point-nav"), stage_unit="episode"))
    page = report(tmp_path, by_update, by_episode)
    text = str(Text(page))
    assert page.count('<table aria-label="Results">') == 2
    assert page.count('<table class="totals"') == 1
    assert text.count("Adaptation curve") == text.count("Return by episode") == 1
    assert "Training curve: maml" in text and "Training curve: rl2" in text
    by_update, by_episode = re.findall(r"<table aria-label=.*?</table>", page, re.DOTALL)
    assert "1 update<" in by_update and "episode<br>2<" in by_episode
    assert "episode<" not in by_update and "update" not in by_episode


def test_an_optimum_of_a_trial_is_no_line_among_its_stages(tmp_path):
    document = evaluation("maml", "bandit", scores_of("bandit"), trial_return_mean=6.6)
    document["references"] |= {"optimum": 6.66, "oracle": 0.8}
    run = make_run(tmp_path / "a", env="bandit")
    keep(run, document)
    [group] = read_groups([run])
    labels = [key.label for key in adaptation([(group, group.evaluations[0])]).keys]
    assert labels == ["maml", "oracle 0.800"]


def test_charts_show_the_numbers_of_the_files(tmp_path):
    run = make_run(tmp_path / "a", scores=scores_of("point-nav"))
    [group] = read_groups([run])
    members = [(group, group.evaluations[0])]
    line = adaptation(members).data[1]
    assert line["y"] == pytest.approx([s.score for s in group.evaluations[0].stages], rel=1e-3)
    points = before_after(members).data[1]
    assert points["x"] == pytest.approx(group.evaluations[0].per_task[:, 0], rel=1e-3)
    [plane] = by_task(members)
    assert plane.data[0]["marker"]["color"] == points["y"]
    train, valid = training([group])
    assert len(train.data[0]["x"]) == 60 and len(valid.data[0]["x"]) == 6
    assert train.layout["yaxis"]["range"] == valid.layout["yaxis"]["range"]


def test_long_training_curves_are_averaged(tmp_path):
    [group] = read_groups([make_run(tmp_path / "a", rows=1003, iterations=1003)])
    line = training([group])[0].data[0]
    _, y = group.runs[0].series("train/episode_reward_mean")
    assert len(line["y"]) == 201
    assert line["y"][0] == pytest.approx(np.mean(y[:5]), rel=1e-3)
    assert line["y"][-1] == pytest.approx(np.mean(y[1000:]), rel=1e-3)


def test_no_gain_is_said(tmp_path):
    run = make_seeds(tmp_path / "a", levels=(-20.0, -20.0), references={"multi-task": -19.7})
    text = str(Text(report(tmp_path, run)))
    assert "no gain from adapting" in text
    assert "no better than the task-blind multi-task policy" in text


def test_a_curve_that_falls_is_said(tmp_path):
    run = make_run(tmp_path / "a", scores=scores_of("point-nav", levels=(-40, -10, -30)))
    assert "the return is best after 1 update and falls from there" in report(tmp_path, run)


def test_nothing_but_a_config(tmp_path):
    run = make_run(tmp_path / "a", rows=0)
    text = str(Text(report(tmp_path, run)))
    assert "no training curve" in text and "not evaluated yet" in text


def test_a_damaged_evaluation_is_left_out_and_named(tmp_path):
    run = make_run(tmp_path / "a", scores=scores_of("point-nav"))
    (run / "eval" / "valid-0.json").write_text('{"split": "valid", "sta')
    [group] = read_groups([run])
    assert [e.split for e in group.evaluations] == ["test"]
    assert "valid-0.json is unreadable" in str(Text(report(tmp_path, run)))


def test_a_row_cut_off_by_a_kill_is_left_out(tmp_path):
    assert len(read_rows(make_run(tmp_path / "a") / "metrics.jsonl")) == 60
    assert read_rows(tmp_path / "none.jsonl") == []


def test_numbers_that_are_not_finite_become_gaps(tmp_path):
    run = make_run(tmp_path / "a", rows=2)
    row = '{"iteration": 0, "env_steps": 10, "train/episode_reward_mean": NaN}\n'
    (run / "metrics.jsonl").write_text(row)
    assert training(read_groups([run])) == []
    report(tmp_path, run)


def test_names_are_escaped(tmp_path):
    page = report(tmp_path, make_run(tmp_path / "a", env="point-nav", algo="<script>x"))
    assert "<script>x" not in page


@pytest.mark.parametrize("given", ["folder", "missing", "yaml", "empty", "nothing", "suffix"])
def test_wrong_input_is_one_line(tmp_path, given):
    runs, out = [tmp_path / "x"], tmp_path / "r.html"
    if given != "missing":
        runs[0].mkdir()
    if given in ("yaml", "empty"):
        (runs[0] / "config.yaml").write_text("a: [" if given == "yaml" else "")
    if given == "nothing":
        runs = []
    if given == "suffix":
        runs, out = [make_run(tmp_path / "a")], tmp_path / "r.pdf"
    with pytest.raises(UserError) as caught:
        write_report(runs, out)
    assert "\n" not in str(caught.value) and re.search("expected|restore", str(caught.value))
    assert not out.exists()


def test_numbers_as_people_read_them():
    assert [number(v) for v in (-41.23, 151.4, 6.657, 0.5, -0.0001, float("nan"))] == [
        "−41.2", "151", "6.66", "0.500", "0.000", "–",
    ]  # fmt: skip
    assert number(37.2, sign=True) == "+37.2" and number(-12345.0) == "−12\u202f345"
    assert [count(v) for v in (950, 80_000, 1.6e7)] == ["950", "80 k", "16 M"]
    assert [duration(v) for v in (4.25, 48, 252, 12_000)] == [
        "4.2 s",
        "48 s",
        "4 min 12 s",
        "3 h 20 min",
    ]
    assert (
        listed(["a", "b", "a", "c"]) == "a, b and c"
        and plural(20_000, "task") == "20\u202f000 tasks"
    )


def test_groups_on_different_numbers_of_tasks_say_so(tmp_path):
    a = make_run(tmp_path / "a", scores=scores_of("point-nav", num_tasks=40))
    b = make_run(tmp_path / "b", "promp", scores=scores_of("point-nav", num_tasks=60))
    assert "40 or 60 test tasks" in report(tmp_path, a, b)


# ---- trials of episodes -------------------------------------------------------------------


def test_an_episode_is_scored_by_its_mean_and_the_means_interval(tmp_path):
    scores = pulls()
    [(_, e)] = members_of(make_trial(tmp_path / "a", scores=scores))
    for stage, rewards in zip(e.stages, scores[0].T, strict=True):
        half = 1.96 * rewards.std(ddof=1) / np.sqrt(len(rewards))
        assert stage.score == pytest.approx(rewards.mean())
        assert (stage.low, stage.high) == pytest.approx((stage.score - half, stage.score + half))
    assert e.reference_curves["Thompson"] == pytest.approx(KNOWN["Thompson"])
    assert e.trial == pytest.approx((scores.sum(-1).mean(), *bootstrap_interval(
        scores.sum(-1), trim=False)))  # fmt: skip


def test_seeds_that_differ_widen_the_interval_of_a_mean(tmp_path):
    apart = np.concatenate([pulls(best=0.9, seed=1), pulls(best=0.6, seed=2)])
    [(_, wide)] = members_of(make_trial(tmp_path / "a", scores=apart))
    [(_, narrow)] = members_of(make_trial(tmp_path / "b", scores=pulls(2)))
    width = lambda e: e.stages[-1].high - e.stages[-1].low  # noqa: E731
    assert width(wide) > 3 * width(narrow)


def test_single_trials_of_the_same_tasks_are_combined(tmp_path):
    scores = pulls(2)
    runs = [make_trial(tmp_path / f"{s}", scores=scores[s : s + 1]) for s in (0, 1)]
    for s, run in enumerate(runs):
        config = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump(config | {"seed": s}))
    [(_, e)] = members_of(*runs)
    assert e.num_seeds == 2
    assert [s.score for s in e.stages] == pytest.approx(scores.mean((0, 1)))
    assert e.trial[0] == pytest.approx(scores.sum(-1).mean())


def test_a_page_on_trials_speaks_of_episodes(tmp_path):
    page = report(tmp_path, make_trial(tmp_path / "a", success=[0.1] + [0.9] * 9))
    text = str(Text(page[: page.index("<h2>Settings")]))
    for words in ("update", "before adapting", "nterquartile", "IQM", "after "):
        assert words not in text
    for words in (
        "mean return, first and last of 10 episodes; whole trial", "of the optimum",
        "success 10 % → 90.0 %", "episode 1 episode 2", "Return by episode", "Success by episode",
        "Solid: last episode of the trial; dotted: first", "success in last episode",
        "Pulls the best arm of a bandit drawn anew", "Knows which arm is best",
    ):  # fmt: skip
        assert words in text


def test_totals_of_methods_and_references(tmp_path):
    run = make_trial(tmp_path / "a")
    text = str(Text(report(tmp_path, run)))
    [(_, e)] = members_of(run)
    total, low, high = e.trial
    assert f"rl2 {total:.2f} {low:.2f} to {high:.2f} {percent(total / 6.66)}" in text
    rows = ("on the same tasks:", "best arm 8.30 125 % 0.830", "optimum 6.66 100.0 % 0.666",
            "Thompson 5.80 87 % 0.580", "random 5.00 75 % 0.500")  # fmt: skip
    assert " ".join(rows) in text


def test_known_methods_are_thin_dashed_lines_beside_thick_ones(tmp_path):
    chart = by_episode(
        members_of(make_trial(tmp_path / "a"), make_trial(tmp_path / "b", "varibad"))
    )
    lines = lines_of(chart)
    assert list(lines) == ["rl2", "varibad", "best arm", "Thompson", "random"]
    assert [key.label for key in chart.keys] == list(lines)
    assert lines["Thompson"]["y"] == pytest.approx(KNOWN["Thompson"], rel=1e-3)
    assert lines["Thompson"]["line"]["width"] < lines["rl2"]["line"]["width"]
    assert "dash" in lines["random"]["line"] and "dash" not in lines["rl2"]["line"]
    looks = {(lines[k]["line"]["color"], lines[k]["line"].get("dash")) for k in lines}
    assert len(looks) == 5
    assert chart.layout["xaxis"]["tickvals"] == list(range(1, 11))


def test_labels_of_lines_that_end_together_do_not_overlap(tmp_path):
    curves = {f"method {k}": [0.5] * 9 + [0.7 + 0.001 * k] for k in range(5)} | {"low": [0.1] * 10}
    chart = by_episode(members_of(make_trial(tmp_path / "a", curves=curves)))
    labels = {t["text"][0].strip(): t["y"][0] for t in chart.data if t["mode"] == "text"}
    assert list(labels) == ["rl2", *(f"method {k}" for k in range(4, -1, -1)), "low"]
    heights = sorted(labels.values())
    span = max(heights) - min(heights)
    assert min(np.diff(heights)) > 0.035 * span  # 440 pixels hold some 25 lines of text
    assert [labels[f"method {k}"] for k in range(5)] == sorted(
        labels[f"method {k}"] for k in range(5)
    )
    assert labels["low"] == pytest.approx(0.1)


def test_a_hundred_pulls_are_a_smooth_line(tmp_path):
    scores = pulls(num=100)
    run = make_trial(tmp_path / "a", scores=scores, curves={"random": [0.5] * 100})
    chart = by_episode(members_of(run))
    line = lines_of(chart)["rl2"]
    assert line["mode"] == "lines" and len(line["y"]) == 100
    raw = scores[0].mean(0)
    assert line["y"][:8] == pytest.approx(raw[:8], rel=1e-3)  # the steep start as it is
    assert line["y"][80] == pytest.approx(raw[70:91].mean(), rel=1e-3)
    assert np.abs(np.diff(line["y"][20:])).mean() < 0.3 * np.abs(np.diff(raw[20:])).mean()
    assert lines_of(chart)["random"]["y"] == [0.5] * 100
    ticks = chart.layout["xaxis"]["tickvals"]
    assert ticks[0] == 1 and ticks[-1] == 100 and len(ticks) == 11
    assert "up to 12 on either side" in chart.caption
    text = str(Text(report(tmp_path, run)))
    assert "episode 1 episode 2 episode 14 episode 100" in text


def test_success_by_episode(tmp_path):
    rates = [0.2, 0.5, 0.9, 1.0]
    run = make_trial(tmp_path / "a", env="grid-nav", scores=scores_of("bandit", levels=rates),
                     curves={}, success=rates)  # fmt: skip
    chart = success(members_of(run))
    assert chart.data[0]["y"] == rates and chart.data[0]["x"] == [1, 2, 3, 4]
    assert success(members_of(make_trial(tmp_path / "b"))) is None


def test_other_options_of_a_family_are_other_sections(tmp_path):
    more = {"train_tasks": 9, "pulls": 20, "arms": 5}
    a = make_trial(tmp_path / "a")
    b = make_trial(tmp_path / "b", "varibad", env_config={"train_tasks": 9, "pulls": 10, "arms": 5})
    c = make_trial(tmp_path / "c", scores=pulls(num=20), curves={"random": [0.5] * 20},
                   preset="n20-k5", env_config=more)  # fmt: skip
    page = report(tmp_path, a, b, c)
    assert re.findall("<h2>(bandit.*?)</h2>", page) == ["bandit, pulls 10", "bandit, pulls 20"]
    assert str(Text(page)).count("Return by episode") == 2
    groups = read_groups([a, b, c])
    assert [g.colour for g in groups] == [0, 1, 0]  # rl2 is rl2


def test_evaluations_over_other_numbers_of_episodes_share_nothing(tmp_path):
    a = make_trial(tmp_path / "a")
    b = make_trial(tmp_path / "b", "varibad", scores=pulls(num=5), curves={})
    page = report(tmp_path, a, b)
    assert page.count('<table class="totals"') == 2
    assert "Return by episode, 200 test tasks, 5 episodes" in page


def test_a_policy_that_adapts_by_updates_is_the_same_in_every_episode(tmp_path):
    curve = np.linspace(0.6, 0.8, 10)  # after 0, 1, ... updates, which no episode of a trial is
    [(_, e)] = members_of(make_trial(tmp_path / "a", curves={"oracle": curve, "rl2": [0.7] * 10}))
    assert e.reference_curves["oracle"] == [0.6] * 10
    assert e.references["oracle"] == pytest.approx(6)
    assert [r.name for r in trial_references(members_of(tmp_path / "a"))] == ["optimum", "oracle"]


def test_totals_of_a_trial_of_updates_are_no_lines_among_its_stages(tmp_path):
    run = make_run(tmp_path / "a", env="bandit")
    document = trial_evaluation("maml", "bandit", pulls(), KNOWN)
    keep(run, document | {"stage_unit": "update"})
    [member] = members_of(run)
    assert [key.label for key in adaptation([member]).keys] == ["maml"]
    page = report(tmp_path, run)
    assert "Thompson 5.80" in str(Text(page)) and "after<br>9 updates" in page


@pytest.mark.parametrize(
    ("scores", "curves", "text"),
    [
        (pulls(best=0.5), {}, "no gain from adapting"),
        (pulls(best=0.55), {"random": [0.6] * 10}, "no better in the last episode than random"),
        (1 - pulls(num=40, best=0.9), {}, "falls from there"),
    ],
)
def test_doubts_about_trials(tmp_path, scores, curves, text):
    run = make_trial(tmp_path / "a", scores=scores, curves=curves)
    assert text in str(Text(report(tmp_path, run)))


def test_what_learns_is_not_doubted(tmp_path):
    text = str(Text(report(tmp_path, make_trial(tmp_path / "a", scores=pulls(2, 2000)))))
    assert not re.search("no gain|no better|falls from|one seed only", text)


def test_tasks_that_repeat_are_no_finite_family_if_the_file_says_so(tmp_path):
    repeated = {"task_params": {"goal": (np.arange(200) % 20).tolist()}}
    [(_, e)] = members_of(make_trial(tmp_path / "a", **repeated))
    assert not e.finite_family
    [(_, e)] = members_of(make_trial(tmp_path / "b", **repeated, family_size=20))
    assert e.finite_family


def test_returns_of_zero_or_one_make_no_scatter(tmp_path):
    assert not is_spread_out(members_of(make_trial(tmp_path / "a")))
    assert is_spread_out(members_of(make_trial(tmp_path / "b", scores=scores_of("bandit"))))
    assert is_spread_out(members_of(make_run(tmp_path / "c", env="bandit", scores=pulls())))


def test_both_ends_of_a_trial_by_task(tmp_path):
    scores = scores_of("bandit", num_tasks=60)
    mass = {"task_params": {"mass": np.linspace(0.5, 2, 60).tolist()}}
    [member] = members_of(make_trial(tmp_path / "a", scores=scores, **mass))
    [chart] = by_task([member])
    assert chart.data[0]["name"] == "rl2, first 2 episodes"
    assert chart.data[1]["y"] == pytest.approx(scores[0, :, -2:].mean(1), rel=1e-3)
    cheetah = {"task_params": {"direction": np.tile([-1.0, 1.0], 30).tolist()}}
    [chart] = by_task(members_of(make_trial(tmp_path / "b", scores=scores, **cheetah)))
    assert chart.data[0]["y"] == pytest.approx(
        [scores[0, k::2, :2].mean() for k in (0, 1)], rel=1e-3
    )
    assert chart.caption.startswith("Mean return")
    scatter = before_after([member])
    assert scatter.layout["xaxis"]["title"]["text"] == "return in the first 2 episodes"


def test_a_run_not_evaluated_yet_is_known_by_its_settings(tmp_path):
    run = make_trial(tmp_path / "a")
    (run / "eval" / "test-0.json").unlink()
    page = report(tmp_path, run)
    assert "dotted: first" in page and "Return of single episodes" in page


def test_plotly_knows_every_property_of_a_page_on_trials(tmp_path):
    run = make_trial(tmp_path / "a", scores=pulls(num=60), success=[0.5] * 60,
                     curves={"random": [0.5] * 60})  # fmt: skip
    page = report(tmp_path, run, make_trial(tmp_path / "b", "varibad"))
    payload = re.search(r'id="charts">(.*?)</script>', page, re.DOTALL).group(1)
    for chart in json.loads(re.sub(r"@\w+(:[\d.]+)?", "red", payload)):
        go.Figure(chart)
    colours = set(re.findall(r'"@(\w+)', payload))
    assert colours <= set(re.findall(r"--(\w+): #", page))


def test_pictures_of_a_run_folder_are_embedded_with_their_own_words(tmp_path):
    run = make_trial(tmp_path / "a", env="grid-nav")
    make_gif(run / "film.gif")
    write(
        [[np.zeros((40, 60, 3), np.uint8)]], ["episode 1"], run / "paths.png", about="rl2 <walks>"
    )
    page = report(tmp_path, run)
    images = [attrs for tag, attrs in Text(page).tags if tag == "img"]
    assert [image["src"].partition(";")[0] for image in images] == [
        "data:image/gif", "data:image/png",
    ]  # fmt: skip
    assert base64.b64decode(images[1]["src"].partition(",")[2]) == (run / "paths.png").read_bytes()
    assert images[0]["alt"] == "Animation: rl2 on one grid-nav task over one trial"
    assert images[1]["alt"] == "rl2 <walks>"
    assert "<figcaption>rl2 &lt;walks&gt;. From <code>paths.png</code>" in page
    (run / "paths.png").write_text("no picture")
    assert "paths.png of rl2 on grid-nav" in report(tmp_path, run)


# ---- intervals ----------------------------------------------------------------------------


def test_one_seed_on_all_directions_has_a_line_without_a_band(tmp_path):
    run = make_run(
        tmp_path / "a", "promp", "half-cheetah-dir", scores=scores_of("half-cheetah-dir")
    )
    chart = adaptation(members_of(run))
    assert list(lines_of(chart)) == ["promp"] and not [t for t in chart.data if "fill" in t]
    assert "band" not in chart.caption and "customdata" not in chart.data[0]
    [bars] = by_task(members_of(run))
    assert "whiskers" not in bars.caption and set(bars.data[0]["error_y"]["array"]) == {None}
    text = str(Text(report(tmp_path, run)))
    assert "one seed on all tasks that there are" in text
    assert "below" not in text.split("gain")[0]


def test_seeds_on_all_directions_have_intervals_over_seeds_alone(tmp_path):
    runs = make_seeds(tmp_path / "a", env="half-cheetah-dir", algo="promp")
    chart = adaptation(members_of(runs))
    assert "95 % bootstrap interval over seeds." in chart.caption
    # Evaluated one by one the same: the tasks add nothing.
    scores = scores_of("half-cheetah-dir", 3)
    alone = [
        make_run(tmp_path / f"{s}", "promp", "half-cheetah-dir", s, scores=scores[s : s + 1])
        for s in range(3)
    ]
    [(_, e)] = members_of(*alone)
    for k, stage in enumerate(e.stages):
        expected = bootstrap_interval(scores[..., k], e.tasks)
        assert e.tasks.complete and (stage.low, stage.high) == expected


def test_intervals_of_old_files_over_seeds_are_left_out(tmp_path):
    runs = make_seeds(tmp_path / "a")
    path = runs / "eval" / "test-0.json"
    old = json.loads(path.read_text())
    for key in ("task_ids", "tasks_complete"):
        del old[key]
    path.write_text(json.dumps(old | {"recovery": around()}))
    [(_, e)] = members_of(runs)
    assert not any(np.isfinite([s.low for s in e.stages])) and np.isnan(e.recovery.returns[0][1])
    assert "intervals were too narrow and are left out" in str(Text(report(tmp_path, runs)))
    single = make_run(tmp_path / "b", scores=scores_of("point-nav"))
    path = single / "eval" / "test-0.json"
    old = json.loads(path.read_text())
    for key in ("task_ids", "tasks_complete", "family_size"):
        del old[key]
    path.write_text(json.dumps(old))
    [(_, e)] = members_of(single)
    assert e.stages[0].low < e.stages[0].score < e.stages[0].high


# ---- adapting within an episode -----------------------------------------------------------


def around(level=-2.0, seed=0):
    """The JSON of ``eval`` about a change of the world: a drop, then a climb."""
    start = list(range(-100, 200, 50))
    mean = [level, level, 3 * level, 2 * level, 1.5 * level, 1.2 * level]
    mean = [v + 0.1 * seed for v in mean]
    return {
        "every": 50, "start": start, "return": mean, "ci95": [[v - 0.5, v + 0.5] for v in mean],
    }  # fmt: skip


def errors(before=0.8, after=0.3, half=0.05, since="switch", seeds=1):
    """The JSON of ``eval`` about a model that adapts, or does not (``before == after``)."""
    weight = np.exp(-np.arange(33) / 8)
    return {
        "unadapted": before, "unadapted_ci95": [before - half, before + half],
        "unadapted_seeds": [before] * seeds,
        "adapted": after, "adapted_ci95": [after - half, after + half],
        "adapted_seeds": [after] * seeds,
        "by_transitions": {
            "since": since, "transitions": list(range(33)), "unadapted": [before] * 33,
            "adapted": (after + (before - after) * 2 * weight).tolist(),
        },
    }  # fmt: skip


def make_planner(folder, algo="grbal", around=None, errors=None, seed=0, env_config=None,
                 scores=None, **more):  # fmt: skip
    """A run of a method that adapts at every step, evaluated on one episode."""
    run = make_run(folder, algo, "hidden-gain", seed, levels=(-50.0,), plan_horizon=10)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["env_config"] = env_config or {"horizon": 300, "switch_at": 100}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    if scores is None:
        scores = scores_of("hidden-gain", levels=(-50.0,), seed=seed)
    document = trial_evaluation(algo, "hidden-gain", scores, task_params={
        "gain": np.linspace(-2, 2, scores.shape[1]).tolist()})  # fmt: skip
    for key, value in (("recovery", around), ("model_error", errors)):
        document |= {key: value} if value else {}
    keep(run, document | more)
    return run


def test_recovery_of_several_methods_is_one_figure(tmp_path):
    runs = [
        make_planner(tmp_path / "a", around=around()),
        make_planner(tmp_path / "b", "mb-mpc", around=around(-4.0)),
        make_planner(tmp_path / "c", "rebal"),
    ]
    chart = recovery(members_of(*runs))
    lines = lines_of(chart)
    assert list(lines) == [key.label for key in chart.keys] == ["grbal", "mb-mpc"]
    assert lines["grbal"]["x"] == [-75, -25, 25, 75, 125, 175]  # the middle of every 50 steps
    assert lines["grbal"]["y"] == pytest.approx(around()["return"], rel=1e-3)
    band = chart.data[0]
    assert band["fill"] == "toself" and band["legendgroup"] == "grbal"
    low, high = np.transpose(around()["ci95"])
    assert band["y"] == pytest.approx([*high, *low[::-1]], rel=1e-3)
    assert lines["grbal"]["customdata"][0] == "−2.50 to −1.50"
    [line], [label] = chart.layout["shapes"], chart.layout["annotations"]
    assert line["x0"] == line["x1"] == label["x"] == 0 and label["text"] == "the world changes"
    page = report(tmp_path, *runs)
    assert page.count("<h3>Recovery</h3>") == 1
    text = str(Text(page))
    assert "in 50 steps before the change in 50 steps after it in the last 50 steps" in text
    assert "-2.00 -2.50 to -1.50 -6.00 -6.50 to -5.50 -2.40 -2.90 to -1.90" in text


def test_long_names_leave_the_room_to_the_lines(tmp_path):
    a = make_planner(tmp_path / "a", around=around())
    b = make_planner(tmp_path / "b", "mb-de", around=around())
    labels = lambda chart: [t["text"][0].strip() for t in chart.data if t["mode"] == "text"]  # noqa: E731
    short, long = recovery(members_of(a, b)), recovery([
        (dataclasses.replace(group, label=group.label * 9), e) for group, e in members_of(a, b)
    ])  # fmt: skip
    assert labels(short) == ["grbal", "mb-de"] and labels(long) == []
    assert long.layout["margin"]["r"] < short.layout["margin"]["r"]


def test_a_changed_world_is_no_figure_where_it_does_not_change(tmp_path):
    still = make_planner(tmp_path / "a", errors=errors(since="start"))
    page = report(tmp_path, still)
    text = str(Text(page))
    assert recovery(members_of(still)) is None and "Recovery" not in text
    assert "the change" not in text.replace("the state's change", "")
    assert "Before the first, nothing of the task is known" in page
    old = make_trial(tmp_path / "b")
    assert model_error(members_of(old)) is None
    assert not re.search("[Mm]odel error|Recovery|adapted error", str(Text(report(tmp_path, old))))


def test_model_error_by_transitions(tmp_path):
    runs = [
        make_planner(tmp_path / "a", errors=errors()),
        make_planner(tmp_path / "b", "mb-mpc", errors=errors(0.8, 0.8)),
    ]
    chart = model_error(members_of(*runs))
    lines = lines_of(chart)
    assert list(lines) == ["grbal, unadapted", "grbal, adapted", "mb-mpc, does not adapt"]
    assert [line["line"]["dash"] for line in lines.values()] == ["dash", "solid", "solid"]
    assert len({line["line"]["color"] for line in lines.values()}) == 2
    assert lines["grbal, adapted"]["x"] == list(range(33))
    assert lines["grbal, adapted"]["y"][0] == pytest.approx(0.3 + 2 * 0.5, rel=1e-3)
    assert chart.layout["xaxis"]["title"]["text"] == "transitions seen since the world changed"
    page = report(tmp_path, *runs)
    assert page.count("<h3>Model error by transitions seen</h3>") == 1


@pytest.mark.parametrize(
    ("error", "words", "doubt"),
    [
        (errors(), "adapting lowered the error by 62 %, from 0.800 to 0.300; these intervals lie "
         "apart; on the same transitions mb-mpc, which does not adapt, errs by 0.700, more, "
         "intervals apart.", None),
        (errors(0.72, 0.68), "adapting lowered the error by 6 %, from 0.720 to 0.680; these "
         "intervals overlap, so that may be chance; on the same transitions mb-mpc, which does "
         "not adapt, errs by 0.700, more, intervals overlap.", "adapted, overlap."),
        (errors(0.8, 1.2, seeds=3), "adapting raised the error by 50 %, from 0.800 to 1.20; these "
         "intervals lie apart; lower in 0 of 3 seeds; on the same transitions mb-mpc, which does "
         "not adapt, errs by 0.700, less, intervals apart.", "adapting raises the model's error"),
    ],
)  # fmt: skip
def test_whether_adapting_lowered_the_error_is_said(tmp_path, error, words, doubt):
    runs = [
        make_planner(tmp_path / "a", errors=error, reference_errors={"mb-mpc": errors(0.7, 0.7)}),
        make_planner(tmp_path / "b", "mb-mpc", errors=errors(0.7, 0.7)),
    ]
    text = str(Text(report(tmp_path, *runs)))
    assert f"grbal : {words}" in text
    assert "mb-mpc : does not adapt; its error is 0.700." in text
    both = "adapted, overlap.", "adapting raises the model's error"
    assert [d for d in both if d in text] == ([doubt] if doubt else [])
    assert "0.700 0.650 to 0.750 does not adapt" in text  # in the table
    assert "errors of different rows do not compare" in text
    assert "errors of different rows" not in str(Text(report(tmp_path, runs[0])))


def test_models_share_a_figure_of_the_same_transitions(tmp_path):
    others = {"mb-mpc": errors(0.7, 0.7), "rebal": errors(0.9, 0.4)}
    run = make_planner(tmp_path / "a", errors=errors(), reference_errors=others)
    chart = model_error(members_of(run))
    assert list(lines_of(chart)) == [
        "grbal, unadapted", "grbal, adapted", "mb-mpc on the same", "rebal on the same",
    ]  # fmt: skip
    assert chart.data[-2]["y"] == [0.7] * 33 and chart.data[-2]["line"]["dash"] == "dot"
    more = make_planner(tmp_path / "b", "rebal", errors=errors())
    chart = model_error(members_of(run, more))  # whose transitions are others
    assert "mb-mpc on the same" not in lines_of(chart)
    assert chart.caption.endswith("so compare solid with dashed, not methods.")


def test_one_episode_is_no_curve_and_no_trial(tmp_path):
    run = make_planner(tmp_path / "a", around=around(), errors=errors())
    page = report(tmp_path, run)
    text = str(Text(page[: page.index("<h2>Settings")]))
    for words in (
        "before adapting", "Return by episode", "Adaptation curve", "first and last", "hollow",
        "episode 1", "1 episodes", "gain from", "trial", "Solid: last", "Before", "nterquartile",
    ):  # fmt: skip
        assert words not in text, words
    [(_, e)] = members_of(run)
    [stage] = e.stages
    assert (stage.score, stage.low, stage.high) == pytest.approx(e.trial)
    score, low, high = (
        number(v, 1).replace("−", "-") for v in (stage.score, stage.low, stage.high)
    )
    assert "time per seed return model error unadapted model error adapted return in 50" in text
    assert f"{score} {low} to {high} 0.800 0.750 to 0.850 0.300 0.250 to 0.350" in text
    assert "mean return of an episode; model error 0.800 → 0.300 by adapting; 40 test tasks" in text
    assert not re.search('<table class="totals"', page)
    [chart] = by_task(members_of(run))
    [points] = chart.data
    assert points["name"] == "grbal" and len(points["y"]) == 40
    [curve, _] = training(read_groups([run]))
    assert [trace["line"]["dash"] for trace in curve.data] == ["solid"]


def test_one_stage_of_a_method_of_updates_is_no_curve(tmp_path):
    run = make_run(tmp_path / "a", scores=scores_of("point-nav")[..., :1])
    page = report(tmp_path, run)
    assert "Adaptation curve" not in page and "before<br>adapting" in page


def test_references_of_one_episode_are_a_table(tmp_path):
    run = make_planner(tmp_path / "a", errors=errors())
    path = run / "eval" / "test-0.json"
    document = json.loads(path.read_text())
    document["references"]["random"] = -20.0
    document["reference_curves"]["random"] = [{"stage": 0, "return_mean": -20.0, "return_iqm": -20}]
    path.write_text(json.dumps(document))
    text = str(Text(report(tmp_path, run)))
    assert "method return 95 % interval seeds" in text and "random -20.0" in text
    assert "no better than random actions (-20.0)" in text


def test_a_planner_not_evaluated_yet_is_among_episodes(tmp_path):
    run = make_planner(tmp_path / "a")
    (run / "eval" / "test-0.json").unlink()
    [group] = read_groups([run])
    assert group.unit == "episode"
    assert "before adapting" not in report(tmp_path, run)


def test_single_evaluations_of_models_are_combined(tmp_path):
    scores = scores_of("hidden-gain", 2, levels=(-50.0,))
    runs = [
        make_planner(tmp_path / f"{s}", seed=s, scores=scores[s : s + 1],
                     around=around(seed=s), errors=errors(0.8 + 0.1 * s, 0.3),
                     reference_errors={"mb-mpc": errors(0.7, 0.7)} | {f"x{s}": errors()})
        for s in (0, 1)
    ]  # fmt: skip
    [(_, e)] = members_of(*runs)
    assert e.num_seeds == 2
    mean, low, high = e.recovery.at(0)
    assert mean == pytest.approx(-6 + 0.05)
    # Seeds 0.1 apart: variance 0.005, of their mean 0.0025; a half of 0.5 from the tasks.
    assert (high - low) / 2 == pytest.approx(np.sqrt(0.5**2 + 1.96**2 * 0.0025))
    assert e.model_error.unadapted[0] == pytest.approx(0.85)
    assert e.model_error.adapted == pytest.approx((0.3, 0.25, 0.35))
    assert e.model_error.seeds == [(0.8, 0.3), (0.9, 0.3)]
    assert e.model_error.unadapted_curve == pytest.approx([0.85] * 33)
    assert list(e.reference_errors) == ["mb-mpc"] and len(e.reference_errors["mb-mpc"].seeds) == 2
    assert "lower in 2 of 2 seeds" in report(tmp_path, *runs)


def test_a_model_error_of_two_numbers_is_enough(tmp_path):
    run = make_planner(tmp_path / "a", errors={"unadapted": 0.8, "adapted": 0.3})
    text = str(Text(report(tmp_path, run)))
    assert "from 0.800 to 0.300." in text and "overlap" not in text
    assert "Model error by transitions" not in text


def test_transitions_never_seen_are_gaps(tmp_path):
    found = errors(0.8, 0.8)
    for name in ("unadapted", "adapted"):
        found["by_transitions"][name][-2:] = [float("nan"), 0.0]
    run = make_planner(tmp_path / "a", errors=found)
    [line] = model_error(members_of(run)).data
    assert line["name"] == "grbal, does not adapt" and line["y"][-3:] == [0.8, None, None]
    report(tmp_path, run)


def test_a_damaged_recovery_is_left_out_and_named(tmp_path):
    run = make_planner(tmp_path / "a", around=around() | {"return": [1.0]})
    assert "test-0.json is unreadable" in str(Text(report(tmp_path, run)))


def test_families_with_other_options_do_not_share_a_recovery(tmp_path):
    a = make_planner(tmp_path / "a", around=around(), errors=errors())
    b = make_planner(tmp_path / "b", around=around(), errors=errors(),
                     env_config={"horizon": 300, "switch_at": "random"})  # fmt: skip
    page = report(tmp_path, a, b)
    assert re.findall("<h2>(hidden.*?)</h2>", page) == [
        "hidden-gain, switch_at 100", "hidden-gain, switch_at random",
    ]  # fmt: skip
    assert page.count("<h3>Recovery</h3>") == 2


def test_one_episode_and_several_share_recovery_and_no_curve(tmp_path):
    env = {"horizon": 300, "switch_at": 100}
    a = make_planner(tmp_path / "a", around=around(), errors=errors())
    b = make_trial(tmp_path / "b", env="hidden-gain", scores=scores_of("bandit", levels=(-60, -30)),
                   curves={}, optimum=None, env_config=env, recovery=around(-3.0))  # fmt: skip
    page = report(tmp_path, a, b)
    assert page.count("<h3>Recovery</h3>") == 1 and "of the first episode on" in page
    text = str(Text(page))
    assert "episode 1 episode 2 gain model error unadapted" in text
    assert "Return by episode" in text


def test_plotly_knows_every_property_of_a_page_on_models(tmp_path):
    runs = [
        make_planner(tmp_path / "a", around=around(), errors=errors()),
        make_planner(tmp_path / "b", "mb-mpc", around=around(-4), errors=errors(0.7, 0.7)),
    ]
    page = report(tmp_path, *runs)
    payload = re.search(r'id="charts">(.*?)</script>', page, re.DOTALL).group(1)
    for chart in json.loads(re.sub(r"@\w+(:[\d.]+)?", "red", payload)):
        go.Figure(chart)
    assert set(re.findall(r'"@(\w+)', payload)) <= set(re.findall(r"--(\w+): #", page))


def test_few_of_many():
    assert few_of(4, 4) == [0, 1, 2, 3] and few_of(1, 3) == [0]
    assert few_of(10, 3) == [0, 1, 9]
    assert few_of(100, 5) == [0, 1, 6, 26, 99]
    for num in range(1, 60):
        chosen = few_of(num, 6)
        assert len(chosen) <= 6 and {0, num - 1} <= set(chosen) <= set(range(num))
    assert [percent(x) for x in (0.5, 0.973, 1.0, 1.25)] == ["50 %", "97.3 %", "100.0 %", "125 %"]


@pytest.mark.parametrize("num", [1, 4, 10, 100])
def test_the_table_in_the_terminal_fits(num, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    names = ("random", "PSRL, prior N(0, 1)", "value iteration")
    document = trial_evaluation("domain-randomization", "tabular-mdp", pulls(num=num),
        {name: np.full(num, -12.345) for name in names}, success=[0.5] * num,
        trial_stderr=0.1)  # fmt: skip
    _print_curve(document)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
    assert "mean return per episode" in shown
    header = next(line for line in shown.splitlines() if "method" in line)
    columns = [cell.strip() for cell in re.split("[┃│]", header)[2:-1]]
    assert columns[0] == "1" and columns[-2:] == [str(num), "trial"]
    assert columns[:-1] == [str(k + 1) for k in range(num)] or len(columns) >= 5
    for name in names:
        row = next(line for line in shown.splitlines() if line.startswith(f"│ {name} "))
        assert row.split("│")[-2].strip() == f"{-12.345 * num:.2f}"
    assert "success rate" in shown
