"""What a context says of the task: a Gaussian over z, with N(0, I) a factor of it.

Three encoders of a context, rows of transitions with weights (how many a row stands for, 0 for
none). ``product`` has a factor for every row (Rakelly et al. 2019, Eq. 2). ``attention`` lets rows
look at each other before they are pooled; it ignores their order, too. ``gru`` reads them in order.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from precocial.nets.mlp import orthogonal_layers, perceptron_once
from precocial.nets.products import linear
from precocial.types import Params

Kind = Literal["product", "attention", "gru"]


class Gaussian(NamedTuple):
    """What the factors besides N(0, I) say: precisions, and means times precisions."""

    precision: Float[Tensor, "*b z"]
    weighted: Float[Tensor, "*b z"]

    @property
    def mean(self) -> Float[Tensor, "*b z"]:
        """Of the posterior."""
        return self.weighted / (1 + self.precision)

    @property
    def var(self) -> Float[Tensor, "*b z"]:
        """Of the posterior."""
        return 1 / (1 + self.precision)

    def draw(self, rng: torch.Generator) -> Float[Tensor, "*b z"]:
        """A guess."""
        noise = torch.randn(self.mean.shape, generator=rng, device=rng.device)
        return self.mean + noise * self.var.sqrt()

    def kl(self) -> Float[Tensor, "*b"]:
        """KL(q || N(0, I)), nats."""
        return 0.5 * (self.var + self.mean.square() - 1 - self.var.log()).sum(-1)


def initial(
    kind: Kind, inputs: int, hidden: tuple[int, ...], latent: int, rng: torch.Generator
) -> Params:
    """Parameters of an encoder; its first precisions are of order one a row."""
    if kind == "product":
        return orthogonal_layers((inputs, *hidden, 2 * latent), 1.0, rng)
    size = hidden[0]
    head = orthogonal_layers((size, *hidden[1:], 2 * latent), 1.0, rng)
    gates = 3 if kind == "gru" else 1
    more = orthogonal_layers((inputs, size), 1.0, rng)
    found = head | {"embed": more["weight_0"], "embed_bias": more["bias_0"]}
    if kind == "gru":
        for name in ("input", "state"):
            parts = [orthogonal_layers((size, size), 1.0, rng)["weight_0"] for _ in range(gates)]
            found[name] = torch.cat(parts, 1)
        return found | {"input_bias": torch.zeros(3 * size), "state_bias": torch.zeros(3 * size)}
    for name in ("query", "key", "value"):
        found[name] = orthogonal_layers((size, size), 1.0, rng)["weight_0"]
    return found


def encode(
    kind: Kind, params: Params, rows: Float[Tensor, "n c d"], weight: Float[Tensor, "n c"]
) -> Gaussian:
    """q(z|c) of each context; ``params`` without a leading axis."""
    num, _, width = rows.shape
    if not rows.shape[1]:  # nothing seen
        rows, weight = rows.new_zeros(num, 1, width), weight.new_zeros(num, 1)
    flat = rows.flatten(0, 1)
    if kind == "product":
        mean, raw = _layers(params, flat).chunk(2, -1)
        precision = torch.nn.functional.softplus(raw)
        factors = torch.stack([precision, precision * mean])
        return Gaussian(*(factors.unflatten(1, weight.shape) * weight.unsqueeze(-1)).sum(2))
    h = torch.relu(_layer(flat, params["embed"], params["embed_bias"])).unflatten(0, weight.shape)
    count = weight.sum(1, keepdim=True)
    h = _attend(params, h, weight) if kind == "attention" else _read(params, h, weight)
    mean, raw = _layers(params, h).chunk(2, -1)
    precision = torch.nn.functional.softplus(raw) * count  # nothing seen is the prior
    return Gaussian(precision, precision * mean)


def _layer(
    x: Float[Tensor, "b i"], weight: Float[Tensor, "i o"], bias: Float[Tensor, " o"]
) -> Float[Tensor, "b o"]:
    """As one of one task, whose long sums over rows have the same bits on any threads."""
    return linear(x.unsqueeze(0), weight.unsqueeze(0), bias.unsqueeze(0)).squeeze(0)


def _layers(params: Params, x: Float[Tensor, "b i"]) -> Float[Tensor, "b o"]:
    """The same of a perceptron."""
    stacked = {k: p.unsqueeze(0) for k, p in params.items() if k[:4] in ("weig", "bias")}
    return perceptron_once(stacked, x.unsqueeze(0), torch.relu).squeeze(0)


def _attend(
    params: Params, h: Float[Tensor, "n c h"], weight: Float[Tensor, "n c"]
) -> Float[Tensor, "n h"]:
    """One head; each row is looked at as many times as it stands for rows."""
    none = torch.zeros_like(params["embed_bias"])
    q, k, v = (
        _layer(h.flatten(0, 1), params[name], none).view_as(h) for name in ("query", "key", "value")
    )
    times = weight.log().clamp(min=-1e30).unsqueeze(1).expand(-1, h.shape[1], -1)
    # With an axis of heads its gradient has the same bits on any number of threads.
    one, other, value, mask = (x.unsqueeze(1) for x in (q, k, v, times))
    mixed = torch.nn.functional.scaled_dot_product_attention(one, other, value, attn_mask=mask)
    h = torch.relu(h + mixed.squeeze(1))
    w = weight.unsqueeze(-1)
    return (h * w).sum(1) / w.sum(1).clamp(min=1e-6)


def _read(
    params: Params, h: Float[Tensor, "n c h"], weight: Float[Tensor, "n c"]
) -> Float[Tensor, "n h"]:
    """The state after all rows that stand for any."""
    given = _layer(h.flatten(0, 1), params["input"], params["input_bias"])
    given = given.unflatten(0, weight.shape).unbind(1)
    state, there = torch.zeros_like(h[:, 0]), (weight > 0).unbind(1)
    for x, on in zip(given, there, strict=True):
        own = _layer(state, params["state"], params["state_bias"])
        (xr, xu, xn), (sr, su, sn) = x.chunk(3, -1), own.chunk(3, -1)
        reset, update = torch.sigmoid(xr + sr), torch.sigmoid(xu + su)
        new = torch.tanh(xn + reset * sn)
        state = torch.where(on.unsqueeze(-1), new + update * (state - new), state)
    return state
