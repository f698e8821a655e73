"""The acting loop."""

import pytest
import torch

from precocial import threads
from precocial.envs.control.point_nav import PointNav, PointNavConfig
from precocial.rollout import collect


class Watched(PointNav):
    """Notes how many threads torch has while it steps."""

    def step(self, action):
        self.threads = torch.get_num_threads()
        return super().step(action)


class Actor:
    """Notes how many it has itself."""

    def __init__(self, plans):
        self.acted = {}
        if plans:
            self.plans = True

    def act(self, obs, *, explore=True):
        self.acting = torch.get_num_threads()
        return torch.zeros(*obs.shape[:2], 2)

    def observe(self, action, step):
        self.observing = torch.get_num_threads()


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("plans", [False, True])
def test_planning_has_all_threads_and_stepping_the_cores(threaded, plans, rng, monkeypatch):
    monkeypatch.setattr(threads._others, "look", lambda: 0.0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        env, actor = Watched(PointNavConfig(horizon=3)), Actor(plans)
        env.spec = env.spec._replace(threaded=threaded)
        collect(env, env.sample_tasks(2, "train", rng), actor, 1, 3, rng)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert env.threads == (1 if threaded else 2)
    assert actor.acting == actor.observing == (2 if plans or not threaded else 1)
