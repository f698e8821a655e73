"""Sentences that name a tile: their splits, and what reaching a tile is worth."""

import importlib.util
import re

import pytest
import torch

from precocial.envs.grid import instructions
from precocial.envs.grid.instructions import (
    FIRST,
    NAMES,
    NEW_NAMES,
    TILES,
    Instructions,
    InstructionsConfig,
    counted,
    sentences,
    table,
)
from precocial.types import SPLITS, Tasks

UP, RIGHT, DOWN, LEFT = range(4)


def tasks_of(*texts):
    every = [s for split in SPLITS for s in sentences(split)]
    ids = [next(i for i, s in enumerate(every) if s.text == text) for text in texts]
    goal = torch.tensor([every[i].cell for i in ids])
    return Tasks({"goal": goal, "id": torch.tensor(ids)}, torch.tensor(ids))


def test_no_sentence_is_in_two_splits_and_no_new_name_in_training():
    texts = {split: {s.text for s in sentences(split)} for split in SPLITS}
    assert sum(map(len, texts.values())) == len(set().union(*texts.values())) == 522
    said = {word for text in texts["train"] for word in re.findall(r"\w+", text)}
    assert said >= {name for names in NAMES.values() for name in names}
    assert not said & {name for names in NEW_NAMES.values() for name in names}


def test_tasks_are_of_their_split(rng):
    env = Instructions()
    for split in SPLITS:
        tasks = env.sample_tasks(2000, split, rng)
        last = FIRST[split] + len(sentences(split))
        assert sorted(set(tasks.id.tolist())) == list(range(FIRST[split], last))
        assert env.spec.tasks_of(split) == len(sentences(split))
        assert set(tasks.params["goal"].tolist()) == set(TILES)


def test_words_are_counted_and_unknown_ones_together():
    rows = counted(["go to the red tile", "the the vermilion thing"])
    assert rows.sum(-1).tolist() == [5, 4]
    assert rows[:, -1].tolist() == [0, 2]
    assert (rows[0] * rows[1])[:-1].sum() == 2  # "the" once and twice


def test_rewards(rng):
    tasks = tasks_of("go to the red tile", "go to the blue tile")
    env = Instructions()
    env.reset(tasks, 1, rng)
    env.state["cell"] = torch.tensor([[1], [1]])  # between the red tile, 0, and the blue one, 2
    step = env.step(torch.full((2, 1), LEFT))
    assert step.reward.squeeze(1).tolist() == [1, 0]
    assert step.terminated.all()
    assert step.info["success"].squeeze(1).tolist() == [1, 0]
    assert not env.tile[env.state["cell"]].any()  # the next episode starts off the tiles


def test_the_sentence_is_the_command(rng):
    env = Instructions()
    tasks = tasks_of("go to the red tile", "go to the crimson tile")
    obs = env.reset(tasks, 3, rng)
    assert torch.equal(obs[:, 0, -env.spec.command_dim :], table("one-hot")[tasks.id])
    following = env.step(torch.full((2, 3), UP)).next_obs
    assert torch.equal(obs[..., 25:], following[..., 25:])


def test_random_walks_are_scored_exactly(rng):
    env = Instructions()
    tasks = env.sample_tasks(6, "test", rng)
    chance = env.references(tasks, 1, rng)["random"].squeeze(1)
    env.reset(tasks, 4000, rng)
    first, ended = torch.zeros(6, 4000), torch.zeros(6, 4000, dtype=torch.bool)
    for _ in range(env.spec.horizon):
        step = env.step(torch.randint(4, (6, 4000), generator=rng))
        first += step.reward * ~ended
        ended |= step.terminated | step.truncated
    torch.testing.assert_close(first.mean(1), chance, atol=0.025, rtol=0)  # 4 standard errors


@pytest.mark.skipif(
    importlib.util.find_spec("all_minilm_l6_v2") is None, reason="the language model is missing"
)
def test_features_of_all_sentences():
    features = instructions.table("features")
    train = features[: len(sentences("train"))]
    assert features.shape == (522, 384)
    assert train.mean(0).abs().max() < 1e-4 and abs(train.norm(dim=1).mean() - 1) < 1e-4
    assert Instructions(InstructionsConfig(words="features")).obs_dim == 25 + 384
