"""What a user's environment changes for the whole process, and what of it reaches us."""

import os
import signal
import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from precocial.envs.own.adapter import GymTaskEnv, resolve
from precocial.envs.own.guard import guard


def theirs(*_):
    """A handler of signals."""


class Place:
    """A folder to change to."""

    path = ""


READ = {
    "folder": os.getcwd,
    "dtype": torch.get_default_dtype,
    "grad": torch.is_grad_enabled,
    "device": lambda: torch.empty(0).device.type,
    "threads": torch.get_num_threads,
    "numpy": lambda: np.geterr()["over"],
    "warnings": lambda: tuple(warnings.filters),
    "interrupt": lambda: signal.getsignal(signal.SIGINT),
    "terminate": lambda: signal.getsignal(signal.SIGTERM),
}
CHANGE = {
    "folder": lambda: os.chdir(Place.path),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "grad": lambda: torch.set_grad_enabled(False),
    "device": lambda: torch.set_default_device("meta"),
    "threads": lambda: torch.set_num_threads(3),
    "numpy": lambda: np.seterr(over="raise"),
    "warnings": lambda: warnings.simplefilter("ignore", ResourceWarning),
    "interrupt": lambda: signal.signal(signal.SIGINT, theirs),
    "terminate": lambda: signal.signal(signal.SIGTERM, theirs),
}


@pytest.fixture(autouse=True)
def ours_again(tmp_path, monkeypatch):
    """Whatever a test lets through goes with it."""
    (tmp_path / "theirs").mkdir()
    monkeypatch.setattr(Place, "path", str(tmp_path / "theirs"))
    with guard:
        pass
    settings, values = guard.settings, [setting.read() for setting in guard.settings]
    yield
    guard.theirs.clear()
    for setting, value in zip(settings, values, strict=True):
        setting.write(value)


class Meddler(gymnasium.Env):
    """Changes one thing at one place, and notes how it finds it in every later step."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    max_episode_steps = 9
    what, where = "", ""

    def __init__(self):
        self.found = []
        self.reach("build")

    def reach(self, place):
        if place == self.where:
            CHANGE[self.what]()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.reach("reset")
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.found.append(READ[self.what]())
        self.reach("step")
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def close(self):
        self.reach("close")


@pytest.mark.parametrize("place", ["build", "reset", "step", "close"])
@pytest.mark.parametrize("what", CHANGE)
def test_ours_stays_ours_and_theirs_theirs(what, place, monkeypatch):
    monkeypatch.setattr(Meddler, "what", what)
    monkeypatch.setattr(Meddler, "where", place)
    ours = {name: read() for name, read in READ.items()}
    env = GymTaskEnv(Meddler)
    assert {name: read() for name, read in READ.items()} == ours
    env.reset(env.sample_tasks(1, "train", torch.Generator()), 1, torch.Generator())
    for _ in range(3):
        step = env.step(torch.zeros(1, 1, 1))
        assert {name: read() for name, read in READ.items()} == ours
    assert step.reward.dtype == torch.float32 and step.reward.device.type == "cpu"
    found = env.crew.copies.envs[0].found
    env.close()
    assert {name: read() for name, read in READ.items()} == ours
    if place != "close" and what not in ("interrupt", "terminate"):
        assert ours[what] != found[1] == found[2], "its next call does not find what it set"
        assert found[0] == (ours[what] if place == "step" else found[1])
    else:
        assert found == [ours[what]] * 3


def test_a_module_may_change_things_while_it_is_imported(tmp_path, monkeypatch):
    (tmp_path / "meddles.py").write_text(
        "import os, numpy, torch\n"
        "os.chdir('theirs')\n"
        "torch.set_default_dtype(torch.float64)\n"
        "def folder(): return os.getcwd()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = resolve("meddles:folder").factory
    assert os.getcwd() == str(tmp_path) and torch.get_default_dtype() == torch.float32
    with guard:
        assert folder() == Place.path and torch.get_default_dtype() == torch.float64


def test_what_changes_outside_holds_inside():
    with guard:
        torch.set_default_dtype(torch.float64)
    with torch.no_grad(), guard:
        assert not torch.is_grad_enabled() and torch.get_default_dtype() == torch.float64
        with guard:  # once more, as where a call of the user's code leads to another
            torch.set_default_dtype(torch.float16)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    with guard:
        assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float16


def test_a_folder_that_is_gone_does_no_harm(tmp_path):
    here = os.getcwd()
    with guard:
        os.chdir(Place.path)
        os.rmdir(Place.path)
    assert os.getcwd() == here
    with guard:
        pass
    assert os.getcwd() == here
