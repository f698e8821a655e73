"""Zips of Stable-Baselines3: what they hold is what SB3 makes of it, and nothing in them runs."""

import base64
import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import precocial
from precocial.bridges import inert
from precocial.bridges.networks import networks_of
from precocial.bridges.sb3 import load_policy, read_vecnormalize, space_of
from precocial.cli import main
from precocial.evaluation.table import evaluate
from precocial.nets.mlp import action_dist
from precocial.runs.imported import make_run
from precocial.runs.plan import plan
from precocial.transferring.source import read_sources
from precocial.types import UserError

sb3 = pytest.importorskip("stable_baselines3")
vec_env = pytest.importorskip("stable_baselines3.common.vec_env")


class Any(gymnasium.Env):
    """Shows and takes what it is told to."""

    def __init__(self, obs, action):
        self.observation_space, self.action_space = obs, action

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


VECTOR = spaces.Box(-1, 1, (3,), np.float32)
ARM = spaces.Box(np.array([-2, -1], np.float32), np.array([2, 3], np.float32))
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
MIXED = spaces.Dict({"eye": IMAGE, "speed": VECTOR, "gear": spaces.Discrete(3)})
ELU = {"net_arch": {"pi": [32], "vf": [16, 16]}, "activation_fn": torch.nn.ELU}
KINDS = {
    "ppo": ("PPO", spaces.Box(-np.inf, np.inf, (4,)), spaces.Discrete(2), {}),
    "ppo box": ("PPO", VECTOR, ARM, {}),
    "ppo gsde": ("PPO", VECTOR, ARM, {"use_sde": True}),
    "ppo squashed": ("PPO", VECTOR, ARM, {
        "use_sde": True, "policy_kwargs": {"squash_output": True}}),
    "ppo elu": ("PPO", VECTOR, ARM, {"policy_kwargs": ELU}),
    "ppo one-hots": ("PPO", spaces.MultiDiscrete([3, 4]), spaces.Discrete(4), {}),
    "a2c": ("A2C", VECTOR, spaces.Discrete(3), {}),
    "a2c several": ("A2C", VECTOR, spaces.MultiDiscrete([2, 3]), {}),
    "a2c switches": ("A2C", spaces.MultiBinary(4), spaces.MultiBinary(3), {}),
    "dqn": ("DQN", VECTOR, spaces.Discrete(3), {}),
    "dqn cells": ("DQN", spaces.Discrete(16), spaces.Discrete(4), {}),
    "sac": ("SAC", VECTOR, ARM, {}),
    "sac tanh": ("SAC", VECTOR, ARM, {
        "policy_kwargs": {"net_arch": [24], "activation_fn": torch.nn.Tanh}}),
    "sac gsde": ("SAC", VECTOR, ARM, {"use_sde": True}),
    "td3": ("TD3", VECTOR, ARM, {}),
    "ddpg": ("DDPG", VECTOR, ARM, {}),
    "ppo images": ("PPO", IMAGE, spaces.Discrete(3), {}),
    "ppo two eyes": ("PPO", IMAGE, ARM, {"policy_kwargs": {"share_features_extractor": False}}),
    "dqn images": ("DQN", IMAGE, spaces.Discrete(3), {"buffer_size": 10}),
    "sac images": ("SAC", IMAGE, ARM, {"buffer_size": 10}),
    "ppo mixed": ("PPO", MIXED, ARM, {}),
}  # fmt: skip


def saved(name, tmp_path):
    """A model, and its zip."""
    algorithm, obs, action, options = KINDS[name]
    mixed = "Cnn" if obs is IMAGE else "MultiInput" if obs is MIXED else "Mlp"
    model = getattr(sb3, algorithm)(f"{mixed}Policy", Any(obs, action), seed=1, device="cpu",
                                    **options)  # fmt: skip
    with torch.no_grad():  # as if it had been trained
        for p in model.policy.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    path = tmp_path / f"{name.replace(' ', '-')}.zip"
    model.save(path)
    return model, path


def drawn(space, num):
    space.seed(3)
    rows = [space.sample() for _ in range(num)]
    if isinstance(space, spaces.Dict):
        return {k: np.stack([row[k] for row in rows]) for k in space}
    return np.stack(rows)


@pytest.mark.parametrize("name", KINDS)
def test_actions_are_those_of_sb3_to_the_bit(name, tmp_path):
    model, path = saved(name, tmp_path)
    ours = load_policy(path)
    obs = drawn(KINDS[name][1], 1000 if KINDS[name][1] not in (IMAGE, MIXED) else 100)
    expected, _ = model.predict(obs, deterministic=True)
    actions, state = ours.predict(obs, state="handed on", deterministic=True)
    assert np.array_equal(actions, expected) and actions.dtype == expected.dtype
    assert state == "handed on"
    one = {k: v[0] for k, v in obs.items()} if isinstance(obs, dict) else obs[0]
    expected, _ = model.predict(one, deterministic=True)
    action, _ = ours.predict(one, deterministic=True)
    assert np.array_equal(action, expected) and np.shape(action) == np.shape(expected)
    if len(np.unique(actions)) == 1:
        pytest.fail("a policy that always does the same shows nothing")


@pytest.mark.parametrize("name", ["ppo", "ppo box", "ppo gsde", "sac", "sac gsde", "a2c several"])
def test_drawn_actions_have_sb3s_distribution(name, tmp_path):
    model, path = saved(name, tmp_path)
    ours, space = load_policy(path), KINDS[name][1]
    obs = np.repeat(drawn(space, 1), 20_000, 0)
    if "gsde" in name:  # SB3 holds one draw of noise for a batch
        theirs = []
        for _ in range(2_000):
            model.policy.reset_noise(1)
            theirs.append(model.predict(obs[:1])[0])
        theirs = np.concatenate(theirs)
    else:
        torch.manual_seed(0)
        theirs = model.predict(obs)[0]
    torch.manual_seed(1)
    mine = ours.predict(obs)[0]
    for moment in (np.mean, np.std):
        spread = max(float(np.std(theirs)), 0.1)
        np.testing.assert_allclose(moment(mine, 0), moment(theirs, 0), atol=0.1 * spread)


def test_vecnormalize_is_applied_as_sb3_does(tmp_path):
    def build():
        return Any(VECTOR, ARM)

    env = vec_env.VecNormalize(vec_env.DummyVecEnv([build]), clip_obs=1.5)
    env.obs_rms.update(3 * np.random.default_rng(0).normal(size=(50, 3)) + 1)
    model = sb3.PPO("MlpPolicy", env, seed=0, device="cpu")
    model.save(tmp_path / "model.zip")
    env.save(tmp_path / "vec.pkl")
    ours = load_policy(tmp_path / "model.zip", tmp_path / "vec.pkl")
    obs = 5 * drawn(VECTOR, 1000)
    expected = model.predict(env.normalize_obs(obs), deterministic=True)[0]
    assert np.array_equal(ours.predict(obs, deterministic=True)[0], expected)
    without = load_policy(tmp_path / "model.zip").predict(obs, deterministic=True)[0]
    assert not np.array_equal(without, expected)
    found = networks_of(ours)["normaliser"]
    np.testing.assert_allclose(found["mean"], env.obs_rms.mean, rtol=1e-6)


# ---- what is hostile, damaged or foreign -----------------------------------------------------


class Bomb:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def rewritten(path, out, **members):
    """A zip with some members replaced; None leaves one out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = members.get(name.replace(".", "_"), old.read(name))
            if content is not None:
                new.writestr(name, content)
    return out


def test_hostile_files_are_refused_and_nothing_runs(tmp_path):
    _, path = saved("ppo", tmp_path)
    place = tmp_path / "ran"
    bomb = pickle.dumps(Bomb(place))
    pickle.loads(bomb)  # it does go off
    assert place.exists()
    place.rmdir()

    weights = io.BytesIO()
    torch.save({"action_net.weight": Bomb(place)}, weights)
    with pytest.raises(UserError, match=r"policy.pth holds more than tensors"):
        load_policy(rewritten(path, tmp_path / "a.zip", policy_pth=weights.getvalue()))

    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    for where in (
        "observation_space", "action_space", "policy_class", "policy_kwargs", "lr_schedule",
    ):  # fmt: skip
        entry = data[where] if isinstance(data[where], dict) else {":type:": "x"}
        hostile = data | {where: entry | {":serialized:": base64.b64encode(bomb).decode()}}
        bad = rewritten(path, tmp_path / "b.zip", data=json.dumps(hostile))
        if where.endswith("space"):
            with pytest.raises(UserError, match="expected Box, Discrete"):
                load_policy(bad)
        else:  # never looked at
            load_policy(bad)
    (tmp_path / "vec.pkl").write_bytes(bomb)
    with pytest.raises(UserError, match=r"expected what VecNormalize\.save wrote"):
        read_vecnormalize(tmp_path / "vec.pkl")
    assert not place.exists()


def test_an_inert_reader_imports_and_calls_nothing(tmp_path):
    place = tmp_path / "ran"
    nested = {"a": [Bomb(place), np.arange(3.0)], "b": (np.float64(2.5), {"c": b"x"})}
    found = inert.read(pickle.dumps(nested), "here")
    assert not place.exists() and isinstance(found["a"][0], inert.Inert)
    assert found["a"][0].kind == "posix.mkdir"
    assert np.array_equal(found["a"][1], np.arange(3.0)) and found["b"][0] == 2.5
    for data in (b"", b"\x80\x04", pickle.dumps([1])[:-1], b"\x80\x04cos\nsystem\n(S'x'\ntR"):
        with pytest.raises(UserError, match="here does not read as a pickle"):
            inert.read(data, "here")
    assert isinstance(inert.read(b"cos\nsystem\n(S'touch x'\ntR.", "here"), inert.Inert)


def test_damaged_and_foreign_files_are_one_line(tmp_path):
    _, path = saved("ppo", tmp_path)
    cases = [
        (tmp_path / "none.zip", "there is no such file"),
        (rewritten(path, tmp_path / "1.zip", data=None), "has no data; expected a zip"),
        (rewritten(path, tmp_path / "2.zip", policy_pth=None), "has no policy.pth"),
        (rewritten(path, tmp_path / "3.zip", data=b"{"), "its settings are no JSON"),
        (rewritten(path, tmp_path / "4.zip", data=b"[]"), "expected settings and named tensors"),
        (rewritten(path, tmp_path / "5.zip", policy_pth=b"x"), "or is damaged, and is not loaded"),
    ]
    (tmp_path / "6.zip").write_bytes(path.read_bytes()[:1000])
    cases.append((tmp_path / "6.zip", "is damaged or no zip"))
    for file, words in cases:
        with pytest.raises(UserError, match=words):
            load_policy(file)


def with_tensors(path, out, change):
    with zipfile.ZipFile(path) as archive:
        params = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    change(params)
    weights = io.BytesIO()
    torch.save(params, weights)
    return rewritten(path, out, policy_pth=weights.getvalue())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.update({"lstm_actor.weight_ih_l0": torch.zeros(4, 4)}),
         "lstm_actor.weight_ih_l0 has no place"),
        (lambda p: p.update({"pi_features_extractor.net.0.weight": torch.zeros(4, 4)}),
         "pi_features_extractor.net.0.weight has no place"),
        (lambda p: p.pop("action_net.weight"), "expected one of PPO, A2C, DQN"),
        (lambda p: p.pop("mlp_extractor.policy_net.2.weight"),
         "policy_net.2.bias has no place|numbered|of another size"),
        (lambda p: p.update({"action_net.bias": torch.zeros(7)}), "of another size"),
    ],
)  # fmt: skip
def test_an_architecture_that_is_not_known_is_refused_by_name(change, words, tmp_path):
    _, path = saved("ppo", tmp_path)
    with pytest.raises(UserError, match=words):
        load_policy(with_tensors(path, tmp_path / "x.zip", change))


def test_settings_that_are_not_known_are_refused(tmp_path):
    _, path = saved("ppo images", tmp_path)
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    for kwargs, words in (
        ({"activation_fn": "<class 'os.system'>"}, "its activation is <class 'os.system'>"),
        ({"normalize_images": False}, "normalize_images is off"),
    ):
        changed = json.dumps(data | {"policy_kwargs": kwargs})
        with pytest.raises(UserError, match=words):
            load_policy(rewritten(path, tmp_path / "x.zip", data=changed))
    with pytest.raises(UserError, match="describes no space"):
        space_of({"n": 3}, "here")


def test_observations_of_another_shape_are_refused(tmp_path):
    policy = load_policy(saved("ppo box", tmp_path)[1])
    with pytest.raises(UserError, match=r"shape \(4,\); expected \(3,\)"):
        policy.predict(np.zeros(4))
    mixed = load_policy(saved("ppo mixed", tmp_path)[1])
    with pytest.raises(UserError, match="other keys"):
        mixed.predict({"eye": 0})


# ---- run folders and sources -----------------------------------------------------------------


@pytest.fixture(scope="module")
def pole(tmp_path_factory):
    """PPO on CartPole, trained a little."""
    model = sb3.PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu", n_steps=256)
    model.learn(2048)
    path = tmp_path_factory.mktemp("pole") / "pole.zip"
    model.save(path)
    return model, path


def test_an_imported_policy_is_scored_as_by_sb3(pole, tmp_path):
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    def scored(policy):
        env = vec_env.DummyVecEnv([lambda: Monitor(gymnasium.make("CartPole-v1"))])
        env.seed(3)
        return evaluate_policy(policy, env, 10)

    model, path = pole
    run = make_run(path, plan("sb3", "CartPole-v1"), tmp_path / "run")
    assert scored(precocial.load(run)) == scored(model)
    assert evaluate([run], tasks=1, lanes=2)["trial_return_mean"] > 5
    # step for step in a loop of one's own
    env, learner = gymnasium.make("CartPole-v1"), precocial.load(run).learner()
    obs, _ = env.reset(seed=5)
    for _ in range(20):
        action = learner.act(obs, explore=False)
        assert action == model.predict(obs, deterministic=True)[0]
        obs, reward, terminated, truncated, _ = env.step(action)
        learner.observe(obs, reward, terminated, truncated)
        if terminated:
            break


@pytest.mark.parametrize("name", ["ppo box", "sac", "td3"])
def test_a_box_policy_acts_in_the_units_of_the_environment(name, tmp_path, monkeypatch):
    model, path = saved(name, tmp_path)
    from precocial.algos.plain.sb3 import SB3, SB3Config
    from precocial.types import EnvSpec

    spec = EnvSpec("arm", 3, "box", 2, (-2.0, -1.0), (2.0, 3.0), 5, None, 1)
    algorithm = SB3(SB3Config(file="x"), spec, torch.Generator())
    algorithm.take(load_policy(path))
    obs = drawn(VECTOR, 12)
    unit = algorithm.learner(3, 4, torch.Generator()).act(
        torch.from_numpy(obs).view(3, 4, 3), explore=False
    )
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    action = torch.lerp(low, high, (unit + 1) / 2).view(12, 2)
    expected = model.predict(obs, deterministic=True)[0]
    torch.testing.assert_close(action, torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


def test_networks_keep_their_function(tmp_path):
    for name in ("ppo box", "sac tanh", "dqn"):
        model, path = saved(name, tmp_path)
        policy = load_policy(path)
        nets, obs = networks_of(policy), drawn(VECTOR, 50)
        activation = torch.relu if policy.activation == "ReLU" else torch.tanh
        if name == "dqn":
            q = action_dist(nets["q"], torch.from_numpy(obs), activation)["logits"]
            assert (q.argmax(-1).numpy() == model.predict(obs, deterministic=True)[0]).all()
            continue
        dist = action_dist(nets["actor"], torch.from_numpy(obs), activation)
        mean = dist.get("mean")
        low, high = torch.from_numpy(ARM.low), torch.from_numpy(ARM.high)
        expected = torch.from_numpy(model.predict(obs, deterministic=True)[0])
        if name == "ppo box":
            action = torch.lerp(low, high, (mean.clamp(-1, 1) + 1) / 2)
            std = dist["log_std"].exp() * (high - low) / 2
            torch.testing.assert_close(std[0], model.policy.log_std.exp().detach())
        else:
            out = torch.from_numpy(obs)
            for i in range(2):
                out = out @ nets["actor"][f"weight_{i}"] + nets["actor"][f"bias_{i}"]
                out = activation(out) if i == 0 else out
            action = torch.lerp(low, high, (out[:, :2].tanh() + 1) / 2)
            value = model.critic(torch.from_numpy(obs), torch.zeros(50, 2))
            x = torch.cat([torch.from_numpy(obs), torch.zeros(50, 2)], -1)
            for theirs, ours in zip(value, ("q", "q_twin"), strict=True):
                h = activation(x @ nets[ours]["weight_0"] + nets[ours]["bias_0"])
                torch.testing.assert_close(
                    h @ nets[ours]["weight_1"] + nets[ours]["bias_1"], theirs.detach()
                )
        torch.testing.assert_close(action, expected, atol=1e-5, rtol=1e-5)


def test_a_zip_and_its_run_are_sources_alike(pole, tmp_path, capsys):
    _, path = pole
    run = make_run(path, plan("sb3", "CartPole-v1"), tmp_path / "run")
    [zipped], [imported] = read_sources(str(path), "last"), read_sources(str(run), "last")
    for key in ("obs_dim", "action_kind", "action_dim", "activation", "algo", "env_steps"):
        assert zipped[key] == imported[key], key
    assert zipped["algo"] == "ppo" and zipped["env_steps"] == 2048
    for net, params in zipped["nets"].items():
        for k, p in params.items():
            assert torch.equal(p, imported["nets"][net][k])
    out = tmp_path / "moved"
    assert main(["transfer", str(path), "--env", "CartPole-v1", "--env-steps", "2048", "--seeds",
                 "1", "--no-scratch", "--eval-tasks", "2", "--out", str(out)]) == 0  # fmt: skip
    assert "actor.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "no file given"),
        (["x.zip"], "a zip does not say what it was trained on"),
        (["x.zip", "--env", "CartPole-v1"], "x.zip: there is no such file"),
        (["POLE", "--env", "Pendulum-v1"], "observes Box.*; Pendulum-v1 shows 3 numbers"),
        (["POLE", "--env", "hidden-gain"], "acts in Discrete|observes"),
        (["POLE", "--env", "CartPole-v1", "--vecnormalize", "y.pkl"], "y.pkl: there is no such"),
        (["POLE", "--env", "CartPole-v1", "--speed", "3"], "unknown flag --speed"),
    ],
)
def test_a_wrong_import_is_one_line_and_writes_nothing(args, words, pole, tmp_path, monkeypatch,
                                                       capsys):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["import", *(str(pole[1]) if a == "POLE" else a for a in args)]) == 2
    import re

    err = capsys.readouterr().err
    assert re.search(words, err) and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_import_from_the_command_line(pole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["import", str(pole[1]), "--env", "CartPole-v1"]) == 0
    run = Path(capsys.readouterr().out.strip())
    assert main(["eval", str(run), "--tasks", "2", "--lanes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["algorithm"] == "sb3"
    assert main(["import", str(pole[1]), "--env", "CartPole-v1"]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["train", "sb3", "--env", "CartPole-v1"]) == 2
    assert "precocial import FILE.zip" in capsys.readouterr().err


def test_a_camera_policy_is_imported_with_the_frames_it_saw(tmp_path):
    pytest.importorskip("pygame")
    model, path = saved("ppo images", tmp_path)
    with pytest.raises(UserError, match=r"observes Box.*CartPole-v1 shows pictures \(64, 64, 3\)"):
        make_run(path, plan("sb3", "CartPole-v1", env_pixels=64), tmp_path / "run")
    model = sb3.PPO("CnnPolicy", Any(IMAGE, spaces.Discrete(2)), seed=1, device="cpu")
    model.save(tmp_path / "two.zip")
    run = make_run(
        tmp_path / "two.zip", plan("sb3", "CartPole-v1", env_pixels=36), tmp_path / "run"
    )
    trained = precocial.load(run)
    learner, frame = trained.learner(), drawn(IMAGE, 1)[0]
    assert learner.act(frame, explore=False) == model.predict(frame, deterministic=True)[0]


# ---- forged pickles, odd tensors, odd spaces ------------------------------------------------


def test_a_dtype_that_hides_pointers_is_not_believed(tmp_path):
    """NumPy would take bytes of the file for objects, and call them."""
    name = b"c%b\n%b\n"
    field = name % (b"numpy", b"dtype") + b"(U\x02O8\x89\x88tR"
    state = b"(K\x03U\x01|N(U\x01at}(U\x01a(" + field + b"K\x00tuK\x08K\x01K\x00t"  # flags: 0
    dtype = name % (b"numpy", b"dtype") + b"(U\x02V8\x89\x88tR" + state + b"b"
    call = name % (b"numpy._core.numeric", b"_frombuffer")
    found = inert.read(b"\x80\x03" + call + b"(C\x08AAAAAAAA" + dtype + b"K\x01\x85U\x01CtR.", "x")
    assert isinstance(found, inert.Inert)
    with pytest.raises(UserError, match="does not read as a pickle"):  # nor is a constructor
        inert.read(b"\x80\x03" + call + b"}U\x01aK\x01sb.", "x")


@pytest.mark.parametrize(
    "program", [b"N" + b"r\xff\xff\xff\x7f.", b"\x96" + (2**40).to_bytes(8, "little") + b"."]
)
def test_a_pickle_takes_no_more_room_than_it_has(program):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(UserError):  # of bytes there are fewer than it says
        inert.read(b"\x80\x05" + program, "x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


WEIGHT = "action_net.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.update({WEIGHT: p[WEIGHT] * float("nan")}), "numbers that are not finite"),
        (lambda p: p.update({WEIGHT: p[WEIGHT].long()}), "torch.int64.*expected weights"),
        (lambda p: p.update({WEIGHT: p[WEIGHT].to_sparse()}), "sparse_coo; expected weights"),
        (lambda p: p.update({WEIGHT: torch.zeros(1).expand(10**7, 10**6)}), "not as many numbers"),
        (lambda p: p.update({WEIGHT: torch.zeros(64)}), "missing or no matrix"),
        (lambda p: p.pop("action_net.bias"), "missing or no matrix"),
        (lambda p: p.update({3: torch.zeros(2)}), "settings and named tensors"),
        (lambda p: p.update({WEIGHT: torch.zeros(7, 64), "action_net.bias": torch.zeros(7)}),
         r"read \d+ numbers and give 7; its spaces have \d and \d"),
    ],
)  # fmt: skip
def test_tensors_that_are_no_weights_are_one_line(change, words, tmp_path):
    _, path = saved("ppo", tmp_path)
    with pytest.raises(UserError, match=words):
        load_policy(with_tensors(path, tmp_path / "x.zip", change))


def test_half_precision_is_read_as_single(tmp_path):
    _, path = saved("ppo", tmp_path)
    half = with_tensors(path, tmp_path / "x.zip", lambda p: p.update({WEIGHT: p[WEIGHT].half()}))
    assert networks_of(load_policy(half))["actor"]["weight_2"].dtype == torch.float32


def test_settings_of_other_types_and_damaged_streams_are_one_line(tmp_path):
    _, path = saved("ppo", tmp_path)
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    for changed in ({"policy_kwargs": [1]}, {"num_timesteps": "x"}, {"num_timesteps": 1e999}):
        with pytest.raises(UserError, match="expected n"):
            load_policy(rewritten(path, tmp_path / "x.zip", data=json.dumps(data | changed)))
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        packed = tmp_path / "packed.zip"
        with zipfile.ZipFile(packed, "w", method) as new:
            for name, content in members.items():
                new.writestr(name, content)
            at = new.getinfo("data").header_offset + 50
        content = bytearray(packed.read_bytes())
        content[at : at + 60] = bytes(x ^ 0x5A for x in content[at : at + 60])
        packed.write_bytes(content)
        with pytest.raises(UserError, match="is damaged or no zip"):
            load_policy(packed)


def test_a_zip_that_unpacks_to_much_is_refused_before_it_does(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", "{}")
        archive.writestr("policy.pth", bytes(2**26))
    with pytest.raises(UserError, match=r"policy.pth would unpack \d+ bytes to 67108864"):
        load_policy(tmp_path / "x.zip")


def test_a_dict_keeps_its_order_and_statistics_their_parts(tmp_path):
    parts = OrderedDict(b=spaces.Box(-1, 1, (2,)), a=spaces.Box(-1, 1, (3,)), c=spaces.Discrete(4))
    space = spaces.Dict(parts)
    env = vec_env.VecNormalize(vec_env.DummyVecEnv([lambda: Any(space, ARM)]), norm_obs_keys=["a"])
    env.obs_rms["a"].update(np.random.default_rng(0).normal(size=(50, 3)) + 5)
    model = sb3.PPO("MultiInputPolicy", env, seed=0, device="cpu")
    with torch.no_grad():
        for p in model.policy.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    model.save(tmp_path / "model.zip")
    env.save(tmp_path / "vec.pkl")
    ours, obs = load_policy(tmp_path / "model.zip", tmp_path / "vec.pkl"), drawn(space, 50)
    expected = model.predict(env.normalize_obs(obs), deterministic=True)[0]
    assert list(ours.observation_space) == ["b", "a", "c"]
    assert np.array_equal(ours.predict(obs, deterministic=True)[0], expected)
    mean = networks_of(ours)["normaliser"]["mean"]
    np.testing.assert_allclose(mean, [0, 0, *env.obs_rms["a"].mean, 0, 0, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("largest", [10, 255])
def test_a_small_picture_read_by_layers(largest, tmp_path):
    space = spaces.Box(0, largest, (7, 7, 3), np.uint8)
    model = sb3.PPO("MlpPolicy", Any(space, ARM), seed=0, device="cpu")
    model.save(tmp_path / "model.zip")
    obs = drawn(space, 50)
    expected = model.predict(obs, deterministic=True)[0]
    found = load_policy(tmp_path / "model.zip").predict(obs, deterministic=True)[0]
    assert np.array_equal(found, expected)
