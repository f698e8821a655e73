"""The memory that looks up, against its equations written as a loop over steps."""

import math

import pytest
import torch

from precocial.nets.fast_weights import FastWeights
from precocial.presets import find, settings
from precocial.runs.folder import build_algorithm, build_env
from precocial.runs.plan import plan
from precocial.seeding import generator
from precocial.types import UserError

STATES, WIDTH = 4, 4 + 3 + 2  # three actions, a reward, an end


@pytest.fixture
def memory(double, rng):
    return FastWeights(WIDTH, STATES, size=6, key_size=5, steps=20, rng=rng).double()


def by_the_equations(memory, x, lives):
    """Outputs (T, H) of one lane; ``lives`` are the steps before which it is cleared."""
    w, outs = {k: p.detach() for k, p in memory.named_parameters()}, []
    for t, row in enumerate(x):
        if t == 0 or t in lives:
            kept, count, total, last, age = (
                torch.zeros(5, 6),
                torch.zeros(5),
                torch.zeros(6),
                None,
                0,
            )
        s = row[:STATES]
        query = w["query.weight"] @ s + w["query.bias"]
        both = w["factors.weight"] @ row + w["factors.bias"]
        value = both[:6] * both[6:]
        if last is not None:
            kept, count, total = kept + torch.outer(last, value), count + last, total + value
        found, often = query @ kept, query @ count
        known = 1 + often.abs()
        read = [s, 0.3 * found, found / known, (often / known)[None], torch.tensor([age / 20])]
        h = torch.tanh(w["read.weight"] @ torch.cat([*read, total / (1 + age)]) + w["read.bias"])
        outs.append(torch.tanh(w["out.weight"] @ h + w["out.bias"]))
        last, age = query, age + 1
    return torch.stack(outs)


@pytest.mark.parametrize("lives", [(), (5,), (1, 2, 9)])
@torch.no_grad()
def test_whole_trials_and_single_steps_are_the_equations(lives, memory, rng):
    x = torch.randn(12, 2, WIDTH, generator=rng)
    keep = torch.ones(12, 2)
    keep[list(lives), 0] = 0  # lane 1 is never cleared
    expected = torch.stack(
        [by_the_equations(memory, x[:, 0], lives), by_the_equations(memory, x[:, 1], ())], 1
    )
    whole = memory.sequence(x, memory.initial(2), keep if lives else None)
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-7)
    state, outs = memory.initial(2), []
    for t in range(12):
        state = memory.clear(state, keep[t] == 0)
        h, state = memory.step(x[t], state)
        outs.append(h)
    torch.testing.assert_close(torch.stack(outs), expected, rtol=0, atol=1e-7)


@torch.no_grad()
def test_a_look_up_is_right_before_anything_is_learned(memory, rng):
    """With one-hot states, no more than keys are wide: what is found is what came of this state."""
    places = torch.randint(STATES, (15,), generator=rng)
    x = torch.randn(15, 1, WIDTH, generator=rng)
    x[:, 0, :STATES] = torch.nn.functional.one_hot(places, STATES).double()
    state = memory.initial(1)
    for row in x:
        _, state = memory.step(row, state)
    values = memory.value(x[:, 0])
    for place in range(STATES):
        query = memory.ask(torch.eye(WIDTH)[place][None])
        before = (places[:-1] == place).nonzero().squeeze(-1)
        found = torch.bmm(query[:, None], state["kept"])[0, 0]
        torch.testing.assert_close(found, values[before + 1].sum(0), rtol=0, atol=1e-6)
        assert float(query @ state["count"][0]) == pytest.approx(len(before))


def test_where_all_observations_are_zero_it_still_remembers_and_learns(memory, rng):
    x = torch.randn(8, 3, WIDTH, generator=rng)
    x[..., :STATES] = 0
    other = x.clone()
    other[3] += 1
    a, b = (memory.sequence(v, memory.initial(3), None) for v in (x, other))
    torch.testing.assert_close(a[:3], b[:3])
    assert float((a[4:] - b[4:]).detach().abs().amax(-1).min()) > 1e-4
    a.sum().backward()
    assert float(memory.factors.weight.grad.norm()) > 0


@pytest.mark.slow
def test_the_first_thousands_of_trials_teach_it_to_look_up():
    """A GRU stands at 101 here, what is blind to the state ends at 120, random play has 100."""
    p = plan("rl2", "tabular-mdp")
    env = build_env(p)
    algorithm = build_algorithm(p, env)
    for k in range(12):
        algorithm.progress = k / p.run.iterations
        tasks = env.sample_tasks(300, "train", generator(0, "tasks", k))
        metrics = algorithm.meta_update(env, tasks, generator(0, "rollout", k))
    assert metrics["train/trial_return_mean"] > 135
    assert math.isfinite(metrics["loss/value"])


def test_the_preset_of_before_still_names_its_memory():
    assert settings("rl2", find("rl2", "tabular-mdp", "n10-gru")).memory == "gru"
    with pytest.raises(UserError, match="--embed is 8"):
        plan("rl2", "tabular-mdp", embed=8)
