"""Many runs at once: stopped, killed and failing ones."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import precocial
from precocial.runs import folder as folders
from precocial.runs.folder import claimed, create_folder, read_plan
from precocial.runs.jobs import Job, prepare, run_all
from precocial.runs.plan import plan
from precocial.runs.progress import Board
from precocial.runs.rows import last_row, read_rows
from precocial.types import UserError

SMALL = {
    "iterations": 6, "num_tasks": 3, "episodes_per_task": 3, "hidden": (8,), "env_horizon": 10,
    "eval_every": 0, "save_every": 2,
}  # fmt: skip
LONG = SMALL | {"iterations": 80}


def numbers(folder):
    """Metrics without what may differ between equal runs."""
    rows = read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def seeds(home, number, settings):
    """Folders of so many seeds, not yet trained."""
    return prepare(
        [(plan("maml", "point-nav", seed=k, **settings), home / f"seed-{k}") for k in range(number)]
    )


def test_runs_beside_each_other_are_ordinary_runs_and_one_that_fails_ends_none(tmp_path, capsys):
    runs = seeds(tmp_path, 4, SMALL)
    (runs[1] / "checkpoint").mkdir()
    (runs[1] / "checkpoint" / "last.safetensors").write_bytes(b"damaged")
    failures = run_all(runs, jobs=2)
    assert list(failures) == [runs[1]]
    assert "damaged" in failures[runs[1]]
    alone = precocial.train(
        "maml", "point-nav", seed=2, out=tmp_path / "alone", quiet=True, **SMALL
    )
    assert numbers(runs[2]) == numbers(alone)
    assert [len(numbers(run)) for run in runs] == [6, 0, 6, 6]
    told = capsys.readouterr().err
    assert "seed-1: failed" in told
    assert "4 of 4 runs" in told
    assert "precocial:" not in told  # the caller says what went wrong


def test_odd_names_of_folders_and_modules_beside_them_do_not_matter(tmp_path, monkeypatch):
    (tmp_path / "yaml.py").write_text("raise SystemExit('not the library')")
    monkeypatch.chdir(tmp_path)
    assert run_all(seeds(Path("-odd name"), 2, SMALL | {"iterations": 1}), jobs=2, quiet=True) == {}


@pytest.mark.parametrize(("code", "error"), [(0, ""), (2, "line 49999")])
def test_of_a_run_that_prints_much_the_last_lines_are_told(code, error):
    words = f"import sys; [print('line', i, file=sys.stderr) for i in range(50_000)]; exit({code})"
    with tempfile.TemporaryFile() as said:
        job = Job(subprocess.Popen([sys.executable, "-c", words], stdin=-1, stderr=said), said)
        stopped, told = job.ended()
    assert stopped == error
    assert told == [f"line {i}" for i in range(49_980, 50_000 if code == 0 else 49_999)]


def started(home, seeds, *flags):
    """The command on folders that are there, when its runs are under way."""
    process = subprocess.Popen(
        [sys.executable, "-m", "precocial.cli", "train", "--resume", str(home), *flags],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while process.poll() is None and not all(numbers(run) for run in seeds):
        time.sleep(0.01)
    return process


def free(run):
    """Whether no process trains the run any more."""
    try:
        with claimed(run):
            return True
    except UserError:
        return False


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_runner_leaves_runs_that_go_on_to_the_bit(how, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "PATIENCE_S", 0.0)
    runs = seeds(tmp_path / "runs", 2, LONG)
    process = started(tmp_path / "runs", runs, "--jobs", "2")
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    done = [len(numbers(run)) for run in runs]
    assert max(done) < LONG["iterations"], "it was too quick to be stopped"
    if how == signal.SIGTERM:
        assert process.returncode == 128 + how
        assert "saved; continue with precocial train --resume" in said
        assert all(free(run) for run in runs)  # it waited for them
        states = [folders.checkpoint.load(r / "checkpoint" / "last.safetensors") for r in runs]
        assert all(
            0 <= rows - int(s["iteration"]) <= 1 for rows, s in zip(done, states, strict=True)
        )
    else:
        deadline = time.monotonic() + 30
        while not all(free(run) for run in runs):
            assert time.monotonic() < deadline, "a run outlived the process that began it"
            time.sleep(0.02)
    assert run_all(runs, jobs=2, quiet=True) == {}
    straight = precocial.train(
        "maml", "point-nav", seed=1, out=tmp_path / "straight", quiet=True, **LONG
    )
    assert numbers(runs[1]) == numbers(straight)


def test_a_run_that_is_killed_is_named_and_the_other_ends(tmp_path):
    runs = seeds(tmp_path / "runs", 2, LONG)
    process = started(tmp_path / "runs", runs, "--jobs", "2")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if b"job" in words and str(runs[0]).encode() in words:
            os.kill(int(pid), signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    last = said.strip().splitlines()[-1]
    assert "1 of 2 runs failed" in last
    assert f"{runs[0]}: ended by signal 9" in last
    assert len(numbers(runs[1])) == LONG["iterations"]


def test_folders_are_made_or_go_on_and_those_of_other_runs_are_refused(tmp_path):
    plans = [plan("maml", "point-nav", seed=k, **SMALL) for k in range(2)]
    create_folder(plans[0], tmp_path / "0", overwrite=False)
    before = (tmp_path / "0" / "config.yaml").stat().st_mtime_ns
    pairs = [(plans[0], tmp_path / "0"), (plans[1], tmp_path / "1")]
    with pytest.raises(UserError, match="is a run with other settings"):
        prepare([(plans[1], tmp_path / "1"), (plans[1], tmp_path / "0")])
    assert not (tmp_path / "1").exists()
    assert prepare(pairs) == [tmp_path / "0", tmp_path / "1"]
    assert read_plan(tmp_path / "1") == plans[1]
    assert (tmp_path / "0" / "config.yaml").stat().st_mtime_ns == before


def test_where_a_folder_cannot_be_locked_it_is_trained_all_the_same(tmp_path, monkeypatch):
    def refused(file, operation):
        raise OSError(errno.EBADF, "NFS locks what is open for writing")

    monkeypatch.setattr(folders.fcntl, "flock", refused)
    with claimed(tmp_path):
        pass


def hold(folder, ready, release):
    with claimed(folder):
        ready.set()
        release.wait(60)


def test_two_processes_do_not_train_one_run(tmp_path, monkeypatch, capsys):
    run = seeds(tmp_path, 1, SMALL)[0]
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(run, ready, release))
    other.start()
    assert ready.wait(60)
    monkeypatch.setattr(folders, "PATIENCE_S", 0.1)
    with pytest.raises(UserError, match="is being trained by another process"):
        precocial.training.run(run, quiet=True)
    with pytest.raises(UserError, match="is being trained by another process"):
        create_folder(read_plan(run), run, overwrite=True)
    assert "waiting for another process" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*.partial"))
    release.set()
    other.join(60)
    monkeypatch.setattr(folders, "PATIENCE_S", 20.0)
    precocial.training.run(run, quiet=True)
    assert len(numbers(run)) == SMALL["iterations"]


def row(iteration):
    return {"iteration": iteration, "env_steps": 30}


def written(*rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", {}), (b'{"iteration": 0', {}), (written(row(0)), row(0)),
        (written(row(0), row(1)), row(1)), (written(row(0), row(1)) + b'{"itera', row(1)),
        (written(row(0)) + b"no json\n", {}), (written(row(0), 5), {}), (written(row(0), {}), {}),
        (written(row(0), row(1) | {"task": "a"}), row(1)),
        (written(row(0)) * 9000 + written(row(7)), row(7)),
    ],
)  # fmt: skip
def test_the_last_row_is_the_last_whole_one(content, expected, tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_row(path) == {}
    path.write_bytes(content)
    assert last_row(path) == expected


def test_plain_lines_say_how_far_every_run_is(capsys):
    board = Board(3, quiet=False)
    board.begin("seed-0", 10, 0)
    board.begin("seed-1", 10**9, 500)
    latest = {"iteration": 4, "env_steps": 100, "train/episode_reward_mean": 1.25}
    board.show({"seed-0": latest})
    board.last_line = -1e9
    board.show({"seed-0": latest, "seed-1": latest})
    board.show({"seed-0": latest})
    board.end("seed-0", ["a warning"], "done")
    assert capsys.readouterr().err.splitlines() == [
        "seed-0: iteration 5/10  return 1.2",
        "seed-0: iteration 5/10  return 1.2",
        "seed-1: step 100/500  return 1.2",
        "seed-0: a warning",
        "seed-0: done, 1 of 3 runs",
    ]
