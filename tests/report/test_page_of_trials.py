"""The report page about trials of episodes."""

import base64
import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest
import yaml
from made_up_runs import (
    KNOWN,
    Text,
    evaluation,
    keep,
    lines_of,
    make_gif,
    make_run,
    make_trial,
    members_of,
    pulls,
    report,
    scores_of,
    trial_evaluation,
)

from precocial.cli import _print_curve
from precocial.report.figures.tasks import before_after, by_task, is_spread_out
from precocial.report.figures.trials import by_episode, success, trial_references
from precocial.report.figures.updates import adaptation
from precocial.report.runs import read_groups
from precocial.report.words import percent
from precocial.statistics import bootstrap_interval
from precocial.watching.show import write


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


def test_whole_trials_come_first_beside_a_method_that_has_none(tmp_path):
    other = make_run(tmp_path / "maml", env="bandit")
    keep(other, evaluation("maml", "bandit", pulls(), is_trial=False))
    options = {"train_tasks": 0, "horizon": 100}  # of both
    run = make_trial(tmp_path / "rl2", is_trial=True, env_config=options)
    text = str(Text(report(tmp_path, run, other)))
    assert text.index("Whole trial") < text.index("Return of single episodes")


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
