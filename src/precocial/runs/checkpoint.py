"""A checkpoint is one safetensors file, written whole or not at all. It holds no pickled code.

Tensors are stored as such; everything else is JSON in the header, beside a SHA-256 of both.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from precocial.types import UserError

FORMAT = "precocial-1"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a nested dict of tensors, numbers, strings, lists and dicts to ``path``.

    Raises:
        UserError: the disk refused; what was at ``path`` before is still there.
    """
    tensors: dict[str, Tensor] = {}
    outline = json.dumps(_split(state, "", tensors))
    metadata = {"format": FORMAT, "state": outline, "sha256": checksum(outline, tensors)}
    data = safetensors.torch.save(tensors, metadata)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"could not save {path}: {error.strerror}; the last good checkpoint is unchanged, "
            "make room and continue with --resume"
        ) from error


def load(path: Path, device: str = "cpu") -> dict[str, Any]:
    """Read what ``save`` wrote.

    Raises:
        UserError: no such file, or it is truncated, edited or not ours.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; expected a run folder trained for a while")
    try:
        with safetensors.safe_open(path, "pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        outline = metadata["state"]
        if metadata["format"] != FORMAT or metadata["sha256"] != checksum(outline, tensors):
            raise ValueError("its checksum does not match its content")
        return _join(json.loads(outline), {k: v.to(device) for k, v in tensors.items()})
    except (safetensors.SafetensorError, ValueError, KeyError, OSError) as error:
        raise UserError(
            f"{path} is damaged or no checkpoint of ours ({error}); "
            "try the other one (--checkpoint best or last), or train again"
        ) from error


def checksum(outline: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of tensors and the text beside them."""
    digest = hashlib.sha256(outline.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _split(node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON outline of ``node``; its tensors go to ``tensors``."""
    if isinstance(node, Tensor):
        tensors[name] = node.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(node, dict):  # pairs, since JSON would turn integer keys into strings
        pairs = [[k, _split(v, f"{name}/{k}", tensors)] for k, v in node.items()]
        return {"dict": pairs}
    if isinstance(node, list | tuple):
        return [_split(v, f"{name}/{i}", tensors) for i, v in enumerate(node)]
    return node


def _join(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_join(v, tensors) for v in node]
    if isinstance(node, dict):
        if "tensor" in node:
            return tensors[node["tensor"]]
        return {k: _join(v, tensors) for k, v in node["dict"]}
    return node
