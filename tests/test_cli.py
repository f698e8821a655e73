"""The command line as scripts meet it: output, exit codes, one-line errors."""

import json

import pytest

from precocial.algos import ALGOS
from precocial.cli import main
from precocial.envs import ENVS

SMALL = [
    "--num-tasks", "3", "--episodes-per-task", "3", "--hidden", "8", "--env-horizon", "10",
    "--eval-tasks", "3", "--iterations", "2",
]  # fmt: skip


@pytest.fixture
def trained(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["train", "maml", "--env", "point-nav", "--out", str(folder), *SMALL]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    return folder


def one_line_error(capsys, *args):
    """Exit 2 with one line on stderr and nothing on stdout; returns the line."""
    assert main([str(a) for a in args]) == 2
    heard = capsys.readouterr()
    assert heard.out == ""
    assert len(heard.err.strip().splitlines()) == 1
    assert "Traceback" not in heard.err
    return heard.err


def test_run_folder_holds_what_it_promises(trained):
    names = {p.name for p in trained.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "checkpoint"} <= names
    assert any(n.startswith("events.out.tfevents") for n in names)


def test_eval_prints_json_and_nothing_else(trained, tmp_path, capsys):
    assert main(["train", "oracle", "--out", str(tmp_path / "o"), *SMALL]) == 0
    capsys.readouterr()
    command = [
        "eval",
        str(trained),
        "--tasks",
        "4",
        "--updates",
        "2",
        "--reference",
        str(tmp_path / "o"),
        "--json",
    ]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((trained / "eval" / "test-0.json").read_text())
    assert [s["stage"] for s in result["stages"]] == [0, 1, 2]
    assert [s["episodes_seen"] for s in result["stages"]] == [0, 3, 6]
    assert result["stage_unit"] == "update"
    assert len(result["per_task_return"]) == 4
    assert len(result["per_task_return"][0]) == 3
    assert isinstance(result["references"]["oracle"], float)
    assert result["references"]["optimum"] is None
    low, high = result["stages"][0]["ci95"]
    assert low <= result["stages"][0]["return_iqm"] <= high
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == result  # fixed seeds


def test_several_seeds_and_resume(tmp_path, capsys):
    out = tmp_path / "many"
    assert main(["train", "maml", "--seeds", "2", "--seed", "3", "--out", str(out), *SMALL]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert {p.name for p in out.iterdir()} == {"seed-3", "seed-4"}
    assert main(["train", "--resume", str(out), "--iterations", "3"]) == 0
    assert len((out / "seed-4" / "metrics.jsonl").read_text().splitlines()) == 3
    capsys.readouterr()
    assert main(["eval", str(out), "--tasks", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["runs"] == 2
    assert len(result["stages"][0]["seed_means"]) == 2


def test_bandit_trials_report_their_total_and_the_optimum(tmp_path, capsys):
    out = tmp_path / "b"
    flags = ["--num-tasks", "10", "--iterations", "2", "--env-pulls", "4", "--out", str(out)]
    assert main(["train", "maml", "--env", "bandit", *flags]) == 0
    capsys.readouterr()
    assert main(["eval", str(out), "--tasks", "50", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["stages"]) == 4
    total = sum(s["return_mean"] for s in result["stages"])
    assert result["trial_return_mean"] == pytest.approx(total)
    assert 2 < result["references"]["optimum"] < 4


def test_list_names_everything(capsys):
    assert main(["list", "--json"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert {"maml", "promp", "reptile"} <= {a["name"] for a in both["algos"]}
    assert {"name", "summary", "paper", "action", "observation", "extra"} <= set(both["envs"][0])
    assert main(["list", "envs", "--json"]) == 0
    assert {"point-nav", "half-cheetah-dir"} <= {
        e["name"] for e in json.loads(capsys.readouterr().out)
    }
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*ALGOS, *ENVS, "model-based"])
    assert max(map(len, printed.splitlines())) <= 80 and "…" not in printed  # no word is broken


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["trian"], "train"),
        (["train"], "no algorithm given"),
        (["train", "malm"], "maml"),
        (["train", "maml", "--env", "point-nva"], "point-nav"),
        (["train", "maml", "--preset", "papper"], "paper"),
        (["train", "maml", "--iner-lr", "0.1"], "--inner-lr"),
        (["train", "maml", "--inner-lr", "fast"], "fast"),
        (["train", "maml", "--gamma", "1.5"], "--gamma is 1.5; expected 0 to 1"),
        (["train", "maml", "--gamma", "nan"], "--gamma is nan"),
        (["train", "maml", "--inner-lr", "-1"], "--inner-lr is -1.0"),
        (["train", "maml", "--inner-lr", "nan"], "--inner-lr is nan"),
        (["train", "maml", "--iterations", "-1"], "--iterations is -1"),
        (["train", "maml", "--num-tasks", "0"], "--num-tasks is 0; expected 1 or more"),
        (["train", "maml", "--seeds", "0"], "--seeds is 0"),
        (["train", "maml", "--jobs", "0"], "--jobs is 0"),
        (["train", "--resume", "x", "--jobs", "0"], "--jobs is 0"),
        (["train", "maml", "--device", "toaster"], "toaster"),
        (["train", "maml", "--env-horizon", "0"], "--env-horizon is 0"),
        (["train", "maml", "--env-hroizon", "9"], "--env-horizon"),
        (["train", "maml", "--env", "bandit", "--env-arms", "1"], "--env-arms is 1"),
        (["train", "--resume", "nowhere"], "nowhere"),
        (["eval"], "no run folder"),
        (["eval", "nowhere"], "nowhere"),
        (["report"], "no run folder"),
        (["watch", "nowhere", "--out", "x.txt"], ".gif"),
        (["check-env", "no_such_module:Env"], "no_such_module"),
    ],
)
def test_wrong_input_is_one_line_and_exit_two(args, hint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hint in one_line_error(capsys, *args)
    assert list(tmp_path.iterdir()) == []  # refused before anything is written


def test_wrong_use_of_a_real_run(trained, tmp_path, capsys):
    assert "exists" in one_line_error(capsys, "train", "maml", "--out", trained, *SMALL)
    assert "--tasks is 0" in one_line_error(capsys, "eval", trained, "--tasks", "0")
    error = one_line_error(capsys, "eval", trained, "--updates", "1", "--episodes", "2")
    assert "expected one of them" in error
    other = tmp_path / "other"
    assert main(["train", "promp", "--out", str(other), *SMALL]) == 0
    capsys.readouterr()
    assert "differ" in one_line_error(capsys, "eval", trained, other)
    path = trained / "checkpoint" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert "damaged" in one_line_error(capsys, "eval", trained)
    assert "damaged" in one_line_error(capsys, "train", "--resume", trained)


def test_check_env_says_what_it_had_no_time_for(capsys, monkeypatch):
    monkeypatch.syspath_prepend("examples")
    assert main(["check-env", "own_env:Spring", "--budget", "0"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "left out for lack of time (--budget): how tasks are drawn, get_task, episodes",
        "own_env:Spring: no problems found in the rest",
    ]
    assert "own_env:Spring for 0 s at most" in err
    assert "--budget is -1" in one_line_error(
        capsys, "check-env", "own_env:Spring", "--budget", "-1"
    )


@pytest.mark.parametrize("command", ["train", "eval", "report", "watch", "list", "check-env"])
def test_help(command, capsys):
    args = [command, "maml", "--help"] if command == "train" else [command, "--help"]
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "usage" in shown.lower()
    if command == "train":
        assert "(alpha)" in shown
        assert "--env-goal-range" in shown


def test_watch_writes_an_animation(trained, tmp_path, capsys):
    out = tmp_path / "film.gif"
    assert main(["watch", str(trained), "--out", str(out)]) == 0
    assert out.read_bytes()[:3] == b"GIF"


def test_report_writes_a_page(trained, tmp_path, capsys):
    assert main(["eval", str(trained), "--tasks", "4"]) == 0
    out = tmp_path / "r.html"
    assert main(["report", str(trained), "--out", str(out)]) == 0
    assert "point-nav" in out.read_text()
