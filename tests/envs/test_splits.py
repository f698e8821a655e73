"""What tells the tasks of two splits apart has to tell in what happens, too."""

import pytest
import torch

from precocial.algos.model.acting import RandomActor
from precocial.envs import ENVS

NUM = 8


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def build(name):
    known = ENVS[name].config.__dataclass_fields__
    return ENVS[name].cls(ENVS[name].config(**({"threads": 1} if "threads" in known else {})))


def split_numbers(env):
    """(parameter, column) of the numbers that alone differ in draws of one seed for two splits."""
    train, valid = (env.sample_tasks(200, split, rng()).params for split in ("train", "valid"))
    found = []
    for name, values in train.items():
        differs = (values != valid[name]).reshape(200, -1).any(0)
        found += [(name, column) for column in differs.nonzero().flatten().tolist()]
    return [] if env.spec.num_tasks else [pair for pair in found if pair[0] != "id"]


def play(env, tasks):
    """What random actions meet, a row per task: of a trial, of 200 steps at most."""
    shape, steps = (NUM, 1), env.spec.horizon * (env.spec.trial_episodes or 1)
    actor, draws, met = RandomActor(env.spec, shape, rng(2)), rng(3), []
    obs = env.reset(tasks, 1, rng(4))
    for _ in range(min(200, steps)):
        discrete = torch.randint(env.spec.action_dim, shape, generator=draws)
        step = env.step(actor.act(obs) if env.spec.action_kind == "box" else discrete)
        told = [step.next_obs.flatten(1), step.reward]
        told += [v for k, v in step.info.items() if k == "dense_reward"]  # for critics
        met.append(torch.cat([x.float() for x in told], 1))
    return torch.stack(met, 1).flatten(1)


@pytest.mark.parametrize("name", ENVS)
def test_the_number_that_splits_tasks_changes_what_happens(name):
    env = build(name)
    tasks, others = (env.sample_tasks(NUM, "train", rng(seed)) for seed in (0, 1))
    expected = play(env, tasks)
    for parameter, column in split_numbers(env)[:3]:
        values = tasks.params[parameter].clone()
        flat = values.view(NUM, -1)
        flat[:, column] = others.params[parameter].reshape(NUM, -1)[:, column]
        changed = (values != tasks.params[parameter]).reshape(NUM, -1).any(1)
        if changed.any():
            met = play(env, tasks._replace(params=tasks.params | {parameter: values}))
            told = (met != expected).any(1)[changed].float().mean()
            assert told > 0.2, f"{parameter} {column} hardly shows"
    env.close()
