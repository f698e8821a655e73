"""Read what a pickle says without doing what it asks for.

A pickle is a program: it names functions and has them called. Here arrays of numbers are built, by
what stands for NumPy's own few constructors, and whatever else is named becomes an ``Inert``, an
object that keeps what it is given and does nothing. No module is imported.

NumPy's ``dtype`` believes a pickle that says its fields hold no pointers, and arrays of it then
take bytes of the file for objects; so a dtype is rebuilt from its letter, and an array from a
dtype that was, from sizes that fit, and from bytes.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from precocial.errors import UserError


class Inert:
    """Stands for an object of a class that is not imported."""

    kind = ""
    """The class's name, with its module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.state = args, dict[str, Any]()

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """Without arguments, too, as some pickles build objects."""
        made = super().__new__(cls)
        made.args, made.state = args, {}
        return made

    def __setstate__(self, state: Any) -> None:
        """Kept."""
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.state |= part

    def __setitem__(self, key: Any, value: Any) -> None:
        """Kept."""
        self.state[key] = value

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        """Nothing happens."""
        return Inert(*args)

    def append(self, value: Any) -> None:
        """Nothing happens."""

    extend = add = update = append


class Numbers(Inert):
    """Stands for a dtype: of numbers where it has a letter for them, else of nothing."""

    def __init__(self, code: Any = None, *rest: Any) -> None:
        super().__init__()
        known = isinstance(code, str) and re.fullmatch(r"[<>=|]?[biufc]\d{1,2}", code)
        self.dtype = np.dtype(code) if known else None

    def __setstate__(self, state: Any) -> None:
        """The order of its bytes."""
        if self.dtype is not None:
            self.dtype = self.dtype.newbyteorder(state[1])


class Array(np.ndarray):
    """An array that gets its content afterwards, from bytes alone."""

    def __setstate__(self, state: Any) -> None:
        """Take sizes, numbers' kind and bytes; nothing of other kinds."""
        _, shape, kind, fortran, data = state
        if _is_numbers(kind):
            found = _array(data, kind, shape, "F" if fortran else "C")
            super().__setstate__((1, shape, kind.dtype, fortran, found.tobytes("A")))


def _scalar(kind: Any, data: Any) -> Any:
    return _array(data, kind, (1,), "C")[0] if _is_numbers(kind) else Inert(data)


def _array(data: Any, kind: Any, shape: Any, order: Any) -> Any:
    if not _is_numbers(kind):
        return Inert(data)
    data = bytes(data) if isinstance(data, bytearray) else data
    shape = shape if isinstance(shape, tuple) else (shape,)
    whole = all(type(n) is int and n >= 0 for n in shape)
    if not isinstance(data, bytes) or not whole:
        raise ValueError("an array of no bytes or no sizes")
    if math.prod(shape) * kind.dtype.itemsize != len(data):
        raise ValueError(f"an array of sizes {shape} with {len(data)} bytes")
    return np.frombuffer(data, kind.dtype).reshape(shape, order=order).copy(order)


def _is_numbers(kind: Any) -> bool:
    return isinstance(kind, Numbers) and kind.dtype is not None


def _empty(kind: Any, shape: Any, code: Any) -> Any:
    return np.empty(0, np.int8).view(Array)  # its state is set afterwards


class Builder:
    """Calls a function, which what is read can call and not change."""

    __slots__ = ("build",)

    def __init__(self, build: Callable[..., Any]) -> None:
        self.build = build

    def __call__(self, *args: Any) -> Any:
        """What it builds."""
        return self.build(*args)

    def __setstate__(self, state: Any) -> None:
        """Refused."""
        raise pickle.UnpicklingError("a constructor was to be changed")


BUILDERS = {
    "_reconstruct": Builder(_empty), "_frombuffer": Builder(_array), "scalar": Builder(_scalar),
    "dtype": Builder(Numbers),
}  # fmt: skip


class Reader(pickle._Unpickler):
    """An unpickler to which all names but NumPy's constructors are inert.

    It is Python's, not C's, whose memo takes as much memory as a number in the file says.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for."""
        if module.partition(".")[0] == "numpy" and name in BUILDERS:
            return BUILDERS[name]
        return type(name.rpartition(".")[2], (Inert,), {"kind": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        """Nothing is outside."""
        return Inert(pid)

    def load_bytearray8(self) -> None:
        """As many bytes as there are; Python's own makes room for as many as it is told."""
        (size,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        self.append(bytearray(self.read(size)))  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def read(data: bytes, place: str) -> Any:
    """What a pickle holds: numbers, texts, lists, dicts and arrays, and ``Inert`` objects.

    Raises:
        UserError: it is no pickle, or damaged; ``place`` says whose.
    """
    try:
        return Reader(io.BytesIO(data)).load()
    except Exception as error:  # an unpickler raises whatever a damaged program leads to
        raise UserError(f"{place} does not read as a pickle ({error})") from error
