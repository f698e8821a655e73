"""Longer checks of transfer, which learn for a while."""

import pytest

import precocial
from precocial.algos.transfer.config import TransferConfig
from precocial.transferring.run import transfer

QUIET = {"quiet": True}


@pytest.mark.slow
def test_a_pole_of_four_times_the_length_is_learned_sooner_from_a_source(tmp_path):
    for seed in range(4):
        precocial.train("ppo", "CartPole-v1", seed=seed, out=tmp_path / f"s/seed-{seed}", **QUIET)
    found = transfer(
        tmp_path / "s", "CartPole-v1", seeds=4, out=tmp_path / "o", threshold=400,
        env_half_length=2.0, **QUIET,
    )  # fmt: skip
    assert found["transfer"]["time"]["mean"] < 0.6 * found["scratch"]["time"]["mean"]
    assert found["area_gain"]["mean"] > 50


@pytest.mark.slow
def test_critics_are_what_a_pendulum_of_twice_the_mass_needs(tmp_path):
    precocial.train("sac", "Pendulum-v1", iterations=24, out=tmp_path / "s", **QUIET)
    areas = {}
    for name, ways in (("all", TransferConfig()), ("policy", TransferConfig(reinit=("q*.*",)))):
        found = transfer(
            tmp_path / "s", "Pendulum-v1", out=tmp_path / name, iterations=12, env_mass=2.0,
            ways=ways, **QUIET,
        )  # fmt: skip
        areas[name] = found["transfer"]["area"]["mean"]
        scratch = found["scratch"]["area"]["mean"]
    assert areas["all"] > areas["policy"] + 200 > scratch
