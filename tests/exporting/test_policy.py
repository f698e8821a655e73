"""What goes out acts as what is here."""

import warnings
from pathlib import Path

import gymnasium
import jaxtyping
import numpy as np
import pytest
import safetensors.torch
import torch

import precocial
from precocial.cli import main
from precocial.exporting.policy import export
from precocial.transferring.source import KNOWN, read_sources
from precocial.types import UserError

QUIET = {"iterations": 1, "eval_every": 0, "quiet": True}
SMALL = {"num_tasks": 2, "episodes_per_task": 3, "hidden": (8,)}
PLAIN = {"lanes": 4, "hidden": (8, 8)}
LATE = {"learning_starts": 16, "rounds": 8}
RUNS = {
    "maml": ("maml", "point-nav", SMALL | {"env_horizon": 5, "normalize_obs": True}),
    "cavia": ("cavia", "point-nav", SMALL | {"env_horizon": 5}),
    "meta-sgd": ("meta-sgd", "cart-pole", SMALL | {"env_horizon": 5}),
    "q-maml": ("q-maml", "frozen-lake", SMALL | {"env_horizon": 5}),
    "ppo": ("ppo", "CartPole-v1", PLAIN | {"normalize_obs": True}),
    "ppo box": ("ppo", "Pendulum-v1", PLAIN),
    "ppo cells": ("ppo", "FrozenLake-v1", PLAIN),
    "dqn": ("dqn", "CartPole-v1", PLAIN | LATE),
    "sac": ("sac", "Pendulum-v1", PLAIN | LATE),
    "ppo pictures": ("ppo", "point-nav", PLAIN | {"env_view": "picture", "env_horizon": 5}),
}


@pytest.fixture(autouse=True)
def untyped():
    """Types of arguments are not checked: an exporter's sizes are symbols."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folders = {}

    def get(name):
        if name not in folders:
            algo, env, options = RUNS[name]
            out = tmp_path_factory.mktemp("run") / "run"
            folders[name] = precocial.train(algo, env, out=out, **QUIET, **options)
        return folders[name]

    return get


def observed(trained, num):
    """Observations of the run's environment as the policy sees them."""
    rng = torch.Generator().manual_seed(4)
    env = trained.env
    tasks = env.sample_tasks(1, "test", rng)
    rows, learner = [env.reset(tasks, num, rng)], trained.algorithm.learner(1, num, rng)
    for _ in range(3):
        rows.append(env.step(learner.act(rows[-1])).obs)
    return torch.cat([r[0] for r in rows])[-num:]


def ours(trained, rows):
    """Most likely actions in the environment's units."""
    agent = trained.learner(1, len(rows))
    return agent.to_env_units(agent.inner.act(rows.unsqueeze(0), explore=False))[0]


def only_now_and_then(names, *quick):
    """All of them, but for the quick ones only where there is time."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", only_now_and_then(RUNS, "maml", "sac", "ppo pictures"))
def test_a_graph_acts_alike(name, trained, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    run = precocial.load(trained(name))
    path = export(trained(name), "onnx", tmp_path / "p.onnx")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rows = observed(run, 7)
    found = session.run(None, {"obs": rows.numpy()})
    names = [o.name for o in session.get_outputs()]
    expected = ours(run, rows)
    if found[0].dtype == np.int64:
        assert (found[0] == expected).all()
        assert names == ["action", "action_logits"]
    else:
        np.testing.assert_allclose(found[0], expected, atol=1e-5)
        assert names == ["action", "action_mean", "action_log_std"]
    one = session.run(None, {"obs": rows[:1].numpy()})  # a batch of any size
    np.testing.assert_allclose(one[0], found[0][:1], atol=1e-5)


@pytest.mark.parametrize("name", [n for n in RUNS if n != "ppo pictures"])
def test_sb3_loads_the_zip_and_acts_alike(name, trained, tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    run = precocial.load(trained(name))
    path = export(trained(name), "sb3", tmp_path / "p.zip")
    kind = {"dqn": sb3.DQN, "q-maml": sb3.DQN, "sac": sb3.SAC}.get(name, sb3.PPO)
    model = kind.load(path, device="cpu")
    rows = observed(run, 50)
    seen = rows.numpy()
    if name == "ppo cells":
        assert model.observation_space == gymnasium.spaces.Discrete(16)
        seen = seen.argmax(-1)
    actions = model.predict(seen, deterministic=True)[0]
    np.testing.assert_allclose(actions, ours(run, rows), atol=1e-5)
    back = precocial.bridges.sb3.load_policy(path)
    assert np.array_equal(back.predict(seen, deterministic=True)[0], actions)


@pytest.mark.parametrize("name", ["ppo", "cavia", "dqn", "q-maml", "ppo pictures"])
def test_layers_in_a_file_are_the_source_that_the_run_is(name, trained, tmp_path):
    path = export(trained(name), "safetensors", tmp_path / "p.safetensors")
    [run], [file] = read_sources(str(trained(name)), "last"), read_sources(str(path), "last")
    require_same(run, file)


def require_same(run, file):
    assert run["nets"].keys() == file["nets"].keys()
    for net, params in run["nets"].items():
        assert params.keys() == file["nets"][net].keys()
        for k, p in params.items():
            assert torch.equal(p, file["nets"][net][k])
    for k in KNOWN:
        assert run[k] == file[k], k


def test_a_file_that_was_changed_is_no_source(trained, tmp_path):
    path = export(trained("ppo"), "safetensors", tmp_path / "p.safetensors")
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        about = file.metadata()
    other = tensors | {"actor.0.bias": tensors["actor.0.bias"] + 1}
    for changed, words in (
        (other, about), (tensors, about | {"precocial": "{}"}), (tensors, about | {"sha256": ""}),
        ({k: x.view(-1) for k, x in tensors.items()}, about),
    ):  # fmt: skip
        safetensors.torch.save_file(changed, path, words)
        with pytest.raises(UserError, match=r"is damaged: (its checksum|sizes or types)"):
            read_sources(str(path), "last")


@pytest.mark.parametrize("name", only_now_and_then(["maml", "cavia", "q-maml"], "cavia"))
def test_an_adapted_learner_goes_out_as_adapted(name, trained, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    sb3 = pytest.importorskip("stable_baselines3")
    run = precocial.load(trained(name))
    env = gymnasium.make({"q-maml": "precocial/FrozenLake-v0"}.get(name, "precocial/PointNav-v0"),
                         horizon=5)  # fmt: skip
    learner = run.learner()
    for _ in range(3):
        obs, done = env.reset()[0], False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(learner.act(obs))
            learner.observe(obs, reward, terminated, truncated)
            done = terminated or truncated
    learner.adapt()
    if name != "q-maml":  # so few transitions move it little
        key = "context" if name == "cavia" else "bias_0"
        learner.inner.params[key] = learner.inner.params[key] + 0.7
    learner.save(tmp_path / "adapted")
    rows = observed(run, 20)
    expected = learner.inner.act(rows.unsqueeze(0), explore=False)[0]
    path = export(trained(name), "onnx", tmp_path / "a.onnx", tmp_path / "adapted")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"obs": rows.numpy()})
    value = found[0] if name == "q-maml" else found[1]
    np.testing.assert_allclose(value, expected, atol=1e-5)
    path = export(trained(name), "sb3", tmp_path / "a.zip", tmp_path / "adapted")
    model = (sb3.DQN if name == "q-maml" else sb3.PPO).load(path, device="cpu")
    actions = model.predict(rows.numpy(), deterministic=True)[0]
    np.testing.assert_allclose(actions, found[0], atol=1e-5)
    before = export(trained(name), "safetensors", tmp_path / "b.safetensors")
    after = export(trained(name), "safetensors", tmp_path / "a.safetensors", tmp_path / "adapted")
    if name != "q-maml":
        assert before.read_bytes() != after.read_bytes()


@pytest.mark.parametrize(
    ("algo", "options"),
    [("rl2", {"memory": "lstm", "embed": 6, "previous_obs": True}),
     pytest.param("rl2", {}, marks=pytest.mark.slow),
     pytest.param("rl2", {"memory": "fast-weights"}, marks=pytest.mark.slow),
     pytest.param("domain-randomization", {}, marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_memory_goes_out_as_one_step_with_its_state(algo, options, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    options = {"embed": 0, "previous_obs": False} | options
    folder = precocial.train(algo, "frozen-lake", out=tmp_path / "r", **QUIET, num_tasks=10,
                             env_horizon=5, **options)  # fmt: skip
    run = precocial.load(folder)
    path = export(folder, "onnx", tmp_path / "p.onnx")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    env, rng = run.env, torch.Generator().manual_seed(1)
    tasks = env.sample_tasks(3, "test", rng)
    obs, learner = env.reset(tasks, 2, rng), run.algorithm.learner(3, 2, rng)
    shapes = {i.name: i.shape[1:] for i in session.get_inputs()}
    given = {k: np.zeros((6, *shape), np.float32) for k, shape in shapes.items()}
    for _ in range(8):
        given["obs"] = obs.flatten(0, 1).numpy()
        if algo == "domain-randomization":  # whoever acts clears the memory, as training did
            ended = given["last_ended"].squeeze(-1).astype(bool)
            for k in given.keys() - {"obs"}:
                given[k][ended] = 0
        names = [o.name for o in session.get_outputs()]
        found = dict(zip(names, session.run(None, given), strict=True))
        action = learner.act(obs)
        np.testing.assert_allclose(
            found["action_logits"], learner.acted["logits"].flatten(0, 1), atol=1e-5
        )
        step = env.step(action)
        learner.observe(action, step)
        given |= {k.removeprefix("next_"): v for k, v in found.items() if k.startswith("next_")}
        given["last_action"] = np.eye(4, dtype=np.float32)[action.flatten().numpy()]
        given["last_reward"] = step.reward.reshape(6, 1).numpy()
        given["last_ended"] = (step.terminated | step.truncated).reshape(6, 1).float().numpy()
        if "last_obs" in given:
            given["last_obs"] = given["obs"]
        obs = step.obs


@pytest.mark.parametrize(
    ("algo", "env", "options", "to", "words"),
    [
        ("rl2", "bandit", {"num_tasks": 10}, "sb3", "rl2 acts by more than its observation"),
        ("rl2", "bandit", {"num_tasks": 10, "memory": "transformer"}, "onnx", "try gru or lstm"),
        ("varibad", "bandit", {"num_tasks": 10}, "onnx", "varibad acts by more"),
        ("oracle", "point-nav", SMALL, "onnx", "oracle needs the task's numbers"),
        ("dqn", "CartPole-v1", PLAIN | {"dueling": True}, "sb3", "no dueling DQN"),
        ("ppo", "point-nav", PLAIN | {"env_view": "picture", "env_horizon": 5}, "sb3",
         "other convolutions"),
    ],
)  # fmt: skip
def test_what_has_no_such_form_says_so(algo, env, options, to, words, tmp_path):
    pytest.importorskip("stable_baselines3")
    folder = precocial.train(algo, env, out=tmp_path / "r", **QUIET, **options)
    with pytest.raises(UserError, match=words):
        export(folder, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(trained, tmp_path, monkeypatch, capsys):
    from precocial.exporting import policy as out

    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(out, "import_module", missing)
    for to, extra in (("onnx", "onnx"), ("sb3", "sb3")):
        assert main(["export", str(trained("ppo")), "--to", to, "--out", str(tmp_path / "x")]) == 2
        assert f'pip install "precocial[{extra}]"' in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--to", "onnx"]) == 2
    assert "no run folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_export_from_the_command_line(trained, capsys):
    assert main(["export", str(trained("ppo")), "--to", "safetensors"]) == 0
    assert capsys.readouterr().out.strip() == str(trained("ppo") / "policy.safetensors")


# ---- predict -------------------------------------------------------------------------------


def test_sb3s_evaluation_takes_what_load_returns(trained):
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    run = precocial.load(trained("ppo"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean, spread = evaluation.evaluate_policy(run, gymnasium.make("CartPole-v1"), 5)
    assert 5 < mean < 200 and spread >= 0


def test_predict_has_sb3s_meaning(trained):
    run = precocial.load(trained("ppo"))
    rows = observed(run, 6).numpy()
    many, state = run.predict(rows, deterministic=True)
    assert state is None and many.shape == (6,)
    assert (many == ours(run, torch.from_numpy(rows))).all()
    one, _ = run.predict(rows[0], deterministic=True)
    assert one.shape == () and one == many[0]
    torch.manual_seed(0)
    drawn = np.stack([run.predict(rows)[0] for _ in range(60)])
    assert (drawn != many).any() and len(np.unique(drawn)) == 2
    box = precocial.load(trained("ppo box"))
    action, _ = box.predict(observed(box, 1).numpy()[0])
    assert gymnasium.make("Pendulum-v1").action_space.contains(action)
    with pytest.raises(UserError, match=r"shape \(3,\); expected \(4,\), or a batch"):
        run.predict(np.zeros(3))


def test_an_adapted_learner_predicts_as_adapted(trained):
    run = precocial.load(trained("maml"))
    learner = run.learner()
    learner.inner.params["bias_1"] = learner.inner.params["bias_1"] + 0.5
    obs = np.zeros(2, np.float32)
    adapted, handed = learner.predict(obs, state="mine", deterministic=True)
    before, _ = run.predict(obs, deterministic=True)
    np.testing.assert_allclose(adapted - before, 0.05, atol=1e-6)
    assert handed == "mine"
    with pytest.raises(UserError, match="1 tasks x 1 lanes, and 2 observations came"):
        learner.predict(np.zeros((2, 2)))


def test_a_memory_goes_on_with_its_state(tmp_path):
    folder = precocial.train("rl2", "frozen-lake", out=tmp_path / "r", num_tasks=10,
                             env_horizon=5, embed=0, previous_obs=False, **QUIET)  # fmt: skip
    run = precocial.load(folder)
    env, rng = run.env, torch.Generator().manual_seed(1)
    obs = env.reset(env.sample_tasks(1, "test", rng), 2, rng)
    learner = run.algorithm.learner(1, 2, rng)
    state, start = None, np.ones(2, bool)
    for _ in range(7):
        action = learner.act(obs, explore=False)
        found, state = run.predict(obs[0].numpy(), state, start, deterministic=True)
        assert (found == action[0].numpy()).all()
        step = env.step(action)
        learner.observe(action, step._replace(reward=torch.zeros(1, 2)))  # it is not told rewards
        start = (step.terminated | step.truncated)[0].numpy()
        obs = step.obs
    with pytest.raises(UserError, match="the state is not that of 1 observations"):
        run.predict(obs[0, 0].numpy(), state)


# ---- spaces of one's own -----------------------------------------------------------------------


class Shown(gymnasium.Env):
    """Shows what it is told to."""

    action_space = gymnasium.spaces.Discrete(3)
    max_episode_steps = 4

    def __init__(self, render_mode=None):
        self.time = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.time += 1
        return self.observation_space.sample(), 1.0, False, self.time >= 4, {}


BOX = gymnasium.spaces.Box(-1, 1, (2,))


class Parts(Shown):
    observation_space = gymnasium.spaces.Dict(a=BOX, b=gymnasium.spaces.Discrete(3))


class Codes(Shown):
    observation_space = gymnasium.spaces.Box(0, 255, (7, 7, 3), np.uint8)


class Pair(Shown):
    observation_space = gymnasium.spaces.Tuple((BOX, gymnasium.spaces.Discrete(3)))


class FromOne(Shown):
    observation_space = BOX
    action_space = gymnasium.spaces.Discrete(3, start=1)


class FromTwo(Shown):
    observation_space = gymnasium.spaces.Discrete(3, start=2)


@pytest.mark.parametrize(
    ("name", "words"),
    [("Parts", ""), ("Codes", "takes Box.* for a picture"), ("Pair", "SB3 takes no Tuple"),
     ("FromOne", "actions: SB3 counts from 0"), ("FromTwo", "observations: SB3 counts from 0")],
)  # fmt: skip
def test_spaces_that_sb3_reads_otherwise_are_refused(name, words, tmp_path, monkeypatch):
    sb3 = pytest.importorskip("stable_baselines3")
    monkeypatch.syspath_prepend(Path(__file__).parent)
    folder = precocial.train("ppo", f"test_policy:{name}", out=tmp_path / "r", **QUIET, **PLAIN)
    out = tmp_path / "policy"  # without a suffix
    if words:
        with pytest.raises(UserError, match=words):
            export(folder, "sb3", out)
        assert not out.exists()
        return
    with export(folder, "sb3", out).open("rb") as file:
        model = sb3.PPO.load(file, device="cpu")
    run, space = precocial.load(folder), Parts.observation_space
    for _ in range(20):
        obs = space.sample()
        action = model.predict(obs, deterministic=True)[0]
        assert action == run.predict(obs, deterministic=True)[0]


def test_a_table_has_no_layers_to_export(tmp_path):
    folder = precocial.train("q-learning", "FrozenLake-v1", out=tmp_path / "r", **QUIET)
    for to in ("onnx", "sb3", "safetensors"):
        with pytest.raises(UserError, match="q-learning is a table"):
            export(folder, to, tmp_path / "x")
