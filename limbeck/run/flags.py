"""Command-line flags from pydantic fields: argparse splits and documents them, pydantic converts and validates."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from limbeck.errors import InputError
from limbeck.run.parser import Parser, dashed
from limbeck.run.spec import RunSpec, make_spec, read_yaml, values_model

__all__ = ["add_flags", "described", "run_settings"]

_SIGNS = {Gt: (">", "gt"), Ge: (">=", "ge"), Lt: ("<", "lt"), Le: ("<=", "le")}


def run_settings(parser: Parser, words: list[str]) -> tuple[RunSpec, dict[str, Any]]:
    """The run that flags and a run file ask for: ``METHOD --config run.yaml --lr 0.1``; flags win.

    Args:
        parser: holds the command's own flags; the run's and the method's are added.
        words: what follows the command.

    Returns:
        The validated settings, and everything that was given, by name.
    """
    before = Parser(add_help=False)
    before.add_argument("--config")
    config = before.parse_known_args(words)[0].config
    file = read_yaml(Path(config)) if config is not None else {}
    named = bool(words) and not words[0].startswith("-")
    key = words[0] if named else file.get("method", "")
    parser.add_argument("--config", metavar="FILE", help="a run file (YAML); flags override what it says")
    if key and isinstance(key, str):
        add_flags(parser, f"the method ({key})", values_model(key), "method.")
    add_flags(parser, "the run (in a run file, names have _ for -)", RunSpec, "", skip="version method values")
    given = parser.parse_all(words[1:] if named else words)
    if not key:
        raise InputError("METHOD", "", "is missing and comes first, such as kd; `limbeck methods` lists them")
    settings = {name: held for name, held in given.items() if name in RunSpec.model_fields}
    values = {name.removeprefix("method."): held for name, held in given.items() if name.startswith("method.")}
    if file.get("method", key) != key:  # another method's values mean nothing to this one
        file.pop("values", None)
    if "steps" in settings or "epochs" in settings:
        file = {name: held for name, held in file.items() if name not in ("steps", "epochs")}
    if values and isinstance(kept := file.get("values", {}), dict):
        settings["values"] = {**kept, **values}
    return make_spec({**file, **settings, "method": key}), given


def described(model: type[BaseModel], prefix: str) -> list[tuple[str, str, str]]:
    """(flag, kind, help) of every field of a model."""
    return [
        (dashed(f"--{prefix}{name}"), _kind(field.annotation)[0], _help(field))
        for name, field in model.model_fields.items()
    ]


def add_flags(parser: argparse.ArgumentParser, title: str, model: type[BaseModel], prefix: str, skip: str = "") -> None:
    """A flag for each field of a model. A flag that is not given leaves no trace, so that a run file can set it."""
    group = parser.add_argument_group(title)
    for name, field in model.model_fields.items():
        if name in skip.split():
            continue
        kind, several = _kind(field.annotation)
        settings: dict[str, Any] = {"action": "append"} if several else {}
        if kind == "yes|no":
            settings |= {"nargs": "?", "const": "yes"}
        group.add_argument(
            dashed(f"--{prefix}{name}"), dest=f"{prefix}{name}", metavar=kind, default=argparse.SUPPRESS,
            help=_help(field).replace("%", "%%"), **settings,
        )  # fmt: skip
        if kind == "yes|no":
            group.add_argument(
                dashed(f"--{prefix}no-{name}"),
                dest=f"{prefix}{name}", action="store_const", const="no", default=argparse.SUPPRESS,
                help=f"the same as --{prefix}{name} no",
            )  # fmt: skip


def _kind(hint: Any) -> tuple[str, bool]:
    """What to write in a flag's place, and whether the flag may come again."""
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint))), False
    if get_origin(hint) in (Union, UnionType):
        return _kind(next(part for part in get_args(hint) if part is not NoneType))
    if get_origin(hint) in (list, tuple):
        return _kind(get_args(hint)[0])[0], True
    if hasattr(hint, "__metadata__"):  # Annotated
        return _kind(hint.__origin__)
    return {int: "int", float: "float", str: "text", bool: "yes|no", Any: "number|schedule"}.get(hint, "text"), False


def _help(field: FieldInfo) -> str:
    metadata = list(field.metadata)
    for part in get_args(field.annotation):
        metadata += getattr(part, "__metadata__", ())
    limits = [*_limits(metadata)]
    default = field.get_default(call_default_factory=True)
    if not field.is_required() and default not in (None, [], (), {}, ""):
        limits.append(f"default {default}")
    said = (field.description or "").rstrip(".")
    return f"{said} ({', '.join(limits)})" if limits else said


def _limits(metadata: list[Any]) -> list[str]:
    found: list[str] = []
    for bound in metadata:
        parts: Mapping[str, Any] = {key: getattr(bound, key, None) for _, key in _SIGNS.values()}
        nested = getattr(bound, "metadata", None)
        found += _limits(nested) if isinstance(nested, list) else []
        found += [f"{sign} {parts[key]:g}" for sign, key in _SIGNS.values() if isinstance(parts[key], int | float)]
    return found
