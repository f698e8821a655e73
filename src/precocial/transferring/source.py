"""What a run can begin from: a run folder, a zip of SB3's, a safetensors file, a callable."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from torch import Tensor, nn

from precocial.algos.transfer.surgery import Nets
from precocial.ops.params import depth
from precocial.runs import checkpoint
from precocial.runs.folder import expand_runs, is_run, load_algorithm
from precocial.types import Transferable, UserError

Source = dict[str, Any]
"""``nets`` by name; ``obs_dim``, ``action_kind``, ``action_dim``, ``activation``, ``dueling`` and
``names`` as far as they are known; where it is from: ``place``, ``sha256``, ``algo``, ``env``,
``env_steps``."""

KNOWN = (
    "obs_dim", "action_kind", "action_dim", "activation", "dueling", "names", "algo", "env",
)  # fmt: skip
"""What an exported file says of itself."""

STARTS = {
    "actor": "policies: ppo, sac, maml, fomaml, promp, reptile, multi-task",
    "critic": "a critic of states: ppo",
    "q": "a critic of actions: dqn, q-maml, sac",
    "dynamics": "the same model-based method: grbal, rebal, mb-mpc, ...",
    "memory": "the same memory: rl2, domain-randomization, varibad, belief-oracle",
    "inference": "the same inference: varibad",
}
"""What each network of a source can start."""


def read_sources(text: str, which: Literal["best", "last"]) -> list[Source]:
    """The sources that a string names; several where it is a folder of ``seed-S`` runs.

    Raises:
        UserError: nothing is there, or it is damaged, or holds nothing to begin from.
    """
    path = Path(text)
    if path.is_dir():
        runs = expand_runs([path])
        if not all(is_run(run) for run in runs):
            raise UserError(f"{path} is no run folder (no config.yaml); expected one made by train")
        return [from_run(run, which) for run in runs]
    if path.suffix == ".safetensors":
        return [from_file(path)]
    if path.suffix == ".zip":
        return [from_zip(path)]
    if ":" in text and not path.exists():
        return [from_callable(text)]
    raise UserError(
        f"source {text!r}: there is no such thing; expected a run folder, a .zip of "
        "Stable-Baselines3, a .safetensors file or module:callable"
    )


def from_run(folder: Path, which: Literal["best", "last"]) -> Source:
    """A run of any algorithm here."""
    path = folder / "checkpoint" / f"{which}.safetensors"
    p, env, algorithm, _ = load_algorithm(folder, which)
    with closing(env):
        if not isinstance(algorithm, Transferable):
            raise UserError(f"{folder}: {p.algo} has no network that another run could begin from")
        spec = env.spec
    nets = {
        n: {k: x.detach().cpu().clone() for k, x in part.items()}
        for n, part in algorithm.networks().items()
    }
    return {
        "nets": nets, "obs_dim": spec.obs_dim, "action_kind": spec.action_kind,
        "action_dim": spec.action_dim, "activation": getattr(p.algo_config, "activation", ""),
        "dueling": getattr(p.algo_config, "dueling", None),
        "names": dict(spec.obs_names), "place": str(folder.absolute()), "sha256": digest(path),
        "algo": getattr(algorithm, "successor", p.algo), "env": p.env,
        "env_steps": int(checkpoint.load(path)["env_steps"]),
    }  # fmt: skip


def from_zip(path: Path) -> Source:
    """A policy that Stable-Baselines3 saved."""
    from gymnasium import spaces

    from precocial.bridges.networks import networks_of
    from precocial.bridges.sb3 import SUCCESSORS, load_policy

    policy = load_policy(path)
    space, nets = policy.action_space, networks_of(policy)
    if not isinstance(space, spaces.Box | spaces.Discrete):
        raise UserError(f"source {path} acts in {space}; runs here have Box or Discrete actions")
    box = isinstance(space, spaces.Box)
    return {
        "nets": nets, "obs_dim": len(nets["normaliser"]["mean"]),
        "action_kind": "box" if box else "discrete",
        "action_dim": spaces.flatdim(space), "activation": policy.activation.lower(),
        "dueling": False if "q" in nets and not box else None, "names": {}, "place": str(path),
        "sha256": digest(path), "algo": SUCCESSORS[policy.kind], "env": "",
        "env_steps": policy.steps,
    }  # fmt: skip


def from_file(path: Path) -> Source:
    """Layers in a file, by PyTorch's names (``0.weight``, ...) or ours (``weight_0``).

    What ``precocial export`` wrote tells the rest in its metadata.
    """
    if not path.is_file():
        raise UserError(f"source {path}: there is no such file")
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            about = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"source {path} is damaged or no safetensors file ({error})") from error
    if "state" in about:
        raise UserError(f"source {path} is a checkpoint; give its run folder instead")
    if outline := about.get("precocial"):
        try:
            if about.get("sha256") != checkpoint.checksum(outline, tensors):
                raise ValueError("its checksum does not match its content")
            known = of_export(tensors, json.loads(outline))
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(f"source {path} is damaged: {error}; export again") from error
        _require_whole({n: p for n, p in known["nets"].items() if "weight_0" in p}, str(path))
        return known | {"place": str(path), "sha256": digest(path), "env_steps": 0}
    return _of_layers(tensors, str(path), digest(path), "")


def of_export(tensors: Mapping[str, Tensor], known: dict[str, Any]) -> Source:
    """What ``precocial export`` wrote of a run: the same source as the run.

    Raises:
        ValueError: sizes or types of the tensors are others than were written.
    """
    if known["sizes"] != {k: [str(x.dtype), list(x.shape)] for k, x in tensors.items()}:
        raise ValueError("sizes or types of its tensors are others than were written")
    nets: Nets = {}
    for name, x in tensors.items():
        net, _, rest = name.partition(".")
        number, _, kind = rest.partition(".")
        own = f"{kind}_{number}" if kind else rest
        nets.setdefault(net, {})[own] = x.T.contiguous() if kind == "weight" else x
    stats = {k: torch.tensor(x) for k, x in known["normaliser"].items()}
    nets |= {"normaliser": stats} if stats else {}
    return {k: known[k] for k in KNOWN} | {"nets": nets}


def from_callable(text: str) -> Source:
    """A ``torch.nn.Module`` that ``module:callable`` returns; the current folder is importable."""
    module, _, name = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(module), name)()
    except Exception as error:  # whatever another's code raises
        what = f"{type(error).__name__}: {error}"
        raise UserError(
            f"source {text}: {what}; expected module:callable, which takes no arguments"
        ) from error
    if not isinstance(made, nn.Module):
        raise UserError(
            f"source {text} returned a {type(made).__name__}; expected a torch.nn.Module"
        )
    kinds = {type(m).__name__.lower() for m in made.modules()} & {"tanh", "relu"}
    state = {k: v.detach().cpu().clone() for k, v in made.state_dict().items()}
    content = hashlib.sha256()
    for k in sorted(state):
        content.update(k.encode() + state[k].contiguous().view(torch.uint8).numpy().tobytes())
    only = kinds.pop() if len(kinds) == 1 else ""
    return _of_layers(state, text, content.hexdigest(), only)


def _of_layers(tensors: Mapping[str, Tensor], place: str, sha256: str, activation: str) -> Source:
    """Perceptrons from their layers; without a network's name before them they are a policy's."""
    nets: Nets = {}
    for name in sorted(tensors, key=_natural):
        net, _, rest = name.partition(".")
        net, rest = (net, rest) if net in STARTS else ("actor", name)
        if not tensors[name].is_floating_point():
            raise UserError(f"source {place}: {name} holds no floating-point numbers")
        layers, own = nets.setdefault(net, {}), re.fullmatch(r"(weight|bias)_(\d+)", rest)
        if own or rest == "log_std":
            layers[rest] = tensors[name].float()
        elif rest.endswith("weight") and tensors[name].ndim == 2:
            number = depth(layers)
            bias = tensors.get(name.removesuffix("weight") + "bias")
            layers[f"weight_{number}"] = tensors[name].float().T.contiguous()
            zero = torch.zeros(len(tensors[name]))
            layers[f"bias_{number}"] = zero if bias is None else bias.float()
        elif not rest.endswith("bias"):
            raise UserError(
                f"source {place}: {name} of sizes {tuple(tensors[name].shape)} is no layer of a "
                "perceptron; expected weights (outputs, inputs) and biases"
            )
    if not any(k.startswith("weight_") for layers in nets.values() for k in layers):
        raise UserError(f"source {place} holds no layer of a perceptron")
    _require_whole(nets, place)
    first = next(iter(nets.values()))
    return {
        "nets": nets, "obs_dim": len(first["weight_0"]), "activation": activation, "place": place,
        "sha256": sha256, "algo": "", "env": "", "env_steps": 0,
    }  # fmt: skip


def _require_whole(nets: Nets, place: str) -> None:
    """Refuse layers that do not fit together, or hold no numbers."""

    def refuse(words: str) -> None:
        raise UserError(f"source {place}: {words}")

    for net, layers in nets.items():
        numbers = sorted(int(k[7:]) for k in layers if k.startswith("weight_"))
        if numbers != list(range(max(1, len(numbers)))):
            refuse(f"{net} has layers {', '.join(map(str, numbers)) or 'none'}; expected 0, 1, ...")
        below = None
        for i in numbers:
            weight, bias = layers[f"weight_{i}"], layers.get(f"bias_{i}")
            if weight.ndim != 2 or not weight.numel():
                refuse(f"{net}.{i} has weights of sizes {tuple(weight.shape)}; expected a matrix")
            if bias is None:
                refuse(f"{net}.{i} has no bias")
            elif bias.shape != weight.shape[1:]:
                refuse(
                    f"{net}.{i} has a bias of sizes {tuple(bias.shape)}; expected "
                    f"{weight.shape[1]} numbers"
                )
            if below not in (None, len(weight)):
                refuse(f"{net}.{i} reads {len(weight)} numbers, the layer below it gives {below}")
            below = weight.shape[1]
        if "log_std" in layers and layers["log_std"].shape != (below,):
            sizes = tuple(layers["log_std"].shape)
            refuse(f"{net}.log_std has sizes {sizes}; expected {below} numbers")
        if not all(bool(torch.isfinite(x).all()) for x in layers.values()):
            refuse(f"{net} holds numbers that are not finite")
    obs = {net: len(layers["weight_0"]) for net, layers in nets.items()}
    for net in ("critic", "q"):
        if "actor" in obs and net in obs and obs[net] != obs["actor"]:
            if net == "q" and obs[net] > obs["actor"]:  # it reads actions, too
                continue
            refuse(f"{net}.0 reads {obs[net]} numbers, actor.0 {obs['actor']}; expected as many")


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers in order of size: layer 10 after layer 2."""
    words = re.split(r"(\d+)", name)
    return [(int(w), "") if w.isdigit() else (0, w) for w in words]


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
