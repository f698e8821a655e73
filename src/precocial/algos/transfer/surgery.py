"""Parameters of one network put into another of a different shape, layer by layer, with a plan.

What both have is copied. A unit that only the target has keeps its fresh incoming weights, and what
comes in from a new unit or a new input has weight 0, so that on what the source knew the network
computes what the source computed, exactly. A new action gets the mean of the old ones' logits (or
values): it never is the best one at first, and it is explored.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

import torch

from precocial.algos.transfer.config import TransferConfig
from precocial.ops.params import depth
from precocial.types import Params, UserError

Nets = dict[str, Params]
Fate = Literal["kept", "resized", "new", "skipped"]
Columns = Sequence[int | None]
"""Of every column of the target's observation, the source's; None where it is new."""


class Row(NamedTuple):
    """What becomes of one layer."""

    layer: str
    """``NETWORK.NUMBER``, or ``NETWORK.NAME`` for what is no layer."""
    fate: Fate
    frozen: bool
    source: str
    """Sizes, "" where it has no such layer."""
    target: str
    note: str = ""


class Spaces(NamedTuple):
    """Sizes that tell what the columns of a first and of a last layer are."""

    obs: int
    """The source's observation; what a first layer reads beyond it are actions."""
    source_actions: int | None
    """None: not known."""
    actions: int
    """The target's."""


class Operation(NamedTuple):
    """Networks that begin from a source."""

    nets: Nets
    known: Nets
    """1 for every number that is the source's, else 0."""
    plan: list[Row]


def operate(
    source: Nets, fresh: Nets, cfg: TransferConfig, columns: Columns, *, relu: bool, box: bool,
    spaces: Spaces | None = None,
) -> Operation:  # fmt: skip
    """Put what ``source`` knows into networks as ``fresh``.

    Args:
        source: Networks by name; ``normaliser`` has mean, var and count of observations.
        fresh: The target's own, untrained.
        cfg: What to take, and what to freeze.
        columns: Where the observation's columns come from.
        relu: Whether activations are; then an inserted layer can be the identity.
        box: Whether actions are continuous; then a new action's mean is 0.
        spaces: Sizes of observation and action; None: first layers read the observation alone, and
            last ones have one output for each action.

    Raises:
        UserError: a pattern that matches nothing, or sizes that cannot be bridged.
    """
    found = {
        name: _operate_net(name, source, fresh, cfg, columns, relu, box, spaces) for name in fresh
    }
    plan = [row for _, _, rows in found.values() for row in rows]
    _require_matches(cfg, plan)
    frozen = [row._replace(frozen=is_frozen(row.layer, cfg, plan)) for row in plan]
    return Operation(
        {k: v[0] for k, v in found.items()}, {k: v[1] for k, v in found.items()}, frozen
    )


def is_frozen(layer: str, cfg: TransferConfig, plan: Sequence[Row]) -> bool:
    """Whether a layer is never trained, until ``--unfreeze-at``.

    Statistics of observations are frozen with a first layer that reads them.
    """
    if layer == "normaliser":
        return any(is_frozen(r.layer, cfg, plan) for r in plan if r.layer.endswith(".0"))
    number = layer.rpartition(".")[2]
    features = cfg.features_from
    eye = number.startswith("conv_")  # below all layers
    below = features is not None and (eye or (number.isdigit() and int(number) <= features))
    return below or any(fnmatchcase(layer, pattern) for pattern in cfg.freeze)


def layer_of(net: str, parameter: str) -> str:
    """The layer that a parameter belongs to: ``weight_0`` and ``bias_0`` of actor are actor.0."""
    kind, _, number = parameter.rpartition("_")
    if kind in ("weight", "bias") and number.isdigit():
        return f"{net}.{number}"
    return net if net == "normaliser" else f"{net}.{parameter}"


def _require_matches(cfg: TransferConfig, plan: Sequence[Row]) -> None:
    numbers = [int(n) for r in plan if (n := r.layer.rpartition(".")[2]).isdigit() and r.target]
    if cfg.features_from is not None and cfg.features_from >= max(numbers, default=0):
        raise UserError(
            f"--features-from is {cfg.features_from}; expected layers on top of it, of which the "
            f"last is {max(numbers, default=0)}"
        )
    layers = [row.layer for row in plan if row.layer != "normaliser"]
    for flag, patterns in (("--freeze", cfg.freeze), ("--reinit", cfg.reinit)):
        for pattern in patterns:
            if not any(fnmatchcase(layer, pattern) for layer in layers):
                raise UserError(f"{flag} {pattern} matches no layer; there are {', '.join(layers)}")


def _operate_net(
    net: str, source: Nets, fresh: Nets, cfg: TransferConfig, columns: Columns, relu: bool,
    box: bool, spaces: Spaces | None,
) -> tuple[Params, Params, list[Row]]:  # fmt: skip
    """One network: its parameters, which of them are known, its part of the plan."""
    target = fresh[net]
    if net == "normaliser":
        return _normaliser(source.get(net), target, columns)
    theirs = source.get(net)
    if theirs is None:
        rows = [
            Row(layer, "new", False, "", _sizes(target, layer, net), "the source has none")
            for layer in dict.fromkeys(layer_of(net, k) for k in target)
        ]
        return dict(target), {k: torch.zeros_like(p) for k, p in target.items()}, rows
    if "weight_0" not in target or "weight_0" not in theirs:
        return _same_shapes(net, theirs, target, cfg)
    return _layers(net, theirs, target, cfg, columns, relu, box, spaces)


def _layers(
    net: str, theirs: Params, target: Params, cfg: TransferConfig, columns: Columns, relu: bool,
    box: bool, spaces: Spaces | None,
) -> tuple[Params, Params, list[Row]]:  # fmt: skip
    """A perceptron."""
    new, known, rows = dict(target), {k: torch.zeros_like(p) for k, p in target.items()}, []
    deep, shallow = depth(theirs), depth(target)
    exact = relu and all(
        target[f"weight_{i}"].shape == (len(theirs[f"weight_{deep - 1}"]),) * 2
        for i in range(deep - 1, shallow - 1)
    )
    for i in range(shallow):
        layer, head = f"{net}.{i}", i == shallow - 1
        sizes = _sizes(target, layer, net)
        if not _taken(layer, i, cfg):
            rows.append(Row(layer, "new", False, "", sizes, "not asked for"))
            continue
        # Kept from the bottom; the source's head goes on top if all below it is there.
        origin = deep - 1 if head and shallow >= deep else i
        if deep - 1 <= i < shallow - 1:
            if exact:
                new[f"weight_{i}"] = torch.eye(len(target[f"weight_{i}"]))
                new[f"bias_{i}"] = torch.zeros_like(target[f"bias_{i}"])
            note = "inserted as the identity" if exact else "inserted"
            rows.append(Row(layer, "new", False, "", sizes, note))
            continue
        if head and (shallow < deep or (shallow > deep and not exact)):
            note = (
                "below it layers of the source are missing" if shallow < deep
                else "no identity below it: activations are not relu, or widths differ"
            )  # fmt: skip
            rows.append(Row(layer, "new", False, "", sizes, note))
            continue
        weight, bias = theirs[f"weight_{origin}"], theirs[f"bias_{origin}"]
        old, own = weight.shape, target[f"weight_{i}"].shape
        if not head and own[1] < old[1]:
            raise UserError(
                f"{layer} has {old[1]} units in the source and {own[1]} in the target; a narrower "
                f"layer cannot compute the same, use --hidden with {old[1]} there or --reinit "
                f"{net}.*"
            )
        if i and own[0] < old[0]:
            raise UserError(
                f"{layer} has {old[0]} inputs in the source and {own[0]} in the target; use "
                f"--hidden with {old[0]} there or --reinit {layer}"
            )
        places = _inputs(old[0], own[0], columns, spaces) if i == 0 else _same_units(old[0], own[0])
        here = torch.tensor([k for k, place in enumerate(places) if place is not None]).long()
        there = torch.tensor([place for place in places if place is not None]).long()
        blocks = [(0, own[1])], [(0, old[1])]
        if head:
            blocks = _heads(net, layer, old[1], own[1], box, spaces)
        w, b = new[f"weight_{i}"].clone(), new[f"bias_{i}"].clone()
        if head and box:
            w[:], b[:] = 0.0, 0.0
        for (at, size), (start, num) in zip(*blocks, strict=False):
            to = slice(at, at + min(size, num))
            taken, rest = slice(start, start + min(size, num)), slice(to.stop, at + size)
            w[:, to] = 0.0
            w[here, to] = weight[there, taken]
            b[to] = bias[taken]
            if head and size > num and not box:
                w[:, rest], b[rest] = w[:, to].mean(1, keepdim=True), b[to].mean()
            known[f"weight_{i}"][here, to] = 1.0
            known[f"bias_{i}"][to] = 1.0
        if head and net == "actor" and not box:
            w, b = w / cfg.head_temperature, b / cfg.head_temperature
        new[f"weight_{i}"], new[f"bias_{i}"] = w, b
        same = old == own and list(places) == list(range(old[0])) and blocks[0] == blocks[1]
        rows.append(
            Row(layer, "kept" if same else "resized", False, f"{old[0]} x {old[1]}", sizes,
                _how(old, own, len(here), head))
        )  # fmt: skip
    for i in range(shallow - 1 if shallow < deep else deep, deep):
        old = theirs[f"weight_{i}"].shape
        sizes = f"{old[0]} x {old[1]}"
        rows.append(Row(f"{net}.{i}", "skipped", False, sizes, "", "no such layer in the target"))
    for name in target:
        if layer_of(net, name) in {row.layer for row in rows}:
            continue
        layer, old_p = f"{net}.{name}", theirs.get(name)
        apart = cfg.only_layers and not name.startswith("conv_")
        if old_p is None or not _taken(layer, 0, cfg) or apart:
            rows.append(Row(layer, "new", False, "", f"{target[name].numel()}"))
            continue
        width = min(old_p.numel(), target[name].numel())
        new[name] = target[name].clone()
        new[name][:width] = old_p[:width]
        known[name][:width] = 1.0
        note = ""
        if name == "log_std" and cfg.log_std is not None:
            new[name] = torch.full_like(target[name], cfg.log_std).log()
            note = f"begins at {cfg.log_std:g}"
        fate: Fate = "kept" if old_p.shape == target[name].shape else "resized"
        rows.append(Row(layer, fate, False, f"{old_p.numel()}", f"{target[name].numel()}", note))
    return new, known, rows


def _inputs(old: int, own: int, columns: Columns, spaces: Spaces | None) -> Columns:
    """Of every input of a first layer, the source's: the observation, and perhaps actions."""
    obs = old if spaces is None else spaces.obs
    actions = [obs + k if obs + k < old else None for k in range(own - len(columns))]
    return [*columns, *actions]


def _same_units(old: int, own: int) -> Columns:
    """Of every unit below a layer, the source's."""
    return [*range(old), *[None] * (own - old)]


Blocks = list[tuple[int, int]]
"""First output and number of outputs of each part of a head."""


def _heads(
    net: str, layer: str, old: int, own: int, box: bool, spaces: Spaces | None
) -> tuple[Blocks, Blocks]:
    """Parts of a head, the target's and the source's.

    Those of a squashed policy are means and deviations, those of a dueling network a value and
    advantages.

    Raises:
        UserError: only one of the two is dueling.
    """
    if spaces is None:
        return [(0, own)], [(0, old)]
    ours = _blocks(net, own, spaces.actions, box)
    if spaces.source_actions is not None:
        theirs = _blocks(net, old, spaces.source_actions, box)
    else:
        theirs = ours if old == own else [(0, old)]
    if net != "actor" and len(ours) != len(theirs):
        which, flag = ("source", "--dueling") if len(theirs) > 1 else ("target", "--no-dueling")
        raise UserError(
            f"{layer}: the {which} alone is dueling, so outputs mean something else; use dqn with "
            f"{flag}, or --reinit {layer}"
        )
    return ours, theirs


def _blocks(net: str, outputs: int, actions: int, box: bool) -> Blocks:
    if net == "actor" and box and outputs == 2 * actions:
        return [(0, actions), (actions, actions)]
    if net == "q" and not box and outputs == actions + 1:
        return [(0, 1), (1, actions)]
    return [(0, outputs)]


def _how(old: Sequence[int], own: Sequence[int], inputs: int, head: bool) -> str:
    """In words, what a resized layer has more or less of."""
    notes = []
    if own[0] > inputs:
        notes.append(f"{own[0] - inputs} new inputs at weight 0")
    if inputs < old[0]:
        notes.append(f"{old[0] - inputs} inputs of the source are not there")
    if own[1] > old[1]:
        what = "outputs between the old ones" if head else "units that nothing reads yet"
        notes.append(f"{own[1] - old[1]} new {what}")
    if own[1] < old[1]:
        notes.append(f"{old[1] - own[1]} outputs of the source are not there")
    return ", ".join(notes)


def _taken(layer: str, number: int, cfg: TransferConfig) -> bool:
    """Whether a layer comes from the source."""
    if any(fnmatchcase(layer, pattern) for pattern in cfg.reinit):
        return False
    if cfg.features_from is not None:
        return number <= cfg.features_from
    return not cfg.only_layers or number in cfg.only_layers


def _same_shapes(
    net: str, theirs: Params, target: Params, cfg: TransferConfig
) -> tuple[Params, Params, list[Row]]:
    """A network of another kind, such as a memory: parameter by parameter, of equal sizes."""
    new, known, rows = dict(target), {k: torch.zeros_like(p) for k, p in target.items()}, []
    for name, p in target.items():
        layer = f"{net}.{name}"
        sizes = " x ".join(map(str, p.shape)) or "1"
        if name not in theirs or not _taken(layer, 0, cfg):
            rows.append(Row(layer, "new", False, "", sizes))
            continue
        if theirs[name].shape != p.shape:
            old = " x ".join(map(str, theirs[name].shape))
            raise UserError(
                f"{layer} is {old} in the source and {sizes} in the target; only layers of a "
                f"perceptron can be resized, use the source's sizes or --reinit {layer}"
            )
        new[name], known[name] = theirs[name].to(p).clone(), torch.ones_like(p)
        rows.append(Row(layer, "kept", False, sizes, sizes))
    return new, known, rows


def _normaliser(
    theirs: Params | None, target: Params, columns: Columns
) -> tuple[Params, Params, list[Row]]:
    """Statistics of observations: those of the columns that the source knew."""
    size = len(target["mean"])
    if theirs is None or not float(theirs["count"]):
        return dict(target), {}, []
    new = {k: p.clone() for k, p in target.items()}
    for k, place in enumerate(columns):
        if place is not None:
            new["mean"][k], new["var"][k] = theirs["mean"][place], theirs["var"][place]
    new["count"] = theirs["count"].clone()
    same = list(columns) == list(range(len(theirs["mean"])))
    fate: Fate = "kept" if same else "resized"
    return new, {}, [Row("normaliser", fate, False, str(len(theirs["mean"])), str(size))]


def _sizes(params: Params, layer: str, net: str) -> str:
    own = [p for k, p in params.items() if layer_of(net, k) == layer and "bias" not in k]
    return " x ".join(map(str, own[0].shape)) if own else ""
