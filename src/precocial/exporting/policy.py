"""What was trained here for others: layers in a file, a zip of Stable-Baselines3, a graph of ONNX.

A run, or the learner of one after it adapted, becomes one policy, ``Acts``: observations in, what
it does and what it drew that from out. Methods with a memory export one step, with what they
remember before it as inputs and after it as outputs.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from precocial.agent import load, load_agent
from precocial.algos import ALGOS
from precocial.algos.gradient.shared import GradientLearner, PolicyMethod
from precocial.algos.memory.rl2 import RL2
from precocial.algos.plain.dqn import DQN, q_values
from precocial.algos.plain.q_learning import QLearning
from precocial.algos.plain.sac import SAC, acting, log_stds
from precocial.algos.plain.sb3 import SB3
from precocial.algos.plain.shared import Normalisers, PlainMethod
from precocial.nets.mlp import ACTIVATIONS, Policy, action_dist, perceptron
from precocial.nets.transformer import Transformer
from precocial.nets.trial_policy import TrialPolicy
from precocial.runs import checkpoint
from precocial.types import EnvSpec, Params, UserError


class Source:
    """A run, perhaps with a learner of it that has adapted.

    Args:
        run: The run folder.
        learner: A file that ``Agent.save`` wrote.
        which: The checkpoint, ``last`` or ``best``.
    """

    def __init__(self, run: Path, learner: Path | None, which: str = "last") -> None:
        agent = load_agent(run, learner) if learner else None
        self.trained = agent.trained if agent else load(run, which)
        self.algorithm: Any = self.trained.algorithm
        self.spec: EnvSpec = self.trained.env.spec
        self.name = self.trained.plan.algo
        if ALGOS[self.name].sees_task:
            raise UserError(
                f"{self.name} needs the task's numbers in its observation; export another run"
            )
        if isinstance(self.algorithm, SB3):
            raise UserError(f"{run} is from SB3 already: {self.algorithm.cfg.file}")
        self.adapted: Params | None = None
        if agent is not None:
            if not isinstance(agent.inner, GradientLearner):
                raise UserError(
                    f"--learner: {self.name} keeps what it learned of a task in its memory, not in "
                    "parameters; leave it out and hand its state on from step to step"
                )
            if agent.axes[0] != 1:
                raise UserError(
                    f"--learner holds {agent.axes[0]} tasks; expected one, as load(run).learner() "
                    "makes"
                )
            self.adapted = {k: p[0] for k, p in agent.inner.params.items()}
            self.policy: Policy = agent.inner.policy
        elif isinstance(self.algorithm, PolicyMethod):
            self.policy = self.algorithm.policy

    @property
    def config(self) -> Any:
        """Of the algorithm."""
        return self.algorithm.cfg


def of_observations(source: Source) -> Params:
    """What a gradient method acts with, as a network of observations alone.

    A context is an input that stays, and so becomes part of the first bias.
    """
    policy = source.policy
    params = source.adapted or {k: v[0] for k, v in policy.start(policy.theta, 1).items()}
    params = {k: p.detach() for k, p in params.items()}
    context = params.pop("context", None)
    if context is not None:
        params["bias_0"] = params["bias_0"] + context @ params["weight_0"][-len(context) :]
        params["weight_0"] = params["weight_0"][: -len(context)]
    return params


def stateless(source: Source) -> Callable[[Tensor], dict[str, Tensor]]:
    """Observations (B, O) to what actions are drawn from: ``logits``, or ``mean`` and ``log_std``.

    Values of actions stand for logits where a method acts by the best of them.

    Raises:
        UserError: the method has a memory, a belief or a plan.
    """
    algorithm, cfg = source.algorithm, source.config
    if isinstance(algorithm, PolicyMethod):
        params, seen = of_observations(source), copy.copy(source.policy)
        seen.context_dim = 0
        values = getattr(seen, "values", None)

        def of_policy(obs: Tensor) -> dict[str, Tensor]:
            return {"logits": values(params, obs)} if values else seen.dist(params, obs)

        return of_policy
    if isinstance(algorithm, QLearning):
        raise UserError(f"{source.name} is a table, which has no layers; export dqn")
    if isinstance(algorithm, PlainMethod) and {"actor", "q"} & algorithm.nets.keys():
        normalise, nets = Normalisers([algorithm]), algorithm.nets

        def of_plain(obs: Tensor) -> dict[str, Tensor]:
            rows = normalise(obs.unsqueeze(0)).squeeze(0)
            if isinstance(algorithm, DQN):
                return {"logits": q_values(nets["q"], rows, cfg)}
            if isinstance(algorithm, SAC):
                out = perceptron(acting(nets), rows, ACTIVATIONS[cfg.activation])
                if source.spec.action_kind == "discrete":
                    return {"logits": torch.log_softmax(out, -1)}
                mean, raw = out.chunk(2, -1)
                return {"mean": torch.tanh(mean), "log_std": log_stds(raw)}
            return action_dist(nets["actor"], rows, ACTIVATIONS[cfg.activation])

        return of_plain
    raise UserError(
        f"{source.name} acts by more than its observation; to safetensors and sb3 go methods of "
        "the gradient and the plain branch, to onnx also rl2 and domain-randomization"
    )


class Acts(nn.Module):
    """Observations to actions in the environment's units, and what they are drawn from."""

    def __init__(self, dist: Callable[[Tensor], dict[str, Tensor]], spec: EnvSpec) -> None:
        super().__init__()
        self.dist, self.spec = dist, spec

    def forward(self, obs: Tensor) -> tuple[Tensor, ...]:
        """The most likely action, then the parts of the distribution."""
        found = self.dist(obs)
        return likeliest(found, self.spec), *found.values()


class Step(nn.Module):
    """One step of a memory: the observation, the last action, reward and end, and the state."""

    def __init__(self, policy: TrialPolicy, algorithm: RL2) -> None:
        super().__init__()
        self.policy, self.spec = policy, algorithm.spec
        self.names = list(policy.memory.initial(1))
        self.sees_before = algorithm.cfg.previous_obs

    def forward(
        self, obs: Tensor, action: Tensor, reward: Tensor, ended: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        """Action, distribution, and the state after the step."""
        before, state = (rest[:1], rest[1:]) if self.sees_before else ((), rest)
        x = torch.cat([obs, action, reward, ended, *before], -1)
        dist, _, after = self.policy.step(x, dict(zip(self.names, state, strict=True)))
        return likeliest(dist, self.spec), *dist.values(), *(after[k] for k in self.names)


def likeliest(dist: dict[str, Tensor], spec: EnvSpec) -> Tensor:
    """The most likely action, (B,) int64 or (B, A) in the environment's units, clipped."""
    if "logits" in dist:
        return dist["logits"].argmax(-1)
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    unit = (dist["mean"] / spec.action_scale).clamp(-1, 1)
    return low + (unit + 1) / 2 * (high - low)


# ---- files ---------------------------------------------------------------------------------


def export(run: Path, to: str, out: Path, learner: Path | None = None, which: str = "last") -> Path:
    """Write a run's policy for others.

    Raises:
        UserError: the method has no such form, a package is missing, or ``out`` cannot be written.
    """
    source = Source(run, learner, which)
    writers = {"safetensors": to_safetensors, "onnx": to_onnx, "sb3": to_sb3}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        writers[to](source, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def to_safetensors(source: Source, out: Path) -> None:
    """Layers by PyTorch's names and in its shapes, ``actor.0.weight`` (outputs, inputs), ..."""
    stateless(source)  # refuses what has none
    nets = dict(source.algorithm.networks())
    normaliser = nets.pop("normaliser", None)
    if source.adapted:
        nets[source.algorithm.network] = of_observations(source)
    tensors = {}
    for net, params in nets.items():
        for k, p in params.items():
            kind, _, number = k.rpartition("_")
            if kind == "weight":
                tensors[f"{net}.{number}.weight"] = p.detach().T.contiguous()
            elif kind == "bias":
                tensors[f"{net}.{number}.bias"] = p.detach().clone()
            else:
                tensors[f"{net}.{k}"] = p.detach().clone().contiguous()
    stats = {k: x.tolist() for k, x in (normaliser or {}).items()}
    spec = source.spec
    whole = {
        "obs_dim": spec.obs_dim, "action_kind": spec.action_kind, "action_dim": spec.action_dim,
        "activation": getattr(source.config, "activation", ""),
        "dueling": getattr(source.config, "dueling", None), "names": dict(spec.obs_names),
        "algo": source.name, "env": source.trained.plan.env,
    }  # fmt: skip
    sizes = {k: [str(x.dtype), list(x.shape)] for k, x in tensors.items()}
    outline = json.dumps(whole | {"normaliser": stats, "sizes": sizes})
    about = {
        "algorithm": source.name, "env": source.trained.plan.env,
        "activation": getattr(source.config, "activation", ""), "actions": spec.action_kind,
        "action_low": json.dumps(spec.action_low), "action_high": json.dumps(spec.action_high),
        "precocial": outline, "sha256": checkpoint.checksum(outline, tensors),
    }  # fmt: skip
    if getattr(source.config, "normalize_obs", False):
        about |= {f"obs_{k}": json.dumps(stats[k]) for k in ("mean", "var")}
    save_file(tensors, out, about)


def needs(module: str, extra: str) -> Any:
    """A package that an extra of this one brings.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f'{module} is not installed ({error}); pip install "precocial[{extra}]"'
        ) from error


def to_onnx(source: Source, out: Path) -> None:
    """A graph; of a memory one step, whose first state is zeros."""
    onnx = needs("onnx", "onnx")
    needs("onnxscript", "onnx")
    algorithm, spec = source.algorithm, source.spec
    box = spec.action_kind == "box"
    outputs = ["action", *(("action_mean", "action_log_std") if box else ("action_logits",))]
    obs = torch.zeros(2, spec.obs_dim, dtype=spec.obs_dtype)
    args: tuple[Tensor, ...] = (obs,)
    inputs, module = ["obs"], nn.Module()
    if isinstance(algorithm, RL2):
        if isinstance(algorithm.policy.memory, Transformer) or spec.picture:
            what = "pictures" if spec.picture else "--memory transformer"
            raise UserError(f"a memory with {what} has no form in onnx here; try gru or lstm")
        module = Step(algorithm.policy, algorithm)
        state = algorithm.policy.memory.initial(2)
        args = (obs, torch.zeros(2, spec.action_dim), torch.zeros(2, 1), torch.zeros(2, 1))
        inputs += ["last_action", "last_reward", "last_ended"]
        if algorithm.cfg.previous_obs:
            args, inputs = (*args, torch.zeros_like(obs)), [*inputs, "last_obs"]
        args = (*args, *(v.clone() for v in state.values()))  # one tensor would be one input
        inputs += [f"state_{k}" for k in state]
        outputs += [f"next_state_{k}" for k in state]
    else:
        module = Acts(stateless(source), spec)
    axis = torch.export.Dim("batch")
    shapes = tuple({0: axis} for _ in args)
    dynamic: Any = (*shapes[:4], shapes[4:]) if isinstance(module, Step) else shapes
    with torch.no_grad(), unheard("torch.onnx"):
        torch.onnx.export(
            module.eval(), args, str(out), input_names=inputs, output_names=outputs,
            dynamic_shapes=dynamic, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
    onnx.checker.check_model(str(out))


@contextmanager
def unheard(name: str) -> Iterator[None]:
    """Without what a package warns of, which is about itself."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def to_sb3(source: Source, out: Path) -> None:
    """A zip, see ``to_sb3.py``."""
    needs("stable_baselines3", "sb3")
    from precocial.exporting.to_sb3 import write

    write(source, out)
