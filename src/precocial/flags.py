"""Command lines from dataclasses: flat flags, the string under a field as its help.

tyro parses; this adds what it lacks here: one flat list of flags from several settings objects,
and errors of one line that name the nearest known flag.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import re
import textwrap
import typing
from difflib import get_close_matches
from typing import Annotated, Any, cast

import tyro

from precocial.errors import UserError


def field_docs(cls: type) -> dict[str, str]:
    """The string literal under each field of a dataclass, base classes included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        assert isinstance(tree.body[0], ast.ClassDef)
        body = tree.body[0].body
        for node, following in zip(body, body[1:], strict=False):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                docs[node.target.id] = " ".join(str(following.value.value).split())
    return docs


def flat(name: str, doc: str, parts: list[tuple[str, Any]]) -> type:
    """One dataclass whose fields are those of several settings objects, values as defaults.

    Args:
        name: Of the new class.
        doc: Its description, shown by ``--help``.
        parts: Pairs of a prefix for the field names and a settings object (a dataclass instance).
    """
    fields = []
    for prefix, instance in parts:
        docs = field_docs(type(instance))
        hints: dict[str, Any] = typing.get_type_hints(type(instance), include_extras=True)
        for field in dataclasses.fields(instance):
            help_text = docs.get(field.name, "")
            annotated = cast(Any, Annotated)[hints[field.name], tyro.conf.arg(help=help_text)]
            fields.append((prefix + field.name, annotated, getattr(instance, field.name)))
    cls = dataclasses.make_dataclass(name, fields, frozen=True)
    cls.__doc__ = doc
    return cls


def parse(cls: Any, args: list[str], prog: str) -> Any:
    """Parse ``args``; ``--help`` prints and exits 0.

    Raises:
        UserError: an unknown flag or a value that does not parse, in one line.
    """
    if {"-h", "--help"} & set(args):
        return tyro.cli(cls, args=args, prog=prog)
    refuse_unknown(args, [f.name for f in dataclasses.fields(cls)])
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(heard):
            return tyro.cli(cls, args=args, prog=prog)
    except SystemExit as stop:
        lines = [re.sub(r"[─│╭╮╰╯]", " ", line).strip() for line in heard.getvalue().splitlines()]
        lines = [re.sub(r"-{3,}", " ", line).strip() for line in lines]
        words = [w for w in lines if w and "Parsing error" not in w and "--help" not in w]
        message = " ".join(" ".join(words).split()) or "the command line does not parse"
        raise UserError(f"{message}; try {prog} --help") from stop


def refuse_unknown(args: list[str], names: list[str]) -> None:
    """Name the nearest flag of one that does not exist."""
    known = [f"--{n.replace('_', '-')}" for n in names]
    accepted = {*known, *(f"--no-{k[2:]}" for k in known)}
    for arg in args:
        if not arg.startswith("--") or arg == "--":
            continue
        given = arg.split("=")[0].replace("_", "-")
        if given not in accepted:
            close = get_close_matches(given, known, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(close)}?" if close else "see --help for all flags"
            raise UserError(f"unknown flag {given}; {hint}")
