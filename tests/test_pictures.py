"""Every method that takes pictures takes them, from a family and from a user's environment."""

import itertools
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import precocial
from precocial.algos.transfer.begin import begin
from precocial.algos.transfer.config import TransferConfig
from precocial.algos.transfer.surgery import Row, is_frozen
from precocial.envs import env_config, make_env
from precocial.envs.base import GymConfig
from precocial.envs.own.adapter import GymTaskEnv
from precocial.nets.pictures import numbers_of, pixels_of
from precocial.rollout import collect
from precocial.runs.folder import build_algorithm, build_env, load_algorithm, require_fit
from precocial.runs.plan import plan
from precocial.runs.rows import read_rows
from precocial.task_replay import TaskReplay
from precocial.training import run
from precocial.transferring.run import transfer
from precocial.transferring.source import read_sources
from precocial.types import UserError

UPDATES = {"num_tasks": 2, "episodes_per_task": 3, "hidden": (8,)}
TRIALS = {"num_tasks": 4, "episodes_per_trial": 2}
PLAIN = {"lanes": 4, "hidden": (8,)}
REPLAY = PLAIN | {"rounds": 2, "updates": 1, "learning_starts": 8, "buffer_size": 200}
PEARL = {
    "train_tasks": 3, "num_tasks": 3, "updates": 2, "buffer_size": 60, "hidden": (8,),
    "meta_batch": 3, "batch_size": 8,
}  # fmt: skip
NAV = {"env": "point-nav", "env_horizon": 6}
LAKE = {"env": "frozen-lake", "env_horizon": 6}
CASES = {
    "maml": NAV | UPDATES, "promp": NAV | UPDATES, "reptile": NAV | UPDATES,
    "cavia": NAV | UPDATES, "oracle": NAV | UPDATES, "gaussian-maml": NAV | UPDATES,
    "e-maml": NAV | UPDATES, "q-maml": LAKE | UPDATES, "rl2": NAV | TRIALS,
    "varibad": LAKE | TRIALS, "ppo": NAV | PLAIN | {"rollout_steps": 6}, "dqn": LAKE | REPLAY,
    "sac": NAV | REPLAY, "pearl": NAV | PEARL,
    "rl2 that sees two": LAKE | TRIALS | {"previous_obs": True, "memory": "gru", "embed": 16},
    "rl2 by fast weights": LAKE | TRIALS | {"memory": "fast-weights", "embed": 0},
}  # fmt: skip


QUICK = ("maml", "q-maml", "rl2 that sees two", "varibad", "ppo", "dqn", "sac", "pearl")
"""Of each kind one; the others only where there is time."""


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_a_method_learns_from_pictures_and_goes_on_exactly(name, tmp_path):
    options = CASES[name] | {"env_view": "picture", "eval_every": 0, "quiet": True}
    env, name = options.pop("env"), name.partition(" ")[0]
    whole = precocial.train(name, env, out=tmp_path / "whole", iterations=2, **options)
    part = precocial.train(name, env, out=tmp_path / "part", iterations=1, **options)
    run(part, iterations=2, quiet=True)
    rows = [
        [{k: v for k, v in r.items() if not k.startswith("time")} for r in read_rows(f)]
        for f in (whole / "metrics.jsonl", part / "metrics.jsonl")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 2
    _, family, algorithm, _ = load_algorithm(whole, "last")
    assert family.spec.obs_dtype == torch.uint8
    nets = algorithm.nets if name == "pearl" else algorithm.networks()
    read_by = [n for n, params in nets.items() if any("conv_0" in k for k in params)]
    assert read_by, nets.keys()


def test_a_rollout_and_a_replay_hold_bytes(rng):
    env = make_env("point-nav", env_config("point-nav", view="picture"))
    tasks = env.sample_tasks(2, "train", rng)
    rollout = collect(env, tasks, Still(), 3, 5, rng)
    replay = TaskReplay(20, spare=5)
    replay.add(rollout)
    batch = replay.sample(4, 0.9, rng)
    for seen in (rollout.obs, rollout.next_obs, batch.obs, batch.next_obs):
        assert seen.dtype == torch.uint8 and seen.shape[-1] == 64 * 64 * 3


class Still:
    """Acts without looking."""

    acted: ClassVar = {}

    def act(self, obs, *, explore=True):
        return torch.zeros(*obs.shape[:2], 2)

    def observe(self, action, step):
        pass


@pytest.mark.parametrize(
    ("name", "words"),
    [("q-learning", "a table cannot take pictures, which frozen-lake shows; try dqn or ppo")],
)
def test_what_cannot_take_pictures_says_so(name, words):
    with pytest.raises(UserError, match=words):
        precocial.train(name, "frozen-lake", env_view="picture", iterations=1, quiet=True)


def test_planners_are_refused():
    with pytest.raises(UserError, match="a planner cannot take pictures, which point-nav shows"):
        precocial.train("grbal", "point-nav", env_view="picture", iterations=1, quiet=True)


# ---- families ------------------------------------------------------------------------------


def test_a_lake_shows_the_agent_and_no_hole(rng):
    env = make_env("frozen-lake", env_config("frozen-lake", view="picture", size=4))
    plain = make_env("frozen-lake", env_config("frozen-lake", size=4))
    tasks = env.sample_tasks(3, "train", rng)
    seen = env.reset(tasks, 2, torch.Generator().manual_seed(1))
    cells = plain.reset(tasks, 2, torch.Generator().manual_seed(1))
    for action in (1, 2, 2):
        moves = torch.full((3, 2), action)
        seen, cells = env.step(moves), plain.step(moves)
        assert torch.equal(seen.terminated, cells.terminated)
        board = pixels_of(seen.next_obs, env.spec.picture)  # (3, 2, 64, 64, 3)
        middle = board[:, :, 8::16, 8::16]  # of each cell
        agent = (middle == torch.tensor([31, 111, 178])).all(-1).flatten(2)
        assert torch.equal(agent.float(), cells.next_obs)
        assert len(board.flatten(0, 3).unique(dim=0)) == 3  # agent, goal, ice


def test_a_plane_shows_where_the_agent_is(rng):
    env = make_env("point-nav", env_config("point-nav", view="picture"))
    tasks = env.sample_tasks(2, "train", rng)
    env.reset(tasks, 2, rng)
    action = torch.tensor([[[1.0, 0.5], [-1.0, 0.0]], [[0.0, 1.0], [0.3, -0.7]]])
    for _ in range(3):
        step = env.step(action)
    darkness = 231.0 - pixels_of(step.next_obs, env.spec.picture)[..., 0].float()
    weight = darkness / darkness.sum((-1, -2), keepdim=True)
    line = (torch.arange(64) - 31.5) * 1.6 / 64  # half a pixel is 0.0125 m
    x, y = (weight.sum(-2) * line).sum(-1), -(weight.sum(-1) * line).sum(-1)
    torch.testing.assert_close(torch.stack([x, y], -1), 0.3 * action, atol=0.005, rtol=0)


def test_a_family_as_a_gymnasium_environment_gives_and_takes_pictures(tmp_path):
    env = gymnasium.make("precocial/PointNav-v0", view="picture", horizon=4)
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs) and obs.shape == (64, 64, 3)
    options = CASES["maml"] | {"env_view": "picture", "eval_every": 0, "quiet": True}
    folder = precocial.train("maml", options.pop("env"), out=tmp_path / "r", iterations=1,
                             **options)  # fmt: skip
    learner = precocial.load(folder).learner()
    action = learner.act(obs)
    assert env.action_space.contains(action)
    learner.observe(*env.step(action)[:4])
    with pytest.raises(UserError, match=r"shape \(64, 64\) and dtype uint8; expected \(64, 64, 3"):
        learner.act(obs[..., 0])


# ---- a user's environment ---------------------------------------------------------------------


class Camera(gymnasium.Env):
    """A dot on a line, seen by a camera and a gauge."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}
    observation_space = spaces.Dict(
        {"camera": spaces.Box(0, 255, (24, 20, 3), np.uint8), "gauge": spaces.Box(-1, 1, (2,))}
    )
    action_space = spaces.Discrete(2)
    max_episode_steps = 5

    def __init__(self, render_mode=None):
        self.render_mode, self.goal = render_mode, 0

    def sample_tasks(self, n):
        return [int(x) for x in self.np_random.integers(0, 20, n)]

    def set_task(self, task):
        self.goal = task

    def get_task(self):
        return self.goal

    def see(self):
        camera = np.zeros((24, 20, 3), np.uint8)
        camera[:, self.at % 20, 0] = 255
        return {"camera": camera, "gauge": np.array([self.at / 20, 0.25], np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.time = int(self.np_random.integers(0, 20)), 0
        return self.see(), {}

    def step(self, action):
        self.at, self.time = self.at + 2 * int(action) - 1, self.time + 1
        reward = -abs(self.at % 20 - self.goal) / 20
        return self.see(), reward, False, self.time >= 5, {}

    def render(self):
        return self.see()["camera"]


def test_a_camera_and_a_gauge_lie_in_one_row(rng):
    env = GymTaskEnv(Camera, GymConfig())
    tasks = env.sample_tasks(2, "train", rng)
    obs = env.reset(tasks, 3, rng)
    picture = env.spec.picture
    assert (picture.side, picture.channels, picture.numbers) == (24, 3, 2)
    assert obs.dtype == torch.uint8 and obs.shape == (2, 3, picture.size)
    step = env.step(torch.ones(2, 3, dtype=torch.long))
    gauge = numbers_of(step.next_obs, picture)
    at = (gauge[..., 0] * 20).round().long() % 20
    red = pixels_of(step.next_obs, picture)[..., 0]  # (2, 3, 24, 24)
    assert torch.equal(red[:, :, 0].argmax(-1), at)
    assert not red[..., 20:].any()
    env.close()


def test_a_learner_in_a_loop_sees_what_it_was_trained_on(tmp_path, monkeypatch):
    """Bytes of a user's pictures reach the policy as bytes."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    folder = precocial.train(
        "maml", "test_pictures:Camera", out=tmp_path / "r", iterations=1, num_tasks=2,
        episodes_per_task=3, eval_every=0, quiet=True,
    )  # fmt: skip
    env, trained = Camera(), precocial.load(folder)
    obs, _ = env.reset(seed=1)
    learner = trained.learner()
    row = learner.encode(obs)
    assert row.dtype == torch.uint8 and row.shape == (1, 1, 24 * 24 * 3 + 8)
    assert torch.equal(numbers_of(row, trained.env.spec.picture)[0, 0],
                       torch.from_numpy(obs["gauge"]))  # fmt: skip
    learner.observe(*env.step(learner.act(obs))[:4])


def test_workers_send_the_same_bytes():
    seen, frames = [], 2
    for workers in (0, 2):
        env = GymTaskEnv(Camera, GymConfig(workers=workers, pixels=16, frames=frames))
        rng = torch.Generator().manual_seed(3)
        tasks = env.sample_tasks(2, "train", rng)
        rows = [env.reset(tasks, 2, rng)]
        for k in range(6):
            rows.append(env.step(torch.full((2, 2), k % 2)).obs)
        seen.append(torch.stack(rows))
        env.close()
    assert torch.equal(*seen)
    assert seen[0].dtype == torch.uint8 and seen[0].shape[-1] == 16 * 16 * 3 * frames


def test_frames_are_the_latest_and_what_has_changed(rng):
    env = GymTaskEnv(Camera, GymConfig(pixels=20, frames=2))
    env.reset(env.sample_tasks(1, "train", rng), 1, rng)
    frames = [pixels_of(env.step(torch.ones(1, 1, dtype=torch.long)).next_obs, env.spec.picture)
              for _ in range(3)]  # fmt: skip
    for before, after in itertools.pairwise(frames):
        now, old, change = (x.int() for x in (after[..., :3], before[..., :3], after[..., 3:]))
        assert torch.equal(change, (128 + now - old).clamp(0, 255))
        assert (change != 128).any()
    env.close()


@pytest.mark.parametrize(("steps", "warned"), [(3, True), (0, False)])
def test_episodes_that_are_never_seen_whole_are_pointed_out(steps, warned, tmp_path, monkeypatch,
                                                            capsys):  # fmt: skip
    monkeypatch.syspath_prepend(Path(__file__).parent)
    p = plan("ppo", "test_pictures:Camera", rollout_steps=steps)
    require_fit(p)
    words = "sees the first 3 of 5 steps alone; --rollout-steps 0 for whole ones"
    assert (words in capsys.readouterr().err) == warned
    require_fit(plan("ppo", "CartPole-v1"))  # whose lanes go on
    assert not capsys.readouterr().err


def test_pictures_that_cannot_be_are_one_line():
    with pytest.raises(UserError, match="--env-pixels is 8; expected 0 or 16 to 512"):
        GymConfig(pixels=8)
    with pytest.raises(UserError, match="--env-frames is 2; expected pictures to see"):
        env_config("CartPole-v1", frames=2)
    with pytest.raises(UserError, match="--env-pixels steps Gymnasium's own environment"):
        env_config("CartPole-v1", pixels=64, half_length=1.0)
    with pytest.raises(
        UserError, match=r"--env-frames is 2, and Vector observes Box.*, no picture"
    ):
        GymTaskEnv(Vector, GymConfig(frames=2))
    with pytest.raises(UserError, match="Vector cannot draw itself"):
        GymTaskEnv(Vector, GymConfig(pixels=64))


class Vector(Camera):
    """The same without eyes."""

    metadata: ClassVar = {"render_modes": []}
    observation_space = spaces.Box(-1, 1, (2,))

    def see(self):
        return super().see()["gauge"]


def test_a_picture_of_cart_pole_is_its_own(rng):
    pytest.importorskip("pygame")
    env = make_env("CartPole-v1", env_config("CartPole-v1", pixels=64, frames=2))
    obs = env.reset(env.sample_tasks(1, "train", rng), 2, rng)
    assert env.spec.picture == (64, 6, 0)
    still = pixels_of(obs, env.spec.picture)
    assert (still[..., 3:] == 128).all()  # nothing has moved
    for _ in range(5):
        step = env.step(torch.ones(1, 2, dtype=torch.long))
    moving = pixels_of(step.next_obs, env.spec.picture)
    assert (moving[..., 3:] != 128).any()
    env.close()


# ---- from one run to another ------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [("ppo", "ppo"), ("ppo", "sac"), ("sac", "ppo")])
def test_a_run_on_pictures_begins_from_one_that_saw_the_same(old, new, tmp_path):
    """The policy does what the source did, wherever the convolutions are kept."""
    both = {"eval_every": 0, "quiet": True, "env_view": "picture", "env_horizon": 6}
    cases = {"ppo": PLAIN | {"rollout_steps": 6, "activation": "relu"}, "sac": REPLAY}
    folder = precocial.train(old, "point-nav", out=tmp_path / "old", iterations=1, **both,
                             **cases[old])  # fmt: skip
    [source] = read_sources(str(folder), "last")
    p = plan(new, "point-nav", **cases[new], env_view="picture", env_horizon=6)
    with closing(build_env(p)) as env:
        algorithm = build_algorithm(p, env)
        rows = begin(algorithm, TransferConfig(kickstart=0.0, critic_warmup=0), source)
        env_rng = torch.Generator().manual_seed(2)
        obs = env.reset(env.sample_tasks(1, "test", env_rng), 3, env_rng)
        acted = [
            a.learner(1, 3, torch.Generator()).act(obs, explore=False)
            for a in (load_algorithm(folder, "last")[2], algorithm)
        ]
    squash = [torch.tanh(x) if name == "ppo" and old != new else x
              for name, x in zip((old, new), acted, strict=True)]  # fmt: skip
    torch.testing.assert_close(*squash)
    read_by = [r for r in rows if "conv" in r.layer and not r.layer.startswith("critic")]
    assert {r.fate for r in read_by} == {"kept"}


@pytest.mark.parametrize(
    ("views", "words"),
    [(("one-hot", "picture"), "frozen-lake shows pictures and the source none"),
     (("picture", "one-hot"), "the source shows pictures and frozen-lake none")],
)  # fmt: skip
def test_pictures_and_numbers_do_not_go_on_from_each_other(views, words, tmp_path):
    settings = PLAIN | {"rollout_steps": 6, "quiet": True, "eval_every": 0}
    folder = precocial.train("ppo", "frozen-lake", out=tmp_path / "old", iterations=1,
                             env_view=views[0], **settings)  # fmt: skip
    with pytest.raises(UserError, match=words):
        transfer(folder, "frozen-lake", out=tmp_path / "new", env_view=views[1],
                           env_steps=100, quiet=True)  # fmt: skip
    assert not (tmp_path / "new").exists()


def test_layers_that_are_held_hold_the_convolutions_below_them():
    row = Row("actor.conv_0", "kept", False, "", "")
    assert is_frozen(row.layer, TransferConfig(features_from=0), [row])
