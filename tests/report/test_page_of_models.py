"""The report page about methods that adapt a model within an episode."""
# ruff: noqa: RUF001  true minus signs

import dataclasses
import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest
from made_up_runs import (
    Text,
    around,
    errors,
    lines_of,
    make_planner,
    make_run,
    make_trial,
    members_of,
    report,
    scores_of,
)

from precocial.report.figures.learning import training
from precocial.report.figures.models import model_error, recovery
from precocial.report.figures.tasks import by_task
from precocial.report.runs import read_groups
from precocial.report.words import number


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
