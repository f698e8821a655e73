"""The report page about methods that update, and about runs that lack something."""

import base64
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import plotly.graph_objects as go
import pytest
from made_up_runs import Text, evaluation, gallery, keep, make_run, make_seeds, report, scores_of

from precocial.errors import UserError
from precocial.report import write_report
from precocial.report.figures.learning import training
from precocial.report.figures.tasks import before_after, by_task
from precocial.report.figures.updates import adaptation
from precocial.report.findings import _unfinished
from precocial.report.runs import read_groups
from precocial.runs.rows import read_rows
from precocial.statistics import bootstrap_interval, interquartile_mean


@pytest.mark.parametrize(
    ("run", "returns", "said"),
    [({"iterations": 9}, [1, 2], "iteration 2 of 9"),
     ({"iterations": 10**9, "env_steps": 500}, [1, 2], "step 200 of 500"),
     ({"iterations": 10**9, "env_steps": 200}, [1, 2], ""),
     ({"iterations": 9, "stop_at": 1.5}, [1, 2], "iteration 2 of 9"),
     ({"iterations": 9, "stop_at": 1.5}, [2, 3], ""),
     ({"iterations": 2}, [1, 2], "")],
)  # fmt: skip
def test_a_run_that_ended_as_it_was_to_is_finished(run, returns, said):
    rows = [
        {"iteration": i, "env_steps": 100 * (i + 1), "valid/episode_reward_mean": float(r)}
        for i, r in enumerate(returns)
    ]
    assert _unfinished({"run": run}, rows) == said


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


def test_a_copied_run_is_no_second_seed(tmp_path):
    run = make_run(tmp_path / "run", seed=3)
    shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(UserError, match="are seed 3 of the same settings"):
        read_groups([run, tmp_path / "copy"])


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


def test_a_return_that_is_a_success_is_to_be_read_as_one(tmp_path):
    hits = np.array([[0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0]]).T[None]  # (1, 4 tasks, 2 stages)
    run = make_run(tmp_path / "a", levels=(0.25, 0.75))
    for name, rates in (("said", (0.25, 0.75)), ("other", (0.5, 0.9))):
        document = evaluation("maml", "point-nav", hits)
        for stage, rate in zip(document["stages"], rates, strict=True):
            stage["success_rate"] = rate
        keep(run, document)
        text = str(Text(report(tmp_path, run)))
        assert f"success {rates[0]:.0%}".replace("%", " %") in text
        assert ("read success" in text) == (name == "said")


def test_of_returns_that_are_all_0_nothing_is_said(tmp_path):
    run = make_run(tmp_path / "a", levels=(0.0, 0.0))
    document = evaluation("maml", "point-nav", np.zeros((1, 4, 2)))
    for stage in document["stages"]:
        stage["success_rate"] = 0.0
    keep(run, document)
    assert "read success" not in str(Text(report(tmp_path, run)))


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


def test_groups_on_different_numbers_of_tasks_say_so(tmp_path):
    a = make_run(tmp_path / "a", scores=scores_of("point-nav", num_tasks=40))
    b = make_run(tmp_path / "b", "promp", scores=scores_of("point-nav", num_tasks=60))
    assert "40 or 60 test tasks" in report(tmp_path, a, b)
