"""Copies are closed, and processes ended, whichever way a command ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import precocial
from precocial.cli import main
from precocial.envs.base import GymConfig
from precocial.envs.own.adapter import GymTaskEnv, resolve
from precocial.types import UserError

COUNTED = '''
import itertools, multiprocessing, os, time
import gymnasium, numpy as np
from gymnasium import spaces

def note(what, copy):
    with open(os.path.join(os.environ["NOTES"], "notes"), "a") as file:
        file.write(f"{what} {os.getpid()}-{copy.number} {os.getpid()}\\n")

class Counted(gymnasium.Env):
    """Says when it is opened and closed."""
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    max_episode_steps = 4
    numbers = itertools.count()

    def __init__(self, render_mode=None):
        self.render_mode, self.gain, self.number = render_mode, 1.0, next(self.numbers)
        note("open", self)
    def sample_tasks(self, n): return [float(x) for x in self.np_random.uniform(-1, 1, n)]
    def set_task(self, task): self.gain = task
    def get_task(self): return self.gain
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.normal(0, 0.1)
        return np.array([self.x], np.float32), {}
    def step(self, action):
        self.x += 0.1 * self.gain * float(action[0])
        return np.array([self.x], np.float32), -abs(self.x), False, False, {}
    def render(self): return np.zeros((9, 7, 3), np.uint8)
    def close(self): note("close", self)

class Raises(Counted):
    def step(self, action): raise ZeroDivisionError("mass is zero")

class Unbounded(Counted):
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

class NoTask(Counted):
    set_task = None

class FewerTasks(Counted):
    num_tasks = 3

class FailsAgain(Counted):
    """The second copy of a batch cannot be built."""
    built = 0
    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        FailsAgain.built += 1
        if FailsAgain.built > 4:
            note("close", self)
            raise OSError("no more licences")

class Stops(Counted):
    """As if Ctrl-C were pressed."""
    def step(self, action): raise KeyboardInterrupt

class Slow(Counted):
    def step(self, action):
        time.sleep(0.005)
        return super().step(action)

def answer(pipe):
    try:
        while True:
            pipe.send(2 * pipe.recv())
    except EOFError:
        time.sleep(600)

class Parent(Counted):
    """Has a process of its own, which nobody ends."""
    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        child = context.Process(target=answer, args=(theirs,))
        child.start()
        theirs.close()
        self.child = child.pid
    def step(self, action):
        self.pipe.send(float(action[0]))
        return np.array([self.pipe.recv()], np.float32), float(self.child), False, False, {}

class Dies(Parent):
    def step(self, action):
        result = super().step(action)
        if action[0] > 0.5: os._exit(3)
        return result
'''
NOISY = """
import atexit, os
from counted import Counted

print("import")
atexit.register(print, "exit")

class Noisy(Counted):
    def reset(self, **kwargs):
        print("reset")
        os.system("echo a process")
        return super().reset(**kwargs)
"""
SMALL = ["--num-tasks", "2", "--episodes-per-task", "2", "--hidden", "8", "--eval-tasks", "2"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the module ``counted``, where the tests then are."""
    (tmp_path / "counted.py").write_text(COUNTED)
    monkeypatch.setenv("NOTES", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "counted", raising=False)
    return tmp_path


def noted(place, what):
    lines = (place / "notes").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[0] == what]


def assert_closed(place, at_least=1):
    """Every copy that was opened was closed, and once."""
    opened, closed = noted(place, "open"), noted(place, "close")
    assert len(opened) >= at_least
    assert len(opened) == len(closed) and set(opened) == set(closed)
    (place / "notes").unlink()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def gone(pid):
    """Whether the process ends within a moment."""
    ends = time.monotonic() + 10
    while alive(pid) and time.monotonic() < ends:
        time.sleep(0.02)
    return not alive(pid)


def test_every_command_closes_its_copies(place):
    assert main(["check-env", "counted:Counted"]) in (0, 1)
    assert_closed(place, at_least=4)
    train = ["train", "maml", "--env", "counted:Counted", "--iterations", "1", "--eval-every", "1"]
    assert main([*train, "--out", "run", *SMALL]) == 0
    assert_closed(place, at_least=7)
    assert main(["eval", "run", "--tasks", "2", "--reference", "run"]) == 0
    assert_closed(place, at_least=5)
    assert main(["watch", "run", "--out", "film.gif"]) == 0
    assert_closed(place, at_least=2)


def test_a_loaded_run_closes_its_copy_with_the_last_learner(place):
    train = ["train", "maml", "--env", "counted:Counted", "--iterations", "1", "--out", "run"]
    assert main([*train, *SMALL]) == 0
    (place / "notes").unlink()
    learner = precocial.load("run").learner()
    learner.act(np.zeros(1, np.float32))
    assert len(noted(place, "open")) == 1 and not noted(place, "close")
    del learner
    assert_closed(place)


@pytest.mark.parametrize(
    "name", ["Raises", "Unbounded", "NoTask", "FewerTasks", "FailsAgain", "Stops"]
)
def test_failing_commands_close_their_copies(place, name):
    for command in (["check-env"], ["train", "maml", "--out", "run", *SMALL, "--env"]):
        assert main([*command, f"counted:{name}"]) != 0
        assert_closed(place)


def test_a_run_that_does_not_fit_closes_its_copies(place):
    train = ["train", "maml", "--env", "counted:Counted", "--iterations", "1", "--out", "run"]
    assert main([*train, *SMALL]) == 0
    text = Path("run/config.yaml").read_text()
    Path("run/config.yaml").write_text(text.replace("- 8\n", "- 9\n"))
    assert text != Path("run/config.yaml").read_text()
    (place / "notes").unlink()
    for command in (["eval"], ["watch", "--out", "film.gif"], ["train", "--resume"]):
        assert main([*command, "run"]) == 2
        assert_closed(place)
    Path("run/config.yaml").write_text(text)
    assert main(["train", "--resume", "run", "--iterations", "0"]) == 2
    assert main(["watch", "run", "--episodes", "2", "--out", "film.gif"]) == 2
    assert_closed(place)


def of(name, **fields):
    env = GymTaskEnv(resolve(f"counted:{name}").factory, GymConfig(**fields))
    rng = torch.Generator().manual_seed(0)
    env.reset(env.sample_tasks(2, "train", rng), 1, rng)
    return env


def test_workers_close_their_copies(place):
    env = of("Counted", workers=2)
    members = [member.process.pid for member in env.crew.members]
    assert len(noted(place, "open")) == 3
    env.close()
    assert_closed(place, at_least=3)
    assert not any(alive(pid) for pid in members)


def test_a_crew_that_nobody_closed_is_closed_with_the_last_reference(place):
    env = of("Counted", workers=1)
    env.source.close()
    [member] = (member.process.pid for member in env.crew.members)
    del env
    assert_closed(place, at_least=3)
    assert not alive(member)


def test_an_environment_with_a_process_of_its_own_lives_in_a_worker(place):
    env = of("Parent", workers=1)
    step = env.step(torch.tensor([[[0.25]], [[-0.5]]]))
    assert step.next_obs.flatten().tolist() == [0.5, -1.0]
    children = [int(pid) for pid in step.reward.flatten()]
    assert all(map(alive, children))
    env.close()
    os.kill(env.source.env.child, signal.SIGKILL)
    assert_closed(place, at_least=3)
    assert all(map(gone, children))


def test_its_process_ends_even_with_a_worker_that_dies(place):
    env = of("Dies", workers=1)
    children = [int(pid) for pid in env.step(torch.zeros(2, 1, 1)).reward.flatten()]
    with pytest.raises(UserError, match=r"died \(exit code 3\)"):
        env.step(torch.ones(2, 1, 1))
    env.close()
    os.kill(env.source.env.child, signal.SIGKILL)
    assert all(map(gone, children))


def test_sigterm_saves_and_leaves_nothing_behind(place):
    flags = ["--iterations", "1000", "--eval-every", "0", "--save-every", "1000", "--workers", "1"]
    command = [sys.executable, "-m", "precocial.cli", "train", "maml", "--env", "counted:Slow"]
    process = subprocess.Popen(
        [*command, "--out", "run", *SMALL, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    rows = place / "run" / "metrics.jsonl"
    while process.poll() is None and not (rows.is_file() and rows.read_text().count("\n") >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err.decode()
    assert out == b""
    said = [line for line in err.decode().splitlines() if not line.startswith("iteration")]
    assert said == [
        "saved; continue with precocial train --resume run", "precocial: stopped by SIGTERM"
    ]  # fmt: skip
    workers = {line.split()[2] for line in (place / "notes").read_text().splitlines()}
    assert len(workers) == 2
    assert all(gone(int(pid)) for pid in workers)
    assert_closed(place, at_least=7)
    done = len(rows.read_text().splitlines())
    assert main(["train", "--resume", "run", "--iterations", str(done)]) == 0
    assert len(rows.read_text().splitlines()) == done


def test_what_environments_print_is_no_result(place, capsys):
    (place / "noisy.py").write_text(NOISY)
    train = ["train", "maml", "--env", "noisy:Noisy", "--iterations", "1", "--out", "run"]
    assert main([*train, *SMALL]) == 0
    heard = capsys.readouterr()
    assert heard.out == "run\n"
    assert "reset\n" in heard.err
    process = subprocess.run(
        [sys.executable, "-m", "precocial.cli", "eval", "run", "--tasks", "2", "--json"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert len(json.loads(process.stdout)["stages"]) == 4
    said = process.stderr.decode().splitlines()
    assert {"import", "reset", "a process", "exit"} == set(said)
