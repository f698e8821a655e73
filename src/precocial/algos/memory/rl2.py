"""RL2: the memory of a recurrent policy is the learning algorithm.

Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel 2016, https://arxiv.org/abs/1611.02779, Sec. 2;
Wang et al. 2016, https://arxiv.org/abs/1611.05763::

    draw N tasks
    per task: clear the memory; for k episodes, without clearing it in between,
        input (s_t, a_{t-1}, r_{t-1}, d_{t-1})  ->  memory  ->  a_t ~ pi, V_t
    advantages over the whole trial, across episode ends
    several epochs of PPO on whole trials, back-propagating through all of each

The last reward of an episode and its end flag arrive with the first observation of the next one.
``domain-randomization`` is the same network on the same data with memory and inputs cleared at the
start of every episode: what it scores is what one robust policy can do, and the rest is the value
of memory.

Deviations: PPO instead of TRPO; advantages are normalised over the batch, values predicted beyond
the mean of their step (``nets/trial_policy.py``); ``--embed`` and ``--previous-obs``, off by
default, put a layer before the memory and s_{t-1} into its input. With ``--precision bfloat16``
only training multiplies in bfloat16, so the first ratios differ from 1 by rounding.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from precocial.algos.memory.trials import (
    TrialConfig,
    TrialLearner,
    TrialMethod,
    as_vector,
)
from precocial.checks import at_least
from precocial.nets.gru import Precision
from precocial.nets.memory import MemoryKind, build_memory
from precocial.nets.pictures import beside, layered
from precocial.nets.trial_policy import MLP, Eyes, TrialPolicy, eyes
from precocial.types import EnvSpec, Metrics, Step, TaskEnv, Tasks, UserError


@dataclass(frozen=True)
class RL2Config(TrialConfig):
    """Settings of ``rl2`` and ``domain-randomization``."""

    memory: MemoryKind = "gru"
    """What remembers: gru, lstm, a causal transformer, or fast-weights, which look up what happened
    at this very observation."""
    memory_size: int = 64
    """Width of the memory (H)."""
    key_size: int = 16
    """Width of the keys of fast-weights (K): about as many observations can be told apart."""
    embed: int = 0
    """Width of a layer between input and memory, which can join state, action and reward to one
    thing to remember; 0: none. Of pictures, of the layer on what the convolutions make; 0: 64."""
    previous_obs: bool = False
    """Input the previous observation, too: a transition is then all in one input, but for where
    an episode's last one led."""
    layers: int = 2
    """Layers of the transformer."""
    heads: int = 4
    """Attention heads of the transformer."""
    max_seq_len: int = 0
    """Back-propagate through at most so many steps (gru, lstm); 0: through the whole trial."""
    precision: Precision = "float32"
    """Of the matrix products in training the gru; bfloat16 where the processor has it."""
    forget: bool = False
    """Clear memory and inputs at every episode: domain randomisation."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        at_least(self, 1, "memory_size", "key_size", "layers", "heads")
        at_least(self, 0, "max_seq_len", "embed")
        if self.memory in ("transformer", "fast-weights") and self.max_seq_len:
            raise UserError(
                f"--max-seq-len cuts the memory of gru and lstm; {self.memory} reads the whole "
                "trial at once, leave it out or use --memory gru"
            )
        if self.memory == "fast-weights" and self.embed:
            raise UserError(
                f"--embed is {self.embed}; fast-weights are asked by the observation itself, leave "
                "it out or use --memory gru"
            )
        if self.memory == "transformer" and self.memory_size % (2 * self.heads):
            raise UserError(
                f"--memory-size is {self.memory_size}; expected a multiple of 2 x --heads = "
                f"{2 * self.heads}"
            )
        if self.precision == "bfloat16" and self.memory != "gru":
            raise UserError(f"--precision bfloat16 is for --memory gru, not {self.memory}")


class LastStep:
    """Previous action, reward, end-of-episode flag and perhaps observation, beside this one."""

    def __init__(self, spec: EnvSpec, cfg: RL2Config) -> None:
        self.spec, self.cfg = spec, cfg
        self.last: Float[Tensor, "b d"] | None = None
        self.before: Shaped[Tensor, "b o"]
        """The observation before."""

    @staticmethod
    def input_dim(spec: EnvSpec, cfg: RL2Config) -> int:
        """Size of the policy's input, a vector."""
        return spec.obs_dim * (1 + cfg.previous_obs) + spec.action_dim + 2

    def features(self, obs: Shaped[Tensor, "b o"]) -> Shaped[Tensor, "b i"]:
        """(s_t, a_{t-1}, r_{t-1}, d_{t-1}, s_{t-1}); zeros but for s_t at the trial's start.

        Of pictures s_t and s_{t-1} are channels of one.
        """
        if self.last is None:
            self.last = torch.zeros(len(obs), self.spec.action_dim + 2, device=obs.device)
            self.before = torch.zeros_like(obs)
        self.obs, picture = obs, self.spec.picture
        if not self.cfg.previous_obs:
            return beside(obs, self.last)
        if picture is None:
            return torch.cat([obs, self.last, self.before], -1)
        return beside(layered(obs, self.before, picture), self.last)

    def observe(self, action: Tensor, step: Step) -> None:
        """Keep a_t, r_t and d_t for the next input."""
        ended = (step.terminated | step.truncated).to(step.reward)
        taken = as_vector(action, self.spec)
        last = torch.cat([taken, step.reward.unsqueeze(-1), ended.unsqueeze(-1)], -1).flatten(0, 1)
        self.last, self.before = last, self.obs
        if self.cfg.forget:
            done = ended.flatten().unsqueeze(-1)
            self.last = last * (1 - done)
            self.before = torch.where(done > 0, torch.zeros_like(self.obs), self.obs)

    def state_dict(self) -> dict[str, Any]:
        """What the next input carries."""
        return {} if self.last is None else {"last": self.last, "before": self.before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse; older files had both in one."""
        self.last, size = state.get("last"), self.spec.action_dim + 2
        if self.last is not None:
            self.before = state.get("before", self.last[:, size:])
            self.last = self.last[:, :size]


class RL2(TrialMethod):
    """A memory trained over trials."""

    cfg: RL2Config

    def __init__(
        self, cfg: RL2Config, spec: EnvSpec, rng: torch.Generator, device: str = "cpu"
    ) -> None:
        inputs, steps = LastStep.input_dim(spec, cfg), cfg.trial_steps(spec)
        embedding: MLP | Eyes | None = eyes(
            spec, spec.action_dim + 2, rng, cfg.embed, pictures=1 + cfg.previous_obs
        )
        if cfg.embed and not embedding:
            embedding = MLP(inputs, (cfg.embed,), rng)
        asked = embedding.size - embedding.numbers if isinstance(embedding, Eyes) else spec.obs_dim
        memory = build_memory(
            cfg.memory, embedding.size if embedding else inputs, cfg.memory_size, rng,
            layers=cfg.layers, heads=cfg.heads, precision=cfg.precision,
            obs_dim=asked, key_size=cfg.key_size, steps=steps,
        )  # fmt: skip
        policy = TrialPolicy(memory, spec, steps, cfg.init_std, rng, embedding)
        self.prepare(cfg, spec, policy, device)

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """One trial on every lane, then PPO on all of them."""
        learner = self.make_learner(self.policy, tasks.num, self.cfg.lanes, rng, training=True)
        return self.improve(env, tasks, learner, rng)[1]

    def learner(self, num_tasks: int, lanes: int, rng: torch.Generator) -> TrialLearner:
        """A learner on a copy of the network, at the start of its trial."""
        return self.make_learner(copy.deepcopy(self.policy), num_tasks, lanes, rng, training=False)

    def make_learner(
        self, policy: TrialPolicy, num_tasks: int, lanes: int, rng: torch.Generator, *,
        training: bool,
    ) -> TrialLearner:  # fmt: skip
        """A learner on N x E lanes."""
        shape, forget = (num_tasks, lanes), self.cfg.forget
        return TrialLearner(
            policy, LastStep(self.spec, self.cfg), shape, rng, forgetful=forget,
            record=training, snapshot_every=self.cfg.max_seq_len if training else 0,
        )  # fmt: skip
