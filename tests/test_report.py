"""The report page, from run folders made up here."""
# ruff: noqa: RUF001  true minus signs

import base64
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

from precocial.errors import UserError
from precocial.report import write_report
from precocial.report.figures import adaptation, before_after, by_task, training
from precocial.report.runs import read_groups
from precocial.report.words import count, duration, listed, number, plural
from precocial.rows import read_rows
from precocial.statistics import bootstrap_interval, interquartile_mean

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
    stages = []
    for k in range(scores.shape[-1]):
        stages.append({
            "stage": k, "episodes_seen": 20 * k, "env_steps_seen": 2000 * k,
            "return_mean": scores[..., k].mean(), "return_iqm": interquartile_mean(scores[..., k]),
            "ci95": bootstrap_interval(scores[..., k], 300),
            "seed_means": scores[..., k].mean(1).tolist(),
        })  # fmt: skip
    return {
        "algorithm": algo, "env": env, "split": split, "num_tasks": scores.shape[1], "lanes": 20,
        "seed": seed, "runs": len(scores), "stage_unit": "update", "greedy": False,
        "checkpoint": "last", "adapt_lrs": [0.25, 0.1, 0.1], "stages": stages,
        "per_task_return": scores.mean(0).tolist(), "success_rate": None,
        "references": {"oracle": None, "multi-task": None, "optimum": None},
        "reference_curves": {}, "task_params": task_params(env, scores.shape[1], rng),
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
        assert f"{stage.iqm:.1f} {stage.low:.1f} to {stage.high:.1f}" in text
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
    assert e.stages[1].iqm == pytest.approx(interquartile_mean(scores[..., 1]))
    low, high = bootstrap_interval(scores[..., 1])
    assert (e.stages[1].low, e.stages[1].high) == (low, high)


def test_stage_units_never_share_a_plot_or_a_table(tmp_path):
    by_update = make_run(tmp_path / "a", scores=scores_of("point-nav"))
    by_episode = make_run(tmp_path / "b", algo="rl2")
    keep(by_episode, evaluation("rl2", "point-nav", scores_of("point-nav"), stage_unit="episode"))
    page = report(tmp_path, by_update, by_episode)
    text = str(Text(page))
    assert page.count("<table ") == 2
    assert text.count("Adaptation curve") == 2
    assert "after 1 update " in text and "after 1 episode " in text


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
    assert line["y"] == pytest.approx([s.iqm for s in group.evaluations[0].stages], rel=1e-3)
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
