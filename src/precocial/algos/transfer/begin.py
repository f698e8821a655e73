"""From the file of a source to an algorithm that begins from it."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase
from typing import Any

from precocial.algos.transfer.config import TransferConfig
from precocial.algos.transfer.guide import GUIDED, Guide
from precocial.algos.transfer.surgery import Columns, Operation, Row, Spaces, operate
from precocial.nets.pictures import seen_dim
from precocial.types import EnvSpec, Transferable, UserError


def begin(algorithm: Any, cfg: TransferConfig, source: dict[str, Any]) -> list[Row]:
    """Put a source's networks into a fresh algorithm; the plan of what became of each layer.

    Args:
        algorithm: Untrained.
        cfg: The ways.
        source: ``nets`` by name, ``obs_dim``; where known ``action_kind``, ``action_dim``,
            ``activation``, ``names`` of columns, and ``teaches``, whether its policy is worth
            following.

    Raises:
        UserError: the source cannot start this algorithm, or not in these ways.
    """
    spec: EnvSpec = algorithm.spec
    settings = algorithm.cfg
    if not isinstance(algorithm, Transferable):
        raise UserError("this algorithm cannot begin from a source")
    fresh = {
        name: {k: p.detach().cpu().clone() for k, p in params.items()}
        for name, params in algorithm.networks().items()
    }
    require_same_actions(source, spec, fresh, cfg)
    source, seen = with_eyes(source, spec, fresh, cfg), seen_dim(spec)
    columns = columns_of(cfg, source["obs_dim"], seen, source.get("names"), spec)
    own = getattr(settings, "activation", "tanh")
    theirs = source.get("activation") or own
    if own != theirs and any("weight_0" in fresh.get(net, {}) for net in ("actor", "q")):
        raise UserError(
            f"the source's activation is {theirs}, --activation is {own}: layers would compute "
            f"something else; use --activation {theirs}"
        )
    same_kind = source.get("action_kind") in (None, spec.action_kind)
    kinds: dict[str, Any] = {
        "relu": own == "relu", "box": spec.action_kind == "box",
        "spaces": Spaces(
            source["obs_dim"], source.get("action_dim") if same_kind else None, spec.action_dim
        ),
    }  # fmt: skip
    operation = operate(source["nets"], fresh, cfg, columns, **kinds)
    taken = any(row.fate in ("kept", "resized") for row in operation.plan if "." in row.layer)
    if not taken and not (cfg.kickstart and {"actor"} <= fresh.keys() & source["nets"].keys()):
        raise UserError(
            f"nothing of the source is taken: it has {', '.join(sorted(source['nets']))}, the "
            f"target needs {', '.join(sorted(fresh))}; see docs/algorithms/transfer.md for what "
            "starts what, or drop --reinit"
        )
    algorithm.begin_with(operation.nets)
    guide(algorithm, cfg, source, fresh, columns, operation, kinds)
    return operation.plan


def with_eyes(
    source: dict[str, Any], spec: EnvSpec, fresh: dict[str, Any], cfg: TransferConfig
) -> dict[str, Any]:
    """A source whose convolutions are where the target has its own, sized by what layers see.

    Raises:
        UserError: one of the two sees pictures and the other none, or others.
    """
    nets: dict[str, Any] = source["nets"]
    theirs, ours = (
        next((p["conv_0"] for p in some.values() if "conv_0" in p), None) for some in (nets, fresh)
    )
    layers = any("weight_0" in params and net in nets for net, params in fresh.items())
    if layers and (theirs is None) != (ours is None):
        who, other = ("the source", spec.name) if ours is None else (spec.name, "the source")
        raise UserError(f"{who} shows pictures and {other} none, so no layer can go on from it")
    if theirs is None or ours is None:
        return source
    if theirs.shape != ours.shape or source["obs_dim"] != spec.obs_dim:
        raise UserError(
            f"the source saw other pictures than {spec.name} shows: {source['obs_dim']} bytes to "
            f"{spec.obs_dim}; expected as many pixels, channels and numbers"
        )
    if cfg.map_obs:
        raise UserError("--map-obs: pictures have no columns; leave it out")
    nets = {net: dict(params) for net, params in nets.items()}
    if "eyes" in fresh and "eyes" not in nets:
        acts = next(p for net in ("actor", "q", "critic") if "conv_0" in (p := nets.get(net, {})))
        nets["eyes"] = {k: p for k, p in acts.items() if k.startswith("conv_")}
    elif "eyes" in nets and "eyes" not in fresh:
        for net in ("actor", "q", "q_twin"):
            nets[net] |= nets["eyes"]
    return source | {"nets": nets, "obs_dim": seen_dim(spec)}


def guide(
    algorithm: Any, cfg: TransferConfig, source: dict[str, Any], fresh: Any, columns: Columns,
    operation: Operation, kinds: dict[str, Any],
) -> None:  # fmt: skip
    """Give the algorithm what holds it to its source, if it can be held."""
    default, held_by = TransferConfig(), getattr(algorithm, "held_by", None)
    for name in GUIDED:
        asked = getattr(cfg, name) and getattr(cfg, name) != getattr(default, name)
        flag = f"--{name.replace('_', '-')}"
        if asked and held_by is None:
            raise UserError(
                f"{flag}: only plain methods (ppo, ...) can be held to a source while they are "
                "trained; leave it out"
            )
        if asked and held_by is not None and name not in held_by:
            raise UserError(f"{flag}: this algorithm has no such way; leave it out")
    if held_by is None:
        return
    if cfg.kickstart and "actor" not in source["nets"]:
        raise UserError("--kickstart: the source has no policy that could teach; leave it out")
    teacher = None
    if cfg.kickstart and source.get("teaches", True):
        # The source as it is: no new head, no temperature, in the target's shape.
        whole = dataclasses.replace(
            cfg, reinit=(), only_layers=(), features_from=None, freeze=(), unfreeze_at=0,
            head_temperature=1.0, log_std=None,
        )  # fmt: skip
        teacher = operate(source["nets"], fresh, whole, columns, **kinds).nets["actor"]
    algorithm.guide = Guide(cfg, operation, teacher, algorithm.normaliser["mean"].device)


def require_same_actions(
    source: dict[str, Any], spec: EnvSpec, fresh: dict[str, Any], cfg: TransferConfig
) -> None:
    """Refuse a head, or a teacher, of another kind of actions."""
    theirs = source.get("action_kind") or spec.action_kind
    if theirs != spec.action_kind:
        heads = [
            f"{net}.{sum(k.startswith('weight_') for k in params) - 1}"
            for net, params in fresh.items()
            if net in source["nets"] and net != "critic" and "weight_0" in params
        ]
        if cfg.kickstart:
            raise UserError(
                f"--kickstart: the source has {theirs} actions, {spec.name} {spec.action_kind} "
                "ones, so it cannot teach; leave it out"
            )
        missing = [h for h in heads if not any(fnmatchcase(h, pattern) for pattern in cfg.reinit)]
        if missing and cfg.features_from is None and not cfg.only_layers:
            raise UserError(
                f"{missing[0]}: the source has {theirs} actions, {spec.name} {spec.action_kind} "
                f"ones, so its last layer means nothing there; use --reinit {missing[0]}"
            )
    elif cfg.kickstart and source.get("action_dim") not in (None, spec.action_dim):
        raise UserError(
            f"--kickstart: the source has {source['action_dim']} actions, {spec.name} "
            f"{spec.action_dim}, so it cannot teach; leave it out"
        )


def columns_of(
    cfg: TransferConfig, old: int, new: int, names: dict[str, Any] | None, spec: EnvSpec
) -> Columns:
    """Of every column of the target's observation, the source's.

    Raises:
        UserError: ``--map-obs`` names what is not there.
    """
    if not cfg.map_obs:
        return [k if k < old else None for k in range(new)]
    columns: list[int | None] = [None] * new
    for pair in cfg.map_obs:
        left, _, right = pair.partition("=")
        ours = _places(left, dict(spec.obs_names), new, f"--map-obs {pair}, the target")
        theirs = _places(right, names or {}, old, f"--map-obs {pair}, the source")
        if len(ours) != len(theirs):
            raise UserError(
                f"--map-obs {pair}: {len(ours)} columns in the target, {len(theirs)} in the "
                "source; expected as many"
            )
        for ours_, theirs_ in zip(ours, theirs, strict=True):
            columns[ours_] = theirs_
    return columns


def _places(word: str, names: dict[str, Any], size: int, what: str) -> list[int]:
    """Columns of a name, of a number, or of a range as in 2-5."""
    if word in names:
        start, end = names[word]
        return list(range(int(start), int(end)))
    first, _, last = word.partition("-")
    if first.isdigit() and (not last or last.isdigit()):
        places = list(range(int(first), int(last or first) + 1))
        if places and places[-1] < size:
            return places
    known = f", or {', '.join(names)}" if names else ""
    raise UserError(f"{what}: there is no {word!r}; expected columns 0 to {size - 1}{known}")
