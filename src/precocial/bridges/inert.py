"""Read what a pickle says without doing what it asks for.

A pickle is a program: it names functions and has them called. Here arrays of NumPy are built, by
NumPy's own few constructors, and whatever else is named becomes an ``Inert``, an object that keeps
what it is given and does nothing. No module is imported.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from precocial.errors import UserError


def _scalar(dtype: Any, data: Any) -> Any:
    return np.frombuffer(data, dtype)[0]


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _empty(kind: Any, shape: Any, code: Any) -> Any:
    return np.ndarray.__new__(np.ndarray, (0,), np.int8)  # its state is set afterwards


BUILDERS: dict[str, Any] = {
    "_reconstruct": _empty, "_frombuffer": _array, "scalar": _scalar, "dtype": np.dtype,
    "ndarray": np.ndarray,
}  # fmt: skip


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


class Reader(pickle.Unpickler):
    """An unpickler to which all names but NumPy's constructors are inert."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for."""
        if module.partition(".")[0] == "numpy" and name in BUILDERS:
            return BUILDERS[name]
        return type(name.rpartition(".")[2], (Inert,), {"kind": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        """Nothing is outside."""
        return Inert(pid)


def read(data: bytes, place: str) -> Any:
    """What a pickle holds: numbers, texts, lists, dicts and arrays, and ``Inert`` objects.

    Raises:
        UserError: it is no pickle, or damaged; ``place`` says whose.
    """
    try:
        return Reader(io.BytesIO(data)).load()
    except Exception as error:  # an unpickler raises whatever a damaged program leads to
        raise UserError(f"{place} does not read as a pickle ({error})") from error
