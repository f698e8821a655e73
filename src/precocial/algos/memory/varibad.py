"""VariBAD: act under an inferred belief over tasks.

Zintgraf, Shiarlis, Igl, Schulze, Gal, Hofmann, Whiteson 2020, https://arxiv.org/abs/1910.08348::

    encoder   q(m | tau_:t) = N(mu_t, sigma_t^2)    a GRU over (a, s', r), across episodes   Eq. 6
    decoders  p(r | s, a, s', m),  p(s' | s, a, m)
    policy    pi(a | s_t, mu_t, sigma_t)

    ELBO_t = E_{m ~ q(.|tau_:t)} [ log p(tau_:H | m) ] - KL(q(.|tau_:t) || q(.|tau_:t-1))    Eq. 8
    maximise  J(policy) + lambda sum_t ELBO_t                                               Eq. 10

At each t the decoders must explain the *whole* trial, past and future. The prior of step t is the
posterior of t - 1, and that of step 0 is N(0, I).

Deviations: the encoder trains on the trials of the iteration at hand, in
place of a replay buffer (the paper runs 16 processes; here are hundreds of trials at a time), so a
checkpoint needs no buffer. The policy reads sigma, not log sigma^2, which is large and negative
wherever the task is known. As in the paper's experiments the RL loss does not reach the encoder.
Of pictures encoder and decoders know thumbnails.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from precocial import threads
from precocial.algos.memory.trials import (
    TrialConfig,
    TrialLearner,
    TrialMethod,
    as_vector,
)
from precocial.checks import at_least, positive, widths
from precocial.nets.initial import linear
from precocial.nets.pictures import beside, thumbnail, thumbnail_dim
from precocial.nets.products import Linear
from precocial.nets.recurrent import GRU, State
from precocial.nets.trial_policy import TrialPolicy, perceptron_policy
from precocial.ops.adam import Adam
from precocial.ops.elbo import chain_kl, log_likelihood
from precocial.ops.losses import masked_mean
from precocial.ops.sums import total
from precocial.types import EnvSpec, Metrics, Params, Rollout, Step, TaskEnv, Tasks, UserError


@dataclass(frozen=True)
class VariBADConfig(TrialConfig):
    """Settings of ``varibad``."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the policy's hidden layers."""
    latent_dim: int = 5
    """Size of the latent task (m)."""
    encoder_size: int = 64
    """Width of the encoder's GRU."""
    decoder_hidden: tuple[int, ...] = (32, 32)
    """Widths of both decoders' hidden layers."""
    vae_lr: float = 1e-3
    """Adam's rate for encoder and decoders; it falls with the policy's (--anneal), so that the
    beliefs which the policy reads come to rest."""
    vae_updates: int = 4
    """Updates of encoder and decoders per iteration."""
    vae_batch: int = 64
    """Trials per such update; all where an iteration has fewer."""
    elbo_terms: int = 20
    """Posteriors per trial that are decoded, drawn at random; 0: all of them."""
    decode_steps: int = 50
    """Steps of the trial that each of them must explain, drawn at random; 0: all."""
    kl_weight: float = 0.01
    """Weight of the KL terms."""
    reward_likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    """Of the reward decoder: unit-variance Gaussian, or whether the reward is above 0."""
    reward_weight: float = 1.0
    """Weight of the reward decoder's log-likelihood."""
    transition_weight: float = 1.0
    """Weight of the transition decoder's log-likelihood; 0 leaves it out."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        at_least(self, 1, "latent_dim", "encoder_size", "vae_updates", "vae_batch")
        at_least(self, 0, "elbo_terms", "decode_steps", "kl_weight")
        at_least(self, 0, "reward_weight", "transition_weight")
        positive(self, "vae_lr")
        widths(self, "hidden", "decoder_hidden")
        if not (self.reward_weight or self.transition_weight):
            raise UserError(
                "--reward-weight and --transition-weight are both 0; a belief is about one of them "
                "at least"
            )


class Trials(NamedTuple):
    """What the ELBO reads of B trials."""

    obs: Shaped[Tensor, "b t o"]
    action: Float[Tensor, "b t a"]
    """One-hot for discrete actions."""
    reward: Float[Tensor, "b t"]
    next_obs: Shaped[Tensor, "b t o"]
    valid: Float[Tensor, "b t"]

    def select(self, lanes: Int[Tensor, " m"]) -> Trials:
        """Some of the trials."""
        return Trials(*(x.index_select(0, lanes) for x in self))


class VAE(nn.Module):
    """Encoder and decoders."""

    def __init__(self, cfg: VariBADConfig, spec: EnvSpec, rng: torch.Generator) -> None:
        super().__init__()
        self.cfg = cfg
        o, a, z = thumbnail_dim(spec), spec.action_dim, cfg.latent_dim
        self.gru = GRU(a + o + 1, cfg.encoder_size, rng, "float32")
        self.posterior = linear(cfg.encoder_size, 2 * z, rng)
        self.reward = Decoder(z, 2 * o + a, cfg.decoder_hidden, 1, rng)
        self.transition = Decoder(z, o + a, cfg.decoder_hidden, o, rng)

    def encode(self, trials: Trials) -> tuple[Float[Tensor, "b p z"], Float[Tensor, "b p z"]]:
        """Mean and log-variance of q(m | tau_:t) for t = 0, ..., T: one more than steps."""
        seen = torch.cat([trials.action, trials.next_obs, trials.reward.unsqueeze(-1)], -1)
        start = self.gru.initial(seen.shape[0])
        h = self.gru.sequence(seen.transpose(0, 1), start, None).transpose(0, 1)
        return self.latent(torch.cat([start["h"].unsqueeze(1), h], 1))

    def latent(
        self, h: Float[Tensor, "*b h"]
    ) -> tuple[Float[Tensor, "*b z"], Float[Tensor, "*b z"]]:
        """Mean and log-variance from the encoder's state."""
        mean, log_var = self.posterior(h).chunk(2, -1)
        return mean, log_var.clamp(-10, 4)

    def loss(self, trials: Trials, rng: torch.Generator) -> dict[str, Tensor]:
        """Minus the ELBO per trial and posterior, in its parts.

        The log-likelihood is a sum over the steps of the trial and both parts are means over
        posteriors; random subsets of either are rescaled, so that they are unbiased.
        """
        cfg, steps = self.cfg, trials.reward.shape[1]
        mean, log_var = self.encode(trials)  # (B, T + 1, Z)
        # A posterior counts where its last transition belongs to the trial; the first always does.
        counts = torch.cat([torch.ones_like(trials.valid[:, :1]), trials.valid], 1)
        kl = masked_mean(chain_kl(mean, log_var), counts)

        terms = _subset(steps + 1, cfg.elbo_terms, rng)
        decoded = _subset(steps, cfg.decode_steps, rng)
        count, scale = total(counts), counts.shape[1] / terms.numel() * steps / decoded.numel()
        mean, log_var, counts = (x.index_select(1, terms) for x in (mean, log_var, counts))
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        m = mean + noise * (0.5 * log_var).exp()  # (B, P, Z)
        part = Trials(*(x.index_select(1, decoded) for x in trials))
        losses = {"loss/kl_latent": kl}
        if cfg.reward_weight:
            inputs = torch.cat([part.obs, part.action, part.next_obs], -1)
            losses["loss/reward_decoder"] = -scale / count * self._explained(
                self.reward(m, inputs), part.reward.unsqueeze(-1), part.valid, counts,
                cfg.reward_likelihood,
            )  # fmt: skip
        if cfg.transition_weight:
            inputs = torch.cat([part.obs, part.action], -1)
            losses["loss/transition_decoder"] = (
                -scale
                / count
                * self._explained(
                    self.transition(m, inputs), part.next_obs, part.valid, counts, "gaussian"
                )
            )
        return losses

    @staticmethod
    def _explained(
        predicted: Float[Tensor, "b p t d"],
        actual: Float[Tensor, "b t d"],
        valid: Float[Tensor, "b t"],
        counts: Float[Tensor, "b p"],
        likelihood: Literal["gaussian", "bernoulli"],
    ) -> Float[Tensor, ""]:
        """Log-likelihood of the valid steps, summed over them and the posteriors that count."""
        each = log_likelihood(predicted, actual.unsqueeze(1).expand_as(predicted), likelihood)
        return total((each * valid.unsqueeze(1)).sum(-1) * counts)


class Decoder(nn.Module):
    """A multi-layer perceptron with a linear output, of every latent beside every step.

    The first layer is applied to latents and steps apart and added, which is the same as to their
    concatenation and saves building it.
    """

    def __init__(
        self, latent: int, inputs: int, hidden: tuple[int, ...], outputs: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.of_latent = _linear(latent, hidden[0], latent + inputs, rng)
        self.of_step = _linear(inputs, hidden[0], latent + inputs, rng)
        sizes = (*hidden, outputs)
        layers: list[nn.Module] = [nn.ReLU()]
        for i, o in zip(sizes, sizes[1:], strict=False):
            layers += [_linear(i, o, i, rng), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(
        self, m: Float[Tensor, "b p z"], x: Float[Tensor, "b t i"]
    ) -> Float[Tensor, "b p t o"]:
        """Mean, or logit."""
        first = self.of_latent(m).unsqueeze(2) + self.of_step(x).unsqueeze(1)
        y: Tensor = self.layers(first)
        return y


def _linear(inputs: int, outputs: int, fan_in: int, rng: torch.Generator) -> Linear:
    layer = Linear(inputs, outputs)
    layer.weight.data = (torch.rand(outputs, inputs, generator=rng) * 2 - 1) / fan_in**0.5
    layer.bias.data.zero_()
    return layer


def _subset(size: int, number: int, rng: torch.Generator) -> Int[Tensor, " s"]:
    """``number`` of ``size`` indices, drawn without replacement; all of them for 0."""
    if not number or number >= size:
        return torch.arange(size, device=rng.device)
    return torch.randperm(size, generator=rng, device=rng.device)[:number]


class Inferred:
    """The inferred posterior's mean and deviation, beside the observation."""

    def __init__(self, vae: VAE, spec: EnvSpec) -> None:
        self.vae, self.spec = vae, spec
        self.state: State | None = None

    def features(self, obs: Shaped[Tensor, "b o"]) -> Shaped[Tensor, "b i"]:
        """(s_t, mu_t, sigma_t)."""
        if self.state is None:
            self.state = self.vae.gru.initial(obs.shape[0])
        mean, log_var = self.vae.latent(self.state["h"])
        return beside(obs, torch.cat([mean, (0.5 * log_var).exp()], -1))

    def observe(self, action: Tensor, step: Step) -> None:
        """One step of the encoder."""
        assert self.state is not None
        next_obs = thumbnail(step.next_obs, self.spec)
        seen = [as_vector(action, self.spec), next_obs, step.reward.unsqueeze(-1)]
        _, self.state = self.vae.gru.step(torch.cat(seen, -1).flatten(0, 1), self.state)

    def state_dict(self) -> dict[str, Any]:
        """The encoder and what it remembers."""
        memory = {} if self.state is None else {"memory": self.state}
        return {"vae": self.vae.state_dict(), **memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.vae.load_state_dict(state["vae"])
        self.state = state.get("memory")


class VariBAD(TrialMethod):
    """PPO on an inferred belief, and the inference itself."""

    cfg: VariBADConfig

    def __init__(
        self, cfg: VariBADConfig, spec: EnvSpec, rng: torch.Generator, device: str = "cpu"
    ) -> None:
        extra, steps = 2 * cfg.latent_dim, cfg.trial_steps(spec)
        policy = perceptron_policy(spec, extra, cfg.hidden, steps, cfg.init_std, rng)
        self.prepare(cfg, spec, policy, device)
        self.vae = VAE(cfg, spec, rng).to(device)
        self.vae_optimizer = Adam(self.vae.parameters(), cfg.vae_lr)

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """One trial on every lane; PPO on the policy, then the ELBO on encoder and decoders."""
        learner = self.make_learner(self.policy, self.vae, tasks.num, self.cfg.lanes, rng, True)
        rollout, metrics = self.improve(env, tasks, learner, rng)
        return metrics | self.infer(rollout, rng)

    def infer(self, rollout: Rollout, rng: torch.Generator) -> Metrics:
        """Several steps up the ELBO, on the trials in turn."""
        cfg = self.cfg
        obs, next_obs = (
            thumbnail(x, self.spec).flatten(0, 1) for x in (rollout.obs, rollout.next_obs)
        )
        trials = Trials(
            obs, as_vector(rollout.action, self.spec).flatten(0, 1),
            rollout.reward.flatten(0, 1), next_obs,
            (rollout.extra["valid"] & ~rollout.diverged).flatten(0, 1).float(),
        )  # fmt: skip
        order = torch.randperm(trials.reward.shape[0], generator=rng, device=rng.device)
        totals: Metrics = {}
        optimizer = self.vae_optimizer.made
        for group in optimizer.param_groups:
            group["lr"] = cfg.vae_lr * cfg.rate(self.progress)
        size = min(cfg.vae_batch, order.numel())
        for i in range(cfg.vae_updates):
            threads.adjust()
            lanes = torch.arange(size, device=order.device) + i * size
            losses = self.vae.loss(trials.select(order[lanes % order.numel()]), rng)
            weights = {
                "loss/kl_latent": cfg.kl_weight, "loss/reward_decoder": cfg.reward_weight,
                "loss/transition_decoder": cfg.transition_weight,
            }  # fmt: skip
            loss = torch.stack([weights[k] * v for k, v in losses.items()]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for k, v in losses.items():
                totals[k] = totals.get(k, 0.0) + float(v.detach()) / cfg.vae_updates
        return totals

    def learner(self, num_tasks: int, lanes: int, rng: torch.Generator) -> TrialLearner:
        """A learner on copies of policy and encoder, at the start of its trial."""
        policy, vae = copy.deepcopy(self.policy), copy.deepcopy(self.vae)
        return self.make_learner(policy, vae, num_tasks, lanes, rng, False)

    def make_learner(
        self, policy: TrialPolicy, vae: VAE, num_tasks: int, lanes: int, rng: torch.Generator,
        training: bool,
    ) -> TrialLearner:  # fmt: skip
        """A learner on N x E lanes."""
        context = Inferred(vae, self.spec)
        return TrialLearner(policy, context, (num_tasks, lanes), rng, record=training)

    def networks(self) -> dict[str, Params]:
        """See ``Transferable``."""
        return super().networks() | {"inference": self.vae.state_dict()}

    def begin_with(self, networks: dict[str, Params]) -> None:
        """See ``Transferable``."""
        super().begin_with(networks)
        self.vae.load_state_dict(networks["inference"])

    def state_dict(self) -> dict[str, Any]:
        """Policy, encoder, decoders and both optimisers."""
        return super().state_dict() | {
            "vae": self.vae.state_dict(), "vae_optimizer": self.vae_optimizer.state_dict()
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        super().load_state_dict(state)
        self.vae.load_state_dict(state["vae"])
        self.vae_optimizer.load_state_dict(state["vae_optimizer"])
