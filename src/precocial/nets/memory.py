"""Memories: networks that read a trial step by step and keep what they need of it.

All share one interface. ``sequence`` reads whole trials at once, for training; ``step`` reads one
input, for acting, and gives the same outputs. A state is a tensor dict whose leaves start with the
lane axis B. ``keep`` says where the memory survives: it is cleared *before* step t where
``keep[t]`` is 0.
"""

from __future__ import annotations

from typing import Literal

import torch

from precocial.nets.fast_weights import FastWeights
from precocial.nets.gru import Precision
from precocial.nets.recurrent import GRU, LSTM
from precocial.nets.transformer import Transformer

MemoryKind = Literal["gru", "lstm", "transformer", "fast-weights"]
Memory = GRU | LSTM | Transformer | FastWeights


def build_memory(
    kind: MemoryKind, inputs: int, size: int, rng: torch.Generator, *,
    layers: int = 2, heads: int = 4, precision: Precision = "float32",
    obs_dim: int = 1, key_size: int = 16, steps: int = 100,
) -> Memory:  # fmt: skip
    """A memory by name; what only some of them have is for the others of no account."""
    if kind == "gru":
        return GRU(inputs, size, rng, precision)
    if kind == "lstm":
        return LSTM(inputs, size, rng)
    if kind == "fast-weights":
        return FastWeights(inputs, obs_dim, size, key_size, steps, rng)
    return Transformer(inputs, size, layers, heads, rng)
