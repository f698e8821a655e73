"""Intervals on the report page, and groups that have none."""

import json

import numpy as np
from made_up_runs import Text, around, lines_of, make_run, make_seeds, members_of, report, scores_of

from precocial.report.figures.tasks import by_task
from precocial.report.figures.updates import adaptation
from precocial.statistics import bootstrap_interval


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
    assert "intervals were wrong and are left out" in str(Text(report(tmp_path, runs)))
    single = make_run(tmp_path / "b", scores=scores_of("point-nav"))
    path = single / "eval" / "test-0.json"
    old = json.loads(path.read_text())
    for key in ("task_ids", "tasks_complete", "family_size"):
        del old[key]
    path.write_text(json.dumps(old))
    [(_, e)] = members_of(single)
    assert e.stages[0].low < e.stages[0].score < e.stages[0].high
    # Twenty copies of one task were drawn as twenty: an error over episodes, not over tasks.
    copies = {k: [v[0]] * len(v) for k, v in old["task_params"].items()}
    path.write_text(json.dumps(old | {"task_params": copies}))
    [(_, e)] = members_of(single)
    assert e.tasks.fixed and not any(np.isfinite([s.low for s in e.stages]))
