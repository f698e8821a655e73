"""A memory that looks things up: what happened where I am now?

Fast weights (Schmidhuber 1992; Ba et al. 2016, https://arxiv.org/abs/1610.06258), written as sums
of outer products of keys and values and read by products, without a softmax: linear attention
(Katharopoulos et al. 2020, https://arxiv.org/abs/2006.16236, Eq. 8-12). With the input
x_t = (s_t, a_{t-1}, r_{t-1}, d_{t-1}, ...),

    q_t = W_q s_t + b                       what is asked for: this observation, nothing else
    k_t = q_{t-1},  k_0 = 0                 what came of a step is kept under where it was taken
    v_t = (A x_t + a) (B x_t + b')          elementwise: "this reward after this action"
    M_t = M_{t-1} + k_t v_t',  n_t = n_{t-1} + k_t,  G_t = G_{t-1} + v_t   (G from t = 1 on)
    R_t = q_t M_t,  c_t = q_t . n_t         what was kept under here, and how often
    h_t = tanh(L_2 tanh(L_1 [s_t, R_t, R_t / (1 + |c_t|), c_t / (1 + |c_t|), t, G_t / (1 + t)]))

Whole trials need no loop over time: R = w v with w_tj = q_t . k_j for j <= t, c the row sums of w.

Ours: the key is the last query, so that a look-up is right before anything is learned; a value is
a product of two linear maps, since a layer that is nearly linear at first cannot store a reward
*by* its action; both the sum and its mean are read, and G, the mean of all that happened. R is read
times 0.3 and t as a share of the trial, so that all of it is of order one at first.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from precocial.nets.activations import tanh
from precocial.nets.initial import linear
from precocial.nets.recurrent import Recurrent, State

_SUM = 0.3
"""Scale of the sums that are read, so that they are of order one at first."""
_GAIN = 1.5 * 2**0.5
_SPREAD = 0.3
"""Of the biases of a value, which make it hold both maps on their own, too."""


class FastWeights(Recurrent):
    """Sums of key-value products, asked by the present observation.

    Args:
        inputs: Width of the input (I), whose first columns are the present observation.
        obs_dim: So many of them (O).
        size: Width of values and of the output (H).
        key_size: Width of keys and queries (K); that many observations can be told apart exactly.
        steps: Of a whole trial, the unit of time.
        rng: Draws the initial weights.
    """

    def __init__(
        self, inputs: int, obs_dim: int, size: int, key_size: int, steps: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.size, self.obs_dim, self.key_size, self.steps = size, obs_dim, key_size, steps
        self.query = linear(obs_dim, key_size, rng, gain=1.0)
        self.factors = linear(inputs, 2 * size, rng, gain=_GAIN, blocks=2)
        self.factors.bias.data.normal_(0, _SPREAD, generator=rng)
        self.read = linear(obs_dim + 3 * size + 2, size, rng)
        self.out = linear(size, size, rng)

    def initial(self, batch: int) -> State:
        """Nothing kept."""
        zeros = self.query.bias.new_zeros
        return {
            "kept": zeros(batch, self.key_size, self.size), "count": zeros(batch, self.key_size),
            "sum": zeros(batch, self.size), "query": zeros(batch, self.key_size),
            "time": zeros(batch, 1),
        }  # fmt: skip

    def sequence(
        self, x: Float[Tensor, "t b i"], state: State, keep: Float[Tensor, "t b"] | None
    ) -> Float[Tensor, "t b h"]:
        """Outputs of all steps of whole trials; ``state`` is the initial one."""
        steps = len(x)
        x = x.transpose(0, 1)
        query, value = self.ask(x), self.value(x)
        key = torch.nn.functional.pad(query[:, :-1], (0, 0, 1, 0))  # of t - 1
        now = torch.arange(steps, device=x.device)
        seen = (now.unsqueeze(1) >= now) & (now > 0)  # (query, key): what was kept by then
        time = now.expand(len(x), steps)
        if keep is not None:
            start = torch.where(keep.T == 0, now, 0).cummax(1).values
            time = time - start
            seen = seen & (start.unsqueeze(2) == start.unsqueeze(1)) & (time > 0).unsqueeze(1)
        weight = query @ key.mT * seen
        total = value.cumsum(1) - value[:, :1] if keep is None else seen.to(value) @ value
        h = self.output(
            x, weight @ value, weight.sum(-1, keepdim=True), total, time.unsqueeze(-1).to(value)
        )
        return h.transpose(0, 1)

    def step(self, x: Float[Tensor, "b i"], state: State) -> tuple[Float[Tensor, "b h"], State]:
        """Output and state after one input."""
        query, value, key, time = self.ask(x), self.value(x), state["query"], state["time"]
        kept = torch.baddbmm(state["kept"], key.unsqueeze(2), value.unsqueeze(1))
        count, total = state["count"] + key, state["sum"] + value * (time > 0)
        found = torch.bmm(query.unsqueeze(1), kept).squeeze(1)
        h = self.output(x, found, (query * count).sum(-1, keepdim=True), total, time)
        state = {"kept": kept, "count": count, "sum": total, "query": query, "time": time + 1}
        return h, state

    def ask(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b k"]:
        """The query."""
        asked: Tensor = self.query(x[..., : self.obs_dim])
        return asked

    def value(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b h"]:
        """What there is to keep."""
        one, other = self.factors(x).chunk(2, -1)
        return one * other

    def output(
        self,
        x: Float[Tensor, "*b i"],
        found: Float[Tensor, "*b h"],
        count: Float[Tensor, "*b 1"],
        total: Float[Tensor, "*b h"],
        time: Float[Tensor, "*b 1"],
    ) -> Float[Tensor, "*b h"]:
        """What is made of all that was read."""
        known = 1 + count.abs()
        read = torch.cat(
            [
                x[..., : self.obs_dim], _SUM * found, found / known, count / known,
                time / self.steps, total / (1 + time),
            ],
            -1,
        )  # fmt: skip
        return tanh(self.out(tanh(self.read(read))))
