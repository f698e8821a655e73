"""ReBAL: a model of the dynamics with a memory whose own update rule adapts it.

Nagabandi, Clavera et al. 2019, https://arxiv.org/abs/1803.11347, Sec. 4.2: theta' = u_psi(theta,
past), with u_psi the update of a recurrent network and its hidden state the part that adapts.

    memory     h_{t+1} = GRU(h_t; s_t, a_t, s_{t+1} - s_t),   h = 0 at the start of an episode
    model      f(s, a, h_t): an MLP predicts the state difference, h_t fixed while it looks ahead
    training   sum over moments t of the error of f(., ., h_t) on transitions t .. t+K-1

``grebal`` adds GrBAL's rule where the model is linear: the read-out (last layer) takes a gradient
step on the last M transitions, predicted with the memory from before them,

    W' = W - alpha grad_W L(W; last M transitions, h_{t-M}),

and the future scores both rules together, alpha learned per parameter. We know of no publication of
the combination.

Deviations: the paper's model is one LSTM that also runs on through imagined transitions. Here the
memory sees real ones only, each complete with its outcome, so nothing lags by a step, and the model
beside it has the size of the other methods'. Training sequences begin anywhere in an episode with
an empty memory, after 1 to M transitions of which the first future is predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from precocial.algos.model.adapters import Window, frozen, prediction_error, restore_broken
from precocial.algos.model.shared import AdaptiveConfig, ModelBased
from precocial.checks import at_least, positive
from precocial.nets.dynamics import Dynamics
from precocial.nets.memory import build_memory
from precocial.types import EnvSpec


@dataclass(frozen=True)
class ReBALConfig(AdaptiveConfig):
    """Settings of ``rebal``."""

    memory: Literal["gru", "lstm"] = "gru"
    """What remembers."""
    memory_size: int = 128
    """Width of the memory (H)."""
    futures: int = 4
    """Futures of K transitions, one after the other, that a training sequence is scored on."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        at_least(self, 1, "memory_size", "futures")


@dataclass(frozen=True)
class GrEBALConfig(ReBALConfig):
    """Settings of ``grebal``."""

    inner_lr: float = 0.1
    """Inner rate of the read-out's step (alpha), at first; one per parameter is learned."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "inner_lr")


class RecurrentModel(nn.Module):
    """A memory of transitions, a model that is given it, and rates of the read-out's step."""

    def __init__(self, spec: EnvSpec, cfg: ReBALConfig, rng: torch.Generator) -> None:
        super().__init__()
        self.dynamics = Dynamics(spec, cfg.hidden, rng, context=cfg.memory_size)
        seen = 2 * self.dynamics.state_dim + spec.action_dim
        self.memory = build_memory(cfg.memory, seen, cfg.memory_size, rng)
        last = self.dynamics.depth - 1
        self.rates = nn.ParameterDict()
        if isinstance(cfg, GrEBALConfig):
            for name in (f"weight_{last}", f"bias_{last}"):
                self.rates[name] = torch.full_like(self.dynamics.theta[name], cfg.inner_lr)


class MemoryAdapter:
    """One memory per lane; with rates, a read-out per lane as well."""

    def __init__(self, model: RecurrentModel, cfg: ReBALConfig, lanes: int) -> None:
        self.model, self.dynamics = model, model.dynamics
        self.theta = self.dynamics.theta
        self.phi = self.theta
        self.state = model.memory.initial(lanes)
        self.output = torch.zeros_like(self.state["h"])
        self.window = Window(cfg.past, lanes)
        self.resets = 0

    def predict(
        self, obs: Float[Tensor, "b c o"], action: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b c o"]:
        """Given each lane's memory."""
        return self.dynamics.predict(self.phi, obs, action, self.output)

    def observe(
        self, obs: Float[Tensor, "b o"], action: Float[Tensor, "b a"],
        next_obs: Float[Tensor, "b o"], ended: Bool[Tensor, " b"],
    ) -> None:  # fmt: skip
        """Remember; then perhaps a gradient step of the read-out."""
        dynamics = self.dynamics
        x, y = dynamics.inputs(obs, action), dynamics.targets(obs, next_obs)
        before = self.output
        output, state = self.model.memory.step(torch.cat([x, y], -1), self.state)
        broken = ~torch.isfinite(output.sum(-1))
        self.resets += int(broken.sum())
        fresh = (ended | broken).unsqueeze(-1)
        self.output = output.masked_fill(fresh, 0.0)
        self.state = {k: v.masked_fill(fresh, 0.0) for k, v in state.items()}
        if not self.model.rates:
            return
        self.window.push(x, y, before)
        self.window.clear(ended | broken)
        assert self.window.transitions is not None
        past, target, memories = self.window.transitions
        filled = self.window.filled
        oldest = (filled.shape[1] - filled.sum(1).long()).clamp(max=filled.shape[1] - 1)
        context = memories[torch.arange(len(oldest)), oldest]
        gradient = dynamics.gradient(with_context(past, context), target, filled, top=1)
        self.phi = dynamics.after_step(gradient, dict(self.model.rates.items()))
        self.resets += restore_broken(self.phi, self.theta, self.window)

    def state_dict(self) -> dict[str, Any]:
        """Memory, window and read-out of every lane."""
        return {
            "state": self.state, "output": self.output, "phi": dict(self.phi),
            "window": self.window.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the saved one."""
        self.state, self.output, self.phi = state["state"], state["output"], state["phi"]
        self.window.load_state_dict(state["window"])


def with_context(
    x: Float[Tensor, "w k i"], context: Float[Tensor, "w h"]
) -> Float[Tensor, "w k j"]:
    """The model's inputs, each beside its window's memory."""
    return torch.cat([x, context.unsqueeze(1).expand(-1, x.shape[1], -1)], -1)


class ReBAL(ModelBased):
    """Recurrence-based adaptive learner; with rates, GrEBAL."""

    cfg: ReBALConfig
    model: RecurrentModel

    def __init__(
        self, cfg: ReBALConfig, spec: EnvSpec, rng: torch.Generator, device: str = "cpu"
    ) -> None:
        model = RecurrentModel(spec, cfg, rng)
        self.prepare(cfg, spec, model, model.dynamics, device)

    def adapter(self, lanes: int) -> MemoryAdapter:
        """See ``ModelBased``."""
        return MemoryAdapter(frozen(self.model), self.cfg, lanes)

    def loss(self, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Error on the K transitions after moments M, M + K, M + 2K, ... of random sequences."""
        cfg, dynamics = self.cfg, self.dynamics
        m, k, num = cfg.past, cfg.future, max(1, cfg.windows // cfg.futures)
        sequence = self.replay.sample(num, m, k * cfg.futures, rng)
        x = dynamics.inputs(sequence.obs, sequence.action)
        y = dynamics.targets(sequence.obs, sequence.next_obs)
        # The memory is empty at the start, which is 1 to M transitions before the first moment ...
        start = torch.randint(m, (num, 1), generator=rng, device=rng.device)
        time = torch.arange(x.shape[1], device=rng.device)
        # ... and at the start of an episode.
        episode = sequence.episode
        opens = torch.zeros_like(episode, dtype=torch.bool)
        opens[:, 1:] = episode[:, 1:] != episode[:, :-1]
        keep = ~(opens | (time <= start))
        seen = torch.cat([x, y], -1).transpose(0, 1)
        outputs = self.model.memory.sequence(
            seen, self.model.memory.initial(num), keep.to(x).T.contiguous()
        ).transpose(0, 1)
        # Memory before each transition: (n, L, H); what an earlier episode left does not count.
        before = torch.cat([torch.zeros_like(outputs[:, :1]), outputs[:, :-1]], 1)
        before = before * keep.to(x).unsqueeze(-1)

        moments = range(m, m + k * cfg.futures, k)
        future, target = (torch.cat([v[:, t : t + k] for t in moments]) for v in (x, y))
        context = torch.cat([before[:, t] for t in moments])
        at_moment = torch.cat([episode[:, t : t + 1] for t in moments])
        within = torch.cat([episode[:, t : t + k] for t in moments])
        asked = ((within == at_moment) & (at_moment >= 0)).to(x)
        inputs = with_context(future, context)
        plain = dynamics.trace(inputs)[-1]
        unstepped = prediction_error(plain, target, asked)
        if not self.model.rates:
            return unstepped, {"adapted": unstepped}
        past, past_target = (torch.cat([v[:, t - m : t] for t in moments]) for v in (x, y))
        same = torch.cat([(episode[:, t - m : t] == episode[:, t : t + 1]) for t in moments])
        # Where the episode began within the past, its memory was empty before it.
        old = torch.cat([before[:, t - m] for t in moments]) * same[:, :1].to(x)
        known = torch.cat([(time[t - m : t] >= start) for t in moments])
        gradient = dynamics.gradient(
            with_context(past, old), past_target, (same & known).to(x), top=1
        )
        adapted = dynamics.stepped(inputs, gradient, dict(self.model.rates.items()))
        loss = prediction_error(adapted, target, asked)
        return loss, {"adapted": loss, "memory_only": unstepped}


GrEBAL = ReBAL
"""The same class; ``GrEBALConfig`` says that the read-out takes a gradient step as well."""
